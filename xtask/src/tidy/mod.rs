//! `tidy`: rules of the tree that the compiler and clippy do not know.
//!
//! Called by CI. Each rule is a function from what it reads to findings; all findings are shown,
//! and one is enough to fail. Invariant: a finding names the file and line to change. Not here:
//! formatting and lints (`cargo fmt`, `cargo clippy`), generated files (`regen --check`).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;

/// Packages that a hypervisor links: none may bring a schema compiler along.
const RUNTIME: [&str; 4] = ["block-schema", "block-core", "block-drivers", "qblk"];
/// The only places where `unsafe` may stand, relative to the root.
const UNSAFE: [&str; 2] = ["block-core/src/buffer.rs", "block-core/src/engine"];
/// Folders whose folders are drivers.
const DRIVERS: [&str; 4] = ["format", "protocol", "filter", "export"];
/// The sections of a driver's README, in order.
const HEADINGS: [&str; 8] = [
    "Summary",
    "Spec",
    "Options (QAPI type)",
    "Supported and not",
    "Layout",
    "Write order and crashes",
    "Limits",
    "Interop tested",
];
/// Rust that the workspace does not compile: data of a test, and drivers that need another compiler.
const APART: [&str; 2] = ["tests/ui", "fuzz/libfuzzer"];

/// Something to change.
struct Finding {
    path: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { path, line, what } = self;
        write!(f, "{}:{line}: {what}", path.display())
    }
}

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if !arguments.is_empty() {
        return Err("usage: cargo xtask tidy".to_owned());
    }
    let root = crate::root();
    let packages = packages(&root)?;
    let sources = Source::all(&root)?;
    let targets: Vec<PathBuf> = packages.iter().flat_map(|p| p.targets.clone()).collect();
    let mut findings = Vec::new();
    findings.extend(dependencies(&packages)?);
    findings.extend(sources.iter().flat_map(unsafe_keywords));
    findings.extend(sources.iter().flat_map(driver_names));
    findings.extend(sources.iter().filter_map(missing_header));
    findings.extend(unreachable_files(&sources, &targets));
    findings.extend(readmes(&root)?);
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    Err(lines.join("\n"))
}

/// A member of the workspace. Paths are relative to the root.
struct Package {
    name: String,
    manifest: PathBuf,
    manifest_text: String,
    targets: Vec<PathBuf>,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// A dependency of tests alone is not built for those who depend on the package.
    is_for_tests: bool,
}

/// What cargo knows of the workspace.
fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let metadata = crate::metadata::read()?;
    list(&metadata, "packages")
        .map(|package| read_package(root, package))
        .collect()
}

fn read_package(root: &Path, package: &Value) -> Result<Package, String> {
    let path = |value: &Value, key| {
        let path = PathBuf::from(text(value, key));
        path.strip_prefix(root).map(Path::to_owned).unwrap_or(path)
    };
    let manifest = path(package, "manifest_path");
    Ok(Package {
        name: text(package, "name"),
        manifest_text: read(&root.join(&manifest))?,
        manifest,
        targets: list(package, "targets")
            .map(|target| path(target, "src_path"))
            .collect(),
        dependencies: list(package, "dependencies")
            .map(|dependency| Dependency {
                name: text(dependency, "name"),
                is_for_tests: dependency["kind"] == "dev",
            })
            .collect(),
    })
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Who may depend on whom.
fn dependencies(packages: &[Package]) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for name in RUNTIME {
        let package = packages
            .iter()
            .find(|package| package.name == name)
            .ok_or_else(|| format!("the workspace has no package {name}"))?;
        for dependency in &package.dependencies {
            let compiler = dependency.name.starts_with("qapi-") && !dependency.is_for_tests;
            let driver = name == "block-core" && dependency.name == "block-drivers";
            if compiler || driver {
                let what = format!("{name} may not depend on {}", dependency.name);
                findings.push(package.finding(&dependency.name, what));
            }
        }
    }
    Ok(findings)
}

