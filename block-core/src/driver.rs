//! The trait a driver author writes.
//!
//! The request path calls it, after it has checked range, alignment and permission; each method
//! says what holds at the call. A driver reaches its children through [`Cx`], never by itself:
//! the edges belong to the graph and change under it.
//!
//! A minimal read-only format is `format_name`, `len` and `map`/`try_map`, or `read`. Methods with
//! a default are correct without being written.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use block_schema::types::{BlkdebugEvent, ImageInfoSpecific, SnapshotInfo};

use crate::bitmap::Bitmaps;
use crate::buffer::IoBuf;
use crate::engine::Leaf;
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::perm::Use;
use crate::limits::Limits;
use crate::request::generic;
use crate::request::map::{Access, EdgeIndex, Lookup, Mapping};
use crate::secret::Secret;

pub use crate::request::cx::{Child, Claim, ClaimKind, Cx};

/// Work of a driver, polled by the queue that owns the request, to its end.
pub type Pending<'a, T = ()> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// How zeroes may be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// The range may become unallocated space, as long as it reads as zeroes.
    pub may_unmap: bool,
    /// Fail with `NOTSUP` rather than write zero bytes.
    pub no_fallback: bool,
}

/// What a run of a node holds, as `map` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Bytes that must be read.
    Data,
    /// Reads as zeroes, by this node's own account.
    Zero,
    /// Not in this node: the backing file shows through.
    Unallocated,
}

/// The status of the first run of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Bytes with this status; not 0, at most the range asked for.
    pub len: u64,
    /// What they are.
    pub kind: StatusKind,
    /// Where a child stores the run as it is, when one does.
    pub child: Option<(EdgeIndex, u64)>,
    /// Whether the run is compressed.
    pub compressed: bool,
}

/// How a resize fills new space; the schema's `PreallocMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing is allocated.
    #[default]
    Off,
    /// Metadata is allocated, data is not.
    Metadata,
    /// Metadata is allocated, data reserved by the file system.
    Falloc,
    /// Data is written.
    Full,
}

/// What `check` may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Clusters that nothing uses are freed.
    Leaks,
    /// Everything that can be repaired is.
    All,
}

/// What `check` found; the schema's `ImageCheck`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Errors that kept the check from looking at everything.
    pub check_errors: u64,
    /// Things that are wrong and can lose data.
    pub corruptions: u64,
    /// Clusters that are counted and not used.
    pub leaks: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// End of the last cluster in use.
    pub image_end_offset: Option<u64>,
    /// Clusters of the guest's disk, allocated, not in sequence, and compressed.
    pub clusters: Option<ClusterCounts>,
    /// A line for each thing found, as `check` prints it.
    pub messages: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong that was not made right.
    pub fn is_clean(&self) -> bool {
        self.check_errors == 0 && self.corruptions == 0 && self.leaks == 0
    }
}

/// How far a check is, in steps of about the same work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Steps done.
    pub done: u64,
    /// Steps that there are, as far as is known.
    pub total: u64,
}

/// How an image's clusters are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterCounts {
    /// In the guest's disk.
    pub total: u64,
    /// Stored in the image.
    pub allocated: u64,
    /// Not behind their predecessor.
    pub fragmented: u64,
    /// Stored compressed.
    pub compressed: u64,
}

/// What a node tells about its image besides name and length; for `info` and the queries of QMP.
///
/// The caller adds what the graph knows: file names, the size on disk, the backing image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Bytes of the format's allocation unit.
    pub cluster_size: Option<u64>,
    /// Whether guest data is stored encrypted.
    pub encrypted: bool,
    /// Whether it is, and nobody gave the key.
    pub encryption_key_missing: bool,
    /// Whether all guest data is stored compressed.
    pub compressed: bool,
    /// Whether the image says of itself that it was not closed; `None` where that can't be said.
    pub dirty: Option<bool>,
    /// The backing file that the image names.
    pub backing: Option<BackingName>,
    /// Internal snapshots, in the image's order.
    pub snapshots: Vec<SnapshotInfo>,
    /// What only this format has.
    pub format_specific: Option<ImageInfoSpecific>,
}

