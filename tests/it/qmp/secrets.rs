//! Secrets and encrypted images by QMP.

use block_core::{IoBuf, Request};

use super::interop::{Oracle, qemu_img, skip};
use super::rig::{Client, Rig};

const ADD: &str = r#"{"execute": "object-add", "arguments": {"qom-type": "secret", "id": "s", "data": "letmein"}}"#;

fn answers(client: &mut Client) -> Vec<String> {
    let inputs = [
        ADD,
        ADD,
        r#"{"execute": "object-add", "arguments": {"qom-type": "secret", "id": "t"}}"#,
        r#"{"execute": "object-add", "arguments": {"qom-type": "secret", "id": "t", "data": "a", "file": "b"}}"#,
        r#"{"execute": "object-del", "arguments": {"id": "s"}}"#,
        r#"{"execute": "object-del", "arguments": {"id": "s"}}"#,
    ];
    let replies = inputs.map(|input| client.reply(input).to_ascii_json());
    replies.to_vec()
}

#[test]
fn objects_answer_as_in_qemu() {
    let rig = Rig::start();
    let Some((oracle, mut theirs)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let wanted = answers(&mut theirs);
    drop(oracle);
    assert_eq!(answers(&mut rig.client()), wanted);
}

/// An image of `qemu-img` whose passphrase is `letmein`.
pub(super) fn encrypted_image(rig: &Rig) -> Option<String> {
    let image = rig.path("i.qcow2");
    let secret = "secret,id=s,data=letmein";
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let create = [
        "create", "-q", "--object", secret, "-f", "qcow2", "-o", options, &image, "1M",
    ];
    qemu_img(&create).then_some(image)
}

#[test]
fn an_image_opened_without_its_key_takes_it_by_block_passwd() {
    let rig = Rig::start();
    let Some(image) = encrypted_image(&rig) else {
        return skip("there is no qemu-img");
    };
    let mut client = rig.client();
    let add = |name: &str, encrypt: &str| {
        format!(
            r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "id": "{name}", {encrypt}
                "node-name": "{name}-node", "file": {{"driver": "file", "filename": "{image}"}}}}}}"#
        )
    };
    let passwd = |password: &str| {
        format!(
            r#"{{"execute": "block_passwd", "arguments": {{"device": "d", "password": "{password}"}}}}"#
        )
    };
    let read = || {
        let read = rig.request("d", Request::read(0, IoBuf::zeroed(512)));
        read.map(drop).map_err(|error| error.class())
    };
    client.ok(&add("d", ""));
    let missing = |client: &mut Client| {
        let shown = client.ok(r#"{"execute": "query-block"}"#).to_ascii_json();
        assert!(!shown.contains("letmein"), "{shown}");
        assert!(shown.contains(r#""encrypted": true"#), "{shown}");
        shown.contains(r#""encryption_key_missing": true"#)
    };
    assert!(missing(&mut client));
    assert_eq!(read(), Err(block_core::error::Class::DeviceEncrypted));
    let wrong = client.error(&passwd("wrong"));
    assert_eq!(
        wrong,
        "GenericError: Invalid password, cannot unlock any keyslot"
    );
    assert_eq!(read(), Err(block_core::error::Class::DeviceEncrypted));
    client.ok(&passwd("letmein"));
    assert_eq!(read(), Ok(()));
    assert!(!missing(&mut client));
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"id": "d"}}"#);

    let with_key = add("d", r#""encrypt": {"format": "luks", "key-secret": "s"},"#);
    assert_eq!(
        client.error(&with_key),
        "GenericError: No secret with id 's'"
    );
    client.ok(ADD);
    client.ok(&with_key);
    assert_eq!(read(), Ok(()));
    let plain = rig.file("plain.img", 65536);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "file", "node-name": "p", "filename": "{plain}"}}}}"#
    ));
    let refused = client
        .error(r#"{"execute": "block_passwd", "arguments": {"node-name": "p", "password": "x"}}"#);
    assert_eq!(refused, "GenericError: Device 'p' is not encrypted");
}
