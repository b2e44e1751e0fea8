//! The envelope around everything that is written to a channel or a log file.
//!
//! Does: put marker, version, kind, length and checksum around a payload, and take them off a byte
//! stream that arrives in arbitrary pieces. Does not: look into payloads.
//!
//! Invariant: a payload is handed out only whole, with a good checksum, and within the cap of its
//! kind; after the first bad byte the reader gives the same error for ever. See
//! `docs/log-format.md`. Paper §3.2.
//!
//! ```text
//! 0xF1 │ kind │ length, LEB128 │ CRC-32C, little-endian │ payload
//! ```

use thiserror::Error;

use crate::codec::{DecodeError, Decoder, put_number};

/// The version that this build speaks, in the low half of the first byte.
pub const VERSION: u8 = 1;
const MARKER: u8 = 0xf0;
/// Marker, kind, four bytes of length, checksum.
const LONGEST_HEADER: usize = 1 + 1 + 4 + 4;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The beginning of a log file.
    FileHeader = 0,
    /// A batch of log entries.
    LogBatch = 1,
    /// The primary's introduction.
    Hello = 2,
    /// The backup's answer to it.
    HelloAck = 3,
    /// A part of a configuration, state or payload blob.
    Blob = 4,
    /// Some consecutive pages of guest memory.
    RamPages = 5,
    /// The end of the clone.
    CloneEnd = 6,
    /// What the backup has received and executed.
    Ack = 7,
    /// A question whose answer shows that the backup is still one.
    Ping = 8,
    /// The backup computed something else than the primary.
    DigestMismatch = 9,
    /// An orderly end.
    Goodbye = 10,
    /// Whether the backup's host has what a device needs.
    DeviceQuery = 11,
    /// The answer to that.
    DeviceAnswer = 12,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0 => Kind::FileHeader,
            1 => Kind::LogBatch,
            2 => Kind::Hello,
            3 => Kind::HelloAck,
            4 => Kind::Blob,
            5 => Kind::RamPages,
            6 => Kind::CloneEnd,
            7 => Kind::Ack,
            8 => Kind::Ping,
            9 => Kind::DigestMismatch,
            10 => Kind::Goodbye,
            11 => Kind::DeviceQuery,
            12 => Kind::DeviceAnswer,
            _ => return None,
        })
    }

    /// The longest payload.
    pub const fn cap(self) -> usize {
        match self {
            Kind::LogBatch => 256 << 10,
            Kind::Blob => (256 << 10) + 32,
            Kind::RamPages => (1 << 20) + 32,
            Kind::CloneEnd => 16 << 10,
            Kind::FileHeader | Kind::Hello | Kind::HelloAck => 1 << 10,
            Kind::Ack | Kind::Ping => 64,
            Kind::DeviceQuery => 33 << 10,
            Kind::DigestMismatch | Kind::Goodbye | Kind::DeviceAnswer => 512,
        }
    }
}

/// Why a byte stream is not, or is no longer, one of frames.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The first byte of a frame is none of ours.
    #[error("the byte {0:#04x} begins no frame")]
    NoFrame(u8),
    /// A frame of another version.
    #[error("the frame has version {0}, this build speaks {VERSION}")]
    WrongVersion(u8),
    /// A kind that this version does not have.
    #[error("the frame is of the unknown kind {0}")]
    UnknownKind(u8),
    /// A payload longer than its kind may be.
    #[error("a {kind:?} frame of {length} bytes, the cap is {cap}")]
    Oversized {
        /// The frame's kind.
        kind: Kind,
        /// The length that it claims.
        length: u64,
        /// The most that is accepted.
        cap: usize,
    },
    /// The length is not a well-formed number.
    #[error("the frame's length is malformed")]
    BadLength,
    /// The checksum is not that of the bytes.
    #[error("the {kind:?} frame has a bad checksum")]
    BadChecksum {
        /// The frame's kind.
        kind: Kind,
    },
    /// The stream ended inside a frame.
    #[error("the stream ends {count} bytes into a frame")]
    Truncated {
        /// How many bytes of the frame there are.
        count: usize,
    },
}

