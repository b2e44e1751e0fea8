//! Guest RAM, and who needs to know when it is written.
//!
//! Does: map the guest's RAM (vm-memory), read and write it by guest-physical address, keep one
//! *watch* byte per 4 KiB page, collect the writes that hit watched pages, and keep pages from
//! being written before whoever wants their hash has it.
//! Does not: know page tables, devices or the log. MMIO is somebody else's.
//!
//! Invariant: every store into guest RAM either goes through [`GuestRam::write`] (and so is seen by
//! the watches), or goes through a host pointer to a page whose watch byte is zero. That is what
//! keeps translation caches invisible and the digest complete.

mod hashes;
mod ram;

pub use hashes::{Hash, Page, PageHashes};
pub use ram::{Error, GuestRam, PAGE_SIZE, Result, WATCH_CODE, WATCH_DIRTY, WATCH_TABLE, Write};
