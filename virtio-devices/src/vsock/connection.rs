//! One connection between a port of the guest and a port of the host.
//!
//! Does: keep its phase, both sides' credit (virtio 1.2, section 5.10.6.3), the bytes from the host
//! that the driver has not got yet, and what packets the driver is owed. Does not: move packets.
//!
//! Invariant: the driver never gets more than its credit allows, nor anything after it was told
//! that nothing more comes; what it may send before the host has taken it is at most [`BUFFER`].

use serde::{Deserialize, Serialize};

use super::packet::{
    Header, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RW, OP_SHUTDOWN, PAYLOAD_MAX,
    SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};

/// Bytes that the guest may send before the host has taken any.
pub const BUFFER: u32 = 128 << 10;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// The guest asked, and the host has not answered.
    Requested,
    /// The host asked, and the guest has not answered.
    Offered,
    /// Bytes may flow.
    Open,
    /// The host is gone; the guest still has to agree.
    Closing,
}

/// A connection, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// What the host calls it.
    pub(super) stream: u64,
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
    pub(super) phase: Phase,
    /// What the guest said last of its buffer.
    peer_buffer: u32,
    peer_consumed: u32,
    /// Bytes that the guest was given.
    sent: u32,
    /// Bytes that the guest has sent, and how many of them the host has taken.
    received: u32,
    consumed: u32,
    /// What the guest does no more (`SHUTDOWN_*`).
    pub(super) guest_flags: u32,
    /// What the guest was told that the host does no more, and what it is to be told.
    told_flags: u32,
    host_flags: u32,
    /// Bytes from the host that the guest has not got.
    #[serde(with = "serde_bytes")]
    backlog: Vec<u8>,
    /// The guest is owed the first packet of this side.
    owes_opening: bool,
    owes_credit: bool,
}

impl Connection {
    /// A new one. `opener` is the first packet of it that the guest sent, if it did.
    pub(super) fn new(stream: u64, ports: (u32, u32), opener: Option<&Header>) -> Self {
        let (guest_port, host_port) = ports;
        Connection {
            stream,
            guest_port,
            host_port,
            phase: match opener {
                Some(_) => Phase::Requested,
                None => Phase::Offered,
            },
            peer_buffer: opener.map_or(0, |header| header.buffer),
            peer_consumed: opener.map_or(0, |header| header.consumed),
            sent: 0,
            received: 0,
            consumed: 0,
            guest_flags: 0,
            told_flags: 0,
            host_flags: 0,
            backlog: Vec::new(),
            owes_opening: opener.is_none(),
            owes_credit: false,
        }
    }

    /// Whether the guest knows of it: it began it, or was told of it.
    pub(super) fn is_known(&self) -> bool {
        self.phase != Phase::Offered || !self.owes_opening
    }

    /// Whether the guest has no answer to wait for.
    pub(super) fn is_answered(&self) -> bool {
        self.phase != Phase::Requested && !self.owes_opening
    }

    /// Bytes from the host that the guest has not got.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Bytes that the guest has room for.
    pub(super) fn credit(&self) -> u32 {
        let outstanding = self.sent.wrapping_sub(self.peer_consumed);
        self.peer_buffer.saturating_sub(outstanding)
    }

    /// Every packet of the guest tells of its buffer.
    pub(super) fn heard(&mut self, header: &Header) {
        (self.peer_buffer, self.peer_consumed) = (header.buffer, header.consumed);
    }

    /// The guest sends so many bytes; false if it must not.
    pub(super) fn receives(&mut self, length: u32) -> bool {
        let outstanding = self.received.wrapping_sub(self.consumed);
        let is_allowed = self.guest_flags & SHUTDOWN_SEND == 0
            && u64::from(outstanding) + u64::from(length) <= u64::from(BUFFER);
        if is_allowed {
            self.received = self.received.wrapping_add(length);
        }
        is_allowed
    }

    /// The host has taken so many more.
    pub(super) fn was_consumed(&mut self, count: u32) {
        let outstanding = self.received.wrapping_sub(self.consumed);
        self.consumed = self.consumed.wrapping_add(count.min(outstanding));
        self.owes_credit = true;
    }

    /// The guest asks how much it may send.
    pub(super) fn asks_for_credit(&mut self) {
        self.owes_credit = true;
    }

    /// The connection stands.
    pub(super) fn opened(&mut self) {
        self.owes_opening = self.phase == Phase::Requested;
        self.phase = Phase::Open;
    }

    /// Whether the guest takes bytes from the host, now or later.
    pub(super) fn takes_data(&self) -> bool {
        !matches!(self.phase, Phase::Closing)
            && self.guest_flags & SHUTDOWN_RECEIVE == 0
            && self.host_flags & SHUTDOWN_SEND == 0
    }

    /// The host sends bytes.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Open && self.takes_data() {
            self.backlog.extend_from_slice(bytes);
        }
    }

    /// The host does this no more.
    pub(super) fn host_ends(&mut self, flags: u32) {
        self.host_flags |= flags;
    }

    /// The next packet that the guest is owed and may get now, with at most `room` bytes of payload.
    pub(super) fn next(&mut self, room: usize) -> Option<(Header, Vec<u8>)> {
        if self.owes_opening {
            self.owes_opening = false;
            let op = match self.phase {
                Phase::Offered => OP_REQUEST,
                _ => OP_RESPONSE,
            };
            return Some((self.header(op), Vec::new()));
        }
        if !matches!(self.phase, Phase::Open | Phase::Closing) {
            return None;
        }
        if self.guest_flags & SHUTDOWN_RECEIVE != 0 {
            self.backlog.clear();
        }
        let credit = self.credit() as usize;
        let length = self.backlog.len().min(credit).min(room).min(PAYLOAD_MAX);
        if length > 0 {
            let bytes: Vec<u8> = self.backlog.drain(..length).collect();
            self.sent = self.sent.wrapping_add(length as u32);
            let header = Header {
                length: length as u32,
                ..self.header(OP_RW)
            };
            return Some((header, bytes));
        }
        if self.backlog.is_empty() && self.told_flags != self.host_flags {
            self.told_flags = self.host_flags;
            let header = Header {
                flags: self.told_flags,
                ..self.header(OP_SHUTDOWN)
            };
            return Some((header, Vec::new()));
        }
        if std::mem::take(&mut self.owes_credit) {
            return Some((self.header(OP_CREDIT_UPDATE), Vec::new()));
        }
        None
    }

    /// Whether [`Connection::next`] would give something.
    pub(super) fn owes(&self) -> bool {
        let is_up = matches!(self.phase, Phase::Open | Phase::Closing);
        let has_data = !self.backlog.is_empty()
            && (self.credit() > 0 || self.guest_flags & SHUTDOWN_RECEIVE != 0);
        let has_end = self.backlog.is_empty() && self.told_flags != self.host_flags;
        self.owes_opening || is_up && (has_data || has_end || self.owes_credit)
    }

    fn header(&mut self, op: u16) -> Header {
        self.owes_credit = false;
        Header {
            source_port: self.host_port,
            target_port: self.guest_port,
            op,
            buffer: BUFFER,
            consumed: self.consumed,
            ..Header::default()
        }
    }
}
