#![expect(
    clippy::cast_possible_truncation,
    reason = "the disks of these tests are small"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_core::queue::block_on_thread;

use super::*;
use crate::nbd::client_handshake;
use crate::nbd::layout::option;
use crate::nbd::option::put_option;
use crate::nbd::reply::{self, ReplyHeader};
use crate::nbd::request::Header;
use crate::nbd::rig::{Rig, bytes_at, pattern, run_tool};

const DISK_LEN: u64 = 8 << 20;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;

struct Served {
    server: NbdServer,
    file: File,
    rig: Rig,
}

impl Served {
    /// One writable export "disk" on two queues.
    fn new(change: impl FnOnce(&mut ServerOptions)) -> Served {
        let rig = Rig::new(2);
        let (backend, file) = rig.disk("disk", DISK_LEN);
        let mut options = ServerOptions::new(Address::Unix(rig.dir.path("nbd")));
        change(&mut options);
        let server = NbdServer::start(options, rig.queues.clone()).unwrap();
        let name = "disk".to_owned();
        let description = "a test disk".to_owned();
        server
            .add_export(ExportOptions {
                name,
                description,
                backend,
                writethrough: false,
                bitmaps: Vec::new(),
            })
            .unwrap();
        Served { server, file, rig }
    }

    fn uri(&self, export: &str) -> String {
        match self.server.address() {
            BoundAddress::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            BoundAddress::Inet(address) => format!("nbd://{address}/{export}"),
            BoundAddress::Given => unreachable!("the rig binds"),
        }
    }

