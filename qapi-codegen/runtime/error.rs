//! Errors as they go over the wire: a class and a description.

use std::fmt;

use super::value::{Object, Value};

/// What kind of error it is; clients branch on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Anything without a class of its own.
    GenericError,
    /// The command is not known, or not at this time.
    CommandNotFound,
    /// The device has an encryption key missing.
    DeviceEncrypted,
    /// What was asked for is not running.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// The host lacks a KVM capability.
    KVMMissingCap,
}

/// The error of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its class.
    pub class: ErrorClass,
    /// What went wrong, for people.
    pub desc: String,
}

impl ErrorClass {
    const ALL: [Self; 6] = [
        Self::GenericError,
        Self::CommandNotFound,
        Self::DeviceEncrypted,
        Self::DeviceNotActive,
        Self::DeviceNotFound,
        Self::KVMMissingCap,
    ];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceEncrypted => "DeviceEncrypted",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KVMMissingCap => "KVMMissingCap",
        }
    }

    /// The class called `name`; one that is not known counts as `GenericError`.
    pub fn from_name(name: &str) -> Self {
        Self::ALL
            .iter()
            .copied()
            .find(|class| class.as_str() == name)
            .unwrap_or(Self::GenericError)
    }
}

impl Error {
    /// An error of class `class`.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self {
            class,
            desc: desc.into(),
        }
    }

    /// An error of class `GenericError`.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// An error of class `CommandNotFound`.
    pub fn command_not_found(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::CommandNotFound, desc)
    }

    /// `{"class": …, "desc": …}`.
    pub fn to_value(&self) -> Value {
        let mut object = Object::new();
        object.insert("class", self.class.as_str());
        object.insert("desc", self.desc.as_str());
        Value::Object(object)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for Error {}
