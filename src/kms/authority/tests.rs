//! Recordings of a Go client, frames made by hand, and damaged ones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::body::Body;

use super::*;

// What grpc-go sends for v1's Version, Encrypt and Decrypt and v2's Status over one connection, as recorded ...
/// ... whose `:authority` is `/run/kms/socket.sock`.
const PATH: &str = "\
    505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000000040000000000000000040100000000000067010400000001838645 \
    9b63b8632a4615f317d681d4398b496a4ee2d9dcc42b1c4b620c7abf418f62cb6a63ad2861072752a5741c9d7f5f8b1d75d0620d263d \
    4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f8613efbefb8f5b00000e0001000000 \
    0100000000090a07763162657461310000040800000000000000001c00000806000000000002041010090e070700002c010400000003 \
    8386459b63b8632a4615f317d681d4398b496a4ee2d9dcc42b182a259eab4fc3c2c1c07f008613efbefbe1b700001400010000000300 \
    0000000f0a0776316265746131120470696e670000040800000000000000003000000806000000000002041010090e070700002c0104 \
    000000058386459b63b8632a4615f317d681d4398b496a4ee2d9dcc42b17ca4b3d569fc5c4c3c27f008613efbefbe2b7000039000100 \
    00000500000000340a07763162657461311229013e2cbd68ad5c8b65853195401831a91ea840043d73afd7e22a793b2218a51c21a9ef \
    87c9fa9f531e0000040800000000000000000b00000806000000000002041010090e07070000200104000000078386459763b897cc5f \
    5a0750e62d25a93b8b677310ac6e48d36a3fc7c6c5c4bf00000500010000000700000000000000040800000000000000003a00000806 \
    000000000002041010090e0707";

/// ... whose `:authority` is `%2Frun%2Fkms%2Fsocket.sock`.
const ENCODED: &str = "\
    505249202a20485454502f322e300d0a0d0a534d0d0a0d0a00000004000000000000000004010000000000006b010400000001838645 \
    9b63b8632a4615f317d681d4398b496a4ee2d9dcc42b1c4b620c7abf419354586cb6a54587ad2854585072752a5741c9d75f8b1d75d0 \
    620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f8613efbefbce5b00000e00 \
    010000000100000000090a07763162657461310000040800000000000000001c00000806000000000002041010090e070700002c0104 \
    000000038386459b63b8632a4615f317d681d4398b496a4ee2d9dcc42b182a259eab4fc3c2c1c07f008613efbefb8f5b000014000100 \
    000003000000000f0a0776316265746131120470696e670000040800000000000000003000000806000000000002041010090e070700 \
    002c0104000000058386459b63b8632a4615f317d681d4398b496a4ee2d9dcc42b17ca4b3d569fc5c4c3c27f008613efbefbe1b70000 \
    3900010000000500000000340a07763162657461311229013e2cbd68ad5c8b654702449b0322aed958fc4d3c09906c1a633caa400204 \
    eb5addf290f5b678d5f20000040800000000000000000b00000806000000000002041010090e07070000280104000000078386459763 \
    b897cc5f5a0750e62d25a93b8b677310ac6e48d36a3fc7c6c5c47f008613efbefbcfdb0000050001000000070000000000";

/// ... whose `:authority` is `localhost`.
const LOCALHOST: &str = "\
    505249202a20485454502f322e300d0a0d0a534d0d0a0d0a00000004000000000000000004010000000000005e010400000001838645 \
    9b63b8632a4615f317d681d4398b496a4ee2d9dcc42b1c4b620c7abf4186a0e41d139d095f8b1d75d0620d263d4c4d65647a8b9acac8 \
    b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f8613efbefb20b700000e00010000000100000000090a0776 \
    3162657461310000040800000000000000001c00000806000000000002041010090e070700002c0104000000038386459b63b8632a46 \
    15f317d681d4398b496a4ee2d9dcc42b182a259eab4fc3c2c1c07f008613efbefbed5b000014000100000003000000000f0a07763162 \
    65746131120470696e670000040800000000000000003000000806000000000002041010090e070700002c0104000000058386459b63 \
    b8632a4615f317d681d4398b496a4ee2d9dcc42b17ca4b3d569fc5c4c3c27f008613efbefbeddb00003900010000000500000000340a \
    07763162657461311229013e2cbd68ad5c8b65fc7834786c526ba22230071d4a8ce0eb558f67017f7323b60a378cbc739ea49d000004 \
    0800000000000000000b00000806000000000002041010090e07070000200104000000078386459763b897cc5f5a0750e62d25a93b8b \
    677310ac6e48d36a3fc7c6c5c4c10000050001000000070000000000";

