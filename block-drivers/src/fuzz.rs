//! Doors for fuzzing: each parser of bytes from outside as a function of bytes, with what must hold
//! of its answer.
//! Called by the targets of `fuzz/` alone. Invariant: nothing here is reached by an image, a peer or
//! a user. Not here: targets that the public interface reaches (whole images, JSON, schemas).

use crate::kit::{compress, crypto::luks};
use crate::nbd::layout::transmission;
use crate::nbd::reply::{self, ReplyHeader};
use crate::nbd::request::{Action, HEADER_LEN, Header, Terms, Verdict};
use crate::nbd::server_handshake::{Agreed, Catalog, Handshake, Step};
use crate::nbd::{BlockSize, ExportInfo, WireError, client_handshake};

/// Bytes of the NBD export that is offered.
const EXPORT_SIZE: u64 = 1 << 20;

/// A qcow2 header: what is accepted is written back as the same header, and another header takes
/// its place so that a power cut leaves one of the two.
///
/// # Panics
/// When it is not so.
pub fn qcow2_header(bytes: &[u8]) {
    crate::format::qcow2::fuzz::header(bytes);
}

/// A qcow2 snapshot table, behind a byte that counts its entries: what is accepted is written back
/// as the same table.
///
/// # Panics
/// When it is not so.
pub fn qcow2_snapshot_table(bytes: &[u8]) {
    crate::format::qcow2::fuzz::snapshot_table(bytes);
}

