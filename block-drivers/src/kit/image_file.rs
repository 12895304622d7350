//! What a format needs around it: the file that holds its image, the image behind it, and a thread
//! for long computations. Implemented by the request path's handles, and by memory for tests, so
//! that a format's algorithms run without a graph.
//! Not here: claims and announcements, which are taken before a format's algorithm starts.

use std::future::Future;
use std::ops::Range;
use std::task::Poll;

use block_core::driver::{Child, Cx, Preallocation, ZeroFlags};
use block_core::layer::Readers;
use block_core::request::map::EdgeIndex;
use block_core::{AlignedBuf, Error, IoBuf, LocalQueue, Result};
use block_schema::types::BlkdebugEvent;

use super::rounds::Rounds;

/// A file that holds an image, or an image behind another one.
///
/// Offsets and lengths are bytes on no boundary. A read behind the end gives zeroes, a write behind
/// the end lengthens the file where it can grow.
pub(crate) trait ImageFile {
    /// Bytes in the file now.
    fn len(&self) -> u64;
    /// The node's name, for errors.
    fn name(&self) -> &str;
    /// Fills `buf` from `offset`.
    fn read(&self, offset: u64, buf: IoBuf) -> impl Future<Output = Result<()>>;
    /// Writes all of `buf` at `offset`.
    fn write(&self, offset: u64, buf: IoBuf) -> impl Future<Output = Result<()>>;
    /// Makes `range` read as zeroes.
    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags)
    -> impl Future<Output = Result<()>>;
    /// Gives the bytes of `range` back.
    fn discard(&self, range: Range<u64>) -> impl Future<Output = Result<()>>;
    /// Whether writes behind the end wait for one another, so that who appends does well to
    /// [`allocate`](ImageFile::allocate) before.
    fn grows_slowly(&self) -> bool {
        false
    }
    /// Sees to storage behind `range`, and lengthens the file to its end; no byte changes.
    fn allocate(&self, _range: Range<u64>) -> impl Future<Output = Result<()>> {
        async { Ok(()) }
    }
    /// Makes everything durable that has completed.
    fn flush(&self) -> impl Future<Output = Result<()>>;
    /// Sets the length.
    fn resize(&self, len: u64, preallocation: Preallocation) -> impl Future<Output = Result<()>>;

    /// Says what the next request is for, to whoever injects faults.
    fn event(&self, _event: BlkdebugEvent) {}

    /// Reads `len` bytes into memory of our own; callers have bounded `len`.
    fn read_bytes(&self, offset: u64, len: usize) -> impl Future<Output = Result<AlignedBuf>> {
        self.read_into(offset, AlignedBuf::zeroed(len))
    }

    /// Fills `memory` from `offset`, and gives it back: for who reads one thing after the other.
    fn read_into(
        &self,
        offset: u64,
        memory: AlignedBuf,
    ) -> impl Future<Output = Result<AlignedBuf>> {
        async move {
            let buf = IoBuf::from(memory);
            self.read(offset, buf.clone()).await?;
            // Another handle can only be left when a read was detached; then the bytes are copied.
            Ok(buf
                .try_into_aligned()
                .unwrap_or_else(|buf| AlignedBuf::copy_of(&buf.to_vec())))
        }
    }

    /// Writes a copy of `bytes`.
    fn write_bytes(&self, offset: u64, bytes: &[u8]) -> impl Future<Output = Result<()>> {
        self.write(offset, IoBuf::copy_of(bytes))
    }
}

/// What one call of a format's algorithm may use.
pub(crate) trait Surroundings {
    /// The kind of file.
    type File: ImageFile;
    /// The file that holds the image.
    fn file(&self) -> &Self::File;
    /// The file that holds guest data, where that is not [`file`](Surroundings::file).
    fn data(&self) -> Option<&Self::File> {
        None
    }
    /// The image behind this one.
    fn backing(&self) -> Option<&Self::File>;
    /// The readers of the image that are under way: what they looked up must stay as it is until
    /// they have left.
    fn readers(&self) -> Readers;
    /// Sees to it that what came into memory leaves it, if nobody uses it.
    fn begin_rounds(&self, rounds: &Rounds);
    /// Runs `work` where it holds up nobody.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>>;
}

