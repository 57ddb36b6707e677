//! Messages as brokers hand them out: one frame after the other in the body of an answer.
//!
//! The client crate reads LZ4 as raw blocks, while Java writes the frame format; and from the first message on that it
//! cannot read, it drops the rest of the answer without a word, and its consumer goes on behind them. So compressed
//! bodies are hidden from it: each frame is checked before the crate sees it, loses its sign of compression, and ruyi
//! decompresses by itself, where a body that cannot be read has an owner: it becomes a dead letter.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};

/// Where the offset of a message in its queue stands.
const OFFSET: usize = 20;
/// Where the flags of a frame stand.
const FLAGS: usize = 36;
/// The body is compressed.
const IS_COMPRESSED: i32 = 1;
/// By what: three bits, 0 for Zlib in messages of old clients.
const KIND_SHIFT: i32 = 8;
const KIND_MASK: i32 = 0b111 << KIND_SHIFT;
/// Addresses of 16 bytes instead of 4.
const BORN_V6: i32 = 1 << 4;
const STORED_V6: i32 = 1 << 5;
/// First bytes of the two layouts; the second one has two bytes for the length of the topic.
const MAGIC: i32 = -626_843_481;
const MAGIC_LONG_TOPIC: i32 = -626_843_477;
/// First bytes of an LZ4 frame. Clients in Rust write blocks instead.
const LZ4_FRAME: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// No body grows beyond this: some hundred bytes can stand for gigabytes.
const LARGEST_BODY: usize = 64 << 20;

/// What a body is compressed with, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Lz4 = 1,
    Zstd = 2,
    Zlib = 3,
}

impl Compression {
    /// Of the body that belongs to the flags of a [marked](mark) frame; none: it is as its producer wrote it.
    fn of(flags: i32) -> Result<Option<Self>, String> {
        match (flags & KIND_MASK) >> KIND_SHIFT {
            0 => Ok(None),
            1 => Ok(Some(Self::Lz4)),
            2 => Ok(Some(Self::Zstd)),
            3 => Ok(Some(Self::Zlib)),
            other => Err(format!("the body is compressed by a method that RocketMQ 5.4 does not have ({other})")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "LZ4",
            Self::Zstd => "ZSTD",
            Self::Zlib => "ZLIB",
        }
    }
}

/// Why an answer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message at byte {at} of the answer, offset {offset} of queue {queue}: {reason}")]
pub(super) struct FrameError {
    at: usize,
    queue: i32,
    offset: i64,
    reason: &'static str,
}

/// Checks every message of an answer, and takes the sign of compression off those that have it; what compresses them
/// stays in their flags. `None`: there was nothing to change.
///
/// # Errors
/// [`FrameError`] when one of them has a form that the client would stumble over: then none of them may be passed on.
pub(super) fn mark(answer: &Bytes) -> Result<Option<Bytes>, FrameError> {
    let mut marked: Option<BytesMut> = None;
    let mut at = 0;
    while at < answer.len() {
        let (length, flags) = check(answer, at)?;
        let kind = flags & KIND_MASK;
        let hidden = match (flags & IS_COMPRESSED != 0, kind) {
            (true, 0) => Some(flags & !IS_COMPRESSED | (Compression::Zlib as i32) << KIND_SHIFT),
            (true, _) => Some(flags & !IS_COMPRESSED),
            (false, 0) => None,
            (false, _) => Some(flags & !KIND_MASK),
        };
        if let Some(hidden) = hidden {
            let copy = marked.get_or_insert_with(|| BytesMut::from(&answer[..]));
            copy[at + FLAGS..at + FLAGS + 4].copy_from_slice(&hidden.to_be_bytes());
        }
        at += length;
    }
    Ok(marked.map(BytesMut::freeze))
}

/// The offsets of the messages of a [checked](mark) answer, in their order.
pub(super) fn offsets(answer: &Bytes) -> impl Iterator<Item = i64> {
    let mut rest = &answer[..];
    std::iter::from_fn(move || {
        let length = rest.first_chunk().map(|length| i32::from_be_bytes(*length))?;
        let offset = rest.get(OFFSET..).and_then(<[u8]>::first_chunk).map(|offset| i64::from_be_bytes(*offset))?;
        rest = rest.get(usize::try_from(length).ok().filter(|length| *length > 0)?..)?;
        Some(offset)
    })
}

/// The length and the flags of the message that begins there.
fn check(answer: &Bytes, at: usize) -> Result<(usize, i32), FrameError> {
    let mut rest = answer.slice(at..);
    let peek = |from: usize, to: usize| answer.get(at + from..at + to);
    let queue = peek(12, 16).map_or(-1, |mut bytes| bytes.get_i32());
    let offset = peek(20, 28).map_or(-1, |mut bytes| bytes.get_i64());
    let flags = peek(FLAGS, FLAGS + 4).map_or(0, |mut bytes| bytes.get_i32());
    let wrong = |reason| FrameError { at, queue, offset, reason };

    let length = rest.try_get_i32().ok().and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= answer.len() - at).ok_or(wrong("its length is wrong"))?;
    let magic = rest.try_get_i32().unwrap_or_default();
    if magic != MAGIC && magic != MAGIC_LONG_TOPIC {
        return Err(wrong("it begins with no sign of a message"));
    }
    let address = |flag| if flags & flag == 0 { 8 } else { 20 };
    let head = FLAGS - 8 + 4 + 8 + address(BORN_V6) + 8 + address(STORED_V6) + 4 + 8;
    take(&mut rest, head).ok_or(wrong("it ends within its head"))?;
    sized(&mut rest, 4).ok_or(wrong("it ends within its body"))?;
    let topic = sized(&mut rest, if magic == MAGIC { 1 } else { 2 }).ok_or(wrong("it ends within its topic"))?;
    if std::str::from_utf8(&topic).is_err() {
        return Err(wrong("its topic is no text"));
    }
    sized(&mut rest, 2).ok_or(wrong("it ends within its properties"))?;
    // The crate goes on where a message has ended, the broker meant where its length says.
    if answer.len() - at - rest.len() == length { Ok((length, flags)) } else { Err(wrong("its length is wrong")) }
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= rest.len()).then(|| rest.split_to(length))
}