/// How an image names its backing file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingName {
    /// The name, as the image spells it.
    pub filename: String,
    /// The format that the image gives for it.
    pub format: Option<String>,
}

/// What of an existing image's format is to be changed; `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AmendOptions {
    /// The level of compatibility, as the format names it.
    pub compat: Option<String>,
    /// Bits of a refcount.
    pub refcount_bits: Option<u64>,
    /// Whether refcounts may be updated late.
    pub lazy_refcounts: Option<bool>,
    /// The name of the external data file; empty for none.
    pub data_file: Option<String>,
    /// Whether that file alone reads as the disk.
    pub data_file_raw: Option<bool>,
}

/// What becomes of the passphrases of an encrypted image, each of which has a key slot.
#[derive(Clone, Debug)]
pub enum KeySlotChange {
    /// One more.
    Add {
        /// Its slot; a free one if `None`.
        slot: Option<u64>,
        /// The passphrase.
        passphrase: Secret,
        /// How long it takes to try it, on this processor.
        iter_time: Duration,
        /// Whether a slot in use may be overwritten.
        force: bool,
    },
    /// Fewer.
    Erase {
        /// This slot; those that the passphrase opens if `None`.
        slot: Option<u64>,
        /// What opens the slot, where it is to be tried.
        passphrase: Option<Secret>,
        /// Whether the last one may go, and all that is stored with it.
        force: bool,
    },
}

/// Which internal snapshot is meant: the first of which all holds that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotKey {
    /// Its ID.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

impl SnapshotKey {
    /// Whether this snapshot is meant.
    pub fn means(&self, snapshot: &SnapshotInfo) -> bool {
        self.id.as_ref().is_none_or(|id| *id == snapshot.id)
            && self.name.as_ref().is_none_or(|name| *name == snapshot.name)
    }
}

impl From<&SnapshotInfo> for SnapshotKey {
    fn from(snapshot: &SnapshotInfo) -> SnapshotKey {
        SnapshotKey {
            id: Some(snapshot.id.clone()),
            name: Some(snapshot.name.clone()),
        }
    }
}

/// What becomes of an image's internal snapshots.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotChange {
    /// One more, of the disk as it is; with an empty ID it gets a new one.
    Create(SnapshotInfo),
    /// The disk becomes what it was then.
    Apply(SnapshotKey),
    /// One less.
    Delete(SnapshotKey),
    /// A read-only image shows what it was then, until it is closed.
    Show(SnapshotKey),
}