const PATHS: [&str; 4] = [
    "/v1beta1.KeyManagementService/Version",
    "/v1beta1.KeyManagementService/Encrypt",
    "/v1beta1.KeyManagementService/Decrypt",
    "/v2.KeyManagementService/Status",
];

fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Sends a client's bytes in pieces to hyper's server behind `wrap`, and tells which requests arrive.
async fn arrive<S>(sent: &[u8], piece: usize, wrap: impl FnOnce(tokio::io::DuplexStream) -> S) -> Vec<(String, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        note.lock().unwrap().push((request.uri().path().to_owned(), authority));
        async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
    });
    let io = TokioIo::new(wrap(server));
    let served = tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
    for piece in sent.chunks(piece) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    // The end of the client's half: the server answers what it has, and ends.
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await.unwrap();
    let _ = served.await.unwrap();
    std::mem::take(&mut *seen.lock().unwrap())
}

fn all_with(authority: &str) -> Vec<(String, String)> {
    PATHS.iter().map(|path| ((*path).to_owned(), authority.to_owned())).collect()
}

#[tokio::test]
async fn recorded_requests_arrive() {
    for (recording, authority) in
        [(PATH, "-run-kms-socket.sock"), (ENCODED, "-2Frun-2Fkms-2Fsocket.sock"), (LOCALHOST, "localhost")]
    {
        // At once, by single bytes, and by pieces that fit no frame.
        for piece in [1 << 20, 1, 7, 100] {
            assert_eq!(arrive(&bytes(recording), piece, Readdressed::new).await, all_with(authority), "by {piece}");
        }
    }
}

#[tokio::test]
async fn without_the_filter_they_do_not() {
    // If this fails, h2 has become more tolerant, and the filter may go.
    for recording in [PATH, ENCODED] {
        assert_eq!(arrive(&bytes(recording), 1 << 20, |stream| stream).await, []);
    }
    assert_eq!(arrive(&bytes(LOCALHOST), 1 << 20, |stream| stream).await, all_with("localhost"));
}

/// What the filter makes of a client's bytes.
fn filtered(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Filter::default().push(input, &mut out);
    out
}

#[test]
fn nothing_wrong_is_passed_on_byte_by_byte() {
    let recording = bytes(LOCALHOST);
    assert_eq!(filtered(&recording), recording);
}

const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `:authority` with this value, by its place in the static table and put into the dynamic one.
fn authority(value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x41];
    write_string(value, &mut out);
    out
}

#[test]
fn a_block_in_pieces_with_padding_and_priority_becomes_one() {
    let block = [&[0x83, 0x86], authority(b"/a b").as_slice(), &[0x84]].concat();
    let (first, second) = block.split_at(4);
    let padded = [&[3], [0x80, 0, 0, 0, 9].as_slice(), first, &[0; 3]].concat();
    let end_stream = 0x1;
    let sent = [
        START,
        &frame(HEADERS, PADDED | PRIORITY | end_stream, 1, &padded),
        &frame(CONTINUATION, 0, 1, &second[..2]),
        &frame(CONTINUATION, END_HEADERS, 1, &second[2..]),
        &frame(0, 0, 1, b"data"),
    ]
    .concat();
    let wanted = [&[0x80, 0, 0, 0, 9, 0x83, 0x86], authority(b"-a-b").as_slice(), &[0x84]].concat();
    let wanted =
        [START, &frame(HEADERS, PRIORITY | end_stream | END_HEADERS, 1, &wanted), &frame(0, 0, 1, b"data")].concat();
    assert_eq!(filtered(&sent), wanted);
}

#[test]
fn a_block_that_grows_is_split_again() {
    // Eight bytes of the Huffman code for twelve letters and a slash at the end: it grows when it is written out.
    let mut value = vec![0b0001_1000; 9_000];
    value.truncate(9_000 / 5 * 5);
    assert_eq!(huffman::decode(&[0x18, 0xc6, 0x31, 0x8c, 0x63]).unwrap(), b"aaaaaaaa");
    let encoded: Vec<u8> = [0x18, 0xc6, 0x31, 0x8c, 0x63].repeat(2_400);
    let slash = [0x63];
    let length = encoded.len() + 1;
    let mut block = vec![0x41, 0xff];
    let mut rest = length - 0x7f;
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
    block.extend_from_slice(&encoded);
    block.extend_from_slice(&slash);
    let out = filtered(&[START, &frame(HEADERS, END_HEADERS, 1, &block)].concat());
    let header = &out[START.len()..];
    assert_eq!((payload_length(header), header[3], header[4]), (MAX_FRAME, HEADERS, 0));
    let next = &header[FRAME_HEADER_LENGTH + MAX_FRAME..];
    assert_eq!((next[3], next[4]), (CONTINUATION, END_HEADERS));
    assert_eq!(next.len(), FRAME_HEADER_LENGTH + payload_length(next));
    let value = [&header[FRAME_HEADER_LENGTH..][..MAX_FRAME], &next[FRAME_HEADER_LENGTH..]].concat();
    assert!(value.ends_with(b"aaaaaaaa-") && value.len() > 8 * 2_400);
}

