#![expect(
    clippy::cast_possible_truncation,
    reason = "the disks of these tests are small"
)]

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command as Program};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use block_core::driver::ZeroFlags;
use block_core::queue::block_on_thread;
use block_core::request::Request;
use block_core::request::status::ChainStatus;
use block_core::{Backend, Error, IoBuf, Result};
use block_schema::types::{BlockdevOptions, BlockdevOptionsBranch};

use super::*;
use crate::export::nbd::{Address, ExportOptions, NbdServer, ServerOptions};
use crate::nbd::layout::{STRUCTURED_REPLY_MAGIC, transmission};
use crate::nbd::reply;
use crate::nbd::rig::{Rig, pattern};
use crate::nbd::server_handshake::{Catalog, Handshake, Step};
use crate::nbd::{BlockSize, ExportInfo};

/// A node over an export, and a user of it.
struct Client {
    rig: Rig,
    backend: Arc<Backend>,
}

impl Client {
    fn open(queues: usize, name: &str) -> Result<Client> {
        Client::open_with(queues, name, |_| {})
    }

    fn open_with(
        queues: usize,
        name: &str,
        change: impl FnOnce(&mut BlockdevOptions),
    ) -> Result<Client> {
        let rig = Rig::new(queues);
        let mut options =
            BlockdevOptions::new(BlockdevOptionsBranch::Nbd(parse_filename(name).unwrap()));
        options.node_name = Some("client".to_owned());
        options.discard = Some(block_schema::types::BlockdevDiscardOptions::Unmap);
        change(&mut options);
        let read_only = options.read_only == Some(true);
        let backend = block_on_thread(rig.queues[0].call(move |queue| async move {
            let layer = queue.layer().clone();
            let id = layer.blockdev_add(&queue, options).await?;
            layer.add_backend("", id, read_only).await
        }))??;
        Ok(Client { rig, backend })
    }

    fn request(&self, queue: usize, request: Request) -> Result<IoBuf> {
        block_on_thread(self.rig.queues[queue].request(&self.backend, request))
    }

    fn read(&self, queue: usize, offset: u64, len: usize) -> Result<Vec<u8>> {
        Ok(self
            .request(queue, Request::read(offset, IoBuf::zeroed(len)))?
            .to_vec())
    }

    fn write(&self, queue: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.request(queue, Request::write(offset, IoBuf::copy_of(bytes)))?;
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<ChainStatus> {
        let root = self.backend.root();
        block_on_thread(self.rig.queues[0].call(move |queue| async move {
            let node = queue.layer().node(&queue, root)?;
            node.chain_status(range).await
        }))?
    }

    fn close(&self) -> Result<()> {
        block_on_thread(
            self.rig.queues[0]
                .call(move |queue| async move { queue.layer().close_all(&queue).await }),
        )?
    }
}

/// Our own server over a file of 8 MiB.
struct Ours {
    server: NbdServer,
    file: std::fs::File,
    rig: Rig,
}

impl Ours {
    fn new(change: impl FnOnce(&mut ServerOptions)) -> Ours {
        let rig = Rig::new(2);
        let (backend, file) = rig.disk("disk", 8 << 20);
        let mut options = ServerOptions::new(Address::Unix(rig.dir.path("nbd")));
        change(&mut options);
        let server = NbdServer::start(options, rig.queues.clone()).unwrap();
        let options = ExportOptions {
            name: "disk".to_owned(),
            description: String::new(),
            backend,
            writethrough: false,
            bitmaps: Vec::new(),
        };
        server.add_export(options).unwrap();
        Ours { server, file, rig }
    }

