//! The way into a guest from this host's network and programs, as far as the inbox.
//!
//! Does: put what sockets and TAP devices have into the inbox, and let a sleeping vCPU thread fetch
//! frames itself. Does not: read sockets (`host::vsock`) or TAP devices (`host::tap_thread`), or log
//! what came (`live`).
//!
//! Invariant: nothing reaches the machine from here; it waits in the inbox until the vCPU thread has
//! logged it.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use machine::{Event, StreamEvent};
use net_util::Tap;

use super::device_counters::DeviceCounters;
use super::inbox::Inbox;
use super::reasons;
use crate::host::card::Receiving;
use crate::host::rate_limiter::RateLimiter;
use crate::host::sleeper::Watched;
use crate::host::tap_thread::{FrameReceiver, TapReader, TapThread};
use crate::host::vsock::StreamReceiver;

/// What programs send a guest waits in the inbox.
pub struct StreamInbox {
    /// Where it waits.
    pub inbox: Arc<Inbox>,
    /// The device's number.
    pub device: u8,
}

impl StreamReceiver for StreamInbox {
    fn room(&self, stream: u64) -> usize {
        self.inbox.stream_room(self.device, stream)
    }

    fn bytes(&self, stream: u64, bytes: &[u8]) {
        self.inbox.stream_bytes(self.device, stream, bytes);
    }

    fn event(&self, event: StreamEvent) {
        self.inbox.tell_device(self.device, Event::Stream(event));
    }

    fn end(&self, stream: u64, end: StreamEvent) {
        self.inbox.stream_end(self.device, stream, end);
    }
}

/// What a card has received waits in the inbox.
pub struct Received {
    /// Where it waits.
    pub inbox: Arc<Inbox>,
    /// The card's number.
    pub device: u8,
    /// What counts it.
    pub counters: Option<Arc<DeviceCounters>>,
}

impl FrameReceiver for Received {
    fn has_room(&self, timeout: Duration) -> bool {
        self.inbox.has_frame_room(timeout)
    }

    fn deliver(&self, frames: Vec<Vec<u8>>) {
        if let Some(counters) = &self.counters {
            counters.received(&frames);
        }
        self.inbox.received(self.device, frames);
    }
}

impl Watched for TapReader<Received> {
    fn fetch(&self) -> bool {
        self.read()
    }

    fn descriptor(&self) -> RawFd {
        TapReader::descriptor(self)
    }
}

/// How frames come in: a sleeping vCPU thread fetches them itself, for a busy one a thread does.
struct Receiver {
    inbox: Arc<Inbox>,
    device: u8,
    reader: Arc<TapReader<Received>>,
    _thread: TapThread,
}

impl Receiver {
    fn start(id: &str, tap: Tap, received: Received, limiter: RateLimiter) -> io::Result<Self> {
        let (inbox, device) = (Arc::clone(&received.inbox), received.device);
        let is_limited = limiter.is_some();
        let reader = Arc::new(TapReader::new(tap, received, limiter));
        let source: Arc<dyn Watched> = Arc::clone(&reader) as _;
        // Whoever watches would be called again and again while a limited card may not read.
        if !is_limited {
            inbox.watch(device, Arc::downgrade(&source))?;
        }
        Ok(Receiver {
            _thread: TapThread::start(&format!("{id}-rx"), Arc::clone(&reader))?,
            inbox,
            device,
            reader,
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.inbox.unwatch(self.device, self.reader.descriptor());
    }
}

/// What receives for a card. Without that the card only sends.
pub fn receiver(
    id: &str,
    tap: &Tap,
    received: Received,
    limiter: RateLimiter,
) -> Option<Receiving> {
    let why = match tap.try_clone() {
        Ok(tap) => match Receiver::start(id, tap, received, limiter) {
            Ok(receiver) => return Some(Box::new(receiver)),
            Err(error) => error.to_string(),
        },
        Err(error) => reasons::chain(&error).join(": "),
    };
    log::error!("network card '{id}' receives nothing: {why}");
    None
}
