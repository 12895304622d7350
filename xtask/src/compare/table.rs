//! What was measured, as a table and as JSON.

use serde_json::{Value, json};

use super::Outcome;
use super::measure::Cost;
use super::rows::{Aim, Row};

/// The numbers of a row, each a median over the rounds.
struct Summary {
    ours: f64,
    peer: f64,
    speed_ratio: f64,
    ours_cpu: f64,
    peer_cpu: f64,
    cpu_ratio: f64,
    ours_rss: f64,
    peer_rss: f64,
    /// How many times the peer's file ours is; not a number where files are not the point.
    file_ratio: f64,
    /// What was left to a guest by us, by the peer, and that in relation; not numbers without a guest.
    ours_guest: f64,
    peer_guest: f64,
    guest_ratio: f64,
}

/// Files longer than so many times the peer's miss the aim, whatever the speed.
const MAX_FILE_RATIO: f64 = 1.04;

impl Summary {
    fn of(rounds: &[(Cost, Cost)]) -> Summary {
        let ours = |f: fn(&Cost) -> f64| median(rounds.iter().map(|(ours, _)| f(ours)));
        let peer = |f: fn(&Cost) -> f64| median(rounds.iter().map(|(_, peer)| f(peer)));
        let ratio =
            |f: fn(&Cost) -> f64| median(rounds.iter().map(|(ours, peer)| f(ours) / f(peer)));
        Summary {
            ours: ours(Cost::per_second),
            peer: peer(Cost::per_second),
            speed_ratio: ratio(Cost::per_second),
            ours_cpu: ours(|cost| cost.cpu_seconds),
            peer_cpu: peer(|cost| cost.cpu_seconds),
            cpu_ratio: ratio(Cost::per_cpu_second),
            ours_rss: ours(|cost| cost.max_rss_mib),
            peer_rss: peer(|cost| cost.max_rss_mib),
            file_ratio: ratio(|cost| cost.file_mib),
            ours_guest: ours(|cost| cost.guest_share),
            peer_guest: peer(|cost| cost.guest_share),
            guest_ratio: ratio(|cost| cost.guest_share),
        }
    }

    fn reaches(&self, aim: Aim) -> bool {
        let speed = match aim {
            Aim::PerCpuSecond(factor) => self.cpu_ratio >= factor,
            Aim::PerSecond(factor) => self.speed_ratio >= factor,
        };
        // No number is no file, and no guest.
        speed
            && (self.file_ratio.is_nan() || self.file_ratio <= MAX_FILE_RATIO)
            && (self.guest_ratio.is_nan() || self.guest_ratio >= 1.0)
    }
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// One line a row, columns aligned.
pub(super) struct Table {
    /// Columns of the longest name.
    width: usize,
}

impl Table {
    /// Of these rows.
    pub(super) fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Table {
        let lens = rows.into_iter().map(|row| row.name.len());
        let width = lens.max().unwrap_or(0).max(3);
        Table { width }
    }

    /// The line above all.
    pub(super) fn head(&self) -> String {
        let width = self.width;
        format!(
            "{:width$} {:>10} {:>10} {:>10} {:>6} {:>7} {:>7} {:>6} {:>6} {:>6}  aim\n",
            "row", "unit", "ours", "peer", "speed", "CPU s", "peer", "/CPU s", "MiB", "peer",
        )
    }

    /// The line of a row.
    pub(super) fn line(&self, row: &Row, outcome: &Outcome) -> String {
        let width = self.width;
        let rest = match outcome {
            Outcome::NoPeer(reason) => format!("no peer: {reason}\n"),
            Outcome::Failed(reason) => format!("failed: {reason}\n"),
            Outcome::Measured(rounds) => line(row, &Summary::of(rounds)),
        };
        format!("{:width$} {rest}", row.name)
    }
}

fn line(row: &Row, numbers: &Summary) -> String {
    let aim = match row.aim {
        Aim::PerCpuSecond(factor) => format!("≥ {factor:.1} /CPU s"),
        Aim::PerSecond(factor) => format!("≥ {factor:.1} speed"),
    };
    let size = if numbers.file_ratio.is_nan() {
        String::new()
    } else {
        format!(", size {:.3}x", numbers.file_ratio)
    };
    let guest = if numbers.guest_ratio.is_nan() {
        String::new()
    } else {
        format!(
            ", guest {:.2} of {:.2} ≥ 1.0: {:.2}x",
            numbers.ours_guest, numbers.peer_guest, numbers.guest_ratio
        )
    };
    let verdict = if numbers.reaches(row.aim) {
        ""
    } else {
        ": behind"
    };
    format!(
        "{:>10} {:>10} {:>10} {:>5.2}x {:>7.2} {:>7.2} {:>5.2}x {:>6.1} {:>6.1}  {aim}{size}{guest}{verdict}\n",
        row.work.unit(),
        figure(numbers.ours),
        figure(numbers.peer),
        numbers.speed_ratio,
        numbers.ours_cpu,
        numbers.peer_cpu,
        numbers.cpu_ratio,
        numbers.ours_rss,
        numbers.peer_rss,
    )
}

/// A number with as many digits as tell something.
fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// Every round of every row.
pub(super) fn json(results: &[(&Row, Outcome)]) -> Value {
    results
        .iter()
        .map(|(row, outcome)| json_row(row, outcome))
        .collect()
}

fn json_row(row: &Row, outcome: &Outcome) -> Value {
    let side = |cost: &Cost| {
        json!({
            "amount": cost.amount,
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
            "max_rss_mib": cost.max_rss_mib,
            "guest_share": cost.guest_share,
        })
    };
    match outcome {
        Outcome::NoPeer(reason) => json!({ "row": row.name, "no_peer": reason }),
        Outcome::Failed(reason) => json!({ "row": row.name, "failed": reason }),
        Outcome::Measured(rounds) => {
            let numbers = Summary::of(rounds);
            let rounds = rounds.iter();
            json!({
                "row": row.name,
                "unit": row.work.unit(),
                "speed_ratio": numbers.speed_ratio,
                "cpu_ratio": numbers.cpu_ratio,
                "file_ratio": numbers.file_ratio,
                "guest_ratio": numbers.guest_ratio,
                "reaches_aim": numbers.reaches(row.aim),
                "rounds": rounds.map(|(o, p)| json!({ "ours": side(o), "peer": side(p) })).collect::<Value>(),
            })
        }
    }
}
