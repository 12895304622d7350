use expect_test::{Expect, expect};

use super::client_handshake;
use super::layout::{self, option, transmission};
use super::option::{put_go, put_option, put_set_meta_context};
use super::reply::{self, Extent, Position, ReplyHeader};
use super::request::{Action, Durability, Header, Terms, Verdict};
use super::server_handshake::{Agreed, Catalog, Handshake, Step};
use super::uri::ExportAddress;
use super::{BlockSize, ExportInfo, WireError};

struct TwoExports;

impl Catalog for TwoExports {
    type Export = u8;

    fn find(&self, name: &str) -> Option<(ExportInfo, u8)> {
        let (name, number) = match name {
            "" | "disk" => ("disk", 1),
            "other" => ("other", 2),
            _ => return None,
        };
        let info = ExportInfo {
            name: name.to_owned(),
            description: "a disk".to_owned(),
            size: 1 << 20,
            flags: transmission::SEND_FLUSH,
            block_size: BlockSize {
                minimum: 512,
                ..BlockSize::default()
            },
            bitmaps: vec!["b".to_owned(), "long name".to_owned()],
        };
        Some((info, number))
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![
            ("disk".to_owned(), "a disk".to_owned()),
            ("other".to_owned(), String::new()),
        ]
    }
}

/// Feeds `input` in pieces of `piece` bytes; says what came of it.
fn serve(input: &[u8], piece: usize) -> (Vec<u8>, Result<Option<Agreed<u8>>, WireError>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(&mut out);
    out.clear();
    let mut held = Vec::new();
    for part in input.chunks(piece) {
        held.extend_from_slice(part);
        loop {
            match handshake.advance(&held, &mut out, &TwoExports) {
                Err(error) => return (out, Err(error)),
                Ok((taken, step)) => {
                    held.drain(..taken);
                    match step {
                        Step::More => break,
                        Step::Answered => {}
                        Step::Transmission(agreed) => return (out, Ok(Some(agreed))),
                        Step::Aborted => return (out, Ok(None)),
                    }
                }
            }
        }
    }
    (out, Ok(None))
}

/// The option replies in `out`, a line each.
fn show_replies(mut out: &[u8]) -> String {
    let mut text = String::new();
    while out.len() >= 20 {
        let word = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().unwrap());
        assert_eq!(out[..8], layout::OPTION_REPLY_MAGIC.to_be_bytes());
        let len = word(16) as usize;
        let data = out[20..20 + len].escape_ascii();
        text += &format!("option {} reply {:#x} \"{data}\"\n", word(8), word(12));
        out = &out[20 + len..];
    }
    if !out.is_empty() {
        text += &format!("then \"{}\"\n", out.escape_ascii());
    }
    text
}

#[track_caller]
fn check_server(options: impl FnOnce(&mut Vec<u8>), want: Expect) {
    let mut input = 3_u32.to_be_bytes().to_vec();
    options(&mut input);
    let (out, end) = serve(&input, usize::MAX);
    let (bytewise, bytewise_end) = serve(&input, 1);
    assert_eq!(
        (&out, &end),
        (&bytewise, &bytewise_end),
        "the pieces make no difference"
    );
    let end = match end {
        Ok(Some(Agreed {
            export,
            structured,
            contexts,
            info,
        })) => {
            let allocation = contexts.allocation;
            let bitmaps = match contexts.bitmaps.as_slice() {
                [] => String::new(),
                places => format!(" bitmaps {places:?}"),
            };
            format!(
                "export {export} flags {:#x} structured {structured} allocation {allocation}{bitmaps}",
                info.flags
            )
        }
        Ok(None) => "no export".to_owned(),
        Err(error) => format!("cut: {error}"),
    };
    want.assert_eq(&(show_replies(&out) + &end));
}

