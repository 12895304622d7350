//! Memory that requests read and write: [`IoBuf`], a counted handle to aligned memory of our own
//! or to a guest's memory, and [`AlignedBuf`], our own memory while nobody else can see it. And
//! [`SharedWords`], for tables that all queues read without a lock.
//!
//! Everything that does I/O holds an `IoBuf`, never a borrow: the kernel may write a buffer long
//! after the caller lost interest. Invariant: memory behind an `IoBuf` may change at any time
//! (a guest or the kernel writes it), so nothing here lends out a `&[u8]` of it; bytes are copied
//! in and out. Not here: who may do I/O where (`request/`).
#![expect(
    unsafe_code,
    reason = "owns raw memory that the kernel and a guest write"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;
use smallvec::{SmallVec, smallvec};

/// The alignment of all memory we allocate: enough for O_DIRECT on every common device.
pub const BUFFER_ALIGNMENT: usize = 4096;

/// Zero-initialised, page-aligned memory with one owner, readable as a slice.
///
/// Turn it into an [`IoBuf`] to do I/O, and back with [`IoBuf::try_into_aligned`].
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: `AlignedBuf` owns its memory alone, like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as for `Send`; shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Allocates `len` zero bytes.
    ///
    /// # Panics
    /// When `len` is beyond `isize::MAX`; callers bound lengths from outside first.
    pub fn zeroed(len: usize) -> AlignedBuf {
        if len == 0 {
            return AlignedBuf {
                ptr: NonNull::dangling(),
                len,
            };
        }
        let layout = AlignedBuf::layout(len);
        // SAFETY: `layout` has a size above zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout)
        };
        AlignedBuf { ptr, len }
    }

    /// Allocates a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BUFFER_ALIGNMENT).expect("callers bound buffer lengths")
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialised bytes that only `self` can reach.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `ptr` came from `alloc_zeroed` with this layout and is freed once, here.
            unsafe { dealloc(self.ptr.as_ptr(), AlignedBuf::layout(self.len)) }
        }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// Words that any number of threads read and write, whose memory goes back to the system and comes
/// again while they do.
pub struct SharedWords {
    ptr: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: it owns its memory alone, like a `Box<[AtomicU64]>`.
unsafe impl Send for SharedWords {}
// SAFETY: shared references only read and write atomically.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Allocates `len` words of 0.
    ///
    /// # Panics
    /// As [`AlignedBuf::zeroed`].
    pub fn zeroed(len: usize) -> SharedWords {
        if len == 0 {
            let ptr = NonNull::dangling();
            return SharedWords { ptr, len };
        }
        let layout = SharedWords::layout(len);
        // SAFETY: `layout` has a size above zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr.cast()) else {
            handle_alloc_error(layout)
        };
        SharedWords { ptr, len }
    }

    /// Gives the memory back to the system, as far as whole pages go. From now on a word reads as it
    /// was, or as 0, until somebody stores to it, which takes memory again. What is stored meanwhile
    /// may be lost.
    pub fn release(&self) {
        let page = page_size();
        let start = self.ptr.addr().get();
        let end = (start + self.len * size_of::<AtomicU64>()) / page * page;
        let skip = start.next_multiple_of(page) - start;
        let Some(len) = end.checked_sub(start + skip).filter(|&len| len > 0) else {
            return;
        };
        let first = self.ptr.as_ptr().wrapping_byte_add(skip);
        // SAFETY: these are whole pages of private memory that `self` owns. Others see them only as
        // atomics, to which the kernel's zeroes are one more store.
        let released = unsafe { madvise(first.cast(), len, Advice::LinuxDontNeed) };
        if let Err(error) = released {
            // Locked memory stays.
            tracing::debug!(%error, "memory is not given back");
        }
    }

    /// Pages of their own for what has pages; the rest lies together.
    fn layout(len: usize) -> Layout {
        let bytes = len.saturating_mul(size_of::<AtomicU64>());
        let alignment = match bytes >= BUFFER_ALIGNMENT {
            true => BUFFER_ALIGNMENT,
            false => align_of::<AtomicU64>(),
        };
        Layout::from_size_align(bytes, alignment).expect("callers bound lengths")
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `ptr` is aligned and valid for `len` initialised words, which change atomically.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `ptr` came from `alloc_zeroed` with this layout and is freed once, here.
            unsafe { dealloc(self.ptr.as_ptr().cast(), SharedWords::layout(self.len)) }
        }
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedWords({} words)", self.len)
    }
}

