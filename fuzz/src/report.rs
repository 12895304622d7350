//! Why one of the program's parsers fails: as much of its `report.rs` as they call.

/// A reason.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A reason in words.
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }

    /// The words.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}
