//! Transport, negotiation, and the checks that come before a command runs.

use block_core::events::Listener;
use block_schema::events::BlockExportDeleted;
use block_schema::{Event, Timestamp, Value};

use super::rig::{Client, Rig};

#[track_caller]
fn check(client: &mut Client, input: &str, want: &str) {
    let want = Value::from_json(want).expect("the expectation is JSON");
    assert_eq!(client.ask(input), want, "for {input}");
}

/// An error reply without an id.
#[track_caller]
fn check_error(client: &mut Client, input: &str, want: &str) {
    assert_eq!(client.error(input), want, "for {input}");
}

#[test]
fn greeting_names_the_version_and_oob() {
    let rig = Rig::start();
    let greeting = rig.connect().receive();
    let body = greeting.get("QMP").expect("a greeting");
    let version = body.get("version").expect("a version");
    assert_eq!(
        version.get("qemu"),
        Some(&Value::from_json(r#"{"major": 10, "minor": 0, "micro": 2}"#).expect("JSON"))
    );
    let package = version.get("package").and_then(Value::as_str);
    assert!(package.is_some_and(|text| text.starts_with("qblk ")));
    assert_eq!(
        body.get("capabilities"),
        Some(&Value::from(vec![Value::from("oob")]))
    );
}

#[test]
fn commands_wait_for_negotiation() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.receive();
    let expecting = "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'";
    check_error(&mut client, r#"{"execute": "query-version"}"#, expecting);
    check_error(&mut client, r#"{"execute": "no-such-command"}"#, expecting);
    check_error(
        &mut client,
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["nope"]}}"#,
        "GenericError: Parameter 'null' does not accept value 'nope'",
    );
    check(
        &mut client,
        r#"{"execute": "qmp_capabilities", "id": 1}"#,
        r#"{"return": {}, "id": 1}"#,
    );
    check_error(
        &mut client,
        r#"{"execute": "qmp_capabilities"}"#,
        "CommandNotFound: Capabilities negotiation is already complete, command ignored",
    );
}

#[test]
fn what_is_wrong_with_an_envelope_is_said_in_order() {
    let rig = Rig::start();
    let mut client = rig.client();
    for (input, want) in [
        (
            r#"{"execute": "no-such-command"}"#,
            "CommandNotFound: The command no-such-command has not been found",
        ),
        ("{}", "GenericError: QMP input lacks member 'execute'"),
        (
            r#"{"id": 9}"#,
            "GenericError: QMP input lacks member 'execute'",
        ),
        (
            r#"{"execute": 1}"#,
            "GenericError: QMP input member 'execute' must be a string",
        ),
        (
            r#"{"execute": "query-version", "arguments": []}"#,
            "GenericError: QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute": "query-version", "arguments": null}"#,
            "GenericError: QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute": "query-version", "foo": 1}"#,
            "GenericError: QMP input member 'foo' is unexpected",
        ),
        (
            r#"{"exec-oob": "query-version"}"#,
            "GenericError: QMP input member 'exec-oob' is unexpected",
        ),
        ("[1]", "GenericError: QMP input must be a JSON object"),
        (r#""x""#, "GenericError: QMP input must be a JSON object"),
        ("1 ", "GenericError: QMP input must be a JSON object"),
        ("null ", "GenericError: QMP input must be a JSON object"),
        (
            r#"{"execute": "quit", "execute": "quit"}"#,
            "GenericError: JSON parse error, duplicate key",
        ),
        (
            r#"{"execute": }"#,
            "GenericError: JSON parse error, expecting value",
        ),
        (
            r#"{"execute" 1}"#,
            "GenericError: JSON parse error, missing : in object pair",
        ),
        (
            "{\"execute\": hello}",
            "GenericError: JSON parse error, invalid keyword 'hello'",
        ),
        (
            r#"{"execute": "\q"}"#,
            "GenericError: JSON parse error, invalid escape sequence in string",
        ),
    ] {
        check_error(&mut client, input, want);
    }
    client.send_bytes(b"{\"execute\": \"\xc3\x28\"}");
    let message = client.receive().to_string();
    assert!(
        message.contains("invalid UTF-8 sequence in string"),
        "{message}"
    );
}

