//! QMP: what each command of the schema does.
//!
//! [`Commands`] leads every generated command to a function, and does nothing else; commands that
//! are not here answer that they are not built in. [`Monitor`] serves clients on a socket.
//! Invariant: everything here runs on the control plane's queue. Not here: argument checks
//! (generated), the graph's verbs (`layer.rs`).
//!
//! ```no_run
//! use block_core::export::{Exports, NoExports};
//! use block_core::qmp::{Daemon, Monitor};
//!
//! fn serve(queue: &block_core::Queue) -> std::io::Result<()> {
//!     let daemon = Daemon::new(queue, Exports::new(queue, Box::new(NoExports)));
//!     Monitor::bind("qmp.sock".as_ref())?.run(&daemon);
//!     queue.block_on(async {
//!         daemon.ended().await;
//!         daemon.exports().close_all().await;
//!         queue.layer().close_all(queue).await.map_err(std::io::Error::other)
//!     })
//! }
//! ```

mod blockdev;
mod error;
mod export;
mod outbox;
mod query;
mod server;
mod session;

pub use server::{Daemon, Monitor};

use std::rc::Rc;

use block_schema::{Error, Server, commands, types};

use session::Session;

/// The commands as one session runs them.
pub(crate) struct Commands {
    daemon: Rc<Daemon>,
    session: Rc<Session>,
}

impl Server for Commands {
    async fn query_version(&self, _: commands::QueryVersion) -> Result<types::VersionInfo, Error> {
        Ok(query::version())
    }

    async fn query_commands(
        &self,
        _: commands::QueryCommands,
    ) -> Result<Vec<types::CommandInfo>, Error> {
        Ok(query::known_commands())
    }

    async fn query_qmp_schema(
        &self,
        _: commands::QueryQmpSchema,
    ) -> Result<Vec<types::SchemaInfo>, Error> {
        query::schema()
    }

    async fn query_block(&self, _: commands::QueryBlock) -> Result<Vec<types::BlockInfo>, Error> {
        Ok(query::devices(self.daemon.queue()).await?)
    }

    async fn query_named_block_nodes(
        &self,
        arguments: commands::QueryNamedBlockNodes,
    ) -> Result<Vec<types::BlockDeviceInfo>, Error> {
        Ok(query::nodes(self.daemon.queue(), &arguments).await?)
    }

    async fn query_blockstats(
        &self,
        arguments: commands::QueryBlockstats,
    ) -> Result<Vec<types::BlockStats>, Error> {
        Ok(query::stats(self.daemon.queue().layer(), &arguments))
    }

    async fn query_block_jobs(
        &self,
        _: commands::QueryBlockJobs,
    ) -> Result<Vec<types::BlockJobInfo>, Error> {
        // No command starts one yet.
        Ok(Vec::new())
    }

    async fn blockdev_add(&self, arguments: commands::BlockdevAdd) -> Result<(), Error> {
        Ok(blockdev::add(self.daemon.queue(), arguments).await?)
    }

    async fn blockdev_del(&self, arguments: commands::BlockdevDel) -> Result<(), Error> {
        Ok(blockdev::del(self.daemon.queue(), arguments).await?)
    }

    async fn block_resize(&self, arguments: commands::BlockResize) -> Result<(), Error> {
        Ok(blockdev::resize(self.daemon.queue(), arguments).await?)
    }

    async fn nbd_server_start(&self, arguments: commands::NbdServerStart) -> Result<(), Error> {
        Ok(self.daemon.exports().start_server(&arguments)?)
    }

    async fn nbd_server_add(&self, arguments: commands::NbdServerAdd) -> Result<(), Error> {
        Ok(export::nbd_add(&self.daemon, arguments).await?)
    }

    async fn nbd_server_remove(&self, arguments: commands::NbdServerRemove) -> Result<(), Error> {
        Ok(export::nbd_remove(self.daemon.exports(), &arguments)?)
    }

    async fn nbd_server_stop(&self, _: commands::NbdServerStop) -> Result<(), Error> {
        Ok(self.daemon.exports().stop_server().await?)
    }

    async fn block_export_add(&self, arguments: commands::BlockExportAdd) -> Result<(), Error> {
        Ok(self.daemon.exports().add(&arguments.0).await?)
    }

    async fn block_export_del(&self, arguments: commands::BlockExportDel) -> Result<(), Error> {
        Ok(export::del(self.daemon.exports(), &arguments)?)
    }

    async fn query_block_exports(
        &self,
        _: commands::QueryBlockExports,
    ) -> Result<Vec<types::BlockExportInfo>, Error> {
        Ok(self.daemon.exports().list())
    }

    async fn qmp_capabilities(&self, arguments: commands::QmpCapabilities) -> Result<(), Error> {
        self.session.negotiate(arguments);
        Ok(())
    }

    async fn quit(&self, _: commands::Quit) -> Result<(), Error> {
        self.session.ask_to_quit();
        Ok(())
    }
}
