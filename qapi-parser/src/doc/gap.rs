//! What documentation stands between two expressions, and to which it belongs.
//! Fed by the scanner with every `##` between expressions; closed when it knows what follows.
//! Invariant: at most one block belongs to a definition, the last before it.

use super::fault::{Fault, Problem};
use super::parse::{self, Block};
use crate::source::{FileId, Span};

/// The blocks since the last expression, and what is wrong with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gap {
    blocks: Vec<Block>,
    faults: Vec<Fault>,
}

/// What follows a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A definition: documentation may belong to it.
    Definition,
    /// An include, a pragma, or the end of the file.
    Other,
}

/// A gap whose end is known.
#[derive(Debug, Default)]
pub(crate) struct Documentation {
    /// About the definition that follows.
    pub(crate) block: Option<Block>,
    /// About no definition.
    pub(crate) free: Vec<Block>,
    /// What is wrong, in the order in which the reference compiler would meet it.
    pub(crate) faults: Vec<Fault>,
}

impl Gap {
    /// Reads the block that starts at byte `start` of `text`; gives where reading goes on.
    pub(crate) fn read(&mut self, file: FileId, text: &str, start: usize) -> usize {
        self.reject_last();
        let parsed = parse::block(file, text, start);
        self.faults.extend(parsed.faults);
        self.blocks.push(parsed.block);
        parsed.end
    }

    /// Sorts the blocks by what follows.
    pub(crate) fn close(mut self, next: Next) -> Documentation {
        let block = match next {
            Next::Definition => self.blocks.pop_if(|last| last.symbol.is_some()),
            Next::Other => {
                self.reject_last();
                None
            }
        };
        if next == Next::Definition
            && block.is_none()
            && let Some(last) = self.blocks.last()
        {
            let fault = fault(Problem::NotAboutDefinition, last.span, last.span);
            self.faults.push(fault);
        }
        self.blocks.retain(|block| block.symbol.is_none());
        Documentation {
            block,
            free: self.blocks,
            faults: self.faults,
        }
    }

    /// The last block can belong to nothing any more.
    fn reject_last(&mut self) {
        if let Some(last) = self.blocks.last()
            && let Some(symbol) = &last.symbol
        {
            let problem = Problem::NoDefinition(symbol.text.clone());
            self.faults.push(fault(problem, symbol.span, last.span));
        }
    }
}

fn fault(problem: Problem, span: Span, reference: Span) -> Fault {
    let notes = Vec::new();
    Fault {
        problem,
        span,
        reference,
        notes,
    }
}
