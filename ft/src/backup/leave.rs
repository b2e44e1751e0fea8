//! How a backup leaves a generation.
//!
//! Does: react to the loss of the primary, to a difference, to the end of the VM, to an operator who
//! takes this side away; ask the flag, and go live or halt as it answers. Does not: speak to the
//! arbiter.
//!
//! Invariant: only a side that replays, has executed all it has and knows of no difference asks for
//! itself, and only the answer makes it live. A side that leaves without asking tells the primary,
//! which then asks (paper §2.3).

use super::{Backup, Command, EndedReason, HaltReason, LossReason, Phase};
use crate::Tick;
use crate::arbiter::Answer;
use crate::channel::{GoodbyeReason, Message, Mismatch};
use crate::claim::{Claim, Outcome};
use crate::flag::Decision;
use crate::identity::Generation;

impl Backup {
    /// The arbiter's answer to `Command::Decide`.
    pub fn on_answer(&mut self, now: Tick, generation: Generation, answer: Answer) {
        if self.generation() != Some(generation) {
            return;
        }
        let Phase::Claiming(claim) = &mut self.phase else {
            return;
        };
        match claim.answered(now, answer, self.settings.retry_interval) {
            Outcome::Waiting => {}
            Outcome::Lost(to) => {
                self.halt(HaltReason::Lost(to));
                self.close();
            }
            Outcome::Won => {
                self.phase = Phase::Live;
                // A primary that handed over learns by this that it is done.
                self.close();
                self.commands.push_back(Command::GoLive {
                    generation,
                    next_seq: self.reader.next_seq(),
                    position: self.executed,
                });
                self.commands.push_back(Command::Replay);
            }
        }
    }

    /// An operator takes this side away. The primary is told, and goes on without it. False if this
    /// side may already be the only one: then it must first learn what the flag says, and the VM is
    /// to be ended as one that is live.
    pub fn leave(&mut self, text: &str) -> bool {
        match self.phase {
            Phase::Draining | Phase::Claiming(_) | Phase::Live => return false,
            Phase::Receiving | Phase::Verifying { .. } | Phase::Replaying => {
                let goodbye = Message::Goodbye(GoodbyeReason::Shutdown, text.to_owned());
                self.link.detector = None;
                self.link.send_last(&goodbye);
                self.phase = Phase::Ended;
                self.commands.push_back(Command::Ended(EndedReason::Left));
            }
            _ => {}
        }
        true
    }

    pub(super) fn primary_lost(&mut self, reason: LossReason) {
        match &mut self.phase {
            Phase::Awaiting | Phase::Receiving => {
                self.halt(HaltReason::Incomplete(reason));
                self.close();
            }
            Phase::Verifying { lost } => {
                lost.get_or_insert(reason);
                self.close();
            }
            Phase::Replaying => {
                log::info!("the primary is lost: {reason:?}");
                self.phase = Phase::Draining;
                // Who said goodbye waits to see what becomes of this side.
                let is_watched = matches!(reason, LossReason::Left(..));
                self.commands.push_back(Command::PrimaryLost(reason));
                self.commands.push_back(Command::Replay);
                if is_watched {
                    self.link.detector = None;
                } else {
                    self.close();
                }
            }
            Phase::Diverged(mismatch) => {
                let reason = HaltReason::Diverged(mismatch.clone());
                self.halt(reason);
                self.close();
            }
            _ => self.close(),
        }
    }

    pub(super) fn claim(&mut self) {
        self.phase = Phase::Claiming(Claim::new(Decision::Won { by: self.offer.us }));
        self.ask();
    }

    pub(super) fn ask(&mut self) {
        if let (Phase::Claiming(claim), Some(generation)) = (&self.phase, self.generation()) {
            self.commands.push_back(Command::Decide {
                generation,
                decision: claim.decision().clone(),
            });
        }
    }

    pub(super) fn diverged(&mut self, mismatch: Mismatch) {
        let tell = Command::DigestMismatch(mismatch.clone());
        match self.phase {
            Phase::Verifying { lost: None } | Phase::Replaying | Phase::Draining
                if self.connected =>
            {
                self.link
                    .send_last(&Message::DigestMismatch(mismatch.clone()));
                self.phase = Phase::Diverged(mismatch);
                self.commands.push_back(tell);
                self.commands.push_back(Command::Replay);
            }
            Phase::Verifying { .. } | Phase::Replaying | Phase::Draining | Phase::Claiming(_) => {
                self.commands.push_back(tell);
                self.halt(HaltReason::Diverged(mismatch));
            }
            _ => {}
        }
    }

    pub(super) fn halt(&mut self, reason: HaltReason) {
        self.phase = Phase::Halted;
        self.commands.push_back(Command::Halt(reason));
        self.commands.push_back(Command::Replay);
    }

    pub(super) fn end(&mut self, reason: EndedReason) {
        self.phase = Phase::Ended;
        if let (EndedReason::PowerOff, Some(generation)) = (reason, self.generation()) {
            // No side leaves a generation without a decision. Whatever the answer, this side is
            // done.
            let decision = Decision::Ended;
            self.commands.push_back(Command::Decide {
                generation,
                decision,
            });
        }
        self.close();
        self.commands.push_back(Command::Ended(reason));
        self.commands.push_back(Command::Replay);
    }

    pub(super) fn close(&mut self) {
        self.link.detector = None;
        self.link.outbox.discard();
        self.ack_due = false;
        if std::mem::replace(&mut self.connected, false) {
            self.commands.push_back(Command::CloseChannel);
        }
    }
}
