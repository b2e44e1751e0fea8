//! Packets of the socket device (virtio 1.2, section 5.10.6).
//!
//! Does: read and write their header. Does not: know what they mean for a connection.
//!
//! Invariant: a header that was read has a payload that is there and at most [`PAYLOAD_MAX`] long.

use memory::GuestRam;

use crate::ring::{Broken, Chain, gather, part, total};

/// Bytes of a header.
pub(super) const HEADER: usize = 44;
/// The most bytes behind it.
pub(super) const PAYLOAD_MAX: usize = 64 << 10;

/// The only type that is offered: streams.
pub(super) const TYPE_STREAM: u16 = 1;

// What a packet is for.
pub(super) const OP_REQUEST: u16 = 1;
pub(super) const OP_RESPONSE: u16 = 2;
pub(super) const OP_RST: u16 = 3;
pub(super) const OP_SHUTDOWN: u16 = 4;
pub(super) const OP_RW: u16 = 5;
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// `OP_SHUTDOWN`: the sender receives no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `OP_SHUTDOWN`: the sender sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    /// Bytes of payload.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes that the sender keeps of what it receives.
    pub(super) buffer: u32,
    /// Bytes that were taken from there.
    pub(super) consumed: u32,
}

impl Header {
    /// Of a packet that the driver sends, with its payload.
    pub(super) fn read(ram: &GuestRam, chain: &Chain) -> Result<(Self, Vec<u8>), Broken> {
        let payload = total(&chain.readable).checked_sub(HEADER as u64);
        let payload = payload.ok_or(Broken)?;
        let bytes = gather(ram, &part(&chain.readable, 0, HEADER as u64));
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let header = Header {
            source_cid: double(0),
            target_cid: double(8),
            source_port: word(16),
            target_port: word(20),
            length: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buffer: word(36),
            consumed: word(40),
        };
        let length = u64::from(header.length);
        if length > payload || length > PAYLOAD_MAX as u64 {
            return Err(Broken);
        }
        let begin = HEADER as u64;
        let data = gather(ram, &part(&chain.readable, begin, begin + length));
        Ok((header, data))
    }

    /// As the driver reads it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.source_cid.to_le_bytes().to_vec();
        bytes.extend(self.target_cid.to_le_bytes());
        for word in [self.source_port, self.target_port, self.length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        for word in [self.flags, self.buffer, self.consumed] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}
