//! Numbers and sizes as options have them, with the messages that say what is wrong.

use std::ops::RangeInclusive;

use super::size::{SizeError, parse_size};
use crate::report::Failure;

/// Parses an option's size or count, and checks its bounds; `what` names it in messages.
///
/// # Errors
/// A text that is no number, or is out of bounds.
pub(crate) fn bounded(text: &str, what: &str, bounds: RangeInclusive<u64>) -> Result<u64, Failure> {
    match parse_size(text) {
        Ok(value) if bounds.contains(&value) => Ok(value),
        Ok(_) | Err(SizeError::OutOfRange) => Err(Failure::new(format!(
            "Invalid {what} specified. Must be between {} and {}.",
            bounds.start(),
            bounds.end()
        ))),
        Err(SizeError::Invalid) => {
            Err(Failure::new(format!("Invalid {what} specified: '{text}'.")))
        }
    }
}

/// Parses an option's size.
///
/// # Errors
/// As [`bounded`], up to 2^63 - 1.
pub(crate) fn size(text: &str, what: &str) -> Result<u64, Failure> {
    bounded(text, what, 0..=i64::MAX.unsigned_abs())
}
