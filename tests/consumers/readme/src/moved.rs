//! A program that used qapi-rs, moved.

use std::error::Error;
use std::time::Duration;

use crate::built::qapi::runtime::{CallError, Client, Received};
use crate::built::qapi::{Event, commands};

/// Asks the server that listens at `socket`, then waits for a lamp to break.
pub fn watch(socket: &str) -> Result<String, Box<dyn Error>> {
    let mut client = Client::connect_unix(socket)?;
    client
        .stream()
        .set_read_timeout(Some(Duration::from_secs(60)))?;
    match client.call(commands::QueryLamps {}) {
        Ok(lamps) => println!("{} lamps", lamps.len()),
        // What the server said, as opposed to a broken connection.
        Err(CallError::Refused(error)) => println!("{}: {}", error.class.as_str(), error.desc),
        Err(other) => return Err(other.into()),
    }
    loop {
        match client.next_event()?.decode::<Event>()? {
            Received::Known {
                event: Event::LampBroke(broke),
                ..
            } => return Ok(broke.name),
            other => println!("something else happened: {other:?}"),
        }
    }
}
