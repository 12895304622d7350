//! Introspection beside QEMU's: our answer to `query-qmp-schema` against what its compiler makes of
//! the same schema under several configurations, and against what its storage daemon answers.
//! Called by `conformance`. Invariant: values are compared whole, order of lists included.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use qapi_codegen::introspect::{Config, TypeNames, introspect};
use qapi_parser::{Kind, Loader, Schema};
use serde_json::{Value, json};

/// The schemas that programs of QEMU answer with, in its source.
const SCHEMAS: [&str; 3] = [
    "qapi/qapi-schema.json",
    "storage-daemon/qapi/qapi-schema.json",
    "qga/qapi-schema.json",
];
/// The storage daemon's schema, in QEMU's source.
const DAEMON: &str = "storage-daemon/qapi/qapi-schema.json";
/// How many configurations are drawn at random for each schema.
const CONFIGURATIONS: usize = 8;

/// The symbols that Debian 13's build has on, of those that the daemon's schema asks for. Off are
/// `CONFIG_BLKIO` and `CONFIG_WIN32`; `CONFIG_BLKIO_VHOST_VDPA_FD` shows nowhere without the former.
const DEBIAN: [&str; 19] = [
    "CONFIG_BRLAPI",
    "CONFIG_DBUS_DISPLAY",
    "CONFIG_FUSE",
    "CONFIG_LIBPMEM",
    "CONFIG_LINUX",
    "CONFIG_LINUX_IO_URING",
    "CONFIG_POSIX",
    "CONFIG_REPLICATION",
    "CONFIG_SECRET_KEYRING",
    "CONFIG_SPICE",
    "CONFIG_SPICE_PROTOCOL",
    "CONFIG_VDUSE_BLK_EXPORT",
    "CONFIG_VHOST_CRYPTO",
    "CONFIG_VHOST_USER_BLK_SERVER",
    "CONFIG_ZSTD",
    "HAVE_CHARDEV_PARALLEL",
    "HAVE_CHARDEV_SERIAL",
    "HAVE_HOST_BLOCK_DEVICE",
    "HAVE_IPPROTO_MPTCP",
];

/// Members that QEMU's stable releases brought after the one in the first column.
const YOUNGER: [([u64; 3], &str, &str); 1] =
    [([10, 0, 2], "BlkdebugInjectErrorOptions", "delay-ns")];

/// Prints the reference compiler's tree: each item of a list beside its condition.
const SCRIPT: &str = include_str!("introspect.py");

/// Compares, where the source of QEMU is in `source`; gives a line for each comparison.
pub(crate) fn run(source: &Path) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut random = Random::seeded();
    done.push(format!("introspection: seed {}", random.seed));
    for schema in SCHEMAS {
        done.push(beside_compiler(source, &source.join(schema), &mut random)?);
    }
    for schema in accepted(&source.join("tests/qapi-schema"))? {
        done.push(beside_compiler(source, &schema, &mut random)?);
    }
    done.push(beside_daemon(source)?);
    Ok(done)
}

