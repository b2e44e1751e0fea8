//! The replay: what the backup's machine does next.
//!
//! Does: give out entries and positions in order, compare outputs and digests on the way, and ask
//! the flag when, the primary being lost, everything is executed. Does not: run the machine.
//!
//! Invariant: the machine is never sent beyond the last entry received; and the flag is not asked
//! while a digest of this side is still being computed that the primary's is known for (paper §2.1,
//! §2.2).

use hypervisor::Position;
use machine::Output;

use super::{Backup, Command, EndedReason, Phase, Replay};
use crate::channel::Mismatch;
use crate::log::{Body, ComponentDigest, Control};
use crate::replay_buffer::{Next, Overrun};

impl Backup {
    /// What a machine that stands at `at` does next.
    pub fn replay(&mut self, at: Position) -> Result<Replay, Overrun> {
        match self.phase {
            Phase::Replaying | Phase::Draining => {}
            Phase::Live => return Ok(Replay::GoLive),
            Phase::Awaiting | Phase::Receiving | Phase::Verifying { .. } | Phase::Claiming(_) => {
                return Ok(Replay::Wait);
            }
            Phase::Diverged(_) | Phase::Halted | Phase::Ended => return Ok(Replay::Stop),
        }
        self.executed = at;
        loop {
            let entry = match self.buffer.next(at)? {
                Next::RunTo(position) => return Ok(Replay::RunTo(position)),
                Next::Apply(entry) => entry,
                Next::Empty => {
                    if let Phase::Draining = self.phase
                        && !self.comparison.is_own_digest_awaited()
                    {
                        self.claim();
                    }
                    return Ok(Replay::Wait);
                }
            };
            let compared = match &entry.body {
                Body::Output(mark) => self.comparison.primary_output(at, mark),
                Body::DigestValue { id, components } => {
                    self.comparison.primary_digest(*id, components.clone())
                }
                Body::DigestHere { id } => {
                    self.comparison.digest_here(*id, at);
                    return Ok(Replay::Apply(entry));
                }
                Body::Control(Control::PowerOff) => {
                    self.end(EndedReason::PowerOff);
                    return Ok(Replay::Apply(entry));
                }
                Body::Control(Control::EndOfLog(reason)) => {
                    self.end(EndedReason::EndOfLog(*reason));
                    return Ok(Replay::Apply(entry));
                }
                Body::Input(_) | Body::Control(_) | Body::Watermark => {
                    return Ok(Replay::Apply(entry));
                }
            };
            if let Err(mismatch) = compared {
                self.diverged(mismatch);
                return Ok(Replay::Stop);
            }
        }
    }

    /// The replaying machine made this output, which goes nowhere.
    pub fn own_output(&mut self, output: &Output) {
        self.comparison.own_output(output);
    }

    /// This side's values for a digest that `replay` asked for; they may come later.
    pub fn own_digest(&mut self, id: u64, components: Vec<ComponentDigest>) {
        match self.comparison.own_digest(id, components) {
            Err(mismatch) => self.diverged(mismatch),
            // It may have been the last thing to wait for.
            Ok(()) if matches!(self.phase, Phase::Draining) => {
                self.commands.push_back(Command::Replay);
            }
            Ok(()) => {}
        }
    }

    /// The machine cannot go on as the log says: an overrun, an input that does not apply.
    pub fn on_replay_failure(&mut self, component: &str) {
        self.diverged(Mismatch {
            position: self.executed,
            component: component.to_owned(),
            expected: 0,
            found: 0,
        });
    }
}
