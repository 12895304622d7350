//! A line at a time: reads it, has it done, prints what came of it.
//!
//! Called by `script` and `interactive`, which get lines from where they are.
//! Not here: where events go that nobody waits for.

use std::rc::Rc;
use std::time::Instant;

use block_schema::runtime::{ConnectionError, Reply};
use block_schema::{Error, Object, Value};

use super::help::help;
use super::line::{self, Call, Line, Wait};
use super::print::{Style, plain};
use super::schema::Schema;
use super::server::{Server, Waited, sentence};
use super::typed::Complaint;
use crate::report::{Failure, out, outln};

/// A server, and how to talk with it and with the user.
pub(super) struct Session {
    pub(super) server: Server,
    pub(super) schema: Rc<Schema>,
    pub(super) style: Style,
    pub(super) timing: bool,
}

/// What a line came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Next,
    /// No more lines are wanted.
    Leave,
}

/// Why a line failed.
#[derive(Debug)]
pub(super) enum Problem {
    /// It never left.
    Line(Complaint),
    Refused(Error),
    /// The awaited event did not come.
    TimedOut(String),
    /// Nobody waits any more.
    Interrupted,
    Lost(ConnectionError),
}

impl Problem {
    /// In one line.
    pub(super) fn text(&self) -> String {
        match self {
            Problem::Line(Complaint(text)) => plain(text),
            Problem::Refused(error) => plain(&refusal(error)),
            Problem::TimedOut(event) => format!("No {event} came in time"),
            Problem::Interrupted => "Interrupted".to_owned(),
            Problem::Lost(error) => sentence(error),
        }
    }
}

/// A server's error as users see it.
fn refusal(error: &Error) -> String {
    format!("{}: {error}", error.class.as_str())
}

impl Session {
    /// Asks the server for its schema.
    ///
    /// # Errors
    /// When the connection is lost. A server that has no introspection is taken as it is.
    pub(super) fn start(server: Server, style: Style, timing: bool) -> Result<Session, Failure> {
        let call = Call {
            name: "query-qmp-schema".to_owned(),
            arguments: Object::new(),
            oob: false,
        };
        let answer = match server.wait(server.submit(&call)) {
            Waited::Came(Ok(answer)) => answer,
            Waited::Came(Err(_)) | Waited::Interrupted | Waited::TimedOut => Value::Null,
            Waited::Lost(error) => return Err(Failure::new(sentence(&error))),
        };
        Ok(Session {
            server,
            schema: Rc::new(Schema::from_answer(&answer)),
            style,
            timing,
        })
    }

    /// Does what a line says, to its end.
    ///
    /// # Errors
    /// Why not; nothing is printed then.
    pub(super) fn run(&self, line: &str) -> Result<Done, Problem> {
        match line::parse(&self.schema, line).map_err(Problem::Line)? {
            Line::Blank => Ok(Done::Next),
            Line::Exit => Ok(Done::Leave),
            Line::Help(words) => {
                out!("{}", help(&self.schema, &words).map_err(Problem::Line)?);
                Ok(Done::Next)
            }
            Line::Wait(wait) => self.wait(&wait).map(|()| Done::Next),
            Line::Call(call) => self.call(&call),
        }
    }

    fn call(&self, call: &Call) -> Result<Done, Problem> {
        let began = Instant::now();
        let id = self.server.submit(call);
        match self.server.wait(id) {
            Waited::Came(reply) => {
                self.show(reply).map_err(Problem::Refused)?;
                self.show_time(began);
                let quits = call.name == "quit";
                Ok(if quits { Done::Leave } else { Done::Next })
            }
            Waited::Interrupted | Waited::TimedOut => {
                self.server.expect_later(id, &call.name);
                Err(Problem::Interrupted)
            }
            Waited::Lost(error) => Err(Problem::Lost(error)),
        }
    }

    fn show(&self, reply: Reply) -> Result<(), Error> {
        outln!("{}", self.style.value(&reply?));
        Ok(())
    }

    fn wait(&self, wait: &Wait) -> Result<(), Problem> {
        let began = Instant::now();
        match self.server.wait_event(wait) {
            Waited::Came(event) => {
                outln!("{}", self.style.event(&event));
                self.show_time(began);
                Ok(())
            }
            Waited::TimedOut => Err(Problem::TimedOut(wait.event.clone())),
            Waited::Interrupted => Err(Problem::Interrupted),
            Waited::Lost(error) => Err(Problem::Lost(error)),
        }
    }

    fn show_time(&self, began: Instant) {
        if self.timing {
            let millis = began.elapsed().as_secs_f64() * 1e3;
            eprintln!("{}", self.style.aside(&format!("({millis:.1} ms)")));
        }
    }

    /// A reply that came after its command was no longer waited for.
    pub(super) fn late(style: Style, command: &str, reply: &Reply) -> String {
        match reply {
            Ok(value) => format!("{}: {}", plain(command), style.value(value)),
            Err(error) => format!("{}: {}", plain(command), plain(&refusal(error))),
        }
    }
}
