//! What the daemon keeps of what happened: warnings on stderr, and QMP in a file if asked for.
//! Not here: what is said of a request (`block_core::qmp::log`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use block_core::error::kernel_text;
use block_core::qmp::log;
use block_schema::{Object, Timestamp, Value};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::report::Failure;

/// Names the file where no option does: for who starts the daemon by another program.
const VARIABLE: &str = "QBLK_QMP_LOG";

/// Lets the library's warnings be seen, and its QMP be kept.
///
/// # Errors
/// What the kernel says about the file.
pub(super) fn start(path: Option<&Path>) -> Result<(), Failure> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let path = path.map(Path::to_owned).or(named.map(PathBuf::from));
    let qmp = path.map(|path| QmpLog::open(&path)).transpose()?;
    let only = Targets::new().with_target(log::TARGET, LevelFilter::TRACE);
    let warnings = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(LevelFilter::WARN);
    tracing_subscriber::registry()
        .with(warnings)
        .with(qmp.map(|qmp| qmp.with_filter(only)))
        .init();
    Ok(())
}

/// A file that takes lines, also from several daemons.
struct QmpLog(File);

impl QmpLog {
    fn open(path: &Path) -> Result<QmpLog, Failure> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(QmpLog).map_err(|error| {
            let why = kernel_text(&error);
            Failure::new(format!("Could not open '{}': {why}", path.display()))
        })
    }
}

impl<S: tracing::Subscriber> Layer<S> for QmpLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(fields) = log::fields(event) else {
            return;
        };
        let now = Timestamp::now();
        let time = [("seconds", now.seconds), ("microseconds", now.microseconds)];
        let time: Object = time.into_iter().collect();
        let mut entry = Object::new();
        entry.insert("timestamp", time);
        for (name, value) in fields {
            entry.insert(name, value);
        }
        let line = format!("{}\n", Value::from(entry).to_ascii_json());
        // One call a line, so that lines of several daemons do not mix. A full disk ends no daemon.
        (&self.0).write_all(line.as_bytes()).ok();
    }
}
