//! How far a long subcommand is (`-p`): a bar on a terminal, percentages elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human::as_float;
use crate::report::{out, outln};

/// Parts that work without a unit has.
const SHARES: u64 = 10_000;

/// Shows how much of `total` is done.
pub(crate) struct Progress {
    total: u64,
    done: Cell<u64>,
    shown: Shown,
}

enum Shown {
    Nothing,
    /// The percentage printed last, in hundredths; none yet.
    Percent(Cell<Option<u64>>),
    Bar(ProgressBar),
}

impl Progress {
    /// Starts at nothing done; `wanted` is the user's `-p`.
    pub(crate) fn start(wanted: bool, total: u64) -> Progress {
        let shown = match wanted {
            false => Shown::Nothing,
            true if std::io::stdout().is_terminal() => Shown::Bar(bar(total)),
            true => Shown::Percent(Cell::new(None)),
        };
        let progress = Progress {
            total,
            done: Cell::new(0),
            shown,
        };
        progress.show();
        progress
    }

    /// Starts at nothing done, of work that has no unit.
    pub(crate) fn start_share(wanted: bool) -> Progress {
        let progress = Progress::start(wanted, SHARES);
        if let Shown::Bar(bar) = &progress.shown {
            bar.set_style(style("{bar:40} {percent:>3}%  {eta}"));
        }
        progress
    }

    /// Shows which part of the work is done; never less than before.
    pub(crate) fn set_share(&self, done: u64, total: u64) {
        let share = u128::from(done) * u128::from(SHARES) / u128::from(total.max(1));
        let share = u64::try_from(share).unwrap_or(SHARES).min(SHARES);
        self.done.set(self.done.get().max(share));
        self.show();
    }

    /// Adds what was done since.
    pub(crate) fn add(&self, bytes: u64) {
        self.done
            .set(self.done.get().saturating_add(bytes).min(self.total));
        self.show();
    }

    /// Shows that all is done.
    pub(crate) fn finish(&self) {
        self.done.set(self.total);
        if let Shown::Percent(last) = &self.shown {
            // The end is told also when the last step told it.
            last.set(None);
        }
        self.show();
        match &self.shown {
            Shown::Nothing => {}
            Shown::Percent(_) => outln!(),
            Shown::Bar(bar) => bar.finish(),
        }
    }

    fn show(&self) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_position(self.done.get()),
            Shown::Percent(last) => {
                let share = match self.total {
                    0 => 10_000,
                    total => {
                        u64::try_from(u128::from(self.done.get()) * 10_000 / u128::from(total))
                            .unwrap_or(10_000)
                    }
                };
                let is_news = match last.get() {
                    None => true,
                    // Less than one in a hundred is told with what follows.
                    Some(told) => share > told + 100 || share == 10_000 && told != 10_000,
                };
                if is_news {
                    last.set(Some(share));
                    out!("    ({:.2}/100%)\r", as_float(share) / 100.0);
                    // A closed pipe shows when the results are printed.
                    std::io::stdout().flush().ok();
                }
            }
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let template = "{bar:40} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout())
        .with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}
