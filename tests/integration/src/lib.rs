//! What the integration tests, the soak runs and the demo share: real `cloud-hypervisor` and
//! `ch-remote` processes, started, watched and killed from outside.
//!
//! Does: find the binaries and the guest image; run processes on this host or in network
//! namespaces; read their consoles as they come; kill, freeze and thaw them; decide whether what
//! the consoles showed is one machine's history. Does not: look into a process by any other way
//! than an operator has.
//!
//! Invariant: everything that is started is ended, and everything that is made is removed, also
//! when a test fails. A failure says what was awaited, what was seen instead, and the seed.

pub mod bench;
pub mod chain;
pub mod clients;
pub mod console;
pub mod count;
pub mod emulation;
pub mod failure;
pub mod ft_info;
pub mod installation;
pub mod namespaces;
pub mod process;
pub mod scratch;
pub mod seed;
pub mod site;
pub mod skips;
pub mod stitch;
pub mod storage_server;

pub use failure::{Failure, Outcome};
