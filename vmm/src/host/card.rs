//! The sending side of a network card on this host.
//!
//! Does: write the guest's frames to its TAP device, set offloads, tell the network where the
//! card is, and keep what receives for as long as the card is there. Does not: receive, or decide
//! when a frame may leave (its source does).
//!
//! Invariant: frames leave in their order, whichever thread writes them: the card's own, or one that
//! has just let frames through and spares them the way to another. A device that is gone, or not
//! there yet, loses frames and stops nobody.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use machine::{Offloads, Request};
use net_util::{MacAddress, Tap, TapError, announcement};

use super::bell::Bell;
use super::channel_thread::Exit;
use super::rate_limiter::RateLimiter;
use super::request_thread::{RequestSource, Taken};

/// The first announcement may be lost: a switch may not pass frames on yet.
const ANNOUNCEMENTS: u32 = 4;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_millis(150);
/// How long the thread sleeps at most before it looks again.
const PATIENCE: Duration = Duration::from_millis(100);

/// A TAP device that cannot be had is tried again: soon, while a side that was superseded still has
/// it; now and then, while there is something else in the way.
const TRY_SOON: Duration = Duration::from_millis(50);
const TRY_LATER: Duration = Duration::from_secs(1);

/// What receives from a TAP device, for as long as it is kept.
pub type Receiving = Box<dyn Send>;

/// Opens a card's TAP device, and begins to receive from it.
pub type OpenTap = Box<dyn FnMut() -> Result<(Tap, Option<Receiving>), TapError> + Send>;

/// A TAP device that cannot be had yet.
struct Awaited {
    open: OpenTap,
    /// Whose card it is.
    mac: MacAddress,
    next: Instant,
}

/// The card.
pub struct Card {
    tap: Option<Tap>,
    receiver: Option<Receiving>,
    awaited: Option<Awaited>,
    /// How the driver wants its frames.
    offloads: Option<Offloads>,
    complained: bool,
    /// What is still to be announced, how often, and when it was the last time.
    announces: Option<(MacAddress, u32, Instant)>,
}

impl Card {
    /// On `tap`, whose frames `receiver` hands on.
    pub fn new(tap: Tap, receiver: Option<Receiving>) -> Self {
        Card {
            tap: Some(tap),
            receiver,
            awaited: None,
            offloads: None,
            complained: false,
            announces: None,
        }
    }

    /// With a TAP device that is opened as soon as it can be, and then announced as that of `mac`.
    /// Until then the guest's frames are lost, and none come.
    pub fn waiting(mac: MacAddress, open: OpenTap) -> Self {
        let next = Instant::now();
        let mut card = Card {
            tap: None,
            receiver: None,
            awaited: Some(Awaited { open, mac, next }),
            offloads: None,
            complained: false,
            announces: None,
        };
        card.try_to_open();
        card
    }

    fn try_to_open(&mut self) {
        let Some(awaited) = &mut self.awaited else {
            return;
        };
        if Instant::now() < awaited.next {
            return;
        }
        match (awaited.open)() {
            Ok((tap, receiver)) => {
                if self.complained {
                    log::info!("the network card has its TAP device '{}'", tap.name());
                }
                let mac = awaited.mac;
                (self.tap, self.receiver) = (Some(tap), receiver);
                (self.awaited, self.complained) = (None, false);
                if let Some(offloads) = self.offloads {
                    self.set_offloads(offloads);
                }
                self.announce(mac);
            }
            Err(error) => {
                let pause = if error.is_busy() { TRY_SOON } else { TRY_LATER };
                awaited.next = Instant::now() + pause;
                if !std::mem::replace(&mut self.complained, true) {
                    let cause = std::error::Error::source(&error);
                    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                    log::warn!("a network card has no network until that changes: {error}{cause}");
                }
            }
        }
    }

    fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = Some(offloads);
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

    /// Tells the network that `mac` is here, at once and a few times more.
    fn announce(&mut self, mac: MacAddress) {
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

    /// The device has left its slot: its TAP device becomes free.
    fn close(&mut self) {
        (self.receiver, self.tap, self.awaited) = (None, None, None);
    }
}

/// A card with the requests that are for it.
struct Sender<S> {
    source: S,
    card: Card,
    limiter: RateLimiter,
    /// The device has left its slot.
    is_detached: bool,
}

impl<S: RequestSource> Sender<S> {
    /// Carries out what may leave now.
    fn run(&mut self) {
        while !self.is_detached
            && self.limiter.wait().is_none()
            && let Some(Taken { request, .. }) = self.source.take()
        {
            if let Request::Transmit { frames } = &request {
                let bytes = request.data_length() as u64;
                self.limiter.charge(bytes, frames.len() as u64);
            }
            if request == Request::Detach {
                self.is_detached = true;
            } else {
                self.card.carry_out(&request);
            }
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
            Ok(mut sender) => {
                sender.run();
                if sender.is_detached {
                    // The rest may take a while.
                    self.bell.ring();
                }
            }
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
                is_detached: false,
            }),
            bell,
            closed: AtomicBool::new(false),
        });
        let (for_thread, for_close) = (Arc::clone(&shared), Arc::clone(&shared));
        let run = move || {
            while !for_thread.closed.load(Ordering::SeqCst) {
                let wait = {
                    let mut sender = for_thread.lock();
                    sender.card.try_to_open();
                    sender.card.go_on_announcing();
                    sender.run();
                    if sender.is_detached {
                        sender.card.close();
                        return;
                    }
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

    /// Whether the device is gone, and its TAP device free.
    pub fn has_ended(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_none_or(thread::JoinHandle::is_finished)
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
