//! A client's end of a connection: what it sends, and what it makes of what comes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::Random;
use crate::runtime::{
    CallError, Client, Command, Connection, Events, Fields, Invalid, MAX_EVENTS, Members, Object,
    OutOfBand, RawEvent, Received, Value, Wire,
};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10},
    "package": "p"}, "capabilities": ["oob", "later"]}}"#;

/// A command without arguments that answers a number.
#[derive(Debug, Clone)]
struct Count;

impl Fields for Count {
    fn take(_: &mut Members) -> Result<Self, Invalid> {
        Ok(Self)
    }

    fn put(&self, _: &mut Object) {}
}

impl Command for Count {
    const NAME: &'static str = "count";
    const ALLOW_OOB: bool = true;
    type Ok = Vec<u8>;
}

impl OutOfBand for Count {}

/// One whose success has no reply.
#[derive(Debug, Clone)]
struct Halt;

impl Fields for Halt {
    fn take(_: &mut Members) -> Result<Self, Invalid> {
        Ok(Self)
    }

    fn put(&self, _: &mut Object) {}
}

impl Command for Halt {
    const NAME: &'static str = "halt";
    const ALLOW_OOB: bool = false;
    const ANSWERS: bool = false;
    type Ok = ();
}

#[derive(Debug, PartialEq)]
struct Rung {
    times: i64,
}

impl Events for Rung {
    fn decode(name: &str, data: Object) -> Result<Option<Self>, Invalid> {
        let read = |data: Object| {
            let value = data.get("times").cloned().unwrap_or(Value::Null);
            i64::decode(value, crate::runtime::Unknown::Ignore)
        };
        match name {
            "RUNG" => read(data).map(|times| Some(Self { times })),
            _ => Ok(None),
        }
    }
}

fn sent(connection: &mut Connection) -> String {
    let text = String::from_utf8(connection.output().to_vec()).unwrap();
    connection.sent(text.len());
    text
}

/// A connection that has negotiated.
fn ready() -> Connection {
    let mut connection = Connection::new();
    connection.receive(GREETING.as_bytes()).unwrap();
    assert!(!connection.is_ready());
    assert_eq!(
        sent(&mut connection),
        "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}, \"id\": 1}\r\n"
    );
    connection.receive(b"{\"return\": {}, \"id\": 1}").unwrap();
    assert!(connection.is_ready());
    connection
}

#[test]
fn a_greeting_is_answered_by_negotiation() {
    let connection = ready();
    let greeting = connection.greeting().unwrap();
    assert_eq!(greeting.version, (10, 0, 2));
    assert_eq!(greeting.package, "p");
    assert_eq!(greeting.capabilities, ["oob", "later"]);
    assert!(connection.has_oob());
}

