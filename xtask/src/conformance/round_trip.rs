//! QEMU's whole schema as generated code: it compiles, random values of every type come back from
//! the wire as they went, and spoilt ones are refused where they were spoilt.
//! Called by `conformance`. Not here: the test (`tests/consumers/round-trip`), which CI runs with
//! this project's schemas.

use std::path::Path;
use std::process::Command;

const SCHEMA: &str = "qapi/qapi-schema.json";
/// How many values of each type; what `ROUNDS` says in the environment comes first.
const ROUNDS: &str = "50";

/// Runs the test with QEMU's schema; gives what it counted.
pub(crate) fn run(source: &Path) -> Result<Vec<String>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rounds = std::env::var("ROUNDS").unwrap_or_else(|_| ROUNDS.to_owned());
    let output = Command::new(cargo)
        .args([
            "test",
            "--package",
            "consumer-round-trip",
            "--test",
            "random",
        ])
        .args(["--", "--show-output"])
        .current_dir(crate::root())
        .env("ROUND_TRIP_SCHEMA", source.join(SCHEMA))
        .env("ROUNDS", rounds)
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{SCHEMA} does not make the round trip:\n{errors}{text}"
        ));
    }
    let counted = |line: &&str| line.starts_with("SEED=") || line.contains(" values of ");
    let lines = text.lines().filter(counted);
    Ok(lines.map(|line| format!("round trip: {line}")).collect())
}