/// Guest memory that a hypervisor mapped, kept mapped by what `GuestMemory` holds.
///
/// Make one `Arc<GuestMemory>` a queue: its counter is touched by every request, and a counter
/// that several cores share is slow.
pub struct GuestMemory {
    ptr: NonNull<u8>,
    len: usize,
    written: Option<Written>,
    _keep: Box<dyn Any + Send + Sync>,
}

/// Tells the owner of guest memory which bytes (offset, length) a completed read changed.
pub type Written = Box<dyn Fn(usize, usize) + Send + Sync>;

// SAFETY: the memory is plain bytes; whoever built it promised that `keep` keeps it mapped, and
// all access goes through raw copies that tolerate concurrent change.
unsafe impl Send for GuestMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Wraps `len` bytes at `ptr`; `written` hears of every range that a read has changed.
    ///
    /// # Safety
    /// The range must stay mapped, readable and writable until `keep` is dropped.
    pub unsafe fn new(
        ptr: NonNull<u8>,
        len: usize,
        keep: Box<dyn Any + Send + Sync>,
        written: Option<Written>,
    ) -> GuestMemory {
        GuestMemory {
            ptr,
            len,
            written,
            _keep: keep,
        }
    }

    /// Memory of our own in the shape of a guest's, for devices without a hypervisor, and tests.
    pub fn anonymous(len: usize, written: Option<Written>) -> GuestMemory {
        let memory = AlignedBuf::zeroed(len);
        let ptr = memory.ptr;
        // SAFETY: the allocation lives in `keep`, which moves but never reallocates.
        unsafe { GuestMemory::new(ptr, len, Box::new(memory), written) }
    }

    /// Bytes of memory.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no memory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestMemory({} bytes)", self.len)
    }
}

#[derive(Clone, Debug)]
enum Owner {
    Own(Arc<AlignedBuf>),
    Guest(Arc<GuestMemory>),
}

#[derive(Clone, Debug)]
struct Segment {
    owner: Owner,
    start: usize,
    len: usize,
}

impl Segment {
    fn ptr(&self) -> *mut u8 {
        let base = match &self.owner {
            Owner::Own(memory) => memory.ptr,
            Owner::Guest(memory) => memory.ptr,
        };
        base.as_ptr().wrapping_add(self.start)
    }
}

/// A counted handle to the memory of one request: one or more segments, together `len()` bytes.
///
/// Cloning and slicing are cheap and share the memory. The bytes can change under the handle.
#[derive(Clone, Debug)]
pub struct IoBuf {
    segments: SmallVec<[Segment; 2]>,
    len: usize,
}

/// One piece of memory, as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSegment {
    /// First byte; valid as long as the `IoBuf` it came from.
    pub ptr: *mut u8,
    /// Bytes from there.
    pub len: usize,
}

impl IoBuf {
    /// A handle to no bytes; allocates nothing.
    pub fn empty() -> IoBuf {
        IoBuf {
            segments: SmallVec::new(),
            len: 0,
        }
    }

    /// Allocates `len` zero bytes.
    pub fn zeroed(len: usize) -> IoBuf {
        AlignedBuf::zeroed(len).into()
    }

