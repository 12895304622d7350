//! What becomes of a device's requests that failed: reported, ignored, or held while the machine
//! stands still; and whether it does.
//!
//! Called by the request path when a request of a device has failed, and by `stop` and `cont`.
//! Invariant: the status says what the events said that were emitted until now. Not here: where
//! held requests wait (`queue/aside.rs`), the rules of jobs.
//!
//! A hypervisor hears of errors as QMP clients do, and lets the machine go on when it can:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use block_core::Layer;
//! use block_core::events::Listener;
//! use block_schema::types::BlockErrorAction;
//! use block_schema::{Event, Timestamp};
//!
//! struct Cpus;
//!
//! impl Listener for Cpus {
//!     fn heard(&self, _: Timestamp, event: &Event) {
//!         match event {
//!             Event::BlockIoError(error) if error.action == BlockErrorAction::Stop => {
//!                 println!("{}: {}; the guest is paused", error.device, error.reason);
//!             }
//!             Event::Resume(_) => println!("the guest goes on"),
//!             _ => {}
//!         }
//!     }
//! }
//!
//! fn watch(layer: &Layer) -> Arc<Cpus> {
//!     let cpus = Arc::new(Cpus);
//!     layer.events().subscribe(&cpus);
//!     // Later, when there is space again: `layer.cont()`.
//!     cpus
//! }
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use block_schema::events::{BlockIoError, Resume, Stop};
use block_schema::types::{
    BlockDeviceIoStatus, BlockErrorAction, BlockdevOnError, IoOperationType,
};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::backend::Backend;
use crate::error::{Error, Result, kernel_text};
use crate::graph::NodeId;
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::request::Op;
use crate::sync::WaitList;

/// What a device does about errors; the default reports them to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnError {
    /// Of reads.
    pub read: BlockdevOnError,
    /// Of everything else.
    pub write: BlockdevOnError,
}

impl Default for OnError {
    fn default() -> OnError {
        OnError {
            read: BlockdevOnError::Report,
            write: BlockdevOnError::Report,
        }
    }
}

impl OnError {
    /// What the options of a device say.
    ///
    /// # Errors
    /// `InvalidOption` for what a read cannot run out of.
    pub(crate) fn from_options(
        rerror: Option<BlockdevOnError>,
        werror: Option<BlockdevOnError>,
    ) -> Result<OnError> {
        let read = rerror.unwrap_or(BlockdevOnError::Report);
        if read == BlockdevOnError::Enospc {
            let reason = format!("'{read}' invalid read error action");
            return Err(Error::invalid("rerror", reason));
        }
        let write = werror.unwrap_or(BlockdevOnError::Enospc);
        Ok(OnError { read, write })
    }

    /// Whether some error can stop the machine.
    fn stops(self) -> bool {
        match (self.read, self.write) {
            (BlockdevOnError::Stop, _) | (_, BlockdevOnError::Stop | BlockdevOnError::Enospc) => {
                true
            }
            (_, BlockdevOnError::Report | BlockdevOnError::Ignore) => false,
        }
    }

    fn action(self, operation: IoOperationType, errno: Errno) -> BlockErrorAction {
        let rule = match operation {
            IoOperationType::Read => self.read,
            IoOperationType::Write => self.write,
        };
        match rule {
            BlockdevOnError::Report => BlockErrorAction::Report,
            BlockdevOnError::Ignore => BlockErrorAction::Ignore,
            BlockdevOnError::Enospc if errno == Errno::NOSPC => BlockErrorAction::Stop,
            BlockdevOnError::Enospc => BlockErrorAction::Report,
            BlockdevOnError::Stop => BlockErrorAction::Stop,
        }
    }
}

/// The rules of one device, and what came of them.
#[derive(Debug)]
pub(crate) struct Errors(Mutex<(OnError, BlockDeviceIoStatus)>);

impl Default for Errors {
    fn default() -> Errors {
        Errors(Mutex::new((OnError::default(), BlockDeviceIoStatus::Ok)))
    }
}

impl Errors {
    pub(crate) fn rules(&self) -> OnError {
        self.0.lock().0
    }

    pub(crate) fn set_rules(&self, rules: OnError) {
        self.0.lock().0 = rules;
    }

