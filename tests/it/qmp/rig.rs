//! A daemon in this process, and a client that speaks to it byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::export::Exports;
use block_core::graph::policy::LocalFiles;
use block_core::qmp::{Daemon, Monitor};
use block_core::queue::block_on_thread;
use block_core::{Error, IoBuf, Layer, QueueHandle, Request};
use block_drivers::Drivers;
use block_drivers::export::BuiltInExports;
use block_schema::Value;

use crate::support::flaky::{self, Trouble};
use crate::support::record;

/// A folder of its own, gone in the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("qblk-qmp-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running daemon; dropping it says `quit` unless a test did.
pub(super) struct Rig {
    folder: Folder,
    layer: Layer,
    queue: QueueHandle,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub(super) fn start() -> Rig {
        record::start();
        let folder = Folder::new();
        let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(LocalFiles));
        let (listening, wait) = mpsc::channel();
        let socket = folder.0.join("qmp.sock");
        let for_thread = layer.clone();
        let thread = std::thread::spawn(move || run(&for_thread, &socket, &listening));
        let queue = wait.recv().expect("the daemon listens");
        Rig {
            folder,
            layer,
            queue,
            thread: Some(thread),
        }
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Does a request as a guest's device would.
    pub(super) fn request(&self, device: &str, request: Request) -> Result<IoBuf, Error> {
        let backend = self.layer.backend(device).expect("a device");
        block_on_thread(self.queue.request(&backend, request))
    }

    /// Adds a file to the graph whose writes can be made to fail.
    pub(super) fn add_flaky(&self, node: &str, path: &str) -> Trouble {
        let (node, trouble) = flaky::node(node, Path::new(path));
        let adding = self
            .queue
            .call(move |queue| async move { queue.layer().add_node(node, &[]).await });
        let added = block_on_thread(adding).expect("the daemon runs");
        added.unwrap_or_else(|error| panic!("{}", error.chain()));
        trouble
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.0.join(name).to_string_lossy().into_owned()
    }

    /// A file of zeroes.
    pub(super) fn file(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        let file = std::fs::File::create(&path).expect("a new file");
        file.set_len(len).expect("a sparse file");
        path
    }

    pub(super) fn connect(&self) -> Client {
        Client::connect(Path::new(&self.path("qmp.sock")))
    }

    /// A client that has negotiated.
    pub(super) fn client(&self) -> Client {
        let mut client = self.connect();
        client.receive();
        client.ok(r#"{"execute": "qmp_capabilities"}"#);
        client
    }

    /// Waits until the daemon has ended by itself.
    pub(super) fn join(mut self) {
        let thread = self.thread.take().expect("not joined before");
        thread.join().expect("the daemon ends well");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if std::thread::panicking() {
            return;
        }
        let mut client = self.connect();
        client.send(r#"{"execute": "qmp_capabilities"}{"execute": "quit"}"#);
        thread.join().expect("the daemon ends well");
    }
}

fn run(layer: &Layer, socket: &Path, listening: &mpsc::Sender<QueueHandle>) {
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
    listening.send(queue.handle()).expect("the test waits");
    queue.block_on(async {
        daemon.ended().await;
        daemon.exports().close_all().await;
        let closed = queue.layer().close_all(&queue).await;
        closed.expect("images close");
    });
}

/// Connects to a daemon that listens.
pub(super) fn connect(path: &Path) -> UnixStream {
    limited(UnixStream::connect(path).expect("the daemon listens"))
}

/// A stream on which a daemon that says nothing fails the test rather than hang it.
pub(super) fn limited(stream: UnixStream) -> UnixStream {
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("a time limit");
    stream
}

/// One connection.
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn connect(path: &Path) -> Client {
        Client::on(connect(path))
    }

    pub(super) fn on(stream: UnixStream) -> Client {
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub(super) fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    /// The next message; `None` at the end of the stream.
    pub(super) fn try_receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).expect("a message in time");
        if count == 0 {
            return None;
        }
        let text = line.strip_suffix("\r\n").expect("a message ends with CRLF");
        assert!(text.is_ascii(), "not ASCII: {text}");
        Some(Value::from_json(text).expect("a message is JSON"))
    }

    /// Says that no more comes from here.
    pub(super) fn end_input(&mut self) {
        let stream = self.stream.get_ref();
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("half a connection");
    }

    /// All bytes that still come, however the connection ends.
    pub(super) fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        bytes
    }

    #[track_caller]
    pub(super) fn receive(&mut self) -> Value {
        self.try_receive().expect("the connection is open")
    }

    /// Sends a value and gives what comes back next.
    #[track_caller]
    pub(super) fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        self.receive()
    }

    /// Runs a command that succeeds; gives what it returns, and skips events before it.
    #[track_caller]
    pub(super) fn ok(&mut self, text: &str) -> Value {
        let message = self.reply(text);
        let value = message.get("return").cloned();
        value.unwrap_or_else(|| panic!("{text} gave {message}"))
    }

    /// Sends a value and gives the reply to it, skipping events.
    #[track_caller]
    pub(super) fn reply(&mut self, text: &str) -> Value {
        let mut message = self.ask(text);
        while message.get("event").is_some() {
            message = self.receive();
        }
        message
    }

    /// Receives until an event comes; its data. What comes before it is lost.
    #[track_caller]
    pub(super) fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let message = self.receive();
            if message.get("event").and_then(Value::as_str) == Some(event) {
                return message.get("data").cloned().unwrap_or(Value::Null);
            }
        }
    }

    /// Runs a command that succeeds, and waits for an event that may come before or after the reply;
    /// its data.
    #[track_caller]
    pub(super) fn ok_until(&mut self, input: &str, event: &str) -> Value {
        let mut message = self.ask(input);
        let mut came = None;
        while message.get("event").is_some() {
            if message.get("event").and_then(Value::as_str) == Some(event) {
                came = message.get("data").cloned();
            }
            message = self.receive();
        }
        assert!(message.get("return").is_some(), "{input}: {message}");
        came.unwrap_or_else(|| self.wait_for(event))
    }

    /// Runs a command that fails; gives its class and text, and skips events before it.
    #[track_caller]
    pub(super) fn error(&mut self, text: &str) -> String {
        let message = self.reply(text);
        let member = |name| message.get("error").and_then(|error| error.get(name));
        match (member("class"), member("desc")) {
            (Some(class), Some(desc)) => format!(
                "{}: {}",
                class.as_str().unwrap_or("?"),
                desc.as_str().unwrap_or("?")
            ),
            _ => panic!("{text} gave {message}"),
        }
    }
}
