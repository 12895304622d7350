//! Exports: nodes served outwards, and the list of those that live.
//!
//! The drivers of exports implement [`ExportDrivers`] and [`Export`]; QMP and the command line go
//! through [`Exports`], which runs on the control plane's queue. Invariant: an entry stays in the
//! list, and its user on the node, until the last request of its clients has ended; then
//! BLOCK_EXPORT_DELETED tells so. Not here: protocols.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::commands::NbdServerStart;
use block_schema::events::BlockExportDeleted;
use block_schema::types::{
    BlockDirtyBitmapOrStr, BlockExportInfo, BlockExportOptions, BlockExportOptionsBranch,
    BlockExportRemoveMode, BlockExportType,
};

use crate::backend::Backend;
use crate::bitmap::{BitmapName, Busy, DirtyBitmap};
use crate::error::{Error, Result};
use crate::graph::perm::Role;
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::sync::WaitList;

/// The end of something that was told to end.
pub type Closing = Pin<Box<dyn Future<Output = ()>>>;

/// What serves nodes outwards, for all kinds of exports that are built in.
pub trait ExportDrivers {
    /// Starts the server that `nbd-server-start` asks for.
    ///
    /// # Errors
    /// When it runs already; what the kernel says about the address; an option that is not
    /// supported.
    fn start_server(&self, options: &NbdServerStart) -> Result<()>;

    /// Whether it runs.
    fn is_server_running(&self) -> bool;

    /// Stops it, if it runs. Its exports are gone already.
    fn stop_server(&self) -> Closing;

    /// Serves `backend`, the export's own user of its node, as `options` say, and offers the
    /// dirty bitmaps that they name.
    ///
    /// # Errors
    /// What is wrong with the options.
    fn create(
        &self,
        options: &BlockExportOptions,
        backend: &Arc<Backend>,
        bitmaps: Vec<Arc<Busy>>,
    ) -> Result<Rc<dyn Export>>;
}

/// One node served outwards.
pub trait Export {
    /// Tells it to end: no client comes in any more, and the result is ready when the last
    /// request of the present ones has ended.
    ///
    /// # Errors
    /// [`InUse`] when there are clients and `mode` is `safe`; nothing has changed then.
    fn close(&self, mode: BlockExportRemoveMode) -> Result<Closing, InUse>;
}

/// Clients are connected to an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

/// A program without exports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExports;

impl ExportDrivers for NoExports {
    fn start_server(&self, _: &NbdServerStart) -> Result<()> {
        Err(not_built_in())
    }

    fn is_server_running(&self) -> bool {
        false
    }

    fn stop_server(&self) -> Closing {
        Box::pin(std::future::ready(()))
    }

    fn create(
        &self,
        _: &BlockExportOptions,
        _: &Arc<Backend>,
        _: Vec<Arc<Busy>>,
    ) -> Result<Rc<dyn Export>> {
        Err(not_built_in())
    }
}

fn not_built_in() -> Error {
    Error::invalid("type", "No driver found for the requested export type")
}

struct Entry {
    id: String,
    kind: BlockExportType,
    backend: Arc<Backend>,
    export: Rc<dyn Export>,
    shutting_down: Cell<bool>,
}

/// The exports of a layer.
pub struct Exports {
    layer: Layer,
    queue: LocalQueue,
    drivers: Box<dyn ExportDrivers>,
    /// In the order in which they came.
    entries: RefCell<Vec<Rc<Entry>>>,
    gone: WaitList,
}

impl Exports {
    /// No exports yet; those that come are looked after on `queue`.
    pub fn new(queue: &LocalQueue, drivers: Box<dyn ExportDrivers>) -> Rc<Exports> {
        Rc::new(Exports {
            layer: queue.layer().clone(),
            queue: queue.clone(),
            drivers,
            entries: RefCell::default(),
            gone: WaitList::new(),
        })
    }

