//! What the schema does not have: a client reads past it and keeps it, a server refuses it in
//! QEMU's words. Servers here ask for futures that run on any thread.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use consumer_build_script::open::runtime::{
    Error, Object, RawEvent, Received, Timestamp, Unknown, Value, Wire,
};
use consumer_build_script::open::types::{Area, AreaBranch, Shape};
use consumer_build_script::open::{Event, commands, dispatch, events, server};

fn decode<T: Wire>(json: &str, unknown: Unknown) -> Result<T, String> {
    let value = Value::from_json(json).expect("the test's JSON is right");
    T::decode(value, unknown).map_err(|error| error.to_string())
}

/// What a client reads; on the wire again it is what it was, and a server refuses it.
#[track_caller]
fn check<T: Wire>(json: &str, refusal: &str) -> T {
    let read: T = decode(json, Unknown::Ignore).expect("clients read it");
    assert_eq!(read.encode().to_ascii_json(), json);
    let refused = decode::<T>(json, Unknown::Refuse).err();
    assert_eq!(refused.as_deref(), Some(refusal));
    read
}

#[test]
fn unknown_values_of_enums_are_kept_by_clients() {
    let shape: Shape = check(r#""oval""#, "Parameter 'null' does not accept value 'oval'");
    assert_eq!(shape, Shape::Other("oval".to_owned()));
    assert_eq!(shape.as_str(), "oval");
    assert!("oval".parse::<Shape>().is_err());
}

#[test]
fn unknown_branches_of_unions_are_kept_with_their_members() {
    let area: Area = check(
        r#"{"shape": "oval", "name": "egg", "width": 2, "inside": [null]}"#,
        "Parameter 'shape' does not accept value 'oval'",
    );
    assert_eq!(area.name.as_deref(), Some("egg"));
    assert_eq!(area.shape.kind(), Shape::Other("oval".to_owned()));
    let AreaBranch::Other { tag, members } = area.shape else {
        panic!("not kept: {:?}", area.shape)
    };
    assert_eq!(tag, "oval");
    assert_eq!(
        Value::Object(members).to_ascii_json(),
        r#"{"width": 2, "inside": [null]}"#
    );
}

fn event(name: &str, data: &str) -> Result<Received<Event>, String> {
    let Ok(Value::Object(data)) = Value::from_json(data) else {
        panic!("no object: {data}")
    };
    let raw = RawEvent {
        name: name.to_owned(),
        data,
        timestamp: Timestamp::UNKNOWN,
    };
    raw.decode().map_err(|error| error.to_string())
}

#[test]
fn unknown_events_come_with_all_that_they_carry() {
    let Ok(Received::Unknown { name, data, .. }) = event("ERASED", r#"{"shape": "round"}"#) else {
        panic!("not kept")
    };
    assert_eq!(name, "ERASED");
    assert_eq!(Value::Object(data).to_ascii_json(), r#"{"shape": "round"}"#);
}

#[test]
fn known_events_keep_values_that_are_not() {
    let Ok(Received::Known { event, .. }) = event("DRAWN", r#"{"shape": "oval", "later": 1}"#)
    else {
        panic!("not known")
    };
    let oval = Shape::Other("oval".to_owned());
    assert_eq!(event, Event::from(events::Drawn::new(oval)));
    assert_eq!(
        Value::Object(event.data()).to_ascii_json(),
        r#"{"shape": "oval"}"#
    );
}

#[test]
fn known_events_with_other_data_are_errors() {
    let error = event("DRAWN", r#"{"shape": 1}"#).unwrap_err();
    assert_eq!(
        error,
        "Invalid parameter type for 'shape', expected: string"
    );
}

struct Painter;

impl server::Open for Painter {
    async fn draw(&self, arguments: commands::Draw) -> Result<Area, Error> {
        // What lives over an await decides whether the future is `Send`.
        let area = std::future::ready(arguments.area).await;
        Ok(area)
    }
}

impl server::OpenOob for Painter {
    async fn wipe(&self, _: commands::Wipe) -> Result<(), Error> {
        Ok(())
    }
}

fn arguments(json: &str) -> Object {
    let Ok(Value::Object(arguments)) = Value::from_json(json) else {
        panic!("no object: {json}")
    };
    arguments
}

/// Runs a call on another thread than the one that made it.
fn elsewhere(call: impl Future<Output = Result<Value, Error>> + Send) -> String {
    let poll = || match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(value)) => value.to_ascii_json(),
        Poll::Ready(Err(error)) => error.desc,
        Poll::Pending => panic!("the call waits"),
    };
    std::thread::scope(|scope| scope.spawn(poll).join().expect("the call ends"))
}

/// Runs `draw`, of any server: that this compiles is what servers with `Send` futures are for.
fn draw<S: server::Open + server::OpenOob>(server: &S, json: &str) -> String {
    elsewhere(dispatch(server, "draw", arguments(json)))
}

#[test]
fn calls_run_on_any_thread() {
    let area = r#"{"shape": "square", "side": 3}"#;
    assert_eq!(draw(&Painter, &format!(r#"{{"area": {area}}}"#)), area);
    assert_eq!(elsewhere(dispatch(&Painter, "wipe", Object::new())), "{}");
}

#[test]
fn dispatch_refuses_what_the_schema_does_not_have() {
    let area = r#"{"shape": "square", "side": 3}"#;
    assert_eq!(
        draw(&Painter, r#"{"area": {"shape": "oval", "width": 2}}"#),
        "Parameter 'shape' does not accept value 'oval'"
    );
    assert_eq!(
        draw(&Painter, &format!(r#"{{"area": {area}, "hole": "oval"}}"#)),
        "Parameter 'hole' does not accept value 'oval'"
    );
    assert_eq!(
        draw(&Painter, &format!(r#"{{"area": {area}, "depth": 1}}"#)),
        "Parameter 'depth' is unexpected"
    );
    let other = elsewhere(dispatch(&Painter, "erase", Object::new()));
    assert_eq!(other, "The command erase has not been found");
}
