//! Lines from a file, a pipe or the command line, without anybody to ask.

use std::io::BufRead;

use super::session::{Done, Problem, Session};
use crate::report::{Failure, Outcome, error};

/// A source of lines.
pub(super) trait Lines {
    /// The next line, with what it is called in messages; nothing at the end.
    fn next(&mut self) -> Option<Result<(String, String), Failure>>;
}

/// Lines of the command line; they need no name.
pub(super) struct Given(pub(super) std::vec::IntoIter<String>);

impl Lines for Given {
    fn next(&mut self) -> Option<Result<(String, String), Failure>> {
        Some(Ok((self.0.next()?, String::new())))
    }
}

/// Lines of a file.
pub(super) struct Read<R> {
    reader: R,
    name: String,
    number: u64,
}

impl<R: BufRead> Read<R> {
    pub(super) fn new(name: &str, reader: R) -> Read<R> {
        Read {
            reader,
            name: name.to_owned(),
            number: 0,
        }
    }
}

impl<R: BufRead> Lines for Read<R> {
    fn next(&mut self) -> Option<Result<(String, String), Failure>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                self.number += 1;
                Some(Ok((line, format!("{}:{}: ", self.name, self.number))))
            }
            Err(error) => Some(Err(Failure::new(format!("{}: {error}", self.name)))),
        }
    }
}

/// Does all lines; the first that fails is the last, unless `keep_going`.
///
/// # Errors
/// When a line failed; each has been reported.
pub(super) fn run(session: &Session, lines: &mut dyn Lines, keep_going: bool) -> Outcome {
    let mut failed = false;
    while let Some(next) = lines.next() {
        let (line, place) = next?;
        match session.run(&line) {
            Ok(Done::Next) => {}
            Ok(Done::Leave) => break,
            Err(problem) => {
                error(&format!("{place}{}", problem.text()));
                failed = true;
                if !keep_going || matches!(problem, Problem::Lost(_)) {
                    break;
                }
            }
        }
    }
    if failed {
        return Err(Failure::reported());
    }
    Ok(0)
}
