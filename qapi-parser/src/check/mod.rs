//! What one expression may look like, in either dialect.
//! Called by `lib.rs` when all files are read; drafts go to `resolve`.
//! Invariant: a draft has the shape of its kind. Not here: whether a name is defined.

mod dialect;
mod documentation;
pub(crate) mod draft;
pub(crate) mod legacy;
mod modern;
pub(crate) mod name;
mod parts;

use std::sync::Arc;

use crate::check::draft::{Draft, Language, Scope};
use crate::doc::{self, Block};
use crate::error::{Diagnostic, Diagnostics};
use crate::include::{Comments, Files, Item};
use crate::parse;
use crate::pragma::Pragmas;
use crate::schema::{Dialect, Doc, Schema};
use crate::syntax::{Object, Text};

/// Judges all expressions and comments of `files`: the definitions in schema order, inline
/// structs first. Documentation about no definition goes to the modules of `schema`.
pub(crate) fn check(
    files: Files,
    dialect: Dialect,
    schema: &mut Schema,
    diagnostics: &mut Diagnostics,
) -> Vec<Draft> {
    let languages = dialect::decide(&files.items, dialect);
    let mut checker = Checker {
        pragmas: &files.pragmas,
        schema,
        diagnostics,
    };
    for module in &files.modules {
        checker
            .schema
            .modules
            .entry(module.to_string())
            .or_default();
    }
    for loose in files.loose {
        if languages.of_file(loose.file) == Language::Modern {
            checker.loose(loose);
        }
    }
    let mut drafts = Vec::with_capacity(files.items.len());
    for item in files.items {
        // QEMU 2.1's compiler passes over what it does not know. Where the caller does not ask for
        // just that, it is more likely a mistake.
        if dialect == Dialect::Legacy && !legacy::has_kind(&item.expression.object) {
            continue;
        }
        match languages.of(&item.expression.object) {
            Language::Legacy => checker.legacy(&item, &mut drafts),
            Language::Modern => drafts.extend(checker.modern(item)),
        }
    }
    drafts
}

struct Checker<'a> {
    pragmas: &'a Pragmas,
    schema: &'a mut Schema,
    diagnostics: &'a mut Diagnostics,
}

impl Checker<'_> {
    fn legacy(&mut self, item: &Item, out: &mut Vec<Draft>) {
        let object = &item.expression.object;
        let mut drafts = legacy::check(object, &item.module, self.diagnostics);
        if let (Some(draft), Comments::Read) = (drafts.last_mut(), item.comments) {
            let text = &self.diagnostics.sources.file(object.span.file).text;
            let comment = &text[item.expression.before..object.span.start];
            draft.entity.doc = doc::lenient(comment, &draft.entity.name);
        }
        out.extend(drafts);
    }

    fn modern(&mut self, item: Item) -> Option<Draft> {
        let Item {
            expression,
            module,
            comments,
        } = item;
        let object = &expression.object;
        let file = object.span.file;
        if !expression.flaws.is_empty() {
            let text = Arc::clone(&self.diagnostics.sources.file(file).text);
            for flaw in &expression.flaws {
                let error = parse::flaw_error(&text, object.span.start, file, flaw);
                self.diagnostics.push(error);
            }
        }
        let block = match comments {
            Comments::Read => self.before(&module, expression.gap, object),
            Comments::Skip => None,
        };
        let named = modern::named(object, self.pragmas, self.diagnostics)?;
        if comments == Comments::Read {
            self.about(block.as_ref(), &named.scope, &named.name, object);
        }
        let pragmas = self.pragmas;
        let mut draft = modern::definition(named, object, &module, pragmas, self.diagnostics)?;
        draft.entity.doc = block.as_ref().map_or_else(Doc::default, Block::doc);
        draft.origin.block = block;
        Some(draft)
    }

    /// Checks that `block` can be about what `object` defines.
    fn about(&mut self, block: Option<&Block>, scope: &Scope, name: &Text, object: &Object) {
        let subject = match (object.find("command"), object.find("returns")) {
            (Some(_), Some(_)) => doc::Subject::Returning,
            (Some(_), None) => doc::Subject::Silent,
            (None, _) => doc::Subject::Type,
        };
        let required = self.pragmas.doc_required;
        for fault in doc::expression(block, subject, name, scope.at, required) {
            self.diagnostics
                .push(Diagnostic::documentation(fault, Some(scope)));
        }
    }
}
