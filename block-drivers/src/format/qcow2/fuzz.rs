//! What must hold of headers and snapshot tables that anybody may have written.
//! Called by `crate::fuzz`. Not here: whole images, which need no door.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use block_core::driver::{Preallocation, ZeroFlags};
use block_core::{Error, IoBuf, Result};

use super::header::{Header, header_cluster_size};
use super::header_write::Rewrite;
use super::snapshot_table::{Snapshots, read_snapshots, table_bytes};
use crate::kit::image_file::ImageFile;

/// The smallest header, whose snapshot table comes next.
const HEADER: [(usize, &[u8]); 8] = [
    (0, b"QFI\xfb"),
    (7, &[3]),
    (23, &[9]),
    (46, &[2]),
    (54, &[4]),
    (59, &[1]),
    (99, &[4]),
    (103, &[104]),
];
/// Bytes of a cluster that are looked at.
const LARGE: usize = 65536;
/// Where the snapshot table begins.
const TABLE: usize = 4096;

/// See [`qcow2_header`](crate::fuzz::qcow2_header).
pub(crate) fn header(bytes: &[u8]) {
    let Ok(size) = header_cluster_size(bytes) else {
        return;
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    // A file with tables has more than the header's cluster; its end is zeroes in all that matters.
    let mut cluster = bytes.to_vec();
    cluster.resize(size.min(LARGE), 0);
    // Tables may be anywhere: what is behind the header is not looked at.
    let Ok(header) = Header::parse(&cluster, 1 << 40) else {
        return;
    };
    if let Ok(written) = header.to_bytes() {
        let again = Header::parse(&written, 1 << 40);
        assert_eq!(again.as_ref(), Ok(&header), "the header written back");
    }
    // A rewrite needs the whole cluster.
    if size > LARGE {
        return;
    }
    for name in [None, Some("b".repeat(8)), Some("c".repeat(500))] {
        replaced(&cluster, &header, name);
    }
}

/// Gives the image another backing file's name, and looks after each step.
fn replaced(cluster: &[u8], old: &Header, backing_file: Option<String>) {
    let new = Header {
        backing_file,
        ..old.clone()
    };
    let Ok(plan) = Rewrite::plan(cluster, old, &new) else {
        return;
    };
    let steps: Vec<(u64, &[u8])> = plan.steps().collect();
    let bare = new.without_feature_names();
    let mut bytes = cluster.to_vec();
    for (number, (at, part)) in steps.iter().enumerate() {
        let at = usize::try_from(*at).unwrap_or(usize::MAX);
        let end = at.saturating_add(part.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(place) = bytes.get_mut(at..end) {
            place.copy_from_slice(part);
        }
        let found = Header::parse(&bytes, 1 << 40).expect("a header after each step");
        let last = number.saturating_add(1) == steps.len();
        let right = match last {
            true => found == new,
            false => found == *old || found == bare,
        };
        assert!(right, "step {number}: {found:?}");
    }
}

/// See [`qcow2_snapshot_table`](crate::fuzz::qcow2_snapshot_table).
pub(crate) fn snapshot_table(bytes: &[u8]) {
    let Some((&count, table)) = bytes.split_first() else {
        return;
    };
    let Ok(read) = read_table(count, table) else {
        return;
    };
    let written = table_bytes(&read.entries).expect("what was read is within the limit");
    let again = read_table(count, &written).expect("what was written is read");
    assert_eq!(again.entries, read.entries, "the table written back");
}

fn read_table(count: u8, table: &[u8]) -> Result<Snapshots> {
    let mut bytes = vec![0; TABLE];
    for (at, part) in HEADER {
        let place = bytes.iter_mut().skip(at);
        place.zip(part).for_each(|(old, new)| *old = *new);
    }
    bytes.extend_from_slice(table);
    let len = bytes.len() as u64;
    let mut header = Header::parse(&bytes, len.max(1 << 20)).expect("the header is right");
    header.snapshot_count = u32::from(count);
    header.snapshots.0 = TABLE as u64;
    at_once(read_snapshots(&Bytes(bytes), &header, "fuzz"))
}

/// The value of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("bytes in memory are there"),
    }
}

/// Bytes as a file that is only read.
struct Bytes(Vec<u8>);

impl Bytes {
    fn read_only(&self) -> Result<()> {
        let node = self.name().to_owned();
        Err(Error::ReadOnly { node })
    }
}

impl ImageFile for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn name(&self) -> &str {
        "bytes"
    }

    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let count = buf.len().min(rest.len());
        buf.copy_in(0, rest.get(..count).unwrap_or_default());
        buf.fill(count..buf.len(), 0);
        Ok(())
    }

    async fn write(&self, _: u64, _: IoBuf) -> Result<()> {
        self.read_only()
    }

    async fn write_zeroes(&self, _: Range<u64>, _: ZeroFlags) -> Result<()> {
        self.read_only()
    }

    async fn discard(&self, _: Range<u64>) -> Result<()> {
        self.read_only()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn resize(&self, _: u64, _: Preallocation) -> Result<()> {
        self.read_only()
    }
}
