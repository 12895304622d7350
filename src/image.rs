//! Images as subcommands use them: opened by name, read and written through a backend.
//!
//! Formats are guessed where the user gives none, as tools do and the library does not. Invariant:
//! an image whose format was guessed to be raw never gets a first sector that another format would
//! be guessed from, or the next program to open it would follow what a guest wrote there.

use std::sync::Arc;

use block_core::driver::{Child, ZeroFlags};
use block_core::error::{Error, Result, kernel_text};
use block_core::graph::NodeId;
use block_core::graph::registry::Registry;
use block_core::queue::RequestFuture;
use block_core::{Backend, BackendSlot, IoBuf, Layer, LocalQueue, Request};
use block_drivers::Drivers;
use block_schema::commands::BlockdevReopen;
use block_schema::types::{BlockdevDriver, BlockdevOptions, ImageInfoSpecific};
use block_schema::{Object, Value, Wire};

use crate::opts::image::{
    Access, Backing, Content, ImageName, OpenHow, Target, decoded, format_over,
};
use crate::report::Failure;
use crate::session::Session;

/// Bytes that formats are guessed from.
const HEAD_LEN: usize = 2048;

/// An open image.
pub(crate) struct Image {
    queue: LocalQueue,
    node: NodeId,
    backend: Arc<Backend>,
    slot: BackendSlot,
    name: String,
    head: Head,
    /// Whether each write is durable when it completes.
    writethrough: bool,
    /// With what options its nodes were opened, the image's own first.
    options: Vec<Object>,
}

/// What may be written to the start of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// Anything.
    Free,
    /// Nothing that looks like a format's header.
    StaysRaw,
}

impl Image {
    /// Opens an image. `node_name` is the `node-name` it gets.
    ///
    /// # Errors
    /// `Could not open 'NAME': …`.
    pub(crate) async fn open(
        session: &Session,
        name: &ImageName,
        node_name: &str,
        how: OpenHow,
    ) -> Result<Image, Failure> {
        Image::open_unprefixed(session, name, node_name, how)
            .await
            .map_err(|failure| failure.while_doing(&format!("Could not open '{}'", name.text)))
    }

    /// As [`open`](Image::open), with the bare reason as error.
    ///
    /// # Errors
    /// What is wrong with the name; what opening answers.
    pub(crate) async fn open_unprefixed(
        session: &Session,
        name: &ImageName,
        node_name: &str,
        how: OpenHow,
    ) -> Result<Image, Failure> {
        let (queue, layer) = (session.queue(), session.layer());
        let mut name = name.clone();
        if how.content == Content::Data && name.has_key_without_format() {
            name.encrypt_formats = encrypt_formats(session, &name, how).await?;
        }
        let name = &name;
        let (node, head, options) = open_node(queue, layer, name, node_name, &how).await?;
        let described = layer.node(queue, node)?.node().driver().describe();
        if described.encryption_key_missing && how.content == Content::Data {
            let text = "Parameter 'encrypt.key-secret' is required for cipher";
            return Err(Failure::new(text));
        }
        let read_only = how.access == Access::Read;
        let backend = layer.add_backend("", node, read_only).await?;
        if head == Head::StaysRaw && !read_only {
            warn_of_guessed_raw(&name.text);
        }
        Ok(Image {
            queue: queue.clone(),
            node,
            slot: queue.attach(&backend),
            backend,
            name: name.text.clone(),
            head,
            writethrough: !how.cache.writeback,
            options,
        })
    }

    /// What the user calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The node's identity.
    pub(crate) fn id(&self) -> NodeId {
        self.node
    }

    /// The queue that it was opened on.
    pub(crate) fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// Its place on that queue, for requests without a future each.
    pub(crate) fn slot(&self) -> BackendSlot {
        self.slot
    }

    /// The handle by which other queues use it.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The node in the current graph.
    ///
    /// # Errors
    /// `NodeNotFound` after it was closed.
    pub(crate) fn node(&self) -> Result<Child> {
        self.queue.layer().node(&self.queue, self.node)
    }

