//! `jobs`: follows the jobs of a daemon until they end.
//!
//! Progress is asked for (`query-block-jobs`) a few times a second, since no event tells it; the end of
//! a job is told by its event, which is shown at once. Invariant: a job is shown until the server does
//! not know it any more. Not here: what a job is (`job.rs`), how it looks (`show.rs`).

mod job;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use block_schema::runtime::RawEvent;
use block_schema::{Object, Value};

use crate::qmp::server::Server;
use crate::report::{Failure, Outcome, out, outln};

use job::{Job, Pace};
use show::Shown;

/// How often progress is asked for.
const INTERVAL: Duration = Duration::from_millis(250);

/// Follow the jobs of a daemon: how far, how fast, how long still
///
/// A bar for each job at a terminal, a line for each change elsewhere. Ends when the last job has ended;
/// the exit code is 1 if one of them failed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print a table of the jobs there are, and leave
    #[arg(long, conflicts_with = "follow")]
    once: bool,
    /// Go on when no job is left, and wait for others
    #[arg(long)]
    follow: bool,
    /// human: for people; json: a line for each change of a job and each event
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "human")]
    output: crate::opts::output::Output,
    /// The daemon's QMP socket
    #[arg(value_name = "SOCKET")]
    socket: String,
}

pub(crate) fn run(args: Args) -> Outcome {
    use crate::opts::output::Output;
    let server = Server::connect(&args.socket, false)?;
    let jobs = ask(&server)?;
    if args.once {
        match args.output {
            Output::Human if jobs.is_empty() => outln!("There are no jobs."),
            Output::Human => out!("{}", show::table(&jobs)),
            Output::Json => {
                for job in &jobs {
                    outln!("{}", job.to_value(None).to_ascii_json());
                }
            }
        }
        return Ok(0);
    }
    let shown = match args.output {
        Output::Json => Shown::Json(BTreeMap::new()),
        Output::Human if std::io::stdout().is_terminal() => Shown::bars(),
        Output::Human => Shown::Lines(BTreeMap::new()),
    };
    let mut followed = Followed {
        shown,
        paces: BTreeMap::new(),
        failed: false,
    };
    if jobs.is_empty() && args.output == Output::Human && !args.follow {
        outln!("There are no jobs.");
    }
    follow(&server, &mut followed, jobs, args.follow)?;
    Ok(u8::from(followed.failed))
}

fn ask(server: &Server) -> Result<Vec<Job>, Failure> {
    let reply = server.execute("query-block-jobs", Object::new())?;
    let jobs = reply.map_err(|error| Failure::new(error.to_string()))?;
    Ok(jobs
        .as_array()
        .unwrap_or_default()
        .iter()
        .map(Job::from)
        .collect())
}

fn follow(
    server: &Server,
    followed: &mut Followed,
    mut jobs: Vec<Job>,
    for_ever: bool,
) -> Result<(), Failure> {
    loop {
        // What a job's end says has come before the answer that it is gone.
        while let Some(event) = server.next_event(Duration::ZERO)? {
            followed.hear(&event);
        }
        followed.update(&jobs, Instant::now());
        if !for_ever && jobs.iter().all(Job::is_over) {
            return Ok(());
        }
        if let Some(event) = server.next_event(INTERVAL)? {
            followed.hear(&event);
        }
        jobs = ask(server)?;
    }
}

/// What was shown so far.
struct Followed {
    shown: Shown,
    /// By job that was there when last asked.
    paces: BTreeMap<String, Pace>,
    /// Whether one of them failed.
    failed: bool,
}

impl Followed {
    fn update(&mut self, jobs: &[Job], now: Instant) {
        let Followed {
            shown,
            paces,
            failed,
        } = self;
        paces.retain(|id, _| {
            let is_there = jobs.iter().any(|job| job.id == *id);
            if !is_there {
                shown.gone(id);
            }
            is_there
        });
        for job in jobs {
            let pace = paces.entry(job.id.clone()).or_default();
            pace.note(now, job.done);
            *failed |= job.is_over() && job.error.is_some();
            shown.job(job, pace.rate());
        }
    }

    fn hear(&mut self, event: &RawEvent) {
        let is_of_jobs = event.name.starts_with("BLOCK_JOB_") || event.name.starts_with("JOB_");
        if !is_of_jobs {
            return;
        }
        let error = event.data.get("error").and_then(Value::as_str);
        self.failed |= event.name == "BLOCK_JOB_COMPLETED" && error.is_some();
        self.shown.event(event);
    }
}
