//! Streams between the guest and programs of its host, as vsock has them.
//!
//! Does: name what the guest does with them (commands, which are outputs) and what the host does
//! (events, which are inputs). Does not: know packets or sockets.
//!
//! Invariant: a stream's name is never used for two streams that are there at once. Those that the
//! guest begins have even names, chosen by the device; those that the host begins have odd ones,
//! chosen by the host.

use serde::{Deserialize, Serialize};

/// What the guest does with a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamCommand {
    /// It wants one to this port of the host.
    Connect {
        /// The stream.
        stream: u64,
        /// The port.
        port: u32,
    },
    /// It accepts one that the host began.
    Accept {
        /// The stream.
        stream: u64,
    },
    /// It sends bytes.
    Send {
        /// The stream.
        stream: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// It sends no more.
    Finish {
        /// The stream.
        stream: u64,
    },
    /// It neither sends nor receives any more, or never did.
    Close {
        /// The stream.
        stream: u64,
    },
    /// All streams are closed: the device was reset.
    CloseAll,
}

impl StreamCommand {
    /// Bytes that it holds.
    pub fn length(&self) -> usize {
        match self {
            StreamCommand::Send { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// Gives what identifies it, piece by piece, to a hash.
    pub(crate) fn identify(&self, feed: &mut dyn FnMut(&[u8])) {
        let (tag, stream, number) = match self {
            StreamCommand::Connect { stream, port } => (16, *stream, u64::from(*port)),
            StreamCommand::Accept { stream } => (17, *stream, 0),
            StreamCommand::Send { stream, bytes } => (18, *stream, bytes.len() as u64),
            StreamCommand::Finish { stream } => (19, *stream, 0),
            StreamCommand::Close { stream } => (20, *stream, 0),
            StreamCommand::CloseAll => (21, 0, 0),
        };
        feed(&[tag]);
        feed(&stream.to_le_bytes());
        feed(&number.to_le_bytes());
        if let StreamCommand::Send { bytes, .. } = self {
            feed(bytes);
        }
    }
}

/// What the host does with a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamEvent {
    /// It wants one to a port of the guest.
    Incoming {
        /// The stream.
        stream: u64,
        /// The port that it comes from.
        host_port: u32,
        /// The guest's port.
        port: u32,
    },
    /// Somebody accepted one that the guest began.
    Opened {
        /// The stream.
        stream: u64,
    },
    /// It sends bytes.
    Data {
        /// The stream.
        stream: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Of what the guest sent, so many more bytes have been taken.
    Consumed {
        /// The stream.
        stream: u64,
        /// How many.
        count: u32,
    },
    /// It sends no more.
    Finished {
        /// The stream.
        stream: u64,
    },
    /// It neither sends nor receives any more, or never did.
    Closed {
        /// The stream.
        stream: u64,
    },
    /// All streams are lost: this is another host.
    Lost,
}