#[test]
fn client_and_server_agree() {
    for (name, want) in [("disk", Ok(1)), ("", Ok(1)), ("none", Err(()))] {
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        let mut server = Handshake::new(&mut to_client);
        let mut client = client_handshake::Handshake::new(name);
        let mut agreed = None;
        let facts = loop {
            match client.advance(&to_client, &mut to_server) {
                Ok((_, client_handshake::Step::Ready(facts))) => break Ok(facts),
                Ok((taken, client_handshake::Step::More)) => {
                    to_client.drain(..taken);
                    if taken > 0 {
                        continue;
                    }
                }
                Err(error) => break Err(error),
            }
            let (taken, step) = server
                .advance(&to_server, &mut to_client, &TwoExports)
                .unwrap();
            to_server.drain(..taken);
            if let Step::Transmission(with) = step {
                agreed = Some(with);
            }
        };
        match want {
            Ok(number) => {
                let (facts, agreed) = (facts.unwrap(), agreed.unwrap());
                assert_eq!(agreed.export, number);
                assert_eq!(
                    (facts.size, facts.flags),
                    (agreed.info.size, agreed.info.flags)
                );
                assert_eq!(facts.block_size.minimum, 512);
                assert!(facts.structured && agreed.structured);
                // The default export is chosen under its own name, so the selection holds.
                assert!(facts.allocation.is_some() && agreed.contexts.allocation);
            }
            Err(()) => assert!(matches!(facts, Err(WireError::Refused { .. }))),
        }
    }
}

