//! Machines with a small kernel of our own: alone, recorded, in pairs.
//!
//! Several hosts live in this one process, each with its VMM thread and what belongs to it, and talk
//! over the loopback interface. A host that "crashes" ends its threads and closes its connections
//! without a word to its peer.

#[path = "../guest/mod.rs"]
mod guest;

mod alone;
mod divergence;
mod leaving;
mod pairs;
mod panics;
mod recording;
mod site;
mod wire;