    /// Allocates a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> IoBuf {
        AlignedBuf::copy_of(bytes).into()
    }

    /// A handle to ranges of guest memory, in the order of the request.
    ///
    /// Returns `None` when a range ends outside the memory.
    pub fn guest(memory: &Arc<GuestMemory>, ranges: &[Range<usize>]) -> Option<IoBuf> {
        let mut buf = IoBuf::empty();
        for range in ranges {
            if range.start > range.end || range.end > memory.len {
                return None;
            }
            buf.push(Segment {
                owner: Owner::Guest(Arc::clone(memory)),
                start: range.start,
                len: range.end - range.start,
            });
        }
        Some(buf)
    }

    fn push(&mut self, segment: Segment) {
        if segment.len > 0 {
            self.len += segment.len;
            self.segments.push(segment);
        }
    }

    /// Bytes in all segments.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A handle to a part of the same memory.
    ///
    /// # Panics
    /// When `range` ends outside the buffer: lengths are checked where requests enter.
    pub fn slice(&self, range: Range<usize>) -> IoBuf {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        let mut part = IoBuf::empty();
        self.each(range, |segment, within| {
            part.push(Segment {
                owner: segment.owner.clone(),
                start: segment.start + within.start,
                len: within.len(),
            });
        });
        part
    }

    /// Appends the segments of `tail`.
    pub fn append(&mut self, tail: IoBuf) {
        for segment in tail.segments {
            self.push(segment);
        }
    }

    /// Number of pieces of memory, for an iovec.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The pieces of memory, for the kernel.
    pub fn raw_segments(&self) -> impl Iterator<Item = RawSegment> + '_ {
        self.segments.iter().map(|s| RawSegment {
            ptr: s.ptr(),
            len: s.len,
        })
    }

    /// Whether every piece starts and ends on a multiple of `alignment` (a power of two).
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let mask = alignment - 1;
        self.segments
            .iter()
            .all(|s| (s.ptr().addr() | s.len) & mask == 0)
    }

    /// Copies bytes from `offset` out into `out`.
    ///
    /// # Panics
    /// When the range ends outside the buffer.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        let mut done = 0;
        self.each(offset..offset + out.len(), |segment, within| {
            let part = &mut out[done..done + within.len()];
            let from = segment.ptr().wrapping_add(within.start);
            // SAFETY: `each` keeps `within` inside the segment, which its owner keeps mapped;
            // `out` is ours, so the two do not overlap.
            unsafe { ptr::copy_nonoverlapping(from.cast_const(), part.as_mut_ptr(), part.len()) };
            done += within.len();
        });
    }

    /// Copies `bytes` in at `offset`, and tells a guest's owner.
    ///
    /// # Panics
    /// When the range ends outside the buffer.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let mut done = 0;
        self.each(offset..offset + bytes.len(), |segment, within| {
            let part = &bytes[done..done + within.len()];
            let to = segment.ptr().wrapping_add(within.start);
            // SAFETY: as in `copy_out`, in the other direction.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
            done += within.len();
        });
        self.mark_written(offset..offset + bytes.len());
    }

    /// Sets a range to `byte`, and tells a guest's owner.
    ///
    /// # Panics
    /// When the range ends outside the buffer.
    pub fn fill(&self, range: Range<usize>, byte: u8) {
        self.each(range.clone(), |segment, within| {
            let to = segment.ptr().wrapping_add(within.start);
            // SAFETY: `each` keeps `within` inside the segment, which its owner keeps mapped.
            unsafe { ptr::write_bytes(to, byte, within.len()) };
        });
        self.mark_written(range);
    }

    /// Copies `len` bytes from `from` at `from_offset` to `self` at `offset`.
    pub fn copy_from(&self, offset: usize, from: &IoBuf, from_offset: usize, len: usize) {
        let mut bounce = [0; 4096];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(bounce.len());
            from.copy_out(from_offset + done, &mut bounce[..part]);
            self.copy_in(offset + done, &bounce[..part]);
            done += part;
        }
    }

    /// All bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_out(0, &mut bytes);
        bytes
    }

    /// Whether every byte of `range` was zero when it was looked at.
    pub fn is_zero(&self, range: Range<usize>) -> bool {
        // Data mostly shows in its first bytes: a short look spares copying the rest.
        let mut first = [0; 64];
        let head = first.len().min(range.len());
        self.copy_out(range.start, &mut first[..head]);
        if has_data(&first) {
            return false;
        }
        let mut bounce = [0; 4096];
        let mut at = range.start + head;
        while at < range.end {
            let part = (range.end - at).min(bounce.len());
            self.copy_out(at, &mut bounce[..part]);
            if has_data(&bounce[..part]) {
                return false;
            }
            at += part;
        }
        true
    }

    /// Tells the owners of guest memory that a read changed `range`.
    pub fn mark_written(&self, range: Range<usize>) {
        self.each(range, |segment, within| {
            if let Owner::Guest(memory) = &segment.owner
                && let Some(written) = &memory.written
            {
                written(segment.start + within.start, within.len());
            }
        });
    }

    /// Our own memory back as a slice, when this handle is the only one left to all of it.
    ///
    /// # Errors
    /// The handle itself, when there are others, several segments, or guest memory.
    pub fn try_into_aligned(mut self) -> Result<AlignedBuf, IoBuf> {
        let whole = match self.segments.as_slice() {
            [
                Segment {
                    owner: Owner::Own(memory),
                    start: 0,
                    len,
                },
            ] => *len == memory.len,
            _ => false,
        };
        if !whole {
            return Err(self);
        }
        let Some(Segment {
            owner: Owner::Own(memory),
            start,
            len,
        }) = self.segments.pop()
        else {
            return Err(self);
        };
        Arc::try_unwrap(memory).map_err(|memory| IoBuf {
            segments: smallvec![Segment {
                owner: Owner::Own(memory),
                start,
                len
            }],
            len,
        })
    }

    /// Calls `f` for every segment that `range` touches, with the range within that segment.
    fn each(&self, range: Range<usize>, mut f: impl FnMut(&Segment, Range<usize>)) {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        let mut base = 0;
        for segment in &self.segments {
            let start = range.start.max(base);
            let end = range.end.min(base + segment.len);
            if start < end {
                f(segment, start - base..end - base);
            }
            base += segment.len;
        }
    }
}

