//! One case a file: `tests/schemas/ok` are read, `tests/schemas/err` are refused; beside each
//! stands what is expected. `BLESS=1` rewrites the expectations, for review.
//!
//! `case.overlay.json` beside `case.json` is merged into it. A case whose expressions could be of
//! either dialect may say which it means in its first line: `# dialect: legacy`. Refusals end with
//! what QEMU's compiler says, or with the first of ours where it has no words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qapi_parser::{Arguments, Base, Branch, Dialect, Entity, Kind, Loader, Member, Schema, Type};

const ROOT: &str = "../tests/schemas";

#[test]
fn valid_schemas_are_read() {
    run("ok", |loaded| match loaded {
        Ok(schema) => dump(&schema),
        Err(errors) => panic!("refused:\n{errors}"),
    });
}

#[test]
fn invalid_schemas_are_refused_with_the_place() {
    run("err", |loaded| match loaded {
        Ok(schema) => panic!("accepted:\n{}", dump(&schema)),
        Err(errors) => {
            let text = format!("{errors}\nQEMU: {}", errors.reference());
            text.replace(&format!("{ROOT}/"), "")
        }
    });
}

fn run(folder: &str, show: impl Fn(Result<Schema, qapi_parser::Diagnostics>) -> String) {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let cases = cases(&Path::new(ROOT).join(folder));
    assert!(!cases.is_empty(), "no cases in {folder}");
    for case in cases {
        let overlay = case.with_extension("overlay.json");
        let mut loader = Loader::new().dialect(dialect(&case));
        if overlay.exists() {
            loader = loader.overlay(&overlay);
        }
        let shown = show(loader.load(&case));
        let expectation = case.with_extension("txt");
        let expected = std::fs::read_to_string(&expectation).unwrap_or_default();
        if shown == expected {
            continue;
        }
        if bless {
            std::fs::write(&expectation, shown).expect("the expectation can be written");
        } else {
            wrong.push(format!(
                "{}:\n{shown}\ninstead of\n{expected}",
                case.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn dialect(case: &Path) -> Dialect {
    let text = std::fs::read_to_string(case).expect("the case can be read");
    match text.lines().next() {
        Some("# dialect: legacy") => Dialect::Legacy,
        Some("# dialect: modern") => Dialect::Modern,
        _ => Dialect::Auto,
    }
}

#[test]
fn formatting_changes_no_schema() {
    let copy = std::env::temp_dir().join(format!("qapi-format-{}", std::process::id()));
    for folder in ["ok", "include"] {
        std::fs::create_dir_all(copy.join(folder)).expect("the folder can be made");
        for case in cases(&Path::new(ROOT).join(folder)) {
            let text = std::fs::read_to_string(&case).expect("the case can be read");
            let text = qapi_parser::format(&case, &text).unwrap_or_else(|e| panic!("{e}"));
            let name = case.file_name().expect("it has a name");
            std::fs::write(copy.join(folder).join(name), text).expect("it can be written");
        }
    }
    let before = cases(&Path::new(ROOT).join("ok"));
    let after = cases(&copy.join("ok"));
    for (before, after) in before.iter().zip(after) {
        let load = |path: &Path| Loader::new().load(path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            dump(&load(before)),
            dump(&load(&after)),
            "{}",
            before.display()
        );
    }
    std::fs::remove_dir_all(&copy).expect("the folder can go");
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("there are cases");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the case can be listed").path())
        .collect();
    paths.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".json") && !name.ends_with(".overlay.json")
    });
    paths.sort();
    paths
}

/// A schema in a few words, a line a definition.
fn dump(schema: &Schema) -> String {
    let mut out = String::new();
    for entity in schema.entities.values() {
        let name = &entity.name;
        let text = match &entity.kind {
            Kind::Enum(values) => format!(
                "enum {name} = {}",
                values.names().collect::<Vec<_>>().join(" | ")
            ),
            Kind::Struct(structure) => {
                let base = structure.base.as_ref().map(|base| format!(" : {base}"));
                let base = base.unwrap_or_default();
                format!("struct {name}{base} {{{}}}", members(&structure.members))
            }
            Kind::FlatUnion(union) => format!(
                "union {name} : {} by {} ({}) {{{}}}",
                base(&union.base),
                union.discriminator,
                union.tag,
                branches(&union.branches)
            ),
            Kind::SimpleUnion(union) => {
                let base = union.base.as_ref().map(|base| format!(" : {base}"));
                let base = base.unwrap_or_default();
                format!("union {name}{base} {{{}}}", branches(&union.branches))
            }
            Kind::Alternate(alternate) => {
                format!("alternate {name} {{{}}}", branches(&alternate.branches))
            }
            Kind::Command(command) => {
                let returns = command
                    .returns
                    .as_ref()
                    .map(|ty| format!(" -> {}", show(ty)));
                let mut text = format!("command {name}({})", arguments(&command.arguments));
                text.push_str(&returns.unwrap_or_default());
                if !command.typed {
                    text.push_str(", untyped");
                }
                if !command.answers {
                    text.push_str(", silent");
                }
                if let Some(flat) = &command.flat {
                    let _ = write!(text, ", {flat} may be flat");
                }
                text
            }
            Kind::Event(event) => format!("event {name}({})", arguments(&event.data)),
        };
        let _ = writeln!(out, "{}: {text}", entity.module);
        docs(&mut out, entity);
    }
    for (name, module) in &schema.modules {
        if !module.doc.is_empty() {
            let _ = writeln!(out, "{name}: {:?}", module.doc);
        }
    }
    out
}

fn base(base: &Base) -> String {
    match base {
        Base::Named(name) => name.clone(),
        Base::Inline(own) => format!("{{{}}}", members(own)),
    }
}

fn docs(out: &mut String, entity: &Entity) {
    if !entity.doc.body.is_empty() {
        let _ = writeln!(out, "    {:?}", entity.doc.body);
    }
    for (name, text) in &entity.doc.members {
        let _ = writeln!(out, "    {name}: {text:?}");
    }
    for (name, text) in &entity.doc.features {
        let _ = writeln!(out, "    feature {name}: {text:?}");
    }
    for section in &entity.doc.sections {
        let _ = writeln!(out, "    {:?}: {:?}", section.kind, section.text);
    }
}

fn show(ty: &Type) -> String {
    match ty {
        Type::Builtin(builtin) => format!("{builtin:?}").to_lowercase(),
        Type::Named(name) => name.clone(),
        Type::List(element) => format!("[{}]", show(element)),
    }
}

fn members(members: &[Member]) -> String {
    let show = |member: &Member| {
        let mark = if member.optional { "?" } else { "" };
        format!("{}{mark}: {}", member.name, show(&member.ty))
    };
    members.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn branches(branches: &[Branch]) -> String {
    let show = |branch: &Branch| format!("{}: {}", branch.name, show(&branch.ty));
    branches.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn arguments(arguments: &Arguments) -> String {
    match arguments {
        Arguments::Members(list) => members(list),
        Arguments::Type(name) => format!("…{name}"),
    }
}

#[test]
fn the_seed_is_read_without_overlay() {
    let seed = "../schema/block-core.json";
    let schema = qapi_parser::parse(seed).unwrap_or_else(|errors| panic!("{errors}"));
    let seed_only = schema
        .entities
        .values()
        .filter(|entity| entity.module == "block-core");
    let mut counts = [0; 4];
    for entity in seed_only {
        let index = match entity.kind {
            Kind::Enum(_) => 0,
            Kind::Struct(_) => 1,
            Kind::FlatUnion(_) | Kind::SimpleUnion(_) | Kind::Alternate(_) => 2,
            Kind::Command(_) => 3,
            Kind::Event(_) => panic!("{} is an event", entity.name),
        };
        counts[index] += 1;
    }
    assert_eq!(counts, [11, 26, 3, 18], "enums, structs, unions, commands");
    // Nothing of what overlays add is there.
    let Some(Kind::Enum(drivers)) = schema.get("BlockdevDriver").map(|entity| &entity.kind) else {
        panic!("BlockdevDriver is no enum");
    };
    assert_eq!(drivers.values.len(), 26);
    let info = schema.structure("ImageInfoSpecificQCow2").unwrap();
    assert_eq!(members(&info.members), "compat: str, lazy-refcounts?: bool");
    let Some(Kind::Command(add)) = schema.get("blockdev-add").map(|entity| &entity.kind) else {
        panic!("blockdev-add is no command");
    };
    assert_eq!(add.flat, None);
}

#[test]
fn bytes_that_are_not_text_are_refused() {
    let folder = std::env::temp_dir().join(format!("qapi-parser-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("bytes.json");
    std::fs::write(&path, b"{ 'enum': 'E\xff', 'data': [] }").unwrap();
    let errors = qapi_parser::parse(&path).unwrap_err().to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(errors.contains("is not UTF-8 (byte 12)"), "{errors}");
}

#[test]
fn nesting_is_bounded_before_the_grammar_sees_it() {
    let folder = std::env::temp_dir().join(format!("qapi-parser-deep-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("deep.json");
    std::fs::write(&path, "{ 'a': ".to_owned() + &"[".repeat(1_000_000)).unwrap();
    let errors = qapi_parser::parse(&path).unwrap_err().to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(errors.contains("nested deeper than 64 levels"), "{errors}");
    assert_eq!(errors.matches("nested deeper").count(), 1);
}

#[test]
fn a_missing_root_is_named() {
    let errors = qapi_parser::parse("no/such/schema.json")
        .unwrap_err()
        .to_string();
    assert!(
        errors.starts_with("error: cannot read no/such/schema.json:"),
        "{errors}"
    );
}