/// Polls futures together, all of them to their end.
pub(crate) async fn join_all<F: Future>(work: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = work.into_iter().map(|work| Some(Box::pin(work))).collect();
    let mut ended: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (work, end) in running.iter_mut().zip(&mut ended) {
            if let Some(Poll::Ready(output)) = work.as_mut().map(|w| w.as_mut().poll(context)) {
                (*work, *end) = (None, Some(output));
            }
        }
        match running.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    ended.into_iter().flatten().collect()
}

impl ImageFile for Child {
    fn event(&self, event: BlkdebugEvent) {
        Child::event(self, event);
    }

    fn len(&self) -> u64 {
        Child::len(self)
    }

    fn name(&self) -> &str {
        self.node_name()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> impl Future<Output = Result<()>> {
        Child::read(self, offset, buf)
    }

    fn write(&self, offset: u64, buf: IoBuf) -> impl Future<Output = Result<()>> {
        Child::write(self, offset, buf)
    }

    fn write_zeroes(
        &self,
        range: Range<u64>,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<()>> {
        Child::write_zeroes(self, range, flags)
    }

    fn discard(&self, range: Range<u64>) -> impl Future<Output = Result<()>> {
        Child::discard(self, range)
    }

    fn grows_slowly(&self) -> bool {
        Child::limits(self).grows_slowly
    }

    fn allocate(&self, range: Range<u64>) -> impl Future<Output = Result<()>> {
        Child::allocate(self, range)
    }

    fn flush(&self) -> impl Future<Output = Result<()>> {
        Child::flush(self)
    }

    fn resize(&self, len: u64, preallocation: Preallocation) -> impl Future<Output = Result<()>> {
        Child::resize(self, len, preallocation)
    }
}

/// A driver's surroundings on one queue.
pub(crate) struct OnQueue {
    /// The node, once it is in the graph.
    cx: Option<Cx>,
    queue: LocalQueue,
    file: Child,
    data: Option<Child>,
    backing: Option<Child>,
}

impl OnQueue {
    /// What a call of a driver sees; `file` is the edge to the file that holds the image.
    pub(crate) fn of(cx: &Cx, file: EdgeIndex) -> OnQueue {
        OnQueue {
            cx: Some(cx.clone()),
            queue: cx.queue().clone(),
            file: cx.child(file),
            data: None,
            backing: cx.backing(),
        }
    }

    /// A file alone: for opening and creating.
    pub(crate) fn file(queue: &LocalQueue, file: Child) -> OnQueue {
        OnQueue {
            cx: None,
            queue: queue.clone(),
            file,
            data: None,
            backing: None,
        }
    }

    /// With another file for guest data, if there is one.
    #[must_use]
    pub(crate) fn with_data(self, data: Option<Child>) -> OnQueue {
        OnQueue { data, ..self }
    }
}

impl Surroundings for OnQueue {
    type File = Child;

    fn file(&self) -> &Child {
        &self.file
    }

    fn data(&self) -> Option<&Child> {
        self.data.as_ref()
    }

    fn backing(&self) -> Option<&Child> {
        self.backing.as_ref()
    }

    fn readers(&self) -> Readers {
        // Before the node is in the graph nobody can read it.
        self.cx.as_ref().map(Cx::readers).unwrap_or_default()
    }

    fn begin_rounds(&self, rounds: &Rounds) {
        // Nor is there anybody to ask.
        if let Some(cx) = &self.cx {
            rounds.begin(cx);
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.queue
            .blocking(move || Ok(work()))
            .await
            .map_err(|source| Error::Io {
                node: self.file.node_name().to_owned(),
                op: "compute",
                offset: 0,
                len: 0,
                source,
            })
    }
}
