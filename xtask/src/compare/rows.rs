//! The rows of the table: which work is compared, and what we want to reach.

use super::Size;

/// One line of the table.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) aim: Aim,
    pub(super) work: Work,
}

/// How much better than the peer we want to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Aim {
    /// So many times the work in a second of processor time.
    PerCpuSecond(f64),
    /// So many times the work in a second.
    PerSecond(f64),
}

/// What is done.
pub(super) enum Work {
    /// 4 KiB reads all over an image, by the tool's own benchmark.
    Bench {
        format: &'static str,
        cache: Cache,
        depth: u32,
        aio: &'static str,
        requests: u32,
    },
    /// Writes of one size, a stride apart, by the tool's own benchmark, under O_DIRECT.
    Write {
        target: Target,
        block: u32,
        stride: u32,
        /// Writes from one flush to the next; 0 for none.
        flush_every: u32,
        requests: u32,
    },
    /// 4 KiB reads under O_DIRECT: we from a qcow2, fio from the raw file with the same bytes.
    AgainstFio { requests: u32 },
    /// 4 KiB reads under O_DIRECT, by us alone: through four queues, and through one.
    Queues { requests: u32 },
    /// 4 KiB reads all over a disk whose clusters lie in so many images over one another.
    Layers {
        count: u32,
        against: Against,
        requests: u32,
    },
    /// An image tool on a large and sparse image.
    Tool { verb: Verb, pieces: Pieces },
    /// A mixed image from one format to another.
    Convert {
        source: Source,
        target_format: &'static str,
        /// More arguments, for both.
        options: &'static [&'static str],
    },
    /// A job of a daemon on the mixed image.
    Job(Job),
    /// Reads through a server on a Unix socket; what the server costs counts.
    Nbd {
        pattern: &'static str,
        block_size: &'static str,
        depth: u32,
        seconds: u32,
    },
}

/// What stands in the peer's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// The peer, on the same images.
    Peer,
    /// We, on the same disk in one image.
    OneLayer,
}

/// A job of a daemon, from the command until it is over, or ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) cache: Cache,
    pub(super) load: Load,
}

/// What else a daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Idle,
    /// A guest uses the disk.
    Guest,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Commit,
    Mirror,
    Backup,
}

/// What is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An image that holds nothing yet: every write allocates.
    Fresh,
    /// An overlay that has a cluster for every write, over an image in the page cache.
    Overlay,
}

/// What a tool does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Check,
    Map,
    Measure,
    /// With another image of the same bytes.
    Compare,
    /// To raw.
    Convert,
    /// Takes a snapshot.
    Take,
    /// Deletes one.
    Delete,
}

/// In what pieces the 1 TiB image was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    Of4KiB,
    Of64KiB,
}

impl Pieces {
    pub(super) fn bytes(self) -> u32 {
        match self {
            Pieces::Of4KiB => 4 << 10,
            Pieces::Of64KiB => 64 << 10,
        }
    }

    /// From one piece to the next: a prime number of pieces, so that they lie all over the image.
    pub(super) fn stride(self) -> u32 {
        match self {
            Pieces::Of4KiB => 524_287 * self.bytes(),
            Pieces::Of64KiB => 32_749 * self.bytes(),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Pieces::Of4KiB => "4k",
            Pieces::Of64KiB => "64k",
        }
    }
}

/// Where reads come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// The page cache, which holds the whole file.
    Hot,
    /// The disk, by O_DIRECT.
    Direct,
}

/// The mixed image, in the form from which it is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Raw,
    Qcow2,
    ZlibQcow2,
    ZstdQcow2,
}

impl Source {
    pub(super) fn format(self) -> &'static str {
        match self {
            Source::Raw => "raw",
            Source::Qcow2 | Source::ZlibQcow2 | Source::ZstdQcow2 => "qcow2",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Source::Raw => "raw",
            Source::Qcow2 => "qcow2",
            Source::ZlibQcow2 => "zlib-qcow2",
            Source::ZstdQcow2 => "zstd-qcow2",
        }
    }
}

