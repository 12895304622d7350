//! What does a 4 KiB read that the page cache can answer cost? CPU microseconds of the whole
//! process for each read, by engine, with and without asking the page cache first.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use block_core::IoBuf;
use block_core::engine::{
    Aio, Engine, HostEngine, HostEngineOptions, Leaf, LeafFacts, LeafFile, Operation, Pool, Ring,
    Token,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

const READ: usize = 4096;
const FILE: usize = 64 << 20;

#[derive(Clone, Copy, Debug)]
enum Cache {
    First,
    /// A leaf that claims to be open with O_DIRECT is never read inline.
    NotAsked,
}

#[derive(Clone, Copy, Debug)]
enum Sleep {
    /// In the engine.
    Wait,
    /// In a poll of our own on its notifier, as a device thread does.
    Notifier,
}

fn main() -> std::io::Result<()> {
    let path = std::env::temp_dir().join(format!("cached-read-{}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(&vec![0x5a; FILE])?;
    let threads = NonZeroUsize::new(4).expect("four");
    let pool = Pool::new(threads)?;
    for ring in [Ring::Auto, Ring::Off] {
        for cache in [Cache::NotAsked, Cache::First] {
            for sleep in [Sleep::Wait, Sleep::Notifier] {
                for depth in [1, 64] {
                    let pool = Arc::clone(&pool);
                    let options = HostEngineOptions {
                        ring_entries: 128,
                        ring,
                        pool,
                    };
                    let reads = if ring == Ring::Off && depth == 1 {
                        30_000
                    } else {
                        300_000
                    };
                    let cost = measure(&options, &file, (cache, sleep), depth, reads)?;
                    println!(
                        "cached_read_4k_cpu_us ring={ring:?} cache={cache:?} sleep={sleep:?} \
                         qd={depth}: {cost:.2}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn measure(
    options: &HostEngineOptions,
    file: &File,
    (cache, sleep): (Cache, Sleep),
    depth: usize,
    reads: usize,
) -> std::io::Result<f64> {
    let mut engine = HostEngine::new(options)?;
    let memory_alignment = match cache {
        Cache::First => 1,
        Cache::NotAsked => 512,
    };
    let facts = LeafFacts {
        aio: Aio::IoUring,
        request_alignment: 1,
        memory_alignment,
        len: FILE as u64,
    };
    let slot = engine.attach(Leaf::new(LeafFile::Host(file.try_clone()?.into()), facts));
    let mut place = 1u64;
    let mut next = move || {
        place = place
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (place >> 33) % (FILE / READ) as u64 * READ as u64
    };
    let mut idle: Vec<IoBuf> = (0..depth).map(|_| IoBuf::zeroed(READ)).collect();
    let (mut submitted, mut finished) = (0, 0);
    let start = cpu_seconds();
    while finished < reads {
        while submitted < reads
            && let Some(buf) = idle.pop()
        {
            let token = Token(submitted as u64);
            engine.submit(
                token,
                Operation::Read {
                    slot,
                    offset: next(),
                    buf,
                },
            );
            submitted += 1;
        }
        match sleep {
            Sleep::Wait => engine.wait(None)?,
            Sleep::Notifier => {
                engine.kick()?;
                poll(&mut [PollFd::new(&engine.notifier(), PollFlags::IN)], None)?;
            }
        }
        engine.reap(&mut |done| {
            assert_eq!(done.result, Ok(READ as u64));
            idle.extend(done.buf);
            finished += 1;
        });
    }
    Ok((cpu_seconds() - start) * 1e6 / reads as f64)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
