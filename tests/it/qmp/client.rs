//! The typed client of package block-schema, with our daemon and with QEMU's.
//!
//! The same talk with both: what the client makes of the answers does not depend on who gives them.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use block_schema::commands::{
    BlockExportAdd, BlockExportDel, BlockdevAdd, BlockdevDel, NbdServerStart, NbdServerStop,
    QueryBlockExports, QueryVersion, Quit,
};
use block_schema::types::{BlockExportOptions, BlockExportType, BlockdevOptions};
use block_schema::{
    AsyncClient, CallError, Client, ErrorClass, Event, Object, Received, Tokio, Unknown, Value,
    Wire,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::interop::{Oracle, skip};
use super::rig::Rig;

type Unix = Client<UnixStream>;

fn from_json<T: Wire>(json: &str) -> T {
    let value = Value::from_json(json).expect("JSON");
    T::decode(value, Unknown::Refuse).expect("it fits the schema")
}

fn add(json: &str) -> BlockdevAdd {
    let options: BlockdevOptions = from_json(json);
    BlockdevAdd { options }
}

#[track_caller]
fn refusal(result: Result<impl std::fmt::Debug, CallError>) -> (ErrorClass, String) {
    match result {
        Err(CallError::Refused(error)) => (error.class, error.desc),
        other => panic!("{other:?}"),
    }
}

/// What is said to any daemon of version 10 that has no nodes.
fn talk(mut client: Unix, disk: &str, socket: &str) {
    let greeting = client.greeting().expect("a server greets");
    assert_eq!((greeting.version.0, greeting.version.1), (10, 0));
    assert!(client.connection().has_oob());
    let version = client.call(QueryVersion {}).expect("a version");
    assert_eq!(version.qemu.major, 10);

    let file = format!(r#"{{"driver": "file", "node-name": "f0", "filename": "{disk}"}}"#);
    client.call(add(&file)).expect("a node");
    let (class, desc) = refusal(client.call(add(&file)));
    assert_eq!(class, ErrorClass::GenericError);
    assert_eq!(desc, "Duplicate nodes with node-name='f0'");
    let (class, _) = refusal(client.execute("no-such-command", Object::new()));
    assert_eq!(class, ErrorClass::CommandNotFound);

    // Replies come to who asked, however many are on their way.
    let exports = client.submit(&QueryBlockExports {});
    let versions: Vec<_> = (0..20).map(|_| client.submit(&QueryVersion {})).collect();
    for call in versions.iter().rev() {
        assert_eq!(client.wait(call).expect("a version"), version);
    }
    assert_eq!(client.wait(&exports).expect("exports"), []);
    // Today's servers leave out a member that the older schema requires: by its name only.
    let flat: Object = [("flat", true)].into_iter().collect();
    let nodes = client.execute("query-named-block-nodes", flat);
    let nodes = nodes.expect("nodes");
    let names = nodes.as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|node| node.get("node-name")).collect();
    assert_eq!(names, [Some(&Value::from("f0"))]);

    let address = format!(r#"{{"addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}}}"#);
    let start: NbdServerStart = from_json(&address);
    client.call(start).expect("a server");
    let export = r#"{"type": "nbd", "id": "e0", "node-name": "f0"}"#;
    let export: BlockExportOptions = from_json(export);
    client.call(BlockExportAdd(export)).expect("an export");
    let exports = client.call(QueryBlockExports {}).expect("exports");
    assert_eq!(
        (exports[0].id.as_str(), exports[0].r#type),
        ("e0", BlockExportType::Nbd)
    );
    let delete = BlockExportDel {
        id: "e0".to_owned(),
        mode: None,
    };
    client.call(delete).expect("no export any more");
    let event = client.next_event().expect("an event");
    match event.decode::<Event>().expect("it fits the schema") {
        Received::Known {
            event: Event::BlockExportDeleted(deleted),
            timestamp,
        } => {
            assert_eq!(deleted.id, "e0");
            assert!(timestamp.seconds > 0);
        }
        other => panic!("{other:?}"),
    }
    client.call(NbdServerStop {}).expect("no server any more");
    let delete = BlockdevDel {
        node_name: Some("f0".to_owned()),
        id: None,
    };
    client.call(delete).expect("no node any more");
    client.call(Quit {}).expect("the end");
    let end = client.next_event().expect_err("nothing comes any more");
    assert_eq!(end.to_string(), "the server closed the connection");
}

#[test]
fn our_client_talks_to_our_daemon() {
    let rig = Rig::start();
    let disk = rig.file("disk.img", 1 << 20);
    let client = Client::connect_unix(rig.path("qmp.sock")).expect("a daemon");
    talk(client, &disk, &rig.path("nbd.sock"));
    rig.join();
}

#[test]
fn our_client_talks_to_qemus_daemon() {
    let rig = Rig::start();
    let disk = rig.file("disk.img", 1 << 20);
    let Some((_oracle, stream)) = Oracle::start_quietly(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let client = Client::connect(stream).expect("a daemon");
    talk(client, &disk, &rig.path("nbd.sock"));
}

#[test]
fn what_is_no_qmp_server_is_told() {
    let (near, far) = UnixStream::pair().expect("two sockets");
    drop(far);
    let error = Client::connect(near).expect_err("nobody is there");
    assert_eq!(error.to_string(), "the server closed the connection");
    let rig = Rig::start();
    let error = Client::connect_unix(rig.path("nowhere.sock")).expect_err("nobody listens");
    assert_eq!(
        error.to_string(),
        "lost the connection: No such file or directory (os error 2)"
    );
}

/// Many calls at once, some given up, and an event meanwhile.
async fn talk_asynchronously(stream: UnixStream, disk: &str) {
    stream.set_nonblocking(true).expect("a socket");
    let stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
    let client = AsyncClient::connect(Tokio(stream)).await.expect("a daemon");
    let mut tasks = Vec::new();
    for number in 0..50_u32 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            if number.is_multiple_of(3) {
                // Polled once, then dropped.
                let call = client.call(QueryVersion {});
                return tokio::time::timeout(Duration::ZERO, call).await.is_err();
            }
            let version = client.call(QueryVersion {}).await;
            version.expect("a version").qemu.major == 10
        }));
    }
    let mut given_up = 0;
    for (number, task) in tasks.into_iter().enumerate() {
        let result = task.await.expect("a task");
        if number.is_multiple_of(3) {
            given_up += usize::from(result);
        } else {
            assert!(result);
        }
    }
    println!("{given_up} calls were given up");
    let file = format!(r#"{{"driver": "file", "node-name": "f0", "filename": "{disk}"}}"#);
    client.call(add(&file)).await.expect("a node");
    let (class, _) = refusal(client.call(add(&file)).await);
    assert_eq!(class, ErrorClass::GenericError);
    let waits = {
        let client = client.clone();
        tokio::spawn(async move { client.next_event().await })
    };
    client.call(Quit {}).await.expect("the end");
    let end = waits.await.expect("a task").expect_err("nothing comes");
    assert_eq!(end.to_string(), "the server closed the connection");
}

#[track_caller]
fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(60);
    let limited = async { tokio::time::timeout(limit, future).await };
    runtime.block_on(limited).expect("it ends in time");
}

