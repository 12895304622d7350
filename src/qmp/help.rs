//! What the server's schema says of a command or event, as text.
//!
//! Called for a line `help …`. Types and marks come from the server; sentences from our own
//! schema where it knows the same name (`docs`). Not here: completion.

use super::docs;
use super::line::{self, OWN};
use super::schema::{Entity, Fields, Member, Schema, Type, TypeId};
use super::typed::Complaint;

/// Levels of members inside of members that are shown.
const MAX_LEVELS: usize = 3;
/// Longer lists of values go below the table.
const MAX_INLINE: usize = 56;
const WIDTH: usize = 80;

/// Help about `words`: a command or event, and values of tags that it is asked for.
///
/// # Errors
/// When there is no such command or event.
pub(super) fn help(schema: &Schema, words: &[String]) -> Result<String, Complaint> {
    let Some((name, given)) = words.split_first() else {
        return Ok(overview(schema));
    };
    if let Some((name, what)) = OWN.iter().find(|(own, _)| own == name) {
        return Ok(format!("{name}: {what}\n"));
    }
    let entity = match schema.event(name) {
        Some(event) => event,
        None => line::command(schema, name)?,
    };
    Ok(Page::of(schema, entity, given).text())
}

fn overview(schema: &Schema) -> String {
    let names = |entities: &[Entity]| {
        let mut names: Vec<String> = entities.iter().map(|entity| entity.name.clone()).collect();
        names.sort();
        columns(&names)
    };
    let own = OWN
        .iter()
        .map(|(name, what)| format!("  {name:<6} {what}\n"));
    format!(
        "A line is COMMAND key=value nested.key=value list=[a, b], or a command in JSON:\n  \
         blockdev-add driver=qcow2 node-name=disk file.driver=file file.filename=disk.qcow2\n  \
         {{\"execute\": \"query-block\"}}\n\
         Tab completes commands, members and values.\n\n\
         Commands of this program:\n{}\n\
         Commands of the server:\n{}\n\
         Events:\n{}",
        own.collect::<String>(),
        names(schema.commands()),
        names(schema.events()),
    )
}

fn columns(names: &[String]) -> String {
    let widest = names.iter().map(|name| name.len() + 2).max().unwrap_or(1);
    let in_row = ((WIDTH - 2) / widest).max(1);
    let rows = names.len().div_ceil(in_row);
    let mut out = String::new();
    for row in 0..rows {
        let cells = names.iter().skip(row).step_by(rows.max(1));
        let line: String = cells.map(|name| format!("{name:<widest$}")).collect();
        out += &format!("  {}\n", line.trim_end());
    }
    out
}

/// The page of one command or event, while it is put together.
struct Page<'a> {
    schema: &'a Schema,
    entity: &'a Entity,
    /// Values of tags, `path=value`.
    given: &'a [String],
    rows: Vec<Row>,
    /// What needs more room than a row has.
    below: Vec<String>,
}

struct Row {
    name: String,
    of: String,
    doc: String,
}