impl Work {
    /// What must be installed to run it against QEMU.
    pub(super) fn peer_programs(&self) -> &'static [&'static str] {
        match self {
            Work::Bench { .. } | Work::Convert { .. } | Work::Write { .. } | Work::Tool { .. } => {
                &["qemu-img"]
            }
            Work::Queues { .. } | Work::Layers { .. } => &["qemu-img"],
            Work::AgainstFio { .. } => &["qemu-img", "fio"],
            Work::Job(_) => &["qemu-img", "qemu-storage-daemon"],
            Work::Nbd { .. } => &["qemu-img", "qemu-nbd", "fio"],
        }
    }

    /// What is counted.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Work::Bench { .. }
            | Work::Write { .. }
            | Work::AgainstFio { .. }
            | Work::Queues { .. }
            | Work::Layers { .. }
            | Work::Nbd {
                block_size: "4k", ..
            } => "requests/s",
            Work::Tool { .. } => "runs/s",
            Work::Convert { .. } | Work::Job(_) | Work::Nbd { .. } => "MiB/s",
        }
    }
}

/// Every row, in the order of the table.
pub(super) fn rows(size: Size) -> Vec<Row> {
    let mut rows = Vec::new();
    for format in ["raw", "qcow2"] {
        for (cache, cache_name) in [(Cache::Hot, "hot"), (Cache::Direct, "direct")] {
            for depth in [1, 64] {
                for aio in ["io_uring", "threads"] {
                    rows.push(Row {
                        name: format!("bench/{format}/{cache_name}/qd{depth}/{aio}"),
                        aim: match cache {
                            Cache::Hot => Aim::PerCpuSecond(1.5),
                            Cache::Direct => Aim::PerSecond(1.0),
                        },
                        work: Work::Bench {
                            format,
                            cache,
                            depth,
                            aio,
                            requests: requests(size, cache, depth, aio),
                        },
                    });
                }
            }
        }
    }
    rows.extend(layer_rows(size));
    rows.extend(device_rows(size));
    rows.extend(write_rows(size));
    rows.extend(tool_rows());
    let conversions = [
        (Source::Raw, "qcow2"),
        (Source::Qcow2, "raw"),
        (Source::ZlibQcow2, "raw"),
        (Source::ZstdQcow2, "raw"),
    ];
    for (source, target_format) in conversions {
        let (plain, parallel): (_, &[&str]) = (&[][..], &["-m", "16", "-W"]);
        for (name, options) in [("plain", plain), ("m16-W", parallel)] {
            rows.push(Row {
                name: format!("convert/{}-{target_format}/{name}", source.name()),
                aim: Aim::PerSecond(1.0),
                work: Work::Convert {
                    source,
                    target_format,
                    options,
                },
            });
        }
    }
    for (name, compression) in [
        ("zlib", &["-c", "-m", "16", "-W"][..]),
        (
            "zstd",
            &["-c", "-m", "16", "-W", "-o", "compression_type=zstd"],
        ),
    ] {
        rows.push(Row {
            name: format!("convert/raw-qcow2/{name}"),
            aim: Aim::PerSecond(match name {
                "zlib" => 1.6,
                _ => 1.0,
            }),
            work: Work::Convert {
                source: Source::Raw,
                target_format: "qcow2",
                options: compression,
            },
        });
    }
    rows.extend(job_rows());
    let served = [
        ("randread", "4k", 1, Aim::PerCpuSecond(1.3)),
        ("randread", "4k", 64, Aim::PerCpuSecond(1.3)),
        ("read", "1m", 8, Aim::PerCpuSecond(1.0)),
    ];
    for (pattern, block_size, depth, aim) in served {
        rows.push(Row {
            name: format!("nbd/{pattern}-{block_size}/qd{depth}"),
            aim,
            work: Work::Nbd {
                pattern,
                block_size,
                depth,
                seconds: match size {
                    Size::Full => 4,
                    Size::Quick => 2,
                },
            },
        });
    }
    rows
}

/// What the length of a chain costs: the peer asks every image of it.
fn layer_rows(size: Size) -> Vec<Row> {
    let enough = requests(size, Cache::Hot, 64, "io_uring");
    let row = |count: u32, against: Against| Row {
        name: match against {
            Against::Peer => format!("layers/{count}/hot/qd64/io_uring"),
            Against::OneLayer => format!("layers/{count}/hot/qd64/one-layer"),
        },
        aim: match against {
            Against::Peer => Aim::PerCpuSecond(1.5),
            // Half as much again as through one.
            Against::OneLayer => Aim::PerCpuSecond(1.0 / 1.5),
        },
        work: Work::Layers {
            count,
            against,
            requests: match (count, against) {
                // The peer takes 100 us a request.
                (200, Against::Peer) => enough / 8,
                (_, Against::Peer) => enough,
                // What opening takes is not the point.
                (_, Against::OneLayer) => enough * 4,
            },
        },
    };
    vec![
        row(1, Against::Peer),
        row(10, Against::Peer),
        row(200, Against::Peer),
        row(10, Against::OneLayer),
        row(200, Against::OneLayer),
    ]
}