#[test]
fn a_name_that_is_spelled_out_is_known() {
    let mut block = vec![0x00];
    write_string(b":authority", &mut block);
    write_string(b"/x", &mut block);
    let out = readdress(&block).unwrap();
    assert!(out.ends_with(b"\x02-x"));
    let mut other = vec![0x00];
    write_string(b"authority", &mut other);
    write_string(b"/x", &mut other);
    assert_eq!(readdress(&other), None);
}

#[test]
fn what_makes_no_sense_goes_on_as_it_came() {
    let endless = vec![0x7f; 20];
    for payload in [
        // An integer, a string and a Huffman code that break off, an integer without an end, the end-of-string code.
        vec![0x41, 0x7f],
        vec![0x41, 0x05, b'/'],
        vec![0x41, 0x82, 0xff, 0xff],
        [vec![0x41], vec![0xff; 9]].concat(),
        endless,
        vec![0x41, 0x84, 0xff, 0xff, 0xff, 0xff],
    ] {
        let sent = [START, &frame(HEADERS, END_HEADERS, 1, &payload)].concat();
        assert_eq!(filtered(&sent), sent);
    }
    // Padding longer than the frame; a block that another frame interrupts, or another stream; a frame too large.
    for frames in [
        frame(HEADERS, PADDED | END_HEADERS, 1, &[9, 1, 2]),
        frame(HEADERS, PADDED, 1, &[]),
        [frame(HEADERS, 0, 1, &authority(b"/x")), frame(0, 0, 1, b"x"), frame(HEADERS, 4, 3, &authority(b"/x"))]
            .concat(),
        [frame(HEADERS, 0, 1, &authority(b"/x")), frame(CONTINUATION, 4, 3, &[0x84])].concat(),
        frame(HEADERS, END_HEADERS, 1, &vec![0x84; MAX_FRAME + 1]),
    ] {
        let sent = [START, &frames].concat();
        assert_eq!(filtered(&sent), sent);
    }
}

#[test]
fn a_block_without_an_end_is_not_collected() {
    let mut filter = Filter::default();
    let mut out = Vec::new();
    filter.push(START, &mut out);
    filter.push(&frame(HEADERS, 0, 1, &[0x84]), &mut out);
    for _ in 0..100_000 {
        filter.push(&frame(CONTINUATION, 0, 1, &[]), &mut out);
        assert!(filter.held.len() <= MAX_HELD + FRAME_HEADER_LENGTH);
    }
    assert_eq!(filter.pass, None);
}

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn damaged_recordings_never_panic_and_hold_little() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let recordings = [bytes(PATH), bytes(ENCODED), bytes(LOCALHOST)];
    for round in 0..20_000 {
        let mut input = recordings[round % 3].clone();
        for _ in 0..=numbers.next(8) {
            let at = numbers.next(input.len());
            match numbers.next(4) {
                0 => input[at] = numbers.next(256) as u8,
                1 => input.truncate(at.max(1)),
                2 => input.insert(at, numbers.next(256) as u8),
                _ => {
                    let copy = input[at..].to_vec();
                    input.extend_from_slice(&copy);
                }
            }
        }
        let mut filter = Filter::default();
        let mut out = Vec::new();
        for piece in input.chunks(1 + numbers.next(64)) {
            filter.push(piece, &mut out);
            assert!(filter.held.len() <= MAX_HELD + FRAME_HEADER_LENGTH);
        }
        // A Huffman code has at least five bits for a byte.
        assert!(out.len() <= input.len() * 8 / 5 + 16);
    }
}

#[test]
fn huffman_codes_are_those_of_the_standard() {
    // RFC 7541, C.4 and C.6.
    for (code, text) in [
        ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
        ("a8eb10649cbf", "no-cache"),
        ("25a849e95bb8e8b4bf", "custom-value"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ] {
        assert_eq!(huffman::decode(&bytes(code)).unwrap(), text.as_bytes());
    }
    // Eight bits of padding, padding that is not ones, and the code for the end of a string.
    for code in ["a8eb10649cbfff", "a8eb10649cb8", "ffffffff"] {
        assert_eq!(huffman::decode(&bytes(code)), None, "{code}");
    }
}
