//! The sending side of a network card on this host.
//!
//! Does: write the guest's frames to its TAP device, set offloads, and tell the network where the
//! card is. Does not: receive, or decide when a frame may leave (its source does).
//!
//! Invariant: frames leave in their order, whichever thread writes them: the card's own, or one that
//! has just let frames through and spares them the way to another. A device that is gone loses
//! frames and stops nobody.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use machine::{Offloads, Request};
use net_util::{MacAddress, Tap, announcement};

use super::bell::Bell;
use super::channel_thread::Exit;
use super::rate_limiter::RateLimiter;
use super::request_thread::{RequestSource, Taken};

/// The first announcement may be lost: a switch may not pass frames on yet.
const ANNOUNCEMENTS: u32 = 4;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_millis(150);
/// How long the thread sleeps at most before it looks again.
const PATIENCE: Duration = Duration::from_millis(100);

/// The card.
#[derive(Debug)]
pub struct Card {
    tap: Option<Tap>,
    complained: bool,
    /// What is still to be announced, how often, and when it was the last time.
    announces: Option<(MacAddress, u32, Instant)>,
}

impl Card {
    /// On `tap`, if there is one.
    pub fn new(tap: Option<Tap>) -> Self {
        Card {
            tap,
            complained: false,
            announces: None,
        }
    }

    /// Tells the network that `mac` is here, at once and a few times more.
    pub fn announce(&mut self, mac: MacAddress) {
        self.send(&announcement(mac));
        self.announces = Some((mac, ANNOUNCEMENTS, Instant::now()));
    }

    fn send(&mut self, frame: &[u8]) {
        let Some(tap) = &mut self.tap else {
            return;
        };
        if let Err(error) = tap.send(frame)
            && !self.complained
        {
            self.complained = true;
            log::error!("the guest's frames are lost: {error}");
        }
    }
}

impl Card {
    /// Announces what is still to be announced by now.
    fn go_on_announcing(&mut self) {
        if let Some((mac, left, last)) = self.announces
            && last.elapsed() >= ANNOUNCEMENT_INTERVAL
        {
            self.send(&announcement(mac));
            self.announces = (left > 1).then(|| (mac, left - 1, Instant::now()));
        }
    }

    fn carry_out(&mut self, request: &Request) {
        match request {
            Request::Transmit { frames } => frames.iter().for_each(|frame| self.send(frame)),
            Request::Offloads(offloads) => self.set_offloads(*offloads),
            other => log::error!("a network card was asked for {other:?}"),
        }
    }

    fn set_offloads(&self, offloads: Offloads) {
        let Offloads {
            checksums,
            segments4,
            segments6,
            congestion,
            fragments,
        } = offloads;
        let offloads = net_util::Offloads {
            checksums,
            segments4,
            segments6,
            congestion,
            fragments,
        };
        if let Some(Err(error)) = self.tap.as_ref().map(|tap| tap.set_offloads(offloads)) {
            log::error!("the guest may not understand what it receives: {error}");
        }
    }
}

/// A card with the requests that are for it.
struct Sender<S> {
    source: S,
    card: Card,
    limiter: RateLimiter,
}

impl<S: RequestSource> Sender<S> {
    /// Carries out what may leave now.
    fn run(&mut self) {
        while self.limiter.wait().is_none()
            && let Some(Taken { request, .. }) = self.source.take()
        {
            if let Request::Transmit { frames } = &request {
                let bytes = request.data_length() as u64;
                self.limiter.charge(bytes, frames.len() as u64);
            }
            self.card.carry_out(&request);
        }
    }
}

struct Shared<S> {
    sender: Mutex<Sender<S>>,
    bell: Arc<Bell>,
    closed: AtomicBool,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Sender<S>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: RequestSource> Exit for Shared<S> {
    fn let_out(&self) {
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        match self.sender.try_lock() {
            Ok(mut sender) => sender.run(),
            Err(TryLockError::Poisoned(error)) => error.into_inner().run(),
            // Whoever is at it may just have looked for the last time.
            Err(TryLockError::WouldBlock) => self.bell.ring(),
        }
    }
}

/// A card at work, with the thread that sends what nobody else sends at once.
pub struct CardThread {
    exit: Arc<dyn Exit>,
    close: Box<dyn Fn() + Send>,
    thread: Option<thread::JoinHandle<()>>,
}

impl CardThread {
    /// One of this name, which looks for requests whenever `bell` rings.
    pub fn start<S: RequestSource>(
        name: &str,
        bell: Arc<Bell>,
        source: S,
        card: Card,
        limiter: RateLimiter,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            sender: Mutex::new(Sender {
                source,
                card,
                limiter,
            }),
            bell,
            closed: AtomicBool::new(false),
        });
        let (for_thread, for_close) = (Arc::clone(&shared), Arc::clone(&shared));
        let run = move || {
            while !for_thread.closed.load(Ordering::SeqCst) {
                let wait = {
                    let mut sender = for_thread.lock();
                    sender.card.go_on_announcing();
                    sender.run();
                    sender.limiter.wait()
                };
                for_thread.bell.wait(wait.unwrap_or(PATIENCE).min(PATIENCE));
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(CardThread {
            exit: shared,
            close: Box::new(move || {
                for_close.closed.store(true, Ordering::SeqCst);
                for_close.bell.ring();
            }),
            thread: Some(thread),
        })
    }

    /// The way out for whoever has just let something through.
    pub fn exit(&self) -> &Arc<dyn Exit> {
        &self.exit
    }
}

impl Drop for CardThread {
    fn drop(&mut self) {
        (self.close)();
        if let Some(thread) = self.thread.take() {
            // It panics only if the source did, which has been reported then.
            let _ = thread.join();
        }
    }
}
