//! The loop of a virtio-blk device: four queues on one device thread, guest memory, eventfds in
//! one epoll, no async runtime.
//!
//! `cargo run --release --example virtio_blk [IMAGE [FORMAT]]`; without an image it uses a raw file
//! of 64 MiB in the temporary folder. A "guest" thread fills each virtqueue with writes, then
//! reads everything back and compares. The image's first 64 MiB are overwritten.

use std::collections::VecDeque;
use std::error::Error;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::policy::DenyAll;
use block_core::{BackendSlot, GuestMemory, IoBuf, Layer, Queue, Request};
use block_drivers::Drivers;
use block_schema::types::BlockdevOptions;
use block_schema::{Unknown, Value, Wire};
use rustix::event::{EventfdFlags, epoll, eventfd};

const QUEUES: usize = 4;
const DISK: u64 = 64 << 20;
const BLOCK: usize = 4096;
const RING: usize = 128;

/// One request as the guest puts it into a virtqueue: addresses are offsets in its memory.
#[derive(Clone, Copy)]
struct Descriptor {
    write: bool,
    sector: u64,
    address: usize,
}

/// A virtqueue: available and used rings, and the eventfds that announce changes.
struct Virtqueue {
    available: Mutex<VecDeque<Descriptor>>,
    used: Mutex<Vec<Result<Descriptor, String>>>,
    /// The guest rings this.
    kick: OwnedFd,
    /// The device rings this.
    call: OwnedFd,
    memory: Arc<GuestMemory>,
}

#[expect(
    clippy::host_endian_bytes,
    reason = "an eventfd counts in the machine's order"
)]
fn ring(fd: &OwnedFd) -> rustix::io::Result<()> {
    rustix::io::write(fd, &1u64.to_ne_bytes()).map(drop)
}

fn quiet(fd: &OwnedFd) {
    // Nothing to read only means that nobody rang since.
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let given = arguments.next().map(std::path::PathBuf::from);
    let path = match &given {
        Some(path) => path.clone(),
        None => scratch_disk()?,
    };
    let format = arguments.next().unwrap_or_else(|| "raw".to_owned());

    // The graph: what a user of `blockdev-add` writes. Only named files are opened.
    let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(DenyAll));
    let pool = Pool::new(NonZeroUsize::MIN.saturating_add(3))?;
    let options = HostEngineOptions {
        ring_entries: 256,
        ring: Ring::Auto,
        pool,
    };
    let control = layer
        .new_queue(Box::new(HostEngine::new(&options)?))
        .start();
    let json = format!(
        r#"{{"driver": "{format}", "id": "vda", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{path}", "aio": "io_uring"}}}}"#,
        path = path.display()
    );
    let disk = BlockdevOptions::decode(Value::from_json(&json)?, Unknown::Refuse)?;
    control.block_on(layer.blockdev_add(&control, disk))?;
    let backend = layer.backend("vda").ok_or("no device")?;

    let virtqueues: Vec<Arc<Virtqueue>> = (0..QUEUES)
        .map(|_| {
            let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
            Ok(Arc::new(Virtqueue {
                available: Mutex::default(),
                used: Mutex::default(),
                kick: eventfd(0, flags)?,
                call: eventfd(0, EventfdFlags::CLOEXEC)?,
                memory: Arc::new(GuestMemory::anonymous(RING * BLOCK, None)),
            }))
        })
        .collect::<rustix::io::Result<_>>()?;

    let guests: Vec<_> = virtqueues
        .iter()
        .enumerate()
        .map(|(index, virtqueue)| {
            let virtqueue = Arc::clone(virtqueue);
            std::thread::spawn(move || guest(index, &virtqueue))
        })
        .collect();

    // All queues of the device live on this thread; each could as well have a thread of its own.
    let mut queues: Vec<(Queue, BackendSlot)> = Vec::new();
    for _ in &virtqueues {
        let queue = layer
            .new_queue(Box::new(HostEngine::new(&options)?))
            .start();
        let slot = queue.attach(&backend);
        queues.push((queue, slot));
    }
    device(&queues, &virtqueues, || {
        guests.iter().all(|guest| guest.is_finished())
    })?;

    for guest in guests {
        guest.join().map_err(|_| "a guest found wrong data")?;
    }
    for (queue, slot) in &queues {
        queue.block_on(queue.request(*slot, Request::flush()))?;
    }
    drop(queues);
    control.block_on(layer.close_all(&control))?;
    if given.is_none() {
        std::fs::remove_file(&path)?;
    }
    println!("{QUEUES} queues, {} MiB written and verified", DISK >> 20);
    Ok(())
}