    /// How requests end; `None` where no error stops the machine.
    pub(crate) fn status(&self) -> Option<BlockDeviceIoStatus> {
        let (rules, status) = *self.0.lock();
        rules.stops().then_some(status)
    }

    fn reset(&self) {
        self.0.lock().1 = BlockDeviceIoStatus::Ok;
    }

    /// Notes why the machine stops; the first reason counts.
    fn stopped_by(&self, errno: Errno) {
        let mut state = self.0.lock();
        if state.1 == BlockDeviceIoStatus::Ok {
            state.1 = match errno {
                Errno::NOSPC => BlockDeviceIoStatus::Nospace,
                _ => BlockDeviceIoStatus::Failed,
            };
        }
    }
}

/// Whether guests' requests go on.
#[derive(Default)]
pub(crate) struct RunState {
    stopped: AtomicBool,
    went_on: WaitList,
}

impl RunState {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Makes those look again who wait for the machine to go on.
    pub(crate) fn look_again(&self) {
        self.went_on.wake_all();
    }
}

impl Layer {
    /// Stops the guests' requests: those under way end and are made durable, later ones wait. Jobs
    /// and exports go on.
    pub async fn stop(&self, queue: &LocalQueue) {
        if self.halt() {
            self.events().emit(Stop {});
        }
        let devices = self.backends().into_iter().filter(|b| b.is_device());
        let roots: Vec<NodeId> = devices.map(|backend| backend.root()).collect();
        drop(self.drain(&roots).await);
        for root in roots {
            if let Ok(node) = self.node(queue, root)
                && let Err(error) = node.flush().await
            {
                // The next flush of the guest fails as well, and is answered by the rules.
                tracing::warn!("stop: {}", error.chain());
            }
        }
    }

    /// Lets guests' requests go on, after [`stop`](Layer::stop) or an error: those that an error
    /// held start again.
    pub fn cont(&self) {
        for backend in self.backends() {
            backend.errors().reset();
        }
        if self.run_state().stopped.swap(false, Ordering::SeqCst) {
            self.obstacle_removed();
            self.events().emit(Resume {});
            self.run_state().look_again();
        }
    }

    /// Whether guests' requests wait for [`cont`](Layer::cont).
    pub fn is_stopped(&self) -> bool {
        self.run_state().is_stopped()
    }

    /// Closes the gate for devices; says whether it was open.
    fn halt(&self) -> bool {
        let was_open = !self.run_state().stopped.swap(true, Ordering::SeqCst);
        if was_open {
            // Requests look at the gate only where there is an obstacle.
            self.obstacle_added();
        }
        was_open
    }

    /// Waits until a device's requests go on, or it is gone.
    pub(crate) async fn goes_on(&self, backend: &Backend) {
        let goes_on = || !self.is_stopped() || backend.is_retired();
        self.run_state().went_on.wait_until(goes_on).await;
    }

    /// Decides by a device's rules what becomes of a request that failed, and tells who listens.
    /// Where the machine stops, it has stopped when this returns.
    pub(crate) fn judge(&self, backend: &Backend, op: Op, error: &Error) -> BlockErrorAction {
        if !backend.is_device() {
            return BlockErrorAction::Report;
        }
        let operation = match op {
            Op::Read => IoOperationType::Read,
            Op::Write
            | Op::WriteCompressed
            | Op::WriteZeroes(_)
            | Op::Populate
            | Op::Discard
            | Op::Flush => IoOperationType::Write,
        };
        let errno = error.errno();
        let action = backend.errors().rules().action(operation, errno);
        let mut stopped_now = false;
        if action == BlockErrorAction::Stop {
            // Whoever hears of it can ask for the status, and can let the machine go on.
            backend.errors().stopped_by(errno);
            stopped_now = self.halt();
        }
        let graph = self.graph();
        let node = graph.index_of(backend.root());
        self.events().emit(BlockIoError {
            qom_path: String::new(),
            device: backend.name().to_owned(),
            node_name: node.map(|index| graph.entry(index).node.name().to_owned()),
            operation,
            action,
            nospace: (backend.errors().rules().stops()).then_some(errno == Errno::NOSPC),
            reason: kernel_text(&errno.into()),
        });
        if stopped_now {
            self.events().emit(Stop {});
        }
        action
    }
}
