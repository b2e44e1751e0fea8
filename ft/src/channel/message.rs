//! Every message of the byte stream.
//!
//! Does: turn frames into messages and messages into frames. Does not: check a message against what
//! came before it.
//!
//! Invariant: one encoding for each message, and a cap on everything in it (paper §3.2).

use hypervisor::Position;
use thiserror::Error;

use crate::channel::clone::BlobPart;
use crate::channel::{CloneEnd, Hello, HelloError, PageRun};
use crate::codec::{DecodeError, Decoder, put_bytes, put_number};
use crate::frame::{self, Frame, FrameError, Kind};
use crate::log::MAX_COMPONENT_NAME;

/// What the backup has received and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Every entry below this sequence number is checked, decoded and in the backup's buffer.
    pub next_expected: u64,
    /// Where the backup's machine stands.
    pub executed: Position,
    /// The last `Ping` received; 0 for none.
    pub echo: u64,
}

/// The backup's machine is not the primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where.
    pub position: Position,
    /// The component that differs.
    pub component: String,
    /// The primary's value.
    pub expected: u64,
    /// The backup's value.
    pub found: u64,
}

/// Why a side leaves in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoodbyeReason {
    /// Protection was switched off; the primary holds the flag.
    Disabled,
    /// The VM ended.
    PowerOff,
    /// The sender's process is shutting down.
    Shutdown,
    /// The sender cannot go on with what it was sent.
    Refused,
}

