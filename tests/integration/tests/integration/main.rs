//! Real binaries, a real kernel, real kills.
//!
//! They need the binaries of profile `checked` and the guest image; `scripts/test.sh` makes both.
//! `CH_SEED` repeats random choices, `CH_FAILOVERS` sets the length of the chain of failovers.

mod balloon;
mod boot;
mod clients;
mod clock;
mod consoles;
mod determinism;
mod disk;
mod fencing;
mod footprint;
mod hotplug;
mod net;
mod pair;
mod peers;
mod refusals;
mod replay;
mod survivors;
mod vsock;