/// Bytes behind their length, which is a number of so many bytes.
fn sized(rest: &mut Bytes, width: usize) -> Option<Bytes> {
    let mut length = take(rest, width)?;
    let length = match width {
        1 => usize::from(length.get_u8()),
        2 => usize::try_from(length.get_i16()).ok()?,
        _ => usize::try_from(length.get_i32()).ok()?,
    };
    take(rest, length)
}

/// A body as its producer wrote it, from the one of a marked message and its flags; and why not, where it cannot be
/// decompressed: then it is as the broker has it.
pub(super) fn restored(body: Bytes, flags: i32) -> (Bytes, Option<String>) {
    let compression = match Compression::of(flags) {
        Ok(None) => return (body, None),
        Ok(Some(compression)) => compression,
        Err(reason) => return (body, Some(reason)),
    };
    match decompressed(&body, compression) {
        Ok(text) => (text, None),
        Err(reason) => {
            let reason = format!("the body cannot be decompressed ({}): {reason}", compression.name());
            (body, Some(reason))
        }
    }
}

fn decompressed(body: &[u8], compression: Compression) -> Result<Bytes, String> {
    match compression {
        Compression::Lz4 if !body.starts_with(&LZ4_FRAME) => {
            let size = body.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
            if usize::try_from(size).is_ok_and(|size| size > LARGEST_BODY) {
                return Err(too_large());
            }
            let text = lz4_flex::block::decompress_size_prepended(body).map_err(|error| error.to_string())?;
            Ok(text.into())
        }
        Compression::Lz4 => read(lz4_flex::frame::FrameDecoder::new(body)),
        Compression::Zstd => read(zstd::Decoder::new(body).map_err(|error| error.to_string())?),
        Compression::Zlib => read(flate2::read::ZlibDecoder::new(body)),
    }
}

