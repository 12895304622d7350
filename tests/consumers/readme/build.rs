//! Compiles the schema.

fn main() {
    qapi_codegen::Builder::new("qapi/lamp.json").build();
}
