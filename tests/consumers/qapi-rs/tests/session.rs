//! The daemon as the client of crate `qapi` sees it: typed by QEMU's full schema, with every
//! answer and event read by serde.

use std::net::Shutdown;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use block_core::Layer;
use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::export::Exports;
use block_core::graph::policy::LocalFiles;
use block_core::qmp::{Daemon, Monitor};
use block_drivers::Drivers;
use block_drivers::export::BuiltInExports;
use qapi::{Command, ErrorClass, ExecuteError, qmp};

/// A daemon in this process, on a socket in a folder of its own.
struct Rig {
    folder: PathBuf,
    thread: JoinHandle<()>,
}

impl Rig {
    fn start(name: &str) -> Rig {
        let folder = std::env::temp_dir().join(format!("qapi-rs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let socket = folder.join("qmp.sock");
        let (listening, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || run(&socket, &listening));
        wait.recv().expect("the daemon listens");
        Rig { folder, thread }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.join("qmp.sock")).expect("a connection");
        // A daemon that says nothing fails the test rather than hang it.
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a time limit");
        stream
    }

    /// Waits until the daemon has ended by itself.
    fn join(self) {
        self.thread.join().expect("the daemon ends well");
        std::fs::remove_dir_all(&self.folder).expect("the folder is still there");
    }
}

fn run(socket: &Path, listening: &mpsc::Sender<()>) {
    let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(LocalFiles));
    let options = HostEngineOptions {
        ring_entries: 64,
        ring: Ring::Auto,
        pool: Pool::new(NonZeroUsize::MIN).expect("a pool"),
    };
    let engine = HostEngine::new(&options).expect("an engine");
    let queue = layer.new_queue(Box::new(engine)).start();
    let drivers = BuiltInExports::new(vec![queue.handle()]);
    let daemon = Daemon::new(&queue, Exports::new(&queue, Box::new(drivers)));
    let monitor = Monitor::bind(socket).expect("a socket");
    monitor.run(&daemon);
    listening.send(()).expect("the test waits");
    queue.block_on(async {
        daemon.ended().await;
        daemon.exports().close_all().await;
        let closed = queue.layer().close_all(&queue).await;
        closed.expect("images close");
    });
}

type Client<'a> = qapi::Qmp<qapi::Stream<std::io::BufReader<&'a UnixStream>, &'a UnixStream>>;

/// A command that fails: its class and text.
#[track_caller]
fn refusal<C: Command>(client: &mut Client<'_>, command: &C) -> (ErrorClass, String) {
    match client.execute(command) {
        Err(ExecuteError::Qapi(error)) => (error.class, error.desc),
        Err(ExecuteError::Io(error)) => panic!("{}: {error}", C::NAME),
        Ok(_) => panic!("{} went well", C::NAME),
    }
}

fn base(name: &str) -> qmp::BlockdevOptionsBase {
    qmp::BlockdevOptionsBase {
        auto_read_only: None,
        cache: None,
        detect_zeroes: None,
        discard: None,
        force_share: None,
        node_name: Some(name.to_owned()),
        read_only: None,
    }
}

/// A node over a file of zeroes, which is made.
fn file(name: &str, path: &Path) -> qmp::blockdev_add {
    let file = std::fs::File::create(path).expect("a new file");
    file.set_len(65536).expect("a sparse file");
    qmp::blockdev_add(qmp::BlockdevOptions::file {
        base: base(name),
        file: qmp::BlockdevOptionsFile {
            aio: None,
            aio_max_batch: None,
            drop_cache: None,
            locking: None,
            pr_manager: None,
            x_check_cache_dropped: None,
            filename: path.to_string_lossy().into_owned(),
        },
    })
}

/// A node over another.
fn raw(name: &str, file: &str) -> qmp::blockdev_add {
    qmp::blockdev_add(qmp::BlockdevOptions::raw {
        base: base(name),
        raw: qmp::BlockdevOptionsRaw {
            base: qmp::BlockdevOptionsGenericFormat {
                file: qmp::BlockdevRef::reference(file.to_owned()),
            },
            offset: None,
            size: None,
        },
    })
}

fn nodes(client: &mut Client<'_>) -> Vec<String> {
    let all = client.execute(&qmp::query_named_block_nodes { flat: Some(true) });
    let named = all.expect("nodes").into_iter();
    let mut names: Vec<_> = named.filter_map(|node| node.node_name).collect();
    names.sort();
    names
}

