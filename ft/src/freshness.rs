//! How long an acknowledgement is worth anything.
//!
//! Does: find, for each word from the backup, a moment of the primary's own clock after which the
//! backup certainly spoke it; and say whether that is recent. Does not: detect failures
//! (`failure_detector`).
//!
//! Invariant: a backup that keeps silent still has a peer until its detection timeout is over.
//! While the last such moment is younger than three quarters of that timeout, the backup cannot
//! have claimed the flag for silence. So outputs that leave only then leave before anybody else
//! speaks for the VM, and a primary that was frozen, or whose acknowledgements were stuck on the
//! way, lets nothing out on the strength of old ones (paper §2.3; pitfall: a thawing primary).

use std::collections::VecDeque;

use crate::Tick;

/// More samples than this are never needed within one window.
const MAX_SAMPLES: usize = 64;

/// What is known about the age of the backup's last word.
#[derive(Debug)]
pub struct Freshness {
    window: Tick,
    /// The backup spoke after this moment.
    confirmed: Option<Tick>,
    /// Some of the entries that were appended, with the time.
    entries: VecDeque<(u64, Tick)>,
    /// An entry that is not acknowledged, with its time: the oldest, or one hardly younger.
    unanswered: Option<(u64, Tick)>,
    ping: u64,
    ping_sent: Option<Tick>,
}

impl Freshness {
    /// For a backup with that detection timeout.
    pub fn new(peer_timeout: Tick) -> Self {
        Freshness {
            window: peer_timeout - peer_timeout / 4,
            confirmed: None,
            entries: VecDeque::new(),
            unanswered: None,
            ping: 0,
            ping_sent: None,
        }
    }

    /// Entry `seq` came into being at `now`, and will be sent later than that.
    pub fn appended(&mut self, seq: u64, now: Tick) {
        self.unanswered.get_or_insert((seq, now));
        let spacing = self.window / MAX_SAMPLES as Tick;
        if self
            .entries
            .back()
            .is_none_or(|(_, last)| now >= last + spacing)
        {
            if self.entries.len() == MAX_SAMPLES {
                self.entries.pop_front();
            }
            self.entries.push_back((seq, now));
        }
    }

    /// The backup says that it has all entries below `next_expected`, and has seen ping `echo`.
    pub fn acknowledged(&mut self, next_expected: u64, echo: u64) {
        while let Some(&(seq, appended)) = self.entries.front()
            && seq < next_expected
        {
            self.entries.pop_front();
            self.confirm(appended);
        }
        if self.unanswered.is_some_and(|(seq, _)| seq < next_expected) {
            self.unanswered = self.entries.front().copied();
        }
        if echo == self.ping
            && let Some(sent) = self.ping_sent.take()
        {
            self.confirm(sent);
        }
    }

    fn confirm(&mut self, moment: Tick) {
        self.confirmed = Some(self.confirmed.map_or(moment, |known| known.max(moment)));
    }

    /// Whether the backup's last word is recent enough to act upon.
    pub fn is_fresh(&self, now: Tick) -> bool {
        self.confirmed
            .is_some_and(|moment| now < moment + self.window)
    }

    /// Since when the log has been waiting for an acknowledgement.
    pub fn unanswered_since(&self) -> Option<Tick> {
        self.unanswered.map(|(_, at)| at)
    }

    /// A ping to send, if one is due: at most one in an eighth of the window.
    pub fn ping(&mut self, now: Tick) -> Option<u64> {
        if let Some(sent) = self.ping_sent
            && now < sent + self.window / 8
        {
            return None;
        }
        self.ping += 1;
        self.ping_sent = Some(now);
        Some(self.ping)
    }

    /// Whether `echo` is a ping that was sent, or none.
    pub fn knows(&self, echo: u64) -> bool {
        echo <= self.ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_as_old_as_what_it_acknowledges() {
        let mut freshness = Freshness::new(1000);
        assert!(!freshness.is_fresh(0));
        freshness.appended(5, 100);
        freshness.appended(6, 200);
        freshness.acknowledged(5, 0);
        assert!(!freshness.is_fresh(201));
        freshness.acknowledged(6, 0);
        assert!(freshness.is_fresh(849));
        assert!(!freshness.is_fresh(850));
        freshness.acknowledged(7, 0);
        assert!(freshness.is_fresh(949));
        assert!(!freshness.is_fresh(950));
    }

    #[test]
    fn what_is_not_acknowledged_grows_old() {
        let mut freshness = Freshness::new(1000);
        assert_eq!(freshness.unanswered_since(), None);
        for seq in 0..10_000 {
            freshness.appended(seq, 5 + seq);
        }
        assert_eq!(freshness.unanswered_since(), Some(5));
        freshness.acknowledged(9_900, 0);
        let since = freshness.unanswered_since().unwrap();
        assert!((9_905..9_925).contains(&since), "{since}");
        freshness.acknowledged(10_000, 0);
        assert_eq!(freshness.unanswered_since(), None);
    }

    #[test]
    fn a_ping_finds_out() {
        let mut freshness = Freshness::new(1000);
        assert_eq!(freshness.ping(2000), Some(1));
        assert_eq!(freshness.ping(2050), None);
        assert_eq!(freshness.ping(2100), Some(2));
        // The first was asked long ago; only the newest counts.
        freshness.acknowledged(0, 1);
        assert!(!freshness.is_fresh(2100));
        freshness.acknowledged(0, 2);
        assert!(freshness.is_fresh(2849));
        assert!(!freshness.is_fresh(2850));
        assert!(freshness.knows(2) && !freshness.knows(3));
    }

    #[test]
    fn samples_stay_few() {
        let mut freshness = Freshness::new(1000);
        for seq in 0..100_000 {
            freshness.appended(seq, seq);
        }
        assert!(freshness.entries.len() <= MAX_SAMPLES);
        freshness.acknowledged(100_000, 0);
        assert!(freshness.is_fresh(100_700));
    }
}