    fn socket(&self) -> UnixStream {
        let stream = UnixStream::connect(self.rig.dir.path("nbd")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn client(&self) -> RawClient {
        RawClient::go(self.socket(), "disk")
    }

    fn no_client_left(&self) {
        let start = Instant::now();
        while self.server.connections() > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "a connection stays"
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        block_on_thread(self.server.stop());
    }
}

/// A client that sends what it is told.
struct RawClient {
    stream: UnixStream,
    facts: client_handshake::Facts,
}

#[derive(Debug, PartialEq)]
enum Reply {
    Simple(u64, u32),
    Chunk {
        cookie: u64,
        kind: u16,
        last: bool,
        payload: Vec<u8>,
    },
    Closed,
}

fn read_exact(stream: &mut UnixStream, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    match stream.read_exact(&mut bytes) {
        Ok(()) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

impl RawClient {
    fn go(mut stream: UnixStream, export: &str) -> RawClient {
        let mut handshake = client_handshake::Handshake::new(export);
        let (mut held, mut out) = (Vec::new(), Vec::new());
        loop {
            let (taken, step) = handshake.advance(&held, &mut out).unwrap();
            held.drain(..taken);
            stream.write_all(&out).unwrap();
            out.clear();
            if let client_handshake::Step::Ready(facts) = step {
                assert!(held.is_empty(), "the server speaks only when asked");
                return RawClient { stream, facts };
            }
            if taken == 0 {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).unwrap();
                assert!(count > 0, "closed in the handshake");
                held.extend_from_slice(&bytes[..count]);
            }
        }
    }

    fn send(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) {
        let header = Header {
            flags,
            command,
            cookie: 0x1234_5678_9abc,
            offset,
            len,
        };
        self.stream
            .write_all(&[&header.to_bytes(), payload].concat())
            .unwrap();
    }

    fn reply(&mut self) -> Reply {
        let Some(mut head) = read_exact(&mut self.stream, 16) else {
            return Reply::Closed;
        };
        if head[..4] == crate::nbd::layout::STRUCTURED_REPLY_MAGIC.to_be_bytes() {
            head.extend(read_exact(&mut self.stream, 4).unwrap());
        }
        match ReplyHeader::parse(&head).unwrap().unwrap().0 {
            ReplyHeader::Simple { cookie, error } => Reply::Simple(cookie, error),
            ReplyHeader::Chunk {
                cookie,
                position,
                kind,
                len,
            } => Reply::Chunk {
                cookie,
                kind,
                last: position == reply::Position::Last,
                payload: read_exact(&mut self.stream, len as usize).unwrap(),
            },
        }
    }

    /// Sends a request and says what came back, without the cookie and without read data.
    fn ask(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> String {
        self.send(command, flags, offset, len, payload);
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut text = String::new();
        loop {
            let (part, last) = match self.reply() {
                Reply::Closed => ("closed".to_owned(), true),
                Reply::Simple(_, error) => (format!("simple {error}"), true),
                Reply::Chunk {
                    kind,
                    payload,
                    last,
                    ..
                } => (show_chunk(kind, &payload), last),
            };
            text = if text.is_empty() {
                part
            } else {
                format!("{text}, {part}")
            };
            if last {
                return text;
            }
        }
    }
}

fn show_chunk(kind: u16, payload: &[u8]) -> String {
    match kind {
        0 => "none".to_owned(),
        1 => {
            let offset = u64::from_be_bytes(payload[..8].try_into().unwrap());
            let data = &payload[8..];
            let same = data.iter().all(|byte| *byte == data[0]);
            let what = if same {
                format!("{:02x}", data[0])
            } else {
                "mixed".to_owned()
            };
            format!("data {offset}+{} {what}", data.len())
        }
        2 => {
            let (offset, len) = reply::parse_hole(payload).unwrap();
            format!("hole {offset}+{len}")
        }
        5 => {
            let (_, extents) = reply::parse_block_status(payload).unwrap();
            let extents: Vec<_> = extents
                .iter()
                .map(|e| format!("{}:{}", e.len, e.flags))
                .collect();
            format!("extents {}", extents.join(" "))
        }
        kind => {
            let (error, message) = reply::parse_error(kind, payload).unwrap();
            format!("error {error} {message}")
        }
    }
}

#[test]
fn reads_what_was_written_and_keeps_neighbours() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    assert_eq!(client.facts.size, DISK_LEN);
    let data = [0xaa; 700];
    assert_eq!(client.ask(WRITE, 0, 1000, 700, &data), "simple 0");
    assert_eq!(
        bytes_at(&served.file, 999, 702),
        [&[0][..], &data, &[0]].concat()
    );
    assert_eq!(client.ask(READ, 0, 1000, 700, &[]), "data 1000+700 aa");
    assert_eq!(client.ask(READ, 0, 999, 2, &[]), "data 999+2 mixed");
    assert_eq!(client.ask(FLUSH, 0, 0, 0, &[]), "simple 0");
    assert_eq!(client.ask(WRITE, 1, 0, 4, b"fua!"), "simple 0");
    assert_eq!(bytes_at(&served.file, 0, 4), b"fua!");
}

#[test]
fn requests_of_no_byte_are_answered() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    assert_eq!(client.ask(READ, 0, DISK_LEN, 0, &[]), "none");
    for command in [WRITE, TRIM, ZEROES, CACHE] {
        assert_eq!(client.ask(command, 0, 5, 0, &[]), "simple 0");
    }
    assert_eq!(
        client.ask(STATUS, 0, 0, 0, &[]),
        "error 22 block status of no byte"
    );
}

#[test]
fn zeroes_trims_and_shows_what_is_allocated() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    let data = pattern(256 << 10, 1);
    assert_eq!(client.ask(WRITE, 0, 64 << 10, 256 << 10, &data), "simple 0");
    assert_eq!(client.ask(ZEROES, 0, 128 << 10, 64 << 10, &[]), "simple 0");
    assert_eq!(client.ask(TRIM, 1, 256 << 10, 64 << 10, &[]), "simple 0");
    let all = "extents 65536:3 65536:0 65536:3 65536:0 8126464:3";
    assert_eq!(client.ask(STATUS, 0, 0, DISK_LEN as u32, &[]), all);
    assert_eq!(
        client.ask(STATUS, 8, 0, DISK_LEN as u32, &[]),
        "extents 65536:3"
    );
    assert_eq!(
        client.ask(STATUS, 8, 64 << 10, 1 << 10, &[]),
        "extents 1024:0"
    );
    let sparse = "hole 0+65536, data 65536+65536 mixed, hole 131072+65536, \
                  data 196608+65536 mixed, hole 262144+65536";
    assert_eq!(client.ask(READ, 0, 0, 320 << 10, &[]), sparse);
    assert_eq!(
        client.ask(READ, 4, 0, 320 << 10, &[]),
        "data 0+327680 mixed"
    );
    let mut model = data;
    model[64 << 10..128 << 10].fill(0);
    model[192 << 10..].fill(0);
    assert_eq!(bytes_at(&served.file, 64 << 10, 256 << 10), model);
    // With NO_HOLE the range stays allocated.
    assert_eq!(client.ask(ZEROES, 2, 64 << 10, 64 << 10, &[]), "simple 0");
    assert_eq!(
        bytes_at(&served.file, 64 << 10, 64 << 10),
        vec![0; 64 << 10]
    );
}

#[test]
fn illegal_requests_get_errors_and_the_connection_goes_on() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    let behind = "error 22 request ends behind the export";
    assert_eq!(client.ask(READ, 0, DISK_LEN, 1, &[]), behind);
    assert_eq!(client.ask(READ, 0, u64::MAX - 1, 5, &[]), behind);
    let full = "error 28 request ends behind the export";
    assert_eq!(
        client.ask(WRITE, 0, DISK_LEN - 1, 100_000, &vec![1; 100_000]),
        full
    );
    assert_eq!(
        bytes_at(&served.file, DISK_LEN - 1, 1),
        [0],
        "nothing of it was written"
    );
    let flag = "error 22 flag is not known for this command";
    assert_eq!(client.ask(WRITE, 0x40, 0, 3, b"abc"), flag);
    assert_eq!(client.ask(42, 0, 0, 1, &[]), "error 22 command is unknown");
    let long = "error 22 length is above the maximum";
    assert_eq!(client.ask(READ, 0, 0, 0x0200_0001, &[]), long);
    assert_eq!(client.ask(READ, 0, 0, 512, &[]), "data 0+512 00");
    // The payload of a write that is too long cannot be waited for.
    client.send(WRITE, 0, 0, 0x0200_0001, &[]);
    assert_eq!(client.answer(), "error 22 payload is above the maximum");
    assert_eq!(client.answer(), "closed");
}

