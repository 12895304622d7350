//! The bytes of a simulated file: pages that share memory with every copy of the file.
//! Called by the simulator and by the crash states. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use crate::engine::Seek;

const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// A sparse file; a page that is not there reads as zeroes and is a hole.
#[derive(Clone, Default)]
pub(super) struct Disk {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Disk {
    pub(super) fn of(bytes: &[u8]) -> Disk {
        let mut disk = Disk::default();
        disk.write(0, bytes);
        disk
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`; zeroes behind the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, within, part) in pieces(offset, out.len()) {
            match self.pages.get(&page) {
                Some(bytes) => out[part].copy_from_slice(&bytes[within]),
                None => out[part].fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, part) in pieces(offset, bytes.len()) {
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within].copy_from_slice(&bytes[part]);
        }
        self.grow_to(offset.saturating_add(bytes.len() as u64));
    }

    pub(super) fn grow_to(&mut self, end: u64) {
        self.len = self.len.max(end);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len..self.len);
        }
        self.len = len;
    }

    /// Makes a range zeroes, and holes where it covers pages. Never changes the length.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        let whole = range.start.div_ceil(PAGE as u64)..range.end / PAGE as u64;
        if whole.start < whole.end {
            let doomed: Vec<u64> = self.pages.range(whole).map(|(&page, _)| page).collect();
            for page in doomed {
                self.pages.remove(&page);
            }
        }
        let edges = [range.start / PAGE as u64, range.end / PAGE as u64];
        for page in edges {
            let base = page * PAGE as u64;
            if let Some(bytes) = self.pages.get_mut(&page) {
                let from = range.start.max(base) - base;
                let to = range.end.min(base + PAGE as u64) - base;
                if from < to {
                    Arc::make_mut(bytes)[within_page(from)..within_page(to)].fill(0);
                }
            }
        }
    }

    pub(super) fn seek(&self, offset: u64, what: Seek) -> Result<u64, Errno> {
        if offset >= self.len {
            return Err(Errno::NXIO);
        }
        let page = offset / PAGE as u64;
        match what {
            Seek::Data => self
                .pages
                .range(page..)
                .map(|(&page, _)| offset.max(page * PAGE as u64))
                .find(|&at| at < self.len)
                .ok_or(Errno::NXIO),
            Seek::Hole => {
                let mut hole = page;
                while self.pages.contains_key(&hole) {
                    hole += 1;
                }
                Ok(offset.max(hole * PAGE as u64).min(self.len))
            }
        }
    }

    /// All bytes.
    pub(super) fn contents(&self) -> Vec<u8> {
        let len = usize::try_from(self.len).expect("a test looks at small files");
        let mut bytes = vec![0; len];
        self.read(0, &mut bytes);
        bytes
    }
}

/// An offset that is within a page, as an index.
fn within_page(offset: u64) -> usize {
    usize::try_from(offset).expect("smaller than a page")
}

/// The pages of a range: number, range within the page, range within the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = within_page(at % PAGE as u64);
        let count = (PAGE - start).min(len - done);
        let part = done..done + count;
        done += count;
        Some((at / PAGE as u64, start..start + count, part))
    })
}
