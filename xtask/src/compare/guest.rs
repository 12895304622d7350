//! A guest beside a job: clients of a daemon's NBD export, which write back what they read.
//!
//! So the disk's content never changes, and what a job makes of it can be checked. Only clusters that
//! the image has by then are written: the guest was there before. Called by `jobs`. Invariant: one
//! request of each client at a time, so that a count of them is what the guest waited for.
//! Spec: NBD "Newstyle negotiation", "Transmission phase".

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::files::Random;

/// Clients at once.
const CLIENTS: u64 = 4;
/// Bytes from the disk's start that the guest uses.
const REGION: u64 = 64 << 20;
/// Bytes of a request.
const BLOCK: u32 = 4 << 10;
/// Bytes of a request that gives the image its clusters.
const FIRST: u32 = 1 << 20;
/// What it is left alone for, to see what it can do.
const ALONE: Duration = Duration::from_millis(700);

/// The name of its export.
pub(super) const EXPORT: &str = "guest";

/// A guest at work.
pub(super) struct Guest {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<(), String>>>,
    /// Requests in a second while there was no job.
    alone: f64,
}

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    is_over: AtomicBool,
}

/// A moment of a guest.
pub(super) struct Mark {
    done: u64,
    at: Instant,
}

impl Guest {
    /// Writes its region once, and goes to work.
    ///
    /// # Errors
    /// What the server answers.
    pub(super) fn start(socket: &Path) -> Result<Guest, String> {
        let mut first = Client::connect(socket)?;
        for at in (0..REGION).step_by(FIRST as usize) {
            first.write_back(at, FIRST)?;
        }
        let mut guest = Guest {
            shared: Arc::default(),
            clients: Vec::new(),
            alone: 0.0,
        };
        for number in 1..=CLIENTS {
            let (mut client, shared) = (Client::connect(socket)?, Arc::clone(&guest.shared));
            guest.clients.push(thread::spawn(move || {
                let mut random = Random(number);
                while !shared.is_over.load(Ordering::Relaxed) {
                    let block = random.next() % (REGION / u64::from(BLOCK));
                    client.write_back(block * u64::from(BLOCK), BLOCK)?;
                    shared.done.fetch_add(2, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        let before = guest.mark();
        thread::sleep(ALONE);
        guest.alone = guest.rate_since(&before);
        Ok(guest)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            done: self.shared.done.load(Ordering::Relaxed),
            at: Instant::now(),
        }
    }

    fn rate_since(&self, before: &Mark) -> f64 {
        let now = self.mark();
        (now.done - before.done) as f64 / (now.at - before.at).as_secs_f64()
    }

    /// What it does in a second since a moment, of what it does alone.
    pub(super) fn share_since(&self, before: &Mark) -> f64 {
        self.rate_since(before) / self.alone
    }

    /// Ends it.
    ///
    /// # Errors
    /// That one of its requests failed.
    pub(super) fn end(mut self) -> Result<(), String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.clients.drain(..).try_for_each(|client| {
            let ended = client.join();
            ended.map_err(|_| "a client of the guest panicked".to_owned())?
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// One connection, past its negotiation.
struct Client {
    socket: UnixStream,
    data: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Verb {
    Read = 0,
    Write = 1,
}

impl Client {
    fn connect(path: &Path) -> Result<Client, String> {
        let describe = |error| format!("{}: {error}", path.display());
        let mut socket = UnixStream::connect(path).map_err(describe)?;
        negotiate(&mut socket).map_err(describe)?;
        let data = Vec::new();
        Ok(Client { socket, data })
    }

    fn write_back(&mut self, offset: u64, len: u32) -> Result<(), String> {
        self.data.resize(len as usize, 0);
        [Verb::Read, Verb::Write].into_iter().try_for_each(|verb| {
            let done = self.request(verb, offset, len);
            done.map_err(|error| format!("the guest's request: {error}"))
        })
    }

    fn request(&mut self, verb: Verb, offset: u64, len: u32) -> std::io::Result<()> {
        let mut request = Vec::with_capacity(28 + self.data.len());
        request.extend(0x2560_9513u32.to_be_bytes());
        request.extend([0, 0, 0, verb as u8]);
        request.extend([0; 8]);
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        if let Verb::Write = verb {
            request.extend(&self.data);
        }
        self.socket.write_all(&request)?;
        let mut reply = [0; 16];
        self.socket.read_exact(&mut reply)?;
        if reply[..8] != [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0] {
            return Err(std::io::Error::other(format!("the reply {reply:02x?}")));
        }
        match verb {
            Verb::Read => self.socket.read_exact(&mut self.data),
            Verb::Write => Ok(()),
        }
    }
}

/// Asks for the export by its name alone: that takes no answers but one.
fn negotiate(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
        return Err(std::io::Error::other("no NBD server"));
    }
    // Fixed newstyle, without padding behind the answer.
    let mut asked = vec![0, 0, 0, 3];
    asked.extend(b"IHAVEOPT");
    asked.extend(1u32.to_be_bytes());
    let len = u32::try_from(EXPORT.len()).map_err(std::io::Error::other)?;
    asked.extend(len.to_be_bytes());
    asked.extend(EXPORT.as_bytes());
    socket.write_all(&asked)?;
    let mut export = [0; 10];
    socket.read_exact(&mut export)
}