    /// Starts the server that exports of type `nbd` need.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn start_server(&self, options: &NbdServerStart) -> Result<()> {
        self.drivers.start_server(options)
    }

    /// Removes the server's exports, cutting their clients, then stops it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop_server(self: &Rc<Self>) -> Result<()> {
        if !self.drivers.is_server_running() {
            return Err(Error::invalid("server", "NBD server not running"));
        }
        self.close_where(|entry| entry.kind == BlockExportType::Nbd)
            .await;
        self.drivers.stop_server().await;
        Ok(())
    }

    /// Serves a node.
    ///
    /// # Errors
    /// When the id is malformed or taken, the node is unknown or read-only although clients are
    /// to write; what the driver answers.
    pub async fn add(&self, options: &BlockExportOptions) -> Result<()> {
        if !is_well_formed(&options.id) {
            return Err(Error::invalid("id", "Invalid block export id"));
        }
        self.check_free(&options.id)?;
        let graph = self.layer.graph();
        let Some(index) = graph.find(&options.node_name) else {
            return Err(Error::NodeNotFound {
                node: options.node_name.clone(),
            });
        };
        let node = Arc::clone(&graph.entry(index).node);
        drop(graph);
        let writable = options.writable.unwrap_or(false);
        if writable && node.is_read_only() {
            return Err(Error::invalid(
                "writable",
                "Cannot export read-only node as writable",
            ));
        }
        if let Some(thread) = &options.iothread {
            let reason = format!("iothread \"{thread}\" not found");
            return Err(Error::invalid("iothread", reason));
        }
        let backend = self.layer.add_backend("", node.id(), !writable).await?;
        // The id may have been taken while permissions were checked.
        let created = self
            .check_free(&options.id)
            .and_then(|()| self.hold_bitmaps(options))
            .and_then(|bitmaps| self.drivers.create(options, &backend, bitmaps));
        match created {
            Ok(export) => {
                self.entries.borrow_mut().push(Rc::new(Entry {
                    id: options.id.clone(),
                    kind: options.r#type.kind(),
                    backend,
                    export,
                    shutting_down: Cell::new(false),
                }));
                Ok(())
            }
            Err(error) => {
                self.layer.remove_backend(&backend).await;
                Err(error)
            }
        }
    }

    /// Tells an export to end; it goes when its clients' last requests have ended.
    ///
    /// # Errors
    /// When there is none of this id, it is ending already, or it has clients and `mode` is
    /// `safe`.
    pub fn remove(self: &Rc<Self>, id: &str, mode: BlockExportRemoveMode) -> Result<()> {
        let Some(entry) = self.find(id) else {
            return Err(Error::invalid("id", format!("Export '{id}' is not found")));
        };
        if entry.shutting_down.get() {
            let reason = format!("Export '{id}' is already shutting down");
            return Err(Error::invalid("id", reason));
        }
        let in_use = |InUse| Error::invalid("mode", format!("export '{id}' still in use"));
        let closing = entry.export.close(mode).map_err(in_use)?;
        entry.shutting_down.set(true);
        let exports = Rc::clone(self);
        self.queue.spawn(async move {
            closing.await;
            exports.layer.remove_backend(&entry.backend).await;
            exports
                .entries
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, &entry));
            let id = entry.id.clone();
            exports.layer.events().emit(BlockExportDeleted { id });
            exports.gone.wake_all();
        });
        Ok(())
    }

    /// The type of an export.
    pub fn kind(&self, id: &str) -> Option<BlockExportType> {
        self.find(id).map(|entry| entry.kind)
    }

    /// All exports, the newest first, those that are ending included.
    pub fn list(&self) -> Vec<BlockExportInfo> {
        let graph = self.layer.graph();
        let info = |entry: &Rc<Entry>| {
            let node = graph.index_of(entry.backend.root());
            BlockExportInfo {
                id: entry.id.clone(),
                r#type: entry.kind,
                node_name: node.map_or_else(String::new, |index| {
                    graph.entry(index).node.name().to_owned()
                }),
                shutting_down: entry.shutting_down.get(),
            }
        };
        self.entries.borrow().iter().rev().map(info).collect()
    }

    /// Removes all exports, cutting their clients, and waits until they are gone.
    pub async fn close_all(self: &Rc<Self>) {
        self.close_where(|_| true).await;
    }

    async fn close_where(self: &Rc<Self>, concerns: impl Fn(&Entry) -> bool) {
        let ids: Vec<String> = {
            let entries = self.entries.borrow();
            let active = entries.iter().filter(|e| !e.shutting_down.get());
            active
                .filter(|e| concerns(e))
                .map(|e| e.id.clone())
                .collect()
        };
        for id in ids {
            if let Err(error) = self.remove(&id, BlockExportRemoveMode::Hard) {
                tracing::debug!("export '{id}': {error}");
            }
        }
        let gone = || !self.entries.borrow().iter().any(|entry| concerns(entry));
        self.gone.wait_until(gone).await;
    }

    /// Finds the dirty bitmaps that an export's options name, and keeps them from changing.
    fn hold_bitmaps(&self, options: &BlockExportOptions) -> Result<Vec<Arc<Busy>>> {
        let BlockExportOptionsBranch::Nbd(nbd) = &options.r#type;
        if !self.drivers.is_server_running() {
            // Which is what is wrong in the first place.
            return Ok(Vec::new());
        }
        let named = nbd.bitmaps.as_deref().unwrap_or_default();
        let mut held = Vec::new();
        for name in named {
            let bitmap = match name {
                BlockDirtyBitmapOrStr::Local(name) => self.bitmap_below(options, name)?,
                BlockDirtyBitmapOrStr::External(other) => {
                    let name = BitmapName {
                        node: &other.node,
                        name: &other.name,
                    };
                    self.layer.dirty_bitmap(name)?.1
                }
            };
            held.push(Arc::new(bitmap.hold()?));
        }
        Ok(held)
    }

    /// The bitmap of a name, of the export's node or the first below that has one.
    fn bitmap_below(&self, options: &BlockExportOptions, name: &str) -> Result<Arc<DirtyBitmap>> {
        let refuse = |reason: String| Err(Error::invalid("bitmaps", reason));
        let graph = self.layer.graph();
        let mut next = graph.find(&options.node_name);
        while let Some(index) = next {
            let entry = graph.entry(index);
            let Some(bitmap) = entry.node.bitmaps().find(name) else {
                let through = |role| matches!(role, Role::Filtered | Role::Cow);
                let edge = entry.edges.iter().find(|edge| through(edge.role));
                next = edge.map(|edge| edge.child);
                continue;
            };
            // It would change while its reader believes that it does not.
            let changes = !entry.node.is_read_only() && bitmap.is_enabled();
            if changes && !options.writable.unwrap_or(false) {
                return refuse(format!(
                    "Enabled bitmap '{name}' incompatible with readonly export"
                ));
            }
            return Ok(bitmap);
        }
        refuse(format!("Bitmap '{name}' is not found"))
    }

    fn find(&self, id: &str) -> Option<Rc<Entry>> {
        let entries = self.entries.borrow();
        entries.iter().find(|entry| entry.id == id).cloned()
    }

    fn check_free(&self, id: &str) -> Result<()> {
        match self.find(id) {
            None => Ok(()),
            Some(_) => {
                let reason = format!("Block export id '{id}' is already in use");
                Err(Error::invalid("id", reason))
            }
        }
    }
}

/// Whether a name may be an id: a letter, then letters, digits, `-`, `.` and `_`.
fn is_well_formed(id: &str) -> bool {
    let mut chars = id.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}
