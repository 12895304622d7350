//! What the compiler shows for a schema that is wrong: file, line, column and source line.

#[test]
fn errors_show_the_schema() {
    trybuild::TestCases::new().compile_fail("../tests/ui/*.rs");
}
