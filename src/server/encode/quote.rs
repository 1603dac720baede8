//! Quoting in place: a value is appended first, then looked at, and rewritten where it must be.
//!
//! Most values need nothing, so the common case is one pass over bytes that are already where they belong.

use bytes::{BufMut, BytesMut};

/// Puts `double(byte)` bytes before their own copy wherever `double` says so, in `out[start..]`; with `quote` the whole
/// stands between quotation marks.
fn rewrite(start: usize, quote: Option<u8>, before: impl Fn(u8) -> Option<u8>, out: &mut BytesMut) {
    let len = out.len() - start;
    let more = out[start..]
        .iter()
        .filter(|b| before(**b).is_some())
        .count();
    let frame = if quote.is_some() { 2 } else { 0 };
    out.put_bytes(0, more + frame);
    let body = &mut out[start..];
    let mut to = body.len();
    if let Some(quote) = quote {
        to -= 1;
        body[to] = quote;
    }
    for from in (0..len).rev() {
        let byte = body[from];
        to -= 1;
        body[to] = byte;
        if let Some(mark) = before(byte) {
            to -= 1;
            body[to] = mark;
        }
    }
    if let Some(quote) = quote {
        body[0] = quote;
    }
}

/// PostgreSQL's idea of a space in arrays and records.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Quotes the array element in `out[start..]` if it must be.
pub fn array_element(start: usize, out: &mut BytesMut) {
    let text = &out[start..];
    let special = |b: &u8| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(*b);
    if text.is_empty() || text.eq_ignore_ascii_case(b"null") || text.iter().any(special) {
        let before = |b| matches!(b, b'"' | b'\\').then_some(b'\\');
        rewrite(start, Some(b'"'), before, out);
    }
}

/// Quotes the field of a record in `out[start..]` if it must be.
pub fn record_field(start: usize, out: &mut BytesMut) {
    let text = &out[start..];
    let special = |b: &u8| matches!(b, b'"' | b'\\' | b'(' | b')' | b',') || is_space(*b);
    if text.is_empty() || text.iter().any(special) {
        let before = |b| matches!(b, b'"' | b'\\').then_some(b);
        rewrite(start, Some(b'"'), before, out);
    }
}

/// Quotes the CSV field in `out[start..]`, whether it must be or not.
pub fn csv_field(start: usize, quote: u8, escape: u8, out: &mut BytesMut) {
    let before = |b| (b == quote || b == escape).then_some(escape);
    rewrite(start, Some(quote), before, out);
}

/// The letter that stands for a control character in COPY's text format.
fn letter(byte: u8) -> Option<u8> {
    match byte {
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x0b => Some(b'v'),
        _ => None,
    }
}

/// Escapes the field of COPY's text format in `out[start..]` where it must be.
pub fn copy_text(start: usize, delimiter: u8, out: &mut BytesMut) {
    let special = |b: u8| b == b'\\' || b == delimiter || letter(b).is_some();
    // Control characters, the backslash and the delimiter: one pass, almost always without a hit.
    if out[start..].iter().any(|b| special(*b)) {
        rewrite(start, None, |b| special(b).then_some(b'\\'), out);
        let mut at = start;
        while at < out.len() {
            if out[at] == b'\\' {
                at += 1;
                out[at] = letter(out[at]).unwrap_or(out[at]);
            }
            at += 1;
        }
    }
}
