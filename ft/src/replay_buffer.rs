//! The backup's log buffer: received, not yet executed.
//!
//! Does: keep entries in order and tell the replayer what to do next. Does not: acknowledge, or
//! know why the log went silent.
//!
//! Invariant: the replayer never runs past the position of the last entry received, because the
//! next one may belong exactly there; and no entry is skipped (paper §2.1, §3.2).

use std::collections::VecDeque;

use hypervisor::Position;
use thiserror::Error;

use crate::log::{Body, Entry};

/// What the replayer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Apply this entry: the machine is at its position.
    Apply(Entry),
    /// Run to this position, not further.
    RunTo(Position),
    /// Everything received is executed.
    Empty,
}

/// The machine is beyond a position at which there is something to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the replaying machine is at {at}, beyond the entry at {entry}")]
pub struct Overrun {
    /// Where the machine is.
    pub at: Position,
    /// Where it should have stopped.
    pub entry: Position,
}

/// Entries that wait to be executed.
#[derive(Debug)]
pub(crate) struct ReplayBuffer {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The position of the last entry received.
    limit: Position,
}

impl ReplayBuffer {
    pub(crate) fn new(limit: Position) -> Self {
        ReplayBuffer {
            entries: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert!(entry.position >= self.limit);
        self.limit = entry.position;
        self.bytes += entry.weight();
        // Of consecutive watermarks only the last says anything.
        if entry.body == Body::Watermark
            && let Some(last) = self.entries.back_mut()
            && last.body == Body::Watermark
        {
            self.bytes -= last.weight();
            *last = entry;
        } else {
            self.entries.push_back(entry);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.weight();
        Some(entry)
    }

    /// What a machine at `at` does next.
    pub(crate) fn next(&mut self, at: Position) -> Result<Next, Overrun> {
        while let Some(first) = self.entries.front() {
            if at < first.position {
                // A watermark before another entry holds nobody up.
                let to = match (&first.body, self.entries.get(1)) {
                    (Body::Watermark, Some(second)) => second.position,
                    _ => first.position,
                };
                return Ok(Next::RunTo(to));
            }
            let is_watermark = first.body == Body::Watermark;
            if at > first.position && !is_watermark {
                return Err(Overrun {
                    at,
                    entry: first.position,
                });
            }
            match self.pop() {
                Some(entry) if !is_watermark => return Ok(Next::Apply(entry)),
                _ => {}
            }
        }
        if at > self.limit {
            return Err(Overrun {
                at,
                entry: self.limit,
            });
        }
        if at < self.limit {
            return Ok(Next::RunTo(self.limit));
        }
        Ok(Next::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(entries: &[(u64, bool)]) -> ReplayBuffer {
        let mut buffer = ReplayBuffer::new(Position(10));
        for (seq, (position, watermark)) in entries.iter().enumerate() {
            buffer.push(Entry {
                seq: seq as u64,
                position: Position(*position),
                body: if *watermark {
                    Body::Watermark
                } else {
                    Body::DigestHere { id: seq as u64 }
                },
            });
        }
        buffer
    }

    fn next(buffer: &mut ReplayBuffer, at: u64) -> Next {
        buffer.next(Position(at)).unwrap()
    }

    #[test]
    fn entries_are_applied_at_their_positions_and_the_last_one_is_the_limit() {
        let mut b = buffer(&[
            (10, false),
            (20, true),
            (30, false),
            (30, false),
            (40, true),
        ]);
        assert!(matches!(next(&mut b, 10), Next::Apply(e) if e.seq == 0));
        assert_eq!(next(&mut b, 10), Next::RunTo(Position(30)));
        assert!(matches!(next(&mut b, 30), Next::Apply(e) if e.seq == 2));
        assert!(matches!(next(&mut b, 30), Next::Apply(e) if e.seq == 3));
        assert_eq!(next(&mut b, 30), Next::RunTo(Position(40)));
        assert_eq!(next(&mut b, 35), Next::RunTo(Position(40)));
        assert_eq!(next(&mut b, 40), Next::Empty);
        assert_eq!(b.bytes(), 0);
        b.next(Position(41)).unwrap_err();
    }

    #[test]
    fn watermarks_are_merged_and_do_not_stop_the_machine() {
        let mut b = buffer(&[(20, true), (30, true), (40, true)]);
        assert_eq!(b.entries.len(), 1);
        assert_eq!(next(&mut b, 10), Next::RunTo(Position(40)));
        assert_eq!(next(&mut b, 40), Next::Empty);
    }

    #[test]
    fn an_overrun_is_noticed() {
        let mut b = buffer(&[(20, false)]);
        assert_eq!(
            b.next(Position(21)),
            Err(Overrun {
                at: Position(21),
                entry: Position(20)
            })
        );
    }
}
