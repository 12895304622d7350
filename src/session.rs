//! What a subcommand runs on: one thread, one queue, one layer, and a pool for what blocks.
//!
//! `serve` adds queues of its own. Not here: opening images (`image.rs`).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::policy::{AnyName, DenyAll, LocalFiles, OpenPolicy};
use block_core::{Layer, LocalQueue, Queue};
use block_drivers::Drivers;

use block_schema::types::ObjectOptions;
use block_schema::{Unknown, Value, Wire};

use crate::opts::image::SessionArgs;
use crate::opts::{keyval, typed};
use crate::report::{Failure, Outcome};

/// Threads for system calls that block, all queues together.
const POOL_THREADS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// What names found inside images may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ImplicitOpen {
    /// Open nothing
    None,
    /// Open local files by plain names
    #[default]
    Local,
    /// Open whatever a driver understands
    Any,
}

impl ImplicitOpen {
    fn policy(self) -> Arc<dyn OpenPolicy> {
        match self {
            ImplicitOpen::None => Arc::new(DenyAll),
            ImplicitOpen::Local => Arc::new(LocalFiles),
            ImplicitOpen::Any => Arc::new(AnyName),
        }
    }
}

/// A running layer and its first queue.
pub(crate) struct Session {
    queue: Queue,
    pool: Arc<Pool>,
}

impl Session {
    /// Starts a layer with all drivers.
    ///
    /// # Errors
    /// When the system has no threads or descriptors left.
    pub(crate) fn start(args: &SessionArgs) -> Result<Session, Failure> {
        let pool = Pool::new(POOL_THREADS)
            .map_err(|e| Failure::new(format!("Could not start threads: {e}")))?;
        let layer = Layer::with_drivers(Arc::new(Drivers), args.policy.policy());
        for text in &args.object {
            add_object(&layer, text)?;
        }
        let engine = engine(&pool)?;
        let queue = layer.new_queue(Box::new(engine)).start();
        Ok(Session { queue, pool })
    }

    /// The queue of this thread.
    pub(crate) fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// The layer.
    pub(crate) fn layer(&self) -> &Layer {
        self.queue.layer()
    }

    /// An engine for one more queue.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub(crate) fn engine(&self) -> Result<HostEngine, Failure> {
        engine(&self.pool)
    }
}

/// Makes an object. Its text may hold a passphrase: no message repeats it.
fn add_object(layer: &Layer, text: &str) -> Result<(), Failure> {
    let options = if text.starts_with('{') {
        match Value::from_json(text) {
            Ok(Value::Object(options)) => options,
            Ok(_) | Err(_) => return Err(Failure::new("Expected a JSON object")),
        }
    } else {
        keyval::parse(text, Some("qom-type"))?
    };
    let options = typed::arguments_of("object-add", options)?;
    let options = ObjectOptions::decode(Value::Object(options), Unknown::Refuse)
        .map_err(|invalid| Failure::new(invalid.to_string()))?;
    Ok(layer.secrets().add_object(options)?)
}

fn engine(pool: &Arc<Pool>) -> Result<HostEngine, Failure> {
    let options = HostEngineOptions {
        ring_entries: 256,
        ring: Ring::Auto,
        pool: Arc::clone(pool),
    };
    HostEngine::new(&options).map_err(|e| Failure::new(format!("Could not start an engine: {e}")))
}

/// Runs a subcommand on a session of its own, and closes every image that it left open.
pub(crate) fn run(args: &SessionArgs, work: impl AsyncFnOnce(&Session) -> Outcome) -> Outcome {
    let session = Session::start(args)?;
    let outcome = session.queue.block_on(work(&session));
    let closed = session
        .queue
        .block_on(session.layer().close_all(&session.queue));
    match (outcome, closed) {
        (Ok(_), Err(error)) => Err(Failure::from(error).while_doing("Could not close the image")),
        (outcome, _) => outcome,
    }
}

/// Polls futures together until all are done.
pub(crate) async fn join_all<'a, T>(
    work: impl IntoIterator<Item = Pin<Box<dyn Future<Output = T> + 'a>>>,
) -> Vec<T> {
    let mut running: Vec<_> = work.into_iter().map(Some).collect();
    let results: RefCell<Vec<Option<T>>> = RefCell::new(running.iter().map(|_| None).collect());
    poll_fn(|cx| {
        let mut left = 0_usize;
        for (future, result) in running.iter_mut().zip(results.borrow_mut().iter_mut()) {
            if let Some(polled) = future {
                match polled.as_mut().poll(cx) {
                    Poll::Ready(value) => {
                        *result = Some(value);
                        *future = None;
                    }
                    Poll::Pending => left += 1,
                }
            }
        }
        if left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_inner().into_iter().flatten().collect()
}
