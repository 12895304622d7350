//! What a subcommand tells its caller: messages in the name of the tool that was called, and the
//! exit code.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use block_core::Error;
use block_core::error::kernel_text;

/// Prints to the standard output, as `print!` does, but a reader that has left ends the program
/// quietly.
macro_rules! out {
    ($($part:tt)*) => { $crate::report::write_out(format_args!($($part)*)) };
}

/// As [`out!`], with a new line behind.
macro_rules! outln {
    () => { $crate::report::write_out(format_args!("\n")) };
    ($($part:tt)*) => {
        $crate::report::write_out(format_args!("{}\n", format_args!($($part)*)))
    };
}

pub(crate) use {out, outln};

/// What a shell shows of a program that SIGPIPE ended.
const PIPE_CLOSED: i32 = 128 + 13;

/// Writes to the standard output; for the macros.
pub(crate) fn write_out(text: std::fmt::Arguments<'_>) {
    let written = std::io::stdout().lock().write_fmt(text);
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            std::process::exit(PIPE_CLOSED)
        }
        Err(error) => {
            self::error(&format!("standard output: {}", kernel_text(&error)));
            std::process::exit(1)
        }
    }
}

/// How a subcommand ended: its exit code, or why not.
pub(crate) type Outcome = Result<u8, Failure>;

/// Why a subcommand ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            code: 1,
        }
    }

    /// A command line that is not one; the message says where to find help.
    pub(crate) fn usage(text: &str) -> Failure {
        Failure::new(with_help(text, &command()))
    }

    /// A command line whose subcommand is none.
    pub(crate) fn usage_of_program(text: &str) -> Failure {
        Failure::new(with_help(text, program()))
    }

    /// A word of a subcommand's line that it does not know; told in the subcommand's name.
    pub(crate) fn unknown_option(option: &str) -> Failure {
        let text = format!("unrecognized option '{option}'");
        let text = with_help(&text, &command());
        eprintln!("{}: {text}", command());
        Failure::reported()
    }

    /// A failure whose messages have been printed.
    pub(crate) fn reported() -> Failure {
        Failure::new("")
    }

    /// Lets another exit code tell what failed.
    #[must_use]
    pub(crate) fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Puts what was tried before why it failed.
    #[must_use]
    pub(crate) fn while_doing(mut self, what: &str) -> Failure {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// The message.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Prints the message, if there is one, and gives the exit code.
    pub(crate) fn report(&self) -> u8 {
        if !self.text.is_empty() {
            error(&self.text);
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let text = chain_text(&error);
        match error.hint() {
            Some(hint) => Failure::new(format!("{text}\n{hint}")),
            None => Failure::new(text),
        }
    }
}

/// The chain of causes in one line, as a sentence begins.
pub(crate) fn chain_text(error: &Error) -> String {
    error.sentence()
}

static PROGRAM: OnceLock<String> = OnceLock::new();

/// Takes the tool's name from the path by which it was called.
pub(crate) fn set_program(path: &str) {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    PROGRAM.get_or_init(|| name.unwrap_or("qblk").to_owned());
}

/// The name by which the tool was called.
pub(crate) fn program() -> &'static str {
    PROGRAM.get().map_or("qblk", String::as_str)
}

/// The name of the tool, with the subcommand it was called with.
fn command() -> String {
    let first = std::env::args().nth(1);
    match first.filter(|word| !word.starts_with('-')) {
        Some(subcommand) => format!("{} {subcommand}", program()),
        None => program().to_owned(),
    }
}

fn with_help(text: &str, command: &str) -> String {
    format!("{text}\nTry '{command} --help' for more info")
}

/// Tells of an error that ends the command.
pub(crate) fn error(text: &str) {
    eprintln!("{}: {text}", program());
}

/// Tells of something the user should know.
pub(crate) fn warning(text: &str) {
    eprintln!("{}: warning: {text}", program());
}
