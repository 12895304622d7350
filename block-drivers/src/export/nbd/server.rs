//! The server as its owner sees it: exports, connections, and their ends.
//!
//! Called by the control plane; connections ask it for exports and report here when they end.
//! Invariant: a connection is in the table from `accept` until its last request has ended, so
//! whoever waits for the table waits for the requests. Not here: sockets (`listener.rs`).

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use block_core::backend::Backend;
use block_core::bitmap::Busy;
use block_core::layer::Layer;
use block_core::queue::QueueHandle;
use block_core::sync::WaitList;
use parking_lot::Mutex;
use slab::Slab;

use super::connection;
use super::listener::{Address, BoundAddress, Listener};
use crate::nbd::layout::{MAX_PAYLOAD, MAX_STRING, transmission};
use crate::nbd::server_handshake::Catalog;
use crate::nbd::{BlockSize, ExportInfo};

/// Clients served at once unless told otherwise; enough for those that open 8 to 16 each.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 100;
/// How long a handshake may take unless told otherwise.
pub const DEFAULT_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What a server is started with; the schema's `NbdServerOptions`.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen.
    pub address: Address,
    /// Clients served at once; `None` for any number. More wait in the listener's backlog.
    pub max_connections: Option<u32>,
    /// A client that has not chosen an export by then is cut; `None` for no limit.
    pub handshake_max: Option<Duration>,
}

impl ServerOptions {
    /// The defaults, at an address.
    pub fn new(address: Address) -> ServerOptions {
        ServerOptions {
            address,
            max_connections: Some(DEFAULT_MAX_CONNECTIONS),
            handshake_max: Some(DEFAULT_HANDSHAKE_MAX),
        }
    }
}

/// What is served, and how; the NBD branch of the schema's `BlockExportOptions`.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The name clients ask for; "" is the default export.
    pub name: String,
    /// Shown to people; may be empty.
    pub description: String,
    /// The export's own user of its node; read-only unless clients may write.
    pub backend: Arc<Backend>,
    /// Whether every write is durable when it is answered.
    pub writethrough: bool,
    /// Dirty bitmaps that clients may ask about; nobody else changes them meanwhile.
    pub bitmaps: Vec<Arc<Busy>>,
}

/// What can be wrong with a command to the server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The name, or the description, is longer than the protocol allows.
    #[error("export name '{name}' or its description is too long")]
    TooLong {
        /// The beginning of the name.
        name: String,
    },
    /// Another export has the name.
    #[error("NBD server already has export named '{name}'")]
    Exists {
        /// The name.
        name: String,
    },
    /// No export has the name.
    #[error("Export '{name}' is not found")]
    NotFound {
        /// The name.
        name: String,
    },
    /// Clients are connected, and the removal was to be safe.
    #[error("export '{name}' still in use")]
    InUse {
        /// The name.
        name: String,
    },
    /// The server is stopping.
    #[error("NBD server is stopping")]
    Stopping,
}

/// How an export goes; the schema's `BlockExportRemoveMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoveMode {
    /// Only when no client is connected to it.
    #[default]
    Safe,
    /// Its clients are cut; their requests in flight run to the end.
    Hard,
}

/// One entry of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportStatus {
    /// The export's name.
    pub name: String,
    /// Its clients.
    pub connections: usize,
    /// Whether it was removed and waits for its clients' last requests.
    pub shutting_down: bool,
}

/// A running server. Dropping it stops it without waiting.
pub struct NbdServer {
    shared: Arc<Shared>,
    address: BoundAddress,
}

impl std::fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NbdServer({:?})", self.address)
    }
}