    fn name(&self) -> String {
        format!(
            "nbd+unix:///disk?socket={}",
            self.rig.dir.path("nbd").display()
        )
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        block_on_thread(self.server.stop());
    }
}

/// Reads, writes, zeroes, discards and asks for holes on every queue, against a model.
fn exercise(client: &Client, queues: usize) {
    let mut model = vec![0; 8 << 20];
    let data = pattern(2 << 20, 21);
    for (round, &(offset, len)) in [
        (0, 4096),
        (65_536, 1 << 20),
        (3 << 20, 513),
        ((8 << 20) - 777, 777),
    ]
    .iter()
    .enumerate()
    {
        client.write(round % queues, offset, &data[..len]).unwrap();
        model[offset as usize..][..len].copy_from_slice(&data[..len]);
    }
    let zeroes = ZeroFlags {
        may_unmap: true,
        no_fallback: false,
    };
    client
        .request(0, Request::write_zeroes(131_072, 262_144, zeroes))
        .unwrap();
    model[131_072..][..262_144].fill(0);
    client
        .request(queues - 1, Request::discard(524_288, 65_536))
        .unwrap();
    model[524_288..][..65_536].fill(0);
    client.request(0, Request::flush()).unwrap();
    client.write(0, 5 << 20, b"fua").unwrap();
    model[5 << 20..][..3].copy_from_slice(b"fua");
    for queue in 0..queues {
        assert!(client.read(queue, 0, model.len()).unwrap() == model);
        assert_eq!(
            client.read(queue, 65_535, 3).unwrap(),
            model[65_535..65_538]
        );
    }
    let status = client.status(131_072..8 << 20).unwrap();
    assert_eq!((status.kind, status.len), (StatusKind::Zero, 262_144));
    let status = client.status(65_536..8 << 20).unwrap();
    assert_eq!((status.kind, status.len), (StatusKind::Data, 65_536));
    let outside = client.read(0, (8 << 20) - 1, 2);
    assert!(matches!(outside, Err(Error::OutOfRange { .. })));
}

#[test]
fn client_and_our_server() {
    let ours = Ours::new(|_| {});
    let client = Client::open(2, &ours.name()).unwrap();
    exercise(&client, 2);
    // Each queue has a connection of its own, soon after it asked for one.
    let start = Instant::now();
    while ours.server.connections() != 2 {
        client.read(1, 0, 1).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    client.read(1, 0, 1).unwrap();
    client.close().unwrap();
    while ours.server.connections() != 0 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the goodbye closes both"
        );
        std::thread::yield_now();
    }
    assert!(
        client.read(0, 0, 1).is_err(),
        "a closed node does not connect again"
    );
}

