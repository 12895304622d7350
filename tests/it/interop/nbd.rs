//! A qcow2 overlay served over NBD to clients that are not ours.

use std::process::Child;

use crate::support::{Random, seed};

use super::{Disk, Io, Ops, Place, Shape};

const SIZE: u64 = 16 << 20;
const URI: &str = "nbd+unix:///disk?socket=nbd.sock";

/// Our daemon, which serves the image `disk`.
struct Daemon<'a> {
    place: &'a Place,
    child: Child,
}

impl Daemon<'_> {
    fn start(place: &Place) -> Daemon<'_> {
        let child = place
            .command("qblk")
            .args(["serve", "--pidfile", "pid", "--blockdev"])
            .arg("driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.filename=disk")
            .args(["--nbd-server", "addr.type=unix,addr.path=nbd.sock"])
            .args(["--export", "type=nbd,id=e,node-name=disk,writable=on"])
            .args(["--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off"])
            .args(["--monitor", "chardev=c"])
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Daemon { place, child };
        // The file is there when everything is served.
        while !place.path("pid").exists() {
            let running = daemon.child.try_wait().expect("a child");
            assert!(running.is_none(), "the daemon ended at once");
            std::thread::yield_now();
        }
        daemon
    }

    fn quit(mut self) {
        self.place.run("qblk", &["qmp", "qmp.sock", "quit"]);
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the daemon ended with {status}");
        assert!(!self.place.path("pid").exists(), "the file goes in the end");
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It has ended unless the test failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Serves an overlay to what `clients` do; in the end QEMU finds in the file what was last read.
#[track_caller]
fn check(programs: &[&'static str], clients: impl FnOnce(&Place, &mut Disk, &mut Random)) {
    let Some(place) = Place::with(programs) else {
        return;
    };
    let mut random = Random::new(seed(programs.last().expect("a client")));
    let shape = Shape {
        options: "cluster_size=65536",
        backing: Some(("qcow2", SIZE)),
        size: SIZE,
    };
    let mut disk = Disk::new(&place, shape, &mut random);
    place.run("qemu-img", &shape.create("disk", &SIZE.to_string()));
    let daemon = Daemon::start(&place);
    clients(&place, &mut disk, &mut random);
    daemon.quit();
    place.qemu_agrees("disk", &disk.bytes);
    place.same_answers("disk");
}

/// Reads all through NBD.
fn read(place: &Place) -> Vec<u8> {
    place.run("nbdcopy", &[URI, "out.raw"]);
    std::fs::read(place.path("out.raw")).expect("a file")
}

#[test]
fn qemu_io_writes() {
    check(&["qemu-img", "qemu-io"], |place, disk, random| {
        for _ in 0..2 {
            let mut commands = Ops(random).any(disk, 40);
            commands.extend(Ops(random).at_once(disk, 16));
            place.io(Io::Theirs, "raw", URI, &commands);
        }
    });
}

#[test]
fn nbdcopy_writes_and_reads() {
    check(&["qemu-img", "nbdcopy"], |place, disk, random| {
        assert!(read(place) == disk.bytes, "the overlay reads through");
        Ops(random).any(disk, 40);
        std::fs::write(place.path("in.raw"), &disk.bytes).expect("a file");
        place.run("nbdcopy", &["--flush", "in.raw", URI]);
        assert!(read(place) == disk.bytes, "what was written is read");
    });
}

#[test]
fn fio_verifies_what_it_writes() {
    let programs = ["qemu-img", "nbdcopy", "fio"];
    check(&programs, |place, disk, random| {
        let uri = format!("--uri={URI}");
        let seed = format!("--randseed={}", random.below(1 << 31));
        let size = format!("--size={SIZE}");
        let job = [
            "--name=job",
            "--ioengine=nbd",
            "--rw=randrw",
            "--bsrange=512-128k",
        ];
        let more = [
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--thread",
        ];
        place.run("fio", &[&job[..], &more, &[&uri, &seed, &size]].concat());
        disk.bytes = read(place);
    });
}
