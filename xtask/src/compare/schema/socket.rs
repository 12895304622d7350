//! Commands a second over a server's Unix socket: one thread writes, another counts replies.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Side;
use crate::compare::measure::{Cost, Server};
use crate::compare::work::await_listener;

const COMMANDS: u32 = 100_000;
/// A server that does nothing for so long will not do more.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that takes the options of QEMU's daemon for a monitor; `path` is its socket's.
pub(super) fn side(mut command: Command, path: PathBuf) -> Side<'static> {
    command.arg("--chardev").arg(format!(
        "socket,id=monitor,path={},server=on,wait=off",
        path.display()
    ));
    command.args(["--monitor", "chardev=monitor"]);
    Box::new(move || {
        std::fs::remove_file(&path).ok();
        let mut server = Server::start(&mut command)?;
        await_listener(&mut server, &path)?;
        let client = Client::open(&path).map_err(|error| format!("QMP: {error}"))?;
        let (start, before) = (Instant::now(), server.cpu_seconds()?);
        client
            .ask(COMMANDS)
            .map_err(|error| format!("QMP: {error}"))?;
        Ok(Cost {
            amount: f64::from(COMMANDS),
            seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: server.cpu_seconds()? - before,
            max_rss_mib: server.max_rss_mib()?,
            file_mib: 0.0,
            guest_share: 0.0,
        })
    })
}

struct Client {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Client {
    /// Connects and negotiates.
    fn open(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let replies = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut client = Self { stream, replies };
        client.reply("\"QMP\"")?;
        client
            .stream
            .write_all(b"{\"execute\": \"qmp_capabilities\"}\n")?;
        client.reply("\"return\"")?;
        Ok(client)
    }

    /// Sends all commands without waiting; each must be answered well and in order.
    fn ask(mut self, count: u32) -> std::io::Result<()> {
        let stream = self.stream.try_clone()?;
        let writer = std::thread::spawn(move || {
            let mut out = BufWriter::with_capacity(1 << 16, stream);
            for id in 0..count {
                writeln!(out, "{{\"execute\": \"query-version\", \"id\": {id}}}")?;
            }
            out.flush()
        });
        for id in 0..count {
            self.reply(&format!("\"id\": {id}"))?;
        }
        writer
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the writer panicked")))
    }

    /// Reads a line, which must hold this and tell no error.
    fn reply(&mut self, wanted: &str) -> std::io::Result<()> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        if line.contains(wanted) && !line.contains("\"error\"") {
            return Ok(());
        }
        Err(std::io::Error::other(format!("no {wanted} in {line:?}")))
    }
}
