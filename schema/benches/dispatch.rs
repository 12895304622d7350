//! How many small commands does one core answer a second? Bytes in, value, checks, typed arguments,
//! the command's own work (none), typed answer, bytes out. Commands a second of one core's time.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block_schema::types::{BlockExportInfo, BlockExportType, VersionInfo, VersionInfoQemu};
use block_schema::{Error, JsonStream, Session, answer, commands, server};
use rustix::time::{ClockId, clock_gettime};

const COMMANDS: usize = 2_000_000;
/// Commands that come in one read.
const BATCH: usize = 100;

struct Daemon;

impl server::Common for Daemon {
    async fn query_version(&self, _: commands::QueryVersion) -> Result<VersionInfo, Error> {
        let qemu = VersionInfoQemu {
            major: 10,
            minor: 0,
            micro: 2,
        };
        Ok(VersionInfo {
            qemu,
            package: "example 1.0".to_owned(),
        })
    }
}

impl server::BlockCore for Daemon {
    async fn block_resize(&self, arguments: commands::BlockResize) -> Result<(), Error> {
        match arguments.size {
            0 => Err(Error::generic("nothing")),
            _ => Ok(()),
        }
    }
}

impl server::Graph for Daemon {}

impl server::Jobs for Daemon {}

impl server::Objects for Daemon {}

impl server::Control for Daemon {
    async fn query_block_exports(
        &self,
        _: commands::QueryBlockExports,
    ) -> Result<Vec<BlockExportInfo>, Error> {
        Ok(vec![BlockExportInfo {
            id: "export0".to_owned(),
            r#type: BlockExportType::Nbd,
            node_name: "disk0".to_owned(),
            shutting_down: false,
        }])
    }
}

fn measure(name: &str, command: &str) {
    let input = format!("{command}\r\n").repeat(BATCH);
    let session = Session {
        negotiated: true,
        oob: false,
    };
    let mut stream = JsonStream::new();
    let mut replies = 0;
    let start = cpu_time();
    for _ in 0..COMMANDS / BATCH {
        let mut out = String::new();
        for message in stream.feed(input.as_bytes()) {
            let reply = pin!(answer(&Daemon, session, message));
            match reply.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(reply)) => reply.write_ascii_json(&mut out),
                Poll::Ready(None) | Poll::Pending => panic!("{command} has no answer"),
            }
            out.push_str("\r\n");
        }
        replies += out.lines().filter(|line| line.contains("return")).count();
    }
    assert_eq!(replies, COMMANDS);
    let nanoseconds = (cpu_time() - start).as_nanos();
    let each = nanoseconds / COMMANDS as u128;
    println!(
        "{name}_ns: {each}, {} a second",
        1_000_000_000 / each.max(1)
    );
}

/// What this thread has used of its core: other programs do not count.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("time since the start is positive")
}

fn main() {
    measure("query_version", r#"{"execute": "query-version", "id": 1}"#);
    measure(
        "query_block_exports",
        r#"{"execute": "query-block-exports", "id": "a1"}"#,
    );
    measure(
        "block_resize",
        r#"{"execute": "block_resize", "arguments": {"node-name": "disk0", "size": 1048576}, "id": 7}"#,
    );
}
