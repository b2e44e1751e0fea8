//! The seeded simulator: the production state machines on hosts, links and an arbiter that fail.
//!
//! Does: run a toy machine protected and re-protected through crashes, freezes, partitions, delays
//! and an unreachable arbiter, all drawn from one seed, with checkers that know nothing of the
//! protocol. Does not: use sockets, threads or clocks; one seed always gives one run.
//!
//! Invariant: `run` finds no fault in the production code, and finds every `Bug` that it is told to
//! build in.

mod checkers;
mod episode;
mod faults;
mod host;
mod link;
mod machine;
mod prng;
mod process;
mod storage;
mod world;

#[allow(unused_imports, reason = "the example names it, the test does not")]
pub use world::Report;
pub use world::run;

/// A mistake built in on purpose, to see that the checkers notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Outputs leave when they are made.
    EarlyRelease,
    /// The gate is asked with the time of the last look at the clock, not with the present.
    StaleRelease,
    /// An arbiter that does not answer is taken for a yes.
    LiveWithoutArbiter,
    /// The arbiter lets everybody win.
    EverybodyWins,
    /// The backup goes live where it stood a moment before the last entry.
    LiveTooEarly,
    /// Acknowledgements promise more than was received.
    EarlyAck,
    /// The backup's machine is not deterministic.
    WrongReplay,
    /// What the machine holds as not emitted is forgotten at go-live.
    ForgottenOutput,
    /// The parts of an output after the first leave unasked.
    UnaskedParts,
    /// Who hands over leaves without asking the flag.
    LeaveWithoutAsking,
    /// The guest's power-off is not told to the backup.
    SilentPowerOff,
    /// The backup's machine is not reset when the primary's is.
    LostReset,
    /// Each side takes the other's detection timeout for longer than it is.
    ForeignTimeout,
    /// A side that went live writes over what the old side may still write.
    UnfencedWrites,
}

/// All of them.
pub const BUGS: [Bug; 14] = [
    Bug::EarlyRelease,
    Bug::StaleRelease,
    Bug::LiveWithoutArbiter,
    Bug::EverybodyWins,
    Bug::LiveTooEarly,
    Bug::EarlyAck,
    Bug::WrongReplay,
    Bug::ForgottenOutput,
    Bug::UnaskedParts,
    Bug::LeaveWithoutAsking,
    Bug::SilentPowerOff,
    Bug::LostReset,
    Bug::ForeignTimeout,
    Bug::UnfencedWrites,
];
