//! Images of rare kinds and states by QMP: damaged, half written by a program that is gone, encrypted the
//! old way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use block_core::{Error, IoBuf, Request};
use block_schema::Value;

use super::interop::{qemu_img, skip};
use super::rig::{Client, Rig};

const CLUSTER: u64 = 65536;
const SECRET: &str = "secret,id=s,data=letmein";

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

fn add(client: &mut Client, name: &str, path: &str, more: &str) {
    client.ok(&execute(
        "blockdev-add",
        &format!(
            r#""driver": "qcow2", "id": "{name}", "node-name": "{name}-node", {more}
               "file": {{"driver": "file", "filename": "{path}"}}"#
        ),
    ));
}

fn remove(client: &mut Client, name: &str) {
    client.ok(&execute("blockdev-del", &format!(r#""id": "{name}""#)));
}

fn write(rig: &Rig, at: u64, byte: u8) -> Result<IoBuf, Error> {
    let bytes = [byte; 4096];
    rig.request("d", Request::write(at, IoBuf::copy_of(&bytes)))
}

fn nodes(client: &mut Client) -> String {
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    nodes.to_ascii_json()
}

/// Where the L2 table is that the first entry of the L1 table leads to.
/// Spec: qcow2 "Header", "Cluster mapping".
fn first_l2(file: &File) -> u64 {
    let word = |at| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).expect("a word");
        u64::from_be_bytes(word)
    };
    word(word(40)) & 0x00ff_ffff_ffff_fe00
}

#[test]
fn a_write_that_would_hit_metadata_is_told_with_its_place() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.path("disk.qcow2");
    if !qemu_img(&["create", "-q", "-f", "qcow2", &path, "1M"]) {
        return skip("there is no qemu-img");
    }
    add(&mut client, "d", &path, "");
    write(&rig, 0, 1).expect("a write");
    write(&rig, CLUSTER, 1).expect("a write");
    remove(&mut client, "d");
    let file = File::options().read(true).write(true).open(&path);
    let file = file.expect("the image");
    let table = first_l2(&file);
    // The second cluster is where the table is.
    let entry = (1 << 63 | table).to_be_bytes();
    file.write_all_at(&entry, table + 8).expect("it takes it");
    add(&mut client, "d", &path, "");
    let refused = write(&rig, CLUSTER + 4096, 2);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    let told = client.wait_for("BLOCK_IMAGE_CORRUPTED");
    let number = |name: &str| told.get(name).and_then(Value::as_i64);
    let place = i64::try_from(table).expect("a small file") + 4096;
    assert_eq!(
        (number("offset"), number("size")),
        (Some(place), Some(4096)),
        "{told}"
    );
    let msg = told.get("msg").and_then(Value::as_str).unwrap_or_default();
    assert!(msg.starts_with("Preventing invalid write on"), "{told}");
    // Nothing was written, and nothing will be.
    let mut found = [0; 8];
    file.read_exact_at(&mut found, table + 8).expect("a word");
    assert_eq!(found, entry);
    write(&rig, 0, 3).expect_err("the image is marked");
    assert!(nodes(&mut client).contains(r#""corrupt": true"#));
}

#[test]
fn a_bitmap_in_use_shows_it_and_is_inconsistent_elsewhere() {
    let rig = Rig::start();
    let mut client = rig.client();
    let (path, copy) = (rig.path("disk.qcow2"), rig.path("copy.qcow2"));
    if !qemu_img(&["create", "-q", "-f", "qcow2", &path, "1M"]) {
        return skip("there is no qemu-img");
    }
    add(&mut client, "d", &path, "");
    let bitmap = r#""node": "d-node", "name": "b", "persistent": true"#;
    client.ok(&execute("block-dirty-bitmap-add", bitmap));
    remove(&mut client, "d");
    add(&mut client, "d", &path, "");
    write(&rig, 0, 1).expect("a write");
    rig.request("d", Request::flush()).expect("a flush");
    assert!(nodes(&mut client).contains(r#""in-use""#));
    // What a daemon that is killed now leaves behind.
    std::fs::copy(&path, &copy).expect("a copy");
    remove(&mut client, "d");
    add(&mut client, "c", &copy, "");
    let shown = nodes(&mut client);
    assert!(shown.contains(r#""inconsistent": true"#), "{shown}");
    assert!(shown.contains(r#""in-use""#), "{shown}");
    let clear = execute(
        "block-dirty-bitmap-clear",
        r#""node": "c-node", "name": "b""#,
    );
    let refused = client.error(&clear);
    assert!(refused.contains("inconsistent"), "{refused}");
    let remove_bitmap = execute(
        "block-dirty-bitmap-remove",
        r#""node": "c-node", "name": "b""#,
    );
    client.ok(&remove_bitmap);
    assert!(!nodes(&mut client).contains("inconsistent"));
}

/// Opens an encrypted image that QEMU made, writes, and reads it again; what is shown of it.
fn encrypted(format: &str, create: &str) -> Option<String> {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.path("disk.qcow2");
    let options = format!("encrypt.format={format},encrypt.key-secret=s{create}");
    let words = [
        "create", "-q", "--object", SECRET, "-f", "qcow2", "-o", &options, &path, "1M",
    ];
    if !qemu_img(&words) {
        skip("there is no qemu-img");
        return None;
    }
    client.ok(&execute(
        "object-add",
        r#""qom-type": "secret", "id": "s", "data": "letmein""#,
    ));
    let key = format!(r#""encrypt": {{"format": "{format}", "key-secret": "s"}},"#);
    add(&mut client, "d", &path, &key);
    write(&rig, 0, 0xab).expect("a write");
    let shown = nodes(&mut client);
    remove(&mut client, "d");
    let stored = std::fs::read(&path).expect("the image");
    assert!(!stored.windows(64).any(|bytes| bytes == [0xab; 64]));
    let keyless = format!(r#""encrypt": {{"format": "{format}"}},"#);
    add(&mut client, "d", &path, &keyless);
    let locked = rig.request("d", Request::read(0, IoBuf::zeroed(4096)));
    assert!(locked.is_err(), "ciphertext was given as data");
    remove(&mut client, "d");
    add(&mut client, "d", &path, &key);
    let read = rig.request("d", Request::read(0, IoBuf::zeroed(4096)));
    assert_eq!(read.expect("a read").to_vec(), [0xab; 4096]);
    Some(shown)
}

#[test]
fn an_image_encrypted_the_old_way_is_read_and_written() {
    let shown = encrypted("aes", "");
    assert!(shown.is_none_or(|shown| shown.contains(r#""format": "aes""#)));
}

#[test]
fn an_image_with_hashed_vectors_is_read_and_written() {
    let options = ",encrypt.iter-time=10,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,\
                   encrypt.ivgen-hash-alg=sha256";
    let shown = encrypted("luks", options);
    let want = r#""ivgen-hash-alg": "sha256""#;
    assert!(shown.is_none_or(|shown| shown.contains(want)));
}
