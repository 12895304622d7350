//! Commands about devices: limits, errors, `stop` and `cont`, and what the queries show of them.

use block_core::stats::Kind;
use block_core::{IoBuf, Request};
use block_schema::Value;

use super::rig::{Client, Rig};

fn add(client: &mut Client, path: &str, options: &str) {
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"options":
            {{"driver": "raw", "id": "d0", "node-name": "n0", {options}
              "file": {{"driver": "file", "node-name": "f0", "filename": "{path}"}}}}}}}}"#
    ));
}

fn throttle(arguments: &str) -> String {
    let zero = r#""device": "d0", "bps": 0, "bps_rd": 0, "bps_wr": 0"#;
    format!(r#"{{"execute": "block_set_io_throttle", "arguments": {{{zero}, {arguments}}}}}"#)
}

/// The members of the first device that a query shows, as JSON.
#[track_caller]
fn shown(client: &mut Client, path: &[&str]) -> String {
    let devices = client.ok(r#"{"execute": "query-block"}"#);
    let mut value = devices.as_array().expect("a list")[0].clone();
    for name in path {
        let Some(member) = value.get(name).cloned() else {
            return "absent".to_owned();
        };
        value = member;
    }
    value.to_string()
}

#[test]
fn limits_are_set_shown_and_taken_back() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    add(&mut client, &path, "");
    assert_eq!(shown(&mut client, &["inserted", "group"]), "absent");
    client.ok(&throttle(
        r#""iops": 0, "iops_rd": 1000, "iops_wr": 500, "iops_rd_max": 2000, "iops_size": 4096"#,
    ));
    for (member, want) in [
        ("bps", "0"),
        ("iops", "0"),
        ("iops_rd", "1000"),
        ("iops_wr", "500"),
        ("iops_rd_max", "2000"),
        ("iops_rd_max_length", "1"),
        ("iops_wr_max", "absent"),
        ("iops_size", "4096"),
        ("group", r#""d0""#),
    ] {
        assert_eq!(shown(&mut client, &["inserted", member]), want, "{member}");
    }
    // Nodes have no limits.
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    let limits = |node: &Value| node.get("iops_rd").and_then(Value::as_i64);
    assert!(
        nodes
            .as_array()
            .expect("a list")
            .iter()
            .all(|node| limits(node) == Some(0))
    );
    client.ok(&throttle(r#""iops": 0, "iops_rd": 0, "iops_wr": 0"#));
    assert_eq!(shown(&mut client, &["inserted", "iops_rd"]), "0");
    assert_eq!(shown(&mut client, &["inserted", "group"]), "absent");
}

#[test]
fn limits_that_make_no_sense_are_refused_in_qemus_words() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    add(&mut client, &path, "");
    for (arguments, want) in [
        (
            r#""iops": 1, "iops_rd": 1, "iops_wr": 0"#,
            "bps/iops/max total values and read/write values cannot be used at the same time",
        ),
        (
            r#""iops": 0, "iops_rd": 0, "iops_wr": 0, "iops_size": 1"#,
            "iops size requires an iops value to be set",
        ),
        (
            r#""iops": -1, "iops_rd": 0, "iops_wr": 0"#,
            "bps/iops/max values must be within [0, 1000000000000000]",
        ),
        (
            r#""iops": 0, "iops_rd": 0, "iops_wr": 0, "iops_max": 1"#,
            "bps_max/iops_max require corresponding bps/iops values",
        ),
        (
            r#""iops": 2, "iops_rd": 0, "iops_wr": 0, "iops_max": 1"#,
            "bps_max/iops_max cannot be lower than bps/iops",
        ),
    ] {
        let error = client.error(&throttle(arguments));
        assert_eq!(error, format!("GenericError: {want}"));
    }
    let unknown = throttle(r#""iops": 0, "iops_rd": 0, "iops_wr": 0"#).replace("d0", "d1");
    let want = "DeviceNotFound: Cannot find device='d1' nor node-name=''";
    assert_eq!(client.error(&unknown), want);
}

#[test]
fn the_rules_about_errors_decide_whether_there_is_a_status() {
    for (options, want) in [
        ("", r#""ok""#),
        (r#""werror": "report","#, "absent"),
        (r#""werror": "ignore", "rerror": "ignore","#, "absent"),
        (r#""werror": "report", "rerror": "stop","#, r#""ok""#),
    ] {
        let rig = Rig::start();
        let mut client = rig.client();
        let path = rig.file("disk.img", 1 << 20);
        add(&mut client, &path, options);
        assert_eq!(shown(&mut client, &["io-status"]), want, "{options}");
    }
}

#[test]
fn rules_about_errors_are_a_devices() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    let file = format!(r#""driver": "file", "filename": "{path}""#);
    for (options, want) in [
        (
            format!(r#"{file}, "id": "d0", "rerror": "enospc""#),
            "'enospc' invalid read error action",
        ),
        (
            format!(r#"{file}, "node-name": "n0", "werror": "stop""#),
            "Parameter 'werror' is unexpected",
        ),
        (
            format!(r#""driver": "raw", "id": "d0", "file": {{{file}, "rerror": "stop"}}"#),
            "Parameter 'file.rerror' is unexpected",
        ),
    ] {
        let add = format!(r#"{{"execute": "blockdev-add", "arguments": {{{options}}}}}"#);
        assert_eq!(client.error(&add), format!("GenericError: {want}"));
    }
}

#[test]
fn a_stopped_machine_waits_for_cont() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    add(&mut client, &path, "");
    let event = |client: &mut Client, command: &str| {
        let message = client.ask(&format!(r#"{{"execute": "{command}"}}"#));
        let name = message
            .get("event")
            .and_then(Value::as_str)
            .map(str::to_owned);
        assert!(client.receive().get("return").is_some());
        name
    };
    assert_eq!(event(&mut client, "stop").as_deref(), Some("STOP"));
    client.ok(r#"{"execute": "stop"}"#);
    assert!(rig.layer().is_stopped());
    let guest = std::thread::scope(|scope| {
        let guest = scope.spawn(|| rig.request("d0", Request::write(0, IoBuf::zeroed(512))));
        client.ok(r#"{"execute": "query-block"}"#);
        assert!(!guest.is_finished());
        assert_eq!(event(&mut client, "cont").as_deref(), Some("RESUME"));
        guest.join().expect("a guest")
    });
    guest.expect("the write goes on");
    client.ok(r#"{"execute": "cont"}"#);
    let backend = rig.layer().backend("d0").expect("the device");
    assert_eq!(backend.totals(Kind::Write).operations, 1);
}

/// The highest offset of each node, in the order of the names.
fn highest(client: &mut Client, names: &[&str]) -> Vec<i64> {
    let query = r#"{"execute": "query-blockstats", "arguments": {"query-nodes": true}}"#;
    let nodes = client.ok(query);
    let nodes = nodes.as_array().expect("a list");
    let of = |name: &&str| {
        let named = |node: &&Value| node.get("node-name").and_then(Value::as_str) == Some(*name);
        let node = nodes.iter().find(named).expect("the node");
        let stats = node.get("stats").expect("figures");
        stats
            .get("wr_highest_offset")
            .and_then(Value::as_i64)
            .expect("a number")
    };
    names.iter().map(of).collect()
}

#[test]
fn nodes_know_how_far_they_were_written() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "raw", "id": "d0",
            "node-name": "top", "file": {{"driver": "raw", "node-name": "between", "offset": 4096,
                "file": {{"driver": "file", "node-name": "file", "filename": "{path}"}}}}}}}}"#
    ));
    let names = ["top", "between", "file"];
    assert_eq!(highest(&mut client, &names), [0, 0, 0]);
    let write = |at, len| rig.request("d0", Request::write(at, IoBuf::zeroed(len)));
    write(8192, 512).expect("a write");
    assert_eq!(highest(&mut client, &names), [8704, 8704, 12800]);
    // Below what was written before, and by the long way.
    write(0, 512).expect("a write");
    let zeroes = Request::write_zeroes(16384, 4096, Default::default());
    rig.request("d0", zeroes).expect("zeroes");
    assert_eq!(highest(&mut client, &names), [20480, 20480, 24576]);
    // A discard writes nothing, a read neither.
    rig.request("d0", Request::discard(65536, 4096))
        .expect("a discard");
    rig.request("d0", Request::read(65536, IoBuf::zeroed(512)))
        .expect("a read");
    assert_eq!(highest(&mut client, &names), [20480, 20480, 24576]);
}

#[test]
fn nodes_below_a_format_know_how_far_it_wrote() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.path("disk.qcow2");
    if !super::interop::qemu_img(&["create", "-f", "qcow2", &path, "1M"]) {
        return super::interop::skip("there is no qemu-img");
    }
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "id": "d0",
            "node-name": "top", "file": {{"driver": "raw", "node-name": "between",
                "file": {{"driver": "file", "node-name": "file", "filename": "{path}"}}}}}}}}"#
    ));
    for _ in 0..2 {
        let write = Request::write(65536, IoBuf::zeroed(65536));
        rig.request("d0", write).expect("a write");
        let [top, between, file] = highest(&mut client, &["top", "between", "file"])[..] else {
            panic!("three nodes");
        };
        assert_eq!((top, between), (131_072, file));
        assert!(file > 65536, "{file}");
    }
}

#[test]
fn refused_requests_and_idle_time_are_shown() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 4096);
    add(&mut client, &path, r#""read-only": true,"#);
    let mut member = |name: &str| {
        let stats = client.ok(r#"{"execute": "query-blockstats"}"#);
        let stats = stats.as_array().expect("a list")[0].get("stats").cloned();
        stats.expect("figures").get(name).and_then(Value::as_i64)
    };
    assert_eq!(member("idle_time_ns"), None);
    rig.request("d0", Request::write(0, IoBuf::zeroed(512)))
        .expect_err("read-only");
    rig.request("d0", Request::read(4096, IoBuf::zeroed(512)))
        .expect_err("behind the end");
    assert_eq!(member("invalid_wr_operations"), Some(1));
    assert_eq!(member("invalid_rd_operations"), Some(1));
    assert_eq!(member("failed_rd_operations"), Some(0));
    assert!(member("idle_time_ns").is_some());
}