impl NbdServer {
    /// Listens; connections are served by `queues` in turn, the first of which accepts them.
    ///
    /// # Errors
    /// What the kernel says about the address.
    /// # Panics
    /// When there is no queue.
    pub fn start(options: ServerOptions, queues: Vec<QueueHandle>) -> std::io::Result<NbdServer> {
        assert!(!queues.is_empty(), "a server needs a queue");
        let listener = Listener::bind(options.address)?;
        let address = listener.address().clone();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            max_connections: options.max_connections,
            handshake_max: options.handshake_max,
            next_queue: AtomicUsize::new(0),
            queues,
            changed: WaitList::new(),
        });
        let server = Arc::clone(&shared);
        if let Some(queue) = shared.queues.first() {
            queue.spawn(move |queue| listener.run(queue, server));
        }
        Ok(NbdServer { shared, address })
    }

    /// Where it listens, with the port the kernel chose.
    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// Adds an export; clients see it from their next option on.
    ///
    /// # Errors
    /// When the name is taken or too long, or the server is stopping.
    pub fn add_export(&self, options: ExportOptions) -> Result<(), ServerError> {
        let name = options.name.clone();
        if name.len() > MAX_STRING || options.description.len() > MAX_STRING {
            return Err(ServerError::TooLong {
                name: name.chars().take(40).collect(),
            });
        }
        let mut state = self.shared.state.lock();
        if state.stopping {
            return Err(ServerError::Stopping);
        }
        if state.exports.contains_key(&name) {
            return Err(ServerError::Exists { name });
        }
        state.exports.insert(name, Arc::new(Export { options }));
        Ok(())
    }

    /// Removes an export and waits until no request of it is in flight.
    ///
    /// # Errors
    /// When there is none of this name, or it is in use and `mode` is safe.
    /// # Cancel safety
    /// The removal goes on.
    pub async fn remove_export(&self, name: &str, mode: RemoveMode) -> Result<(), ServerError> {
        self.begin_remove(name, mode)?.await;
        Ok(())
    }

    /// Removes an export; no client finds it any more. The future is ready when no request of it
    /// is in flight.
    ///
    /// # Errors
    /// When there is none of this name, or it is in use and `mode` is safe.
    pub fn begin_remove(
        &self,
        name: &str,
        mode: RemoveMode,
    ) -> Result<impl Future<Output = ()> + 'static, ServerError> {
        let mut state = self.shared.state.lock();
        let not_found = || ServerError::NotFound {
            name: name.to_owned(),
        };
        let export = Arc::clone(state.exports.get(name).ok_or_else(not_found)?);
        if mode == RemoveMode::Safe && state.users(&export).next().is_some() {
            return Err(ServerError::InUse {
                name: name.to_owned(),
            });
        }
        state.exports.remove(name);
        state.users(&export).for_each(Client::cut);
        state.leaving.push(Arc::clone(&export));
        Ok(Arc::clone(&self.shared).left_by_all(export))
    }

    /// All exports, those on their way out included.
    pub fn exports(&self) -> Vec<ExportStatus> {
        let state = self.shared.state.lock();
        let entry = |export: &Arc<Export>, shutting_down| ExportStatus {
            name: export.options.name.clone(),
            connections: state.users(export).count(),
            shutting_down,
        };
        let served = state.exports.values().map(|export| entry(export, false));
        served
            .chain(state.leaving.iter().map(|export| entry(export, true)))
            .collect()
    }

    /// Clients connected now, those that haggle included.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().clients.len()
    }

    /// Waits until there was a client and all have gone.
    pub async fn left(&self) {
        let left = || {
            let state = self.shared.state.lock();
            state.visited && state.clients.is_empty()
        };
        self.shared.changed.wait_until(left).await;
    }

    /// Stops listening, removes all exports, cuts all clients, and waits for their requests.
    ///
    /// # Cancel safety
    /// The server goes on stopping.
    pub async fn stop(&self) {
        self.shared.begin_stop();
        let gone = || {
            let state = self.shared.state.lock();
            state.clients.is_empty() && state.listener_gone
        };
        self.shared.changed.wait_until(gone).await;
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.shared.begin_stop();
    }
}

/// One thing served.
#[derive(Debug)]
pub(super) struct Export {
    options: ExportOptions,
}

impl Export {
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.options.backend
    }

    pub(super) fn bitmaps(&self) -> &[Arc<Busy>] {
        &self.options.bitmaps
    }

    pub(super) fn writethrough(&self) -> bool {
        self.options.writethrough
    }
}

/// A client's place in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionId(usize);

#[derive(Debug)]
struct Client {
    socket: Arc<OwnedFd>,
    export: Option<Arc<Export>>,
}

impl Client {
    /// Makes every receive and send of the connection end at once.
    fn cut(&self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            // The peer was faster.
            tracing::trace!("shutdown of an NBD connection: {error}");
        }
    }
}

#[derive(Debug, Default)]
struct State {
    exports: BTreeMap<String, Arc<Export>>,
    leaving: Vec<Arc<Export>>,
    clients: Slab<Client>,
    /// Whether there was a client.
    visited: bool,
    stopping: bool,
    listener_gone: bool,
}

impl State {
    fn users<'a>(&'a self, export: &'a Arc<Export>) -> impl Iterator<Item = &'a Client> {
        let uses = move |client: &&Client| {
            client
                .export
                .as_ref()
                .is_some_and(|used| Arc::ptr_eq(used, export))
        };
        self.clients.iter().map(|(_, client)| client).filter(uses)
    }
}

/// What the listener and the connections share with the owner.
pub(super) struct Shared {
    state: Mutex<State>,
    max_connections: Option<u32>,
    handshake_max: Option<Duration>,
    queues: Vec<QueueHandle>,
    next_queue: AtomicUsize,
    /// Woken when a connection ends and when the server stops.
    changed: WaitList,
}

impl Shared {
    pub(super) fn handshake_max(&self) -> Option<Duration> {
        self.handshake_max
    }

