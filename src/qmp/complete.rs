//! What may come next in a line that is being written.
//!
//! Called by the line editor at each Tab. Everything comes from the server's schema; of members,
//! those that are given already are left out, and a variant's appear once its tag is given.
//! Not here: the editor (`interactive`).

use super::line::OWN;
use super::schema::{Fields, Member, Schema, Type, TypeId};
use super::words::{self, Word};

/// What can replace the line from `start` to the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) start: usize,
    pub(super) candidates: Vec<Candidate>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// What comes into the line.
    pub(super) text: String,
    /// What is shown in a list of several.
    pub(super) shown: String,
}

impl Candidate {
    fn word(text: &str) -> Candidate {
        Candidate {
            text: text.to_owned(),
            shown: text.to_owned(),
        }
    }
}

/// What may stand at the end of `line`.
pub(super) fn complete(schema: &Schema, line: &str) -> Completion {
    if line.trim_start().starts_with('{') {
        return in_json(schema, line);
    }
    let split = words::split(line);
    let mut words = split.words.as_slice();
    let current = match words.split_last() {
        Some((last, before)) if last.end() == line.len() => {
            words = before;
            *last
        }
        _ => Word::empty_at(line.len()),
    };
    let completion = match (words, words.first().map(|word| word.raw)) {
        ([], _) => {
            let own = OWN.iter().map(|(name, _)| *name);
            names(current, own.chain(commands(schema)))
        }
        ([_], Some("help" | "?")) => names(current, commands(schema).chain(events(schema))),
        ([_], Some("wait")) => names(current, events(schema)),
        ([_], Some("oob")) => {
            let commands = schema.commands().iter().filter(|command| command.allow_oob);
            names(current, commands.map(|command| command.name.as_str()))
        }
        ([_, name, given @ ..], Some("wait")) => match schema.event(name.raw) {
            Some(event) => arguments(schema, event.arguments, given, current, &["timeout="]),
            None => Completion::default(),
        },
        ([_, name, given @ ..], Some("help" | "?" | "oob")) | ([name, given @ ..], _) => {
            match schema.command(name.raw) {
                Some(command) => arguments(schema, command.arguments, given, current, &[]),
                None => Completion::default(),
            }
        }
    };
    if split.open.is_some_and(|open| open == '\'' || open == '"') {
        // Inside of a text that is being quoted.
        return Completion::default();
    }
    completion
}

/// The mandatory members that a command still lacks, for a hint behind the cursor.
pub(super) fn missing(schema: &Schema, line: &str) -> Option<String> {
    if line.trim_start().starts_with('{') || !line.ends_with(' ') {
        return None;
    }
    let words = words::split(line).words;
    let (name, given) = match words.as_slice() {
        [first, name, given @ ..] if first.raw == "oob" => (name, given),
        [name, given @ ..] => (name, given),
        [] => return None,
    };
    let command = schema.command(name.raw)?;
    let given = Given { words: given };
    let members = schema.members(command.arguments, |tag| given.value(tag));
    let missing = members
        .iter()
        .filter(|member| !member.optional && !given.has("", &member.name));
    let words: Vec<String> = missing.map(|member| format!("{}=", member.name)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn commands(schema: &Schema) -> impl Iterator<Item = &str> {
    schema
        .commands()
        .iter()
        .map(|command| command.name.as_str())
}

fn events(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.events().iter().map(|event| event.name.as_str())
}

/// Those that begin as the current word does.
fn names<'a>(current: Word<'_>, known: impl Iterator<Item = &'a str>) -> Completion {
    let fits = known.filter(|name| name.starts_with(current.raw));
    let mut candidates: Vec<Candidate> = fits
        .map(|name| Candidate {
            text: format!("{name} "),
            shown: name.to_owned(),
        })
        .collect();
    candidates.sort_by(|a, b| a.shown.cmp(&b.shown));
    Completion {
        start: current.start,
        candidates,
    }
}

/// The members that a line has already.
#[derive(Clone, Copy)]
struct Given<'a> {
    words: &'a [Word<'a>],
}

