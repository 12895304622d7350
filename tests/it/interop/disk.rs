//! Shapes of images, and random requests to them with a model of what they do.
//!
//! Called by the tests beside it. Spec of what a discard does: a cluster that lies in it whole
//! reads as zeroes after it, where the image can say so; other bytes stay.

use crate::support::{Random, usize};

use super::Place;

/// Files of random bytes, and one that compresses well: `write -s` takes what it writes from them.
const NOISE: [&str; 4] = ["noise0", "noise1", "noise2", "text"];
const NOISE_LEN: u64 = 1 << 18;

/// What an image is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Options of `create`: `cluster_size` comes first.
    pub(super) options: &'static str,
    /// Format and length of the backing file.
    pub(super) backing: Option<(&'static str, u64)>,
    /// Bytes of the disk.
    pub(super) size: u64,
}

impl Shape {
    pub(super) fn cluster(&self) -> u64 {
        let text = self.options.strip_prefix("cluster_size=").expect("first");
        let end = text.find(',').unwrap_or(text.len());
        text[..end].parse().expect("bytes")
    }

    /// Whether a discarded cluster reads as zeroes: version 2 has no zero clusters to hide the
    /// backing file with.
    fn discards(&self) -> bool {
        self.backing.is_none() || !self.options.contains("compat=0.10")
    }

    /// The arguments of `create` after the format.
    pub(super) fn create<'a>(&'a self, image: &'a str, size: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", self.options];
        if let Some((format, _)) = self.backing {
            arguments.extend(["-b", "base", "-F", format]);
        }
        arguments.extend([image, size]);
        arguments
    }
}

/// The bytes that a disk must hold.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    shape: Shape,
    noise: Vec<Vec<u8>>,
}

impl Disk {
    /// An empty disk of a shape, with its backing file `base`.
    pub(super) fn new(place: &Place, shape: Shape, random: &mut Random) -> Disk {
        let noise: Vec<Vec<u8>> = NOISE.iter().map(|name| noise(name, random)).collect();
        for (name, bytes) in NOISE.iter().zip(&noise) {
            std::fs::write(place.path(name), bytes).expect("a file");
        }
        let bytes = vec![0; usize(shape.size)];
        let mut disk = Disk {
            bytes,
            shape,
            noise,
        };
        if let Some((format, len)) = shape.backing {
            disk.make_base(place, format, len);
        }
        disk
    }

    fn make_base(&mut self, place: &Place, format: &str, len: u64) {
        let mut base = vec![0; usize(len)];
        // Every third piece stays zero, so that the backing file has holes.
        let pieces = base.chunks_mut(usize(NOISE_LEN / 2));
        for (index, piece) in pieces.enumerate().filter(|(index, _)| index % 3 != 1) {
            piece.copy_from_slice(&self.noise[index % NOISE.len()][..piece.len()]);
        }
        std::fs::write(place.path("base.raw"), &base).expect("a file");
        place.run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, "base.raw", "base"],
        );
        let both = base.len().min(self.bytes.len());
        self.bytes[..both].copy_from_slice(&base[..both]);
    }

    /// The command of a request, which the model does at once.
    fn apply(&mut self, op: Op, at: Range) -> String {
        let Range { offset, len } = at;
        let place = usize(offset)..usize(offset + len);
        match op {
            Op::Fill(byte) => {
                self.bytes[place].fill(byte);
                format!("write -P {byte} {offset} {len}")
            }
            Op::AsyncFill(byte) => {
                self.bytes[place].fill(byte);
                format!("aio_write -P {byte} {offset} {len}")
            }
            Op::Noise(which) => {
                self.copy_noise(which, place);
                format!("write -s {} {offset} {len}", NOISE[which])
            }
            Op::Compressed(which) => {
                self.copy_noise(which, place);
                format!("write -c -s {} {offset} {len}", NOISE[which])
            }
            Op::Zeroes => {
                self.bytes[place].fill(0);
                format!("write -z {offset} {len}")
            }
            Op::ZeroesUnmap => {
                self.bytes[place].fill(0);
                format!("write -z -u {offset} {len}")
            }
            Op::Discard => {
                self.discard(at);
                format!("discard {offset} {len}")
            }
        }
    }

    fn copy_noise(&mut self, which: usize, place: std::ops::Range<usize>) {
        for piece in self.bytes[place].chunks_mut(usize(NOISE_LEN)) {
            piece.copy_from_slice(&self.noise[which][..piece.len()]);
        }
    }

    fn discard(&mut self, Range { offset, len }: Range) {
        let cluster = self.shape.cluster();
        let start = offset.next_multiple_of(cluster);
        let end = match offset + len {
            end if end == self.shape.size => end,
            end => end - end % cluster,
        };
        if self.shape.discards() && start < end {
            self.bytes[usize(start)..usize(end)].fill(0);
        }
    }
}

