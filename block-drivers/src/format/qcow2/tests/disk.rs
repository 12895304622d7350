//! An image in memory with a model of its disk, and a folder with QEMU's tools.
//! Used by all tests of this format. Not here: tests.

use super::*;

/// An image, and what its disk must hold.
pub(super) struct Disk {
    pub(super) bench: Bench,
    pub(super) image: Image,
    pub(super) model: Vec<u8>,
    pub(super) options: OpenOptions,
    /// What opens it, if it is encrypted.
    pub(super) key: Option<Secret>,
}

pub(super) fn bench(bytes: Vec<u8>, backing: Option<Vec<u8>>) -> Bench {
    Bench {
        file: MemoryFile::new(bytes),
        data: None,
        backing: backing.map(MemoryFile::new),
    }
}

pub(super) fn small_cache() -> OpenOptions {
    // Eight tables of the smallest clusters: eviction is the rule.
    OpenOptions {
        l2_cache: 4096,
        refcount_cache: 4096,
        ..OpenOptions::default()
    }
}

impl Disk {
    pub(super) fn create(options: &CreateOptions, backing: Option<Vec<u8>>) -> Disk {
        let size = usize::try_from(options.size).unwrap();
        let mut model = backing.clone().unwrap_or_default();
        model.resize(size, 0);
        let data = options.data_file.is_some().then(MemoryFile::default);
        let bench = Bench {
            data,
            ..bench(Vec::new(), backing)
        };
        block_on(create(&bench, options)).unwrap();
        let key = options
            .encryption
            .as_ref()
            .map(|encryption| match encryption {
                CreateEncryption::Aes(key) | CreateEncryption::Luks(_, key) => key.clone(),
            });
        let image = opened_with(&bench, small_cache(), key.as_ref());
        Disk {
            bench,
            image,
            model,
            options: small_cache(),
            key,
        }
    }

    pub(super) fn open(bytes: Vec<u8>, backing: Option<Vec<u8>>, model: Vec<u8>) -> Disk {
        let bench = bench(bytes, backing);
        let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
        Disk {
            bench,
            image,
            model,
            options: small_cache(),
            key: None,
        }
    }

    pub(super) fn run(&mut self, script: &str) {
        for op in script.split(';').map(str::trim).filter(|op| !op.is_empty()) {
            self.step(op);
        }
    }

    pub(super) fn step(&mut self, op: &str) {
        let words: Vec<&str> = op.split_whitespace().collect();
        let range = || {
            let (at, len) = words[1].split_once('+').unwrap();
            (number(at), number(len))
        };
        match words[0] {
            "write" => {
                let (at, len) = range();
                let byte = u8::from_str_radix(words[2], 16).unwrap();
                self.write(at, &vec![byte; usize::try_from(len).unwrap()]);
            }
            "pack" => {
                let (at, len) = range();
                let byte = u8::from_str_radix(words[2], 16).unwrap();
                self.pack(at, &vec![byte; usize::try_from(len).unwrap()]);
            }
            "zero" | "unmap" => {
                let (at, len) = range();
                self.zero(at, len, words[0] == "unmap");
            }
            "discard" => {
                let (at, len) = range();
                self.discard(at, len);
            }
            "flush" => block_on(self.image.flush_guest(&self.bench)).unwrap(),
            "reopen" => self.reopen(),
            "resize" => {
                let len = number(words[1]);
                block_on(self.image.resize(&self.bench, len, Preallocation::Off)).unwrap();
                self.model.resize(usize::try_from(len).unwrap(), 0);
            }
            other => panic!("no operation {other}"),
        }
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        block_on(self.image.write(&self.bench, at, IoBuf::copy_of(bytes))).unwrap();
        let start = usize::try_from(at).unwrap();
        self.model[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn zero(&mut self, at: u64, len: u64, may_unmap: bool) {
        let flags = ZeroFlags {
            may_unmap,
            no_fallback: false,
        };
        block_on(self.image.write_zeroes(&self.bench, at..at + len, flags)).unwrap();
        let start = usize::try_from(at).unwrap();
        self.model[start..start + usize::try_from(len).unwrap()].fill(0);
    }

    pub(super) fn discard(&mut self, at: u64, len: u64) {
        block_on(self.image.discard(&self.bench, at..at + len)).unwrap();
        // What a discard leaves is up to the image: take it over, once it is one of the two.
        let now = self.read(at, len);
        let start = usize::try_from(at).unwrap();
        for (index, byte) in now.into_iter().enumerate() {
            let old = self.model[start + index];
            assert!(
                byte == 0 || byte == old,
                "a discard made {old:#x} into {byte:#x}"
            );
            self.model[start + index] = byte;
        }
    }

    pub(super) fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let buf = IoBuf::zeroed(usize::try_from(len).unwrap());
        block_on(self.image.read(&self.bench, at, buf.clone())).unwrap();
        buf.to_vec()
    }

    pub(super) fn reopen(&mut self) {
        block_on(self.image.close(&self.bench)).unwrap();
        self.image = opened_with(&self.bench, self.options, self.key.as_ref());
    }

    #[track_caller]
    pub(super) fn expect_model(&self) {
        let now = self.read(0, self.model.len() as u64);
        if let Some(at) = (0..now.len()).find(|&i| now[i] != self.model[i]) {
            panic!("byte {at:#x} is {:#x}, not {:#x}", now[at], self.model[at]);
        }
    }

    #[track_caller]
    pub(super) fn expect_clean(&self) {
        let report = block_on(self.image.check(&self.bench, Repair::None)).unwrap();
        assert_eq!(
            (report.corruptions, report.leaks),
            (0, 0),
            "{:#?}",
            report.messages
        );
    }

    /// Closes the image and asks `qemu-img` about it.
    #[track_caller]
    pub(super) fn expect_qemu_agrees(&mut self, name: &str) {
        self.reopen();
        let Some(dir) = Scratch::with_qemu(name) else {
            return;
        };
        let image = dir.write("image.qcow2", &self.bench.file.bytes());
        let model = dir.write("model.raw", &self.model);
        if let Some(data) = &self.bench.data {
            dir.write("data.raw", &data.bytes());
        }
        if let Some(backing) = &self.bench.backing {
            dir.write("backing.raw", &backing.bytes());
        }
        dir.qemu_img(&["check", "-q", &image]);
        dir.qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &image, &model]);
        let ours = block_on(self.image.check(&self.bench, Repair::None)).unwrap();
        let theirs = dir.qemu_img(&["check", "--output=json", &image]);
        let clusters = ours.clusters.unwrap();
        for (field, value) in [
            ("image-end-offset", ours.image_end_offset.unwrap()),
            ("total-clusters", clusters.total),
            ("allocated-clusters", clusters.allocated),
            ("fragmented-clusters", clusters.fragmented),
            ("compressed-clusters", clusters.compressed),
        ] {
            // A count of 0 is left out.
            let line = format!("\"{field}\": {value}");
            assert!(
                value == 0 || theirs.contains(&line),
                "{line} is not in {theirs}"
            );
        }
    }
}

