//! Disk images of the host.
//!
//! Does: open an image's file, lock it against other virtual machines, find out its format, say its
//! size and block sizes, and read, write, flush, discard and zero bytes of it. Does not: know
//! requests, guests or threads: a call returns when its work is done.
//!
//! Invariant: a write that was asked to be durable survives a loss of power once it has returned;
//! bytes are never read or written outside the image's size. A file is opened first, locked then,
//! and read last, so that nothing is known of it from the time of its previous user.

mod aligned;
mod file;
mod format;
mod lock;
mod qcow2;
mod raw;
mod ring;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use file::ImageFile;
pub use format::Format;
pub use lock::{LockError, LockGranularity};
pub use ring::{Ended, Ring};

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Nothing is written.
    pub read_only: bool,
    /// The host's page cache is left out (`O_DIRECT`).
    pub direct: bool,
    /// The format; absent: it is found out from the content.
    pub format: Option<Format>,
    /// An image may name another one below it.
    pub backing_files: bool,
    /// How much of the file is locked.
    pub lock_granularity: LockGranularity,
}

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The host does not open it.
    #[error("cannot open the disk image '{}'", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It has not a single sector, or is no file at all.
    #[error("'{}' is no disk image: it is {what}", path.display())]
    NoImage {
        /// The image.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Nobody here reads its format.
    #[error(
        "the disk image '{}' has the format {format}, which is not supported; convert it with \
         qemu-img convert -O raw",
        path.display()
    )]
    UnknownFormat {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// It is not what its format's rules ask for.
    #[error("the disk image '{}' is no sound {format} image", path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What is wrong.
        source: io::Error,
    },
    /// It names another image below it, and nobody allowed that.
    #[error(
        "the disk image '{}' needs its backing file '{backing}'; allow that with backing_files=on",
        path.display()
    )]
    BackingFile {
        /// The image.
        path: PathBuf,
        /// The image below it.
        backing: String,
    },
    /// Somebody else uses it.
    #[error("cannot lock the disk image '{}'", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// Why.
        source: LockError,
    },
}

/// Sizes of an image's blocks, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The least that can be read or written.
    pub logical_block: u32,
    /// The least that is written without reading first.
    pub physical_block: u32,
}

/// An open image.
pub trait Image: Send {
    /// Its format.
    fn format(&self) -> Format;

    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its blocks.
    fn topology(&self) -> Topology;

    /// A way to have several requests under way, if the format has one; an error if this host has
    /// not. The calls below can be made beside it, for what overlaps nothing under way.
    fn ring(&self) -> Option<io::Result<Ring>> {
        None
    }

    /// Reads from the byte `offset` on.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes from the byte `offset` on.
    fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()>;

    /// Makes all writes that have returned durable.
    fn flush(&mut self) -> io::Result<()>;

    /// The content is not needed any more.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// The content becomes zeros, and its space may be given back.
    fn write_zeroes(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// Refuses what is not wholly within `size` bytes.
fn check_bounds(size: u64, offset: u64, length: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "beyond the end of the disk",
        )),
    }
}