#[test]
fn read_only_exports_refuse_writes() {
    let served = Served::new(|_| {});
    let path = served.rig.dir.path("disk");
    let backend = served.rig.node_of("ro", &path, true);
    let options = ExportOptions {
        name: "ro".to_owned(),
        description: String::new(),
        backend,
        writethrough: false,
        bitmaps: Vec::new(),
    };
    served.server.add_export(options).unwrap();
    let mut client = RawClient::go(served.socket(), "ro");
    assert_eq!(client.facts.flags & 2, 2);
    assert_eq!(
        client.ask(WRITE, 0, 0, 3, b"abc"),
        "error 1 export is read-only"
    );
    assert_eq!(
        client.ask(ZEROES, 0, 0, 3, &[]),
        "error 1 export is read-only"
    );
    assert_eq!(
        client.ask(TRIM, 0, 0, 3, &[]),
        "error 1 export is read-only"
    );
    assert_eq!(client.ask(READ, 0, 0, 3, &[]), "data 0+3 00");
    assert_eq!(client.ask(FLUSH, 0, 0, 0, &[]), "simple 0");
}

#[test]
fn clients_without_structured_replies_get_simple_ones() {
    let served = Served::new(|_| {});
    let mut stream = served.socket();
    let mut out = 3_u32.to_be_bytes().to_vec();
    put_option(&mut out, option::EXPORT_NAME, &[b"disk"]);
    // A request right behind the name, before the answer is there.
    let header = Header {
        flags: 0,
        command: READ,
        cookie: 7,
        offset: 0,
        len: 512,
    };
    out.extend(header.to_bytes());
    stream.write_all(&out).unwrap();
    let answer = read_exact(&mut stream, 18 + 10 + 16 + 512).unwrap();
    assert_eq!(answer[18..26], DISK_LEN.to_be_bytes());
    assert_eq!(answer[28..44], *reply::simple(7, 0));
    let header = Header {
        flags: 0,
        command: STATUS,
        cookie: 8,
        offset: 0,
        len: 512,
    };
    stream.write_all(&header.to_bytes()).unwrap();
    assert_eq!(
        read_exact(&mut stream, 16).unwrap(),
        reply::simple(8, 22).to_vec()
    );
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    let data = pattern(DISK_LEN as usize, 3);
    let count: u64 = 500;
    let len: u32 = 4096;
    let mut out = Vec::new();
    for cookie in 0..count {
        let offset = cookie * u64::from(len);
        out.extend(
            Header {
                flags: 0,
                command: WRITE,
                cookie,
                offset,
                len,
            }
            .to_bytes(),
        );
        out.extend(&data[offset as usize..][..len as usize]);
    }
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&out).unwrap());
    let mut seen: Vec<u64> = (0..count)
        .map(|_| match client.reply() {
            Reply::Simple(cookie, 0) => cookie,
            other => panic!("{other:?}"),
        })
        .collect();
    sender.join().unwrap();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..count));
    let written = (count * u64::from(len)) as usize;
    assert_eq!(bytes_at(&served.file, 0, written), data[..written]);
    let mut out = Vec::new();
    for cookie in 0..count {
        let offset = cookie * u64::from(len);
        out.extend(
            Header {
                flags: 0,
                command: READ,
                cookie,
                offset,
                len,
            }
            .to_bytes(),
        );
    }
    client.stream.write_all(&out).unwrap();
    for _ in 0..count {
        let Reply::Chunk {
            cookie,
            kind: 1,
            last: true,
            payload,
        } = client.reply()
        else {
            panic!("data was read")
        };
        let offset = cookie * u64::from(len);
        assert_eq!(payload[..8], offset.to_be_bytes());
        assert_eq!(payload[8..], data[offset as usize..][..len as usize]);
    }
}

