//! `regen`: the committed Rust of package block-schema, made from its schema files.
//! Invariant: `schema/src/generated` holds what the generator makes, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qapi_codegen::{Client, Missing, Options, Part, Serde, Server, Unknown, generate};
use qapi_parser::{Loader, Schema};

/// What the first line of each file names, and what `--check` says to run.
const COMMAND: &str = "cargo xtask regen";

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let check = match arguments {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err(format!("usage: {COMMAND} [--check]")),
    };
    let folder = crate::root().join("schema/src/generated");
    let made = make()?;
    let found = read_folder(&folder)?;
    if check {
        compare(&made, &found)
    } else {
        write(&folder, &made, &found)
    }
}

/// Paths below the folder, and texts.
type Files = BTreeMap<PathBuf, String>;

/// The schema of package block-schema, with its overlays.
pub(crate) fn schema() -> Result<Schema, String> {
    let package = crate::root().join("schema");
    let mut loader = Loader::new()
        .without_comments("block-core.json")
        .require_docs();
    for overlay in overlays(&package.join("overlay"))? {
        loader = loader.overlay(overlay);
    }
    loader
        .load(package.join("schema.json"))
        .map_err(|errors| errors.to_string())
}

fn make() -> Result<Files, String> {
    let schema = schema()?;
    let options = Options {
        serde: Serde::Feature("serde".to_owned()),
        client: Client {
            asynchronous: Part::On,
            tokio: Part::Feature("tokio".to_owned()),
            futures: Part::Feature("futures".to_owned()),
            descriptors: Part::Feature("descriptors".to_owned()),
        },
        server: Server {
            missing: Missing::NotBuiltIn,
            ..Server::default()
        },
        // A driver that the schema names and nobody wrote must not compile.
        unknown: Unknown::Closed,
        ..Options::default()
    };
    let files = generate(&schema, &options, COMMAND).map_err(|error| error.to_string())?;
    Ok(files
        .into_iter()
        .map(|file| (PathBuf::from(file.path), file.text))
        .collect())
}

/// Overlays in the order of their names.
fn overlays(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut paths: Vec<PathBuf> = entries(folder)?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    Ok(paths)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let describe = |error: std::io::Error| format!("cannot list {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(describe)? {
        paths.push(entry.map_err(describe)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn read_folder(folder: &Path) -> Result<Files, String> {
    let mut files = Files::new();
    if !folder.exists() {
        return Ok(files);
    }
    let mut work = vec![folder.to_owned()];
    while let Some(at) = work.pop() {
        for path in entries(&at)? {
            if path.is_dir() {
                work.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
            files.insert(name, text);
        }
    }
    Ok(files)
}

fn compare(made: &Files, found: &Files) -> Result<(), String> {
    let mut message = String::new();
    for (path, text) in made {
        match found.get(path) {
            None => message.push_str(&format!("missing: {}\n", path.display())),
            Some(old) if old != text => {
                let same = old
                    .lines()
                    .zip(text.lines())
                    .take_while(|(a, b)| a == b)
                    .count();
                let line = same + 1;
                message.push_str(&format!("differs: {}, line {line}\n", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !made.contains_key(*path)) {
        message.push_str(&format!("left over: {}\n", path.display()));
    }
    if message.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{message}schema/src/generated is out of date: run `{COMMAND}`"
    ))
}

fn write(folder: &Path, made: &Files, found: &Files) -> Result<(), String> {
    for path in found.keys().filter(|path| !made.contains_key(*path)) {
        let path = folder.join(path);
        std::fs::remove_file(&path)
            .map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    }
    for (path, text) in made
        .iter()
        .filter(|(path, text)| found.get(*path) != Some(text))
    {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_code_is_what_the_generator_makes() {
        let found = read_folder(&crate::root().join("schema/src/generated")).unwrap();
        compare(&make().unwrap(), &found).unwrap();
    }

    #[test]
    fn a_difference_names_the_file_and_the_command() {
        let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
        let made = Files::from([file("a.rs", "1\n2\n"), file("b.rs", "")]);
        let found = Files::from([file("a.rs", "1\n3\n"), file("c.rs", "")]);
        let message = compare(&made, &found).unwrap_err();
        assert_eq!(
            message,
            "differs: a.rs, line 2\nmissing: b.rs\nleft over: c.rs\n\
             schema/src/generated is out of date: run `cargo xtask regen`"
        );
        assert_eq!(make(), make());
    }
}
