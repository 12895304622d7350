//! Diagnostics: what is wrong with a schema, and where.
//! Every pass pushes into one [`Diagnostics`] and goes on; the caller shows them all.
//! Invariant: the text of every message is made here and nowhere else. A finding that the
//! reference compiler knows carries its words too (`reference.rs`).

mod definition;
mod documentation;
mod expression;
mod files;
mod legacy;
mod machine;
mod overlay;
mod reference;
mod show;
mod subject;
mod syntax;

use crate::check::draft::Scope;
use crate::source::{FileId, Sources, Span};

pub(crate) use definition::Described;
pub(crate) use reference::Pass;
use reference::{Place, Reference};
pub(crate) use subject::Subject;

/// How many findings are kept: more are of no use to anyone, and cost memory.
const MAX_FINDINGS: usize = 1000;

/// One finding: a message, its place, and other places that explain it.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// What is wrong: one phrase.
    pub message: String,
    /// Where; `None` when no file could be read.
    pub span: Option<Span>,
    /// Other places and what they have to do with it.
    pub notes: Vec<(Span, String)>,
    pass: Pass,
    /// When the reference finds this; of findings of its first pass.
    found: Option<Moment>,
    reference: Option<Box<Reference>>,
}

/// How far the reference has read a file.
#[derive(Debug, Clone, Copy)]
struct Moment {
    file: FileId,
    offset: usize,
    /// Whether it has looked at the token there, and found it to be one.
    after: bool,
}

/// What is wrong with a schema, with the sources it is shown from.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    pub(crate) sources: Sources,
    list: Vec<Diagnostic>,
    left_out: usize,
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The findings, in the order in which the reference compiler would come to them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many findings there were beyond those that were kept.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The files that findings are in.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Brings the findings into order, once all are there.
    pub(crate) fn sort(&mut self) {
        let sources = &self.sources;
        self.list.sort_by_cached_key(|finding| {
            let found = finding.found.filter(|_| finding.pass == Pass::Parse);
            (
                finding.pass,
                found.map(|found| reading_order(sources, found)),
            )
        });
    }
}

impl Moment {
    /// When it comes to the token at `span`.
    fn token(span: Span) -> Self {
        Self {
            file: span.file,
            offset: span.start,
            after: false,
        }
    }
}

/// A moment as a key in the order in which includes are read: the root, then where each file on
/// the way is included.
fn reading_order(sources: &Sources, found: Moment) -> (Vec<usize>, bool) {
    let mut key = vec![found.offset];
    let mut root = found.file;
    while let Some(asked) = sources.file(root).included_at {
        key.push(asked.start);
        root = asked.file;
    }
    key.push(root.0);
    key.reverse();
    (key, found.after)
}

impl Diagnostic {
    fn at(pass: Pass, span: Span, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: Some(span),
            notes: Vec::new(),
            pass,
            found: Some(Moment::token(span)),
            reference: None,
        }
    }

    /// A finding that an `include` at `span` leads to, or nothing does.
    fn of_file(span: Option<Span>, message: String) -> Self {
        Self {
            message,
            span,
            notes: Vec::new(),
            pass: Pass::Parse,
            found: span.map(Moment::token),
            reference: None,
        }
    }

    /// The reference compiler says `words` about the expression of `scope`.
    fn refers(mut self, scope: &Scope, words: String) -> Self {
        let place = Place::of(scope);
        self.reference = Some(Box::new(Reference::new(Some(place), words)));
        self
    }

    /// The reference compiler says `words` at the token at `span`.
    fn refers_to_token(mut self, span: Span, words: String) -> Self {
        let place = Place::token(span);
        self.reference = Some(Box::new(Reference::new(Some(place), words)));
        self.found = Some(Moment::token(span));
        self
    }

    /// The reference compiler says `words` at the line of `span`, outside any definition.
    fn refers_to_line(self, span: Span, words: String) -> Self {
        self.refers(&Scope::anonymous(span), words)
    }

    /// It finds this when it has the token at `offset`, in the file of the finding.
    fn found_at(mut self, offset: usize) -> Self {
        self.found = self.found.map(|found| Moment {
            offset,
            after: true,
            ..found
        });
        self
    }

    fn with(mut self, span: Span, note: impl Into<String>) -> Self {
        self.notes.push((span, note.into()));
        self
    }
}