/// The device's loop: one epoll over the guest's kicks and the queues' notifiers.
fn device(
    queues: &[(Queue, BackendSlot)],
    virtqueues: &[Arc<Virtqueue>],
    finished: impl Fn() -> bool,
) -> Result<(), Box<dyn Error>> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, ((queue, _), virtqueue)) in queues.iter().zip(virtqueues).enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, &virtqueue.kick, data, epoll::EventFlags::IN)?;
        epoll::add(&poll, queue.notifier(), data, epoll::EventFlags::IN)?;
    }
    let mut in_flight: Vec<Vec<Option<Descriptor>>> = vec![vec![None; RING]; queues.len()];
    let mut events = Vec::with_capacity(2 * QUEUES);
    let timeout = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !finished() {
        events.clear();
        epoll::wait(
            &poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        )?;
        for event in &events {
            let index = usize::try_from(event.data.u64())?;
            let ((queue, slot), virtqueue) = (&queues[index], &virtqueues[index]);
            quiet(&virtqueue.kick);
            take_available(queue, *slot, virtqueue, &mut in_flight[index])?;
            queue.kick();
            put_used(queue, virtqueue, &mut in_flight[index])?;
        }
    }
    Ok(())
}

/// Submits what the guest made available. The token is the descriptor's place in flight.
fn take_available(
    queue: &Queue,
    slot: BackendSlot,
    virtqueue: &Virtqueue,
    in_flight: &mut [Option<Descriptor>],
) -> Result<(), Box<dyn Error>> {
    let mut available = virtqueue.available.lock().map_err(|_| "the guest died")?;
    while let Some(free) = in_flight.iter().position(Option::is_none)
        && let Some(descriptor) = available.pop_front()
    {
        let range = descriptor.address..descriptor.address + BLOCK;
        let buf = IoBuf::guest(&virtqueue.memory, &[range]).ok_or("address outside memory")?;
        let offset = descriptor.sector * 512;
        let request = match descriptor.write {
            true => Request::write(offset, buf),
            false => Request::read(offset, buf),
        };
        in_flight[free] = Some(descriptor);
        queue.submit(slot, request, free as u64);
    }
    Ok(())
}

/// Tells the guest what has ended, with one interrupt a batch.
fn put_used(
    queue: &Queue,
    virtqueue: &Virtqueue,
    in_flight: &mut [Option<Descriptor>],
) -> Result<(), Box<dyn Error>> {
    let mut ended = Vec::new();
    queue.reap(|done| {
        let place = usize::try_from(done.token).unwrap_or(usize::MAX);
        if let Some(descriptor) = in_flight.get_mut(place).and_then(Option::take) {
            ended.push(
                done.result
                    .map(|()| descriptor)
                    .map_err(|error| error.chain()),
            );
        }
    });
    if !ended.is_empty() {
        virtqueue
            .used
            .lock()
            .map_err(|_| "the guest died")?
            .append(&mut ended);
        ring(&virtqueue.call)?;
    }
    Ok(())
}

/// One block of the guest's memory.
fn block_memory(virtqueue: &Virtqueue, address: usize) -> IoBuf {
    let range = address..address + BLOCK;
    IoBuf::guest(&virtqueue.memory, std::slice::from_ref(&range)).expect("in memory")
}

/// What the guest's driver does: writes its quarter of the disk, then reads it back.
fn guest(index: usize, virtqueue: &Virtqueue) {
    let blocks: Vec<u64> = (0..DISK / BLOCK as u64)
        .filter(|block| block % QUEUES as u64 == index as u64)
        .collect();
    let pattern = |block: u64| block.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    for write in [true, false] {
        for batch in blocks.chunks(RING) {
            for (place, &block) in batch.iter().enumerate() {
                let address = place * BLOCK;
                if write {
                    let memory = block_memory(virtqueue, address);
                    memory.copy_in(0, &pattern(block).repeat(BLOCK / 8));
                }
                let descriptor = Descriptor {
                    write,
                    sector: block * (BLOCK as u64 / 512),
                    address,
                };
                virtqueue
                    .available
                    .lock()
                    .expect("device alive")
                    .push_back(descriptor);
            }
            ring(&virtqueue.kick).expect("an eventfd");
            let mut missing = batch.len();
            while missing > 0 {
                quiet(&virtqueue.call);
                for used in virtqueue.used.lock().expect("device alive").drain(..) {
                    let descriptor = used.expect("the request succeeds");
                    missing -= 1;
                    if !write {
                        let memory = block_memory(virtqueue, descriptor.address);
                        let block = descriptor.sector * 512 / BLOCK as u64;
                        assert_eq!(memory.to_vec(), pattern(block).repeat(BLOCK / 8));
                    }
                }
            }
        }
    }
}

fn scratch_disk() -> std::io::Result<std::path::PathBuf> {
    let path = std::env::temp_dir().join(format!("virtio-blk-{}.img", std::process::id()));
    std::fs::File::create(&path)?.set_len(DISK)?;
    Ok(path)
}
