//! The files that both sides work on: made once, by QEMU's own tool where they are images.
//!
//! Invariant: nothing of it is left when `Files` is dropped. Bytes come from a seeded generator,
//! so that two runs of the chore compare the same.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Size;
use super::measure;
use super::rows::{Against, Pieces, Source, Target, Work};
use super::work::Programs;

const MIB: usize = 1 << 20;

/// A folder with what rows need, made when the first row needs it.
pub(super) struct Files {
    folder: PathBuf,
    size: Size,
    /// Our program, which makes what only it makes small.
    program: PathBuf,
}

impl Files {
    pub(super) fn new(folder: &Path, size: Size, program: &Path) -> Result<Files, String> {
        let folder = folder.join(format!("qblk-compare-{}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let program = program.to_owned();
        Ok(Files {
            folder,
            size,
            program,
        })
    }

    /// Our side's programs.
    pub(super) fn ours(&self) -> Programs {
        Programs::Ours(self.program.clone())
    }

    /// A name in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The image that is read at random: allocated everywhere.
    pub(super) fn full(&self, format: &str) -> PathBuf {
        self.path(&format!("full.{format}"))
    }

    pub(super) fn mixed(&self, source: Source) -> PathBuf {
        self.path(&format!("mixed-{}.{}", source.name(), source.format()))
    }

    /// Megabytes of the image that is converted.
    pub(super) fn mixed_mib(&self) -> usize {
        match self.size {
            Size::Full => 2048,
            Size::Quick => 256,
        }
    }

    fn full_mib(&self) -> usize {
        match self.size {
            Size::Full => 1024,
            Size::Quick => 256,
        }
    }

    /// An image with a cluster for every write, over the full one.
    pub(super) fn overlay(&self) -> PathBuf {
        self.path("overlay.qcow2")
    }

    /// Bytes of the disks that writes go to.
    pub(super) fn disk_bytes(&self) -> u64 {
        (self.full_mib() * MIB) as u64
    }

    /// The topmost of so many images, among which the clusters of a disk are dealt out.
    pub(super) fn layers(&self, count: u32) -> PathBuf {
        self.layer(count, count)
    }

    fn layer(&self, count: u32, number: u32) -> PathBuf {
        self.path(&format!("layers-{count}-{number}.qcow2"))
    }

    /// The image of 1 TiB.
    pub(super) fn sparse(&self, pieces: Pieces) -> PathBuf {
        self.path(&format!("sparse-{}.qcow2", pieces.name()))
    }

    /// The same bytes once more.
    pub(super) fn sparse_copy(&self, pieces: Pieces) -> PathBuf {
        self.path(&format!("sparse-{}-copy.qcow2", pieces.name()))
    }

    /// Makes what a row reads, and brings it into the page cache.
    pub(super) fn prepare(&self, work: &Work) -> Result<(), String> {
        let path = match work {
            Work::Bench { format, .. } => self.make_full_as(format)?,
            Work::AgainstFio { .. } | Work::Queues { .. } => self.make_full_as("qcow2")?,
            Work::Write {
                target: Target::Fresh,
                ..
            } => return Ok(()),
            Work::Write {
                target: Target::Overlay,
                ..
            } => {
                let full = self.make_full_as("qcow2")?;
                self.make_overlay()?;
                full
            }
            Work::Layers { count, against, .. } => {
                self.make_layers(*count)?;
                if *against == Against::OneLayer {
                    self.make_layers(1)?;
                }
                self.layers(*count)
            }
            Work::Tool { pieces, .. } => {
                self.make_sparse(*pieces)?;
                self.sparse(*pieces)
            }
            Work::Nbd { .. } => self.make_full_as("raw")?,
            Work::Job { .. } => self.make_mixed_as(Source::Qcow2)?,
            Work::Convert { source, .. } => self.make_mixed_as(*source)?,
        };
        read_through(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// The mixed image in one of its forms.
    fn make_mixed_as(&self, source: Source) -> Result<PathBuf, String> {
        self.make_mixed()?;
        let path = self.mixed(source);
        if !path.exists() {
            let options: &[&str] = match source {
                Source::Raw => &[],
                Source::Qcow2 => &["-O", "qcow2"],
                Source::ZlibQcow2 => &["-O", "qcow2", "-c"],
                Source::ZstdQcow2 => &["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
            };
            qemu_img_convert(&self.mixed(Source::Raw), "raw", &path, options)?;
        }
        Ok(path)
    }

    /// The full image in a format.
    fn make_full_as(&self, format: &str) -> Result<PathBuf, String> {
        self.make_full()?;
        let path = self.full(format);
        if !path.exists() {
            qemu_img_convert(&self.full("raw"), "raw", &path, &["-O", format])?;
        }
        Ok(path)
    }

    fn make_overlay(&self) -> Result<(), String> {
        let path = self.overlay();
        if path.exists() {
            return Ok(());
        }
        let full = self.full("qcow2");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        measure::run(create.arg(full).arg(&path))?;
        let clusters = self.disk_bytes() >> 16;
        let mut write = self.ours().img();
        write.args([
            "bench", "-q", "-w", "-f", "qcow2", "-s", "4096", "-S", "65536",
        ]);
        write.args(["-c", &clusters.to_string()]);
        measure::run(write.arg(&path)).map(drop)
    }

    /// Writes 2 GiB in pieces all over 1 TiB, and once more. By us, since we leave the rest of a new
    /// cluster a hole: the smaller pieces would fill 32 GiB otherwise.
    fn make_sparse(&self, pieces: Pieces) -> Result<(), String> {
        let all: u32 = match self.size {
            Size::Full => 2 << 30,
            Size::Quick => 32 << 20,
        };
        for path in [self.sparse(pieces), self.sparse_copy(pieces)] {
            if path.exists() {
                continue;
            }
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            measure::run(create.arg(&path).arg("1T"))?;
            let mut write = self.ours().img();
            write.args(["bench", "-q", "-w", "-f", "qcow2", "--pattern", "90"]);
            write.args(["-s", &pieces.bytes().to_string()]);
            write.args(["-S", &pieces.stride().to_string()]);
            write.args(["-c", &(all / pieces.bytes()).to_string()]);
            measure::run(write.arg(&path))?;
        }
        Ok(())
    }

    /// Cluster by cluster to the images in turn, the lowest first.
    fn make_layers(&self, count: u32) -> Result<(), String> {
        let clusters = 256 << 20 >> 16;
        for number in 1..=count {
            let path = self.layer(count, number);
            if path.exists() {
                continue;
            }
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            if number > 1 {
                create.args(["-F", "qcow2", "-b"]);
                create.arg(self.layer(count, number - 1));
            }
            measure::run(create.arg(&path).arg("256M"))?;
            let first = number - 1;
            let mut write = self.ours().img();
            write.args(["bench", "-q", "-w", "-f", "qcow2", "-s", "65536"]);
            write.args(["-S", &(count << 16).to_string()]);
            write.args(["-o", &(first << 16).to_string()]);
            write.args(["--pattern", &(1 + number % 200).to_string()]);
            write.args(["-c", &((clusters - first).div_ceil(count)).to_string()]);
            measure::run(write.arg(&path))?;
        }
        // What was written last is read from memory too.
        for number in 1..=count {
            let path = self.layer(count, number);
            read_through(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn make_full(&self) -> Result<(), String> {
        let path = self.full("raw");
        let fill = |file: &mut File| {
            let mut random = Random(1);
            (0..self.full_mib()).try_for_each(|_| file.write_all(&random.bytes(MIB)))
        };
        make(&path, fill)
    }

    /// Thirds in turns of 1 MiB: random bytes, nothing (a hole, or zeroes), and text.
    fn make_mixed(&self) -> Result<(), String> {
        let path = self.mixed(Source::Raw);
        let fill = |file: &mut File| {
            let mut random = Random(2);
            for block in 0..self.mixed_mib() {
                match block % 6 {
                    0 | 3 => file.write_all(&random.bytes(MIB))?,
                    1 => drop(file.seek(SeekFrom::Current(1 << 20))?),
                    4 => file.write_all(&vec![0; MIB])?,
                    _ => file.write_all(&random.text(MIB))?,
                }
            }
            file.set_len((self.mixed_mib() * MIB) as u64)
        };
        make(&path, fill)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} stays: {error}", self.folder.display());
        }
    }
}

/// Makes a file on disk, so that writing it back falls on no round.
fn make(path: &Path, fill: impl Fn(&mut File) -> std::io::Result<()>) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let written = File::create(path).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all()
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn qemu_img_convert(
    from: &Path,
    from_format: &str,
    to: &Path,
    options: &[&str],
) -> Result<(), String> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", from_format, "-t", "writeback"]);
    command.args(options).arg(from).arg(to);
    measure::run(&mut command).map(drop)
}

fn read_through(path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; MIB];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// A small generator (xorshift), the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.take(len / 8).flatten().collect()
    }

    /// Lines like those of a log: shrinks to about a fifth.
    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 128);
        while text.len() < len {
            let value = self.next();
            let (unit, code) = (value % 32, value >> 40);
            let line = format!("unit {unit:02}: request {code:08x} finished without an error\n");
            text.extend_from_slice(line.as_bytes());
        }
        text.truncate(len);
        text
    }
}
