//! What rustc spends on the metadata of generated code: ours as it was written to a folder, that of
//! qapi-rs as cargo compiles it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Side, once, write};
use crate::compare::measure::run;

/// The peer: its types for a QEMU of its time.
const PEER: &str = "qapi = { version = \"=0.15.0\", features = [\"qmp\"] }";
/// The crate with what it generates.
const PEER_CRATE: &str = "qapi_qmp";

/// The module in the `folder`, as a crate.
pub(super) fn generated(folder: &Path) -> Side<'static> {
    let mut command = match compiler() {
        Ok(path) => Command::new(path),
        Err(message) => return Box::new(move || Err(message.clone())),
    };
    command.args([
        "--crate-name=generated",
        "--crate-type=lib",
        "--edition=2024",
    ]);
    // As cargo's profile for development has it.
    command.args(["--emit=metadata", "-Cdebuginfo=2", "--cap-lints=allow"]);
    command.arg("-o").arg(folder.with_extension("rmeta"));
    command.arg(folder.join("mod.rs"));
    once(command)
}

/// The compiler itself: the one of the path may be a program that looks for it.
fn compiler() -> Result<PathBuf, String> {
    let sysroot = run(Command::new("rustc").args(["--print", "sysroot"]))?.stdout;
    Ok(Path::new(sysroot.trim()).join("bin/rustc"))
}

/// The peer's crate, whose dependencies cargo checks first.
pub(super) fn qapi_rs(folder: &Path) -> Side<'static> {
    match peer_command(folder) {
        Ok(line) => {
            let mut command = Command::new("sh");
            command.args(["-c", &line]);
            once(command)
        }
        Err(message) => {
            let message = format!("does not build: {message}");
            Box::new(move || Err(message.clone()))
        }
    }
}

/// The line for a shell by which cargo compiles the peer's crate.
fn peer_command(folder: &Path) -> Result<String, String> {
    let manifest = format!(
        "[package]\nname = \"compare-peer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\n{PEER}\n\n[workspace]\n"
    );
    write(&folder.join("Cargo.toml"), &manifest)?;
    write(&folder.join("src/lib.rs"), "")?;
    let target = folder.join("target");
    let log = folder.join("cargo.log");
    let mut cargo = Command::new("sh");
    // Cargo tells how it compiles only what it does compile.
    cargo.args([
        "-c",
        "\"$0\" clean --package qapi-qmp 2>\"$1\" && exec \"$0\" check -vv 2>\"$1\"",
    ]);
    cargo.arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(&log).current_dir(folder);
    cargo.env("CARGO_TARGET_DIR", &target);
    let ended = run(&mut cargo);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    if ended.is_err() {
        let mut errors = text.lines().filter(|line| line.starts_with("error"));
        return Err(errors.next().unwrap_or("cargo fails").to_owned());
    }
    compilation(&text, PEER_CRATE)
        .map(str::to_owned)
        .ok_or_else(|| format!("cargo did not compile {PEER_CRATE}"))
}

/// The command that compiles the crate of this name, in what `cargo check -vv` tells.
pub(super) fn compilation<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!(" --crate-name {name} ");
    let mut lines = log.lines().filter(|line| line.contains(&wanted));
    let line = lines.next()?.trim();
    line.strip_prefix("Running `")?.strip_suffix('`')
}
