//! Heartbeat datagrams, which show that a side lives when the log is silent.
//!
//! Does: code a datagram. Does not: send it, or judge a peer by it (`failure_detector`).
//!
//! Invariant: only a datagram of this VM, generation and peer, newer than those before it, counts
//! (paper §2.3: UDP heartbeats). It is not authenticated: that is for a protected channel.

use thiserror::Error;

use crate::identity::{Generation, Incarnation, VmId};

/// Bytes in a datagram.
pub const HEARTBEAT_BYTES: usize = 4 + 16 + 8 + 16 + 8 + 4;
const MAGIC: &[u8; 4] = b"ft\x01h";

/// One sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The VM.
    pub vm: VmId,
    /// The pairing.
    pub generation: Generation,
    /// The sender.
    pub incarnation: Incarnation,
    /// Rises with every datagram of this sender.
    pub counter: u64,
}

/// Why a datagram is no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeartbeatError {
    /// Something else, or another version.
    #[error("the datagram is no heartbeat")]
    NotOurs,
    /// A damaged one.
    #[error("the heartbeat has a bad checksum")]
    BadChecksum,
}

impl Heartbeat {
    /// The datagram.
    pub fn encode(&self) -> [u8; HEARTBEAT_BYTES] {
        let mut out = [0; HEARTBEAT_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4..20].copy_from_slice(&self.vm.0);
        out[20..28].copy_from_slice(&self.generation.0.to_le_bytes());
        out[28..44].copy_from_slice(&self.incarnation.0);
        out[44..52].copy_from_slice(&self.counter.to_le_bytes());
        let crc = crc32c::crc32c(&out[..52]);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What a datagram says.
    pub fn decode(datagram: &[u8]) -> Result<Heartbeat, HeartbeatError> {
        let bytes: &[u8; HEARTBEAT_BYTES] =
            datagram.try_into().map_err(|_| HeartbeatError::NotOurs)?;
        if bytes[..4] != *MAGIC {
            return Err(HeartbeatError::NotOurs);
        }
        if bytes[52..] != crc32c::crc32c(&bytes[..52]).to_le_bytes() {
            return Err(HeartbeatError::BadChecksum);
        }
        let id = |at: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&bytes[at..at + 16]);
            id
        };
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Ok(Heartbeat {
            vm: VmId(id(4)),
            generation: Generation(number(20)),
            incarnation: Incarnation(id(28)),
            counter: number(44),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_datagram() {
        let heartbeat = Heartbeat {
            vm: VmId([1; 16]),
            generation: Generation(2),
            incarnation: Incarnation([3; 16]),
            counter: 4,
        };
        let mut golden = b"ft\x01h".to_vec();
        golden.extend([1; 16]);
        golden.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([3; 16]);
        golden.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend(crc32c::crc32c(&golden).to_le_bytes());
        assert_eq!(heartbeat.encode()[..], golden);
        assert_eq!(Heartbeat::decode(&golden), Ok(heartbeat));
        for at in 0..golden.len() {
            let mut bad = golden.clone();
            bad[at] ^= 0x10;
            assert!(Heartbeat::decode(&bad).is_err(), "byte {at}");
        }
        assert_eq!(
            Heartbeat::decode(&golden[1..]),
            Err(HeartbeatError::NotOurs)
        );
    }
}
