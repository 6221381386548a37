//! Sequence numbers: 32 bits that wrap (RFC 9293, section 3.4).

/// Whether `a` comes before `b`.
#[inline]
pub(crate) fn lt(a: u32, b: u32) -> bool {
    // The distance as a signed number: right as long as both lie within 2^31 of each other.
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` comes before `b`, or is it.
#[inline]
pub(crate) fn le(a: u32, b: u32) -> bool {
    !lt(b, a)
}

/// The later of two.
#[inline]
pub(crate) fn max(a: u32, b: u32) -> u32 {
    if lt(a, b) { b } else { a }
}

/// The number `len` bytes after `a`.
#[inline]
pub(crate) fn after(a: u32, len: usize) -> u32 {
    // Buffers are far below 4 GiB.
    a.wrapping_add(len as u32)
}

/// Bytes from `a` up to `b`; 0 when `b` is not after it.
#[inline]
pub(crate) fn distance(a: u32, b: u32) -> usize {
    if lt(a, b) { b.wrapping_sub(a) as usize } else { 0 }
}
