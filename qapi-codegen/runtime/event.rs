//! Events: what happened, and when. A server makes the message, a client takes it apart.
//! Invariant: a client keeps what it does not know, as it came.

use super::convert::Invalid;
use super::value::{Object, Value};

/// When an event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Since the epoch; −1 when the host's clock failed.
    pub seconds: i64,
    /// Within the second; −1 when the host's clock failed.
    pub microseconds: i64,
}

impl Timestamp {
    /// When nobody knows.
    pub const UNKNOWN: Self = Self {
        seconds: -1,
        microseconds: -1,
    };

    /// Now, by the host's clock.
    pub fn now() -> Self {
        let Ok(since) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) else {
            return Self::UNKNOWN;
        };
        <i64 as std::convert::TryFrom<u64>>::try_from(since.as_secs()).map_or(
            Self::UNKNOWN,
            |seconds| Self {
                seconds,
                microseconds: i64::from(since.subsec_micros()),
            },
        )
    }

    /// The message of event `name`, which carries `data`.
    pub fn event(self, name: &str, data: Object) -> Value {
        let mut time = Object::new();
        time.insert("seconds", self.seconds);
        time.insert("microseconds", self.microseconds);
        let mut object = Object::new();
        object.insert("timestamp", time);
        object.insert("event", name);
        if !data.is_empty() {
            object.insert("data", data);
        }
        Value::Object(object)
    }

    fn read(value: &Value) -> Self {
        let part = |name| value.get(name).and_then(Value::as_i64).unwrap_or(-1);
        Self {
            seconds: part("seconds"),
            microseconds: part("microseconds"),
        }
    }
}

/// The events of a schema, as one type.
pub trait Events: Sized {
    /// Reads event `name` with `data`; `None` for one that the schema does not have.
    ///
    /// # Errors
    /// When the data does not fit the schema. Members it does not have are skipped.
    fn decode(name: &str, data: Object) -> Result<Option<Self>, Invalid>;
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct RawEvent {
    /// Its name.
    pub name: String,
    /// What it carries; empty where it carries nothing.
    pub data: Object,
    /// When it happened.
    pub timestamp: Timestamp,
}

/// An event as a client of a schema sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Received<E> {
    /// One that the schema has.
    Known {
        /// What happened.
        event: E,
        /// When.
        timestamp: Timestamp,
    },
    /// One that it does not have: the server knows a later one.
    Unknown {
        /// Its name.
        name: String,
        /// What it carries.
        data: Object,
        /// When it happened.
        timestamp: Timestamp,
    },
}

impl RawEvent {
    /// Takes a message apart; `None` if it is not an event.
    pub(super) fn from_message(mut object: Object) -> Option<Self> {
        let Value::String(name) = object.remove("event")? else {
            return None;
        };
        let data = match object.remove("data") {
            None => Object::new(),
            Some(Value::Object(data)) => data,
            Some(_) => return None,
        };
        let timestamp = object.get("timestamp");
        Some(Self {
            name,
            data,
            timestamp: timestamp.map_or(Timestamp::UNKNOWN, Timestamp::read),
        })
    }

    /// Reads it as an event of a schema.
    ///
    /// # Errors
    /// When the schema has it, with other data.
    pub fn decode<E: Events>(&self) -> Result<Received<E>, Invalid> {
        let timestamp = self.timestamp;
        Ok(match E::decode(&self.name, self.data.clone())? {
            Some(event) => Received::Known { event, timestamp },
            None => Received::Unknown {
                name: self.name.clone(),
                data: self.data.clone(),
                timestamp,
            },
        })
    }
}
