//! How frames come from a TAP device to the guest.
//!
//! Does: read as many frames as there are, and hand them on; have a thread that waits for them
//! while whoever takes them is busy. Does not: send; that is done where frames leave the gate.
//!
//! Invariant: frames are handed on in their order, whichever thread reads them. While too many wait
//! for the guest, they stay with the host, whose queue drops what has no room, as on any network.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use net_util::Tap;

use super::rate_limiter::RateLimiter;
use super::sleeper::Stand;

/// The longest frame with its header.
const FRAME: usize = machine::net::FRAME_MAX;
/// Frames handed on at once hold up to about this many bytes.
const AT_ONCE: usize = 64 << 10;
/// Whoever waits looks this often anyway.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who gets the frames.
pub trait FrameReceiver: Send + Sync + 'static {
    /// Whether it takes more; waits for that, at most for `timeout`.
    fn has_room(&self, timeout: Duration) -> bool;
    /// Takes frames.
    fn deliver(&self, frames: Vec<Vec<u8>>);
}

/// Reads a device's frames, for the thread or for whoever wants them at once.
#[derive(Debug)]
pub struct TapReader<R> {
    device: Mutex<Device>,
    descriptor: RawFd,
    receiver: R,
    limiter: RateLimiter,
}

#[derive(Debug)]
struct Device {
    tap: Tap,
    buffer: Vec<u8>,
    /// It cannot be read any more.
    is_lost: bool,
}

impl<R: FrameReceiver> TapReader<R> {
    /// One that hands frames of `tap` to `receiver`, as fast as `limiter` allows.
    pub fn new(tap: Tap, receiver: R, limiter: RateLimiter) -> Self {
        TapReader {
            descriptor: tap.as_fd().as_raw_fd(),
            device: Mutex::new(Device {
                tap,
                buffer: vec![0; FRAME],
                is_lost: false,
            }),
            receiver,
            limiter,
        }
    }

    /// To be waited for; valid as long as this is.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// Hands on what is there, unless another thread is doing so; false if nothing will ever come.
    pub fn read(&self) -> bool {
        match self.device.try_lock() {
            Ok(device) => self.read_from(device),
            Err(TryLockError::Poisoned(error)) => self.read_from(error.into_inner()),
            Err(TryLockError::WouldBlock) => true,
        }
    }

    fn read_from(&self, mut device: MutexGuard<'_, Device>) -> bool {
        if device.is_lost {
            return false;
        }
        if !self.receiver.has_room(Duration::ZERO) || self.limiter.wait().is_some() {
            return true;
        }
        match device.read_some() {
            // While the lock is held, so that nobody overtakes.
            Ok(frames) if !frames.is_empty() => {
                let bytes: usize = frames.iter().map(Vec::len).sum();
                self.limiter.charge(bytes as u64, frames.len() as u64);
                self.receiver.deliver(frames);
            }
            Ok(_) => {}
            Err(error) => {
                log::error!("the guest receives nothing any more: {error}");
                device.is_lost = true;
            }
        }
        !device.is_lost
    }
}

impl Device {
    fn read_some(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < AT_ONCE
            && let Some(length) = self.tap.receive(&mut self.buffer)?
        {
            bytes += length;
            frames.push(self.buffer[..length].to_vec());
        }
        Ok(frames)
    }
}

/// The thread.
#[derive(Debug)]
pub struct TapThread {
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TapThread {
    /// One of this name, which reads with `reader` when there is something.
    pub fn start<R: FrameReceiver>(name: &str, reader: Arc<TapReader<R>>) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let closed_too = Arc::clone(&closed);
        let stand = Stand::new(reader.descriptor())?;
        let run = move || {
            while !closed_too.load(Ordering::SeqCst) {
                if !reader.receiver.has_room(PATIENCE) || !stand.wait(PATIENCE) {
                    continue;
                }
                if let Some(wait) = reader.limiter.wait() {
                    thread::sleep(wait.min(PATIENCE));
                    continue;
                }
                let device = reader.device.lock();
                if !reader.read_from(device.unwrap_or_else(PoisonError::into_inner)) {
                    return;
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
