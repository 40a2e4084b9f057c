//! Lets in the clients that name the socket's path as the authority of their requests.
//!
//! gRPC's C core (Python, C++, Ruby) writes `:authority: tmp%2Fagent.sock` over a unix socket, Java `/tmp/agent.sock`. Neither
//! is an authority to the HTTP library, which ends the request with a protocol error before anybody sees it. Nothing here
//! looks at the authority, so its value is written over on its way in, with as many bytes as it has: neither frames nor the
//! header compression (RFC 7541) change, whose table counts lengths.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A longer frame is an error to the library, which never allowed one.
const MAXIMUM_HEADERS_BYTES: usize = 16_384;
/// `:authority` in the compression's Huffman code.
const AUTHORITY_AS_HUFFMAN: [u8; 8] = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// A client's connection whose requests name an authority that the library takes.
pub(super) struct Tamed<S> {
    stream: S,
    /// Bytes that pass as they are.
    passing: usize,
    /// A frame's header, and the whole frame when that holds a request's headers.
    frame: Vec<u8>,
    /// How much of `frame` the reader has; none before it is whole.
    handed: Option<usize>,
}

impl<S> Tamed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, passing: PREFACE_BYTES, frame: Vec::new(), handed: None }
    }

    /// How many bytes of the frame are needed before anything is known or handed on.
    fn needed(&self) -> usize {
        match frame_of(&self.frame) {
            Some((HEADERS, _, length)) if length <= MAXIMUM_HEADERS_BYTES => FRAME_HEADER_BYTES + length,
            _ => FRAME_HEADER_BYTES,
        }
    }

    /// Once a frame's header, or the frame, is whole.
    fn complete(&mut self) {
        let Some((kind, flags, length)) = frame_of(&self.frame) else { return };
        if self.frame.len() == FRAME_HEADER_BYTES + length && kind == HEADERS {
            if let Some(block) = self.frame.get_mut(FRAME_HEADER_BYTES..).and_then(|frame| block_of(frame, flags)) {
                tame(block);
            }
        } else {
            self.passing = length;
        }
        self.handed = Some(0);
    }
}

/// Type, flags and length of a frame, once its header is whole.
fn frame_of(frame: &[u8]) -> Option<(u8, u8, usize)> {
    let &[a, b, c, kind, flags, ..] = frame.get(..FRAME_HEADER_BYTES)? else { return None };
    Some((kind, flags, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
}

/// The compressed headers in a frame's content.
fn block_of(content: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let padding = if flags & PADDED == 0 { 0 } else { 1 + usize::from(*content.first()?) };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = content.len().checked_sub(padding.saturating_sub(1))?;
    content.get_mut(before..end)
}

/// Writes over the values of `:authority` that are no authority. Headers that cannot be followed are the library's to refuse.
fn tame(block: &mut [u8]) {
    let mut at = 0;
    while let Some(next) = field(block, at) {
        at = next;
    }
}

/// Goes past one header field (RFC 7541, 6); tells where the next begins.
fn field(block: &mut [u8], at: usize) -> Option<usize> {
    let first = *block.get(at)?;
    let prefix_bits = match first {
        0x80.. => 7,
        0x40.. => 6,
        0x20.. => 5,
        _ => 4,
    };
    let (name, mut next) = integer(block, at, prefix_bits)?;
    // A whole field of the table, or the table's new size.
    if first & 0x80 != 0 || first & 0xe0 == 0x20 {
        return Some(next);
    }
    let mut is_authority = name == 1;
    if name == 0 {
        let (start, end) = string(block, next)?;
        let (is_huffman, name) = (block.get(next)? & 0x80 != 0, block.get(start..end)?);
        is_authority = if is_huffman { name == AUTHORITY_AS_HUFFMAN } else { name == b":authority" };
        next = end;
    }
    let (start, end) = string(block, next)?;
    if is_authority && !is_plain(block.get(start..end)?, block.get(next)? & 0x80 != 0) {
        *block.get_mut(next)? &= 0x7f;
        block.get_mut(start..end)?.fill(b'x');
    }
    Some(end)
}

/// Whether a value is surely an authority: letters, digits, and what stands between host and port.
fn is_plain(value: &[u8], is_huffman: bool) -> bool {
    !is_huffman && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(byte))
}

/// A number with a prefix of so many bits (RFC 7541, 5.1), and where it ends.
fn integer(block: &[u8], at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << prefix_bits) - 1;
    let mut number = usize::from(*block.get(at)?) & most;
    let mut next = at + 1;
    if number < most {
        return Some((number, next));
    }
    // Four bytes say more than a frame can hold.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(next)?);
        next += 1;
        number += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number, next));
        }
    }
    None
}

