//! `qmp`: sends one command to a QMP server and prints its answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use block_core::error::kernel_text;
use block_schema::{JsonStream, Object, Value};

use crate::opts::{keyval, typed};
use crate::report::{Failure, Outcome, outln};

/// Send one command to a QMP server and print the answer
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The server's Unix socket
    #[arg(value_name = "SOCKET")]
    socket: String,
    /// The command: query-block, blockdev-add …
    #[arg(value_name = "COMMAND")]
    command: String,
    /// Its arguments, as JSON or as key=value,…
    #[arg(value_name = "ARGUMENTS")]
    arguments: Option<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let arguments = args
        .arguments
        .as_deref()
        .map(|text| parse_arguments(&args.command, text));
    let arguments = arguments.transpose()?;
    let mut client = Client::connect(&args.socket)?;
    client.call("qmp_capabilities", None)?;
    match client.call(&args.command, arguments)? {
        Answer::Return(value) => {
            outln!("{}", value.to_pretty_json());
            Ok(0)
        }
        Answer::Error { class, desc } => Err(Failure::new(format!("{class}: {desc}"))),
    }
}

fn parse_arguments(command: &str, text: &str) -> Result<Object, Failure> {
    if !text.trim_start().starts_with('{') {
        return typed::arguments_of(command, keyval::parse(text, None)?);
    }
    match Value::from_json(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::new("The arguments must be a JSON object")),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

enum Answer {
    Return(Value),
    Error { class: String, desc: String },
}

/// One session.
struct Client {
    socket: UnixStream,
    stream: JsonStream,
    /// Messages that came together with one that was waited for.
    early: std::collections::VecDeque<Value>,
}

impl Client {
    /// Connects, and waits for the greeting.
    fn connect(path: &str) -> Result<Client, Failure> {
        let socket = UnixStream::connect(path).map_err(|error| {
            let why = kernel_text(&error);
            Failure::new(format!("Could not connect to '{path}': {why}"))
        })?;
        let mut client = Client {
            socket,
            stream: JsonStream::new(),
            early: std::collections::VecDeque::new(),
        };
        client.message_with("QMP")?;
        Ok(client)
    }

    /// Sends a command and waits for its answer; events are passed over.
    fn call(&mut self, command: &str, arguments: Option<Object>) -> Result<Answer, Failure> {
        let mut request = Object::new();
        request.insert("execute", command);
        if let Some(arguments) = arguments {
            request.insert("arguments", arguments);
        }
        let text = Value::Object(request).to_ascii_json() + "\r\n";
        self.socket.write_all(text.as_bytes()).map_err(lost)?;
        loop {
            let message = self.message()?;
            if let Some(value) = message.get("return") {
                return Ok(Answer::Return(value.clone()));
            }
            if let Some(error) = message.get("error") {
                let member = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
                return Ok(Answer::Error {
                    class: member("class").to_owned(),
                    desc: member("desc").to_owned(),
                });
            }
        }
    }

    fn message_with(&mut self, member: &str) -> Result<Value, Failure> {
        loop {
            let message = self.message()?;
            if message.get(member).is_some() {
                return Ok(message);
            }
        }
    }

    fn message(&mut self) -> Result<Value, Failure> {
        let mut bytes = [0; 16384];
        loop {
            if let Some(message) = self.early.pop_front() {
                return Ok(message);
            }
            let count = self.socket.read(&mut bytes).map_err(lost)?;
            if count == 0 {
                return Err(Failure::new("The server closed the connection"));
            }
            for outcome in self.stream.feed(&bytes[..count]) {
                let message = outcome.map_err(|error| Failure::new(error.to_string()))?;
                self.early.push_back(message);
            }
        }
    }
}

fn lost(error: std::io::Error) -> Failure {
    Failure::new(format!("Lost the connection: {}", kernel_text(&error)))
}
