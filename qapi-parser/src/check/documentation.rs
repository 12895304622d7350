//! Comments between expressions of today's dialect: what of them is wrong, what is about which.

use crate::check::Checker;
use crate::doc::{Block, Fault, Gap, Next, Problem};
use crate::error::Diagnostic;
use crate::include::Loose;
use crate::syntax::Object;

impl Checker<'_> {
    /// Takes comments that no definition follows.
    pub(super) fn loose(&mut self, loose: Loose) {
        let mut found = loose.gap.close(loose.next);
        // Whether a definition follows is not known of what could not be read.
        found
            .faults
            .retain(|fault| fault.problem != Problem::NotAboutDefinition);
        // That the last is followed by no definition is found at what does follow.
        let last = found
            .faults
            .pop_if(|fault| matches!(fault.problem, Problem::NoDefinition(_)));
        self.faults(found.faults);
        if let Some(fault) = last {
            let finding = Diagnostic::documentation(fault, None);
            self.diagnostics.push(finding.not_before(loose.end));
        }
        self.free(&loose.module, &found.free);
    }

    /// The comment that is about the definition `object`, of those in `gap`.
    pub(super) fn before(&mut self, module: &str, gap: Gap, object: &Object) -> Option<Block> {
        let found = gap.close(Next::Definition);
        // That the last is about nothing is found when the expression was read.
        let mut faults = found.faults;
        let last = if found.block.is_none() {
            faults.pop()
        } else {
            None
        };
        self.faults(faults);
        if let Some(fault) = last {
            let finding = Diagnostic::documentation(fault, None);
            self.diagnostics.push(finding.not_before(object.span.end));
        }
        self.free(module, &found.free);
        found.block
    }

    /// Reports `faults`, which are in the order in which the reference finds them.
    fn faults(&mut self, faults: Vec<Fault>) {
        let mut reached = 0;
        for fault in faults {
            let finding = Diagnostic::documentation(fault, None).not_before(reached);
            reached = finding.reached();
            self.diagnostics.push(finding);
        }
    }

    /// Keeps documentation about no definition.
    fn free(&mut self, module: &str, blocks: &[Block]) {
        let Some(module) = self.schema.modules.get_mut(module) else {
            return;
        };
        for block in blocks.iter().filter(|block| !block.body.is_empty()) {
            if !module.doc.is_empty() {
                module.doc.push_str("\n\n");
            }
            module.doc.push_str(&block.body);
        }
    }
}