#[test]
fn the_client_that_does_not_block_talks_to_our_daemon() {
    let rig = Rig::start();
    let disk = rig.file("disk.img", 1 << 20);
    let stream = UnixStream::connect(rig.path("qmp.sock")).expect("a daemon");
    run(talk_asynchronously(stream, &disk));
    rig.join();
}

#[test]
fn the_client_that_does_not_block_talks_to_qemus_daemon() {
    let rig = Rig::start();
    let disk = rig.file("disk.img", 1 << 20);
    let Some((_oracle, stream)) = Oracle::start_quietly(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    run(talk_asynchronously(stream, &disk));
}

/// Reads a command with its descriptors, as QEMU's monitor does, and answers it.
fn take_descriptor(mut stream: UnixStream) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time limit");
    stream
        .write_all(b"{'QMP': {'version': {}, 'capabilities': []}}")
        .expect("sent");
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).expect("negotiation");
    assert!(String::from_utf8_lossy(&bytes[..count]).contains("qmp_capabilities"));
    stream.write_all(b"{'return': {}, 'id': 1}").expect("sent");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(&stream, &mut slices, &mut control, RecvFlags::empty());
    let count = received.expect("a command").bytes;
    let message = Value::from_json(&String::from_utf8_lossy(&bytes[..count])).expect("JSON");
    let name = message
        .get("arguments")
        .and_then(|arguments| arguments.get("fdname"));
    assert_eq!(name, Some(&Value::from("f")));
    let mut text = String::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                let mut file = std::fs::File::from(descriptor);
                file.read_to_string(&mut text).expect("a file");
            }
        }
    }
    stream.write_all(b"{'return': {}, 'id': 2}").expect("sent");
    text
}

#[test]
fn descriptors_go_along_with_a_command() {
    let rig = Rig::start();
    let path = rig.path("text");
    std::fs::write(&path, "through a descriptor").expect("a file");
    let file = std::fs::File::open(&path).expect("the file");
    let (near, far) = UnixStream::pair().expect("two sockets");
    let server = std::thread::spawn(move || take_descriptor(far));
    let mut client = Client::connect(near).expect("a server");
    let arguments: Object = [("fdname", "f")].into_iter().collect();
    let answer = client.execute_with("getfd", arguments, &[file.as_fd()]);
    assert_eq!(answer.expect("it was taken"), Value::from(Object::new()));
    assert_eq!(server.join().expect("a server"), "through a descriptor");
}
