//! Hand-written impls on generated types: what callers need that no schema says.

use crate::ErrorClass;
use crate::types;

impl From<ErrorClass> for types::ErrorClass {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::GenericError => Self::GenericError,
            ErrorClass::CommandNotFound => Self::CommandNotFound,
            ErrorClass::DeviceEncrypted => Self::DeviceEncrypted,
            ErrorClass::DeviceNotActive => Self::DeviceNotActive,
            ErrorClass::DeviceNotFound => Self::DeviceNotFound,
            ErrorClass::KVMMissingCap => Self::KVMMissingCap,
        }
    }
}
