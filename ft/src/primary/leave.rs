//! How a primary leaves a generation.
//!
//! Does: react to the loss of the backup, switch protection off, hand the VM over, power it off;
//! ask the flag, and do what it answers. Does not: speak to the arbiter.
//!
//! Invariant: there is no way out of a generation whose protection has begun but through the flag:
//! this side asks for itself (or, when the VM is over, for its end), and goes on or halts as the
//! answer says. Who hands over asks too, when the backup has had its time: a backup that did not
//! take over leaves the VM where it was (paper §2.3).

use super::{Command, LossReason, Phase, Primary, WrongPhase};
use crate::Tick;
use crate::arbiter::Answer;
use crate::channel::{GoodbyeReason, Message};
use crate::claim::{Claim, Outcome};
use crate::flag::Decision;
use crate::identity::Generation;

impl Primary {
    // --- What an operator decides.

    /// Switches protection off: asks the flag, then lets the backup go.
    pub fn disable(&mut self, now: Tick) -> Result<(), WrongPhase> {
        match self.phase {
            Phase::Protected { .. } => self.claim(LossReason::Disabled),
            Phase::Connecting | Phase::Beginning | Phase::Cloning { .. } => {
                self.peer_lost(now, LossReason::Disabled);
            }
            _ => return Err(WrongPhase(self.phase.name())),
        }
        self.settle(now);
        Ok(())
    }

    /// Hands the VM over. The vCPU stands still from here on; when the backup has executed
    /// everything it is told to take over, and asks the flag. Then this side asks too: it halts, or
    /// runs on if the backup did not take over.
    pub fn hand_over(&mut self, now: Tick) -> Result<(), WrongPhase> {
        if self.ending.is_some() {
            return Err(WrongPhase("powering off"));
        }
        let (
            Phase::Protected {
                verified: true,
                yields: yields @ None,
            },
            Some(session),
        ) = (&mut self.phase, &mut self.session)
        else {
            return Err(WrongPhase(self.phase.name()));
        };
        *yields = Some(now + self.settings.hand_over_timeout);
        session.flush();
        self.yield_if_caught_up(now);
        self.settle(now);
        Ok(())
    }

    /// Tells the backup to take over, if that was asked for and it stands where this side stands.
    pub(super) fn yield_if_caught_up(&mut self, now: Tick) {
        let (
            Phase::Protected {
                yields: Some(_), ..
            },
            Some(session),
        ) = (&self.phase, &mut self.session)
        else {
            return;
        };
        if session.acked != self.next_seq || session.executed != self.position {
            return;
        }
        // It may go live from here on, and this side knows of no difference.
        self.gate.shut();
        session.link.detector = None;
        let goodbye = Message::Goodbye(GoodbyeReason::Shutdown, String::new());
        session.link.send_last(&goodbye);
        self.phase = Phase::HandedOver {
            until: now + self.settings.timeout,
        };
    }

    /// Gives up a hand-over that takes too long.
    pub(super) fn hand_over_on_tick(&mut self, now: Tick) {
        match &mut self.phase {
            // The backup was not told anything yet.
            Phase::Protected { yields, .. } if yields.is_some_and(|until| now >= until) => {
                log::warn!("the backup does not catch up: it is not handed the VM");
                *yields = None;
            }
            Phase::HandedOver { until } if now >= *until => {
                self.peer_lost(now, LossReason::NotTakenOver);
            }
            _ => {}
        }
    }

    /// The entry `seq` says that the VM is over.
    pub(super) fn power_off(&mut self, seq: u64) {
        self.ending = Some(seq);
        match (&mut self.phase, &mut self.session) {
            // The generation ends when the backup knows. Nothing is handed over any more.
            (Phase::Protected { yields, .. }, Some(session)) => {
                *yields = None;
                session.flush();
            }
            // The flag, once it is asked, is asked for the end.
            (Phase::HandedOver { .. } | Phase::Claiming { .. }, _) => {}
            _ => {
                self.close();
                self.end();
            }
        }
    }

    // --- The loss of the backup.

    /// There is no backup. Before protection began this is only a pity; afterwards the flag
    /// decides.
    pub(super) fn peer_lost(&mut self, now: Tick, reason: LossReason) {
        match self.phase {
            Phase::Connecting | Phase::Beginning | Phase::Cloning { .. } => {
                self.close();
                self.phase = Phase::Unprotected;
                self.commands.push_back(Command::Unprotected(reason));
            }
            Phase::Protected { .. } | Phase::HandedOver { .. } => {
                log::info!("the backup is lost: {reason:?}");
                self.claim(reason);
                if let Some(session) = &mut self.session {
                    session.hang_up();
                }
                self.commands.push_back(Command::CloseChannel);
            }
            _ => {}
        }
        self.settle(now);
    }

    // --- The flag.

    pub(super) fn claim(&mut self, reason: LossReason) {
        let Some(session) = &mut self.session else {
            return;
        };
        let decision = if self.ending.is_some() {
            Decision::Ended
        } else {
            let by = session.hello.incarnation;
            Decision::Won { by }
        };
        session.batch_opened = None;
        self.gate.shut();
        let claim = Claim::new(decision);
        self.phase = Phase::Claiming { claim, reason };
        self.ask();
    }

    pub(super) fn ask(&mut self) {
        if let (Phase::Claiming { claim, .. }, Some(session)) = (&self.phase, &self.session) {
            self.commands.push_back(Command::Decide {
                generation: session.hello.generation,
                decision: claim.decision().clone(),
            });
        }
    }

    /// The arbiter's answer to `Command::Decide`.
    pub fn on_answer(&mut self, now: Tick, generation: Generation, answer: Answer) {
        if self.generation() != Some(generation) {
            return;
        }
        let Phase::Claiming { claim, reason } = &mut self.phase else {
            return;
        };
        match claim.answered(now, answer, self.settings.retry_interval) {
            Outcome::Waiting => {}
            Outcome::Lost(to) => {
                self.phase = Phase::Halted;
                self.close();
                self.commands.push_back(Command::Halt(to));
            }
            Outcome::Won => {
                self.gate.open();
                let reason = reason.clone();
                if self.ending.is_some() {
                    self.say_goodbye(GoodbyeReason::PowerOff);
                    self.end();
                } else {
                    self.say_goodbye(GoodbyeReason::Disabled);
                    self.phase = Phase::Unprotected;
                    self.commands.push_back(Command::Unprotected(reason));
                }
            }
        }
        self.settle(now);
    }

    // --- The connection.

    /// Tells a peer that is still connected; closes the connection when that is out.
    fn say_goodbye(&mut self, reason: GoodbyeReason) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.link.detector.take().is_some() {
            let goodbye = Message::Goodbye(reason, String::new());
            session.link.send_last(&goodbye);
        } else {
            self.session = None;
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.commands.push_back(Command::Ended);
    }

    pub(super) fn close(&mut self) {
        if self.session.take().is_some() {
            self.commands.push_back(Command::CloseChannel);
        }
    }
}