pub(super) fn opened_with(bench: &Bench, options: OpenOptions, key: Option<&Secret>) -> Image {
    let image = block_on(Image::open(bench, "test", options)).unwrap();
    if let Some(key) = key {
        block_on(image.unlock(bench, key)).unwrap();
    }
    image
}

pub(super) fn number(text: &str) -> u64 {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1024),
        Some(b'm') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    digits.parse::<u64>().unwrap() * unit
}

/// A folder that goes away, and `qemu-img` in it.
pub(super) struct Scratch(pub(super) std::path::PathBuf);

impl Scratch {
    pub(super) fn with_qemu(name: &str) -> Option<Scratch> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            let required = std::env::var_os("QBLK_REQUIRE_INTEROP").is_some();
            assert!(
                !required,
                "interop is required, and qemu-img is not installed"
            );
            eprintln!("skipped: qemu-img is not installed");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("qcow2-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Some(Scratch(dir))
    }

    pub(super) fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }

    pub(super) fn write(&self, file: &str, bytes: &[u8]) -> String {
        let path = self.path(file);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    #[track_caller]
    pub(super) fn qemu_img(&self, args: &[&str]) -> String {
        self.tool("qemu-img", args)
    }

    pub(super) fn status(&self, tool: &str, args: &[&str]) -> Option<i32> {
        let mut command = Command::new(tool);
        let out = command.args(args).current_dir(&self.0).output().unwrap();
        out.status.code()
    }

    #[track_caller]
    pub(super) fn tool(&self, tool: &str, args: &[&str]) -> String {
        let out = Command::new(tool)
            .args(args)
            .current_dir(&self.0)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{tool} {args:?}: {text}{errors}");
        text
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.below(u64::MAX).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[track_caller]
pub(super) fn check(options: &CreateOptions, backing: Option<Vec<u8>>, script: &str) -> Disk {
    let mut disk = Disk::create(options, backing);
    disk.run(script);
    disk.expect_model();
    disk.reopen();
    disk.expect_model();
    disk.expect_clean();
    disk
}

pub(super) fn sized(size: u64) -> CreateOptions {
    CreateOptions {
        size,
        ..CreateOptions::default()
    }
}

pub(super) fn over_backing(size: u64) -> CreateOptions {
    CreateOptions {
        backing_file: Some("backing.raw".into()),
        backing_format: Some("raw".into()),
        ..sized(size)
    }
}
