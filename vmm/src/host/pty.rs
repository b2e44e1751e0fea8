//! Pseudo-terminals of this host.
//!
//! Does: open one, in raw mode, and tell whether anybody has its other end open. Does not: read or
//! write.
//!
//! Invariant: the main end does not block, and nobody but other processes has the other end open.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

/// The main end of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    main: File,
}

impl Pty {
    /// Opens one. Gives where its other end is.
    pub fn open() -> io::Result<(Self, PathBuf)> {
        let (mut main, mut other) = (-1, -1);
        // SAFETY: the first two pointers are those of numbers; the others may be null.
        let result = unsafe {
            libc::openpty(
                &mut main,
                &mut other,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are new and nobody else owns them.
        let (main, other) = unsafe { (File::from_raw_fd(main), File::from_raw_fd(other)) };
        // SAFETY: termios is plain data for which all bits zero are valid.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the pointer is that of a live termios structure.
        let result = unsafe {
            libc::tcgetattr(other.as_raw_fd(), &mut settings);
            libc::cfmakeraw(&mut settings);
            libc::tcsetattr(other.as_raw_fd(), libc::TCSANOW, &settings)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the calls take numbers only, and the descriptor is open.
        unsafe {
            libc::fcntl(main.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(
                main.as_raw_fd(),
                libc::F_SETFL,
                libc::O_RDWR | libc::O_NONBLOCK,
            );
        }
        let mut name = [0; 64];
        // SAFETY: the pointer and the length are those of a live array.
        let error = unsafe { libc::ptsname_r(main.as_raw_fd(), name.as_mut_ptr(), name.len()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the call has written a string that ends within the array.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        let path = PathBuf::from(name.to_string_lossy().into_owned());
        Ok((Pty { main }, path))
    }

    /// The main end.
    pub fn main(&self) -> &File {
        &self.main
    }

    /// Another hold on it.
    pub fn try_clone(&self) -> io::Result<Self> {
        let main = self.main.try_clone()?;
        Ok(Pty { main })
    }

    /// Whether anybody has the other end open.
    pub fn is_attached(&self) -> bool {
        let mut wait = libc::pollfd {
            fd: self.main.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: the pointer is that of one live pollfd.
        let result = unsafe { libc::poll(&mut wait, 1, 0) };
        result >= 0 && wait.revents & libc::POLLHUP == 0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn somebody_attaches_and_goes_away() {
        let (pty, path) = Pty::open().unwrap();
        assert!(!pty.is_attached());
        let mut options = OpenOptions::new();
        let mut other = options.read(true).write(true).open(&path).unwrap();
        assert!(pty.is_attached());
        // Raw: nothing is echoed or waits for a line's end.
        pty.main().write_all(b"x\n").unwrap();
        let mut bytes = [0; 2];
        other.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"x\n");
        other.write_all(b"\x03").unwrap();
        assert_eq!(pty.main().read(&mut bytes).unwrap(), 1);
        drop(other);
        assert!(!pty.is_attached());
    }
}
