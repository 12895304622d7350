//! The page: what the schema offers, beside what was seen of it.
//!
//! A section a command, event and type that one of them leads to; a row a member, value or branch; a
//! column a way in which it can be seen. Invariant: a hole is reported where it begins; what can only
//! be reached through it is no further hole. Not here: how facts come about (`facts.rs`).

use std::collections::{BTreeMap, BTreeSet};

use qapi_parser::{Arguments, Entity, Kind, Member, Schema, Span, Type};

use super::facts::{Facts, Seen, Way};
use super::holes::{self, Holes};

/// What may be asked of a server's behaviour in one row.
struct Row {
    part: String,
    shown: String,
    /// What can be seen of it.
    can: Vec<Seen>,
    /// Defined by our own files.
    ours: bool,
}

/// A command, an event or a type.
struct Section<'a> {
    entity: &'a Entity,
    rows: Vec<Row>,
    ours: bool,
}

/// A page in the making.
pub(super) struct Page<'a> {
    schema: &'a Schema,
    facts: &'a Facts,
    reasons: &'a Holes,
    /// Types, the ways they can go, and what leads there.
    reach: BTreeMap<(String, Way), Vec<Fact>>,
    /// Found holes, in the order of the schema.
    pub(super) holes: Vec<String>,
}

/// Whole, part, and how the part would have been seen.
type Fact = (String, String, Seen);

const SEED: &str = "block-core.json";

