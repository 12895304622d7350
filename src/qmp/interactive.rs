//! A person at a terminal: line editing, history, completion, events as they come.
//!
//! The editor runs on the main thread. A second thread prints what happens meanwhile, through the
//! editor, which draws its line anew; a third turns SIGINT into the end of a wait.
//! Invariant: the terminal is left as it was found, also when the server goes away: the editor
//! is ended by a signal and cleans up itself. Not here: what lines mean (`session`).

use std::borrow::Cow;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block_core::error::kernel_text;
use rustix::process::{Signal, getpid, kill_process};
use rustyline::completion::{Completer, Pair};
use rustyline::config::{Behavior, ColorMode, CompletionType};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, ExternalPrinter, Helper};
use signal_hook::consts::SIGINT;
use signal_hook::low_level::pipe;

use super::complete;
use super::print::Style;
use super::schema::Schema;
use super::server::{News, Watch, sentence};
use super::session::{Done, Problem, Session};
use super::words;
use crate::report::{Failure, Outcome, error, outln};

const PROMPT: &str = "qmp> ";
const HISTORY: usize = 1000;
/// How often the editor is told again that the server is gone, until it has noticed.
const INSIST: Duration = Duration::from_millis(100);

/// Reads and does lines until the user leaves or the server does.
///
/// # Errors
/// When the server is lost, or the terminal.
pub(super) fn run(session: &Session, stdout_is_terminal: bool) -> Outcome {
    let assistant = Assistant {
        schema: Rc::clone(&session.schema),
        colour: session.style.colour,
    };
    let mut editor = editor(assistant, stdout_is_terminal).map_err(terminal)?;
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        editor.load_history(file).ok();
    }
    let watch = session.server.watch();
    interrupt_waits(watch.clone())?;
    let printer = editor.create_external_printer().map_err(terminal)?;
    let style = session.style;
    let ended = Arc::new(AtomicBool::new(false));
    let for_thread = Arc::clone(&ended);
    std::thread::spawn(move || show_news(&watch, style, printer, &for_thread));
    outln!(
        "QMP of QEMU {}. Tab completes, help explains, Ctrl-D leaves.",
        session.server.version()
    );
    let outcome = converse(session, &mut editor);
    ended.store(true, Ordering::SeqCst);
    if let Some(file) = &history {
        // Without a history it was a good session nevertheless.
        editor.save_history(file).ok();
    }
    outcome
}

fn converse(session: &Session, editor: &mut Editor<Assistant, FileHistory>) -> Outcome {
    loop {
        if let Some(lost) = session.server.lost() {
            return Err(Failure::new(sentence(&lost)));
        }
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(0),
            Err(error) => return Err(terminal(error)),
        };
        match session.run(&line) {
            Ok(Done::Next) => {}
            Ok(Done::Leave) => return Ok(0),
            Err(Problem::Lost(lost)) => return Err(Failure::new(sentence(&lost))),
            Err(Problem::Interrupted) => {
                outln!("No longer waiting. What still comes will be shown.");
            }
            Err(problem) => error(&problem.text()),
        }
    }
}

fn editor(
    assistant: Assistant,
    stdout_is_terminal: bool,
) -> rustyline::Result<Editor<Assistant, FileHistory>> {
    let config = Config::builder()
        .auto_add_history(true)
        .max_history_size(HISTORY)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .color_mode(match assistant.colour {
            true => ColorMode::Enabled,
            false => ColorMode::Disabled,
        })
        // With answers in a file, the line is still edited at the terminal.
        .behavior(match stdout_is_terminal {
            true => Behavior::Stdio,
            false => Behavior::PreferTerm,
        })
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(assistant));
    Ok(editor)
}

fn terminal(error: ReadlineError) -> Failure {
    Failure::new(format!("terminal: {error}"))
}

/// Where history is kept, its folder made; nothing without a home.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = set("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")))?;
    let folder = state.join("qblk");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("qmp-history"))
}

/// From now on SIGINT ends a wait, not the program.
fn interrupt_waits(watch: Watch) -> Result<(), Failure> {
    let refused = |error: std::io::Error| {
        Failure::new(format!("Could not catch SIGINT: {}", kernel_text(&error)))
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(refused)?;
    pipe::register(SIGINT, theirs).map_err(refused)?;
    std::thread::spawn(move || {
        let mut byte = [0];
        while ours.read_exact(&mut byte).is_ok() {
            watch.interrupt();
        }
    });
    Ok(())
}

/// Prints what nobody waits for, above the line that is being edited.
fn show_news(watch: &Watch, style: Style, mut printer: impl ExternalPrinter, ended: &AtomicBool) {
    while let Some(news) = watch.next() {
        let text = match news {
            News::Event(event) => style.event(&event),
            News::Answer { command, reply } => Session::late(style, &command, &reply),
        };
        if printer.print(format!("{text}\n")).is_err() {
            return;
        }
    }
    // The editor looks for signals only while it reads: one may come before it begins.
    while !ended.load(Ordering::SeqCst) {
        kill_process(getpid(), Signal::INT).ok();
        std::thread::park_timeout(INSIST);
    }
}

/// What the editor asks while a line is written.
struct Assistant {
    schema: Rc<Schema>,
    colour: bool,
}

impl Helper for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let written = line.get(..pos).unwrap_or(line);
        let completion = complete::complete(&self.schema, written);
        let pairs = completion.candidates.into_iter().map(|candidate| Pair {
            display: candidate.shown,
            replacement: candidate.text,
        });
        Ok((completion.start, pairs.collect()))
    }
}

/// Something grey behind the cursor, not to be taken over.
struct Missing(String);

impl Hint for Missing {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = Missing;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Missing> {
        // Without colour it could not be told from what was written.
        if pos < line.len() || !self.colour {
            return None;
        }
        complete::missing(&self.schema, line).map(Missing)
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        match self.colour {
            true => Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m")),
            false => Cow::Borrowed(prompt),
        }
    }
}

impl Validator for Assistant {
    /// A line with an open bracket goes on.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let line = context.input();
        let open = match line.trim_start().starts_with('{') {
            true => words::open_in_json(line),
            false => words::split(line).open,
        };
        Ok(match open {
            Some('{' | '[') => ValidationResult::Incomplete,
            _ => ValidationResult::Valid(None),
        })
    }
}