#[test]
fn arguments_are_checked_in_schema_order_and_named_by_path() {
    let rig = Rig::start();
    let mut client = rig.client();
    let add = |options: &str| format!(r#"{{"execute": "blockdev-add", "arguments": {options}}}"#);
    for (input, want) in [
        (
            add(r#"{"driver": "nope", "node-name": "n"}"#),
            "GenericError: Parameter 'driver' does not accept value 'nope'",
        ),
        (
            add(r#"{"driver": "file", "node-name": "n"}"#),
            "GenericError: Parameter 'filename' is missing",
        ),
        (
            add(r#"{"driver": "raw", "node-name": "n", "file": {"driver": "file"}}"#),
            "GenericError: Parameter 'file.filename' is missing",
        ),
        (
            add(r#"{"driver": "file", "node-name": "n", "filename": "x", "cache": {"direct": 1}}"#),
            "GenericError: Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            add(r#"{"driver": "file", "node-name": null, "filename": "x"}"#),
            "GenericError: Invalid parameter type for 'node-name', expected: string",
        ),
        (
            add(r#"{"driver": "file", "node-name": "n", "filename": "x", "cache": {"zip": 1}}"#),
            "GenericError: Parameter 'cache.zip' is unexpected",
        ),
        (
            add(r#"{"driver": "file", "node-name": "n", "filename": "x", "bogus": 1}"#),
            "GenericError: Parameter 'bogus' is unexpected",
        ),
        (
            r#"{"execute": "block_resize", "arguments": {"node-name": "n", "size": 1.0}}"#.into(),
            "GenericError: Invalid parameter type for 'size', expected: integer",
        ),
        (
            r#"{"execute": "block_resize", "arguments": {"node-name": "n", "size": true}}"#.into(),
            "GenericError: Invalid parameter type for 'size', expected: integer",
        ),
        (
            r#"{"execute": "block_resize", "arguments":
                {"node-name": "n", "size": 9223372036854775808}}"#
                .into(),
            "GenericError: Invalid parameter type for 'size', expected: integer",
        ),
        (
            r#"{"execute": "nbd-server-start", "arguments":
                {"addr": {"type": "unix", "data": {"path": "x"}}, "max-connections": 4294967296}}"#
                .into(),
            "GenericError: Parameter 'max-connections' expects uint32_t",
        ),
        (
            r#"{"execute": "query-version", "arguments": {"x": 1}}"#.into(),
            "GenericError: Parameter 'x' is unexpected",
        ),
    ] {
        check_error(&mut client, &input, want);
    }
}

#[test]
fn ids_are_echoed_as_they_are() {
    let rig = Rig::start();
    let mut client = rig.client();
    for id in [
        "null",
        "1",
        "18446744073709551615",
        "-1",
        "1.5",
        r#""x""#,
        "[1, {}]",
        r#"{"a": null}"#,
        "true",
    ] {
        let reply = client.ask(&format!(
            r#"{{"execute": "query-block-exports", "id": {id}}}"#
        ));
        let id = Value::from_json(id).expect("an id is JSON");
        assert_eq!(reply.get("id"), Some(&id));
        assert_eq!(reply.get("return"), Some(&Value::from(Vec::new())));
    }
    let reply = client.ask(r#"{"id": 9}"#);
    assert_eq!(reply.get("id").and_then(Value::as_i64), Some(9));
    let reply = client.ask(r#"{"execute": "query-version", "id": }"#);
    assert_eq!(reply.get("id"), None);
}

#[test]
fn input_is_a_stream_of_tokens() {
    let rig = Rig::start();
    let mut client = rig.client();
    let empty = Value::from_json(r#"{"return": []}"#).expect("JSON");
    // Several commands in one write, with all kinds of space between them.
    client.send("{'execute':'query-block-exports'}\r\n\t {\"execute\":\"query-block-exports\"}");
    assert_eq!(client.receive(), empty);
    assert_eq!(client.receive(), empty);
    // One command over many writes.
    for byte in br#"{"execute": "query-block-exports"}"# {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.receive(), empty);
    // A control byte aborts what is being read, and what follows is read again.
    client.send_bytes(b"{\"execute\": \"qu\x01{\"execute\": \"query-block-exports\"}");
    assert!(client.receive().get("error").is_some());
    assert_eq!(client.receive(), empty);
}

#[test]
fn commands_run_in_order_however_many_wait() {
    let rig = Rig::start();
    let mut client = rig.client();
    let command = |id: i64| format!(r#"{{"execute": "query-block-exports", "id": {id}}}"#);
    let burst: String = (0..500).map(command).collect();
    client.send(&burst);
    for id in 0..500 {
        let reply = client.receive();
        assert_eq!(reply.get("id").and_then(Value::as_i64), Some(id));
    }
}

#[test]
fn what_came_before_the_end_of_input_is_answered() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send(r#"{"execute": "query-block-exports"}{"execute": "query-version"} {"exec"#);
    client.end_input();
    assert!(client.receive().get("return").is_some());
    assert!(client.receive().get("return").is_some());
    assert_eq!(client.try_receive(), None);
}

#[test]
fn a_value_past_a_limit_is_one_error() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send(&"[".repeat(100_000));
    client.send(&"]".repeat(100_000));
    client.send(r#"{"execute": "query-block-exports"}"#);
    let error = client.receive();
    assert!(error.get("error").is_some(), "{error}");
    let empty = Value::from_json(r#"{"return": []}"#).expect("JSON");
    assert_eq!(client.receive(), empty);
}

#[test]
fn noise_is_survived() {
    let rig = Rig::start();
    // A generator of the congruential kind, from a fixed seed.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let alphabet = br#"{}[]:,"'\eE+-.0189aunltrfs \u"#;
    for round in 0..50 {
        let mut client = rig.connect();
        let mut noise = vec![];
        for _ in 0..2000 {
            let next = byte();
            let known = alphabet.get(usize::from(next) % (alphabet.len() * 2));
            noise.push(*known.unwrap_or(&next));
        }
        client.send_bytes(&noise);
        client.end_input();
        let replies = client.read_to_end();
        assert!(replies.ends_with(b"\r\n"), "round {round}");
    }
    rig.client().ok(r#"{"execute": "query-version"}"#);
}

#[test]
fn output_is_ascii() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("{\"execute\": \"\u{e9}\u{1f600}\u{7f}\"}");
    // The rig checks that the line is ASCII; the text is the same after decoding.
    let desc = client.receive();
    let desc = desc.get("error").and_then(|error| error.get("desc"));
    assert_eq!(
        desc.and_then(Value::as_str),
        Some("The command \u{e9}\u{1f600}\u{7f} has not been found")
    );
}

#[test]
fn out_of_band_needs_the_capability_and_a_command_that_allows_it() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.receive();
    client.ok(r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"#);
    check(
        &mut client,
        r#"{"exec-oob": "query-version", "id": 3}"#,
        r#"{"error": {"class": "GenericError",
            "desc": "The command query-version does not support OOB"}, "id": 3}"#,
    );
    check_error(
        &mut client,
        r#"{"execute": "query-version", "exec-oob": "query-version"}"#,
        "GenericError: QMP input member 'exec-oob' clashes with 'execute'",
    );
}

#[test]
fn a_second_client_is_greeted_when_the_first_leaves() {
    let rig = Rig::start();
    let mut first = rig.client();
    let mut second = rig.connect();
    first.ok(r#"{"execute": "query-version"}"#);
    drop(first);
    assert!(second.receive().get("QMP").is_some());
    // Each connection negotiates.
    check_error(
        &mut second,
        r#"{"execute": "query-version"}"#,
        "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'",
    );
}

#[test]
fn events_come_after_negotiation_only() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.receive();
    let emit = |id: &str| {
        let id = id.to_owned();
        rig.layer().events().emit(BlockExportDeleted { id });
    };
    emit("too-early");
    client.ok(r#"{"execute": "qmp_capabilities"}"#);
    emit("in-time");
    let event = client.receive();
    assert_eq!(
        event.get("event").and_then(Value::as_str),
        Some("BLOCK_EXPORT_DELETED")
    );
    assert_eq!(
        event.get("data"),
        Some(&Value::from_json(r#"{"id": "in-time"}"#).expect("JSON"))
    );
    let time = event.get("timestamp").expect("a time");
    assert!(time.get("seconds").and_then(Value::as_i64) > Some(0));
    assert!(time.get("microseconds").and_then(Value::as_i64) < Some(1_000_000));
}

#[test]
fn every_listener_hears_every_event() {
    struct Names(std::sync::Mutex<Vec<String>>);
    impl Listener for Names {
        fn heard(&self, _: Timestamp, event: &Event) {
            let mut names = self.0.lock().expect("not poisoned");
            names.push(event.name().to_owned());
        }
    }
    let rig = Rig::start();
    let names = std::sync::Arc::new(Names(std::sync::Mutex::default()));
    rig.layer().events().subscribe(&names);
    let id = "e".to_owned();
    rig.layer().events().emit(BlockExportDeleted { id });
    let names = names.0.lock().expect("not poisoned");
    assert_eq!(*names, ["BLOCK_EXPORT_DELETED"]);
}

#[test]
fn a_client_that_takes_no_events_is_cut() {
    let rig = Rig::start();
    let mut client = rig.client();
    // More than may wait, and than the kernel's buffers take.
    let id = "x".repeat(1 << 20);
    for _ in 0..16 {
        let id = id.clone();
        rig.layer().events().emit(BlockExportDeleted { id });
    }
    let rest = client.read_to_end();
    assert!(rest.len() < 12 << 20, "{} bytes waited", rest.len());
    // The daemon is well.
    rig.client().ok(r#"{"execute": "query-version"}"#);
}

#[test]
fn a_client_that_only_writes_does_not_fill_memory() {
    let rig = Rig::start();
    let mut client = rig.client();
    // Far more replies than the outbox holds; the daemon stops reading until they are taken.
    let burst = r#"{"execute": "query-qmp-schema"}"#.repeat(40);
    client.send(&burst);
    for _ in 0..40 {
        assert!(client.receive().get("return").is_some());
    }
}

#[test]
fn quit_is_answered_before_the_end() {
    let rig = Rig::start();
    let mut client = rig.client();
    check(
        &mut client,
        r#"{"execute": "quit", "id": "bye"}"#,
        r#"{"return": {}, "id": "bye"}"#,
    );
    assert_eq!(client.try_receive(), None);
    rig.join();
}
