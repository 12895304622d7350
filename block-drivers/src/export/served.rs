//! The exports that are built in, as the list of live exports drives them.
//!
//! Called by [`Exports`](block_core::export::Exports) on the control plane's queue. Not here: ids,
//! users of nodes, events (that list), and the protocols themselves.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block_core::Result;
use block_core::backend::Backend;
use block_core::bitmap::Busy;
use block_core::error::Error;
use block_core::export::{Closing, Export, ExportDrivers, InUse};
use block_core::queue::QueueHandle;
use block_schema::commands::NbdServerStart;
use block_schema::types::{
    BlockExportOptions, BlockExportOptionsBranch, BlockExportOptionsNbd, BlockExportRemoveMode,
};

use super::address::{address_of, cannot_bind};
use super::nbd::{
    DEFAULT_HANDSHAKE_MAX, DEFAULT_MAX_CONNECTIONS, ExportOptions, NbdServer, RemoveMode,
    ServerError, ServerOptions,
};

/// The exports of this crate, and the one NBD server they stand on.
pub struct BuiltInExports {
    queues: Vec<QueueHandle>,
    nbd: Rc<RefCell<Option<Rc<NbdServer>>>>,
}

/// The clients of the NBD server, for whoever ends with them.
pub struct NbdClients(Rc<RefCell<Option<Rc<NbdServer>>>>);

impl NbdClients {
    /// Waits until the server that runs now had a client, and all have gone; not at all where none runs.
    pub async fn left(&self) {
        let server = self.0.borrow().clone();
        if let Some(server) = server {
            server.left().await;
        }
    }
}

impl BuiltInExports {
    /// Exports whose clients are served by `queues` in turn; there is at least one.
    pub fn new(queues: Vec<QueueHandle>) -> BuiltInExports {
        BuiltInExports {
            queues,
            nbd: Rc::default(),
        }
    }

    /// The clients of the NBD server.
    pub fn nbd_clients(&self) -> NbdClients {
        NbdClients(Rc::clone(&self.nbd))
    }

    fn running(&self) -> Result<Rc<NbdServer>> {
        let not_running = || Error::invalid("type", "NBD server not running");
        self.nbd.borrow().clone().ok_or_else(not_running)
    }
}

impl ExportDrivers for BuiltInExports {
    fn start_server(&self, options: &NbdServerStart) -> Result<()> {
        if self.is_server_running() {
            return Err(Error::invalid("addr", "NBD server already running"));
        }
        if let Some(id) = &options.tls_creds {
            let reason = format!("No TLS credentials with id '{id}'");
            return Err(Error::invalid("tls-creds", reason));
        }
        if options.tls_authz.is_some() {
            let reason = "Parameter 'tls-authz' needs TLS credentials";
            return Err(Error::invalid("tls-authz", reason));
        }
        let (address, shown) = address_of(&options.addr)?;
        let mut server = ServerOptions::new(address);
        server.max_connections = match options.max_connections {
            None => Some(DEFAULT_MAX_CONNECTIONS),
            Some(0) => None,
            Some(limit) => Some(limit),
        };
        server.handshake_max = match options.handshake_max_seconds {
            None => Some(DEFAULT_HANDSHAKE_MAX),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(u64::from(seconds))),
        };
        let started = NbdServer::start(server, self.queues.clone());
        let server = started.map_err(|error| cannot_bind(&shown, &error))?;
        *self.nbd.borrow_mut() = Some(Rc::new(server));
        Ok(())
    }

    fn is_server_running(&self) -> bool {
        self.nbd.borrow().is_some()
    }

    fn stop_server(&self) -> Closing {
        let server = self.nbd.take();
        Box::pin(async move {
            if let Some(server) = server {
                server.stop().await;
            }
        })
    }

    fn create(
        &self,
        options: &BlockExportOptions,
        backend: &Arc<Backend>,
        bitmaps: Vec<Arc<Busy>>,
    ) -> Result<Rc<dyn Export>> {
        match &options.r#type {
            BlockExportOptionsBranch::Nbd(nbd) => {
                let export = self.create_nbd(options, nbd, backend, bitmaps)?;
                Ok(Rc::new(export))
            }
        }
    }
}

impl BuiltInExports {
    fn create_nbd(
        &self,
        options: &BlockExportOptions,
        nbd: &BlockExportOptionsNbd,
        backend: &Arc<Backend>,
        bitmaps: Vec<Arc<Busy>>,
    ) -> Result<NbdExport> {
        let server = self.running()?;
        let name = nbd.name.as_ref().unwrap_or(&options.node_name).clone();
        let added = server.add_export(ExportOptions {
            name: name.clone(),
            description: nbd.description.clone().unwrap_or_default(),
            backend: Arc::clone(backend),
            writethrough: options.writethrough.unwrap_or(false),
            bitmaps,
        });
        added.map_err(|error| Error::invalid("name", error.to_string()))?;
        Ok(NbdExport { server, name })
    }
}

/// A node under a name on the NBD server.
struct NbdExport {
    server: Rc<NbdServer>,
    name: String,
}

impl Export for NbdExport {
    fn close(&self, mode: BlockExportRemoveMode) -> Result<Closing, InUse> {
        let mode = match mode {
            BlockExportRemoveMode::Safe => RemoveMode::Safe,
            BlockExportRemoveMode::Hard => RemoveMode::Hard,
        };
        match self.server.begin_remove(&self.name, mode) {
            Ok(left) => Ok(Box::pin(left)),
            Err(ServerError::InUse { .. }) => Err(InUse),
            // It is gone, which is what was asked for.
            Err(
                ServerError::NotFound { .. }
                | ServerError::Stopping
                | ServerError::TooLong { .. }
                | ServerError::Exists { .. },
            ) => Ok(Box::pin(std::future::ready(()))),
        }
    }
}