#[test]
fn a_session_of_the_client_of_qapi_rs() {
    let rig = Rig::start("session");
    let stream = rig.connect();
    let mut client = Client::from_stream(&stream);

    let greeting = client.handshake().expect("a handshake");
    let version = client.execute(&qmp::query_version {}).expect("a version");
    assert_eq!(version.qemu.major, greeting.version.qemu.major);
    assert_eq!(version.qemu.minor, greeting.version.qemu.minor);
    assert_eq!(greeting.capabilities.len(), 1);

    let jobs = client.execute(&qmp::query_block_jobs {}).expect("jobs");
    assert!(jobs.is_empty());

    let image = rig.folder.join("image.raw");
    client.execute(&file("zeroes", &image)).expect("a node");
    client.execute(&raw("disk", "zeroes")).expect("a node");
    assert_eq!(nodes(&mut client), ["disk", "zeroes"]);
    let delete = |name: &str| qmp::blockdev_del {
        node_name: name.to_owned(),
    };
    assert_eq!(
        refusal(&mut client, &delete("zeroes")),
        (
            ErrorClass::GenericError,
            "Block device zeroes is in use".to_owned()
        )
    );
    client.execute(&delete("disk")).expect("a free node");
    assert_eq!(nodes(&mut client), ["zeroes"]);

    // A command of QEMU's machine half, which no storage daemon has.
    assert_eq!(
        refusal(&mut client, &qmp::query_status {}),
        (
            ErrorClass::CommandNotFound,
            "The command query-status has not been found".to_owned()
        )
    );
    let resize = qmp::block_resize {
        device: Some("nothing".to_owned()),
        node_name: None,
        size: 512,
    };
    assert_eq!(refusal(&mut client, &resize).0, ErrorClass::DeviceNotFound);

    client.execute(&qmp::quit {}).expect("a last answer");
    stream.shutdown(Shutdown::Write).ok();
    drop(client);
    rig.join();
}

/// An export of a node by NBD, under its own id.
fn export(id: &str, node: &str) -> qmp::block_export_add {
    qmp::block_export_add(qmp::BlockExportOptions::nbd {
        base: qmp::BlockExportOptionsBase {
            fixed_iothread: None,
            iothread: None,
            writable: None,
            writethrough: None,
            id: id.to_owned(),
            node_name: node.to_owned(),
        },
        nbd: qmp::BlockExportOptionsNbd {
            base: qmp::BlockExportOptionsNbdBase {
                description: None,
                name: Some(id.to_owned()),
            },
            allocation_depth: None,
            bitmaps: None,
        },
    })
}

#[test]
fn events_are_read_as_their_types() {
    let rig = Rig::start("events");
    let stream = rig.connect();
    let mut client = Client::from_stream(&stream);
    client.handshake().expect("a handshake");

    let nbd = rig.folder.join("nbd.sock").to_string_lossy().into_owned();
    let address = qmp::UnixSocketAddress {
        abstract_: None,
        tight: None,
        path: nbd,
    };
    let start = qmp::nbd_server_start {
        max_connections: None,
        tls_authz: None,
        tls_creds: None,
        addr: qmp::SocketAddressLegacy::unix(address.into()),
    };
    client.execute(&start).expect("a server");
    let image = rig.folder.join("image.raw");
    client.execute(&file("disk", &image)).expect("a node");
    for id in ["first", "second"] {
        client.execute(&export(id, "disk")).expect("an export");
    }
    let exports = client.execute(&qmp::query_block_exports {});
    let mut ids: Vec<_> = exports
        .expect("exports")
        .into_iter()
        .map(|e| e.id)
        .collect();
    ids.sort();
    assert_eq!(ids, ["first", "second"]);

    for id in ["second", "first"] {
        let delete = qmp::block_export_del {
            mode: None,
            id: id.to_owned(),
        };
        client.execute(&delete).expect("an export to delete");
        let mut gone = Vec::new();
        while gone.is_empty() {
            client.nop().expect("an answer");
            gone.extend(client.events());
        }
        let [qmp::Event::BLOCK_EXPORT_DELETED { data, .. }] = gone.as_slice() else {
            panic!("other events: {gone:?}")
        };
        assert_eq!(data.id, id);
    }
    client.execute(&qmp::quit {}).expect("a last answer");
    drop(client);
    rig.join();
}
