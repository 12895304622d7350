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
    /// A mixed image from one format to another.
    Convert {
        source: Source,
        target_format: &'static str,
        /// More arguments, for both.
        options: &'static [&'static str],
    },
    /// Reads through a server on a Unix socket; what the server costs counts.
    Nbd {
        pattern: &'static str,
        block_size: &'static str,
        depth: u32,
        seconds: u32,
    },
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
            Work::Bench { .. } | Work::Convert { .. } => &["qemu-img"],
            Work::Nbd { .. } => &["qemu-img", "qemu-nbd", "fio"],
        }
    }

    /// What is counted.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Work::Bench { .. }
            | Work::Nbd {
                block_size: "4k", ..
            } => "requests/s",
            Work::Convert { .. } | Work::Nbd { .. } => "MiB/s",
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
