//! The Rust made from each valid case of `tests/schemas/ok`, compared with the file beside it.
//! `BLESS=1` rewrites those, for review. All of them compile without a warning in each edition.

use std::path::PathBuf;

use qapi_codegen::{
    Change, Conditions, Hook, Only, Options, Runtime, Unknown, features, generate_text,
};
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

const CASES: [&str; 15] = [
    "anonymous_union",
    "base",
    "builtins",
    "collisions",
    "command",
    "conditions",
    "docs",
    "enum_names",
    "event",
    "flat_union",
    "inline",
    "out_of_band",
    "overlay",
    "recursion",
    "simple_union",
];

fn options(case: &str) -> Options {
    Options {
        runtime: Runtime::Path("crate::runtime".to_owned()),
        conditions: match case {
            "conditions" => Conditions::Features,
            _ => Conditions::AllOn,
        },
        ..Options::default()
    }
}

#[test]
fn generated_code_is_as_reviewed() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for case in CASES {
        let text = generate_text(&load(case), &options(case)).unwrap();
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

/// Compiles all expectations as one crate.
#[track_caller]
fn check_compiles(edition: &str, flags: &[&str]) {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut source = format!(
        "//! Cases.\n#![deny(warnings, missing_docs)]\n#![forbid(unsafe_code)]\n\
         /// Support code.\n#[path = {:?}] pub mod runtime;\n",
        package.join("runtime/mod.rs")
    );
    for case in CASES {
        let path = package.join(ROOT).join(case).with_extension("rs");
        source += &format!("/// Case.\npub mod {case} {{ include!({path:?}); }}\n");
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("cases-{edition}-{}", flags.len());
    let file = folder.join(&name).with_extension("rs");
    std::fs::write(&file, source).expect("room for a file");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc)
        .args(["--edition", edition, "--crate-type=lib", "--emit=metadata"])
        .args(flags)
        .arg("-o")
        .arg(folder.join(&name).with_extension("rmeta"))
        .arg(&file)
        .output()
        .expect("rustc runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "edition {edition}: {errors}");
}

#[test]
fn generated_code_compiles_in_every_edition_without_warnings() {
    check_compiles("2018", &[]);
    check_compiles("2021", &[]);
    check_compiles("2024", &[]);
}

#[test]
fn conditions_hold_whatever_features_are_on() {
    check_compiles("2021", &["--cfg=feature=\"config-b\""]);
    let both = ["--cfg=feature=\"config-b\"", "--cfg=feature=\"config-c\""];
    check_compiles("2021", &both);
    let names = features(&load("conditions"));
    assert_eq!(Vec::from_iter(names), ["config-b", "config-c"]);
}

#[test]
fn decided_conditions_leave_nothing_of_what_does_not_hold() {
    let text = |symbols: &[&str]| {
        let symbols = symbols.iter().map(|&symbol| symbol.to_owned()).collect();
        let options = Options {
            conditions: Conditions::Resolved(symbols),
            ..options("")
        };
        generate_text(&load("conditions"), &options).unwrap()
    };
    let neither = text(&[]);
    assert!(!neither.contains("cfg(") && !neither.contains("DoIt") && !neither.contains("B(Item)"));
    assert!(neither.contains("pub y: Option<String>"));
    assert!(!text(&["CONFIG_C"]).contains("pub y: Option<String>"));
    assert!(text(&["CONFIG_B", "CONFIG_C"]).contains("B(Item)"));
}

#[test]
fn a_filter_keeps_what_is_reached_and_refuses_what_is_not_there() {
    let with = |names: &[&str]| {
        let only = Only::Named(names.iter().map(|&name| name.to_owned()).collect());
        generate_text(
            &load("conditions"),
            &Options {
                only,
                ..options("")
            },
        )
    };
    let text = with(&["DONE"]).unwrap();
    assert!(text.contains("pub struct Done") && text.contains("pub struct Item "));
    assert!(!text.contains("pub struct Choice ") && !text.contains("DoIt"));
    let error = with(&["nope"]).unwrap_err().to_string();
    assert_eq!(error, "error: the schema has no command or event `nope`\n");
}

#[test]
fn hooks_change_what_they_name() {
    let hook = |path: &str, change| Hook {
        path: path.to_owned(),
        change,
    };
    let options = Options {
        unknown: Unknown::Closed,
        hooks: vec![
            hook("Item", Change::Derive("my::Trait".to_owned())),
            hook("Item.x", Change::Replace("my::Number".to_owned())),
            hook("Choice", Change::Attribute("#[my::attribute]".to_owned())),
        ],
        ..options("")
    };
    let text = generate_text(&load("conditions"), &options).unwrap();
    assert!(text.contains("#[derive(Clone, PartialEq, my::Trait)]"));
    assert!(text.contains("pub x: my::Number"));
    assert!(text.contains("#[my::attribute]"));
}
