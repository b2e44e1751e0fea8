//! The terminal on standard input.
//!
//! Does: raw mode while a guest uses it, and its old settings afterwards. Does not: read; Ctrl-C is
//! the guest's.
//!
//! Invariant: whoever ends the process in an ordinary way leaves the terminal as it was found.
#![allow(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

/// The settings to go back to, while the terminal is in raw mode.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// The terminal is in raw mode while this exists.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal on standard input into raw mode. If standard input is no terminal, or this
    /// process is in its background, there is nothing to do, and nothing is done.
    pub fn enter() -> io::Result<Option<RawMode>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let descriptor = stdin.as_raw_fd();
        // SAFETY: both calls take and return numbers only.
        let in_foreground = unsafe { libc::tcgetpgrp(descriptor) == libc::getpgrp() };
        if !in_foreground {
            return Ok(None);
        }
        // SAFETY: termios is plain data for which all bits zero are valid.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the pointer is that of a live termios structure.
        if unsafe { libc::tcgetattr(descriptor, &mut settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        saved.get_or_insert(settings);
        // Keys go to the guest one by one and are echoed by it. Output processing stays on, so
        // that log lines start at the left.
        settings.c_iflag &=
            !(libc::IXON | libc::ICRNL | libc::INLCR | libc::IGNCR | libc::ISTRIP | libc::BRKINT);
        settings.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::ISIG | libc::IEXTEN);
        settings.c_cc[libc::VMIN] = 1;
        settings.c_cc[libc::VTIME] = 0;
        // SAFETY: the descriptor is open and the pointer is that of a live termios structure.
        if unsafe { libc::tcsetattr(descriptor, libc::TCSANOW, &settings) } != 0 {
            let error = io::Error::last_os_error();
            *saved = None;
            return Err(error);
        }
        Ok(Some(RawMode(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its old settings, if it is in raw mode. Any thread may do it, at any time.
pub fn restore() {
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(settings) = saved.take() {
        // SAFETY: the pointer is that of a live termios structure. If it fails, the terminal has
        // gone, and nothing is to be restored.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &settings) };
    }
}