#[test]
fn bad_magic_cuts_the_connection() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    client.stream.write_all(&[0; 28]).unwrap();
    assert_eq!(client.answer(), "closed");
    let mut stream = served.socket();
    stream
        .write_all(&[&3_u32.to_be_bytes()[..], &[0; 16]].concat())
        .unwrap();
    read_exact(&mut stream, 18).unwrap();
    assert_eq!(read_exact(&mut stream, 1), None);
    served.no_client_left();
}

#[test]
fn stalled_handshake_is_cut() {
    let served = Served::new(|o| o.handshake_max = Some(Duration::from_millis(50)));
    let mut stream = served.socket();
    read_exact(&mut stream, 18).unwrap();
    stream.write_all(&[0, 0]).unwrap();
    assert_eq!(read_exact(&mut stream, 1), None);
    // Who has chosen an export is not cut: the timer is gone.
    let mut client = served.client();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(client.ask(READ, 0, 0, 1, &[]), "data 0+1 00");
}

#[test]
fn option_flood_is_cut() {
    let served = Served::new(|_| {});
    let mut stream = served.socket();
    let mut out = 3_u32.to_be_bytes().to_vec();
    (0..3000).for_each(|_| put_option(&mut out, 77, &[]));
    // The server may close before it has read all of it.
    stream.write_all(&out).ok();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).ok();
    assert!(
        answers.len() < 1100 * (20 + 40),
        "{} bytes of answers",
        answers.len()
    );
    served.no_client_left();
}

#[test]
fn write_cut_in_its_payload_changes_nothing() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    client.send(WRITE, 0, 0, 1 << 20, &[0xee; 100_000]);
    drop(client);
    served.no_client_left();
    assert_eq!(bytes_at(&served.file, 0, 1 << 20), vec![0; 1 << 20]);
}