/// Schemas of QEMU's suite that it accepts: those that it has an expectation without error for.
fn accepted(folder: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let list = std::fs::read_dir(folder)
        .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    let mut found = Vec::new();
    for entry in list.flatten() {
        let path = entry.path();
        let errors = std::fs::metadata(path.with_extension("err"));
        let is_schema = path
            .extension()
            .is_some_and(|extension| extension == "json");
        if is_schema && errors.is_ok_and(|errors| errors.len() == 0) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn load(path: &Path) -> Result<Schema, String> {
    Loader::new()
        .load(path)
        .map_err(|errors| errors.to_string())
}

fn answer(schema: &Schema, config: &Config) -> Result<Value, String> {
    let text = introspect(schema, TypeNames::Masked, config).to_ascii_json();
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn beside_compiler(source: &Path, path: &Path, random: &mut Random) -> Result<String, String> {
    let shown = path.strip_prefix(source).unwrap_or(path).display();
    let schema = load(path)?;
    let tree = reference(source, path)?;
    let mut symbols = BTreeSet::new();
    collect_symbols(&tree, &mut symbols);
    let mut configurations = vec![Config::Everything, Config::Symbols(BTreeSet::new())];
    for _ in 0..CONFIGURATIONS {
        let some = symbols.iter().filter(|_| random.coin());
        configurations.push(some.collect());
    }
    for config in &configurations {
        let theirs = resolve(&tree, config);
        same(&answer(&schema, config)?, &theirs)
            .map_err(|difference| format!("{shown}, {config:?}: {difference}"))?;
    }
    let entries = tree.as_array().map_or(0, Vec::len);
    Ok(format!(
        "{shown}: as QEMU's compiler has it, {entries} entries, {} symbols, {} configurations",
        symbols.len(),
        configurations.len(),
    ))
}

/// What the reference compiler makes of a schema.
fn reference(source: &Path, schema: &Path) -> Result<Value, String> {
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .args([&source.join("scripts"), schema])
        .output()
        .map_err(|error| format!("cannot run python3: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("QEMU's compiler failed:\n{errors}"));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

/// An item of a list of the tree.
fn item(value: &Value) -> Option<(&Value, &Value)> {
    Some((value.get(0)?, value.get(1)?))
}

fn collect_symbols(tree: &Value, out: &mut BTreeSet<String>) {
    match tree {
        Value::Array(items) => {
            for (condition, value) in items.iter().filter_map(item) {
                collect_names(condition, out);
                collect_symbols(value, out);
            }
        }
        Value::Object(members) => {
            for member in members.values() {
                collect_symbols(member, out);
            }
        }
        _ => {}
    }
}

fn collect_names(condition: &Value, out: &mut BTreeSet<String>) {
    match condition {
        Value::String(symbol) => drop(out.insert(symbol.clone())),
        Value::Array(conditions) => conditions.iter().for_each(|c| collect_names(c, out)),
        Value::Object(operators) => operators.values().for_each(|c| collect_names(c, out)),
        _ => {}
    }
}

fn resolve(tree: &Value, config: &Config) -> Value {
    match tree {
        Value::Array(items) => {
            let kept = items.iter().filter_map(item);
            let kept = kept.filter(|(condition, _)| holds(condition, config));
            Value::Array(kept.map(|(_, value)| resolve(value, config)).collect())
        }
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), resolve(value, config)))
            .collect(),
        other => other.clone(),
    }
}

fn holds(condition: &Value, config: &Config) -> bool {
    let Config::Symbols(on) = config else {
        return true;
    };
    let all = |value: &Value, wanted: bool| {
        let conditions = value.as_array().into_iter().flatten();
        conditions.map(|c| holds(c, config)).any(|h| h == wanted)
    };
    match condition {
        Value::String(symbol) => on.contains(symbol),
        Value::Object(operators) => operators.iter().all(|(operator, value)| {
            match operator.as_str() {
                "not" => !holds(value, config),
                "any" => all(value, true),
                // `all` is what no false one stands in.
                _ => !all(value, false),
            }
        }),
        _ => true,
    }
}

fn beside_daemon(source: &Path) -> Result<String, String> {
    let Some((version, theirs)) = ask_daemon()? else {
        return Ok("qemu-storage-daemon is not installed: not compared with its answer".to_owned());
    };
    let mut schema = load(&source.join(DAEMON))?;
    let mut left_out = String::new();
    for (last_without, definition, member) in YOUNGER {
        if version <= last_without && remove(&mut schema, definition, member) {
            left_out.push_str(&format!(
                ", without {definition}.{member}, which is younger"
            ));
        }
    }
    same(&answer(&schema, &DEBIAN.into_iter().collect())?, &theirs)
        .map_err(|difference| format!("the storage daemon answers otherwise: {difference}"))?;
    let [major, minor, micro] = version;
    let entries = theirs.as_array().map_or(0, Vec::len);
    Ok(format!(
        "{DAEMON}: as qemu-storage-daemon {major}.{minor}.{micro} answers, {entries} entries{left_out}"
    ))
}

fn remove(schema: &mut Schema, definition: &str, member: &str) -> bool {
    let entity = schema.entities.get_mut(definition);
    let Some(Kind::Struct(structure)) = entity.map(|entity| &mut entity.kind) else {
        return false;
    };
    let before = structure.members.len();
    structure.members.retain(|other| other.name != member);
    structure.members.len() < before
}

/// The daemon's version and what it answers; nothing where it is not installed.
fn ask_daemon() -> Result<Option<([u64; 3], Value)>, String> {
    let daemon = Command::new("qemu-storage-daemon")
        .args(["--chardev", "stdio,id=wire", "--monitor", "chardev=wire"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut daemon) = daemon else {
        return Ok(None);
    };
    let mut input = daemon.stdin.take().ok_or("the daemon has no input")?;
    for command in ["qmp_capabilities", "query-qmp-schema", "quit"] {
        writeln!(input, "{}", json!({ "execute": command }))
            .map_err(|error| format!("cannot write to the daemon: {error}"))?;
    }
    let output = daemon
        .wait_with_output()
        .map_err(|error| format!("cannot hear the daemon: {error}"))?;
    drop(input);
    let messages: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the daemon speaks no JSON: {error}"))?;
    let greeting = messages.iter().find_map(|m| m.pointer("/QMP/version/qemu"));
    let version = greeting.ok_or("the daemon did not greet")?;
    let number = |name| version[name].as_u64().unwrap_or(0);
    let version = [number("major"), number("minor"), number("micro")];
    let mut answers = messages.iter().filter_map(|message| message.get("return"));
    let schema = answers.find(|answer| answer.is_array());
    let schema = schema.ok_or("the daemon has no schema")?;
    Ok(Some((version, schema.clone())))
}

/// The first entry that differs.
fn same(ours: &Value, theirs: &Value) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    let entries = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (ours, theirs) = (entries(ours), entries(theirs));
    let index = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let entry = |list: &[Value]| list.get(index).map_or_else(String::new, Value::to_string);
    Err(format!(
        "entry {index} of {} and {}\n  ours:   {}\n  theirs: {}",
        ours.len(),
        theirs.len(),
        entry(&ours),
        entry(&theirs),
    ))
}

/// Coins from a seed that is printed (splitmix64); `SEED` in the environment replays one.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn seeded() -> Self {
        let given = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| u64::from(now.subsec_nanos()))
        };
        let seed = given.unwrap_or_else(clock);
        Self { seed, state: seed }
    }

    fn coin(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 31) & 1 == 1
    }
}
