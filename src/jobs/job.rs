//! A job as a server tells it, and how fast it is. Not here: asking, and showing.

use std::time::{Duration, Instant};

use block_schema::{Object, Value};

use crate::human;
use crate::qmp::print::plain;

/// Rates are of so long a time: shorter ones jump, longer ones are late.
const WINDOW: Duration = Duration::from_secs(5);

/// What a server says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) io_status: String,
    pub(super) done: u64,
    pub(super) total: u64,
    /// Bytes a second that it may do; 0 is no limit.
    pub(super) limit: u64,
    pub(super) error: Option<String>,
}

impl Job {
    /// Reads an entry of `query-block-jobs`.
    pub(super) fn from(info: &Value) -> Job {
        let text = |name| {
            let text = info.get(name).and_then(Value::as_str);
            text.map(plain)
        };
        let number = |name| {
            let number = info.get(name).and_then(Value::as_i64);
            number
                .and_then(|number| u64::try_from(number).ok())
                .unwrap_or(0)
        };
        let is = |name| info.get(name).and_then(Value::as_bool) == Some(true);
        let status = match (is("ready"), is("paused")) {
            (true, _) => "ready",
            (false, true) => "paused",
            (false, false) => "running",
        };
        Job {
            id: text("device").unwrap_or_default(),
            kind: text("type").unwrap_or_default(),
            // Servers of old have no word for it.
            status: text("status").unwrap_or_else(|| status.to_owned()),
            io_status: text("io-status").unwrap_or_default(),
            done: number("offset"),
            total: number("len"),
            limit: number("speed"),
            error: text("error"),
        }
    }

    /// Whether it does nothing any more, and waits to be dismissed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "concluded" | "null")
    }

    /// Whole percent.
    pub(super) fn percent(&self) -> u64 {
        match self.total {
            0 => 0,
            total => {
                let share = u128::from(self.done.min(total)) * 100 / u128::from(total);
                u64::try_from(share).unwrap_or(100)
            }
        }
    }

    /// How far it is, in bytes.
    pub(super) fn progress(&self) -> String {
        format!("{} / {}", human::size(self.done), human::size(self.total))
    }

    /// Its status, with what its requests met unless all went well.
    pub(super) fn state(&self) -> String {
        let mut state = self.status.clone();
        if !matches!(self.io_status.as_str(), "" | "ok") {
            state = format!("{state}, {}", self.io_status);
        }
        if let Some(error) = &self.error {
            state = format!("{state}: {error}");
        }
        state
    }

    /// For programs.
    pub(super) fn to_value(&self, rate: Option<u64>) -> Value {
        let mut object = Object::new();
        object.insert("job", self.id.as_str());
        object.insert("type", self.kind.as_str());
        object.insert("status", self.status.as_str());
        object.insert("io-status", self.io_status.as_str());
        object.insert("offset", self.done);
        object.insert("len", self.total);
        object.insert("speed", self.limit);
        if let Some(rate) = rate {
            object.insert("rate", rate);
            if let Some(left) = self.left(rate) {
                object.insert("eta", left);
            }
        }
        if let Some(error) = &self.error {
            object.insert("error", error.as_str());
        }
        Value::from(object)
    }

    /// Seconds until its end at this rate.
    pub(super) fn left(&self, rate: u64) -> Option<u64> {
        self.total.saturating_sub(self.done).checked_div(rate)
    }
}

/// How far a job was at times.
#[derive(Debug, Default)]
pub(super) struct Pace(Vec<(Instant, u64)>);

impl Pace {
    /// Notes how far it is now.
    pub(super) fn note(&mut self, now: Instant, done: u64) {
        // A job that begins anew has another pace.
        if self.0.last().is_some_and(|&(_, before)| before > done) {
            self.0.clear();
        }
        self.0.push((now, done));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= WINDOW {
            self.0.remove(0);
        }
    }

    /// Bytes a second, of late; `None` before there is anything to tell from.
    pub(super) fn rate(&self) -> Option<u64> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let millis = last.0.duration_since(first.0).as_millis();
        let bytes = u128::from(last.1.saturating_sub(first.1)) * 1000;
        u64::try_from(bytes.checked_div(millis)?).ok()
    }
}

/// A length of time as people say it: `8 s`, `2 min 5 s`, `3 h 10 min`.
pub(super) fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
