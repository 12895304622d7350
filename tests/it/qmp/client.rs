//! The typed client of package block-schema, with our daemon and with QEMU's.
//!
//! The same talk with both: what the client makes of the answers does not depend on who gives them.

use std::os::unix::net::UnixStream;

use block_schema::commands::{
    BlockExportAdd, BlockExportDel, BlockdevAdd, BlockdevDel, NbdServerStart, NbdServerStop,
    QueryBlockExports, QueryVersion, Quit,
};
use block_schema::types::{BlockExportOptions, BlockExportType, BlockdevOptions};
use block_schema::{CallError, Client, ErrorClass, Event, Object, Received, Unknown, Value, Wire};

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
