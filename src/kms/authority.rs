//! Go's gRPC clients send the socket's path as `:authority`, bare or percent-encoded. The `http` crate takes
//! neither, so h2 refuses such requests. This filter lies in front of h2 and makes the value one that it takes.
//!
//! A new value of the *same decoded length* takes the old one's place, in the same representation. HPACK's dynamic
//! tables count by length alone, so those of the client and of h2 stay in step, and neither a decoder nor a table is
//! needed here. Where nothing is wrong, or where this filter cannot make sense of what it sees, the bytes
//! go on as they came, and h2 judges them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client's half of a connection begins with, before the first frame (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const FRAME_HEADER_LENGTH: usize = 9;
/// h2's SETTINGS_MAX_FRAME_SIZE unless told otherwise.
const MAX_FRAME: usize = 16_384;
/// No more of a header block is held back. KMS requests have some hundred bytes of headers.
const MAX_HELD: usize = 32 * 1024;
const READ_SIZE: usize = 4096;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The index of `:authority` in HPACK's static table.
const AUTHORITY_INDEX: usize = 1;

/// A connection whose read half goes through the [`Filter`].
pub(super) struct Readdressed<S> {
    inner: S,
    filter: Filter,
    /// Filtered bytes that have not been read yet, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Readdressed<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, filter: Filter::default(), ready: Vec::new(), taken: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readdressed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.ready.len() {
            let mut chunk = [0; READ_SIZE];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.taken = 0;
            this.filter.push(chunk.filled(), &mut this.ready);
        }
        let rest = &this.ready[this.taken..];
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        this.taken += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readdressed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Follows the frames of a client's half of a connection.
struct Filter {
    /// How many bytes go on as they come before the next frame header; `None` when all do, until the end.
    pass: Option<usize>,
    /// The frames of the header block that is being collected, and the frame that is not complete yet.
    held: Vec<u8>,
    /// Where in `held` the frame that is being collected begins.
    frame: usize,
    /// The header block so far.
    block: Option<Block>,
}

/// A header block whose frames are being collected.
struct Block {
    stream: [u8; 4],
    flags: u8,
    priority: Vec<u8>,
    fragments: Vec<u8>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { pass: Some(PREFACE_LENGTH), held: Vec::new(), frame: 0, block: None }
    }
}

impl Filter {
    /// Takes the next bytes of the connection and adds to `out` what goes on to h2.
    fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let Some(pass) = self.pass else {
                out.extend_from_slice(input);
                return;
            };
            if pass > 0 {
                let (now, later) = input.split_at(pass.min(input.len()));
                out.extend_from_slice(now);
                self.pass = Some(pass - now.len());
                input = later;
                continue;
            }
            let have = self.held.len() - self.frame;
            let want = match self.held.get(self.frame..self.frame + FRAME_HEADER_LENGTH) {
                None => FRAME_HEADER_LENGTH,
                Some(header) => FRAME_HEADER_LENGTH + payload_length(header),
            };
            let (now, later) = input.split_at((want - have).min(input.len()));
            self.held.extend_from_slice(now);
            input = later;
            let have = have + now.len();
            if have == FRAME_HEADER_LENGTH && want == FRAME_HEADER_LENGTH {
                self.frame_header(out);
            }
            // A frame may be but its header; a payload may have been complete just now.
            if let Some(header) = self.held.get(self.frame..self.frame + FRAME_HEADER_LENGTH)
                && self.held.len() - self.frame == FRAME_HEADER_LENGTH + payload_length(header)
            {
                self.frame_end(out);
            }
        }
    }

    /// A frame's header is complete: is the frame collected, or does it go on as it comes?
    fn frame_header(&mut self, out: &mut Vec<u8>) {
        let header = &self.held[self.frame..];
        let (length, kind) = (payload_length(header), header[3]);
        let collected = match &self.block {
            Some(block) => kind == CONTINUATION && header[5..9] == block.stream,
            None => kind == HEADERS,
        };
        if collected {
            if length > MAX_FRAME || self.held.len() + length > MAX_HELD {
                self.give_up(out);
            }
        } else if self.block.is_some() {
            // A header block must not be interrupted (RFC 9113, 6.10).
            self.give_up(out);
        } else {
            out.append(&mut self.held);
            self.pass = Some(length);
        }
    }

    /// A collected frame is complete.
    fn frame_end(&mut self, out: &mut Vec<u8>) {
        let frame = &self.held[self.frame..];
        let (flags, payload) = (frame[4], &frame[FRAME_HEADER_LENGTH..]);
        match &mut self.block {
            Some(block) => block.fragments.extend_from_slice(payload),
            None => {
                let Some((priority, fragment)) = headers_payload(flags, payload) else {
                    self.give_up(out);
                    return;
                };
                self.block = Some(Block {
                    stream: [frame[5], frame[6], frame[7], frame[8]],
                    flags: flags & !(PADDED | END_HEADERS),
                    priority: priority.to_vec(),
                    fragments: fragment.to_vec(),
                });
            }
        }
        self.frame = self.held.len();
        if flags & END_HEADERS == 0 {
            return;
        }
        if let Some(block) = self.block.take() {
            match readdress(&block.fragments) {
                Some(fragments) => Block { fragments, ..block }.write(out),
                None => out.extend_from_slice(&self.held),
            }
        }
        self.held.clear();
        self.frame = 0;
    }

    /// From here on, everything goes on as it comes.
    fn give_up(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.frame = 0;
        self.block = None;
        self.pass = None;
    }
}

