//! What goes over the wire: order of checks, texts, spellings, introspection.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use block_schema::types::{self, BlockdevOptions, BlockdevOptionsBranch};
use block_schema::{
    COMMANDS, Command as _, Error, Event, JsonStream, Object, Session, Timestamp, Unknown, Value,
    Wire, answer, commands, decode_reply, dispatch, events, introspect, server,
};

/// Answers a few commands at once; the others with what the trait does by itself.
struct Daemon;

impl server::Graph for Daemon {}

impl server::Jobs for Daemon {}

impl server::Objects for Daemon {}

impl server::Common for Daemon {}

impl server::BlockCore for Daemon {
    async fn blockdev_add(&self, arguments: commands::BlockdevAdd) -> Result<(), Error> {
        let driver = arguments.options.kind();
        Err(Error::generic(format!("would open {driver}")))
    }

    async fn block_resize(&self, arguments: commands::BlockResize) -> Result<(), Error> {
        Err(Error::generic(format!(
            "would resize to {}",
            arguments.size
        )))
    }
}

impl server::Control for Daemon {
    async fn quit(&self, _: commands::Quit) -> Result<(), Error> {
        Ok(())
    }

    async fn nbd_server_start(&self, arguments: commands::NbdServerStart) -> Result<(), Error> {
        let kind = arguments.addr.kind();
        Err(Error::generic(format!("would listen on {kind}")))
    }

    async fn query_block_exports(
        &self,
        _: commands::QueryBlockExports,
    ) -> Result<Vec<types::BlockExportInfo>, Error> {
        let r#type = types::BlockExportType::Nbd;
        let (id, node_name) = ("e".to_owned(), "n".to_owned());
        Ok(vec![types::BlockExportInfo {
            id,
            r#type,
            node_name,
            shutting_down: false,
        }])
    }
}

/// Runs a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

const READY: Session = Session {
    negotiated: true,
    oob: false,
};

/// The replies to `input`, one a line.
fn talk(session: Session, input: &str) -> Vec<String> {
    let mut stream = JsonStream::new();
    let mut outcomes = stream.feed(input.as_bytes());
    outcomes.extend(stream.finish());
    let outcomes = outcomes.into_iter();
    let replies = outcomes.filter_map(|outcome| now(answer(&Daemon, session, outcome)));
    replies.map(|reply| reply.to_ascii_json()).collect()
}

#[track_caller]
fn check(input: &str, want: &str) {
    assert_eq!(talk(READY, input), [want], "reply to {input}");
}

#[track_caller]
fn check_desc(input: &str, want: &str) {
    check_error(READY, input, "GenericError", want);
}

#[track_caller]
fn check_error(session: Session, input: &str, class: &str, want: &str) {
    let replies = talk(session, input);
    let [reply] = &replies[..] else {
        panic!("not one reply to {input}: {replies:?}")
    };
    let reply = Value::from_json(reply).unwrap_or(Value::Null);
    let error = reply
        .get("error")
        .unwrap_or_else(|| panic!("no error: {reply}"));
    assert_eq!(
        error.get("desc").and_then(Value::as_str),
        Some(want),
        "for {input}"
    );
    assert_eq!(
        error.get("class").and_then(Value::as_str),
        Some(class),
        "for {input}"
    );
}

#[test]
fn envelope_is_checked_in_order() {
    check(
        "{}",
        r#"{"error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}}"#,
    );
    check(
        r#"{"id": 9}"#,
        r#"{"error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}, "id": 9}"#,
    );
    check(
        r#"{"id": null, "execute": "quit", "arguments": {}}"#,
        r#"{"return": {}, "id": null}"#,
    );
    for input in ["[1]", "\"x\"", "1", "null"] {
        check_desc(input, "QMP input must be a JSON object");
    }
    check_desc(
        r#"{"execute": 1}"#,
        "QMP input member 'execute' must be a string",
    );
    check_desc(
        r#"{"execute": "quit", "arguments": []}"#,
        "QMP input member 'arguments' must be an object",
    );
    check_desc(
        r#"{"execute": "quit", "arguments": null}"#,
        "QMP input member 'arguments' must be an object",
    );
    check_desc(
        r#"{"execute": "quit", "foo": 1}"#,
        "QMP input member 'foo' is unexpected",
    );
    check_desc(
        r#"{"exec-oob": "quit"}"#,
        "QMP input member 'exec-oob' is unexpected",
    );
    // The envelope comes before the command's name, the name before its arguments.
    check_desc(
        r#"{"execute": "nope", "foo": 1}"#,
        "QMP input member 'foo' is unexpected",
    );
    check_error(
        READY,
        r#"{"execute": "no-such-command", "arguments": {"x": 1}}"#,
        "CommandNotFound",
        "The command no-such-command has not been found",
    );
}