fn read(from: impl Read) -> Result<Bytes, String> {
    let mut text = Vec::new();
    let limit = u64::try_from(LARGEST_BODY).unwrap_or(u64::MAX);
    from.take(limit + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() > LARGEST_BODY { Err(too_large()) } else { Ok(text.into()) }
}

fn too_large() -> String {
    format!("it is over {} MiB when decompressed", LARGEST_BODY >> 20)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::BufMut;

    use super::*;

    fn frame(flags: i32, body: &[u8], topic: &[u8]) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.put_i32(MAGIC);
        rest.put_i32(0);
        rest.put_i32(3);
        rest.put_i32(0);
        rest.put_i64(7);
        rest.put_i64(0);
        rest.put_i32(flags);
        let addresses = [BORN_V6, STORED_V6].map(|flag| if flags & flag == 0 { 8 } else { 20 });
        rest.put_bytes(0, 8 + addresses[0] + 8 + addresses[1] + 4 + 8);
        rest.put_i32(body.len().try_into().unwrap());
        rest.put_slice(body);
        rest.put_u8(topic.len().try_into().unwrap());
        rest.put_slice(topic);
        rest.put_i16(0);
        let mut frame = Vec::new();
        frame.put_i32(i32::try_from(rest.len() + 4).unwrap());
        frame.put_slice(&rest);
        frame
    }

    fn flags_of(frame: &[u8]) -> i32 {
        i32::from_be_bytes(frame[FLAGS..FLAGS + 4].try_into().unwrap())
    }

    #[test]
    fn compression_is_hidden_and_kept() {
        for (flags, hidden) in [
            (IS_COMPRESSED, 3 << KIND_SHIFT),
            (IS_COMPRESSED | 1 << KIND_SHIFT | BORN_V6, 1 << KIND_SHIFT | BORN_V6),
            (2 << KIND_SHIFT | STORED_V6, STORED_V6),
        ] {
            let answer = Bytes::from([frame(0, b"a", b"T"), frame(flags, b"bc", b"T")].concat());
            let marked = mark(&answer).unwrap().unwrap();
            let first = frame(0, b"a", b"T").len();
            assert_eq!((marked.len(), flags_of(&marked), flags_of(&marked[first..])), (answer.len(), 0, hidden));
        }
        let answer = Bytes::from([frame(0, b"a", b"T"), frame(STORED_V6, b"bcd", b"T")].concat());
        assert_eq!(offsets(&answer).collect::<Vec<_>>(), [7, 7]);
        assert_eq!(offsets(&Bytes::new()).count(), 0);
        assert_eq!(mark(&Bytes::from(frame(BORN_V6, b"", b"T"))), Ok(None));
        assert_eq!(mark(&Bytes::new()), Ok(None));
    }

    #[test]
    fn what_the_client_would_stumble_over_is_told() {
        let sound = frame(0, b"body", b"T");
        let broken = |at: usize, byte: u8| {
            let mut frame = sound.clone();
            frame[at] = byte;
            Bytes::from([sound.clone(), frame].concat())
        };
        for (answer, reason) in [
            (broken(3, 1), "its length is wrong"),
            (broken(3, 200), "its length is wrong"),
            (broken(5, 9), "it begins with no sign of a message"),
            (broken(FLAGS + 3, 0x30), "it ends within its head"),
            (broken(sound.len() - 3, 0xff), "its topic is no text"),
            (Bytes::from([sound.clone(), vec![0, 0]].concat()), "its length is wrong"),
        ] {
            let error = mark(&answer).unwrap_err();
            assert_eq!((error.at, error.reason), (sound.len(), reason));
        }
    }

    #[test]
    fn bodies_of_all_methods_are_restored() {
        let text = Bytes::from("{\"orderId\":7}".repeat(1_000));
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&text).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(&text).unwrap();
        for (kind, body) in [
            (Compression::Lz4, lz4.finish().unwrap()),
            (Compression::Lz4, lz4_flex::block::compress_prepend_size(&text)),
            (Compression::Zstd, zstd::encode_all(&text[..], 3).unwrap()),
            (Compression::Zlib, zlib.finish().unwrap()),
        ] {
            let flags = (kind as i32) << KIND_SHIFT;
            assert_eq!(restored(body.clone().into(), flags), (text.clone(), None));
            let half = Bytes::from(body[..body.len() / 2].to_vec());
            let (kept, reason) = restored(half.clone(), flags);
            assert!(kept == half && reason.unwrap().contains(kind.name()));
        }
        let (body, reason) = restored(text.clone(), 5 << KIND_SHIFT);
        assert!(body == text && reason.unwrap().contains("(5)"));
        let much = vec![0_u8; LARGEST_BODY + 1];
        let (_, reason) = restored(zstd::encode_all(&much[..], 1).unwrap().into(), 2 << KIND_SHIFT);
        assert!(reason.unwrap().contains("over 64 MiB"));
    }
}
