//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian.

/// `LINKTYPE_RAW`: packets begin with their IP header.
const RAW_IP: u16 = 101;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const COMMENT: u16 = 1;
const PACKET_FLAGS: u16 = 2;
const INTERFACE_NAME: u16 = 2;
const TIMESTAMP_RESOLUTION: u16 = 9;
const USER_APPLICATION: u16 = 4;

/// Which way a packet passed an interface (`epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In = 1,
    Out = 2,
}

/// What a file begins with.
pub(super) fn section_header(out: &mut Vec<u8>) {
    block(SECTION_HEADER, out, |out| {
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        // Length of the section: not given.
        out.extend(u64::MAX.to_le_bytes());
        option(USER_APPLICATION, b"strand-reactor", out);
        end_of_options(out);
    });
}

/// An interface; they are numbered in the order of their blocks.
pub(super) fn interface(name: &str, out: &mut Vec<u8>) {
    block(INTERFACE, out, |out| {
        out.extend(RAW_IP.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        // No limit to the length of packets.
        out.extend(0u32.to_le_bytes());
        option(INTERFACE_NAME, cut(name).as_bytes(), out);
        option(TIMESTAMP_RESOLUTION, &[9], out);
        end_of_options(out);
    });
}

/// A packet; `append` appends its bytes.
pub(super) fn packet(
    interface: u32,
    unix_ns: u64,
    direction: Direction,
    comment: Option<&str>,
    out: &mut Vec<u8>,
    append: impl FnOnce(&mut Vec<u8>),
) {
    block(ENHANCED_PACKET, out, |out| {
        out.extend(interface.to_le_bytes());
        out.extend(((unix_ns >> 32) as u32).to_le_bytes());
        out.extend((unix_ns as u32).to_le_bytes());
        let lengths = out.len();
        out.extend([0; 8]);
        let start = out.len();
        append(out);
        let len = ((out.len() - start) as u32).to_le_bytes();
        out[lengths..][..4].copy_from_slice(&len);
        out[lengths + 4..][..4].copy_from_slice(&len);
        pad(start, out);
        option(PACKET_FLAGS, &(direction as u32).to_le_bytes(), out);
        if let Some(comment) = comment {
            option(COMMENT, cut(comment).as_bytes(), out);
        }
        end_of_options(out);
    });
}

/// A block: its type, its length before and behind.
fn block(kind: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = ((out.len() + 4 - start) as u32).to_le_bytes();
    out[start + 4..][..4].copy_from_slice(&len);
    out.extend(len);
}

fn option(code: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    let start = out.len();
    out.extend_from_slice(value);
    pad(start, out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// What begins at `start` ends on a multiple of four.
fn pad(start: usize, out: &mut Vec<u8>) {
    let len = (out.len() - start).next_multiple_of(4);
    out.resize(start + len, 0);
}

/// Text of at most 255 bytes: what every reader takes.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
