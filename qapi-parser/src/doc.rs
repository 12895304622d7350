//! Documentation comments: `##` blocks to a body and one text a member.
//! Called by `check.rs`, unless the caller asked for a file's comments to be left out.
//! Invariant: never fails; the 2.1 dialect does not judge comments.

use crate::error::{Diagnostic, Diagnostics};
use crate::schema::{Arguments, Branch, Doc, Entity, Kind, Member, Schema};

/// The documentation in `comment` if it is a block about `name`, else nothing.
pub(crate) fn parse(comment: &str, name: &str) -> Doc {
    let lines: Vec<&str> = comment.lines().collect();
    let edges: Vec<usize> = (0..lines.len())
        .filter(|&i| lines[i].trim_end() == "##")
        .collect();
    let [.., first, last] = edges[..] else {
        return Doc::default();
    };
    let mut block = lines[first + 1..last].iter().map(|line| {
        let text = line.trim_start_matches('#');
        text.strip_prefix(' ').unwrap_or(text).trim_end()
    });
    let about = block.next().and_then(|line| line.strip_prefix('@'));
    if about.map(|title| title.trim_end_matches(':')) != Some(name) {
        return Doc::default();
    }
    let mut doc = Doc::default();
    let mut member: Option<String> = None;
    for line in block {
        if let Some((title, text)) = line.strip_prefix('@').and_then(|rest| rest.split_once(':')) {
            doc.members.insert(title.to_owned(), text.trim().to_owned());
            member = Some(title.to_owned());
            continue;
        }
        let text = match &member {
            Some(title) if line.starts_with(' ') => doc.members.entry(title.clone()).or_default(),
            _ => {
                if !line.is_empty() {
                    member = None;
                }
                &mut doc.body
            }
        };
        // Empty lines part paragraphs, however many there are.
        if line.is_empty() && text.ends_with('\n') {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line.trim_start());
    }
    doc.body.truncate(doc.body.trim_end().len());
    for text in doc.members.values_mut() {
        text.truncate(text.trim_end().len());
    }
    doc
}

/// Reports every definition, member and value that has no documentation.
pub(crate) fn require(schema: &Schema, diagnostics: &mut Diagnostics) {
    for entity in schema.entities.values() {
        let inline = entity.name.contains('-') && matches!(entity.kind, Kind::Struct(_));
        if entity.doc.body.is_empty() && !inline {
            diagnostics.push(Diagnostic::undocumented(entity.span, &entity.name, None));
        }
        for name in member_names(entity) {
            if entity.doc.members.get(&name).is_none_or(String::is_empty) && !inline {
                let error = Diagnostic::undocumented(entity.span, &entity.name, Some(&name));
                diagnostics.push(error);
            }
        }
    }
}

/// Names that can be documented: own members or values. Branches of unions that have a tag are
/// documented where the tag's values or the branches' types are.
pub(crate) fn member_names(entity: &Entity) -> Vec<String> {
    let of = |members: &[Member]| members.iter().map(|member| member.name.clone()).collect();
    let of_arguments = |arguments: &Arguments| match arguments {
        Arguments::Members(members) => of(members),
        Arguments::Type(_) => Vec::new(),
    };
    let of_branches = |b: &[Branch]| b.iter().map(|branch| branch.name.clone()).collect();
    match &entity.kind {
        Kind::Enum(values) => values.names().map(str::to_owned).collect(),
        Kind::Struct(structure) => of(&structure.members),
        Kind::FlatUnion(_) => Vec::new(),
        Kind::SimpleUnion(union) => of_branches(&union.branches),
        Kind::Alternate(alternate) => of_branches(&alternate.branches),
        Kind::Command(command) => of_arguments(&command.arguments),
        Kind::Event(event) => of_arguments(&event.data),
    }
}
