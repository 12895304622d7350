//! `commands`: the page that says what of the schema the tests exercised, made of what daemons
//! recorded while they ran.
//!
//! The integration tests (`tests/it/support/record.rs`) leave the record; here it becomes facts, the
//! facts a page. Invariant: the page depends on the schema, the set of facts and the listed holes
//! alone. Not here: what is recorded of a request (`block-core/src/qmp/log.rs`).

mod facts;
mod holes;
mod page;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use qapi_parser::Schema;

use facts::Facts;
use page::Page;

const USAGE: &str = "usage: cargo xtask commands [--check | --forget]

  --check   fails when the committed page says more than the tests did, when a hole is not in
            docs/commands.holes, or when a hole of that list is none any more
  --forget  removes the record: what the tests exercise from now on is all there is";

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => write(),
        ["--check"] => check(),
        ["--forget"] => forget(),
        _ => Err(USAGE.to_owned()),
    }
}

/// A page, and what is wrong with the list of holes.
struct Made {
    page: String,
    findings: Vec<String>,
}

fn write() -> Result<(), String> {
    let made = make()?;
    let path = page_path();
    std::fs::write(&path, &made.page).map_err(|error| format!("{}: {error}", path.display()))?;
    verdict(made.findings)
}

fn check() -> Result<(), String> {
    let made = make()?;
    let path = page_path();
    let committed =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut findings = lost(&committed, &made.page);
    findings.extend(made.findings);
    verdict(findings)
}

/// What the old page ticks and the new one does not.
fn lost(old: &str, new: &str) -> Vec<String> {
    let now = page::ticks(new);
    let before = page::ticks(old);
    let lost = before.difference(&now);
    lost.map(|tick| format!("not exercised any more: {tick}"))
        .collect()
}

fn verdict(findings: Vec<String>) -> Result<(), String> {
    match findings.len() {
        0 => Ok(()),
        count => Err(format!("{}\n{count} findings", findings.join("\n"))),
    }
}

fn make() -> Result<Made, String> {
    let schema = crate::regen::schema()?;
    let record = record_path()?;
    let text = std::fs::read_to_string(&record).map_err(|error| {
        let record = record.display();
        format!("{record}: {error}; `cargo test --package qblk --test it` makes it")
    })?;
    let listed = crate::root().join("docs/commands.holes");
    let listed = std::fs::read_to_string(&listed)
        .map_err(|error| format!("{}: {error}", listed.display()))?;
    make_of(&schema, &text, &listed)
}

fn make_of(schema: &Schema, record: &str, listed: &str) -> Result<Made, String> {
    let mut facts = Facts::default();
    for (index, line) in record.lines().enumerate() {
        let added = facts.add(schema, line);
        added.map_err(|error| format!("line {} of the record: {error}", index + 1))?;
    }
    let listed = holes::parse(listed)?;
    let mut page = Page::new(schema, &facts, &listed);
    let text = page.render();
    let findings = holes::judge(&listed, &page.holes);
    Ok(Made {
        page: text,
        findings,
    })
}

fn forget() -> Result<(), String> {
    let path = record_path()?;
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn page_path() -> PathBuf {
    crate::root().join("docs/commands.md")
}

/// Where the integration tests leave what daemons said.
fn record_path() -> Result<PathBuf, String> {
    let metadata = crate::metadata::read()?;
    let folder = metadata["target_directory"].as_str();
    let folder = folder.ok_or("cargo metadata names no target folder")?;
    Ok(PathBuf::from(folder).join("tmp/qmp.log"))
}
