//! Compiles schemas, and writes a table of their types beside each.
//!
//! `ROUND_TRIP_SCHEMA` names one more, as `cargo xtask conformance` does with QEMU's.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qapi_codegen::{Options, Runtime, generate_text, paths};
use qapi_parser::Loader;

const VARIABLE: &str = "ROUND_TRIP_SCHEMA";
/// The schema whose support code all use.
const FIRST: &str = "block_schema";

struct Input {
    /// As a module.
    name: String,
    schema: PathBuf,
    overlays: Vec<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let workspace = package.join("../../..");
    let mut inputs = vec![Input {
        name: FIRST.to_owned(),
        schema: workspace.join("schema/schema.json"),
        overlays: json_files(&workspace.join("schema/overlay"))?,
    }];
    inputs.extend(cases(&workspace.join("tests/schemas/ok"))?);
    if let Some(schema) = std::env::var_os(VARIABLE) {
        inputs.push(Input {
            name: "given".to_owned(),
            schema: schema.into(),
            overlays: Vec::new(),
        });
    }
    let (mut modules, mut list) = (String::new(), String::new());
    for input in &inputs {
        let name = &input.name;
        std::fs::write(out.join(format!("{name}.rs")), compile(input)?)?;
        writeln!(
            modules,
            "/// Case `{name}`.\npub mod {name} {{ include!(concat!(env!(\"OUT_DIR\"), \"/{name}.rs\")); }}"
        )?;
        writeln!(
            list,
            "Tested {{ name: {name:?}, schema: {:?}, overlays: &{:?}, table: {name}::TABLE }},",
            input.schema, input.overlays
        )?;
    }
    let text = format!("{modules}\n/// All of them.\npub const SCHEMAS: &[Tested] = &[{list}];");
    std::fs::write(out.join("schemas.rs"), text)?;
    Ok(())
}

fn cases(folder: &Path) -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    for schema in json_files(folder)? {
        let stem = schema.file_stem().unwrap_or_default().to_string_lossy();
        if stem.ends_with(".overlay") {
            continue;
        }
        let overlay = schema.with_extension("overlay.json");
        inputs.push(Input {
            name: stem.replace('-', "_"),
            overlays: Vec::from_iter(overlay.exists().then_some(overlay)),
            schema,
        });
    }
    Ok(inputs)
}

fn json_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "json")
    });
    files.sort();
    Ok(files)
}

/// Generated code, the table of its types, and the way there and back.
fn compile(input: &Input) -> Result<String, Box<dyn Error>> {
    let mut loader = Loader::new();
    for overlay in &input.overlays {
        loader = loader.overlay(overlay);
    }
    let schema = loader.load(&input.schema)?;
    for file in &schema.files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let options = Options {
        // One support code for all: as several schemas of one program would have it.
        runtime: match input.name.as_str() {
            FIRST => Runtime::Inline,
            _ => Runtime::Path(format!("crate::schemas::{FIRST}::runtime")),
        },
        ..Options::default()
    };
    let mut text = generate_text(&schema, &options)?;
    let paths = paths(&schema)?;
    if !paths.is_empty() {
        writeln!(text, "crate::round_trip!();")?;
    }
    writeln!(text, "/// Every definition, and its way there and back.")?;
    writeln!(text, "pub const TABLE: &[(&str, crate::RoundTrip)] = &[")?;
    for (name, path) in paths {
        writeln!(text, "    ({name:?}, round_trip::<{path}>),")?;
    }
    writeln!(text, "];")?;
    Ok(text)
}
