//! Disk images of the host.
//!
//! Does: open an image, lock it against other virtual machines, say its size and block sizes, and
//! read, write, flush, discard and zero bytes of it. Does not: know requests, guests or threads: a
//! call returns when its work is done.
//!
//! Invariant: a write that was asked to be durable survives a loss of power once it has returned;
//! bytes are never read or written outside the image's size.

mod aligned;
mod lock;
mod raw;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use lock::LockError;
pub use raw::RawImage;

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Nothing is written.
    pub read_only: bool,
    /// The host's page cache is left out (`O_DIRECT`).
    pub direct: bool,
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
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its blocks.
    fn topology(&self) -> Topology;

    /// Locks it: alone for writing, with other readers for reading. The lock goes with the image,
    /// also if the process is killed.
    fn lock(&mut self) -> Result<(), LockError>;

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

/// Opens the image in `path`.
pub fn open(path: &Path, options: OpenOptions) -> Result<Box<dyn Image>, ImageError> {
    Ok(Box::new(RawImage::open(path, options)?))
}