#[test]
fn negotiation_comes_before_the_command() {
    let fresh = Session::default();
    let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
    check_error(
        fresh,
        r#"{"execute": "query-version"}"#,
        "CommandNotFound",
        text,
    );
    check_error(
        fresh,
        r#"{"execute": "no-such-command"}"#,
        "CommandNotFound",
        text,
    );
    let oob = Session {
        negotiated: true,
        oob: true,
    };
    check_error(
        oob,
        r#"{"exec-oob": "query-version"}"#,
        "GenericError",
        "The command query-version does not support OOB",
    );
    check_error(
        oob,
        r#"{"execute": "quit", "exec-oob": "quit"}"#,
        "GenericError",
        "QMP input member 'exec-oob' clashes with 'execute'",
    );
}

fn add(arguments: &str) -> String {
    format!(r#"{{"execute": "blockdev-add", "arguments": {arguments}}}"#)
}

#[test]
fn arguments_are_named_by_the_spelling_used() {
    check_desc(&add("{}"), "Parameter 'driver' is missing");
    check_desc(
        &add(r#"{"options": {}}"#),
        "Parameter 'options.driver' is missing",
    );
    check_desc(
        &add(r#"{"driver": "file"}"#),
        "Parameter 'filename' is missing",
    );
    check_desc(
        &add(r#"{"options": {"driver": "file"}}"#),
        "Parameter 'options.filename' is missing",
    );
    check_desc(&add(r#"{"driver": "null-co"}"#), "would open null-co");
    check_desc(
        &add(r#"{"options": {"driver": "null-co"}}"#),
        "would open null-co",
    );
    check_desc(
        &add(r#"{"driver": "null-co", "bogus": 1}"#),
        "Parameter 'bogus' is unexpected",
    );
    check_desc(
        &add(r#"{"options": {"driver": "null-co"}, "driver": "file"}"#),
        "Parameter 'driver' is unexpected",
    );
    check_desc(
        &add(r#"{"options": 1}"#),
        "Invalid parameter type for 'options', expected: object",
    );
}

#[test]
fn wrong_arguments_are_named_by_path() {
    let cases = [
        (
            r#"{"driver": "qcow2", "file": {"driver": "file"}}"#,
            "Parameter 'file.filename' is missing",
        ),
        (
            r#"{"driver": "quorum", "vote-threshold": 1,
                "children": ["a", {"driver": "file"}]}"#,
            "Parameter 'children[1].filename' is missing",
        ),
        (
            r#"{"driver": "null-co", "cache": {"direct": "on"}}"#,
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            r#"{"driver": "null-co", "cache": {"zip": true}}"#,
            "Parameter 'cache.zip' is unexpected",
        ),
        (
            r#"{"driver": "blkdebug", "image": "x",
                "inject-error": [{"event": "l2_load", "zz": 1}]}"#,
            "Parameter 'inject-error[0].zz' is unexpected",
        ),
        (
            r#"{"driver": "null-co", "node-name": null}"#,
            "Invalid parameter type for 'node-name', expected: string",
        ),
        (
            r#"{"driver": "qcow2", "file": 1}"#,
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        // An anonymous union knows its own name only, and has none in an array.
        (
            r#"{"driver": "qcow2", "file": {"driver": "raw", "file": 1}}"#,
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        (
            r#"{"driver": "quorum", "vote-threshold": 1, "children": ["a", 3]}"#,
            "Invalid parameter type for 'null', expected: BlockdevRef",
        ),
        (
            r#"{"driver": "quorum", "vote-threshold": 1, "children": {}}"#,
            "Invalid parameter type for 'children', expected: array",
        ),
        (
            r#"{"driver": "nope"}"#,
            "Parameter 'driver' does not accept value 'nope'",
        ),
        (
            r#"{"driver": "qcow2", "file": {"driver": "nope"}}"#,
            "Parameter 'driver' does not accept value 'nope'",
        ),
        // Members in schema order first, then what nobody asked for.
        (
            r#"{"bogus": 1, "driver": "null-co", "read-only": 1}"#,
            "Invalid parameter type for 'read-only', expected: boolean",
        ),
    ];
    for (arguments, want) in cases {
        check_desc(&add(arguments), want);
    }
}

#[test]
fn integers_are_read_as_qemu_reads_them() {
    let resize =
        |size: &str| format!(r#"{{"execute": "block_resize", "arguments": {{"size": {size}}}}}"#);
    for size in ["1.0", "1e3", "true", "9223372036854775808", "\"1\""] {
        check_desc(
            &resize(size),
            "Invalid parameter type for 'size', expected: integer",
        );
    }
    check_desc(
        &resize("-9223372036854775808"),
        "would resize to -9223372036854775808",
    );
    let start = |max: &str| {
        format!(
            r#"{{"execute": "nbd-server-start", "arguments": {{"max-connections": {max},
                "addr": {{"type": "unix", "data": {{"path": "/x"}}}}}}}}"#
        )
    };
    check_desc(&start("4294967295"), "would listen on unix");
    check_desc(
        &start("4294967296"),
        "Parameter 'max-connections' expects uint32_t",
    );
    check_desc(&start("-1"), "Parameter 'max-connections' expects uint32_t");
    check_desc(
        &start("\"1\""),
        "Parameter 'max-connections' expects uint64",
    );
    let wrapped = u64::decode(Value::Int(-1), Unknown::Refuse).unwrap();
    assert_eq!(wrapped, u64::MAX);
    let latency = r#"{"driver": "null-co", "latency-ns": -1}"#;
    let options = BlockdevOptions::decode(Value::from_json(latency).unwrap(), Unknown::Refuse);
    let BlockdevOptionsBranch::NullCo(null) = options.unwrap().driver else {
        panic!("branch")
    };
    assert_eq!(null.latency_ns, Some(u64::MAX));
}

#[test]
fn simple_unions_are_wrapped() {
    let start = |addr: &str| {
        format!(r#"{{"execute": "nbd-server-start", "arguments": {{"addr": {addr}}}}}"#)
    };
    check_desc(
        &start(r#"{"type": "unix"}"#),
        "Parameter 'addr.data' is missing",
    );
    check_desc(
        &start(r#"{"type": "inet", "data": {"host": "h"}}"#),
        "Parameter 'addr.data.port' is missing",
    );
    check_desc(
        &start(r#"{"type": "smoke"}"#),
        "Parameter 'type' does not accept value 'smoke'",
    );
}

#[test]
fn commands_without_code_say_so() {
    check_desc(
        r#"{"execute": "block-stream", "arguments": {"device": "d"}}"#,
        "The command block-stream is not built in yet",
    );
    check_desc(
        r#"{"execute": "drive-backup", "arguments": {"device": "d", "target": "t"}}"#,
        "Parameter 'sync' is missing",
    );
}

#[test]
fn answers_are_encoded() {
    check(
        r#"{"execute": "query-block-exports", "id": {"a": [1]}}"#,
        r#"{"return": [{"id": "e", "type": "nbd", "node-name": "n", "shutting-down": false}], "id": {"a": [1]}}"#,
    );
}

#[test]
fn options_survive_the_way_out_and_back() {
    let text = r#"{"driver": "qcow2", "node-name": "n", "cache": {"direct": true}, "file": {"driver": "file", "filename": "é\n\u0000", "locking": "off"}, "backing": "", "encrypt": {"format": "luks", "key-secret": "s"}}"#;
    let value = Value::from_json(text).unwrap();
    let options = BlockdevOptions::decode(value.clone(), Unknown::Refuse).unwrap();
    assert_eq!(options.encode(), value);
    assert_eq!(
        BlockdevOptions::decode(options.encode(), Unknown::Refuse),
        Ok(options)
    );
}

#[test]
fn clients_skip_what_they_do_not_know() {
    let reply = Value::from_json(
        r#"{"return": {"qemu": {"major": 10, "minor": 0, "micro": 2, "nano": 1}, "package": "",
            "more": []}, "id": 1}"#,
    );
    let version = decode_reply::<commands::QueryVersion>(reply.unwrap()).unwrap();
    assert_eq!(version.qemu.micro, 2);
    let add = commands::BlockdevAdd {
        options: BlockdevOptions::new(BlockdevOptionsBranch::NullCo(Default::default())),
    };
    let request = add.request(Some(Value::Int(1))).to_ascii_json();
    assert_eq!(
        request,
        r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co"}, "id": 1}"#
    );
}

#[test]
fn events_become_messages_and_back() {
    let ready = events::BlockJobReady {
        r#type: types::BlockJobType::Mirror,
        device: "d".to_owned(),
        len: 8,
        offset: 8,
        speed: 0,
    };
    let event = Event::from(ready);
    let message = event.to_value(Timestamp {
        seconds: -1,
        microseconds: -1,
    });
    let want = r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "BLOCK_JOB_READY", "data": {"type": "mirror", "device": "d", "len": 8, "offset": 8, "speed": 0}}"#;
    assert_eq!(message.to_ascii_json(), want);
    assert_eq!(Event::decode(event.name(), event.data()), Ok(Some(event)));
    assert_eq!(Event::decode("SOMETHING_NEW", Object::new()), Ok(None));
}

#[test]
fn introspection_describes_itself() {
    let value = introspect::value().unwrap();
    let entries = Vec::<types::SchemaInfo>::decode(value, Unknown::Refuse).unwrap();
    let mut names: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.kind() == types::SchemaMetaType::Command)
        .map(|entry| entry.name.as_str())
        .collect();
    // Introspection goes file by file, the root first.
    names.sort_unstable();
    let mut known: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    known.sort_unstable();
    assert_eq!(known, names);
    // Every type that is named has an entry, once.
    let mut defined: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    defined.sort_unstable();
    assert!(defined.windows(2).all(|pair| pair[0] != pair[1]));
    let has = |name: &str| defined.binary_search(&name).is_ok();
    for entry in &entries {
        match &entry.meta_type {
            types::SchemaInfoBranch::Object(object) => {
                assert!(object.members.iter().all(|member| has(&member.r#type)));
                let variants = object.variants.iter().flatten();
                assert!(variants.into_iter().all(|variant| has(&variant.r#type)));
            }
            types::SchemaInfoBranch::Array(array) => assert!(has(&array.element_type)),
            types::SchemaInfoBranch::Alternate(alternate) => {
                assert!(alternate.members.iter().all(|member| has(&member.r#type)));
            }
            types::SchemaInfoBranch::Command(command) => {
                assert!(has(&command.arg_type) && has(&command.ret_type));
            }
            types::SchemaInfoBranch::Event(event) => assert!(has(&event.arg_type)),
            types::SchemaInfoBranch::Builtin(_) | types::SchemaInfoBranch::Enum(_) => {}
        }
    }
}

#[test]
fn dispatch_can_run_on_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&dispatch(&Daemon, "quit", Object::new()));
}

#[test]
fn nesting_is_bounded_before_the_stack_is() {
    let nested = |levels: usize| {
        let open = r#"{"driver": "qcow2", "file": "#.repeat(levels);
        add(&format!("{open}\"end\"{}", "}".repeat(levels)))
    };
    check_desc(&nested(127), "would open qcow2");
    check_desc(
        &nested(1021),
        "Parameter 'driver' is nested deeper than 128 levels",
    );
}