fn noise(name: &str, random: &mut Random) -> Vec<u8> {
    match name {
        "text" => {
            let words = (0..).flat_map(|number| format!("{number:07} ").into_bytes());
            words.take(usize(NOISE_LEN)).collect()
        }
        _ => {
            let words = std::iter::repeat_with(|| random.next().to_le_bytes());
            words.flatten().take(usize(NOISE_LEN)).collect()
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Fill(u8),
    AsyncFill(u8),
    Noise(usize),
    Compressed(usize),
    Zeroes,
    ZeroesUnmap,
    Discard,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    len: u64,
}

/// Makes random requests.
pub(super) struct Ops<'a>(pub(super) &'a mut Random);

impl Ops<'_> {
    /// Any requests, one after the other.
    pub(super) fn any(&mut self, disk: &mut Disk, count: usize) -> Vec<String> {
        let mut one = || {
            let byte = u8::try_from(self.0.below(255)).expect("a byte") + 1;
            let which = usize(self.0.below(NOISE.len() as u64));
            let op = match self.0.below(9) {
                0..3 => Op::Noise(which),
                3..5 => Op::Fill(byte),
                5 => Op::Zeroes,
                6 => Op::ZeroesUnmap,
                _ => Op::Discard,
            };
            let range = self.range(disk.shape);
            disk.apply(op, range)
        };
        (0..count).map(|_| one()).collect()
    }

    /// Writes at once, each in a part of the disk of its own, then one wait for them.
    pub(super) fn at_once(&mut self, disk: &mut Disk, count: u64) -> Vec<String> {
        let part = disk.shape.size / count;
        let mut commands: Vec<String> = (0..count)
            .map(|index| {
                let byte = u8::try_from(self.0.below(255)).expect("a byte") + 1;
                let skip = self.0.below(part / 2);
                let len = 1 + self.0.below(part / 2);
                let offset = index * part + skip;
                disk.apply(Op::AsyncFill(byte), Range { offset, len })
            })
            .collect();
        commands.push("aio_flush".to_owned());
        commands
    }

    /// Compressed writes to clusters that nothing has written yet.
    pub(super) fn compressed(&mut self, disk: &mut Disk) -> Vec<String> {
        let cluster = disk.shape.cluster();
        let run = cluster.max(NOISE_LEN / 4);
        // Two of three runs, but not many thousands of clusters: each is a write of its own.
        let one_in = (disk.shape.size / cluster / 2048).max(1);
        let mut commands = Vec::new();
        for offset in (0..disk.shape.size).step_by(usize(run)) {
            let which = usize(self.0.below(2 * NOISE.len() as u64));
            // What compresses is the last.
            let which = which.min(NOISE.len() - 1);
            if self.0.below(3 * one_in) < 2 {
                let len = run.min(disk.shape.size - offset);
                commands.push(disk.apply(Op::Compressed(which), Range { offset, len }));
            }
        }
        commands
    }

    fn range(&mut self, shape: Shape) -> Range {
        let cluster = shape.cluster();
        let unit = [1, 512, 4096, cluster, cluster][usize(self.0.below(5))];
        let most = (3 * cluster).max(NOISE_LEN).min(shape.size) / unit;
        let offset = self.0.below(shape.size / unit) * unit;
        let len = (1 + self.0.below(most)) * unit;
        let len = len.min(shape.size - offset);
        Range { offset, len }
    }
}
