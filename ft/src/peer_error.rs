//! What a peer can do wrong.
//!
//! Does: name it. Does not: decide what follows; for both roles that is the loss of the peer.
//!
//! Invariant: an error here means that nothing of the message that caused it took effect.

use hypervisor::Position;
use thiserror::Error;

use crate::channel::{CloneError, HelloError, MessageError};
use crate::log::LogError;

/// Why a peer's message is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Bytes that are no message.
    #[error("the peer's bytes are no message")]
    Message(#[from] MessageError),
    /// Somebody with whom there can be no pairing.
    #[error("the peer does not fit")]
    Hello(#[from] HelloError),
    /// A clone that is none.
    #[error("the peer's clone is broken")]
    Clone(#[from] CloneError),
    /// A log that does not continue what was received.
    #[error("the peer's log is broken")]
    Log(#[from] LogError),
    /// A message that has no place here.
    #[error("the peer sent {message} while this side is {phase}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// What this side was doing.
        phase: &'static str,
    },
    /// An acknowledgement of what was not sent, or that goes back.
    #[error("the peer acknowledges below {next_expected} and executes at {executed}")]
    BadAck {
        /// The first entry not acknowledged.
        next_expected: u64,
        /// The executed position.
        executed: Position,
    },
}
