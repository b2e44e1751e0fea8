//! Asking the arbiter, until it answers.
//!
//! Does: keep what is asked and whether an answer is awaited, and ask again after a while when
//! there was none. Does not: speak to the arbiter; the host side does, on a thread of its own.
//!
//! Invariant: one question at a time, always the same one, until it is won or lost; nothing but an
//! answer ends it (paper §2.3: who cannot reach the shared storage waits).

use crate::Tick;
use crate::arbiter::Answer;
use crate::flag::Decision;

/// An open question to the arbiter.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    decision: Decision,
    /// `None` while an answer is awaited.
    ask_again: Option<Tick>,
}

/// What an answer means for the one who asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Won,
    Lost(Decision),
    /// Nothing yet.
    Waiting,
}

impl Claim {
    /// Asks for `decision`: the caller emits the question now.
    pub(crate) fn new(decision: Decision) -> Self {
        Claim {
            decision,
            ask_again: None,
        }
    }

    pub(crate) fn decision(&self) -> &Decision {
        &self.decision
    }

    pub(crate) fn answered(&mut self, now: Tick, answer: Answer, retry_interval: Tick) -> Outcome {
        if self.ask_again.is_some() {
            // An answer that nobody awaits. It may be one to a question asked before, but those
            // were the same.
            log::debug!("an answer of the arbiter that was not awaited");
        }
        match answer {
            Answer::Won => Outcome::Won,
            Answer::Lost { to } => Outcome::Lost(to),
            Answer::Unreachable => {
                self.ask_again = Some(now + retry_interval);
                Outcome::Waiting
            }
        }
    }

    /// Whether the question is to be emitted again.
    pub(crate) fn on_tick(&mut self, now: Tick) -> bool {
        let due = self.ask_again.is_some_and(|at| now >= at);
        if due {
            self.ask_again = None;
        }
        due
    }

    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.ask_again
    }
}
