//! Compiles the seed as it is, without overlays, and every valid case of the schema tests.

use std::fmt::Write as _;
use std::path::Path;

use qapi_codegen::{Builder, Conditions, Futures, Options, Server, Unknown};

fn main() {
    Builder::new("../../../schema/block-core.json")
        .unknown(Unknown::Closed)
        .file("seed.rs")
        .build();

    Builder::new("qapi/conditions.json")
        .options(Options {
            conditions: Conditions::Features,
            ..Options::default()
        })
        .file("by_feature.rs")
        .build();

    Builder::new("qapi/open.json")
        .options(Options {
            server: Server {
                futures: Futures::Send,
                ..Server::default()
            },
            ..Options::default()
        })
        .file("open.rs")
        .build();

    let folder = Path::new("../../schemas/ok");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(case) = name.strip_suffix(".json")
            && !case.ends_with(".overlay")
        {
            cases.push(case.to_owned());
        }
    }
    cases.sort();
    let mut modules = String::new();
    for case in cases {
        let overlay = folder.join(format!("{case}.overlay.json"));
        let mut builder = Builder::new(folder.join(format!("{case}.json")))
            .file(format!("{case}.rs"))
            .unknown(Unknown::Closed);
        if overlay.exists() {
            builder = builder.overlay(overlay);
        }
        builder.build();
        // Writing to a string does not fail.
        let _ = writeln!(modules, "/// The case `{case}`.");
        let _ = writeln!(modules, "pub mod {case} {{");
        let _ = writeln!(
            modules,
            "    include!(concat!(env!(\"OUT_DIR\"), \"/{case}.rs\"));"
        );
        let _ = writeln!(modules, "}}");
    }
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::write(Path::new(&out).join("cases.rs"), modules) {
        eprintln!("cannot write the list of cases: {error}");
        std::process::exit(1);
    }
}
