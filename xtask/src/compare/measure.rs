//! What a process cost: time, processor time, memory.
//!
//! The kernel counts what the parent had at the spawn into a child's maximum, so that memory below
//! this chore's own (a few MiB) does not show.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use wait4::Wait4;

/// What one run did, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Work done, in the row's unit without its "a second".
    pub(super) amount: f64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) max_rss_mib: f64,
    /// The file that came out of it; 0 where its length is not the point.
    pub(super) file_mib: f64,
    /// What a guest did meanwhile, of what it does alone; 0 where there is none.
    pub(super) guest_share: f64,
}

impl Cost {
    pub(super) fn per_second(&self) -> f64 {
        self.amount / self.seconds
    }

    pub(super) fn per_cpu_second(&self) -> f64 {
        self.amount / self.cpu_seconds
    }
}

/// A process that has ended well.
pub(super) struct Ended {
    pub(super) stdout: String,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) max_rss_mib: f64,
}

impl Ended {
    pub(super) fn cost(&self, amount: f64) -> Cost {
        Cost {
            amount,
            seconds: self.seconds,
            cpu_seconds: self.cpu_seconds,
            max_rss_mib: self.max_rss_mib,
            file_mib: 0.0,
            guest_share: 0.0,
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// What it says when it fails.
pub(super) fn run(command: &mut Command) -> Result<Ended, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let describe = |error: std::io::Error| format!("{name}: {error}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().map_err(describe)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stderr = std::thread::spawn(move || read_all(stderr));
    let stdout = read_all(stdout);
    let end = child.wait4().map_err(describe)?;
    let seconds = start.elapsed().as_secs_f64();
    let stderr = stderr.join().unwrap_or_default();
    if !end.status.success() {
        return Err(format!("{name}: {}: {}", end.status, stderr.trim()));
    }
    let usage = end.rusage;
    Ok(Ended {
        stdout,
        seconds,
        cpu_seconds: (usage.utime + usage.stime).as_secs_f64(),
        max_rss_mib: usage.maxrss as f64 / f64::from(1 << 20),
    })
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // A program that closes its output early still tells by its status how it ended.
    pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server, killed when dropped.
pub(super) struct Server {
    child: Child,
    /// What it complains about is wanted only when it does not come up.
    name: String,
}

impl Server {
    pub(super) fn start(command: &mut Command) -> Result<Server, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(Server { child, name })
    }

    /// Fails when the server has ended.
    pub(super) fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended: {status}", self.name)),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// That it did not end well.
    pub(super) fn await_end(mut self) -> Result<(), String> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} ended: {status}", self.name)),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Processor seconds of all its threads so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64, String> {
        let stat = self.proc_file("stat")?;
        // The name, in parentheses, may hold anything; fields 14 and 15 follow it.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        match (ticks.next(), ticks.next()) {
            (Some(Ok(user)), Some(Ok(system))) => {
                Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
            }
            _ => Err(format!("cannot read the times in {stat}")),
        }
    }

    /// The most memory it had at once.
    pub(super) fn max_rss_mib(&self) -> Result<f64, String> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
            .ok_or_else(|| format!("no VmHWM in {status}"))
    }

    fn proc_file(&self, name: &str) -> Result<String, String> {
        let path = Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}