impl Package {
    fn finding(&self, dependency: &str, what: String) -> Finding {
        let names_it = |line: &str| {
            line.strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with([' ', '.', '=']))
        };
        let line = self.manifest_text.lines().position(names_it);
        Finding {
            path: self.manifest.clone(),
            line: line.map_or(1, |index| index + 1),
            what,
        }
    }
}

/// A Rust file. Its path is relative to the root.
struct Source {
    path: PathBuf,
    text: String,
    file: syn::File,
    tokens: TokenStream,
}

impl Source {
    /// Every file of the tree, in the order of their paths.
    fn all(root: &Path) -> Result<Vec<Source>, String> {
        let mut paths = Vec::new();
        walk(root, Path::new(""), &mut paths)?;
        let parse = |path: PathBuf| Source::parse(read(&root.join(&path))?, path);
        paths.into_iter().map(parse).collect()
    }

    fn parse(text: String, path: PathBuf) -> Result<Source, String> {
        let describe = |error: syn::Error| {
            let line = error.span().start().line;
            format!("{}:{line}: {error}", path.display())
        };
        let file = syn::parse_file(&text).map_err(describe)?;
        let tokens = text
            .parse()
            .map_err(|error| describe(syn::Error::from(error)))?;
        Ok(Source {
            path,
            text,
            file,
            tokens,
        })
    }

    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// Whether the file is (part of) a test.
    fn is_test(&self) -> bool {
        let mut names = self.path.iter().filter_map(|name| name.to_str());
        names.any(|name| matches!(name, "tests" | "tests.rs" | "ui"))
    }

    fn is_generated(&self) -> bool {
        self.text.starts_with("// @generated")
    }