    /// Bytes of the image.
    ///
    /// # Errors
    /// As [`node`](Image::node).
    pub(crate) fn len(&self) -> Result<u64> {
        Ok(self.node()?.len())
    }

    /// Fills `buf` from `offset`; under way when this returns its future.
    ///
    /// # Errors
    /// What the graph answers.
    pub(crate) fn read(&self, offset: u64, buf: IoBuf) -> RequestFuture {
        self.queue.request(self.slot, Request::read(offset, buf))
    }

    /// Writes `buf` at `offset`; under way when this returns its future, but for a header that is
    /// looked at first.
    ///
    /// # Errors
    /// What the graph answers; `Io` with `PERM` for a header that must not be.
    pub(crate) fn write(
        &self,
        offset: u64,
        buf: IoBuf,
        durable: Durable,
    ) -> impl Future<Output = Result<()>> + use<> {
        let request = self.with_durability(Request::write(offset, buf), durable);
        let (queue, slot) = (self.queue.clone(), self.slot);
        let guarded = self.head == Head::StaysRaw && offset < HEAD_LEN as u64;
        let started = match guarded {
            false => Ok(queue.request(slot, request)),
            true => Err((self.node(), request)),
        };
        async move {
            let started = match started {
                Ok(started) => started,
                Err((node, request)) => {
                    check_head(&node?, offset, &request.buf).await?;
                    queue.request(slot, request)
                }
            };
            started.await.map(drop)
        }
    }

    /// Writes `buf` at `offset`, compressed; under way when this returns its future.
    ///
    /// # Errors
    /// What the graph answers: `Unsupported` unless [`compression_unit`](Image::compression_unit)
    /// has one.
    pub(crate) fn write_compressed(
        &self,
        offset: u64,
        buf: IoBuf,
        durable: Durable,
    ) -> impl Future<Output = Result<()>> + use<> {
        self.done(self.with_durability(Request::write_compressed(offset, buf), durable))
    }

    /// Whether all of it is in files of this host, and goes through the page cache.
    pub(crate) fn is_cached(&self) -> bool {
        let graph = self.queue.layer().graph();
        let mut below: Vec<_> = graph.index_of(self.node).into_iter().collect();
        while let Some(index) = below.pop() {
            let entry = graph.entry(index);
            let leaf = entry.node.driver().leaf();
            if entry.edges.is_empty() && leaf.is_none_or(|leaf| leaf.is_direct()) {
                return false;
            }
            below.extend(entry.edges.iter().map(|edge| edge.child));
        }
        true
    }

    /// Bytes that compressed writes must be whole numbers of, where the format has such writes.
    ///
    /// # Errors
    /// As [`node`](Image::node).
    pub(crate) fn compression_unit(&self) -> Result<Option<u64>> {
        let node = self.node()?;
        let driver = node.node().driver();
        let unit = driver.describe().cluster_size;
        Ok(unit.filter(|&unit| unit > 0 && driver.can_compress()))
    }

