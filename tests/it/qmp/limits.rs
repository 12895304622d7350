//! Bursts of a device's limits by QMP: taken, shown, and granted.

use block_core::{IoBuf, Request};
use block_schema::Value;

use super::rig::{Client, Rig};

/// Bytes of the disk.
const LEN: usize = 1 << 20;

fn add(client: &mut Client, path: &str) {
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "file", "id": "d0",
            "filename": "{path}"}}}}"#
    ));
}

/// Limits of the first device, by their names.
fn shown(client: &mut Client, names: &[&str]) -> Vec<Option<i64>> {
    let devices = client.ok(r#"{"execute": "query-block"}"#);
    let device = devices.as_array().expect("a list")[0].clone();
    let inserted = device.get("inserted").cloned().expect("an image");
    let limit = |name: &&str| inserted.get(name).and_then(Value::as_i64);
    names.iter().map(limit).collect()
}

/// Limits a device so much that its requests would take days, but for a burst that they fit in.
#[track_caller]
fn check(limit: &str, burst: i64, request: fn() -> Request, requests: u32) {
    let rig = Rig::start();
    let mut client = rig.client();
    add(&mut client, &rig.file("disk.img", LEN as u64));
    let all = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    let members = all.map(|name| format!(r#""{name}": {}"#, i32::from(name == limit)));
    let set = |more: &str| {
        format!(
            r#"{{"execute": "block_set_io_throttle", "arguments": {{"device": "d0", {}{more}}}}}"#,
            members.join(", ")
        )
    };
    client.ok(&set(&format!(r#", "{limit}_max": {burst}"#)));
    let (max, length) = (format!("{limit}_max"), format!("{limit}_max_length"));
    let have = shown(&mut client, &[limit, &max, &length]);
    assert_eq!(have, [Some(1), Some(burst), Some(1)], "{limit}");
    for _ in 0..requests {
        let done = rig.request("d0", request());
        done.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    // Without a burst nothing is shown of one.
    client.ok(&set(""));
    assert_eq!(shown(&mut client, &[&max, &length]), [None, None]);
}

fn read() -> Request {
    Request::read(0, IoBuf::zeroed(LEN / 2))
}

fn write() -> Request {
    Request::write(0, IoBuf::zeroed(LEN / 2))
}

#[test]
fn a_burst_of_bytes_is_shown_and_granted() {
    check("bps", 1 << 20, write, 2);
    check("bps_rd", 1 << 20, read, 2);
    check("bps_wr", 1 << 20, write, 2);
}

#[test]
fn a_burst_of_requests_is_shown_and_granted() {
    check("iops", 100, write, 50);
    check("iops_rd", 100, read, 50);
    check("iops_wr", 100, write, 50);
}