/// A LUKS header, behind eight bytes with the length of its area: key material of slots in use lies
/// behind the header and within the area.
///
/// # Panics
/// When it does not.
pub fn luks_header(bytes: &[u8]) {
    let Some((area_len, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let area_len = u64::from_be_bytes(*area_len);
    let Ok(header) = luks::Header::parse(bytes, area_len) else {
        return;
    };
    for slot in header.slots.iter().filter(|slot| slot.active.is_some()) {
        let material = header.material(slot);
        assert!(
            luks::HEADER_LEN as u64 <= material.start && material.end <= area_len,
            "{material:?} of {area_len}"
        );
    }
}

/// A compressed cluster, behind a byte that says which kind, and how large the cluster is.
pub fn compressed_cluster(bytes: &[u8]) {
    let Some((&kind, packed)) = bytes.split_first() else {
        return;
    };
    let mut cluster = vec![0; 1 << (9 + (kind >> 1) % 13)];
    // Which error, and what an error leaves in the cluster, is nobody's promise.
    let _ = match kind & 1 {
        0 => compress::inflate_raw(packed, &mut cluster),
        _ => compress::unzstd(packed, &mut cluster),
    };
}

struct OneExport;

impl Catalog for OneExport {
    type Export = ();

    fn find(&self, name: &str) -> Option<(ExportInfo, ())> {
        let info = ExportInfo {
            name: "disk".to_owned(),
            description: "a disk".to_owned(),
            size: EXPORT_SIZE,
            flags: transmission::SEND_FLUSH,
            block_size: BlockSize::default(),
            bitmaps: Vec::new(),
        };
        matches!(name, "" | "disk").then_some((info, ()))
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![("disk".to_owned(), "a disk".to_owned())]
    }
}

/// What a server's handshake answered, and where it ended.
type Served = (Vec<u8>, Result<(Option<Agreed<()>>, usize), WireError>);

fn handshake(input: &[u8], piece: usize) -> Served {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(&mut out);
    let (mut from, mut to) = (0, piece.min(input.len()));
    loop {
        let step = handshake.advance(
            input.get(from..to).unwrap_or_default(),
            &mut out,
            &OneExport,
        );
        match step {
            Err(error) => return (out, Err(error)),
            Ok((taken, step)) => {
                from += taken;
                match step {
                    Step::Answered => {}
                    Step::Transmission(agreed) => return (out, Ok((Some(agreed), from))),
                    Step::Aborted => return (out, Ok((None, from))),
                    Step::More if to == input.len() => return (out, Ok((None, from))),
                    Step::More => to = to.saturating_add(piece).min(input.len()),
                }
            }
        }
    }
}

/// What a client sends to an NBD server: the same answers whatever pieces it comes in, and requests
/// that are performed lie within the export.
///
/// # Panics
/// When it is not so.
pub fn nbd_server(bytes: &[u8]) {
    let served = handshake(bytes, usize::MAX);
    // Seven bytes are no message's length.
    assert_eq!(served, handshake(bytes, 7), "pieces make a difference");
    let Ok((Some(agreed), from)) = served.1 else {
        return;
    };
    let terms = |read_only| Terms {
        size: agreed.info.size,
        read_only,
        structured: agreed.structured,
        status: !agreed.contexts.is_empty(),
    };
    let sent = bytes.get(from..).unwrap_or_default();
    requests(sent, &terms(true));
    requests(sent, &terms(false));
}

/// Judges requests as long as their headers are whole.
fn requests(mut sent: &[u8], terms: &Terms) {
    while let Some((head, rest)) = sent.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::parse(head) else {
            return;
        };
        assert_eq!(
            &header.to_bytes(),
            head,
            "a header is written as it was read"
        );
        let payload = match header.judge(terms) {
            Verdict::Perform(action) => perform(&action, terms),
            Verdict::Refuse { payload, .. } => payload,
            Verdict::Cut { .. } | Verdict::Disconnect => return,
        };
        let payload = usize::try_from(payload).unwrap_or(usize::MAX);
        sent = rest.get(payload..).unwrap_or_default();
    }
}

/// Checks what a server would do; the bytes of payload that follow the request.
fn perform(action: &Action, terms: &Terms) -> u32 {
    let writes = match action {
        Action::Write { .. } | Action::Trim { .. } | Action::WriteZeroes { .. } => true,
        Action::Read { .. } | Action::Flush | Action::Cache | Action::BlockStatus { .. } => false,
    };
    assert!(
        !(writes && terms.read_only),
        "a read-only export is written"
    );
    let (end, payload) = match action {
        Action::Write { offset, len, .. } => (offset.saturating_add(u64::from(*len)), *len),
        Action::Read { range, .. }
        | Action::Trim { range, .. }
        | Action::WriteZeroes { range, .. }
        | Action::BlockStatus { range, .. } => (range.end, 0),
        Action::Flush | Action::Cache => (0, 0),
    };
    assert!(end <= terms.size, "{end:#x} is behind the export");
    payload
}

/// What a server sends to an NBD client: the handshake, then replies.
pub fn nbd_client(bytes: &[u8]) {
    let mut handshake = client_handshake::Handshake::new("disk");
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        match handshake.advance(rest, &mut out) {
            Ok((taken, client_handshake::Step::Ready(_))) => {
                return replies(rest.get(taken..).unwrap_or_default());
            }
            Ok((0, client_handshake::Step::More)) | Err(_) => return,
            Ok((taken, client_handshake::Step::More)) => {
                rest = rest.get(taken..).unwrap_or_default();
            }
        }
    }
}

fn replies(mut sent: &[u8]) {
    while let Ok(Some((header, head_len))) = ReplyHeader::parse(sent) {
        assert!(head_len > 0, "an endless reply");
        let rest = sent.get(head_len..).unwrap_or_default();
        let ReplyHeader::Chunk { kind, len, .. } = header else {
            sent = rest;
            continue;
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let Some((payload, behind)) = rest.split_at_checked(len) else {
            return;
        };
        // The session decides by the kind; whatever it is, a payload is only bytes.
        let _ = reply::parse_error(kind, payload);
        let _ = reply::parse_hole(payload);
        if let Some((_, extents)) = reply::parse_block_status(payload) {
            assert!(
                extents.iter().all(|extent| extent.len > 0),
                "an empty extent"
            );
        }
        sent = behind;
    }
}
