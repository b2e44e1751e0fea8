//! The thread that takes frames from a TAP device for the guest.
//!
//! Does: wait for frames, read as many as there are, and hand them on. Does not: send; that is done
//! where frames leave the gate.
//!
//! Invariant: frames are handed on in their order. While too many wait for the guest, they stay
//! with the host, whose queue drops what has no room, as on any network.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use net_util::Tap;

/// The longest frame with its header.
const FRAME: usize = machine::net::FRAME_MAX;
/// Frames handed on at once hold up to about this many bytes.
const AT_ONCE: usize = 64 << 10;
/// Whoever waits looks this often anyway.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who gets the frames.
pub trait FrameReceiver: Send + 'static {
    /// Whether it takes more; waits for that, at most for `timeout`.
    fn has_room(&mut self, timeout: Duration) -> bool;
    /// Takes frames.
    fn deliver(&mut self, frames: Vec<Vec<u8>>);
}

/// The thread.
#[derive(Debug)]
pub struct TapThread {
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TapThread {
    /// One of this name, which hands frames to `receiver`.
    pub fn start(name: &str, mut tap: Tap, mut receiver: impl FrameReceiver) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let closed_too = Arc::clone(&closed);
        let run = move || {
            let mut buffer = vec![0; FRAME];
            while !closed_too.load(Ordering::SeqCst) {
                if !receiver.has_room(PATIENCE) {
                    continue;
                }
                match read_some(&mut tap, &mut buffer) {
                    Ok(frames) if frames.is_empty() => wait_readable(&tap),
                    Ok(frames) => receiver.deliver(frames),
                    Err(error) => {
                        log::error!("the guest receives nothing any more: {error}");
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(TapThread {
            closed,
            thread: Some(thread),
        })
    }
}

impl Drop for TapThread {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It panics only if the receiver did, which has been reported then.
            let _ = thread.join();
        }
    }
}

fn read_some(tap: &mut Tap, buffer: &mut [u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    while bytes < AT_ONCE
        && let Some(length) = tap.receive(buffer)?
    {
        bytes += length;
        frames.push(buffer[..length].to_vec());
    }
    Ok(frames)
}

#[allow(unsafe_code)]
fn wait_readable(tap: &Tap) {
    use std::os::fd::AsFd;
    let mut wait = libc::pollfd {
        fd: tap.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the pointer is that of one live pollfd. Whatever it returns, the caller reads again.
    unsafe { libc::poll(&mut wait, 1, PATIENCE.as_millis() as libc::c_int) };
}