#[test]
fn client_over_tcp_with_one_connection() {
    let ours = Ours::new(|o| {
        o.address = Address::Inet {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        o.max_connections = Some(1);
    });
    let crate::export::nbd::BoundAddress::Inet(address) = ours.server.address() else {
        panic!("bound to a port")
    };
    let client = Client::open(2, &format!("nbd://{address}/disk")).unwrap();
    exercise(&client, 2);
    assert_eq!(ours.server.connections(), 1);
}

#[test]
fn many_requests_at_once() {
    let ours = Ours::new(|_| {});
    let data = pattern(8 << 20, 5);
    ours.file.write_all_at(&data, 0).unwrap();
    let client = Client::open(2, &ours.name()).unwrap();
    let work = |queue: usize| {
        let backend = Arc::clone(&client.backend);
        client.rig.queues[queue].call(move |queue| async move {
            let slot = queue.attach(&backend);
            let reads: Vec<_> = (0..300_u64)
                .map(|i| {
                    let offset = i * 20_011 % (7 << 20);
                    (
                        offset,
                        queue.request(slot, Request::read(offset, IoBuf::zeroed(9000))),
                    )
                })
                .collect();
            let mut bytes = Vec::new();
            for (offset, read) in reads {
                bytes.push((offset, read.await.unwrap().to_vec()));
            }
            bytes
        })
    };
    let (one, two) = (work(0), work(1));
    for (offset, bytes) in block_on_thread(one)
        .unwrap()
        .into_iter()
        .chain(block_on_thread(two).unwrap())
    {
        assert!(bytes == data[offset as usize..][..9000], "at {offset}");
    }
}

/// A server of another make, ended with the test.
struct QemuNbd(Child);

impl QemuNbd {
    fn start(rig: &Rig, extra: &[&str]) -> Option<(QemuNbd, String)> {
        let socket = rig.dir.path("qemu");
        let disk = rig.dir.path("disk");
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let mut program = Program::new("qemu-nbd");
        program
            .args(["-f", "raw", "-t", "--discard=unmap", "-k"])
            .arg(&socket);
        let child = match program.args(extra).arg(&disk).spawn() {
            Ok(child) => QemuNbd(child),
            Err(error) => {
                println!("skipped: qemu-nbd: {error}");
                return None;
            }
        };
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "qemu-nbd does not listen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Some((child, format!("nbd:unix:{}", socket.display())))
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn client_and_qemu_nbd() {
    for extra in [&["-e", "1"][..], &["-e", "4"]] {
        let rig = Rig::new(1);
        let Some((_server, name)) = QemuNbd::start(&rig, extra) else {
            return;
        };
        let client = Client::open_with(2, &name, |options| {
            // Probing that it listens may still hold the only place.
            let BlockdevOptionsBranch::Nbd(nbd) = &mut options.driver else {
                return;
            };
            nbd.open_timeout = Some(10);
        });
        exercise(&client.unwrap(), 2);
    }
}

#[test]
fn read_only_export_makes_a_read_only_node_when_allowed() {
    let rig = Rig::new(1);
    let Some((_server, name)) = QemuNbd::start(&rig, &["-r", "-e", "4"]) else {
        return;
    };
    let refused = Client::open(1, &name).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "request on write denied without write permission"
    );
    let client = Client::open_with(1, &name, |options| options.read_only = Some(true)).unwrap();
    assert_eq!(client.read(0, 0, 4).unwrap(), [0; 4]);
    assert!(matches!(
        client.write(0, 0, b"x"),
        Err(Error::ReadOnly { .. })
    ));
}

#[test]
fn what_cannot_be_opened_says_why() {
    #[track_caller]
    fn check(name: &str, change: impl FnOnce(&mut BlockdevOptionsNbd), want: &str) {
        let opened = Client::open_with(1, name, |options| {
            if let BlockdevOptionsBranch::Nbd(nbd) = &mut options.driver {
                change(nbd);
            }
        });
        let chain = opened.err().expect("it must not open").chain();
        assert!(chain.contains(want), "{chain}");
    }
    let ours = Ours::new(|_| {});
    let name = ours.name();
    let none = name.replace("/disk?", "/none?");
    check(
        &none,
        |_| {},
        "export 'none' is refused: the server has no such export",
    );
    check(
        "nbd:unix:/nowhere/at/all",
        |_| {},
        "No such file or directory",
    );
    check(
        &name,
        |o| o.tls_creds = Some("tls0".to_owned()),
        "TLS ('tls-creds', 'tls-hostname')",
    );
    check(
        &name,
        |o| o.reconnect_delay = Some(3),
        "connecting again ('reconnect-delay')",
    );
    check(
        &name,
        |o| o.export = Some("x".repeat(5000)),
        "export name too long to send to server",
    );
}

struct OneExport(u16);

impl Catalog for OneExport {
    type Export = ();
    fn find(&self, name: &str) -> Option<(ExportInfo, ())> {
        let info = ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            size: 1 << 20,
            flags: self.0,
            block_size: BlockSize::default(),
            bitmaps: Vec::new(),
        };
        Some((info, ()))
    }
    fn list(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Serves one client: haggles, then answers the first request with what `answer` makes of its
/// cookie, and reads on until the client goes.
fn hostile(
    rig: &Rig,
    answer: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
) -> (String, JoinHandle<()>) {
    let path = rig.dir.path("hostile");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (mut held, mut out) = (Vec::new(), Vec::new());
        let mut handshake = Handshake::new(&mut out);
        let mut bytes = [0; 4096];
        loop {
            let (taken, step) = handshake
                .advance(&held, &mut out, &OneExport(transmission::SEND_FLUSH))
                .unwrap();
            held.drain(..taken);
            stream.write_all(&out).unwrap();
            out.clear();
            match step {
                Step::Transmission(_) => break,
                Step::Answered => {}
                Step::Aborted => return,
                Step::More => {
                    let count = stream.read(&mut bytes).unwrap();
                    held.extend_from_slice(&bytes[..count]);
                }
            }
        }
        while held.len() < 28 {
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0);
            held.extend_from_slice(&bytes[..count]);
        }
        let cookie = u64::from_be_bytes(held[8..16].try_into().unwrap());
        stream.write_all(&answer(cookie)).ok();
        while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    };
    (
        format!("nbd:unix:{}", path.display()),
        std::thread::spawn(serve),
    )
}

#[track_caller]
fn check_hostile(
    request: Request,
    answer: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
    want: &str,
) {
    let rig = Rig::new(1);
    let (name, server) = hostile(&rig, answer);
    let client = Client::open(1, &name).unwrap();
    let chain = client.request(0, request).err().map(|error| error.chain());
    let chain = chain.unwrap_or_else(|| "done".to_owned());
    assert!(
        chain.ends_with(want),
        "'{chain}' does not end with '{want}'"
    );
    let fits = want == "done" || !want.contains("repl");
    if !fits {
        // The connection is cut, and stays so.
        assert!(client.read(0, 0, 1).is_err());
    }
    drop(client);
    server.join().unwrap();
}

fn read() -> Request {
    Request::read(4096, IoBuf::zeroed(1024))
}

#[test]
fn replies_that_do_not_fit_cut_the_connection() {
    let data = |cookie, last: bool, offset, len: u32| {
        let position = if last {
            reply::Position::Last
        } else {
            reply::Position::Middle
        };
        let mut bytes = reply::data(cookie, position, offset, len).to_vec();
        bytes.extend(std::iter::repeat_n(7, len as usize));
        bytes
    };
    check_hostile(read(), move |c| data(c, true, 4096, 1024), "done");
    check_hostile(read(), |_| vec![0; 16], "reply magic is 0x0");
    check_hostile(
        read(),
        |c| reply::done(c ^ 1).to_vec(),
        "reply to unknown cookie 0x100000001",
    );
    check_hostile(
        read(),
        |c| reply::done(c ^ 1 << 32).to_vec(),
        "reply to unknown cookie 0x0",
    );
    check_hostile(
        read(),
        |c| reply::simple(c, 0).to_vec(),
        "simple reply to request 0x100000000, which needs a structured one",
    );
    check_hostile(
        read(),
        |c| reply::done(c).to_vec(),
        "structured reply ends with 1024 bytes missing",
    );
    check_hostile(
        read(),
        move |c| [data(c, false, 4096, 600), data(c, true, 4600, 520)].concat(),
        "reply chunk of 520 bytes at 0x11f8 is outside its request or overlaps",
    );
    check_hostile(
        read(),
        move |c| data(c, true, 4096, 1025),
        "reply chunk of 1025 bytes at 0x1000 is outside its request or overlaps",
    );
    check_hostile(
        read(),
        move |c| data(c, true, 4095, 10),
        "reply chunk of 10 bytes at 0xfff is outside its request or overlaps",
    );
    check_hostile(
        read(),
        |c| reply::hole(c, reply::Position::Last, u64::MAX, 9).to_vec(),
        "reply chunk of 9 bytes at 0xffffffffffffffff is outside its request or overlaps",
    );
    check_hostile(
        read(),
        |c| {
            reply::block_status(
                c,
                reply::Position::Last,
                1,
                &[reply::Extent { len: 512, flags: 0 }],
            )
            .to_vec()
        },
        "reply chunk of type 0x5 and 12 bytes does not fit request 0x100000000",
    );
    check_hostile(
        read(),
        |c| {
            let mut bytes = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend([0, 1, 0x80, 1]);
            bytes.extend(c.to_be_bytes());
            bytes.extend(u32::MAX.to_be_bytes());
            bytes
        },
        "reply chunk of type 0x8001 and 4294967295 bytes does not fit request 0x100000000",
    );
    check_hostile(
        Request::flush(),
        move |c| data(c, true, 0, 10),
        "reply chunk of type 0x1 and 10 bytes does not fit request 0x100000000",
    );
}

#[test]
fn chunks_come_in_any_order_and_errors_have_meaning() {
    check_hostile(
        read(),
        |c| {
            let head = reply::data(c, reply::Position::Middle, 4596, 524);
            let hole = reply::hole(c, reply::Position::Middle, 4096, 500);
            [&head[..], &[1; 524], &hole[..], &reply::done(c)[..]].concat()
        },
        "done",
    );
    check_hostile(
        read(),
        |c| reply::error(c, 28, "full").to_vec(),
        "No space left on device",
    );
    check_hostile(
        read(),
        |c| reply::error(c, 4711, "").to_vec(),
        "Invalid argument",
    );
    check_hostile(
        Request::flush(),
        |c| reply::simple(c, 5).to_vec(),
        "Input/output error",
    );
    check_hostile(Request::flush(), |c| reply::simple(c, 0).to_vec(), "done");
}

#[test]
fn server_that_goes_fails_what_is_in_flight() {
    let ours = Ours::new(|_| {});
    let client = Client::open(1, &ours.name()).unwrap();
    assert!(client.read(0, 0, 1).is_ok());
    block_on_thread(ours.server.stop());
    let chain = client.read(0, 0, 1).err().unwrap().chain();
    assert!(
        chain.contains("read of 1 bytes at 0x0 on node 'client'"),
        "{chain}"
    );
}