    /// Lines on which a word stands, outside of comments and literals.
    fn lines_of(&self, word: &str) -> BTreeSet<usize> {
        let mut lines = BTreeSet::new();
        find_word(self.tokens.clone(), word, &mut lines);
        lines
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let describe = |error: std::io::Error| format!("cannot list {}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(folder)).map_err(describe)? {
        names.push(entry.map_err(describe)?.file_name());
    }
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let hidden = name.to_string_lossy().starts_with('.');
        let skipped =
            hidden || name == "target" || APART.iter().any(|apart| path == Path::new(apart));
        if root.join(&path).is_dir() {
            if !skipped {
                walk(root, &path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn find_word(tokens: TokenStream, word: &str, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => find_word(group.stream(), word, lines),
            TokenTree::Ident(ident) if ident == word => {
                lines.insert(ident.span().start().line);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn unsafe_keywords(source: &Source) -> Vec<Finding> {
    if UNSAFE.iter().any(|place| source.path.starts_with(place))
        || source.is_test()
        || source.is_generated()
    {
        return Vec::new();
    }
    let lines = source.lines_of("unsafe").into_iter();
    lines
        .map(|line| source.finding(line, format!("`unsafe` outside of {}", UNSAFE.join(", "))))
        .collect()
}

fn driver_names(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("block-core") {
        return Vec::new();
    }
    let lines = source.lines_of("block_drivers").into_iter();
    lines
        .map(|line| source.finding(line, "block-core names no driver"))
        .collect()
}

fn missing_header(source: &Source) -> Option<Finding> {
    let exempt = source.is_test()
        || source.is_generated()
        || source
            .path
            .file_name()
            .is_some_and(|name| name == "build.rs");
    // A driver's README is its module's text.
    let opens = ["//!", "#![doc = include_str!("];
    let has_one = opens.iter().any(|open| source.text.starts_with(open));
    (!exempt && !has_one).then(|| source.finding(1, "a module opens with `//!`: what it holds"))
}

/// Files that no target of the workspace compiles.
fn unreachable_files(sources: &[Source], targets: &[PathBuf]) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    let mut work: Vec<PathBuf> = targets.to_vec();
    for target in targets {
        reached.insert(target.clone());
    }
    while let Some(path) = work.pop() {
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            continue;
        };
        let is_root = targets.contains(&path);
        for file in named_files(source, is_root) {
            if reached.insert(file.clone()) {
                work.push(file);
            }
        }
    }
    // What the generator must write is compared with, not compiled from here.
    let expected = |source: &&Source| source.path.starts_with("tests/schemas");
    let lost = sources
        .iter()
        .filter(|source| !reached.contains(&source.path) && !expected(source));
    lost.map(|source| source.finding(1, "no `mod` leads to this file"))
        .collect()
}

/// The files that a file's `mod` items and includes may mean, whether they exist or not.
fn named_files(source: &Source, is_root: bool) -> Vec<PathBuf> {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let stem = source.path.file_stem().unwrap_or_default();
    let inside = if is_root || stem == "mod" {
        folder.to_owned()
    } else {
        folder.join(stem)
    };
    let mut files = included_files(source.tokens.clone(), folder);
    modules(&source.file.items, folder, &inside, &mut files);
    files
}

/// `folder` is the file's, `inside` where the modules of this level live.
fn modules(items: &[syn::Item], folder: &Path, inside: &Path, files: &mut Vec<PathBuf>) {
    for item in items {
        let syn::Item::Mod(module) = item else {
            continue;
        };
        let name = module.ident.to_string();
        match (&module.content, path_attribute(module)) {
            (Some((_, items)), _) => modules(items, folder, &inside.join(name), files),
            (None, Some(path)) => files.push(normal(&folder.join(path))),
            (None, None) => {
                files.push(inside.join(format!("{name}.rs")));
                files.push(inside.join(name).join("mod.rs"));
            }
        }
    }
}

fn path_attribute(module: &syn::ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        let syn::Expr::Lit(literal) = &pair.value else {
            return None;
        };
        match &literal.lit {
            syn::Lit::Str(path) if pair.path.is_ident("path") => Some(path.value()),
            _ => None,
        }
    })
}

/// Rust files named by `include!("…")` and `include_str!("…")`, such as code that is emitted.
fn included_files(tokens: TokenStream, folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut macro_name = None;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => macro_name = Some(ident.to_string()),
            TokenTree::Group(group) => {
                let includes = matches!(macro_name.as_deref(), Some("include" | "include_str"));
                let named = syn::parse2::<syn::LitStr>(group.stream());
                if let (true, Ok(path)) = (includes, named) {
                    files.push(normal(&folder.join(path.value())));
                } else {
                    files.extend(included_files(group.stream(), folder));
                }
                macro_name = None;
            }
            TokenTree::Punct(punct) if punct.as_char() == '!' => {}
            TokenTree::Punct(_) | TokenTree::Literal(_) => macro_name = None,
        }
    }
    files
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path {
        if part == ".." {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// Every driver's folder has its document.
fn readmes(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for kind in DRIVERS {
        let kind = Path::new("block-drivers/src").join(kind);
        let Ok(entries) = std::fs::read_dir(root.join(&kind)) else {
            continue;
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        names.sort();
        for name in names {
            let driver = kind.join(name);
            if !root.join(&driver).join("mod.rs").is_file() {
                continue;
            }
            let path = driver.join("README.md");
            match std::fs::read_to_string(root.join(&path)) {
                Ok(text) => findings.extend(headings(&path, &text)),
                Err(error) => findings.push(Finding {
                    path,
                    line: 1,
                    what: format!("every driver has one: {error}"),
                }),
            }
        }
    }
    Ok(findings)
}

/// Whether a README's sections are those of every driver.
fn headings(path: &Path, text: &str) -> Option<Finding> {
    let mut wanted = HEADINGS.iter();
    let mut last = 1;
    for (line, heading) in (1..).zip(text.lines()) {
        let Some(heading) = heading.strip_prefix("## ") else {
            continue;
        };
        last = line;
        let want = wanted.next();
        if want != Some(&heading) {
            let want = want.map_or("no more sections".to_owned(), |want| format!("`## {want}`"));
            return Some(Finding {
                path: path.to_owned(),
                line,
                what: format!("`## {heading}` where every driver has {want}"),
            });
        }
    }
    wanted.next().map(|want| Finding {
        path: path.to_owned(),
        line: last,
        what: format!("`## {want}` is missing behind this section"),
    })
}

#[cfg(test)]
mod tests;