    /// Waits until another client may be accepted; false when the server stops.
    pub(super) async fn wait_for_room(&self) -> bool {
        let mut stopping = false;
        let room = || {
            let state = self.state.lock();
            stopping = state.stopping;
            let limit = self
                .max_connections
                .map_or(usize::MAX, |limit| limit as usize);
            stopping || state.clients.len() < limit
        };
        self.changed.wait_until(room).await;
        !stopping
    }

    /// Waits until the server stops.
    pub(super) async fn stopped(&self) {
        self.changed.wait_until(|| self.state.lock().stopping).await;
    }

    pub(super) fn listener_gone(&self) {
        self.state.lock().listener_gone = true;
        self.changed.wake_all();
    }

    /// Takes a client and gives it to the next queue.
    pub(super) fn welcome(self: &Arc<Self>, socket: OwnedFd) {
        let socket = Arc::new(socket);
        let client = Client {
            socket: Arc::clone(&socket),
            export: None,
        };
        let id = {
            let mut state = self.state.lock();
            if state.stopping {
                return;
            }
            state.visited = true;
            ConnectionId(state.clients.insert(client))
        };
        let place = Place {
            server: Arc::clone(self),
            id,
        };
        let next = self.next_queue.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        let Some(queue) = self.queues.get(next) else {
            return;
        };
        queue.spawn(move |queue| async move {
            let server = Arc::clone(&place.server);
            match connection::serve(queue, socket, server, place.id).await {
                Ok(()) => tracing::debug!("NBD client {} left", place.id.0),
                Err(end) => tracing::debug!("NBD client {} cut: {end}", place.id.0),
            }
            drop(place);
        });
    }

    /// Records which export a client chose; false when it is gone.
    pub(super) fn use_export(&self, id: ConnectionId, export: &Arc<Export>) -> bool {
        let mut state = self.state.lock();
        let served = state.exports.get(&export.options.name);
        if !served.is_some_and(|served| Arc::ptr_eq(served, export)) {
            return false;
        }
        if let Some(client) = state.clients.get_mut(id.0) {
            client.export = Some(Arc::clone(export));
        }
        true
    }

    /// Waits for the last client of an export that was removed.
    async fn left_by_all(self: Arc<Self>, export: Arc<Export>) {
        let gone = || self.state.lock().users(&export).next().is_none();
        self.changed.wait_until(gone).await;
        let mut state = self.state.lock();
        state.leaving.retain(|other| !Arc::ptr_eq(other, &export));
    }

    fn begin_stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.exports.clear();
        state.clients.iter().for_each(|(_, client)| client.cut());
        drop(state);
        self.changed.wake_all();
    }

    pub(super) fn catalog<'a>(&'a self, layer: &'a Layer) -> Exports<'a> {
        Exports {
            server: self,
            layer,
        }
    }
}

/// A client's entry in the table; leaves when dropped, also when its queue goes first.
struct Place {
    server: Arc<Shared>,
    id: ConnectionId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let client = self.server.state.lock().clients.try_remove(self.id.0);
        if let Some(client) = client {
            client.cut();
        }
        self.server.changed.wake_all();
    }
}

/// The exports as a handshake sees them.
pub(super) struct Exports<'a> {
    server: &'a Shared,
    layer: &'a Layer,
}

impl Catalog for Exports<'_> {
    type Export = Arc<Export>;

    fn find(&self, name: &str) -> Option<(ExportInfo, Arc<Export>)> {
        let export = Arc::clone(self.server.state.lock().exports.get(name)?);
        let graph = self.layer.graph();
        let root = graph.index_of(export.backend().root())?;
        let node = &graph.entry(root).node;
        let limits = node.driver().limits();
        let read_only = export.backend().is_read_only() || node.is_read_only();
        let info = ExportInfo {
            name: export.options.name.clone(),
            description: export.options.description.clone(),
            size: graph.len(root),
            flags: self.flags(read_only),
            block_size: BlockSize {
                minimum: limits.request_alignment.clamp(1, 1 << 16),
                preferred: limits
                    .optimal_transfer
                    .next_power_of_two()
                    .clamp(4096, MAX_PAYLOAD),
                maximum: MAX_PAYLOAD,
            },
            bitmaps: {
                let bitmaps = export.bitmaps().iter();
                bitmaps.map(|b| b.bitmap().name().to_owned()).collect()
            },
        };
        Some((info, export))
    }

    fn list(&self) -> Vec<(String, String)> {
        let state = self.server.state.lock();
        let options = state.exports.values().map(|export| &export.options);
        options
            .map(|o| (o.name.clone(), o.description.clone()))
            .collect()
    }
}

impl Exports<'_> {
    fn flags(&self, read_only: bool) -> u16 {
        use transmission as flag;
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        flags |= if read_only {
            flag::READ_ONLY
        } else {
            flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        };
        // A flush covers every write completed on any queue, so connections may be mixed.
        if self.server.max_connections != Some(1) {
            flags |= flag::CAN_MULTI_CONN;
        }
        flags
    }
}