/// Where the bytes of a text begin and end (RFC 7541, 5.2).
fn string(block: &[u8], at: usize) -> Option<(usize, usize)> {
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    Some((start, end))
}

impl<S: AsyncRead + Unpin> AsyncRead for Tamed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while this.handed.is_none() && this.passing == 0 {
            let have = this.frame.len();
            let mut rest = [0; 512];
            let wanted = (this.needed() - have).min(rest.len());
            let mut part = ReadBuf::new(rest.get_mut(..wanted).unwrap_or_default());
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
            if part.filled().is_empty() {
                // The client hung up amid a frame: the library is to see what there was of it.
                this.handed = Some(0);
                break;
            }
            this.frame.extend_from_slice(part.filled());
            if this.frame.len() == this.needed() {
                this.complete();
            }
        }
        if let Some(handed) = this.handed {
            let rest = this.frame.get(handed..).unwrap_or_default();
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(rest.get(..count).unwrap_or_default());
            this.handed = Some(handed + count);
            if handed + count == this.frame.len() {
                this.handed = None;
                this.frame.clear();
            }
            return Poll::Ready(Ok(()));
        }
        let wanted = this.passing.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        this.passing -= count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tamed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S> Connected for Tamed<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// As `grpcio` 1.85 sends it.
    const PYTHON: &[u8] =
        b"@\x05:path\x08/A.B/Foo@\n:authority\x12tmp%2Fh2t%2Fa.sock\x83\x86@\x0ccontent-type\x10application/grpc";

    fn tamed(block: &[u8]) -> Vec<u8> {
        let mut block = block.to_vec();
        tame(&mut block);
        block
    }

    #[test]
    fn only_an_authority_that_is_none_is_written_over_and_nothing_moves() {
        let written = tamed(PYTHON);
        let text = String::from_utf8_lossy(&written).into_owned();
        assert!(text.contains(":authority\u{12}xxxxxxxxxxxxxxxxxx"), "{text}");
        assert_eq!(
            text.replace("xxxxxxxxxxxxxxxxxx", "tmp%2Fh2t%2Fa.sock").as_bytes(),
            String::from_utf8_lossy(PYTHON).as_bytes()
        );
        // Indexed name; literal without indexing; never indexed.
        for first in [0x41, 0x01, 0x11] {
            assert_eq!(
                tamed(&[&[first, 6], &b"/a.s/k"[..], &[0x83]].concat()),
                [&[first, 6], &b"xxxxxx"[..], &[0x83]].concat()
            );
            let good = [&[first, 9], &b"localhost"[..]].concat();
            assert_eq!(tamed(&good), good);
        }
        // `/a` in the Huffman code, whose name is in it too.
        let huffman = [&[0x40, 0x88], &AUTHORITY_AS_HUFFMAN[..], &[0x82, 0x60, 0x7f]].concat();
        assert_eq!(tamed(&huffman), [&[0x40, 0x88], &AUTHORITY_AS_HUFFMAN[..], &[0x02, b'x', b'x']].concat());
        // Another header may say what it likes.
        let other = [&[0x40, 4], &b"user"[..], &[3], &b"%2F"[..]].concat();
        assert_eq!(tamed(&other), other);
    }

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], content].concat()
    }

    async fn through(mut sent: &[u8], at_once: usize) -> Vec<u8> {
        let mut stream = Tamed::new(&mut sent);
        let (mut heard, mut buffer) = (Vec::new(), vec![0; at_once]);
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return heard,
                count => heard.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[tokio::test]
    async fn requests_are_found_between_other_frames_however_they_are_read() {
        let padded = [&[3, 0, 0, 0, 0, 9], PYTHON, &[0, 0, 0]].concat();
        let pieces = |block: &[u8]| {
            let padded = [&padded[..6], block, &[0, 0, 0]].concat();
            let data = vec![0x41; 40_000];
            [
                vec![7; PREFACE_BYTES],
                frame(4, 0, &[]),
                frame(HEADERS, 4, block),
                frame(0, 0, &data),
                frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
                frame(0, 1, PYTHON),
            ]
            .concat()
        };
        let (sent, expected) = (pieces(PYTHON), pieces(&tamed(PYTHON)));
        assert_ne!(sent, expected);
        for at_once in [1, 7, 512, 100_000] {
            assert!(through(&sent, at_once).await == expected, "{at_once} bytes at once");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_keeps_its_length(bytes in proptest::collection::vec(any::<u8>(), 0..600), at_once in 1_usize..64) {
            let mut sent = vec![0; PREFACE_BYTES];
            sent.extend(frame(HEADERS, bytes.first().copied().unwrap_or(0), &bytes));
            sent.extend(&bytes);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(through(&sent, at_once)).len(), sent.len());
        }
    }
}