/// What a device can do, and how much of it reaches the guest.
fn device_rows(size: Size) -> Vec<Row> {
    let requests = requests(size, Cache::Direct, 64, "io_uring");
    vec![
        Row {
            name: "device/qcow2-direct-qd64/fio-raw".to_owned(),
            aim: Aim::PerSecond(0.9),
            work: Work::AgainstFio { requests },
        },
        Row {
            name: "device/qcow2-direct-qd64/4-queues-1-queue".to_owned(),
            aim: Aim::PerSecond(1.0),
            work: Work::Queues { requests },
        },
    ]
}

fn write_rows(size: Size) -> Vec<Row> {
    // A cluster for each write of less: its stride is a prime number of clusters.
    let allocating = [(4 << 10, 7919 << 16, "4k"), (64 << 10, 7919 << 16, "64k")];
    let mut rows = Vec::new();
    let requests = match size {
        Size::Full => 16_000,
        Size::Quick => 4_000,
    };
    for (block, stride, name) in allocating {
        for (flush_every, flushes) in [(0, "no-flush"), (64, "flush-64")] {
            rows.push(Row {
                name: format!("write/allocate-{name}-direct-qd64/{flushes}"),
                aim: Aim::PerSecond(1.0),
                work: Work::Write {
                    target: Target::Fresh,
                    block,
                    stride,
                    flush_every,
                    requests,
                },
            });
        }
    }
    rows.push(Row {
        name: "write/overwrite-4k-overlay-direct-qd64".to_owned(),
        aim: Aim::PerSecond(1.0),
        work: Work::Write {
            target: Target::Overlay,
            block: 4 << 10,
            stride: 7919 << 12,
            flush_every: 0,
            requests: requests * 4,
        },
    });
    rows
}

/// An image of 1 TiB with little in it: what a tool's time and memory hang on.
fn tool_rows() -> Vec<Row> {
    let verbs = [
        (Verb::Check, "check"),
        (Verb::Map, "map"),
        (Verb::Measure, "measure"),
        (Verb::Compare, "compare"),
        (Verb::Convert, "convert-raw"),
        (Verb::Take, "snapshot-create"),
        (Verb::Delete, "snapshot-delete"),
    ];
    let mut rows = Vec::new();
    for pieces in [Pieces::Of4KiB, Pieces::Of64KiB] {
        for (verb, name) in verbs {
            rows.push(Row {
                name: format!("1tib-{}/{name}", pieces.name()),
                aim: Aim::PerSecond(1.0),
                work: Work::Tool { verb, pieces },
            });
        }
    }
    rows
}

fn job_rows() -> Vec<Row> {
    let kinds = [
        (Kind::Stream, "stream"),
        (Kind::Commit, "commit"),
        (Kind::Mirror, "mirror"),
        (Kind::Backup, "backup"),
    ];
    let caches = [(Cache::Hot, "hot"), (Cache::Direct, "direct")];
    let loads = [(Load::Idle, "idle"), (Load::Guest, "guest")];
    let mut rows = Vec::new();
    for (load, load_name) in loads {
        for (cache, cache_name) in caches {
            for (kind, name) in kinds {
                rows.push(Row {
                    name: format!("job/{name}/{cache_name}/{load_name}"),
                    aim: match (cache, load) {
                        (Cache::Hot, _) => Aim::PerSecond(2.0),
                        (Cache::Direct, Load::Idle) => Aim::PerCpuSecond(2.0),
                        // What the daemon does for the guest costs processor time, too.
                        (Cache::Direct, Load::Guest) => Aim::PerSecond(1.0),
                    },
                    work: Work::Job(Job { kind, cache, load }),
                });
            }
        }
    }
    rows
}

/// Enough requests for a second or so.
fn requests(size: Size, cache: Cache, depth: u32, aio: &str) -> u32 {
    let full = match (cache, depth, aio) {
        (Cache::Hot, 1, "threads") => 60_000,
        (Cache::Hot, ..) => 400_000,
        (Cache::Direct, 1, _) => 10_000,
        (Cache::Direct, ..) => 60_000,
    };
    match size {
        Size::Full => full,
        Size::Quick => full / 4,
    }
}