/// Whether any byte is not zero, without a branch a byte.
fn has_data(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) != 0
}

impl From<AlignedBuf> for IoBuf {
    fn from(memory: AlignedBuf) -> IoBuf {
        let mut buf = IoBuf::empty();
        let len = memory.len;
        buf.push(Segment {
            owner: Owner::Own(Arc::new(memory)),
            start: 0,
            len,
        });
        buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_joined_buffers_share_memory() {
        let a = IoBuf::copy_of(b"hello ");
        let mut joined = a.clone();
        joined.append(IoBuf::copy_of(b"world"));
        let middle = joined.slice(4..8);
        assert_eq!(middle.to_vec(), b"o wo");
        middle.copy_in(1, b"XY");
        assert_eq!(joined.to_vec(), b"helloXYorld");
        assert_eq!(a.to_vec(), b"helloX");
    }

    #[test]
    fn memory_comes_back_only_to_its_last_handle() {
        let buf = IoBuf::copy_of(b"abc");
        let other = buf.clone();
        let buf = buf.try_into_aligned().unwrap_err();
        drop(other);
        assert_eq!(&*buf.try_into_aligned().unwrap(), b"abc");
    }

    #[test]
    fn words_read_as_zeroes_when_their_memory_went_back() {
        use std::sync::atomic::Ordering::Relaxed;
        let page = page_size() / 8;
        let words = SharedWords::zeroed(4 * page + 1);
        let seen = |words: &SharedWords| words.iter().map(|word| word.load(Relaxed)).sum::<u64>();
        assert_eq!(seen(&words), 0);
        let fill = |words: &SharedWords| words.iter().for_each(|word| word.store(1, Relaxed));
        fill(&words);
        words.release();
        assert!(
            seen(&words) <= page as u64,
            "but for pages that begin elsewhere"
        );
        fill(&words);
        assert_eq!(seen(&words), words.len() as u64, "they are used again");
        // Less than a page stays.
        let few = SharedWords::zeroed(64);
        fill(&few);
        few.release();
        SharedWords::zeroed(0).release();
        assert_eq!(seen(&few), 64);
    }

    #[test]
    fn guest_owner_hears_of_writes() {
        use std::sync::Mutex;
        let log = Arc::new(Mutex::new(Vec::new()));
        let hook = Arc::clone(&log);
        let written: Written = Box::new(move |at, len| hook.lock().unwrap().push((at, len)));
        let memory = Arc::new(GuestMemory::anonymous(8192, Some(written)));
        let buf = IoBuf::guest(&memory, &[4096..4100, 0..4]).unwrap();
        buf.copy_in(2, b"1234");
        assert_eq!(*log.lock().unwrap(), [(4098, 2), (0, 2)]);
        assert!(IoBuf::guest(&memory, &[0..4, 8000..8193]).is_none());
    }

    #[test]
    fn zero_detection_sees_the_last_byte() {
        let buf = IoBuf::zeroed(10_000);
        assert!(buf.is_zero(0..10_000));
        buf.copy_in(9_999, &[1]);
        assert!(!buf.is_zero(0..10_000));
        assert!(buf.is_zero(0..9_999));
    }
}