#[test]
fn go_without_structured_replies_has_no_df() {
    check_server(
        |out| put_go(out, "disk"),
        expect![[r#"
            option 7 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
            option 7 reply 0x3 "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x05"
            option 7 reply 0x1 ""
            export 1 flags 0x5 structured false allocation false"#]],
    );
}

#[test]
fn selection_holds_for_the_export_it_named() {
    check_server(
        |out| {
            put_option(out, option::STRUCTURED_REPLY, &[]);
            put_set_meta_context(out, "other", "base:allocation");
            put_option(out, option::EXPORT_NAME, &[b"disk"]);
        },
        expect![[r#"
            option 8 reply 0x1 ""
            option 10 reply 0x4 "\x00\x00\x00\x01base:allocation"
            option 10 reply 0x1 ""
            then "\x00\x00\x00\x00\x00\x10\x00\x00\x00\x85"
            export 1 flags 0x85 structured true allocation false"#]],
    );
}

#[test]
fn bitmaps_are_contexts_by_their_names() {
    check_server(
        |out| {
            put_option(out, option::STRUCTURED_REPLY, &[]);
            for query in ["qemu:", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:b"] {
                let len = u32::try_from(query.len()).unwrap().to_be_bytes();
                let one = [
                    &[0, 0, 0, 4][..],
                    b"disk",
                    &[0, 0, 0, 1],
                    &len,
                    query.as_bytes(),
                ];
                put_option(out, option::LIST_META_CONTEXT, &one);
            }
            put_set_meta_context(out, "disk", "qemu:dirty-bitmap:");
            put_set_meta_context(out, "disk", "qemu:dirty-bitmap:none");
            put_set_meta_context(out, "disk", "qemu:dirty-bitmap:long name");
            put_go(out, "disk");
        },
        expect![[r#"
            option 8 reply 0x1 ""
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:b"
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:long name"
            option 9 reply 0x1 ""
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:b"
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:long name"
            option 9 reply 0x1 ""
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:b"
            option 9 reply 0x1 ""
            option 10 reply 0x1 ""
            option 10 reply 0x1 ""
            option 10 reply 0x4 "\x00\x00\x00\x03qemu:dirty-bitmap:long name"
            option 10 reply 0x1 ""
            option 7 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
            option 7 reply 0x3 "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x85"
            option 7 reply 0x1 ""
            export 1 flags 0x85 structured true allocation false bitmaps [1]"#]],
    );
}

#[test]
fn lists_and_refuses() {
    check_server(
        |out| {
            put_option(out, option::LIST, &[]);
            put_option(out, option::LIST, &[b"x"]);
            put_option(out, option::STARTTLS, &[]);
            put_option(out, 77, &[b"what"]);
            put_option(out, option::STRUCTURED_REPLY, &[]);
            put_option(out, option::STRUCTURED_REPLY, &[]);
            put_go(out, "none");
            put_option(out, option::ABORT, &[b"bye"]);
        },
        expect![[r#"
            option 3 reply 0x2 "\x00\x00\x00\x04diska disk"
            option 3 reply 0x2 "\x00\x00\x00\x05other"
            option 3 reply 0x1 ""
            option 3 reply 0x80000003 "option data is malformed"
            option 5 reply 0x80000002 "TLS is not configured"
            option 77 reply 0x80000001 "option is not supported"
            option 8 reply 0x1 ""
            option 8 reply 0x80000003 "structured replies are agreed on already"
            option 7 reply 0x80000006 "export is not available"
            option 2 reply 0x1 ""
            no export"#]],
    );
}

#[test]
fn contexts_need_structured_replies_and_match_exactly() {
    check_server(
        |out| {
            put_set_meta_context(out, "disk", "base:allocation");
            put_option(out, option::STRUCTURED_REPLY, &[]);
            put_set_meta_context(out, "disk", "base:");
            put_set_meta_context(out, "disk", "qemu:allocation-depth");
            let none = [&[0, 0, 0, 4][..], b"disk", &[0; 4]];
            put_option(out, option::LIST_META_CONTEXT, &none);
            put_option(out, option::SET_META_CONTEXT, &none);
            put_set_meta_context(out, "none", "base:allocation");
        },
        expect![[r#"
            option 10 reply 0x80000003 "structured replies must be agreed on first"
            option 8 reply 0x1 ""
            option 10 reply 0x1 ""
            option 10 reply 0x1 ""
            option 9 reply 0x4 "\x00\x00\x00\x00base:allocation"
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:b"
            option 9 reply 0x4 "\x00\x00\x00\x00qemu:dirty-bitmap:long name"
            option 9 reply 0x1 ""
            option 10 reply 0x1 ""
            option 10 reply 0x80000006 "export is not available"
            no export"#]],
    );
}

#[test]
fn lengths_inside_options_are_bounded() {
    check_server(
        |out| {
            // A name longer than the option, one longer than any, and queries that are not there.
            put_option(out, option::GO, &[&[0, 0, 0, 200], b"disk", &[0, 0]]);
            put_option(out, option::GO, &[&[0, 0, 0x10, 1], &[b'x'; 4097], &[0, 0]]);
            put_option(out, option::GO, &[&[0, 0, 0, 4], b"disk", &[0, 9, 0, 3]]);
            put_option(out, option::STRUCTURED_REPLY, &[]);
            let data = [&[0, 0, 0, 4][..], b"disk", &[0xff; 4]];
            put_option(out, option::SET_META_CONTEXT, &data);
            put_option(out, option::INFO, &[&[0; 60_000]]);
        },
        expect![[r#"
            option 7 reply 0x80000003 "option data is malformed"
            option 7 reply 0x80000003 "option data is malformed"
            option 7 reply 0x80000003 "option data is malformed"
            option 8 reply 0x1 ""
            option 10 reply 0x80000003 "option data is malformed"
            option 6 reply 0x80000009 "option data is too long"
            no export"#]],
    );
}

#[test]
fn hopeless_clients_are_cut() {
    check_server(
        |out| out.extend_from_slice(&[0; 16]),
        expect!["cut: option magic is 0x0"],
    );
    check_server(
        |out| {
            put_option(out, option::GO, &[]);
            let at = out.len() - 4;
            out[at..].copy_from_slice(&0xffff_ffff_u32.to_be_bytes());
        },
        expect!["cut: option 7 has 4294967295 bytes of data"],
    );
    check_server(
        |out| put_option(out, option::EXPORT_NAME, &[b"no\nne"]),
        expect![[r"cut: export 'no\nne' is unknown"]],
    );
    let (_, end) = serve(&[0, 0, 0, 7], 4);
    assert_eq!(end, Err(WireError::HandshakeFlags { flags: 7 }));
    let mut flood = 3_u32.to_be_bytes().to_vec();
    (0..2000).for_each(|_| put_option(&mut flood, 77, &[]));
    assert_eq!(
        serve(&flood, usize::MAX).1,
        Err(WireError::Flood { limit: 1024 })
    );
    let mut not_fixed = 0_u32.to_be_bytes().to_vec();
    put_go(&mut not_fixed, "disk");
    assert_eq!(
        serve(&not_fixed, usize::MAX).1,
        Err(WireError::NotFixed { option: 7 })
    );
}

#[test]
fn export_name_without_the_flag_ends_in_zeroes() {
    let mut input = 1_u32.to_be_bytes().to_vec();
    put_option(&mut input, option::EXPORT_NAME, &[]);
    let (out, end) = serve(&input, usize::MAX);
    assert_eq!(out.len(), 10 + 124);
    assert_eq!(end.unwrap().unwrap().export, 1);
}

#[track_caller]
fn check_client(server: &[u8], want: Expect) {
    let mut client = client_handshake::Handshake::new("disk");
    let (mut held, mut out) = (server.to_vec(), Vec::new());
    let text = loop {
        match client.advance(&held, &mut out) {
            Ok((0, client_handshake::Step::More)) => break "wants more".to_owned(),
            Ok((taken, client_handshake::Step::More)) => drop(held.drain(..taken)),
            Ok((_, client_handshake::Step::Ready(facts))) => break format!("{facts:?}"),
            Err(error) => break format!("{error}"),
        }
    };
    want.assert_eq(&text);
}

fn greeting(flags: u16) -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT"[..], &flags.to_be_bytes()].concat()
}

#[test]
fn client_refuses_a_strange_server() {
    check_client(&[7; 18], expect!["server's magic is 0x707070707070707"]);
    let oldstyle = [
        &b"NBDMAGIC"[..],
        &layout::OLDSTYLE_MAGIC.to_be_bytes(),
        &[0; 136],
    ]
    .concat();
    check_client(
        &oldstyle,
        expect!["server speaks only the oldstyle handshake"],
    );
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let mut bytes = greeting(3);
        super::option::put_reply(&mut bytes, option, kind, &[data]);
        bytes
    };
    check_client(
        &reply(option::GO, 1, &[]),
        expect!["reply of type 0x1 to option 7 is malformed or out of place"],
    );
    check_client(
        &reply(option::STRUCTURED_REPLY, 1, &[0; 10_000]),
        expect!["reply of type 0x1 to option 8 is malformed or out of place"],
    );
    let mut two_contexts = reply(option::STRUCTURED_REPLY, 1, &[]);
    for _ in 0..2 {
        let context: &[u8] = b"\0\0\0\x09base:allocation";
        super::option::put_reply(&mut two_contexts, option::SET_META_CONTEXT, 4, &[context]);
    }
    check_client(
        &two_contexts,
        expect!["reply of type 0x4 to option 10 is malformed or out of place"],
    );
    let mut no_size = reply(option::STRUCTURED_REPLY, layout::reply::ERR_UNSUP, &[]);
    super::option::put_reply(&mut no_size, option::GO, 1, &[]);
    check_client(
        &no_size,
        expect!["reply of type 0x1 to option 7 is malformed or out of place"],
    );
    let mut sizes = reply(option::STRUCTURED_REPLY, layout::reply::ERR_UNSUP, &[]);
    let block: &[u8] = &[0, 3, 0, 0, 0, 3, 0, 0, 16, 0, 2, 0, 0, 0];
    super::option::put_reply(&mut sizes, option::GO, 3, &[block]);
    super::option::put_reply(&mut sizes, option::GO, 3, &[&[0; 12]]);
    super::option::put_reply(&mut sizes, option::GO, 1, &[]);
    check_client(
        &sizes,
        expect!["block sizes 3, 4096, 33554432 are not allowed"],
    );
}

#[test]
fn client_takes_a_server_that_knows_names_only() {
    let mut server = greeting(0);
    server.extend_from_slice(&[0, 0, 0, 0, 0, 0x10, 0, 0, 0, 5]);
    check_client(&server, expect!["wants more"]);
    server.extend_from_slice(&[0; 124]);
    check_client(
        &server,
        expect![[
            "Facts { size: 1048576, flags: 5, block_size: BlockSize { minimum: 1, preferred: 4096, \
             maximum: 33554432 }, structured: false, allocation: None }"
        ]],
    );
}

const TERMS: Terms = Terms {
    size: 1 << 20,
    read_only: false,
    structured: true,
    status: true,
};

fn request(command: u16, flags: u16, offset: u64, len: u32) -> Header {
    Header {
        flags,
        command,
        cookie: 9,
        offset,
        len,
    }
}

#[test]
fn headers_survive_the_wire() {
    let header = request(1, 1, 1 << 40, 77);
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    assert_eq!(
        Header::parse(&[0; 28]),
        Err(WireError::RequestMagic { magic: 0 })
    );
}

#[track_caller]
fn check_verdict(header: Header, terms: Terms, want: &str) {
    let text = match header.judge(&terms) {
        Verdict::Perform(action) => format!("{action:?}"),
        Verdict::Refuse {
            error,
            payload,
            reason,
        } => format!("{error} skip {payload}: {reason}"),
        Verdict::Cut { error, reason } => format!("{error} and cut: {reason}"),
        Verdict::Disconnect => "disconnect".to_owned(),
    };
    assert_eq!(text, want);
}

#[test]
fn requests_are_judged_by_range_and_flags() {
    let end = 1 << 20;
    check_verdict(
        request(0, 0, end - 1, 1),
        TERMS,
        "Read { range: 1048575..1048576, whole: false }",
    );
    check_verdict(
        request(0, 4, end, 0),
        TERMS,
        "Read { range: 1048576..1048576, whole: true }",
    );
    check_verdict(
        request(0, 0, end, 1),
        TERMS,
        "22 skip 0: request ends behind the export",
    );
    check_verdict(
        request(0, 0, u64::MAX, 1),
        TERMS,
        "22 skip 0: request ends behind the export",
    );
    check_verdict(
        request(1, 0, end - 1, 2),
        TERMS,
        "28 skip 2: request ends behind the export",
    );
    check_verdict(
        request(6, 0, end, 512),
        TERMS,
        "28 skip 0: request ends behind the export",
    );
    check_verdict(
        request(0, 0, 0, u32::MAX),
        TERMS,
        "22 skip 0: length is above the maximum",
    );
    check_verdict(
        request(1, 0, 0, u32::MAX),
        TERMS,
        "22 and cut: payload is above the maximum",
    );
    check_verdict(
        request(0, 8, 0, 1),
        TERMS,
        "22 skip 0: flag is not known for this command",
    );
    check_verdict(
        request(1, 0x80, 0, 5),
        TERMS,
        "22 skip 5: flag is not known for this command",
    );
    check_verdict(request(99, 0, 0, 1), TERMS, "22 skip 0: command is unknown");
    check_verdict(request(2, 9, 5, 5), TERMS, "disconnect");
    check_verdict(request(3, 0, u64::MAX, 7), TERMS, "Flush");
    check_verdict(
        request(7, 0, 0, 0),
        TERMS,
        "22 skip 0: block status of no byte",
    );
    check_verdict(
        request(7, 8, 0, 9),
        TERMS,
        "BlockStatus { range: 0..9, one: true }",
    );
    let simple = Terms {
        structured: false,
        status: false,
        ..TERMS
    };
    check_verdict(
        request(7, 0, 0, 9),
        simple,
        "22 skip 0: no metadata context was selected",
    );
    check_verdict(
        request(0, 4, 0, 9),
        simple,
        "22 skip 0: flag is not known for this command",
    );
    let read_only = Terms {
        read_only: true,
        ..TERMS
    };
    for command in [1, 4, 6] {
        let skip = if command == 1 { 9 } else { 0 };
        let want = format!("1 skip {skip}: export is read-only");
        check_verdict(request(command, 0, 0, 9), read_only, &want);
    }
}

#[test]
fn zero_flags_become_options() {
    let zeroes = |may_unmap, only_fast, durability| {
        Verdict::Perform(Action::WriteZeroes {
            range: 0..512,
            may_unmap,
            only_fast,
            durability,
        })
    };
    let judge = |flags| request(6, flags, 0, 512).judge(&TERMS);
    assert_eq!(judge(0), zeroes(true, false, Durability::Cached));
    assert_eq!(judge(0b1_0011), zeroes(false, true, Durability::Fua));
}

#[test]
fn replies_survive_the_wire() {
    let parse = |bytes: &[u8]| {
        let (header, at) = ReplyHeader::parse(bytes).unwrap().unwrap();
        for short in 0..at {
            assert_eq!(ReplyHeader::parse(&bytes[..short]), Ok(None));
        }
        (header, bytes[at..].to_vec())
    };
    let chunk = |kind, position, len| ReplyHeader::Chunk {
        cookie: 7,
        position,
        kind,
        len,
    };
    let simple = (
        ReplyHeader::Simple {
            cookie: 7,
            error: 5,
        },
        vec![],
    );
    assert_eq!(parse(&reply::simple(7, 5)), simple);
    assert_eq!(
        parse(&reply::done(7)),
        (chunk(0, Position::Last, 0), vec![])
    );
    let offset = 0x1234_u64.to_be_bytes().to_vec();
    let data = parse(&reply::data(7, Position::Middle, 0x1234, 100));
    assert_eq!(data, (chunk(1, Position::Middle, 108), offset));
    let (header, payload) = parse(&reply::hole(7, Position::Last, 0x1234, 100));
    assert_eq!(header, chunk(2, Position::Last, 12));
    assert_eq!(reply::parse_hole(&payload), Some((0x1234, 100)));
    let (header, payload) = parse(&reply::error(7, 28, "full"));
    assert_eq!(header, chunk(0x8001, Position::Last, 10));
    assert_eq!(
        reply::parse_error(0x8001, &payload),
        Some((28, "full".to_owned()))
    );
    assert_eq!(
        reply::parse_error(0x8002, &payload),
        None,
        "an offset is missing"
    );
    assert_eq!(reply::parse_error(0x8001, &payload[..8]), None);
    let extents = [
        Extent { len: 512, flags: 3 },
        Extent {
            len: 1024,
            flags: 0,
        },
    ];
    let (header, payload) = parse(&reply::block_status(7, Position::Last, 1, &extents));
    assert_eq!(header, chunk(5, Position::Last, 20));
    assert_eq!(
        reply::parse_block_status(&payload),
        Some((1, extents.to_vec()))
    );
    assert_eq!(reply::parse_block_status(&payload[..4]), None);
    assert_eq!(
        reply::parse_block_status(&[0; 12]),
        None,
        "an extent of no byte"
    );
    assert_eq!(
        ReplyHeader::parse(&[1; 4]),
        Err(WireError::ReplyMagic { magic: 0x0101_0101 })
    );
}

#[test]
fn errors_keep_their_meaning_on_the_wire() {
    use rustix::io::Errno;
    for errno in [
        Errno::PERM,
        Errno::IO,
        Errno::NOMEM,
        Errno::INVAL,
        Errno::NOSPC,
        Errno::OVERFLOW,
        Errno::NOTSUP,
        Errno::SHUTDOWN,
    ] {
        assert_eq!(super::wire_to_errno(super::errno_to_wire(errno)), errno);
    }
    assert_eq!(super::errno_to_wire(Errno::BUSY), 5);
    assert_eq!(super::wire_to_errno(4711), Errno::INVAL);
}

#[track_caller]
fn check_name(name: &str, want: Expect) {
    want.assert_eq(&match ExportAddress::parse(name) {
        Ok(address) => format!("{} export '{}'", address.server, address.export),
        Err(error) => error.to_string(),
    });
}

#[test]
fn names_of_exports() {
    check_name("nbd://localhost", expect!["localhost:10809 export ''"]);
    check_name(
        "nbd://localhost:1234/a/b",
        expect!["localhost:1234 export 'a/b'"],
    );
    check_name("nbd+tcp://[::1]:10/x%20y", expect!["[::1]:10 export 'x y'"]);
    check_name(
        "nbd+unix:///x?socket=/run/n%2fb",
        expect!["/run/n/b export 'x'"],
    );
    check_name("nbd+unix://?socket=sock", expect!["sock export ''"]);
    check_name("nbd:unix:/run/nbd", expect!["/run/nbd export ''"]);
    check_name(
        "nbd:unix:/run/nbd:exportname=a:b",
        expect!["/run/nbd export 'a:b'"],
    );
    check_name(
        "nbd:localhost:10809:exportname=x",
        expect!["localhost:10809 export 'x'"],
    );
    check_name("nbd:[::1]:nbd", expect!["[::1]:nbd export ''"]);
}

#[test]
fn names_that_are_none() {
    for name in [
        "nbd://",
        "nbd://host:0/",
        "nbd://host:99999",
        "nbd://host/%zz",
        "nbd://host/?socket=/x",
        "nbd://[::1/x",
        "nbd+unix:///x",
        "nbd+unix://host/x?socket=/y",
        "nbd+unix:///x?socket=",
        "nbd+unix:///x?socket=/y&tls=1",
        "http://host/",
    ] {
        check_name(name, expect!["No valid URL specified"]);
    }
    check_name(
        "nbdx:",
        expect!["File name string for NBD must start with 'nbd:'"],
    );
    check_name("nbd:", expect!["NBD server address missing"]);
    check_name("nbd:unix:", expect!["NBD server address missing"]);
    check_name("nbd:host", expect!["error parsing address 'host'"]);
}

/// Bytes like those of a real conversation, damaged: the seed says where and how.
fn damaged(good: &[u8], seed: u64) -> Vec<u8> {
    let noise = super::rig::pattern(64, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = good.to_vec();
    for hit in noise.chunks(8).take(1 + usize::from(noise[0] % 4)) {
        let at = usize::from(hit[1]) << 8 | usize::from(hit[2]);
        let at = at % bytes.len();
        match hit[3] % 4 {
            0 => bytes[at] = hit[4],
            1 => bytes[at] = 0xff,
            2 => bytes.truncate(at.max(1)),
            _ => drop(bytes.splice(at..at, hit[4..8].iter().copied())),
        }
    }
    bytes
}

#[test]
fn damaged_options_never_panic_and_answers_stay_small() {
    let mut good = 3_u32.to_be_bytes().to_vec();
    put_option(&mut good, option::LIST, &[]);
    put_option(&mut good, option::STRUCTURED_REPLY, &[]);
    put_set_meta_context(&mut good, "disk", "base:allocation");
    let info = [&[0, 0, 0, 4][..], b"disk", &[0, 2, 0, 1, 0, 3]];
    put_option(&mut good, option::INFO, &info);
    put_go(&mut good, "disk");
    for seed in 0..5000 {
        let (out, _) = serve(&damaged(&good, seed), usize::MAX);
        assert!(out.len() < 4096, "seed {seed}: {} bytes", out.len());
    }
}

#[test]
fn damaged_answers_never_panic() {
    let (mut good, mut to_server) = (Vec::new(), Vec::new());
    let mut server = Handshake::new(&mut good);
    let mut client = client_handshake::Handshake::new("disk");
    let mut at = 0;
    loop {
        let (taken, step) = client.advance(&good[at..], &mut to_server).unwrap();
        at += taken;
        if matches!(step, client_handshake::Step::Ready(_)) {
            break;
        }
        let (taken, _) = server.advance(&to_server, &mut good, &TwoExports).unwrap();
        to_server.drain(..taken);
    }
    for seed in 0..5000 {
        let bytes = damaged(&good, seed);
        let mut client = client_handshake::Handshake::new("disk");
        let mut at = 0;
        while let Ok((taken, client_handshake::Step::More)) =
            client.advance(&bytes[at..], &mut to_server)
            && taken > 0
        {
            at += taken;
        }
    }
}