/// Appends `payload` in its envelope to `out`.
///
/// # Panics
/// If the payload is above its kind's cap: callers split before they come here.
pub fn seal(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= kind.cap(), "oversized {kind:?} frame");
    let start = out.len();
    out.push(MARKER | VERSION);
    out.push(kind as u8);
    put_number(out, payload.len() as u64);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// A whole, checked frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The payload.
    pub payload: &'a [u8],
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that belong to frames already handed out.
    consumed: usize,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. After an error they are dropped.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is there in whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match parse(&self.buffer[self.consumed..]) {
            Ok(None) => Ok(None),
            Ok(Some((kind, header, length))) => {
                let start = self.consumed + header;
                self.consumed = start + length;
                Ok(Some(Frame {
                    kind,
                    payload: &self.buffer[start..start + length],
                }))
            }
            Err(error) => {
                self.buffer = Vec::new();
                self.consumed = 0;
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Fails if the stream, having ended here, ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.buffer.len() - self.consumed {
            0 => Ok(()),
            count => Err(FrameError::Truncated { count }),
        }
    }
}

/// Kind, header length and payload length of the frame at the front, if it is whole and good.
fn parse(bytes: &[u8]) -> Result<Option<(Kind, usize, usize)>, FrameError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    if first & 0xf0 != MARKER {
        return Err(FrameError::NoFrame(first));
    }
    if first & 0x0f != VERSION {
        return Err(FrameError::WrongVersion(first & 0x0f));
    }
    let Some(&kind) = bytes.get(1) else {
        return Ok(None);
    };
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    let numeral = &bytes[2..bytes.len().min(LONGEST_HEADER - 4)];
    let mut decoder = Decoder::new(numeral);
    let length = match decoder.number("frame length") {
        Ok(length) => length,
        Err(DecodeError::Truncated { .. }) if numeral.len() < 4 => return Ok(None),
        Err(_) => return Err(FrameError::BadLength),
    };
    if length > kind.cap() as u64 {
        let cap = kind.cap();
        return Err(FrameError::Oversized { kind, length, cap });
    }
    let length = length as usize;
    let covered = 2 + numeral.len() - decoder.take_rest().len();
    let header = covered + 4;
    let Some(payload) = bytes.get(header..header + length) else {
        return Ok(None);
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..covered]), payload);
    if bytes[covered..header] != crc.to_le_bytes() {
        return Err(FrameError::BadChecksum { kind });
    }
    Ok(Some((kind, header, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal(kind, payload, &mut out);
        out
    }

    #[test]
    fn golden_frame() {
        assert_eq!(
            sealed(Kind::Ping, b"abc"),
            [0xf1, 8, 3, 0x78, 0xc3, 0x84, 0x1e, b'a', b'b', b'c']
        );
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_frames() {
        let long = vec![7u8; 40_000];
        let mut stream = sealed(Kind::Ping, b"abc");
        stream.extend(sealed(Kind::LogBatch, &long));
        stream.extend(sealed(Kind::Goodbye, b""));
        for piece in [1, 2, 3, 7, 1000, stream.len()] {
            let mut reader = FrameReader::new();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                reader.feed(bytes);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push((frame.kind, frame.payload.to_vec()));
                }
            }
            assert_eq!(reader.finish(), Ok(()));
            assert_eq!(
                seen,
                [
                    (Kind::Ping, b"abc".to_vec()),
                    (Kind::LogBatch, long.clone()),
                    (Kind::Goodbye, Vec::new())
                ]
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sealed(Kind::LogBatch, b"some entries");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new();
            reader.feed(&bad);
            let result = reader.next_frame().map(|frame| frame.is_some());
            // A longer length waits for bytes that never come: found at the end of the stream.
            assert_ne!(result, Ok(true), "bit {bit}");
            assert!(result.is_err() || reader.finish().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn errors_are_typed_and_stay() {
        let cases: [(&[u8], FrameError); 5] = [
            (b"GET / HTTP/1.1\r\n", FrameError::NoFrame(b'G')),
            (&[0xf2, 1, 0], FrameError::WrongVersion(2)),
            (&[0xf1, 99], FrameError::UnknownKind(99)),
            (&[0xf1, 1, 0x80, 0x80, 0x80, 0x80], FrameError::BadLength),
            (
                &[0xf1, 7, 65],
                FrameError::Oversized {
                    kind: Kind::Ack,
                    length: 65,
                    cap: 64,
                },
            ),
        ];
        for (bytes, error) in cases {
            let mut reader = FrameReader::new();
            reader.feed(bytes);
            assert_eq!(reader.next_frame(), Err(error.clone()));
            reader.feed(&sealed(Kind::Ping, b""));
            assert_eq!(reader.next_frame(), Err(error));
        }
        let mut reader = FrameReader::new();
        reader.feed(&sealed(Kind::Ping, b"abc")[..5]);
        assert_eq!(reader.next_frame(), Ok(None));
        assert_eq!(reader.finish(), Err(FrameError::Truncated { count: 5 }));
    }
}
