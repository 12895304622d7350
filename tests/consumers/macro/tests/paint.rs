//! The macro gives what the build script gives.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use consumer_macro::qapi::runtime::{Error, Object, Timestamp, Value};
use consumer_macro::qapi::types::{Colour, Pixel, PixelPosition};
use consumer_macro::qapi::{Event, commands, dispatch, events, server};

struct Painter;

impl server::Commands for Painter {
    async fn paint(&self, arguments: commands::Paint) -> Result<u64, Error> {
        Ok(arguments.pixels.len() as u64)
    }

    async fn raw_paint(&self, arguments: commands::RawPaint) -> Result<Value, Error> {
        Ok(Value::Object(arguments.0))
    }
}

fn call(command: &str, json: &str) -> String {
    let Ok(Value::Object(arguments)) = Value::from_json(json) else {
        panic!("no object: {json}")
    };
    match pin!(dispatch(&Painter, command, arguments)).poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(value)) => value.to_ascii_json(),
        Poll::Ready(Err(error)) => error.desc,
        Poll::Pending => panic!("the call waits"),
    }
}

#[test]
fn commands_are_dispatched() {
    assert_eq!(
        call(
            "paint",
            r#"{"pixels": [{"colour": "red"}, {"colour": "2nd"}]}"#
        ),
        "2"
    );
    assert_eq!(
        call(
            "paint",
            r#"{"pixels": [{"colour": "red", "position": {"x": 256, "y": 0}}]}"#
        ),
        "Parameter 'x' expects uint8_t"
    );
    assert_eq!(
        call("raw-paint", r#"{"anything": [null]}"#),
        r#"{"anything": [null]}"#
    );
    assert_eq!(call("nope", "{}"), "The command nope has not been found");
}

#[test]
fn events_take_their_data_from_a_type() {
    let mut pixel = Pixel::new(Colour::LightRed);
    pixel.position = Some(PixelPosition { x: 1, y: 2 });
    pixel.next = Some(Box::new(Pixel::new(Colour::_2nd)));
    let event = Event::from(events::Painted(pixel));
    let message = event.to_value(Timestamp {
        seconds: 1,
        microseconds: 2,
    });
    assert_eq!(
        message.get("data").map(Value::to_ascii_json).as_deref(),
        Some(r#"{"colour": "light-red", "position": {"x": 1, "y": 2}, "next": {"colour": "2nd"}}"#)
    );
    assert_eq!(Event::decode("PAINTED", event.data()), Ok(Some(event)));
    assert_eq!("light-red".parse(), Ok(Colour::LightRed));
    assert_eq!(Object::new(), Object::default());
}