    /// Makes a range read as zeroes; under way when this returns its future.
    ///
    /// # Errors
    /// What the graph answers.
    pub(crate) fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
        durable: Durable,
    ) -> impl Future<Output = Result<()>> + use<> {
        self.done(self.with_durability(Request::write_zeroes(offset, len, flags), durable))
    }

    /// Gives a range back.
    ///
    /// # Errors
    /// What the graph answers.
    pub(crate) fn discard(
        &self,
        offset: u64,
        len: u64,
    ) -> impl Future<Output = Result<()>> + use<> {
        self.done(Request::discard(offset, len))
    }

    /// Makes everything durable that has completed.
    ///
    /// # Errors
    /// What the graph answers.
    pub(crate) fn flush(&self) -> impl Future<Output = Result<()>> + use<> {
        self.done(Request::flush())
    }

    fn done(&self, request: Request) -> impl Future<Output = Result<()>> + use<> {
        let started = self.queue.request(self.slot, request);
        async { started.await.map(drop) }
    }

    fn with_durability(&self, request: Request, durable: Durable) -> Request {
        match durable {
            Durable::Later if !self.writethrough => request,
            Durable::Now | Durable::Later => request.with_fua(),
        }
    }

    /// Opens the image again: `changes` over the options it has. What it was goes on when that
    /// fails.
    ///
    /// # Errors
    /// What is wrong with the options; what opening answers.
    pub(crate) async fn reopen(&mut self, changes: Object) -> Result<(), Failure> {
        let layer = self.queue.layer().clone();
        let (mut options, mut kept) = (Vec::new(), Vec::new());
        for (index, old) in self.options.iter().enumerate() {
            let changed = match index {
                0 => reopened(old.clone(), changes.clone(), "")?,
                _ => reopened(old.clone(), common(&changes), "file.")?,
            };
            let mut full = changed.clone();
            if let (0, Some(backing)) = (index, self.node()?.backing()) {
                full.insert("backing", backing.node_name());
            }
            options.push(decoded(full)?);
            kept.push(changed);
        }
        let cache = options[0].cache.as_ref();
        let writeback = cache.and_then(|cache| cache.writeback).unwrap_or(true);
        let read_only = options[0].read_only == Some(true);
        // Its rights to write would keep the image from becoming read-only.
        let was_read_only = self.node()?.is_read_only();
        layer.remove_backend(&self.backend).await;
        let done = layer
            .blockdev_reopen(&self.queue, BlockdevReopen::new(options))
            .await;
        let read_only = if done.is_ok() {
            read_only
        } else {
            was_read_only
        };
        self.backend = layer.add_backend("", self.node, read_only).await?;
        self.slot = self.queue.attach(&self.backend);
        done?;
        self.writethrough = !writeback;
        self.options = kept;
        Ok(())
    }

    /// Flushes and closes the image; its files are unlocked then.
    ///
    /// # Errors
    /// What closing answers.
    pub(crate) async fn close(self) -> Result<()> {
        let layer = self.queue.layer().clone();
        layer.remove_backend(&self.backend).await;
        layer.remove_node(&self.queue, self.node).await
    }
}

/// The changes that the file below an image follows.
fn common(changes: &Object) -> Object {
    let names = ["read-only", "cache"];
    let members = changes.iter().filter(|(name, _)| names.contains(name));
    members
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect()
}

/// A node's options with changes; `path` stands before its members in messages.
fn reopened(mut old: Object, changes: Object, path: &str) -> Result<Object, Failure> {
    for (name, new) in changes {
        let fixed = matches!(name.as_str(), "driver" | "node-name");
        if fixed && old.get(&name) != Some(&new) {
            let text = format!("Cannot change the option '{path}{name}'");
            return Err(Failure::new(text));
        }
        let merged = match (old.remove(&name), new) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(reopened(old, new, &format!("{path}{name}."))?)
            }
            (_, new) => new,
        };
        old.insert(name, merged);
    }
    Ok(old)
}

/// Looks at what the first bytes would be with `buf` at `offset`.
async fn check_head(node: &Child, offset: u64, buf: &IoBuf) -> Result<()> {
    let len = node.len().min(HEAD_LEN as u64);
    let len = usize::try_from(len).unwrap_or(HEAD_LEN);
    let mut head = node.read_bytes(0, len).await?.to_vec();
    let start = usize::try_from(offset).unwrap_or(len).min(len);
    let count = buf.len().min(len - start);
    buf.copy_out(0, &mut head[start..start + count]);
    if Drivers.probe(&head) == BlockdevDriver::Raw {
        return Ok(());
    }
    Err(Error::Io {
        node: node.node_name().to_owned(),
        op: "write",
        offset,
        len: buf.len() as u64,
        source: rustix::io::Errno::PERM.into(),
    })
}

/// When a write must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// When it completes.
    Now,
    /// After the next flush.
    Later,
}

