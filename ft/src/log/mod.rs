//! The log: everything a replaying side needs, in the order in which the primary lived it.
//!
//! Does: define entries, batches of them, and log files. Does not: decide when a batch is sent, or
//! what is done with an entry.
//!
//! Invariant: sequence numbers are dense and positions never decrease; an entry at position P
//! promises that every later one is at P or beyond, so a replaying side may run to P (paper §2.1,
//! §3.2). The bytes are described in `docs/log-format.md`.

mod batch;
mod entry;
mod file;

pub use batch::{BatchReader, BatchWriter, LogError, MAX_ENTRIES_PER_BATCH};
pub use entry::{
    Body, ComponentDigest, Control, EndReason, Entry, MAX_COMPONENT_NAME, MAX_COMPONENTS,
    MAX_ENTRY_BYTES, MAX_FRAMES, OutputMark, hash_of,
};
pub use file::{FileError, FileHeader, FileItem, FileReader, FileWriter};

pub(crate) use entry::{decode_components, encode_components};