impl Given<'_> {
    /// Whether there is a member, or something inside of it.
    fn has(&self, prefix: &str, name: &str) -> bool {
        self.words.iter().filter_map(Word::pair).any(|(key, _)| {
            let rest = key
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn value(&self, path: &str) -> Option<String> {
        let mut pairs = self.words.iter().filter_map(Word::pair);
        let found = pairs.find(|(key, _)| *key == path);
        found.map(|(_, value)| value.unquoted())
    }
}

fn arguments(
    schema: &Schema,
    of: TypeId,
    words: &[Word<'_>],
    current: Word<'_>,
    more: &[&str],
) -> Completion {
    let given = Given { words };
    let (path, value) = match current.pair() {
        Some((path, value)) => (path, Some(value.0)),
        None => (current.raw, None),
    };
    let (prefix, name) = match path.rfind('.') {
        Some(dot) => path.split_at(dot + 1),
        None => ("", path),
    };
    let Some(parent) = schema.descend(of, prefix, |tag| given.value(tag)) else {
        return Completion::default();
    };
    let members = schema.members(parent, |tag| given.value(&format!("{prefix}{tag}")));
    if let Some(value) = value {
        let of = match members.iter().find(|member| member.name == name) {
            Some(member) => member.of,
            None => match schema.element(parent) {
                Some(element) if name.parse::<usize>().is_ok() => element,
                _ => return Completion::default(),
            },
        };
        return values(schema, of, value, current.end() - value.len());
    }
    let fits =
        |member: &&&Member| member.name.starts_with(name) && !given.has(prefix, &member.name);
    let (optional, mandatory): (Vec<&Member>, Vec<&Member>) = members
        .iter()
        .filter(fits)
        .partition(|member| member.optional);
    let candidate = |member: &Member| {
        let text = format!("{prefix}{}{}", member.name, ending(schema, member.of));
        let shown = match member.optional {
            true => format!("[{text}]"),
            false => text.clone(),
        };
        Candidate { text, shown }
    };
    let mut candidates: Vec<Candidate> = mandatory
        .into_iter()
        .chain(optional)
        .map(candidate)
        .collect();
    let more = more
        .iter()
        .filter(|word| prefix.is_empty() && word.starts_with(name));
    candidates.extend(more.map(|word| Candidate::word(word)));
    Completion {
        start: current.start,
        candidates,
    }
}

/// What follows a member's name.
fn ending(schema: &Schema, of: TypeId) -> &'static str {
    match schema.shape(of) {
        Type::Object(_) => ".",
        Type::List(_) => "=[",
        _ => "=",
    }
}

/// The values of a type, where it has few enough to be named.
fn values(schema: &Schema, of: TypeId, text: &str, start: usize) -> Completion {
    if let (Some(element), true) = (schema.element(of), text.starts_with('[')) {
        let at = text.rfind(['[', ',', ' ']).map_or(0, |at| at + 1);
        return choices(schema, element, &text[at..], start + at, "");
    }
    choices(schema, of, text, start, " ")
}

fn choices(schema: &Schema, of: TypeId, text: &str, start: usize, behind: &str) -> Completion {
    let mut all = Vec::new();
    collect(schema, of, &mut all);
    if let Type::Alternate(types) = schema.shape(of) {
        types.iter().for_each(|&of| collect(schema, of, &mut all));
    }
    let fits = all.into_iter().filter(|choice| choice.starts_with(text));
    let candidates = fits.map(|choice| Candidate {
        text: format!("{choice}{behind}"),
        shown: choice.to_owned(),
    });
    Completion {
        start,
        candidates: candidates.collect(),
    }
}

fn collect<'a>(schema: &'a Schema, of: TypeId, all: &mut Vec<&'a str>) {
    match schema.shape(of) {
        Type::Enum(values) => all.extend(values.iter().map(String::as_str)),
        Type::Bool => all.extend(["true", "false"]),
        Type::Null => all.push("null"),
        Type::Text
        | Type::Integer
        | Type::Number
        | Type::Any
        | Type::List(_)
        | Type::Object(Fields { .. })
        | Type::Alternate(_) => {}
    }
}

/// Commands, behind `{"execute": "`.
fn in_json(schema: &Schema, line: &str) -> Completion {
    let Some(quote) = line.rfind(['"', '\'']) else {
        return Completion::default();
    };
    let (before, partial) = line.split_at(quote + 1);
    let before = before[..quote].trim_end().trim_end_matches(':').trim_end();
    let is_command = ["execute", "exec-oob"]
        .iter()
        .any(|key| before.trim_end_matches(['"', '\'']).ends_with(key));
    if !is_command {
        return Completion::default();
    }
    let fits = commands(schema).filter(|name| name.starts_with(partial));
    let closing = &line[quote..=quote];
    let candidates = fits.map(|name| Candidate {
        text: format!("{name}{closing}"),
        shown: name.to_owned(),
    });
    Completion {
        start: quote + 1,
        candidates: candidates.collect(),
    }
}
