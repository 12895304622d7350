//! What can go wrong, once, with its node, and the two answers every caller needs:
//! [`Error::errno`] for guests and NBD clients, [`Error::class`] for QMP.
//! Drivers describe what is wrong with an *image* in an enum of their own; the node wraps it here.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

/// The result of everything that touches a node.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed cause, as drivers hand it over.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error with the context that its reader needs; `source()` leads to the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed in the kernel or on the network.
    #[error("{op} of {len} bytes at {offset:#x} on node '{node}'")]
    Io {
        /// The node whose leaf failed.
        node: String,
        /// The verb: read, write, flush …
        op: &'static str,
        /// First byte of the request, in the node's address space.
        offset: u64,
        /// Bytes of the request.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Opening or preparing a file or socket failed.
    #[error("could not open '{path}'")]
    Open {
        /// What was to be opened.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The image breaks its specification.
    #[error("image of node '{node}' is corrupt")]
    Corrupt {
        /// The node that holds the image.
        node: String,
        /// The driver's own error, with offset and the specification's word.
        source: Source,
        /// Bytes of the image's file that a request was kept from, where it was.
        place: Option<Range<u64>>,
    },
    /// The image, option or operation is legal, and not built in.
    #[error("{what} is not supported by node '{node}'")]
    Unsupported {
        /// The node that was asked.
        node: String,
        /// What was asked for, as a noun.
        what: String,
    },
    /// A write to a node that may only be read.
    #[error("node '{node}' is read-only")]
    ReadOnly {
        /// The node that was asked.
        node: String,
    },
    /// Guest data of an encrypted image whose key nobody gave.
    #[error("node '{node}' is encrypted, and its key is missing")]
    Encrypted {
        /// The node that was asked.
        node: String,
    },
    /// A request that ends behind the end of its node.
    #[error("{len} bytes at {offset:#x} are outside node '{node}' of {end} bytes")]
    OutOfRange {
        /// The node that was asked.
        node: String,
        /// First byte of the request.
        offset: u64,
        /// Bytes of the request.
        len: u64,
        /// Length of the node.
        end: u64,
    },
    /// An option whose value cannot be used.
    #[error("{reason}")]
    InvalidOption {
        /// The member's path, as the schema spells it.
        option: String,
        /// A whole phrase that names the option.
        reason: String,
    },
    /// Two users of a node exclude each other.
    #[error("{reason}")]
    PermissionConflict {
        /// The node both want.
        node: String,
        /// Who holds what, as a phrase.
        reason: String,
    },
    /// Another program uses the image in a way that excludes ours.
    #[error("Failed to get {lock} lock")]
    ImageLocked {
        /// The image.
        path: String,
        /// What could not be had, as clients know it: `"write"`, `shared "write"` …
        lock: String,
    },
    /// An image names a file that nobody allowed to open.
    #[error("'{referrer}' names '{name}', which the open policy does not allow")]
    Denied {
        /// The image that names the other file.
        referrer: String,
        /// The name found inside the image.
        name: String,
    },
    /// No backend has this name.
    #[error("Cannot find device='{device}' nor node-name=''")]
    DeviceNotFound {
        /// The name that was looked up.
        device: String,
    },
    /// No node has this name.
    #[error("Cannot find device='' nor node-name='{node}'")]
    NodeNotFound {
        /// The name that was looked up.
        node: String,
    },
    /// No job has this name.
    #[error("Block job '{job}' not found")]
    JobNotFound {
        /// The name that was looked up.
        job: String,
    },
    /// The queue or layer that should do the work is shutting down.
    #[error("the block layer is shutting down")]
    ShutDown,
}

/// QMP's error classes; the schema's `ErrorClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Anything without a class of its own.
    GenericError,
    /// An image whose key is missing.
    DeviceEncrypted,
    /// An unknown `device`.
    DeviceNotFound,
    /// An unknown block job.
    DeviceNotActive,
}