#[test]
fn oob_is_asked_for_only_where_offered_and_wanted() {
    let plain = r#"{"execute": "qmp_capabilities", "id": 1}"#.to_owned() + "\r\n";
    let mut unwanted = Connection::without_oob();
    unwanted.receive(GREETING.as_bytes()).unwrap();
    assert_eq!(sent(&mut unwanted), plain);
    let mut unknown = Connection::new();
    unknown
        .receive(br#"{"QMP": {"capabilities": []}}"#)
        .unwrap();
    assert_eq!(sent(&mut unknown), plain);
    assert!(!unknown.has_oob());
}

#[test]
fn replies_find_their_calls_in_any_order() {
    let mut connection = ready();
    let first = connection.call(&Count);
    let second = connection.call_oob(&Count);
    let third = connection.execute("x", [("a", 1)].into_iter().collect());
    assert_eq!(
        sent(&mut connection),
        "{\"execute\": \"count\", \"id\": 2}\r\n{\"exec-oob\": \"count\", \"id\": 3}\r\n\
         {\"execute\": \"x\", \"arguments\": {\"a\": 1}, \"id\": 4}\r\n"
    );
    let text = br#"{"id": 3, "return": [1]} {"return": 1, "id": 2}
        {"error": {"class": "LaterClass", "desc": "no"}, "id": 4}{"return": 5, "id": 77}"#;
    connection.receive(text).unwrap();
    assert_eq!(
        connection.reply(second),
        Some(Ok(vec![1_i64.into()].into()))
    );
    assert_eq!(connection.reply(second), None);
    assert_eq!(connection.reply(first), Some(Ok(1_i64.into())));
    assert_eq!(connection.reply(third).unwrap().unwrap_err().desc, "no");
}

#[test]
fn a_reply_without_id_is_for_the_oldest_call() {
    let mut connection = ready();
    let oob = connection.call_oob(&Count);
    let first = connection.call(&Count);
    let second = connection.call(&Count);
    let error = br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#;
    connection.receive(error).unwrap();
    assert!(connection.reply(first).unwrap().is_err());
    assert_eq!(connection.reply(second), None);
    assert_eq!(connection.reply(oob), None);
}

#[test]
fn an_abandoned_call_leaves_nothing() {
    let mut connection = ready();
    let given_up = connection.call(&Count);
    connection.abandon(given_up);
    let next = connection.call(&Count);
    connection
        .receive(br#"{"return": 1, "id": 2}{"return": 2, "id": 3}"#)
        .unwrap();
    assert_eq!(connection.reply(given_up), None);
    assert_eq!(connection.reply(next), Some(Ok(2_i64.into())));
}

#[test]
fn a_command_without_reply_is_not_waited_for() {
    let mut connection = Connection::guest_agent();
    let halt = connection.call(&Halt);
    assert_eq!(connection.reply(halt), Some(Ok(Object::new().into())));
    let count = connection.call(&Count);
    // Old agents give no id: a value cannot be for the command that gives none, an error is.
    connection.receive(br#"{"return": 1}"#).unwrap();
    assert_eq!(connection.reply(count), Some(Ok(1_i64.into())));
    let halt = connection.call(&Halt);
    let count = connection.call(&Count);
    let error = br#"{"error": {"class": "GenericError", "desc": "no"}} {"return": 2}"#;
    connection.receive(error).unwrap();
    assert_eq!(connection.reply(halt), None);
    assert_eq!(connection.reply(count), Some(Ok(2_i64.into())));
}

#[test]
fn events_are_kept_whatever_they_are() {
    let mut connection = ready();
    let text = br#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RUNG", "data": {"times": 2, "new": 1}}
        {"event": "LATER", "data": {"x": null}, "timestamp": {"seconds": 3, "microseconds": 4}, "more": 1}
        {"event": "RUNG", "data": {"times": "two"}}"#;
    connection.receive(text).unwrap();
    let mut next = || connection.event().unwrap().decode::<Rung>();
    let known = next().unwrap();
    assert!(
        matches!(&known, Received::Known { event: Rung { times: 2 }, timestamp } if timestamp.seconds == -1)
    );
    let unknown = next().unwrap();
    let Received::Unknown {
        name,
        data,
        timestamp,
    } = unknown
    else {
        panic!("{unknown:?}");
    };
    assert_eq!(name, "LATER");
    assert_eq!(data.get("x"), Some(&Value::Null));
    assert_eq!((timestamp.seconds, timestamp.microseconds), (3, 4));
    assert!(next().is_err());
    assert_eq!(connection.event(), None);
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    let mut connection = ready();
    for number in 0..=MAX_EVENTS {
        let text = format!(r#"{{"event": "E{number}"}}"#);
        connection.receive(text.as_bytes()).unwrap();
    }
    assert_eq!(connection.lost_events(), 1);
    assert_eq!(connection.event().unwrap().name, "E1");
}

#[track_caller]
fn check_broken(input: &[u8], want: &str) {
    let mut connection = ready();
    let call = connection.call(&Count);
    let before = br#"{"event": "E"}{"return": 1, "id": 2}"#;
    let whole = [before, input].concat();
    let error = connection.receive(&whole).unwrap_err();
    assert_eq!(error.to_string(), want);
    // What came before is there, and the first error stays.
    assert!(connection.event().is_some() && connection.reply(call).is_some());
    assert_eq!(connection.receive(b"{}").unwrap_err().to_string(), want);
    assert_eq!(connection.closed().to_string(), want);
}

#[test]
fn what_is_not_qmp_ends_the_connection() {
    check_broken(
        b"{]",
        "the server does not send JSON: JSON parse error, expecting value",
    );
    check_broken(
        b"{'return': 1, 'return': 2}",
        "the server does not send JSON: JSON parse error, duplicate key",
    );
    check_broken(
        b"[]",
        "the server does not speak QMP: a message is not an object",
    );
    check_broken(
        b"{}",
        "the server does not speak QMP: a message is neither reply nor event",
    );
    check_broken(
        br#"{"error": {"class": "X"}}"#,
        "the server does not speak QMP: a message is neither reply nor event",
    );
    check_broken(
        br#"{"event": 1}"#,
        "the server does not speak QMP: an event has no name, or odd data",
    );
    check_broken(
        &[b'['; 1025],
        "the server does not send JSON: JSON nesting depth limit exceeded",
    );
    let mut stranger = Connection::new();
    let error = stranger.receive(b"{'return': {}}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server does not speak QMP: there is no greeting"
    );
}

#[test]
fn a_refused_negotiation_is_told() {
    let mut connection = Connection::new();
    connection.receive(GREETING.as_bytes()).unwrap();
    let refusal = br#"{"error": {"class": "GenericError", "desc": "no"}, "id": 1}"#;
    let error = connection.receive(refusal).unwrap_err();
    assert_eq!(error.to_string(), "the server refuses to negotiate: no");
}

#[test]
fn where_input_is_cut_makes_no_difference() {
    let text = "\u{feff}".to_owned()
        + GREETING
        + "\r\n{\"return\": {}, \"id\": 3}\r\n{\"event\": \"\u{e9}\\ud83d\\ude00\"}\r\n\
           \t{\"return\": [1, 2.5, \"'\"], \"id\": 2} {'return': 3, 'id': 1, 'later': {}}\r\n";
    for seed in 0..2000 {
        let mut random = Random(seed);
        let mut connection = Connection::new();
        let first = connection.call(&Count);
        let second = connection.call(&Count);
        // The calls were made first here: negotiation has the third number.
        for piece in random.pieces(text.as_bytes()) {
            connection.receive(piece).unwrap();
        }
        assert!(connection.greeting().is_some(), "seed {seed}");
        let event = connection.event().unwrap();
        assert_eq!(event.name, "\u{e9}\u{1f600}", "seed {seed}");
        let list = connection.reply(second).unwrap().unwrap();
        assert_eq!(list.as_array().unwrap().len(), 3, "seed {seed}");
        assert!(connection.reply(first).is_some(), "seed {seed}");
    }
}

#[test]
fn garbage_never_panics() {
    let alphabet: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\"",
        b"'",
        b"\\",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\0",
        b"1",
        b"-",
        b"true",
        b"\"id\"",
        b"\"return\"",
        b"\"event\"",
        b"\"error\"",
        b" ",
        b"\r\n",
        b"{\"return\": 1, \"id\": 1}",
        b"\xed\xa0\x80",
    ];
    for seed in 0..5000 {
        let mut random = Random(seed);
        let mut connection = if seed % 2 == 0 {
            ready()
        } else {
            let mut agent = Connection::guest_agent();
            agent.sync();
            agent
        };
        let call = connection.call(&Count);
        for _ in 0..random.below(60) {
            let piece = alphabet[random.below(alphabet.len())];
            if connection.receive(piece).is_err() {
                break;
            }
        }
        let _ = connection.reply(call);
        let _ = connection.event();
    }
}

/// The number that a guest agent is asked for.
fn number_asked(connection: &mut Connection) -> i64 {
    let output = connection.output().to_vec();
    connection.sent(output.len());
    assert_eq!(output[0], 0xff);
    let text = std::str::from_utf8(&output[1..]).unwrap();
    let value = Value::from_json(text).unwrap();
    assert_eq!(
        value.get("execute").and_then(Value::as_str),
        Some("guest-sync-delimited")
    );
    let id = value
        .get("arguments")
        .and_then(|arguments| arguments.get("id"));
    id.and_then(Value::as_i64).unwrap()
}

#[test]
fn a_guest_agent_is_brought_in_step_after_garbage() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut connection = Connection::guest_agent();
        connection.sync();
        let number = number_asked(&mut connection);
        let mut bytes =
            b"rn\": 1}\r\n{\"x\": \xc3{\"return\": 2}\xff{\"return\": 5}\n{{\xff\xff".to_vec();
        bytes.extend_from_slice(
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"x\"}}\n\xff",
        );
        bytes.extend_from_slice(format!("{{\"return\": {number}}}\n").as_bytes());
        bytes.extend_from_slice(b"{\"return\": [7]}\n");
        // Old agents give no id.
        let call = connection.call(&Count);
        for piece in random.pieces(&bytes) {
            connection.receive(piece).unwrap();
        }
        assert!(connection.is_ready(), "seed {seed}");
        let answer = connection.reply(call);
        assert_eq!(answer, Some(Ok(vec![7_i64.into()].into())), "seed {seed}");
    }
}

#[test]
fn a_guest_agent_that_lost_step_is_brought_back() {
    let mut connection = Connection::guest_agent();
    let lost = connection.call(&Count);
    connection.receive(b"{]").unwrap_err();
    let _ = sent(&mut connection);
    connection.sync();
    let number = number_asked(&mut connection);
    connection.receive("\u{1}{'return': 3}".as_bytes()).unwrap();
    connection.receive(&[0xff]).unwrap();
    connection
        .receive(format!("{{'return': {number}}}").as_bytes())
        .unwrap();
    assert!(connection.is_ready());
    assert_eq!(connection.reply(lost), None);
}

/// A stream with a script: what is read, piece by piece, and where reading fails.
struct Script {
    pieces: VecDeque<io::Result<&'static str>>,
    written: Vec<u8>,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.pieces.pop_front() else {
            return Ok(0);
        };
        let bytes = piece?.as_bytes();
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Never all at once.
        let count = bytes.len().min(7);
        self.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(pieces: Vec<io::Result<&'static str>>) -> Client<Script> {
    let mut all: VecDeque<_> = vec![Ok(GREETING), Ok("{\"return\": {}, \"id\": 1}")].into();
    all.extend(pieces);
    let script = Script {
        pieces: all,
        written: Vec::new(),
    };
    Client::connect(script).unwrap()
}

#[test]
fn a_call_waits_for_its_reply_and_keeps_events() {
    let mut client = client(vec![
        Ok("{\"event\": \"A\"}{\"return\": [1,"),
        Err(io::ErrorKind::Interrupted.into()),
        Ok("2], \"id\": 2}{\"event\": \"B\"}"),
    ]);
    assert_eq!(client.call(Count).unwrap(), [1, 2]);
    assert_eq!(client.next_event().unwrap().name, "A");
    assert_eq!(
        client.queued_event().map(|event: RawEvent| event.name),
        Some("B".to_owned())
    );
    let error = client.call(Count).unwrap_err();
    assert_eq!(error.to_string(), "the server closed the connection");
    let written = String::from_utf8(client.into_stream().written).unwrap();
    assert!(
        written.ends_with("{\"execute\": \"count\", \"id\": 3}\r\n"),
        "{written}"
    );
}

#[test]
fn an_answer_that_does_not_fit_names_the_place() {
    let mut client = client(vec![Ok("{\"return\": [1, 2, \"x\"], \"id\": 2}")]);
    let error = client.call(Count).unwrap_err();
    assert_eq!(
        error.to_string(),
        "answer does not fit the schema: Parameter '[2]' expects uint64"
    );
}

#[test]
fn a_time_limit_leaves_the_client_usable() {
    let timeout = || Err(io::Error::from(io::ErrorKind::WouldBlock));
    let mut client = client(vec![
        timeout(),
        Ok("{\"return\": [1], \"id\": 2}{\"return\": [2], \"id\""),
        timeout(),
        Ok(": 3}"),
        Ok("{\"return\": [3], \"id\": 4}"),
    ]);
    let kind = |error: CallError| match error {
        CallError::Connection(crate::runtime::ConnectionError::Io(error)) => error.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(
        kind(client.call(Count).unwrap_err()),
        io::ErrorKind::WouldBlock
    );
    let call = client.submit(&Count);
    assert_eq!(
        kind(client.wait(&call).unwrap_err()),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(client.wait(&call).unwrap(), [2]);
    assert_eq!(client.call_oob(Count).unwrap(), [3]);
}