impl Block {
    /// The block as a HEADERS frame, and CONTINUATION frames if it has become too large for one.
    fn write(&self, out: &mut Vec<u8>) {
        let (first, mut rest) = self.fragments.split_at(self.fragments.len().min(MAX_FRAME - self.priority.len()));
        let end = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        self.frame(HEADERS, self.flags | end(rest), &[&self.priority, first], out);
        while !rest.is_empty() {
            let (next, behind) = rest.split_at(rest.len().min(MAX_FRAME));
            self.frame(CONTINUATION, end(behind), &[next], out);
            rest = behind;
        }
    }

    fn frame(&self, kind: u8, flags: u8, payload: &[&[u8]], out: &mut Vec<u8>) {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        // At most MAX_FRAME, so three bytes hold it.
        out.extend_from_slice(&length.to_be_bytes()[size_of::<usize>() - 3..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.stream);
        for part in payload {
            out.extend_from_slice(part);
        }
    }
}

fn payload_length(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// The priority fields (if any) and the fragment of the header block in a HEADERS frame (RFC 9113, 6.2).
fn headers_payload(flags: u8, mut payload: &[u8]) -> Option<(&[u8], &[u8])> {
    if flags & PADDED != 0 {
        let (&padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(padding))?)?;
    }
    payload.split_at_checked(if flags & PRIORITY == 0 { 0 } else { 5 })
}

/// The header block with an `:authority` that h2 takes; `None` if it needs no change, or cannot be read.
fn readdress(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let prefix = match first {
            0x80.. => 7,
            0x40..=0x7f => 6,
            0x20..=0x3f => 5,
            _ => 4,
        };
        let (index, behind) = integer(block, at, prefix)?;
        at = behind;
        if prefix == 7 || prefix == 5 {
            // An entry of a table, or a new size of the table: no value in either.
            continue;
        }
        let mut is_authority = index == AUTHORITY_INDEX;
        if index == 0 {
            let (name, behind) = string(block, at)?;
            is_authority = name.decode()? == b":authority";
            at = behind;
        }
        let (value, behind) = string(block, at)?;
        if is_authority && let Some(new) = acceptable(value.decode()?) {
            out.extend_from_slice(&block[copied..at]);
            write_string(&new, &mut out);
            copied = behind;
        }
        at = behind;
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&block[copied..]);
    Some(out)
}