impl<'a> Page<'a> {
    pub(super) fn new(schema: &'a Schema, facts: &'a Facts, reasons: &'a Holes) -> Page<'a> {
        let mut page = Page {
            schema,
            facts,
            reasons,
            reach: BTreeMap::new(),
            holes: Vec::new(),
        };
        for entity in schema.entities.values() {
            match &entity.kind {
                Kind::Command(command) => {
                    page.reach_arguments(&entity.name, &command.arguments, Way::In);
                    if let Some(ty) = &command.returns {
                        page.reach_type(ty, Way::Out, None);
                    }
                }
                Kind::Event(event) => page.reach_arguments(&entity.name, &event.data, Way::Out),
                _ => {}
            }
        }
        page
    }

    fn reach_arguments(&mut self, name: &str, arguments: &'a Arguments, way: Way) {
        match arguments {
            Arguments::Members(members) => {
                for member in members {
                    self.reach_member(name, member, way);
                }
            }
            Arguments::Type(ty) => self.reach_named(ty, way, None),
        }
    }

    fn reach_member(&mut self, whole: &str, member: &Member, way: Way) {
        let by = (whole.to_owned(), member.name.clone(), way.present());
        self.reach_type(&member.ty, way, Some(by));
    }

    fn reach_type(&mut self, ty: &Type, way: Way, by: Option<Fact>) {
        match ty {
            Type::Builtin(_) => {}
            Type::List(element) => self.reach_type(element, way, by),
            Type::Named(name) => self.reach_named(name, way, by),
        }
    }

    fn reach_named(&mut self, name: &str, way: Way, by: Option<Fact>) {
        let known = self.reach.contains_key(&(name.to_owned(), way));
        let ways = self.reach.entry((name.to_owned(), way)).or_default();
        ways.extend(by);
        if known {
            return;
        }
        let schema = self.schema;
        let Some(entity) = schema.get(name) else {
            return;
        };
        match &entity.kind {
            Kind::Struct(_) => self.reach_owned(schema.members(name), way),
            Kind::FlatUnion(union) => {
                self.reach_owned(schema.base_members(entity, union), way);
                for branch in &union.branches {
                    let by = (union.tag.clone(), branch.name.clone(), way.present());
                    self.reach_type(&branch.ty, way, Some(by));
                }
            }
            Kind::SimpleUnion(union) => {
                if let Some(base) = &union.base {
                    self.reach_owned(schema.members(base), way);
                }
                for branch in &union.branches {
                    let by = (name.to_owned(), branch.name.clone(), way.present());
                    self.reach_type(&branch.ty, way, Some(by));
                }
            }
            Kind::Alternate(alternate) => {
                for branch in &alternate.branches {
                    let by = (name.to_owned(), branch.name.clone(), way.present());
                    self.reach_type(&branch.ty, way, Some(by));
                }
            }
            Kind::Enum(_) | Kind::Command(_) | Kind::Event(_) => {}
        }
    }

    fn reach_owned(&mut self, members: Vec<(&Member, &Entity)>, way: Way) {
        for (member, of) in members {
            // A base is never a value by itself, but its members are listed with it.
            self.reach.entry((of.name.clone(), way)).or_default();
            self.reach_member(&of.name, member, way);
        }
    }

    /// The whole page, and its holes.
    pub(super) fn render(&mut self) -> String {
        let mut out = String::from(HEAD);
        let sections: Vec<Section<'a>> = self.sections();
        type Wanted = fn(&Kind) -> bool;
        let kinds: [(&str, Wanted); 3] = [
            ("commands", |kind| matches!(kind, Kind::Command(_))),
            ("events", |kind| matches!(kind, Kind::Event(_))),
            ("types", Kind::is_type),
        ];
        out += "\n## Before a command is known\n\n";
        out += &self.errors("");
        for (ours, origin) in [(false, "`block-core.json`"), (true, "Our own files")] {
            for (what, wanted) in kinds {
                let wanted =
                    |section: &&Section<'a>| section.ours == ours && wanted(&section.entity.kind);
                let mut chosen = sections.iter().filter(wanted).peekable();
                if chosen.peek().is_some() {
                    out += &format!("\n## {origin}: {what}\n");
                }
                for section in chosen {
                    out += &self.section(section);
                }
            }
        }
        out
    }

    fn sections(&self) -> Vec<Section<'a>> {
        let entities = self.schema.entities.values();
        let reached = |way: Way, name: &str| self.reach.contains_key(&(name.to_owned(), way));
        let offered = entities.filter(|entity| {
            !entity.kind.is_type()
                || reached(Way::In, &entity.name)
                || reached(Way::Out, &entity.name)
        });
        let section = |entity: &'a Entity| Section {
            entity,
            rows: self.rows(entity),
            ours: self.is_ours(entity.span),
        };
        offered.map(section).collect()
    }

    fn is_ours(&self, span: Span) -> bool {
        let file = self.schema.file(span);
        file.and_then(|path| path.file_name()) != Some(SEED.as_ref())
    }

    fn rows(&self, entity: &'a Entity) -> Vec<Row> {
        let ways: Vec<Way> = match &entity.kind {
            Kind::Command(_) => vec![Way::In],
            Kind::Event(_) => vec![Way::Out],
            _ => [Way::In, Way::Out]
                .into_iter()
                .filter(|way| self.reach.contains_key(&(entity.name.clone(), *way)))
                .collect(),
        };
        let plain = |name: &str, span: Span| Row {
            part: name.to_owned(),
            shown: format!("`{name}`"),
            can: ways.iter().map(|way| way.present()).collect(),
            ours: self.is_ours(span),
        };
        let members = |members: &'a [Member]| -> Vec<Row> {
            members
                .iter()
                .map(|member| self.member(member, &ways))
                .collect()
        };
        let arguments = |arguments: &'a Arguments| match arguments {
            Arguments::Members(list) => members(list),
            Arguments::Type(_) => Vec::new(),
        };
        match &entity.kind {
            Kind::Command(command) => arguments(&command.arguments),
            Kind::Event(event) => arguments(&event.data),
            Kind::Struct(structure) => members(&structure.members),
            Kind::FlatUnion(union) => match &union.base {
                qapi_parser::Base::Named(_) => Vec::new(),
                qapi_parser::Base::Inline(list) => members(list),
            },
            Kind::Enum(list) => {
                let values = list.values.iter();
                values.map(|value| plain(&value.name, value.span)).collect()
            }
            Kind::SimpleUnion(union) => {
                let branches = union.branches.iter();
                branches
                    .map(|branch| plain(&branch.name, branch.span))
                    .collect()
            }
            Kind::Alternate(alternate) => {
                let branches = alternate.branches.iter();
                branches
                    .map(|branch| plain(&branch.name, branch.span))
                    .collect()
            }
        }
    }

    fn member(&self, member: &Member, ways: &[Way]) -> Row {
        let mut can = Vec::new();
        for way in ways {
            can.push(way.present());
            if member.optional {
                can.push(match way {
                    Way::In => Seen::LeftOut,
                    Way::Out => Seen::Absent,
                });
            }
        }
        Row {
            part: member.name.clone(),
            shown: format!("`{}` {}", member.name, type_name(&member.ty)),
            can,
            ours: self.is_ours(member.span),
        }
    }

    fn section(&mut self, section: &Section<'_>) -> String {
        let name = &section.entity.name;
        let mut out = format!("\n### `{name}`\n\n");
        let mut silent = BTreeSet::new();
        match &section.entity.kind {
            Kind::Command(command) => {
                let done = self.facts.done.contains(name);
                out += &self.whole(done, "succeeded", name);
                if !done {
                    silent.insert(Way::In);
                }
                if let Arguments::Type(ty) = &command.arguments {
                    out += &format!("- takes the members of `{ty}`\n");
                }
                if let Some(ty) = &command.returns {
                    out += &format!("- answers {}\n", type_name(ty));
                }
                out += &self.errors(name);
            }
            Kind::Event(_) => {
                let done = self.facts.done.contains(name);
                out += &self.whole(done, "came", name);
                if !done {
                    silent.insert(Way::Out);
                }
            }
            _ => {
                for way in [Way::In, Way::Out] {
                    out += &self.type_reached(name, way, section, &mut silent);
                }
            }
        }
        if !section.rows.is_empty() && !self.nothing_of(section, &silent) {
            if !out.ends_with("\n\n") {
                out += "\n";
            }
            out += &self.table(section, &silent);
        }
        out
    }

    /// The line that says that a whole was seen, or why not.
    fn whole(&mut self, seen: bool, what: &str, key: &str) -> String {
        if seen && !holes::is_by_chance(self.reasons, key) {
            return format!("- {what}\n");
        }
        self.holes.push(key.to_owned());
        let reason = self.reason(key);
        format!("- never {what}: {reason}\n")
    }

    fn type_reached(
        &mut self,
        name: &str,
        way: Way,
        section: &Section<'_>,
        silent: &mut BTreeSet<Way>,
    ) -> String {
        let key = (name.to_owned(), way);
        let Some(leads) = self.reach.get(&key) else {
            return String::new();
        };
        let member_seen = |row: &Row| {
            let fact = (name.to_owned(), row.part.clone(), way.present());
            self.facts.parts.contains(&fact)
        };
        if self.facts.types.contains(&key) || section.rows.iter().any(member_seen) {
            return String::new();
        }
        silent.insert(way);
        let word = match way {
            Way::In => "given",
            Way::Out => "returned",
        };
        if leads.iter().any(|fact| self.facts.parts.contains(fact)) {
            let key = format!("{name} {word}");
            self.holes.push(key.clone());
            return format!("- never {word}: {}\n", self.reason(&key));
        }
        format!("- not {word}, as nothing that leads to it is\n")
    }

    fn nothing_of(&self, section: &Section<'_>, silent: &BTreeSet<Way>) -> bool {
        let can = section.rows.iter().flat_map(|row| &row.can);
        can.into_iter().all(|seen| silent.contains(&way_of(*seen)))
    }

    fn table(&mut self, section: &Section<'_>, silent: &BTreeSet<Way>) -> String {
        let all = [Seen::Given, Seen::LeftOut, Seen::Returned, Seen::Absent];
        let is_used = |seen: &Seen| {
            !silent.contains(&way_of(*seen))
                && section.rows.iter().any(|row| row.can.contains(seen))
        };
        let columns: Vec<Seen> = all.into_iter().filter(is_used).collect();
        let names: Vec<&str> = columns.iter().map(|seen| word(*seen)).collect();
        let mut out = format!("| | {} | |\n", names.join(" | "));
        out += &format!("|---|{}---|\n", "---|".repeat(columns.len()));
        for row in &section.rows {
            let mut notes = BTreeSet::new();
            let mut cells = Vec::new();
            for seen in &columns {
                cells.push(self.cell(section.entity, row, *seen, &mut notes));
            }
            if row.ours && !section.ours {
                notes.insert("ours".to_owned());
            }
            let notes: Vec<String> = notes.into_iter().collect();
            let line = format!(
                "| {} | {} | {} |",
                row.shown,
                cells.join(" | "),
                notes.join("; ")
            );
            out += &line.replace("  ", " ");
            out.push('\n');
        }
        out
    }

    fn cell(
        &mut self,
        entity: &Entity,
        row: &Row,
        seen: Seen,
        notes: &mut BTreeSet<String>,
    ) -> &'static str {
        if !row.can.contains(&seen) {
            return "";
        }
        let mark = match &entity.kind {
            Kind::Enum(_) => "=",
            _ => ".",
        };
        let key = format!("{}{mark}{} {}", entity.name, row.part, word(seen));
        let fact = (entity.name.clone(), row.part.clone(), seen);
        let is_chance = holes::is_by_chance(self.reasons, &key);
        if self.facts.parts.contains(&fact) && !is_chance {
            return "✓";
        }
        // What an answer always says is the server's choice, and no gap of its tests.
        if seen == Seen::Absent && !is_chance {
            return "";
        }
        notes.insert(self.reason(&key));
        self.holes.push(key);
        "○"
    }

    fn errors(&self, command: &str) -> String {
        let errors = self.facts.errors.iter().filter(|(of, _)| of == command);
        let shown = errors.map(|(_, text)| format!("- refused: {text}\n"));
        shown.collect()
    }

    fn reason(&self, key: &str) -> String {
        let reason = self.reasons.get(key).map(String::as_str);
        reason.unwrap_or("**no reason given**").to_owned()
    }
}

