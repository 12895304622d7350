//! Compiles this project's schema.

fn main() {
    qapi_codegen::Builder::new("../../../schema/block-core.json").build();
}
