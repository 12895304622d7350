//! Findings about documentation, which `doc` makes as faults.

use super::{Diagnostic, Pass};
use crate::check::draft::Scope;
use crate::doc::{Fault, Stage};

impl Diagnostic {
    /// `scope`: the definition that is documented, if one is.
    pub(crate) fn documentation(fault: Fault, scope: Option<&Scope>) -> Self {
        let stage = fault.problem.stage();
        let pass = match stage {
            Stage::Lex | Stage::Read => Pass::Parse,
            Stage::Expression | Stage::Definition => Pass::Expression,
            Stage::Resolve => Pass::Check,
            Stage::End => Pass::Documentation,
        };
        let words = fault.problem.reference();
        let finding = Self::at(pass, fault.span, fault.problem.message());
        let mut finding = match (stage, scope) {
            (Stage::Lex, _) => finding.refers_to_token(fault.reference, words),
            (Stage::Definition | Stage::Resolve, Some(scope)) => finding.refers(scope, words),
            _ => finding.refers_to_line(fault.reference, words),
        };
        let notes = fault.notes.into_iter();
        finding
            .notes
            .extend(notes.map(|(span, text)| (span, text.to_owned())));
        finding
    }

    /// The reference finds this no earlier than at byte `offset` of the file.
    pub(crate) fn not_before(mut self, offset: usize) -> Self {
        if let Some(found) = &mut self.found {
            found.offset = found.offset.max(offset);
        }
        self
    }

    /// How far the reference has read when it finds this.
    pub(crate) fn reached(&self) -> usize {
        self.found.map_or(0, |found| found.offset)
    }
}