/// One instance of a format, protocol or filter: the inside of a node.
///
/// Shared by all queues at once; state changes go through the driver's own synchronisation.
/// Futures are polled by one queue's thread and always run to their end: a caller that loses
/// interest detaches. An error leaves the node usable.
pub trait Driver: Send + Sync + 'static {
    /// The driver's name in the schema's `BlockdevDriver`.
    fn format_name(&self) -> &'static str;

    /// Bytes of the node. For a growing protocol file, its length now. Where
    /// [`len_child`](Driver::len_child) names a child, the most that the node can have, which must
    /// not change; [`Graph::len`](crate::graph::Graph::len) knows the length.
    fn len(&self) -> u64;

    /// The child that the node ends with, and the offset there of the node's first byte: raw
    /// images and filters, which get longer when it does. Must not change while the node is open.
    fn len_child(&self) -> Option<(EdgeIndex, u64)> {
        self.shifted_child()
    }

    /// Whether the node has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What requests must keep to.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// What a parent is about to do, told to the node that its next request goes to: where a driver
    /// that injects faults arms them. The default does not listen. Requests of the short way pass by.
    fn event(&self, _event: BlkdebugEvent) {}

    /// What the image says about itself, from memory alone. The default has nothing to say.
    fn describe(&self) -> Description {
        Description::default()
    }

    /// The descriptor that this node is, for protocol drivers.
    fn leaf(&self) -> Option<&Arc<Leaf>> {
        None
    }

    /// Where the whole node is the same bytes as a child, shifted by a constant, for reads and
    /// overwrites alike: the walk then skips this node. Must not change while the node is open.
    fn shifted_child(&self) -> Option<(EdgeIndex, u64)> {
        None
    }

    /// Maps `range` from memory alone: no I/O, no allocation, no lock that another queue can hold
    /// for long. `range` is not empty and ends within `len()`; `out` is empty.
    ///
    /// For [`Access::Write`] only what this node owns alone and may be overwritten without any
    /// change of metadata; never `Unallocated` or `Zero`.
    ///
    /// What reads of a read-only node map to is kept and used again: a miss may become a mapping, and
    /// nothing else may change, but by [`snapshot`](Driver::snapshot) and [`check`](Driver::check).
    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup;

    /// As `try_map`, but may load tables: maps `range` from its start, at least its first byte.
    /// `out` is empty at the call. For [`Access::Write`] an empty `out` means: not in place.
    fn map<'a>(
        &'a self,
        _cx: &'a Cx,
        access: Access,
        range: Range<u64>,
        out: &'a mut Mapping,
    ) -> Pending<'a> {
        Box::pin(async move {
            if self.try_map(access, range.clone(), out) == Lookup::Miss && out.is_empty() {
                out.clear();
            }
            Ok(())
        })
    }

    /// Fills `buf` from `offset`. The default maps and reads what the mapping names.
    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(generic::read_mapped(cx, offset, buf))
    }

    /// Produces the bytes of a run that `map` called `Transform`.
    fn read_transformed<'a>(&'a self, cx: &'a Cx, _offset: u64, _buf: IoBuf) -> Pending<'a> {
        unsupported(cx, "reading transformed data")
    }

    /// Sees to storage behind `range`, and lengthens a node that can grow to its end. No byte
    /// changes, whatever is written there meanwhile. The default does nothing.
    ///
    /// A hint: only protocol drivers whose limits say [`grows_slowly`](Limits::grows_slowly) need it.
    fn allocate<'a>(&'a self, _cx: &'a Cx, _range: Range<u64>) -> Pending<'a> {
        Box::pin(async { Ok(()) })
    }

    /// Writes `buf` at `offset`: allocates, copies on write, and exposes the new data in the
    /// order that the driver's README gives. The node is writable.
    fn write<'a>(&'a self, cx: &'a Cx, _offset: u64, _buf: IoBuf) -> Pending<'a> {
        unsupported(cx, "writing")
    }

    /// Whether [`write_compressed`](Driver::write_compressed) can work on this node.
    fn can_compress(&self) -> bool {
        false
    }

    /// Writes `buf` at `offset`, compressed. Only whole units, `cluster_size` in
    /// [`describe`](Driver::describe), can be; the last of the node may be shorter. The node is
    /// writable; the range is checked against its length and nothing else.
    fn write_compressed<'a>(&'a self, cx: &'a Cx, _offset: u64, _buf: IoBuf) -> Pending<'a> {
        unsupported(cx, "compressed writes")
    }

    /// Makes `range` read as zeroes. The default writes zero bytes.
    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(generic::write_zero_bytes(cx, range, flags))
    }

    /// Says that the bytes of `range` are not needed. The default does nothing.
    fn discard<'a>(&'a self, _cx: &'a Cx, _range: Range<u64>) -> Pending<'a> {
        Box::pin(async { Ok(()) })
    }

    /// Makes everything durable that completed before the call, on any queue: first the driver's
    /// own metadata, then its children. The default flushes all children that hold its bytes.
    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(generic::flush_children(cx))
    }

    /// The status of the first run of `range`. The default maps it for reading.
    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(generic::mapped_status(cx, range))
    }

    /// Sets the length. Runs drained.
    fn resize<'a>(&'a self, cx: &'a Cx, _len: u64, _preallocation: Preallocation) -> Pending<'a> {
        unsupported(cx, "resizing")
    }

    /// Whether another image can show through this one.
    fn supports_backing(&self) -> bool {
        false
    }

    /// Names another backing file in the image, or none; the one that is open stays open.
    /// Runs drained.
    fn name_backing<'a>(&'a self, cx: &'a Cx, _backing: Option<BackingName>) -> Pending<'a> {
        unsupported(cx, "naming a backing file")
    }

    /// Forgets what the image itself holds: its backing file shows through. Runs drained.
    fn make_empty<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        unsupported(cx, "emptying an image")
    }

    /// Changes the image's format; afterwards the node only reads. Runs drained.
    fn amend<'a>(&'a self, cx: &'a Cx, _options: AmendOptions) -> Pending<'a> {
        unsupported(cx, "amending options")
    }

    /// Changes the passphrases of an encrypted image; the key is known. Runs drained.
    fn change_key_slots<'a>(&'a self, cx: &'a Cx, _change: KeySlotChange) -> Pending<'a> {
        unsupported(cx, "key slots")
    }

    /// Changes the internal snapshots; returns the one concerned. Runs drained.
    fn snapshot<'a>(&'a self, cx: &'a Cx, _change: SnapshotChange) -> Pending<'a, SnapshotInfo> {
        unsupported(cx, "an internal snapshot")
    }

    /// Looks for damage and repairs what `repair` allows. Runs drained.
    fn check<'a>(&'a self, cx: &'a Cx, _repair: Repair) -> Pending<'a, CheckReport> {
        unsupported(cx, "checking")
    }

    /// How far the check is that is under way. The default does not know.
    fn check_progress(&self) -> Option<CheckProgress> {
        None
    }

    /// Takes the passphrase of an image that was opened without one; requests for guest data have
    /// failed with `Encrypted` until then. The default says that there is nothing to unlock.
    fn unlock<'a>(&'a self, cx: &'a Cx, _passphrase: Secret) -> Pending<'a> {
        Box::pin(async move {
            let reason = format!("Device '{}' is not encrypted", cx.node_name());
            Err(Error::invalid("device", reason))
        })
    }

    /// The dirty bitmaps that the image stores, loaded: the node's own from now on. The driver
    /// stores them when it closes. The default has none.
    fn bitmaps(&self) -> Option<Arc<Bitmaps>> {
        None
    }

    /// Whether the image can store one more bitmap. The granularity is a power of two from 512 on,
    /// and no bitmap of the node has the name.
    ///
    /// # Errors
    /// `InvalidOption` with the reason why not.
    fn check_new_bitmap(&self, node: &Node, _name: &str, _granularity: u32) -> Result<()> {
        let reason = format!(
            "Can't store persistent bitmaps to {}: Operation not supported",
            node.name()
        );
        Err(Error::invalid("persistent", reason))
    }

    /// Removes a bitmap from the image, durably; one that is not stored there is no error. Runs
    /// drained, before the node loses it.
    fn remove_bitmap<'a>(&'a self, _cx: &'a Cx, _name: &'a str) -> Pending<'a> {
        Box::pin(async { Ok(()) })
    }

    /// Drops what was not used since the last call and can be read again, and gives its memory back.
    /// Whether the next call may find more. On any queue, at any time; nobody calls it but for a driver
    /// that asks for it. The default has nothing.
    fn drop_unused(&self) -> bool {
        false
    }

    /// Hears what its parents do with it; a protocol driver tells other processes by locks.
    ///
    /// # Errors
    /// `PermissionConflict` when another process is in the way.
    fn set_permissions(&self, _wanted: Use) -> Result<()> {
        Ok(())
    }

    /// Writes out everything and leaves the image as another program expects to find it. Runs
    /// drained, once, before the last handle to the node goes.
    fn close<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        self.flush(cx)
    }
}

fn unsupported<'a, T>(cx: &'a Cx, what: &'static str) -> Pending<'a, T> {
    Box::pin(async move {
        Err(Error::Unsupported {
            node: cx.node_name().to_owned(),
            what: what.to_owned(),
        })
    })
}
