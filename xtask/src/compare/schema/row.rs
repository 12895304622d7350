//! A row of the table: rounds of two sides in turns, their medians, and what we wanted.

use std::time::{Duration, Instant};

use super::Side;
use crate::compare::measure::Cost;
use crate::compare::table::median;

/// What the columns of [`Row::line`] are; a ratio above 1 says that we do better.
pub(super) const HEADER: &str = "\
row                          unit        by CPU       peer  ratio     by wall       peer  ratio     MiB   peer";

/// After so long, a row is content with the rounds it has.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a number of the table counts.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// Of the whole work.
    Milliseconds,
    /// Pieces of work a second.
    PerSecond,
}

/// What one side's rounds cost, or why they could not be run.
type Rounds = Result<Vec<Cost>, String>;

pub(super) struct Row {
    name: String,
    unit: Unit,
    rounds: usize,
    ours: Rounds,
    peer: Rounds,
    aim: Option<Aim>,
}

enum Aim {
    PerCpuSecond(f64),
    /// Times the peer's work a second.
    Factor(f64),
}

/// Three medians: by processor time, by the clock, and memory.
#[derive(Clone, Copy)]
struct Medians {
    cpu: f64,
    wall: f64,
    mib: f64,
}

impl Row {
    pub(super) fn of(name: &str, unit: Unit, rounds: usize) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            rounds,
            ours: Err("not run".to_owned()),
            peer: Err("not run".to_owned()),
            aim: None,
        }
    }

    /// Runs both sides in turns; who starts alternates. A first run of each warms up, and counts only
    /// when there is time for no more.
    pub(super) fn compare(mut self, mut ours: Side, mut peer: Side) -> Self {
        let start = Instant::now();
        let first = (ours(), peer());
        if start.elapsed() > PATIENCE {
            let alone = |run: Result<Cost, String>| run.map(|cost| vec![cost]);
            (self.ours, self.peer) = (alone(first.0), alone(first.1));
            return self;
        }
        (self.ours, self.peer) = (first.0.map(|_| Vec::new()), first.1.map(|_| Vec::new()));
        for round in 0..self.rounds {
            if round % 2 == 0 {
                again(&mut self.ours, &mut ours);
                again(&mut self.peer, &mut peer);
            } else {
                again(&mut self.peer, &mut peer);
                again(&mut self.ours, &mut ours);
            }
            if start.elapsed() > PATIENCE {
                break;
            }
        }
        self
    }

    /// Runs our side where there is nothing to compare with, for the `reason`.
    pub(super) fn alone(self, ours: Side, reason: &str) -> Self {
        let reason = reason.to_owned();
        self.compare(ours, Box::new(move || Err(reason.clone())))
    }

    /// Takes rounds that were run elsewhere.
    pub(super) fn measured(mut self, ours: Vec<Cost>, reason: &str) -> Self {
        (self.ours, self.peer) = (Ok(ours), Err(reason.to_owned()));
        self
    }

    pub(super) fn aim_per_cpu_second(mut self, aim: f64) -> Self {
        self.aim = Some(Aim::PerCpuSecond(aim));
        self
    }

    pub(super) fn aim_factor(mut self, aim: f64) -> Self {
        self.aim = Some(Aim::Factor(aim));
        self
    }

    /// Whether our side could not be run.
    pub(super) fn failed(&self) -> bool {
        self.ours.is_err()
    }

    pub(super) fn line(&self) -> String {
        let none = Medians {
            cpu: f64::NAN,
            wall: f64::NAN,
            mib: f64::NAN,
        };
        let unit = match self.unit {
            Unit::Milliseconds => "ms",
            Unit::PerSecond => "a second",
        };
        let side = |rounds: &Rounds| match rounds {
            Ok(rounds) => (Medians::of(rounds, self.unit), String::new()),
            Err(reason) => (none, reason.lines().next().unwrap_or_default().to_owned()),
        };
        let (ours, our_reason) = side(&self.ours);
        let (peer, peer_reason) = side(&self.peer);
        let (cpu, wall) = match self.unit {
            Unit::Milliseconds => (peer.cpu / ours.cpu, peer.wall / ours.wall),
            Unit::PerSecond => (ours.cpu / peer.cpu, ours.wall / peer.wall),
        };
        let mut line = format!(
            "{:28} {unit:8} {} {} {} {} {} {} {} {}",
            self.name,
            number(ours.cpu, 10, ""),
            number(peer.cpu, 10, ""),
            number(cpu, 6, "x"),
            number(ours.wall, 11, ""),
            number(peer.wall, 10, ""),
            number(wall, 6, "x"),
            number(ours.mib, 7, ""),
            number(peer.mib, 6, ""),
        );
        match self.aim {
            Some(Aim::PerCpuSecond(aim)) => {
                line += &format!("  ≥ {aim}/CPU s{}", verdict(ours.cpu >= aim));
            }
            Some(Aim::Factor(aim)) => line += &format!("  ≥ {aim}x{}", verdict(wall >= aim)),
            None => {}
        }
        for (who, reason) in [("we fail", our_reason), ("peer", peer_reason)] {
            if !reason.is_empty() {
                line += &format!("  {who}: {reason}");
            }
        }
        line
    }
}

fn again(rounds: &mut Rounds, side: &mut Side) {
    let Ok(costs) = rounds else { return };
    match side() {
        Ok(cost) => costs.push(cost),
        Err(message) => *rounds = Err(message),
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "" } else { ": behind" }
}

fn number(value: f64, width: usize, suffix: &str) -> String {
    let decimals = if value < 1000.0 { 1 } else { 0 };
    let text = match value.is_finite() {
        true => format!("{value:.decimals$}{suffix}"),
        false => "–".to_owned(),
    };
    format!("{text:>width$}")
}

impl Medians {
    fn of(rounds: &[Cost], unit: Unit) -> Self {
        let of = |count: fn(&Cost) -> f64| median(rounds.iter().map(count));
        let mib = of(|cost| cost.max_rss_mib);
        let (cpu, wall) = match unit {
            Unit::Milliseconds => (
                of(|cost| cost.cpu_seconds * 1e3),
                of(|cost| cost.seconds * 1e3),
            ),
            Unit::PerSecond => (of(Cost::per_cpu_second), of(Cost::per_second)),
        };
        Self { cpu, wall, mib }
    }
}

/// Names and nanoseconds of a benchmark's lines `name_ns: 123, …`.
pub(super) fn bench_lines(text: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let (name, rest) = line.split_once("_ns: ")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((name.to_owned(), digits.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
