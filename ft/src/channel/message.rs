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
