//! What a primary has only while there is, or is to be, a backup.
//!
//! Does: keep the link, the log that is being sent and what the backup said about it. Does not:
//! decide what follows from it.
//!
//! Invariant: an acknowledgement never goes back, nor beyond what was appended (paper §3.2).

use hypervisor::Position;

use crate::Tick;
use crate::channel::{Ack, Hello};
use crate::freshness::Freshness;
use crate::lag::LagMeter;
use crate::link::Link;
use crate::log::BatchWriter;
use crate::peer_error::PeerError;

/// What exists only while there is, or is to be, a backup.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hello: Hello,
    pub(super) peer: Option<Hello>,
    pub(super) link: Link,
    pub(super) log: BatchWriter,
    pub(super) batch_opened: Option<Tick>,
    pub(super) log_started: u64,
    pub(super) acked: u64,
    pub(super) executed: Position,
    pub(super) lag: LagMeter,
    pub(super) freshness: Freshness,
}

impl Session {
    pub(super) fn flush(&mut self) {
        self.log.seal(self.link.outbox.end());
        self.batch_opened = None;
    }

    /// Whether the open batch is old enough to be sent.
    pub(super) fn is_flush_due(&self, now: Tick, interval: Tick) -> bool {
        self.batch_opened.is_some_and(|at| now >= at + interval)
    }

    /// Nothing is sent to the peer any more, and it is not watched; whether it was until now.
    pub(super) fn hang_up(&mut self) -> bool {
        self.link.hang_up()
    }

    /// Nothing of a wrong acknowledgement takes effect.
    pub(super) fn on_ack(
        &mut self,
        ack: &Ack,
        next_seq: u64,
        position: Position,
    ) -> Result<(), PeerError> {
        let in_order = (self.acked..=next_seq).contains(&ack.next_expected)
            && (self.executed..=position).contains(&ack.executed)
            && self.freshness.knows(ack.echo);
        if !in_order {
            return Err(PeerError::BadAck {
                next_expected: ack.next_expected,
                executed: ack.executed,
            });
        }
        self.acked = ack.next_expected;
        self.executed = ack.executed;
        self.lag.executed(ack.executed);
        self.freshness.acknowledged(ack.next_expected, ack.echo);
        Ok(())
    }
}