impl<'a> Page<'a> {
    fn of(schema: &'a Schema, entity: &'a Entity, given: &'a [String]) -> Page<'a> {
        let mut page = Page {
            schema,
            entity,
            given,
            rows: Vec::new(),
            below: Vec::new(),
        };
        page.members(entity.arguments, "", 1);
        page
    }

    fn value(&self, path: &str) -> Option<String> {
        let pairs = self.given.iter().filter_map(|word| word.split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == path);
        values.next().map(|(_, value)| value.to_owned())
    }

    fn members(&mut self, of: TypeId, prefix: &str, level: usize) {
        let schema = self.schema;
        let members = schema.members(of, |tag| self.value(&format!("{prefix}{tag}")));
        for member in members {
            let path = format!("{prefix}{}", member.name);
            self.row(member, &path);
            let nested = format!("{path}.");
            let asked = self.given.iter().any(|word| word.starts_with(&nested));
            let is_object = matches!(schema.shape(member.of), Type::Object(_));
            if asked || (is_object && level < MAX_LEVELS) {
                self.members(member.of, &nested, level.saturating_add(1));
            }
        }
        if let Some(Fields {
            tag: Some(tag),
            variants,
            ..
        }) = schema.fields(of)
        {
            let path = format!("{prefix}{tag}");
            if self.value(&path).is_none() && !variants.is_empty() {
                let name = &self.entity.name;
                self.below.push(format!(
                    "More members depend on {path}: help {name} {path}=…"
                ));
            }
        }
    }

    fn row(&mut self, member: &Member, path: &str) {
        let mut of = type_name(self.schema, member.of, 0);
        if of.len() > MAX_INLINE {
            self.below
                .push(wrapped(&format!("{path}: "), &of.replace('|', ", ")));
            of = "enum".to_owned();
        }
        if member.optional {
            of += ", optional";
        }
        for feature in &member.features {
            of += &format!(", {feature}");
        }
        let doc = docs::member(&self.entity.name, path, |tag| self.value(tag));
        self.rows.push(Row {
            name: path.to_owned(),
            of,
            doc: doc.unwrap_or_default().to_owned(),
        });
    }

    fn text(mut self) -> String {
        let mut out = self.entity.name.clone();
        let root = self
            .schema
            .members(self.entity.arguments, |tag| self.value(tag));
        let (optional, mandatory): (Vec<&Member>, Vec<&Member>) =
            root.into_iter().partition(|member| member.optional);
        let is_command = self.entity.returns.is_some();
        if is_command {
            mandatory
                .iter()
                .for_each(|member| out += &format!(" {}=", member.name));
            optional
                .iter()
                .for_each(|member| out += &format!(" [{}=]", member.name));
            out = wrapped("", &out);
        } else {
            out += ", an event\n";
        }
        for feature in &self.entity.features {
            out += &format!("  ({feature})\n");
        }
        if self.entity.allow_oob {
            out += "  (may run out of band)\n";
        }
        if let Some(doc) = docs::entity(&self.entity.name) {
            out += &format!("\n{}", wrapped("  ", doc));
        }
        if !self.rows.is_empty() {
            out += &format!("\n{}", table(&self.rows));
        }
        for text in std::mem::take(&mut self.below) {
            out += &format!("\n{}\n", text.trim_end());
        }
        if let Some(returns) = self.entity.returns {
            out += &format!("\n{}", answer(self.schema, returns));
        }
        out
    }
}

/// What a command answers: its members, one level deep.
fn answer(schema: &Schema, of: TypeId) -> String {
    let (members, intro) = match schema.element(of) {
        Some(element) => (schema.members(element, |_| None), "Answers a list of"),
        None => (schema.members(of, |_| None), "Answers"),
    };
    if members.is_empty() {
        return match schema.shape(of) {
            Type::Object(_) => "Answers nothing.\n".to_owned(),
            _ => format!("Answers {}.\n", type_name(schema, of, 0)),
        };
    }
    let names = members.iter().map(|member| match member.optional {
        true => format!("[{}]", member.name),
        false => member.name.clone(),
    });
    wrapped(&format!("{intro} "), &names.collect::<Vec<_>>().join(", "))
}

fn type_name(schema: &Schema, of: TypeId, level: usize) -> String {
    match schema.shape(of) {
        Type::Text => "str".to_owned(),
        Type::Integer => "int".to_owned(),
        Type::Number => "number".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Null => "null".to_owned(),
        Type::Any => "any".to_owned(),
        Type::Enum(values) => values.join("|"),
        Type::Object(_) => "object".to_owned(),
        Type::List(_) | Type::Alternate(_) if level > MAX_LEVELS => "any".to_owned(),
        Type::List(element) => format!("[{}]", type_name(schema, *element, level + 1)),
        Type::Alternate(types) => {
            let names = types.iter().map(|&of| type_name(schema, of, level + 1));
            names.collect::<Vec<_>>().join(" or ")
        }
    }
}

fn table(rows: &[Row]) -> String {
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let of = rows
        .iter()
        .map(|row| row.of.chars().count())
        .filter(|len| *len <= 40);
    let of = of.max().unwrap_or(0);
    let line = |row: &Row| {
        let text = format!("  {:<name$}  {:<of$}  {}", row.name, row.of, row.doc);
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

/// Breaks a text into lines; those after the first are indented as `start` is long.
fn wrapped(start: &str, text: &str) -> String {
    let indent = " ".repeat(start.chars().count().clamp(2, 24));
    let mut out = String::new();
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += line.trim_end();
            out.push('\n');
            line = indent.clone();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    out + line.trim_end() + "\n"
}