#[test]
fn client_that_stops_reading_blocks_only_itself() {
    let served = Served::new(|_| {});
    let mut idle = served.client();
    let header = Header {
        flags: 0,
        command: READ,
        cookie: 1,
        offset: 0,
        len: 1 << 20,
    };
    served.file.write_all_at(&pattern(1 << 20, 9), 0).unwrap();
    // Far more than the budget and the socket hold.
    idle.stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    for _ in 0..20_000 {
        if idle.stream.write_all(&header.to_bytes()).is_err() {
            break;
        }
    }
    let mut others: Vec<RawClient> = (0..4).map(|_| served.client()).collect();
    for other in &mut others {
        assert_eq!(other.ask(READ, 0, 0, 512, &[]), "data 0+512 mixed");
    }
    // A drain does not wait for it either, and removal ends it.
    let root = served.rig.layer.graph().find("disk").unwrap();
    let root = served.rig.layer.graph().entry(root).node.id();
    block_on_thread(async {
        drop(served.rig.layer.drain(&[root]).await);
        let busy = served.server.remove_export("disk", RemoveMode::Safe).await;
        assert!(matches!(busy, Err(ServerError::InUse { .. })));
        served
            .server
            .remove_export("disk", RemoveMode::Hard)
            .await
            .unwrap();
    });
    served.no_client_left();
    let gone = block_on_thread(served.server.remove_export("disk", RemoveMode::Safe));
    assert!(matches!(gone, Err(ServerError::NotFound { .. })));
}

#[test]
fn more_clients_than_allowed_wait_their_turn() {
    let served = Served::new(|o| o.max_connections = Some(1));
    let client = served.client();
    assert_eq!(
        client.facts.flags & (1 << 8),
        0,
        "multi-conn makes no sense for one"
    );
    let mut second = served.socket();
    second
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut byte = [0];
    assert!(second.read(&mut byte).is_err(), "no greeting yet");
    drop(client);
    second
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(RawClient::go(second, "disk").facts.size, DISK_LEN);
}

#[test]
fn disconnect_finishes_what_is_in_flight() {
    let served = Served::new(|_| {});
    let mut client = served.client();
    let data = pattern(1 << 20, 5);
    client.send(WRITE, 0, 0, 1 << 20, &data);
    client.send(DISC, 0, 0, 0, &[]);
    assert_eq!(client.answer(), "simple 0");
    assert_eq!(client.answer(), "closed");
    assert_eq!(bytes_at(&served.file, 0, 1 << 20), data);
}

#[test]
fn exports_come_and_go() {
    let served = Served::new(|_| {});
    let client = served.client();
    let status = |connections| ExportStatus {
        name: "disk".to_owned(),
        connections,
        shutting_down: false,
    };
    assert_eq!(served.server.exports(), [status(1)]);
    drop(client);
    served.no_client_left();
    assert_eq!(served.server.exports(), [status(0)]);
    let (backend, _) = served.rig.disk("second", 1 << 20);
    let named = |name: &str| ExportOptions {
        name: name.to_owned(),
        description: String::new(),
        backend: Arc::clone(&backend),
        writethrough: true,
        bitmaps: Vec::new(),
    };
    let taken = served.server.add_export(named("disk"));
    assert!(matches!(taken, Err(ServerError::Exists { .. })));
    let long = served.server.add_export(named(&"x".repeat(5000)));
    assert!(matches!(long, Err(ServerError::TooLong { .. })));
    served.server.add_export(named("")).unwrap();
    assert_eq!(RawClient::go(served.socket(), "").facts.size, 1 << 20);
    block_on_thread(served.server.stop());
    assert!(UnixStream::connect(served.rig.dir.path("nbd")).is_err());
    assert!(!served.rig.dir.path("nbd").exists());
    assert!(matches!(
        served.server.add_export(named("late")),
        Err(ServerError::Stopping)
    ));
}

