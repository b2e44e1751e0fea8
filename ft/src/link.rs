//! One connection to a peer, as both roles have it.
//!
//! Does: keep what was received and not yet understood, what is to be written, and the watch over
//! the peer. Does not: know what a message means.
//!
//! Invariant: after the last words nothing is added; the connection may be closed when they are
//! out.

use crate::channel::{Message, Outbox};
use crate::failure_detector::FailureDetector;
use crate::frame::FrameReader;

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) frames: FrameReader,
    pub(crate) outbox: Outbox,
    pub(crate) detector: Option<FailureDetector>,
    closing: bool,
}

impl Link {
    pub(crate) fn send(&mut self, message: &Message<'_>) {
        if !self.closing {
            message.encode(self.outbox.end());
        }
    }

    /// Sends the last message of this side.
    pub(crate) fn send_last(&mut self, message: &Message<'_>) {
        self.send(message);
        self.closing = true;
    }

    /// Nothing is sent any more, and nobody watched; whether the peer was watched until now.
    pub(crate) fn hang_up(&mut self) -> bool {
        self.outbox.discard();
        self.closing = false;
        self.detector.take().is_some()
    }

    /// Whether the last words are out.
    pub(crate) fn is_over(&self) -> bool {
        self.closing && self.outbox.is_empty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }
}

/// The name of a message in an error.
pub(crate) fn name_of(message: &Message<'_>) -> &'static str {
    match message {
        Message::Hello(_) => "an introduction",
        Message::HelloAck(_) => "an answer to an introduction",
        Message::Blob(_) => "a blob",
        Message::RamPages(_) => "pages",
        Message::CloneEnd(_) => "the end of a clone",
        Message::LogBatch(_) => "log entries",
        Message::Ack(_) => "an acknowledgement",
        Message::Ping(_) => "a ping",
        Message::DigestMismatch(_) => "a digest mismatch",
        Message::Goodbye(..) => "a goodbye",
        Message::DeviceQuery(..) => "a question about a device",
        Message::DeviceAnswer(..) => "an answer about a device",
    }
}
