//! The commands of `io` by name, what words they take, and `help`.
//! Not here: what they do (`commands.rs`, `files.rs`).

use super::words::{Failed, Words};
use crate::report::outln;

/// A command as `help` and usage messages show it.
pub(super) struct Command {
    pub(super) name: &'static str,
    short: &'static str,
    /// Letters that it knows, for [`Words::parse`].
    letters: &'static str,
    /// Operands: the least, and the most if there is one.
    operands: (usize, Option<usize>),
    usage: &'static str,
    about: &'static str,
    needs: Needs,
}

/// What must be there before a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// An open image.
    Image,
    /// An open image that may be written.
    Writable,
}

const fn command(
    name: &'static str,
    short: &'static str,
    letters: &'static str,
    usage: &'static str,
    about: &'static str,
) -> Command {
    Command {
        name,
        short,
        letters,
        operands: (0, Some(0)),
        usage,
        about,
        needs: Needs::Image,
    }
}

impl Command {
    const fn with(self, least: usize, most: Option<usize>) -> Command {
        Command {
            operands: (least, most),
            ..self
        }
    }

    const fn needing(self, needs: Needs) -> Command {
        Command { needs, ..self }
    }

    /// What must be there before it runs.
    pub(super) fn needs(&self) -> Needs {
        self.needs
    }

    /// Takes the words behind the command's name; `name` is how the user called it.
    ///
    /// # Errors
    /// When they are too few, too many, or letters that it does not know.
    pub(super) fn parse<'w>(&self, name: &str, words: &[&'w str]) -> Result<Words<'w>, Failed> {
        if let Some(expected) = self.refuses(words.len()) {
            let count = words.len();
            eprintln!("bad argument count {count} to {name}, expected {expected}");
            return Err(Failed);
        }
        let parsed = Words::parse(words, self.letters).map_err(|complaint| {
            eprintln!("{name}: {complaint}");
            self.print_usage()
        })?;
        let (given, (least, most)) = (parsed.operands.len(), self.operands);
        if given < least || most.is_some_and(|most| given > most) {
            return Err(self.print_usage());
        }
        Ok(parsed)
    }

    /// What count of words would do, when `count` does not. Letters count as words, so there is
    /// no upper bound for commands that take some.
    fn refuses(&self, count: usize) -> Option<String> {
        let (least, most) = self.operands;
        let most = most.filter(|_| self.letters.is_empty());
        if count >= least && most.is_none_or(|most| count <= most) {
            return None;
        }
        Some(match most {
            None => format!("at least {least} arguments"),
            Some(most) if most == least => format!("{least} arguments"),
            Some(most) => format!("between {least} and {most} arguments"),
        })
    }

    /// Prints how the command is called; the caller gives up.
    pub(super) fn print_usage(&self) -> Failed {
        outln!("{} {} -- {}", self.name, self.usage, self.about);
        Failed
    }
}

/// All commands, as `help` lists them.
const COMMANDS: &[Command] = &[
    command("abort", "", "", "", "ends the program as a crash would").needing(Needs::Nothing),
    command(
        "aio_discard",
        "",
        "Cq",
        "[-Cq] off len",
        "starts to give a range back",
    )
    .with(2, Some(2))
    .needing(Needs::Writable),
    command(
        "aio_flush",
        "",
        "",
        "",
        "waits for all asynchronous requests",
    ),
    command(
        "aio_read",
        "",
        "CiP:qrv",
        "[-Ciqrv] [-P pattern] off len [len..]",
        "starts a read",
    )
    .with(2, None),
    command(
        "aio_write",
        "",
        "CfiP:qruz",
        "[-Cfiqruz] [-P pattern] off len [len..]",
        "starts a write",
    )
    .with(2, None)
    .needing(Needs::Writable),
    command(
        "alloc",
        "a",
        "",
        "offset [count]",
        "tells how much of a range is allocated",
    )
    .with(1, Some(2)),
    command("close", "c", "", "", "closes the image"),
    command("discard", "d", "Cq", "[-Cq] off len", "gives a range back")
        .with(2, Some(2))
        .needing(Needs::Writable),
    command("flush", "f", "", "", "makes all writes durable"),
    command("help", "?", "", "[command]", "shows the commands")
        .with(0, Some(1))
        .needing(Needs::Nothing),
    command("info", "i", "", "", "shows what the image is"),
    command("length", "l", "", "", "shows the image's length"),
    command("map", "", "", "", "shows which parts are allocated"),
    command(
        "open",
        "o",
        "Uni:o:rst:d:",
        "[-rsnU] [-t cache] [-i aio] [-d discard] [-o options] [path]",
        "opens an image",
    )
    .with(0, Some(1))
    .needing(Needs::Nothing),
    command("quit", "q", "", "", "ends the program")
        .with(0, None)
        .needing(Needs::Nothing),
    command(
        "read",
        "r",
        "bCl:pP:qrs:v",
        "[-bCqrv] [-P pattern [-s off] [-l len]] off len",
        "reads a range",
    )
    .with(2, Some(2)),
    command(
        "readv",
        "",
        "CP:qrv",
        "[-Cqrv] [-P pattern] off len [len..]",
        "reads a range",
    )
    .with(2, None),
    command(
        "reopen",
        "",
        "c:o:rw",
        "[(-r|-w)] [-c cache] [-o options]",
        "opens the image again with other options",
    ),
    command("sigraise", "", "", "signal", "sends the program a signal")
        .with(1, Some(1))
        .needing(Needs::Nothing),
    command("sleep", "", "", "ms", "waits")
        .with(1, Some(1))
        .needing(Needs::Nothing),
    command(
        "truncate",
        "t",
        "m:",
        "[-m prealloc_mode] off",
        "sets the image's length",
    )
    .with(1, Some(1))
    .needing(Needs::Writable),
    command(
        "write",
        "w",
        "bcCfnpP:qrs:uz",
        "[-bcCfnqruz] [-P pattern | -s source_file] off len",
        "writes a range",
    )
    .with(2, Some(2))
    .needing(Needs::Writable),
    command(
        "writev",
        "",
        "CfP:qr",
        "[-Cfqr] [-P pattern] off len [len..]",
        "writes a range",
    )
    .with(2, None)
    .needing(Needs::Writable),
];

/// The command of a name, long or short.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|c| c.name == name || !c.short.is_empty() && c.short == name)
}

/// `help`: all commands, or one.
pub(super) fn help(words: &Words<'_>) -> Result<(), Failed> {
    match words.operands.first() {
        None => {
            for Command {
                name, usage, about, ..
            } in COMMANDS
            {
                outln!("{name} {usage} -- {about}");
            }
            outln!("\nUse 'help commandname' for extended help.");
            Ok(())
        }
        Some(name) => match find(name) {
            Some(command) => {
                command.print_usage();
                Ok(())
            }
            None => {
                outln!("command {name} not found");
                Err(Failed)
            }
        },
    }
}
