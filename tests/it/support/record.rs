//! What QMP said while the tests ran: `docs/commands.md` is made of it (`cargo xtask commands`).
//!
//! Daemons in this process tell it by `tracing`; those of the program by `--qmp-log`, which takes the
//! variable [`VARIABLE`]. All append to one file, and it is of no use to the tests themselves.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use block_core::qmp::log;
use block_schema::Value;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Names the file to the program.
pub(crate) const VARIABLE: &str = "QBLK_QMP_LOG";
/// The file.
pub(crate) const PATH: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/qmp.log");

/// Keeps what daemons in this process say, from now on.
pub(crate) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let file = OpenOptions::new().append(true).create(true).open(PATH);
        let record = Record {
            file: file.expect("a file in the target folder"),
            known: Mutex::default(),
        };
        let only = Targets::new().with_target(log::TARGET, LevelFilter::TRACE);
        let subscriber = tracing_subscriber::registry().with(record.with_filter(only));
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    });
}

struct Record {
    file: File,
    /// Whoever polls asks the same many times.
    known: Mutex<HashSet<String>>,
}

impl<S: tracing::Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(fields) = log::fields(event) else {
            return;
        };
        let line = format!("{}\n", Value::from(fields).to_ascii_json());
        if self.known.lock().expect("no panic").insert(line.clone()) {
            (&self.file).write_all(line.as_bytes()).expect("a line");
        }
    }
}
