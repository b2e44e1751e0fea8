//! Locks on images, as Cloud Hypervisor takes them.
//!
//! Does: open-file-description locks over a whole file. Does not: wait for one.
//!
//! Invariant: a lock belongs to the open file; it ends when that is closed, by whatever means.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use thiserror::Error;

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

/// Locks `file`: alone if it is to be written.
pub(crate) fn lock(file: &File, read_only: bool) -> Result<(), LockError> {
    // SAFETY: all fields of a flock may be zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
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
