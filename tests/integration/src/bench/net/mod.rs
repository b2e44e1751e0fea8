//! The network benchmark: one guest, its server, and a client on the other side of a TAP device.
//!
//! Does: start the guest on QEMU or on ours, alone or protected; measure echoes, throughput and
//! computing through its network card, with the processor time of each process. Does not: judge.
//!
//! Invariant: every engine gets the same kernel, initramfs, memory and TAP device; all times are
//! taken by the client.

pub mod client;
pub mod subject;
