//! `nbd` as `qemu-nbd`, with QEMU's client.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Bench, beside};

/// Serves `disk` in the background on `sock`, lets a client do something, and ends the server.
fn served(bench: &Bench, options: &[&str], client: impl FnOnce()) {
    served_until(bench, &[&["-t"], options].concat(), |pid| {
        client();
        bench.run("kill".as_ref(), &[pid]);
    });
}

/// Serves `disk` in the background on `sock` until something makes the server end, which gets its
/// number.
fn served_until(bench: &Bench, options: &[&str], end: impl FnOnce(&str)) {
    let line = [
        "-v",
        "--fork",
        "-k",
        "sock",
        "--pid-file=pid",
        "-e",
        "3",
        "-x",
        "",
    ];
    let said = bench.ours("qemu-nbd", &[&line, options, &["disk"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let pid = std::fs::read_to_string(bench.path("pid")).expect("the server's number");
    let number = pid.trim().parse().ok().and_then(Pid::from_raw);
    let process = pidfd_open(number.expect("a number"), PidfdFlags::empty()).expect("it runs");
    end(pid.trim());
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let limit = Timespec::try_from(Duration::from_secs(60)).expect("a minute");
    assert_eq!(poll(&mut ended, Some(&limit)), Ok(1), "the server ends");
    assert!(!bench.path("pid").exists());
}

#[test]
fn an_image_is_served_until_a_signal_comes() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
    bench.prepare("qemu-io", &["-c", "write -q -P 1 0 64k", "disk"]);
    bench.prepare("qemu-img", &["snapshot", "-c", "before", "disk"]);
    let name = format!("nbd+unix:///?socket={}", bench.path("sock").display());
    let io = |commands: &[&str]| {
        let words = commands.iter().flat_map(|command| ["-c", command]);
        let line: Vec<&str> = ["-f", "raw"]
            .into_iter()
            .chain(words)
            .chain([&*name])
            .collect();
        bench.theirs("qemu-io", &line).code
    };
    served(&bench, &["-f", "qcow2"], || {
        assert_eq!(
            io(&["read -P 1 0 64k", "write -P 2 0 64k", "discard 512k 64k"]),
            Some(0)
        );
    });
    served(&bench, &["-r", "--cache", "none"], || {
        assert_eq!(io(&["write 0 512"]), Some(1));
    });
    served(&bench, &["-l", "before"], || {
        let line = ["-r", "-f", "raw", "-c", "read -P 1 0 64k", &name];
        assert_eq!(bench.theirs("qemu-io", &line).code, Some(0));
    });
    bench.prepare("qemu-io", &["-c", "read -P 2 0 64k", "disk"]);
    bench.prepare("qemu-img", &["check", "disk"]);
}

#[test]
fn what_is_not_there_fails_by_name() {
    let bench = Bench::new();
    let said = bench.ours("qemu-nbd", &["-t", "-k", "sock", "-c", "/dev/nbd0", "disk"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let said = bench.ours("qemu-nbd", &["-t", "-k", "sock", "disk"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("No such file or directory"), "{said:?}");
}

#[test]
fn a_server_that_is_not_to_go_on_ends_with_its_last_client() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
    let name = format!("nbd+unix:///?socket={}", bench.path("sock").display());
    for cache in ["writeback", "none"] {
        served_until(&bench, &["-f", "qcow2", "--cache", cache], |_| {
            let line = ["-f", "raw", "-c", "write -P 7 0 64k", &name];
            assert_eq!(bench.theirs("qemu-io", &line).code, Some(0));
        });
    }
    bench.prepare("qemu-io", &["-c", "read -P 7 0 64k", "disk"]);
}

#[test]
fn an_image_is_opened_as_the_line_says() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "disk", "1M"]);
    let name = format!("nbd+unix:///?socket={}", bench.path("sock").display());
    let options = ["-f", "raw", "--aio=threads", "--detect-zeroes=unmap"];
    served(&bench, &options, || {
        let line = ["-f", "raw", "-c", "write -P 0 0 1M", &name];
        assert_eq!(bench.theirs("qemu-io", &line).code, Some(0));
    });
    let held = std::fs::metadata(bench.path("disk"))
        .expect("the disk")
        .blocks();
    assert_eq!(held, 0);
    for wrong in [
        &["--aio=x"][..],
        &["--detect-zeroes=x"],
        &["--discard=off", "--detect-zeroes=unmap"],
    ] {
        let socket = bench.path("sock").display().to_string();
        let line = [&["-t", "-k", &socket], wrong, &["disk"]].concat();
        bench.check_same("qemu-nbd", &line);
    }
}
