//! The host: the only place with clocks, sockets, terminals and files.
//!
//! Does: small, concrete pieces that the rest of the VMM is wired from. Does not: know the machine
//! or decide anything about protection.
//!
//! Invariant: what a piece reads from the host reaches the machine as an input or not at all.
#![allow(clippy::disallowed_methods)]

pub mod api_socket;
pub mod arbiter_thread;
pub mod bell;
pub mod card;
pub mod channel_thread;
pub mod clock;
pub mod console_sink;
pub mod console_socket;
pub mod disk;
pub mod entropy;
pub mod event_monitor;
pub mod fence;
pub mod file_arbiter;
pub mod keyboard;
pub mod logger;
pub mod memory;
pub mod pty;
pub mod random;
pub mod rate_limiter;
pub mod request_thread;
pub mod signals;
pub mod sleeper;
pub mod tap_thread;
pub mod tcp;
pub mod terminal;
pub mod udp;
pub mod unix_listener;
pub mod vsock;