/// A value of the same length that passes for an authority; `None` if it does already, or if it is empty.
fn acceptable(mut value: Vec<u8>) -> Option<Vec<u8>> {
    if value.is_empty() || http::uri::Authority::try_from(value.as_slice()).is_ok() {
        return None;
    }
    for byte in &mut value {
        if !byte.is_ascii_alphanumeric() && *byte != b'.' {
            *byte = b'-';
        }
    }
    Some(value)
}

/// An integer whose first byte shares its place with `8 - prefix` other bits, and what is behind it (RFC 7541, 5.1).
fn integer(bytes: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*bytes.get(at)?) & mask;
    let mut at = at + 1;
    if value < mask {
        return Some((value, at));
    }
    // Four bytes more are 28 bits: more than any length that fits into a block.
    for shift in [0, 7, 14, 21] {
        let byte = *bytes.get(at)?;
        at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// A string as it is in the block.
struct Text<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    fn decode(&self) -> Option<Vec<u8>> {
        if self.huffman { huffman::decode(self.bytes) } else { Some(self.bytes.to_vec()) }
    }
}

/// A string literal, and what is behind it (RFC 7541, 5.2).
fn string(bytes: &[u8], at: usize) -> Option<(Text<'_>, usize)> {
    let huffman = bytes.get(at)? & 0x80 != 0;
    let (length, at) = integer(bytes, at, 7)?;
    let end = at.checked_add(length)?;
    Some((Text { huffman, bytes: bytes.get(at..end)? }, end))
}

/// Writes a string literal as it is, without Huffman's code.
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 0x7f {
        out.push(length as u8);
    } else {
        out.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(text);
}

/// HPACK's Huffman code (RFC 7541, Appendix B). It is canonical: the lengths of the codes tell the codes.
mod huffman {
    const MAX_LENGTH: usize = 30;

    /// The length in bits of each byte's code.
    #[rustfmt::skip]
    const LENGTHS: [u8; 256] = [
        13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
        28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
        5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
        15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
        7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
        24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
        23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
        26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
        21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
        26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    ];

    /// The codes by their lengths: the first of each length, how many there are, and where their bytes begin in
    /// `symbols`.
    struct Codes {
        first: [u32; MAX_LENGTH + 1],
        count: [u32; MAX_LENGTH + 1],
        start: [usize; MAX_LENGTH + 1],
        symbols: [u8; 256],
    }

    const CODES: Codes = codes();

    const fn codes() -> Codes {
        let mut codes = Codes {
            first: [0; MAX_LENGTH + 1],
            count: [0; MAX_LENGTH + 1],
            start: [0; MAX_LENGTH + 1],
            symbols: [0; 256],
        };
        let (mut length, mut code, mut filled) = (1, 0_u32, 0);
        while length <= MAX_LENGTH {
            codes.first[length] = code;
            codes.start[length] = filled;
            let mut symbol = 0;
            while symbol < 256 {
                if LENGTHS[symbol] as usize == length {
                    codes.symbols[filled] = symbol as u8;
                    filled += 1;
                    codes.count[length] += 1;
                }
                symbol += 1;
            }
            code = (code + codes.count[length]) << 1;
            length += 1;
        }
        codes
    }

    /// The text that was encoded; `None` if this is no encoded text.
    pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
        // The shortest code has five bits.
        let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
        let (mut code, mut length) = (0_u32, 0);
        for byte in bytes {
            for bit in (0..8).rev() {
                code = code << 1 | u32::from(byte >> bit & 1);
                length += 1;
                let index = code.wrapping_sub(CODES.first[length]);
                if index < CODES.count[length] {
                    text.push(CODES.symbols[CODES.start[length] + index as usize]);
                    (code, length) = (0, 0);
                } else if length == MAX_LENGTH {
                    return None;
                }
            }
        }
        // What is left is padding: fewer than eight bits, all of them ones.
        (length < 8 && code == (1 << length) - 1).then_some(text)
    }
}

#[cfg(test)]
mod tests;
