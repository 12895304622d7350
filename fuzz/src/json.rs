//! JSON as a QMP server reads it: a stream of values, each perhaps a command, or the options of a
//! node.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use block_schema::types::BlockdevOptions;
use block_schema::{JsonStream, Session, Unknown, Value, Wire, answer, server};

/// A server that has no command built in, but decodes the arguments of each.
struct Nobody;

impl server::Common for Nobody {}
impl server::BlockCore for Nobody {}
impl server::Control for Nobody {}
impl server::Graph for Nobody {}
impl server::Jobs for Nobody {}

impl server::Objects for Nobody {}

/// Reads a stream at once and byte by byte, and answers what it holds: the same values, which are
/// written as they are read.
pub(crate) fn stream(bytes: &[u8]) {
    let found = outcomes(bytes, bytes.len().max(1));
    assert_eq!(
        shown(&found),
        shown(&outcomes(bytes, 1)),
        "pieces make a difference"
    );
    for outcome in found {
        let value = outcome.as_ref().ok().cloned();
        let session = Session {
            negotiated: true,
            oob: true,
        };
        let mut cx = Context::from_waker(Waker::noop());
        let reply = pin!(answer(&Nobody, session, outcome)).poll(&mut cx);
        assert!(
            matches!(reply, Poll::Ready(_)),
            "an answer waits for nothing"
        );
        if let Some(value) = value {
            reread(&value);
        }
    }
}

fn reread(value: &Value) {
    let text = value.to_ascii_json();
    let again = Value::from_json(&text).expect("what was written is read");
    assert_eq!(again.to_ascii_json(), text, "written twice");
    if let Ok(options) = BlockdevOptions::decode(again, Unknown::Refuse) {
        let back = BlockdevOptions::decode(options.encode(), Unknown::Refuse);
        assert_eq!(back.as_ref().ok(), Some(&options), "options sent back");
    }
}

type Outcome = Result<Value, block_schema::Error>;

fn outcomes(bytes: &[u8], piece: usize) -> Vec<Outcome> {
    let mut stream = JsonStream::new();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        found.extend(stream.feed(piece));
    }
    found.extend(stream.finish());
    found
}

fn shown(outcomes: &[Outcome]) -> Vec<String> {
    let show = |outcome: &Outcome| match outcome {
        Ok(value) => value.to_ascii_json(),
        Err(error) => format!("{error:?}"),
    };
    outcomes.iter().map(show).collect()
}
