//! Fault tolerance as pure state machines.
//!
//! Does: the log, the channel, both roles, the output rule, failure detection, lag, and the flag
//! that excludes split brain (Scales, Nelson, Venkitachalam 2010, cited by section). Does not:
//! sockets, files, clocks, threads or random numbers. Bytes and ticks come in; bytes and commands
//! go out. The simulator in `ft/sim` runs the same code as production.
//!
//! Invariant: what a client can see is the history of one machine.

pub mod arbiter;
pub mod backup;
pub mod channel;
pub mod failure_detector;
pub mod flag;
pub mod frame;
pub mod freshness;
pub mod identity;
pub mod lag;
pub mod log;
pub mod output_rule;
pub mod primary;

mod claim;
mod codec;
mod divergence;
mod link;
mod peer_error;
mod replay_buffer;
mod settings;

pub use codec::DecodeError;
pub use peer_error::PeerError;
pub use replay_buffer::Overrun;
pub use settings::Settings;

/// Nanoseconds of a host's monotonic clock, from any origin.
pub type Tick = u64;
