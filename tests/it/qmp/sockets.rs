//! An NBD server on a port, and its client, each told of by QMP in all that a host's address can have.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use block_core::{IoBuf, Request};

use super::rig::{Client, Rig};

const LEN: u64 = 1 << 20;
/// Ports that are tried.
const TRIED: u16 = 50;

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

fn start(address: &str) -> String {
    execute(
        "nbd-server-start",
        &format!(r#""addr": {{"type": "inet", "data": {{{address}}}}}"#),
    )
}

/// The first of some ports on which a server says that it speaks NBD.
fn serving(host: &str, from: u16) -> u16 {
    let speaks = |port: &u16| {
        let Ok(mut stream) = TcpStream::connect((host, *port)) else {
            return false;
        };
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).is_ok() && &greeting == b"NBDMAGIC"
    };
    let found = (from..=from + TRIED).find(speaks);
    found.expect("a server on one of the ports")
}

fn export_disk(rig: &Rig, client: &mut Client) {
    let path = rig.file("disk.img", LEN);
    client.ok(&execute(
        "blockdev-add",
        &format!(r#""driver": "file", "node-name": "n0", "filename": "{path}""#),
    ));
    client.ok(&execute(
        "block-export-add",
        r#""type": "nbd", "id": "e", "node-name": "n0", "name": "", "writable": true"#,
    ));
}

#[test]
fn a_server_takes_the_first_free_port_of_a_range() {
    // A port that is taken; whoever asked for it gets one behind it.
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let Some(last) = port.checked_add(TRIED) else {
        return println!("port {port} leaves no range");
    };
    let rig = Rig::start();
    let mut client = rig.client();
    let host = format!(r#""host": "127.0.0.1", "port": "{port}""#);
    let refused = client.error(&start(&host));
    let want = format!("Failed to bind socket to 127.0.0.1:{port}: Address already in use");
    assert_eq!(refused, format!("GenericError: {want}"));
    client.ok(&start(&format!(
        r#"{host}, "to": {last}, "numeric": true, "ipv4": true, "keep-alive": false"#
    )));
    export_disk(&rig, &mut client);
    let port = serving("127.0.0.1", port + 1);

    let other = Rig::start();
    let mut guest = other.client();
    guest.ok(&execute(
        "blockdev-add",
        &format!(
            r#""driver": "nbd", "id": "d", "open-timeout": 5,
               "server": {{"type": "inet", "host": "127.0.0.1", "port": "{port}", "numeric": true,
                   "ipv4": true, "ipv6": false, "keep-alive": true}}"#
        ),
    ));
    let write = Request::write(4096, IoBuf::copy_of(&[0x21; 512]));
    other.request("d", write).expect("a write");
    other.request("d", Request::flush()).expect("a flush");
    guest.ok(&execute("blockdev-del", r#""id": "d""#));
    let found = std::fs::read(rig.path("disk.img")).expect("the disk");
    assert_eq!(found[4095..4098], [0, 0x21, 0x21]);
    client.ok(r#"{"execute": "nbd-server-stop"}"#);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_server_of_one_family_is_not_reached_by_the_other() {
    if TcpListener::bind(("::1", 0)).is_err() {
        return println!("there is no IPv6 here");
    }
    for (options, reached, silent) in [
        (r#""ipv4": false, "ipv6": true"#, "::1", "127.0.0.1"),
        (r#""ipv6": false"#, "127.0.0.1", "::1"),
    ] {
        let free = TcpListener::bind(("::", 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let rig = Rig::start();
        let mut client = rig.client();
        let last = port.saturating_add(TRIED);
        client.ok(&start(&format!(
            r#""host": "", "port": "{port}", "to": {last}, {options}"#
        )));
        let port = serving(reached, port);
        assert!(TcpStream::connect((silent, port)).is_err(), "{options}");
    }
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    let rig = Rig::start();
    let mut client = rig.client();
    for (address, want) in [
        (
            r#""host": "127.0.0.1", "port": "0", "keep-alive": true"#,
            "keep-alive option is not supported for passive sockets",
        ),
        (
            r#""host": "127.0.0.1", "port": "0", "ipv4": false, "ipv6": false"#,
            "Cannot disable IPv4 and IPv6 at same time",
        ),
        (
            r#""host": "127.0.0.1", "port": "nbd""#,
            "Parameter 'addr.data.port' expects a port, not 'nbd'",
        ),
        (
            r#""host": "localhost", "port": "0", "numeric": true"#,
            "Parameter 'addr.data.host' expects a number, not 'localhost'",
        ),
    ] {
        let refused = client.error(&start(address));
        assert_eq!(refused, format!("GenericError: {want}"));
    }
    client.ok(&start(r#""host": "127.0.0.1", "port": "0""#));
}