async fn open_node(
    queue: &LocalQueue,
    layer: &Layer,
    name: &ImageName,
    node_name: &str,
    how: &OpenHow,
) -> Result<(NodeId, Head, Vec<Object>), Failure> {
    let object = |options: &BlockdevOptions| match options.encode() {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    match name.target(node_name, how)? {
        Target::Known(options) => {
            let kept = vec![object(&options)];
            let node = add_node(queue, layer, options, how.content).await?;
            Ok((node, Head::Free, kept))
        }
        Target::Probe { protocol, format } => {
            let protocol_name = protocol.node_name.clone().unwrap_or_default();
            let kept = object(&protocol);
            let protocol = layer.blockdev_add(queue, protocol).await?;
            let guessed = probe(&layer.node(queue, protocol)?).await?;
            let options = format_over(guessed, &protocol_name, format, how)?;
            let kept = vec![object(&options), kept];
            let node = add_node(queue, layer, options, how.content).await?;
            let head = match guessed {
                BlockdevDriver::Raw => Head::StaysRaw,
                _ => Head::Free,
            };
            Ok((node, head, kept))
        }
    }
}

async fn add_node(
    queue: &LocalQueue,
    layer: &Layer,
    options: BlockdevOptions,
    content: Content,
) -> Result<NodeId> {
    match content {
        Content::Damage => layer.blockdev_add_for_check(queue, options).await,
        Content::Data | Content::Metadata | Content::Header => {
            layer.blockdev_add(queue, options).await
        }
    }
}

/// Guesses the format of what a protocol node holds.
async fn probe(protocol: &Child) -> Result<BlockdevDriver> {
    let len = usize::try_from(protocol.len())
        .unwrap_or(HEAD_LEN)
        .min(HEAD_LEN);
    let head = protocol.read_bytes(0, len).await?;
    Ok(Drivers.probe(&head))
}

/// Guesses the format of an image by its name.
///
/// # Errors
/// What opening and reading it answers.
pub(crate) async fn guess_format(
    session: &Session,
    name: &ImageName,
    how: OpenHow,
) -> Result<BlockdevDriver, Failure> {
    let how = OpenHow {
        backing: Backing::Ignore,
        ..how
    };
    let image = Image::open_unprefixed(session, name, "guess", how).await?;
    let format = image.node()?.node().driver().format_name();
    image.close().await?;
    format
        .parse()
        .map_err(|_| Failure::new(format!("Unknown driver '{format}'")))
}

/// How an image and those behind it encrypt, as their headers say, down to the first that does
/// not.
async fn encrypt_formats(
    session: &Session,
    name: &ImageName,
    how: OpenHow,
) -> Result<Vec<String>, Failure> {
    let (queue, layer) = (session.queue(), session.layer());
    let how = OpenHow {
        access: Access::Read,
        ..how.metadata_only()
    };
    let (id, ..) = open_node(queue, layer, name, "key", &how).await?;
    let mut formats = Vec::new();
    let mut next = Some(layer.node(queue, id)?);
    while let Some(node) = next {
        let specific = node.node().driver().describe().format_specific;
        let Some(ImageInfoSpecific::Qcow2(qcow2)) = specific else {
            break;
        };
        let Some(encrypt) = qcow2.encrypt.map(|encrypt| encrypt.encode()) else {
            break;
        };
        let Some(Value::String(format)) = encrypt.get("format") else {
            break;
        };
        formats.push(format.clone());
        next = node.backing();
    }
    layer.remove_node(queue, id).await?;
    Ok(formats)
}

fn warn_of_guessed_raw(name: &str) {
    eprintln!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on \
         block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions."
    );
}

/// What the kernel's word for an error is: `No space left on device`.
pub(crate) fn errno_text(error: &Error) -> String {
    let errno = match error {
        // Tools have always said so of requests behind the end.
        Error::OutOfRange { .. } => rustix::io::Errno::IO,
        other => other.errno(),
    };
    kernel_text(&errno.into())
}
