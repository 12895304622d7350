//! Source files and places in them.
//! Called by every pass, to read files and to show where something stands.
//! Invariant: a [`Span`] is made from the text of the file it names, so it always lies within it.
//! Not here: how a diagnostic is laid out (`error.rs`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Number of a file in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub(crate) usize);

/// A run of bytes in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// One file as read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path by which it was opened.
    pub path: PathBuf,
    /// Its text.
    pub text: Arc<str>,
    /// The `include` that asked for it; `None` for the schema's root and for overlays.
    pub included_at: Option<Span>,
    /// Where each line starts; made when the first place in the file is asked for.
    lines: OnceLock<Vec<usize>>,
}

/// A place as people count: both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// All files of a schema, in the order in which they were opened.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    pub(crate) fn add(&mut self, path: &Path, text: Arc<str>, included_at: Option<Span>) -> FileId {
        self.files.push(Source {
            path: path.to_owned(),
            text,
            included_at,
            lines: OnceLock::new(),
        });
        FileId(self.files.len() - 1)
    }

    /// The file with number `id`.
    pub fn file(&self, id: FileId) -> &Source {
        &self.files[id.0]
    }

    /// All files, in the order in which they were opened.
    pub fn files(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    /// Line and column of byte `offset` of `file`.
    pub fn place(&self, file: FileId, offset: usize) -> Place {
        let source = self.file(file);
        let line = source.line_of(offset);
        let start = source.lines()[line];
        Place {
            line: line + 1,
            column: source.text[start..offset].chars().count() + 1,
        }
    }

    /// The text of the line that holds byte `offset` of `file`, without its end.
    pub fn line(&self, file: FileId, offset: usize) -> &str {
        let text = &self.file(file).text;
        let start = self.line_start(file, offset);
        let end = text[offset..]
            .find('\n')
            .map_or(text.len(), |newline| offset + newline);
        text[start..end].trim_end_matches('\r')
    }

    /// Where the line starts that holds byte `offset` of `file`.
    pub(crate) fn line_start(&self, file: FileId, offset: usize) -> usize {
        let source = self.file(file);
        source.lines()[source.line_of(offset)]
    }
}

impl Source {
    fn lines(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let newlines = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(newlines).collect()
        })
    }

    /// The number, from 0, of the line that holds byte `offset`.
    fn line_of(&self, offset: usize) -> usize {
        self.lines().partition_point(|&start| start <= offset) - 1
    }
}