/// A message of the byte stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The primary's introduction.
    Hello(Hello),
    /// The backup's.
    HelloAck(Hello),
    /// A part of a blob.
    Blob(BlobPart),
    /// Pages of guest memory.
    RamPages(PageRun),
    /// The end of the clone.
    CloneEnd(CloneEnd),
    /// Log entries, for a `BatchReader`.
    LogBatch(&'a [u8]),
    /// Progress of the backup.
    Ack(Ack),
    /// Wants an `Ack` with this echo.
    Ping(u64),
    /// The machines differ.
    DigestMismatch(Mismatch),
    /// An orderly end, with a text for people.
    Goodbye(GoodbyeReason, String),
    /// Whether the backup's host has what a device of this configuration needs. The number names the
    /// question.
    DeviceQuery(u64, Vec<u8>),
    /// What is missing, for people; nothing if nothing is.
    DeviceAnswer(u64, String),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Not even a frame.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// A frame with a malformed payload.
    #[error("the peer sent a malformed message")]
    Malformed(#[from] DecodeError),
    /// An introduction that is none.
    #[error("the peer's introduction cannot be accepted")]
    Hello(#[from] HelloError),
    /// A kind of frame that belongs in a file.
    #[error("a {0:?} frame on a channel")]
    Misplaced(Kind),
}

const MAX_GOODBYE_TEXT: usize = 256;
const MAX_ANSWER_TEXT: usize = 480;
/// The longest configuration of a device.
pub(crate) const MAX_DEVICE_CONFIG: usize = 32 << 10;

impl<'a> Message<'a> {
    /// The message in a frame.
    pub fn decode(frame: &Frame<'a>) -> Result<Message<'a>, MessageError> {
        let payload = frame.payload;
        let mut from = Decoder::new(payload);
        let message = match frame.kind {
            Kind::FileHeader => return Err(MessageError::Misplaced(frame.kind)),
            Kind::Hello => return Ok(Message::Hello(Hello::decode(payload)?)),
            Kind::HelloAck => return Ok(Message::HelloAck(Hello::decode(payload)?)),
            Kind::Blob => return Ok(Message::Blob(BlobPart::decode(payload)?)),
            Kind::RamPages => return Ok(Message::RamPages(PageRun::decode(payload)?)),
            Kind::CloneEnd => return Ok(Message::CloneEnd(CloneEnd::decode(payload)?)),
            Kind::LogBatch => return Ok(Message::LogBatch(payload)),
            Kind::Ack => Message::Ack(Ack {
                next_expected: from.number("acknowledged count")?,
                executed: Position(from.number("executed position")?),
                echo: from.number("echo")?,
            }),
            Kind::Ping => Message::Ping(from.number("ping")?),
            Kind::DigestMismatch => Message::DigestMismatch(Mismatch {
                position: Position(from.number("position")?),
                component: from.text(MAX_COMPONENT_NAME, "component name")?,
                expected: from.fixed_u64("expected hash")?,
                found: from.fixed_u64("found hash")?,
            }),
            Kind::Goodbye => {
                let what = "goodbye reason";
                let reason = match from.byte(what)? {
                    0 => GoodbyeReason::Disabled,
                    1 => GoodbyeReason::PowerOff,
                    2 => GoodbyeReason::Shutdown,
                    3 => GoodbyeReason::Refused,
                    tag => return Err(DecodeError::UnknownTag { what, tag }.into()),
                };
                Message::Goodbye(reason, from.text(MAX_GOODBYE_TEXT, "goodbye text")?)
            }
            Kind::DeviceQuery => Message::DeviceQuery(
                from.number("question")?,
                from.bytes(MAX_DEVICE_CONFIG, "device's configuration")?
                    .to_vec(),
            ),
            Kind::DeviceAnswer => Message::DeviceAnswer(
                from.number("question")?,
                from.text(MAX_ANSWER_TEXT, "answer about a device")?,
            ),
        };
        from.finish("message")?;
        Ok(message)
    }

    /// Appends the message in its frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let kind = match self {
            Message::Hello(hello) => {
                hello.encode(&mut payload);
                Kind::Hello
            }
            Message::HelloAck(hello) => {
                hello.encode(&mut payload);
                Kind::HelloAck
            }
            Message::Blob(part) => {
                BlobPart::encode(part.kind, part.total, &part.bytes, &mut payload);
                Kind::Blob
            }
            Message::RamPages(run) => {
                PageRun::encode(run.first, &run.bytes, &mut payload);
                Kind::RamPages
            }
            Message::CloneEnd(end) => {
                end.encode(&mut payload);
                Kind::CloneEnd
            }
            Message::LogBatch(batch) => {
                payload.extend_from_slice(batch);
                Kind::LogBatch
            }
            Message::Ack(ack) => {
                put_number(&mut payload, ack.next_expected);
                put_number(&mut payload, ack.executed.0);
                put_number(&mut payload, ack.echo);
                Kind::Ack
            }
            Message::Ping(echo) => {
                put_number(&mut payload, *echo);
                Kind::Ping
            }
            Message::DigestMismatch(mismatch) => {
                put_number(&mut payload, mismatch.position.0);
                put_bytes(&mut payload, cut(&mismatch.component, MAX_COMPONENT_NAME));
                payload.extend_from_slice(&mismatch.expected.to_le_bytes());
                payload.extend_from_slice(&mismatch.found.to_le_bytes());
                Kind::DigestMismatch
            }
            Message::Goodbye(reason, text) => {
                payload.push(match reason {
                    GoodbyeReason::Disabled => 0,
                    GoodbyeReason::PowerOff => 1,
                    GoodbyeReason::Shutdown => 2,
                    GoodbyeReason::Refused => 3,
                });
                put_bytes(&mut payload, cut(text, MAX_GOODBYE_TEXT));
                Kind::Goodbye
            }
            Message::DeviceQuery(id, config) => {
                put_number(&mut payload, *id);
                put_bytes(&mut payload, config);
                Kind::DeviceQuery
            }
            Message::DeviceAnswer(id, missing) => {
                put_number(&mut payload, *id);
                put_bytes(&mut payload, cut(missing, MAX_ANSWER_TEXT));
                Kind::DeviceAnswer
            }
        };
        frame::seal(kind, &payload, out);
    }
}

/// The text, or as much of it as may be sent.
fn cut(text: &str, cap: usize) -> &[u8] {
    let mut end = text.len().min(cap);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{BlobKind, PAGE_BYTES, Role};
    use crate::frame::FrameReader;
    use crate::identity::{Generation, Incarnation, Semantics, VmId};
    use crate::log::ComponentDigest;

    /// Checks kind and payload, and that the message is read back.
    fn golden(message: &Message<'_>, kind: Kind, payload: &[u8]) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let mut reader = FrameReader::new();
        reader.feed(&bytes);
        let frame = reader.next_frame().unwrap().unwrap();
        assert_eq!((frame.kind, frame.payload), (kind, payload));
        assert_eq!(Message::decode(&frame).as_ref(), Ok(message));
        for cut in 0..payload.len() {
            let frame = Frame {
                kind,
                payload: &payload[..cut],
            };
            // A shorter tail of bytes may be a message too, but never the same one.
            assert_ne!(Message::decode(&frame).as_ref(), Ok(message));
        }
    }

    fn join(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn golden_messages() {
        let hello = Hello {
            semantics: Semantics {
                engine: "soft".into(),
                cpu_model: "m1".into(),
                number: 3,
            },
            vm: VmId([1; 16]),
            generation: Generation(300),
            incarnation: Incarnation([2; 16]),
            role: Role::Backup,
            ram_size: 512 << 20,
            heartbeat_port: 0x1234,
            timeout: 1_000_000_000,
        };
        let payload = join(&[
            b"ft-chan\n\x01\x00\x04soft\x02m1\x03",
            &[1; 16],
            &[0xac, 0x02],
            &[2; 16],
            &[1, 0x80, 0x80, 0x80, 0x80, 0x02, 0x34, 0x12],
            &[0x80, 0x94, 0xeb, 0xdc, 0x03],
        ]);
        golden(&Message::HelloAck(hello), Kind::HelloAck, &payload);
        let ack = Ack {
            next_expected: 5,
            executed: Position(200),
            echo: 0,
        };
        golden(&Message::Ack(ack), Kind::Ack, &[5, 0xc8, 0x01, 0]);
        golden(&Message::Ping(9), Kind::Ping, &[9]);
        let part = BlobPart {
            kind: BlobKind::State,
            total: 130,
            bytes: b"ab".to_vec(),
        };
        golden(
            &Message::Blob(part),
            Kind::Blob,
            &[1, 0x82, 0x01, b'a', b'b'],
        );
        let run = PageRun {
            first: 128,
            bytes: vec![7; PAGE_BYTES],
        };
        let payload = join(&[&[0x80, 0x01], &[7; PAGE_BYTES]]);
        golden(&Message::RamPages(run), Kind::RamPages, &payload);
        let end = CloneEnd {
            first_seq: 1,
            position: Position(2),
            pages_sent: 3,
            digest: vec![ComponentDigest {
                name: "cpu".into(),
                value: 4,
            }],
        };
        let payload = [1, 2, 3, 1, 3, b'c', b'p', b'u', 4, 0, 0, 0, 0, 0, 0, 0];
        golden(&Message::CloneEnd(end), Kind::CloneEnd, &payload);
        let mismatch = Mismatch {
            position: Position(1),
            component: "cpu".into(),
            expected: 2,
            found: 3,
        };
        let payload = join(&[
            &[1, 3, b'c', b'p', b'u'],
            &2u64.to_le_bytes(),
            &3u64.to_le_bytes(),
        ]);
        golden(
            &Message::DigestMismatch(mismatch),
            Kind::DigestMismatch,
            &payload,
        );
        golden(
            &Message::Goodbye(GoodbyeReason::Shutdown, "so".into()),
            Kind::Goodbye,
            &[2, 2, b's', b'o'],
        );
        golden(
            &Message::DeviceQuery(300, b"{}".to_vec()),
            Kind::DeviceQuery,
            &[0xac, 0x02, 2, b'{', b'}'],
        );
        golden(
            &Message::DeviceAnswer(300, String::new()),
            Kind::DeviceAnswer,
            &[0xac, 0x02, 0],
        );
    }

    #[test]
    fn texts_are_cut_to_what_may_be_sent() {
        let mut bytes = Vec::new();
        let long = "\u{e9}".repeat(MAX_GOODBYE_TEXT);
        Message::Goodbye(GoodbyeReason::Refused, long).encode(&mut bytes);
        let mut reader = FrameReader::new();
        reader.feed(&bytes);
        let frame = reader.next_frame().unwrap().unwrap();
        assert!(matches!(
            Message::decode(&frame),
            Ok(Message::Goodbye(_, text)) if text.len() == MAX_GOODBYE_TEXT
        ));
    }
}
