//! The channel between the two sides: one byte stream in each direction, and heartbeat datagrams.
//!
//! Does: define every message and code it, and keep bytes that wait to be written. Does not: own
//! sockets, or decide what a message means (`primary`, `backup`).
//!
//! Invariant: whatever a peer sends becomes a whole, checked message within its caps, or a typed
//! error; nothing in between changes anything (paper §2, §3.2).

mod clone;
mod heartbeat;
mod hello;
mod message;
mod outbox;

pub use clone::{
    BLOB_PART_BYTES, BlobAssembler, BlobKind, BlobPart, CloneEnd, CloneError, MAX_PAGES_PER_RUN,
    PAGE_BYTES, PageRun, nonzero_runs,
};
pub use heartbeat::{HEARTBEAT_BYTES, Heartbeat, HeartbeatError};
pub use hello::{Hello, HelloError, PROTOCOL_VERSION, Role};
pub(crate) use message::MAX_DEVICE_CONFIG;
pub use message::{Ack, GoodbyeReason, Message, MessageError, Mismatch};
pub use outbox::Outbox;
