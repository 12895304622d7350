//! Errors as QMP clients see them: the class, and the chain of causes in one line.

use block_schema::ErrorClass;

use crate::error::{Class, Error};

impl From<Error> for block_schema::Error {
    fn from(error: Error) -> block_schema::Error {
        let class = match error.class() {
            Class::GenericError => ErrorClass::GenericError,
            Class::DeviceEncrypted => ErrorClass::DeviceEncrypted,
            Class::DeviceNotFound => ErrorClass::DeviceNotFound,
            Class::DeviceNotActive => ErrorClass::DeviceNotActive,
        };
        let desc = match &error {
            // Whole texts already.
            Error::InvalidOption { .. }
            | Error::PermissionConflict { .. }
            | Error::DeviceNotFound { .. }
            | Error::NodeNotFound { .. }
            | Error::JobNotFound { .. } => error.chain(),
            Error::Io { .. }
            | Error::Open { .. }
            | Error::Corrupt { .. }
            | Error::Unsupported { .. }
            | Error::ReadOnly { .. }
            | Error::OutOfRange { .. }
            | Error::ImageLocked { .. }
            | Error::Denied { .. }
            | Error::Encrypted { .. }
            | Error::ShutDown => error.sentence(),
        };
        block_schema::Error::new(class, desc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_joined_without_numbers() {
        let error = Error::Open {
            path: "/nonexistent".to_owned(),
            source: std::io::Error::from_raw_os_error(2),
        };
        let error = block_schema::Error::from(error);
        assert_eq!(error.class, ErrorClass::GenericError);
        assert_eq!(
            error.desc,
            "Could not open '/nonexistent': No such file or directory"
        );
    }

    #[test]
    fn an_unknown_device_has_a_class_of_its_own() {
        let error = Error::DeviceNotFound {
            device: "zz".to_owned(),
        };
        let error = block_schema::Error::from(error);
        assert_eq!(error.class, ErrorClass::DeviceNotFound);
        assert_eq!(error.desc, "Cannot find device='zz' nor node-name=''");
    }
}
