//! The decoders' entry for fuzzers: any bytes, every decoder.

use bytes::Bytes;

use super::{
    FrameBuilder, Limits, decode_descriptor, decode_frame, decode_snapshot_chunk, decode_snapshot_header,
    encode_descriptor, encode_snapshot_chunk, encode_snapshot_header,
};

/// Feeds `input` to every decoder, and checks that what one accepts survives being encoded and decoded again.
///
/// # Panics
/// Never, unless a decoder is wrong: that is what a fuzzer looks for.
pub fn fuzz_decode(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let limits = Limits::default();
    if let Ok(messages) = decode_frame(&bytes, &limits) {
        let mut builder = FrameBuilder::new();
        for message in &messages {
            builder.push(message);
        }
        assert_eq!(decode_frame(&builder.take().body(), &limits).as_ref(), Ok(&messages));
    }
    let mut out = Vec::new();
    if let Ok(descriptor) = decode_descriptor(&bytes) {
        encode_descriptor(&descriptor, &mut out);
        assert_eq!(out, input, "a descriptor has one form");
    }
    if let Ok(header) = decode_snapshot_header(&bytes, &limits) {
        out.clear();
        encode_snapshot_header(&header, &mut out);
        assert_eq!(out, input, "a header has one form");
    }
    if let Ok(chunk) = decode_snapshot_chunk(&bytes, &limits) {
        out.clear();
        encode_snapshot_chunk(&chunk, &mut out);
        assert_eq!(out, input, "a chunk has one form");
    }
    crate::link::fuzz_hello(input);
}