fn way_of(seen: Seen) -> Way {
    match seen {
        Seen::Given | Seen::LeftOut => Way::In,
        Seen::Returned | Seen::Absent => Way::Out,
    }
}

fn word(seen: Seen) -> &'static str {
    match seen {
        Seen::Given => "given",
        Seen::LeftOut => "left out",
        Seen::Returned => "returned",
        Seen::Absent => "absent",
    }
}

fn type_name(ty: &Type) -> String {
    match ty {
        Type::Builtin(builtin) => builtin.name().to_owned(),
        Type::Named(name) => format!("`{name}`"),
        Type::List(element) => format!("list of {}", type_name(element)),
    }
}

const HEAD: &str = "\
<!-- Made by `cargo xtask commands` from what the integration tests exercised. -->
# What the tests exercise of the schema

Every command, member, value and event of [`block-core.json`](../schema/block-core.json), and of our own
files beside it, with a tick where a test of `tests/it` had a daemon take it, answer it or tell it. A ✓ below
*given* and *left out* counts only where the command succeeded; *refused* are the error texts that tests
brought about, with … for names and N for numbers. A ○ is a hole: no test gets there, for the reason at the
end of the row, which stands in [`commands.holes`](commands.holes). *Ours* are members that the overlay adds to the
seed's types. What has no mark cannot be, or is the server's choice. The program's own tools, and Rust
callers of `block-core`, are not counted here.

`cargo test --workspace` leaves the record, `cargo xtask commands` makes this page of it, and
`cargo xtask commands --check` fails when a tick is gone, or when a hole has no reason.
";

/// The ticks and lines of a page, as they stand in its text.
pub(super) fn ticks(page: &str) -> BTreeSet<String> {
    let mut ticks = BTreeSet::new();
    let mut section = "";
    let mut columns: Vec<&str> = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("#") {
            section = title.trim_start_matches('#').trim();
            columns.clear();
        } else if let Some(fact) = line.strip_prefix("- ") {
            if !fact.starts_with("never ") && !fact.starts_with("not ") {
                ticks.insert(format!("{section}: {fact}"));
            }
        } else if let Some(row) = line.strip_prefix('|') {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            if columns.is_empty() {
                columns = cells;
                continue;
            }
            let ticked = cells.iter().zip(&columns).filter(|(cell, _)| **cell == "✓");
            for (_, column) in ticked {
                let part = cells.first().copied().unwrap_or_default();
                ticks.insert(format!("{section}: {part} {column}"));
            }
        }
    }
    ticks
}
