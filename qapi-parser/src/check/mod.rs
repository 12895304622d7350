//! What one expression may look like, in either dialect.
//! Called by `lib.rs` for each expression; its drafts go to `resolve`.
//! Invariant: a draft has the shape of its kind. Not here: whether a name is defined.

mod dialect;
pub(crate) mod draft;
pub(crate) mod legacy;
mod modern;
pub(crate) mod name;
mod parts;

use crate::check::draft::{Draft, Language};
use crate::doc;
use crate::error::Diagnostics;
use crate::include::Item;
use crate::pragma::Pragmas;

pub(crate) use dialect::decide;

/// Whether documentation is read from comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    Read,
    Skip,
}

/// Judges one expression: the definitions it makes, inline structs first.
pub(crate) fn check(
    item: &Item,
    language: Language,
    pragmas: &Pragmas,
    diagnostics: &mut Diagnostics,
) -> Vec<Draft> {
    let object = &item.expression.object;
    let mut drafts = match language {
        Language::Legacy => legacy::check(object, &item.module, diagnostics),
        Language::Modern => {
            let Some(named) = modern::named(object, pragmas, diagnostics) else {
                return Vec::new();
            };
            let draft = modern::definition(named, object, &item.module, pragmas, diagnostics);
            draft.into_iter().collect()
        }
    };
    if let (Some(draft), Comments::Read) = (drafts.last_mut(), item.comments) {
        draft.entity.doc = doc::lenient(&item.expression.comment, &draft.entity.name);
    }
    drafts
}
