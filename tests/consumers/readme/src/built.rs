//! Lamps that can be asked, and who asks them.

/// What `qapi/lamp.json` defines.
pub mod qapi {
    include!(concat!(env!("OUT_DIR"), "/qapi.rs"));
}

use std::io::{Read, Write};

use qapi::runtime::{CallError, Client, Error};
use qapi::{commands, server, types};

/// A server: its lamps.
#[derive(Debug)]
pub struct House {
    /// In no order.
    pub lamps: Vec<types::Lamp>,
}

impl server::Lamp for House {
    async fn query_lamps(&self, _: commands::QueryLamps) -> Result<Vec<types::Lamp>, Error> {
        Ok(self.lamps.clone())
    }
}

/// A client, on any stream: the names of the lamps.
pub fn names(stream: impl Read + Write) -> Result<Vec<String>, CallError> {
    let mut client = Client::connect(stream)?;
    let lamps = client.call(commands::QueryLamps {})?;
    Ok(lamps.into_iter().map(|lamp| lamp.name).collect())
}
