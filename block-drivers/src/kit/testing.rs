//! For tests of formats: a file in memory that remembers what was written between which flushes,
//! and an executor that polls until done.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use block_core::driver::{Preallocation, ZeroFlags};
use block_core::layer::Readers;
use block_core::{Error, IoBuf, Result};

use super::image_file::{ImageFile, Surroundings};
use super::rounds::Rounds;

/// Where a file in memory is full.
const FULL: u64 = 64 << 20;

/// Something that changed a [`MemoryFile`].
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write(u64, Vec<u8>),
    Resize(u64),
    /// At least so long from here on.
    Grow(u64),
    Flush,
}

/// A file in memory.
#[derive(Default)]
pub(crate) struct MemoryFile {
    bytes: RefCell<Vec<u8>>,
    /// Everything that changed the file, in order, while recording.
    events: RefCell<Option<Vec<Event>>>,
    /// Writes and flushes left before they fail; `None` never fails.
    budget: Cell<Option<u64>>,
    /// As `budget`, for one that arrives all the same.
    lie: Cell<Option<u64>>,
    grows_slowly: Cell<bool>,
}

impl MemoryFile {
    pub(crate) fn new(bytes: Vec<u8>) -> MemoryFile {
        MemoryFile {
            bytes: RefCell::new(bytes),
            ..MemoryFile::default()
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    /// Starts to remember events.
    pub(crate) fn record(&self) {
        *self.events.borrow_mut() = Some(Vec::new());
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.borrow().clone().unwrap_or_default()
    }

    /// Whether it asks those who append to allocate before.
    pub(crate) fn set_grows_slowly(&self, slowly: bool) {
        self.grows_slowly.set(slowly);
    }

    /// Lets `count` more writes and flushes succeed, then fails all.
    pub(crate) fn fail_after(&self, count: Option<u64>) {
        self.budget.set(count);
    }

    /// Lets `count` more writes and flushes succeed, then says of one that it failed, and does it.
    pub(crate) fn lie_after(&self, count: u64) {
        self.lie.set(Some(count));
    }

    /// Whether it has lied, and never does again.
    pub(crate) fn has_lied(&self) -> bool {
        self.lie.take().is_none()
    }

    fn happens(&self, op: &'static str, event: Event) -> Result<()> {
        let end = match &event {
            Event::Write(at, data) => at.saturating_add(data.len() as u64),
            Event::Grow(end) => *end,
            Event::Resize(_) | Event::Flush => 0,
        };
        if end > FULL {
            let source = std::io::Error::from_raw_os_error(28);
            let node = "memory".to_owned();
            return Err(Error::Io {
                node,
                op,
                offset: 0,
                len: 0,
                source,
            });
        }
        match self.budget.get() {
            Some(0) => {
                let source = std::io::Error::from_raw_os_error(5);
                return Err(Error::Io {
                    node: "memory".into(),
                    op,
                    offset: 0,
                    len: 0,
                    source,
                });
            }
            Some(left) => self.budget.set(Some(left - 1)),
            None => {}
        }
        apply(&mut self.bytes.borrow_mut(), &event);
        if let Some(events) = self.events.borrow_mut().as_mut() {
            events.push(event);
        }
        match self.lie.get() {
            Some(0) => self.lie.set(None),
            left => {
                self.lie.set(left.map(|left| left - 1));
                return Ok(());
            }
        }
        Err(Error::Io {
            node: "memory".into(),
            op,
            offset: 0,
            len: 0,
            source: std::io::Error::from_raw_os_error(5),
        })
    }
}

/// Does to `bytes` what an event did to the file.
pub(crate) fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(offset, data) => {
            let start = usize::try_from(*offset).unwrap();
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Event::Resize(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        Event::Grow(end) => {
            let end = usize::try_from(*end).unwrap();
            bytes.resize(bytes.len().max(end), 0);
        }
        Event::Flush => {}
    }
}

impl ImageFile for MemoryFile {
    fn len(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn name(&self) -> &str {
        "memory"
    }

    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        yield_once().await;
        let bytes = self.bytes.borrow();
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let end = (start + buf.len()).min(bytes.len());
        buf.copy_in(0, &bytes[start..end]);
        buf.fill(end - start..buf.len(), 0);
        Ok(())
    }

    async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        yield_once().await;
        self.happens("write", Event::Write(offset, buf.to_vec()))
    }

    async fn write_zeroes(&self, range: Range<u64>, _flags: ZeroFlags) -> Result<()> {
        yield_once().await;
        let len = usize::try_from(range.end - range.start).unwrap();
        self.happens("write zeroes", Event::Write(range.start, vec![0; len]))
    }

    async fn discard(&self, range: Range<u64>) -> Result<()> {
        yield_once().await;
        // What was discarded may read as anything.
        let end = range.end.min(self.len());
        let Some(len) = end.checked_sub(range.start).filter(|&len| len > 0) else {
            return Ok(());
        };
        let len = usize::try_from(len).unwrap();
        self.happens("discard", Event::Write(range.start, vec![0xdd; len]))
    }

    fn grows_slowly(&self) -> bool {
        self.grows_slowly.get()
    }

    async fn allocate(&self, range: Range<u64>) -> Result<()> {
        yield_once().await;
        self.happens("allocate", Event::Grow(range.end))
    }

    async fn flush(&self) -> Result<()> {
        yield_once().await;
        self.happens("flush", Event::Flush)
    }

    async fn resize(&self, len: u64, _preallocation: Preallocation) -> Result<()> {
        self.happens("resize", Event::Resize(len))
    }
}

/// A file and what is behind it.
pub(crate) struct Bench {
    pub(crate) file: MemoryFile,
    /// Where guest data is, if not in `file`.
    pub(crate) data: Option<MemoryFile>,
    pub(crate) backing: Option<MemoryFile>,
}

impl Surroundings for Bench {
    type File = MemoryFile;

    fn file(&self) -> &MemoryFile {
        &self.file
    }

    fn data(&self) -> Option<&MemoryFile> {
        self.data.as_ref()
    }

    fn backing(&self) -> Option<&MemoryFile> {
        self.backing.as_ref()
    }

    fn readers(&self) -> Readers {
        Readers::default()
    }

    fn begin_rounds(&self, _rounds: &Rounds) {}

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        Ok(work())
    }
}

/// Lets other tasks of the test run.
pub(crate) async fn yield_once() {
    let mut first = true;
    std::future::poll_fn(|_| {
        if std::mem::take(&mut first) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Polls until the future is done.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
    }
    panic!("the future waits for something that never happens");
}

/// Polls several futures in turns of a seeded order until all are done.
pub(crate) fn run_all<T>(
    seed: u64,
    futures: Vec<std::pin::Pin<Box<dyn Future<Output = T> + '_>>>,
) -> Vec<T> {
    let mut random = Random(seed | 1);
    let mut cx = Context::from_waker(Waker::noop());
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut waiting: Vec<_> = futures.into_iter().enumerate().collect();
    for _ in 0..10_000_000 {
        if waiting.is_empty() {
            break;
        }
        let pick = usize::try_from(random.below(waiting.len() as u64)).unwrap();
        let (index, future) = &mut waiting[pick];
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            results[*index] = Some(value);
            drop(waiting.swap_remove(pick));
        }
    }
    results
        .into_iter()
        .map(|r| r.expect("no task waits for ever"))
        .collect()
}

/// Numbers that repeat with their seed (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}
