//! The Rust made from each valid case of `tests/schemas/ok`, compared with the file beside it.
//! `BLESS=1` rewrites those, for review. That it compiles is shown by the crate
//! `tests/consumers/build-script`.

use std::path::PathBuf;

use qapi_codegen::{Options, Runtime, generate_text};
use qapi_parser::{Loader, Schema};

const ROOT: &str = "../tests/schemas/ok";

fn load(case: &str) -> Schema {
    let path = PathBuf::from(ROOT).join(case);
    let overlay = path.with_extension("overlay.json");
    let loader = if overlay.exists() {
        Loader::new().overlay(overlay)
    } else {
        Loader::new()
    };
    loader
        .load(path.with_extension("json"))
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn options() -> Options {
    Options {
        runtime: Runtime::Path("crate::runtime".to_owned()),
        ..Options::default()
    }
}

#[test]
fn generated_code_is_as_reviewed() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let cases = [
        "anonymous_union",
        "base",
        "builtins",
        "command",
        "docs",
        "enum_names",
        "event",
        "flat_union",
        "inline",
        "overlay",
        "recursion",
        "simple_union",
    ];
    for case in cases {
        let text = generate_text(&load(case), &options()).unwrap();
        let expectation = PathBuf::from(ROOT).join(case).with_extension("rs");
        if std::fs::read_to_string(&expectation).is_ok_and(|expected| expected == text) {
            continue;
        }
        if bless {
            std::fs::write(&expectation, text).unwrap();
        } else {
            wrong.push(format!("{} differs:\n{text}", expectation.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn output_is_the_same_from_run_to_run() {
    let once = || generate_text(&load("overlay"), &Options::default()).unwrap();
    assert_eq!(once(), once());
}
