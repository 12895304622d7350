//! The forms in which findings are given to other programs.

use expect_test::{Expect, expect};
use qapi_parser::{Diagnostics, Loader};

#[track_caller]
fn check(case: &str, form: fn(&Diagnostics) -> String, want: Expect) {
    let path = format!("../tests/schemas/err/{case}.json");
    let errors = Loader::new().load(&path).expect_err("the schema is wrong");
    want.assert_eq(&form(&errors).replace("../tests/schemas/", ""));
}

#[test]
fn a_finding_is_a_line_as_compilers_write_it() {
    check(
        "taken",
        Diagnostics::gcc,
        expect![[r#"
            err/taken.json:2:11: error: `Foo` is already defined
            err/taken.json:1:13: note: first defined here
            err/taken.json:4:14: error: `foo` is already defined
            err/taken.json:3:14: note: first defined here
            err/taken.json:5:11: error: `QType` is a built-in type
        "#]],
    );
}

#[test]
fn includes_are_notes_from_the_inside_outwards() {
    check(
        "include_missing_below",
        Diagnostics::gcc,
        expect![[r#"
        err/../include/includes_missing.json:2:14: error: cannot read err/../include/not-there.json: No such file or directory (os error 2)
        err/include_missing_below.json:1:14: note: included from here
    "#]],
    );
}

#[test]
fn a_finding_is_an_object_of_json() {
    check(
        "name_list_suffix",
        Diagnostics::json,
        expect![[
            r#"[{"severity":"error","message":"a type's name does not end in `List`: arrays have such names","place":{"file":"err/name_list_suffix.json","line":1,"column":13,"end_line":1,"end_column":22},"notes":[],"included_from":[],"reference":"struct name should not end in 'List'"},{"severity":"error","message":"a type's name does not end in `List`: arrays have such names","place":{"file":"err/name_list_suffix.json","line":2,"column":11,"end_line":2,"end_column":20},"notes":[],"included_from":[],"reference":"enum name should not end in 'List'"}]"#
        ]],
    );
}

#[test]
fn findings_are_bounded_whatever_the_schema() {
    let folder = std::env::temp_dir().join(format!("qapi-parser-flood-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("flood.json");
    std::fs::write(&path, "{ 'struct': 'lower', 'data': {} }\n".repeat(5000)).unwrap();
    let errors = Loader::new().load(&path).expect_err("the schema is wrong");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(errors.iter().count(), 1000);
    assert_eq!(errors.left_out(), 4000 + 4999);
    assert!(
        errors
            .to_string()
            .ends_with("8999 more findings are not shown\n")
    );
}