/// A server with the disk's first half full of bytes, on each kind of address.
fn on_both_addresses(test: impl Fn(&Served)) {
    let tcp = |o: &mut ServerOptions| {
        o.address = Address::Inet {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
    };
    for served in [Served::new(|_| {}), Served::new(tcp)] {
        served
            .file
            .write_all_at(&pattern(DISK_LEN as usize / 2, 11), 0)
            .unwrap();
        test(&served);
    }
}

#[track_caller]
fn check_tool(program: &str, args: &[&str], want: &[&str]) {
    let Some((success, text)) = run_tool(program, args) else {
        return;
    };
    assert!(success, "{program} {args:?}: {text}");
    for part in want {
        assert!(
            text.contains(part),
            "{program} {args:?} says no '{part}': {text}"
        );
    }
}

#[test]
fn nbdinfo_sees_the_export() {
    on_both_addresses(|served| {
        let uri = served.uri("disk");
        let want = [
            "export-size: 8388608",
            "protocol: newstyle-fixed without TLS, using structured packets",
            "can_multi_conn: true",
            "can_fast_zero: true",
            "base:allocation",
            "a test disk",
        ];
        check_tool("nbdinfo", &[&uri], &want);
        let map = ["4194304    0  data", "4194304    3  hole,zero"];
        check_tool("nbdinfo", &["--map", &uri], &map);
        check_tool(
            "nbdinfo",
            &["--list", &served.uri("")],
            &["export=\"disk\""],
        );
        if let Some((success, text)) = run_tool("nbdinfo", &[&served.uri("none")]) {
            assert!(!success && text.contains("for export: none"), "{text}");
        }
    });
}

#[test]
fn nbdcopy_reads_and_writes_the_export() {
    on_both_addresses(|served| {
        let uri = served.uri("disk");
        let copy = served.rig.dir.path("copy");
        let copy_name = copy.to_str().unwrap();
        check_tool("nbdcopy", &[&uri, copy_name], &[]);
        let Ok(mut bytes) = std::fs::read(&copy) else {
            return;
        };
        assert_eq!(bytes, bytes_at(&served.file, 0, DISK_LEN as usize));
        bytes.rotate_left(12_345);
        std::fs::write(&copy, &bytes).unwrap();
        check_tool("nbdcopy", &["--flush", copy_name, &uri], &[]);
        assert_eq!(bytes_at(&served.file, 0, DISK_LEN as usize), bytes);
    });
}

#[test]
fn qemu_reads_and_writes_the_export() {
    on_both_addresses(|served| {
        let uri = served.uri("disk");
        let io = |commands: &[&str], want: &[&str]| {
            let mut args = vec!["-f", "raw"];
            commands
                .iter()
                .for_each(|command| args.extend(["-c", command]));
            args.push(&uri);
            check_tool("qemu-io", &args, want);
        };
        let write = "write -P 0x5a 65537 131071";
        io(
            &[write, "read -P 0x5a 65537 131071", "flush"],
            &["wrote 131071/131071"],
        );
        assert_eq!(bytes_at(&served.file, 65537, 131_071), vec![0x5a; 131_071]);
        io(
            &["write -z -u 64k 64k", "discard 1M 1M", "read -P 0 64k 64k"],
            &["read 65536/65536"],
        );
        io(
            &["write -f -P 1 0 512", "read -P 1 0 512"],
            &["wrote 512/512"],
        );
        let map = run_tool("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
        if let Some((_, text)) = map {
            let zeroes = text.matches("\"zero\": true").count();
            assert_eq!(
                zeroes, 3,
                "the zeroes, the discarded MiB, and the tail: {text}"
            );
        }
    });
}

#[test]
fn fio_verifies_random_writes() {
    on_both_addresses(|served| {
        let uri = format!("--uri={}", served.uri("disk"));
        let args = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--size=8M",
            "--iodepth=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--randseed=7",
            "--verify_state_save=0",
        ];
        check_tool("fio", &args, &["err= 0"]);
    });
}