impl Error {
    /// The number a guest or an NBD client gets.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Io { source, .. } | Error::Open { source, .. } => {
                Errno::from_io_error(source).unwrap_or(Errno::IO)
            }
            Error::Corrupt { .. } => Errno::IO,
            Error::Unsupported { .. } => Errno::NOTSUP,
            Error::ReadOnly { .. } => Errno::PERM,
            Error::OutOfRange { .. } | Error::InvalidOption { .. } => Errno::INVAL,
            Error::PermissionConflict { .. } => Errno::BUSY,
            Error::ImageLocked { .. } => Errno::AGAIN,
            Error::Denied { .. } | Error::Encrypted { .. } => Errno::ACCESS,
            Error::DeviceNotFound { .. }
            | Error::NodeNotFound { .. }
            | Error::JobNotFound { .. } => Errno::NODEV,
            Error::ShutDown => Errno::SHUTDOWN,
        }
    }

    /// The class QMP reports.
    pub fn class(&self) -> Class {
        match self {
            Error::DeviceNotFound { .. } => Class::DeviceNotFound,
            Error::Encrypted { .. } => Class::DeviceEncrypted,
            Error::JobNotFound { .. } => Class::DeviceNotActive,
            Error::Io { .. }
            | Error::Open { .. }
            | Error::Corrupt { .. }
            | Error::Unsupported { .. }
            | Error::ReadOnly { .. }
            | Error::OutOfRange { .. }
            | Error::InvalidOption { .. }
            | Error::PermissionConflict { .. }
            | Error::ImageLocked { .. }
            | Error::Denied { .. }
            | Error::NodeNotFound { .. }
            | Error::ShutDown => Class::GenericError,
        }
    }

    /// The whole chain of causes in one line, outermost first; the kernel's errors by their text
    /// alone, without their number.
    pub fn chain(&self) -> String {
        let (mut text, mut next) = match self {
            // What is wrong with an image is a whole text, which clients know without the node.
            Error::Corrupt { source, .. } => (source.to_string(), source.source()),
            _ => (self.to_string(), std::error::Error::source(self)),
        };
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause_text(cause));
            next = cause.source();
        }
        text
    }

    /// As [`chain`](Error::chain), beginning as sentences do, unless it begins with a name:
    /// `l2-cache-size may not …`.
    pub fn sentence(&self) -> String {
        let mut text = self.chain();
        let first_word = text.split(' ').next().unwrap_or_default();
        let is_name = first_word.contains(|c: char| c == '-' || c.is_ascii_digit());
        if !is_name && let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text
    }

    /// What a person can do about it, as a sentence for a terminal; not part of the error's text.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::ImageLocked { path, .. } => {
                Some(format!("Is another process using the image [{path}]?"))
            }
            Error::Io { .. }
            | Error::Open { .. }
            | Error::Corrupt { .. }
            | Error::Unsupported { .. }
            | Error::ReadOnly { .. }
            | Error::OutOfRange { .. }
            | Error::InvalidOption { .. }
            | Error::PermissionConflict { .. }
            | Error::Denied { .. }
            | Error::Encrypted { .. }
            | Error::DeviceNotFound { .. }
            | Error::NodeNotFound { .. }
            | Error::JobNotFound { .. }
            | Error::ShutDown => None,
        }
    }

    /// A short way for drivers to say that an option's value cannot be used.
    pub fn invalid(option: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::InvalidOption {
            option: option.into(),
            reason: reason.into(),
        }
    }
}

fn cause_text(cause: &(dyn std::error::Error + 'static)) -> String {
    match cause.downcast_ref::<io::Error>() {
        Some(error) => kernel_text(error),
        None => cause.to_string(),
    }
}

/// What the kernel says, without the number.
pub fn kernel_text(error: &io::Error) -> String {
    let text = error.to_string();
    let number = error
        .raw_os_error()
        .map(|number| format!(" (os error {number})"));
    match number.and_then(|number| text.strip_suffix(&number).map(str::to_owned)) {
        Some(short) => short,
        None => text,
    }
}
