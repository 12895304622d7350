//! How jobs look: bars at a terminal, a line a change elsewhere, JSON for programs, a table once.
//! Not here: when there is something to show (`mod.rs`).

use std::collections::BTreeMap;

use block_schema::runtime::RawEvent;
use block_schema::{Object, Value};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::job::{Job, duration};
use crate::human;
use crate::qmp::print::plain;
use crate::report::outln;

/// Where and how jobs are shown.
pub(super) enum Shown {
    /// A bar a job, at a terminal.
    Bars {
        all: MultiProgress,
        bars: BTreeMap<String, ProgressBar>,
    },
    /// A line whenever status or whole percent change.
    Lines(BTreeMap<String, String>),
    /// A line of JSON whenever anything changes.
    Json(BTreeMap<String, Job>),
}

impl Shown {
    pub(super) fn bars() -> Shown {
        Shown::Bars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
            bars: BTreeMap::new(),
        }
    }

    /// Shows how a job is now.
    pub(super) fn job(&mut self, job: &Job, rate: Option<u64>) {
        match self {
            Shown::Bars { all, bars } => {
                let bar = bars
                    .entry(job.id.clone())
                    .or_insert_with(|| all.add(new_bar(job)));
                bar.set_length(job.total.max(1));
                bar.set_position(job.done);
                bar.set_message(message(job, rate));
            }
            Shown::Lines(last) => {
                let (percent, state) = (job.percent(), job.state());
                let key = format!("{percent} {state}");
                if last.insert(job.id.clone(), key.clone()).as_deref() != Some(key.as_str()) {
                    outln!(
                        "{} ({}): {percent} %, {}",
                        job.id,
                        job.kind,
                        message(job, rate)
                    );
                }
            }
            Shown::Json(last) => {
                if last.get(&job.id) != Some(job) {
                    outln!("{}", job.to_value(rate).to_ascii_json());
                    last.insert(job.id.clone(), job.clone());
                }
            }
        }
    }

    /// Shows that a job is not there any more.
    pub(super) fn gone(&mut self, id: &str) {
        match self {
            Shown::Bars { all, bars } => {
                if let Some(bar) = bars.remove(id) {
                    bar.finish_and_clear();
                    all.remove(&bar);
                }
            }
            Shown::Lines(last) => {
                last.remove(id);
            }
            Shown::Json(last) => {
                last.remove(id);
                let mut object = Object::new();
                object.insert("job", id);
                object.insert("status", "null");
                outln!("{}", Value::from(object).to_ascii_json());
            }
        }
    }

    /// Shows an event of a job.
    pub(super) fn event(&self, event: &RawEvent) {
        let line = match self {
            Shown::Json(_) => {
                let message = event.timestamp.event(&event.name, event.data.clone());
                outln!("{}", message.to_ascii_json());
                return;
            }
            Shown::Bars { .. } | Shown::Lines(_) => match sentence(event) {
                Some(line) => line,
                None => return,
            },
        };
        match self {
            // Above the bars.
            Shown::Bars { all, .. } => all.suspend(|| outln!("{line}")),
            Shown::Lines(_) | Shown::Json(_) => outln!("{line}"),
        }
    }
}

fn new_bar(job: &Job) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:24} {percent:>3} %  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let prefix = format!("{} ({})", job.id, job.kind);
    ProgressBar::new(job.total.max(1))
        .with_style(style)
        .with_prefix(prefix)
}

/// What stands behind a bar.
fn message(job: &Job, rate: Option<u64>) -> String {
    let mut parts = vec![job.progress()];
    if let Some(rate) = rate.filter(|_| !job.is_over()) {
        parts.push(format!("{}/s", human::size(rate)));
        if let Some(left) = job.left(rate).filter(|_| job.status == "running") {
            parts.push(format!("{} left", duration(left)));
        }
    }
    if job.limit > 0 {
        parts.push(format!("limit {}/s", human::size(job.limit)));
    }
    parts.push(job.state());
    parts.join(", ")
}

/// What an event says of a job; `None` where the job's own line says as much.
fn sentence(event: &RawEvent) -> Option<String> {
    let text = |name: &str| event.data.get(name).and_then(Value::as_str);
    let job = plain(text("device")?);
    Some(match event.name.as_str() {
        "BLOCK_JOB_COMPLETED" => match text("error") {
            Some(error) => format!("{job}: failed: {}", plain(error)),
            None => format!("{job}: completed"),
        },
        "BLOCK_JOB_CANCELLED" => format!("{job}: cancelled"),
        "BLOCK_JOB_READY" => format!("{job}: ready to be completed"),
        "BLOCK_JOB_ERROR" => {
            let (operation, action) = (text("operation")?, text("action")?);
            format!("{job}: a {} failed: {}", plain(operation), plain(action))
        }
        _ => return None,
    })
}

/// All jobs at once, a line each under its headings.
pub(super) fn table(jobs: &[Job]) -> String {
    let mut rows = vec![["JOB", "TYPE", "STATUS", "", "PROGRESS", "LIMIT"].map(str::to_owned)];
    for job in jobs {
        let limit = match job.limit {
            0 => "-".to_owned(),
            limit => format!("{}/s", human::size(limit)),
        };
        rows.push([
            job.id.clone(),
            job.kind.clone(),
            job.state(),
            format!("{} %", job.percent()),
            job.progress(),
            limit,
        ]);
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for [job, kind, state, percent, progress, limit] in &rows {
        let [w0, w1, w2, w3, w4, _] = widths;
        let line =
            format!("{job:w0$}  {kind:w1$}  {state:w2$}  {percent:>w3$}  {progress:w4$}  {limit}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
