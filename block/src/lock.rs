//! Locks on images, as Cloud Hypervisor takes them.
//!
//! Does: open-file-description locks over a file, and a look whether there is one. Does not: wait
//! for one.
//!
//! Invariant: a lock belongs to the open file; it ends when that is closed, by whatever means, and
//! not before the last call that used the file has returned.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use thiserror::Error;

/// How much of a file is locked. Either kind collides with the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockGranularity {
    /// The bytes that it has when it is locked.
    #[default]
    ByteRange,
    /// All that it could ever have. Some storage enforces such a lock against everybody.
    Full,
}

/// Why there is no lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process uses it: for writing, or for reading while this one wants to write.
    #[error("another process has locked it; an image that is written has one user only")]
    Taken,
    /// The host does not lock it.
    #[error("the host does not lock it")]
    Host(#[from] io::Error),
}

fn request(kind: i32, length: u64) -> libc::flock {
    // SAFETY: all fields of a flock may be zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // Zero means: without end.
    request.l_len = libc::off_t::try_from(length).unwrap_or(0);
    request
}

/// Locks `file`, which has `length` bytes: alone if it is to be written.
pub(crate) fn lock(
    file: &File,
    read_only: bool,
    granularity: LockGranularity,
    length: u64,
) -> Result<(), LockError> {
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    let length = match granularity {
        LockGranularity::ByteRange => length,
        LockGranularity::Full => 0,
    };
    let request = request(kind, length);
    // SAFETY: the descriptor is open, and the kernel only reads the flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => LockError::Taken,
        _ => LockError::Host(error),
    })
}

/// Whether another open file holds a lock on any byte of `file` that excludes writing.
pub(crate) fn is_taken(file: &File) -> io::Result<bool> {
    let mut request = request(libc::F_WRLCK, 0);
    // SAFETY: the descriptor is open, and the kernel writes the flock only.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request.l_type != libc::F_UNLCK as libc::c_short)
}
