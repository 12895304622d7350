//! The threads that serve clients: each with a queue of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use block_core::QueueHandle;
use block_core::error::kernel_text;
use block_core::sync::WaitList;

use crate::report::Failure;
use crate::session::Session;

/// More threads than this serve nobody faster: an image's own work is shared already.
const MOST: usize = 4;

/// Running threads; they end when this is dropped.
pub(super) struct Threads {
    running: Vec<(QueueHandle, Option<JoinHandle<()>>)>,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    wanted: AtomicBool,
    changed: WaitList,
}

impl Threads {
    /// Starts as many threads as there are processors, within reason.
    ///
    /// # Errors
    /// When the system has no threads or descriptors left.
    pub(super) fn start(session: &Session) -> Result<Threads, Failure> {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST));
        let mut threads = Threads {
            running: Vec::new(),
            end: Arc::default(),
        };
        for index in 0..count {
            let builder = session.layer().new_queue(Box::new(session.engine()?));
            let (handle, end) = (builder.handle(), Arc::clone(&threads.end));
            let serve = move || {
                let queue = builder.start();
                let wanted = || end.wanted.load(Ordering::Acquire);
                queue.block_on(end.changed.wait_until(wanted));
            };
            let name = format!("queue-{index}");
            let thread = std::thread::Builder::new().name(name).spawn(serve);
            let thread = thread.map_err(|error| {
                Failure::new(format!("Could not start a thread: {}", kernel_text(&error)))
            })?;
            threads.running.push((handle, Some(thread)));
        }
        Ok(threads)
    }

    /// Their queues, for exports.
    pub(super) fn handles(&self) -> Vec<QueueHandle> {
        self.running
            .iter()
            .map(|(handle, _)| handle.clone())
            .collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.wanted.store(true, Ordering::Release);
        self.end.changed.wake_all();
        for (_, thread) in &mut self.running {
            if let Some(thread) = thread.take() {
                thread.join().ok();
            }
        }
    }
}
