//! What an operator or the host side decides about a pairing.
//!
//! Does: switch protection off, hand the VM over, take other times and sizes. Does not: decide.
//!
//! Invariant: protection ends through the flag, and who hands over lets nothing out afterwards
//! (paper §2.3).

use super::{LossReason, Phase, Primary, WrongPhase};
use crate::Tick;
use crate::channel::GoodbyeReason;
use crate::settings::Settings;

impl Primary {
    /// Other times and sizes, from the next pairing on.
    pub fn configure(&mut self, settings: Settings) -> Result<(), WrongPhase> {
        match self.phase {
            Phase::Unprotected => self.settings = settings,
            _ => return Err(WrongPhase(self.phase.name())),
        }
        Ok(())
    }

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

    /// Hands the VM over: sends what there is of the log, says goodbye, and halts. The backup asks
    /// the flag as after any loss.
    pub fn hand_over(&mut self, now: Tick) -> Result<(), WrongPhase> {
        let (Phase::Protected { verified: true }, Some(session)) = (&self.phase, &mut self.session)
        else {
            return Err(WrongPhase(self.phase.name()));
        };
        session.flush();
        self.gate.shut();
        self.phase = Phase::Halted;
        self.say_goodbye(GoodbyeReason::Shutdown);
        self.settle(now);
        Ok(())
    }

    /// Whether an output that was taken, and is not emitted as a whole, may still leave now. To be
    /// asked immediately before each further part.
    pub fn may_emit(&self, now: Tick) -> bool {
        self.is_fresh(now) && !self.gate.is_shut()
    }
}
