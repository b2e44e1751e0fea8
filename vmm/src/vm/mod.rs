//! Virtual machines that run: the threads around a machine and what they share.
//!
//! Does: drive `machine` and `ft` with the host's threads, sockets and clocks. Does not: compute
//! what a guest sees (`machine`), or decide about protection (`ft`).
//!
//! Invariant: one thread owns the machine and alone appends to its log; whatever other threads have
//! for the guest waits in the inbox until that thread comes to a boundary.
//!
//! ```text
//!  stdin ──┐                      ┌─► journal ─► role (ft) ◄──► channel thread ◄──► peer
//!  API ────┼─► inbox ─► vCPU thread                │  ▲
//!          │              live / follower          │  └─ answers ── arbiter thread ◄──► storage
//!          ├◄─ emitted ── console thread ◄── gate ─┤
//!          ├◄─ completions ─ device threads ◄─ gate ┘
//!          └◄─ values ─── digest thread
//! ```

pub mod handle;
pub mod log_replay;
pub mod pacing;

mod backends;
mod backup_role;
mod bells;
mod board;
mod brake;
mod clone_in;
mod clone_out;
mod device_counters;
mod digest_thread;
mod digests;
mod fencing;
mod follower;
mod gated;
mod hold_times;
mod hotplug;
mod inbox;
mod journal;
mod listener;
mod live;
mod outlet;
mod pairing;
mod parts;
mod payload;
mod primary_role;
mod reasons;
mod receivers;
mod recorder;
mod vcpu_thread;

#[cfg(test)]
mod tests;
