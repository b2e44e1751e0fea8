//! The terminal on standard input.
//!
//! Does: raw mode while a guest uses it, its old settings afterwards, and a thread that passes on
//! what is typed. Does not: interpret a byte; Ctrl-C is the guest's.
//!
//! Invariant: whoever ends the process in an ordinary way leaves the terminal as it was found. The
//! end of standard input is no reason to end anything.
#![allow(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::thread;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

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

/// The most bytes that are passed on at once.
const CHUNK: usize = 256;

/// A thread that reads standard input until it ends, or this goes away.
#[derive(Debug)]
pub struct StdinThread {
    stop: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl StdinThread {
    /// Calls `deliver` with what arrives. It may wait, which makes the typist wait; it returns
    /// false when it wants no more.
    pub fn start(deliver: impl FnMut(&[u8]) -> bool + Send + 'static) -> io::Result<Self> {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let stop_too = stop.try_clone()?;
        let run = move || read_until_end(libc::STDIN_FILENO, &stop_too, deliver);
        let thread = thread::Builder::new().name("stdin".to_owned()).spawn(run)?;
        Ok(StdinThread {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for StdinThread {
    fn drop(&mut self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It panics only if `deliver` did, which has been reported then.
            let _ = thread.join();
        }
    }
}

fn read_until_end(input: i32, stop: &EventFd, mut deliver: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; CHUNK];
    loop {
        let mut wait = [input, stop.as_raw_fd()].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: the pointer and the count are those of a live array.
        let ready = unsafe { libc::poll(wait.as_mut_ptr(), 2, -1) };
        if ready < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return;
        }
        if wait[1].revents != 0 {
            return;
        }
        // SAFETY: the pointer and the length are those of a live, writable array.
        let length = unsafe { libc::read(input, bytes.as_mut_ptr().cast(), bytes.len()) };
        match usize::try_from(length) {
            Ok(0) => {
                log::debug!("standard input has ended");
                return;
            }
            Ok(length) => {
                if !deliver(&bytes[..length]) {
                    return;
                }
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::WouldBlock => {}
                error => {
                    log::warn!("cannot read standard input: {error}");
                    return;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::FromRawFd;

    use super::*;

    fn pipe() -> (File, File) {
        let mut ends = [0; 2];
        // SAFETY: the pointer is that of an array of two descriptors.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(result, 0);
        // SAFETY: both descriptors are new and nobody else owns them.
        unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) }
    }

    #[test]
    fn bytes_are_passed_on_until_the_end() {
        let (input, mut output) = pipe();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        output.write_all(&[b'x'; 1000]).unwrap();
        drop(output);
        let mut received = Vec::new();
        read_until_end(input.as_raw_fd(), &stop, |bytes| {
            received.extend_from_slice(bytes);
            true
        });
        assert_eq!(received, [b'x'; 1000]);
    }

    #[test]
    fn the_thread_can_be_stopped_while_it_waits() {
        let (input, _output) = pipe();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let stop_too = stop.try_clone().unwrap();
        let thread = thread::spawn(move || {
            read_until_end(input.as_raw_fd(), &stop_too, |_| {
                panic!("nothing was written")
            });
        });
        stop.write(1).unwrap();
        thread.join().unwrap();
    }
}
