//! `--daemonize`: the daemon goes on in the background, when it serves.
//!
//! The process that was called starts itself again, waits until that one says that all is served,
//! and ends. Nothing is forked while threads run.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use block_core::error::kernel_text;

use crate::report::{Failure, Outcome, outln};

const READY: &str = "ready";

/// Starts the background process and waits until it serves, or has failed and said why.
///
/// # Errors
/// What the kernel says.
pub(super) fn start() -> Outcome {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(words).arg("--background");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        match line.map_err(failed)? {
            line if line == READY => return Ok(0),
            line => outln!("{line}"),
        }
    }
    let status = child.wait().map_err(failed)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Failure::reported().with_code(code.unwrap_or(1)))
}

/// Tells the waiting process, and leaves its terminal.
///
/// # Errors
/// What the kernel says.
pub(super) fn detach() -> Result<(), Failure> {
    let failed_now = |errno: rustix::io::Errno| failed(errno.into());
    outln!("{READY}");
    std::io::stdout().flush().map_err(failed)?;
    rustix::process::setsid().map_err(failed_now)?;
    let nothing = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    let nothing = nothing.map_err(failed)?;
    rustix::stdio::dup2_stdout(&nothing).map_err(failed_now)?;
    rustix::stdio::dup2_stderr(&nothing).map_err(failed_now)
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new(format!(
        "Could not go to the background: {}",
        kernel_text(&error)
    ))
}
