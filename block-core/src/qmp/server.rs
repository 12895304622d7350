//! Monitors: sockets on which clients find the daemon.
//!
//! `qblk serve` makes one [`Daemon`], a [`Monitor`] for each `--monitor`, and waits for
//! [`Daemon::ended`]. A monitor serves one client at a time; the next one waits in the kernel's
//! backlog and gets its greeting when the first has left. Not here: what is said to a client
//! (`session.rs`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::session::{self, Session};
use crate::export::Exports;
use crate::queue::LocalQueue;
use crate::sync::{WaitList, first};

/// What all monitors of a process share.
pub struct Daemon {
    queue: LocalQueue,
    exports: Rc<Exports>,
    sessions: RefCell<Vec<Weak<Session>>>,
    ends: Cell<bool>,
    changed: WaitList,
}

impl Daemon {
    /// A daemon whose commands run on `queue` and serve nodes through `exports`.
    pub fn new(queue: &LocalQueue, exports: Rc<Exports>) -> Rc<Daemon> {
        Rc::new(Daemon {
            queue: queue.clone(),
            exports,
            sessions: RefCell::default(),
            ends: Cell::new(false),
            changed: WaitList::new(),
        })
    }

    /// The queue that commands run on.
    pub fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// The live exports.
    pub fn exports(&self) -> &Rc<Exports> {
        &self.exports
    }

    /// Tells the process to end; monitors take no commands any more.
    pub fn end(&self) {
        self.ends.set(true);
        for session in self.sessions.take().iter().filter_map(Weak::upgrade) {
            session.close();
        }
        self.changed.wake_all();
    }

    /// Remembers a client, to be told of the end.
    pub(super) fn welcome(&self, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|known| known.strong_count() > 0);
        sessions.push(Rc::downgrade(session));
    }

    /// Waits until somebody said `quit`. Its reply has been sent; exports and nodes are still open.
    pub async fn ended(&self) {
        self.changed.wait_until(|| self.ends.get()).await;
    }
}

/// A socket that listens for clients; it goes with its monitor's queue.
#[derive(Debug)]
pub struct Monitor {
    socket: Arc<OwnedFd>,
    /// To be removed in the end.
    path: Option<PathBuf>,
}

impl Monitor {
    /// Binds a Unix socket; one that an earlier process left at the path is replaced.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(path: &Path) -> io::Result<Monitor> {
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            std::fs::remove_file(path)?;
        }
        let socket = UnixListener::bind(path)?;
        let mut monitor = Monitor::on(socket.into())?;
        monitor.path = Some(path.to_owned());
        Ok(monitor)
    }

    /// Takes a stream socket that listens already.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn on(socket: OwnedFd) -> io::Result<Monitor> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Monitor {
            socket: Arc::new(socket),
            path: None,
        })
    }

    /// Serves clients, one after the other, until the daemon ends.
    pub fn run(self, daemon: &Rc<Daemon>) {
        let task = self.serve_all(Rc::clone(daemon));
        daemon.queue.spawn(task);
    }

    /// Serves one client that is connected already, until it leaves or the daemon ends.
    pub fn run_connected(socket: OwnedFd, daemon: &Rc<Daemon>) {
        let daemon = Rc::clone(daemon);
        let queue = daemon.queue.clone();
        queue.spawn(async move { session::serve(&daemon, socket).await });
    }

    async fn serve_all(self, daemon: Rc<Daemon>) {
        let queue = &daemon.queue;
        while !daemon.ends.get() {
            match first(queue.readable(&self.socket), daemon.ended()).await {
                None => break,
                Some(Err(error)) => {
                    tracing::error!("QMP monitor: {error}");
                    break;
                }
                Some(Ok(())) => {}
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(client) => session::serve(&daemon, client).await,
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // Out of descriptors or memory: others may give some back.
                    tracing::warn!("QMP monitor: {error}");
                    queue.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}
