//! Failure detection: is the peer still there?
//!
//! Does: keep time of the last sign of life, of either kind (a heartbeat datagram; traffic of the
//! channel), and say when our own heartbeat is due. Does not: decide what follows from a suspicion;
//! being wrong is harmless, since only the flag decides (paper §2.3).
//!
//! Invariant: the peer is suspected only after a whole timeout in which we ourselves could have
//! heard it. A process that was frozen gives the peer time to be heard first.

use crate::Tick;
use crate::channel::Heartbeat;
use crate::identity::{Generation, Incarnation, VmId};

/// Watches one peer, and beats for it.
#[derive(Debug)]
pub struct FailureDetector {
    timeout: Tick,
    interval: Tick,
    us: Heartbeat,
    peer: Incarnation,
    peer_counter: u64,
    heard: Tick,
    /// What was said before was said to somebody who did not listen.
    listens_since: Tick,
    last_tick: Tick,
    next_beat: Tick,
}

impl FailureDetector {
    /// Begins to watch `peer` at `now`, in a pairing of which we are `us`.
    pub fn new(
        now: Tick,
        (timeout, interval): (Tick, Tick),
        (vm, generation): (VmId, Generation),
        us: Incarnation,
        peer: Incarnation,
    ) -> Self {
        FailureDetector {
            timeout,
            interval,
            us: Heartbeat {
                vm,
                generation,
                incarnation: us,
                counter: 0,
            },
            peer,
            peer_counter: 0,
            heard: now,
            listens_since: now,
            last_tick: now,
            next_beat: now,
        }
    }

    /// The channel brought something good.
    pub fn heard(&mut self, now: Tick) {
        self.heard = self.heard.max(now);
    }

    /// A datagram came; gives whether it was a sign of life.
    pub fn on_heartbeat(&mut self, now: Tick, datagram: &[u8]) -> bool {
        let Ok(heartbeat) = Heartbeat::decode(datagram) else {
            return false;
        };
        let expected = Heartbeat {
            incarnation: self.peer,
            counter: heartbeat.counter,
            ..self.us
        };
        if heartbeat != expected || heartbeat.counter <= self.peer_counter {
            return false;
        }
        self.peer_counter = heartbeat.counter;
        self.heard(now);
        true
    }

    /// Time passes; to be called at least once in an interval. Gives a heartbeat to send, if one is
    /// due, and whether the peer is suspected.
    pub fn on_tick(&mut self, now: Tick) -> (Option<Heartbeat>, bool) {
        self.on_tick_awaiting(now, None)
    }

    /// `on_tick` of a side that has been waiting for the channel's answer since a moment. Heartbeats
    /// do not count for that: after twice the timeout the channel is taken for dead.
    pub fn on_tick_awaiting(
        &mut self,
        now: Tick,
        since: Option<Tick>,
    ) -> (Option<Heartbeat>, bool) {
        if now.saturating_sub(self.last_tick) > self.timeout / 2 {
            // We did not listen. What the peer sent meanwhile may be waiting for us.
            self.heard = self.heard.max(now - self.timeout / 2);
            self.listens_since = now;
        }
        self.last_tick = now;
        let beat = (now >= self.next_beat).then(|| {
            self.next_beat = now + self.interval;
            self.us.counter += 1;
            self.us
        });
        let is_unanswered =
            since.is_some_and(|since| now >= since.max(self.listens_since) + 2 * self.timeout);
        (beat, is_unanswered || now >= self.heard + self.timeout)
    }

    /// When `on_tick` has something to do.
    pub fn deadline(&self) -> Tick {
        self.next_beat.min(self.heard + self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);

    fn pair(now: Tick) -> (FailureDetector, FailureDetector) {
        let pairing = (VmId([9; 16]), Generation(3));
        let times = (1000, 100);
        (
            FailureDetector::new(now, times, pairing, A, B),
            FailureDetector::new(now, times, pairing, B, A),
        )
    }

    #[test]
    fn heartbeats_keep_a_silent_peer_alive() {
        let (mut a, mut b) = pair(0);
        for now in (0..10_000).step_by(50) {
            if let (Some(beat), suspects) = a.on_tick(now) {
                assert!(!suspects || now >= 1000);
                assert!(b.on_heartbeat(now, &beat.encode()));
            }
            let (_, suspects) = b.on_tick(now);
            assert!(!suspects);
        }
        for now in (10_000..11_000).step_by(50) {
            let suspected = b.on_tick(now).1;
            assert_eq!(suspected, now >= 10_900, "{now}");
        }
        assert!(b.deadline() <= 11_000);
    }

    #[test]
    fn heartbeats_do_not_answer_for_the_channel() {
        let (mut a, mut b) = pair(0);
        for now in (0..5000).step_by(50) {
            if let Some(beat) = b.on_tick(now).0 {
                a.on_heartbeat(now, &beat.encode());
            }
            let since = (now >= 1000).then_some(1000);
            assert_eq!(a.on_tick_awaiting(now, since).1, now >= 3000, "{now}");
        }
        // Who was frozen reads first what came meanwhile.
        assert!(!a.on_tick_awaiting(60_000, Some(1000)).1);
    }

    #[test]
    fn only_new_heartbeats_of_the_peer_count() {
        let (mut a, mut b) = pair(0);
        let beat = a.on_tick(0).0.unwrap();
        assert!(b.on_heartbeat(1, &beat.encode()));
        assert!(!b.on_heartbeat(2, &beat.encode()), "replayed");
        assert!(!a.on_heartbeat(2, &beat.encode()), "our own");
        let other = Heartbeat {
            counter: 100,
            generation: Generation(2),
            ..beat
        };
        assert!(!b.on_heartbeat(3, &other.encode()), "another pairing");
        assert!(!b.on_heartbeat(3, b"garbage"));
    }

    #[test]
    fn who_was_frozen_listens_before_it_judges() {
        let (_, mut b) = pair(0);
        b.on_tick(0);
        assert!(!b.on_tick(10_000).1);
        assert!(!b.on_tick(10_400).1);
        assert!(b.on_tick(10_500).1);
    }
}
