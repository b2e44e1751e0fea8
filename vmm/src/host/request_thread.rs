//! The thread that carries out a device's requests on this host.
//!
//! Does: take requests from whoever holds them back, one after the other, carry each out, and tell
//! how it ended. Does not: decide when one may leave: its source does, and is asked immediately
//! before each.
//!
//! Invariant: requests are begun in the order in which they are given, one at a time, so that at most
//! one is begun after the source has changed its mind. Several may be under way, because none that
//! is given overlaps another; one that has to wait lets others pass. A backend that fails is a failed
//! request, nothing more. When the device has left its slot the thread ends, and with it the backend.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use block::Ended;
use machine::{Outcome, Request};

use super::bell::Bell;
use super::rate_limiter::RateLimiter;

/// How long the thread sleeps at most before it asks its source again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who holds the requests.
pub trait RequestSource: Send + 'static {
    /// The next request that may be carried out now.
    fn take(&mut self) -> Option<Taken>;
    /// Whether one that was taken earlier still may.
    fn may_leave(&mut self) -> bool;
    /// It has ended, and brings these bytes.
    fn ended(&mut self, id: u64, outcome: Outcome, data: Vec<u8>);
}

/// A request that may be carried out now.
#[derive(Debug)]
pub struct Taken {
    /// Its name.
    pub id: u64,
    /// What is asked.
    pub request: Request,
    /// Its effects must survive the loss of this host.
    pub durable: bool,
}

/// What carries requests out.
pub trait Backend: Send + 'static {
    /// Carries one out. Gives what it brings.
    fn carry_out(&mut self, request: &Request, durable: bool) -> io::Result<Vec<u8>>;

    /// Begins one that the source has let go. Its end, if that is known already.
    fn begin(&mut self, taken: Taken) -> Option<Ended> {
        let Taken {
            id,
            request,
            durable,
        } = taken;
        let result = self.carry_out(&request, durable);
        Some(Ended { id, result })
    }

    /// A request that was begun and has ended since.
    fn ended(&mut self) -> Option<Ended> {
        None
    }

    /// How many were begun and have not ended.
    fn in_flight(&self) -> usize {
        0
    }

    /// Whether one more can be begun.
    fn has_room(&self) -> bool {
        true
    }

    /// Waits until a request has ended or `bell` rings, at most for `timeout`.
    fn wait(&mut self, bell: &Bell, timeout: Duration) {
        bell.wait(timeout);
    }

    /// Makes everything that was done so far survive the loss of this host.
    fn settle(&mut self) -> io::Result<()>;

    /// Whether it can be used yet; asked every now and then until it can.
    fn is_ready(&mut self) -> bool {
        true
    }

    /// Whether a request has to wait for something else, while others go on.
    fn must_wait(&self, _id: u64, _request: &Request) -> bool {
        false
    }
}

/// The thread.
#[derive(Debug)]
pub struct RequestThread {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    closed: AtomicBool,
    /// A call of the host is under way.
    busy: AtomicBool,
    /// What was done so far is to be settled.
    settle: AtomicBool,
}

impl RequestThread {
    /// One of this name, which looks again whenever `bell` rings.
    pub fn start(
        name: &str,
        bell: Arc<Bell>,
        mut source: impl RequestSource,
        mut backend: impl Backend,
        limiter: RateLimiter,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (shared_too, bell_too) = (Arc::clone(&shared), Arc::clone(&bell));
        let run = move || shared_too.run(&bell_too, &mut source, &mut backend, &limiter);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(RequestThread {
            shared,
            bell,
            thread: Some(thread),
        })
    }

    /// Everything that was done so far is to survive the loss of this host.
    pub fn settle(&self) {
        self.shared.settle.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether that is so by now.
    pub fn is_settled(&self) -> bool {
        !self.shared.settle.load(Ordering::SeqCst) || self.has_ended()
    }

    /// Whether the device is gone, and its backend too.
    pub fn has_ended(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_none_or(thread::JoinHandle::is_finished)
    }
}

impl Drop for RequestThread {
    /// Nothing more is taken; a call that is under way may end.
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.bell.ring();
        // A thread that is stuck in a call ends with the process.
        if let Some(thread) = self.thread.take()
            && !self.shared.busy.load(Ordering::SeqCst)
        {
            // It panics only if the source did, which has been reported then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(
        &self,
        bell: &Bell,
        source: &mut impl RequestSource,
        backend: &mut impl Backend,
        limiter: &RateLimiter,
    ) {
        let mut waiting = VecDeque::new();
        while !self.closed.load(Ordering::SeqCst) {
            while let Some(end) = backend.ended() {
                tell(source, end);
            }
            let is_idle = backend.in_flight() == 0;
            self.busy.store(!is_idle, Ordering::SeqCst);
            let settles = self.settle.load(Ordering::SeqCst);
            if settles && is_idle {
                self.busy.store(true, Ordering::SeqCst);
                if let Err(error) = backend.settle() {
                    log::error!("what was written may not survive a loss of this host: {error}");
                }
                self.settle.store(false, Ordering::SeqCst);
                continue;
            }
            let wait = limiter.wait();
            if settles || wait.is_some() || !backend.has_room() || !backend.is_ready() {
                backend.wait(bell, wait.unwrap_or(PATIENCE).min(PATIENCE));
                continue;
            }
            // So that whoever closes does not wait for a call that begins now.
            self.busy.store(true, Ordering::SeqCst);
            let Some(taken) = next(source, backend, &mut waiting) else {
                self.busy.store(!is_idle, Ordering::SeqCst);
                backend.wait(bell, PATIENCE);
                continue;
            };
            if taken.request == Request::Detach {
                self.busy.store(false, Ordering::SeqCst);
                return;
            }
            let request = &taken.request;
            let bytes = request.data_length() as u64 + request.answer_length();
            limiter.charge(bytes, 1);
            if let Some(end) = backend.begin(taken) {
                tell(source, end);
            }
        }
    }
}

fn tell(source: &mut impl RequestSource, Ended { id, result }: Ended) {
    let (outcome, data) = match result {
        Ok(data) => (Outcome::Done, data),
        Err(error) => (outcome_of(&error), Vec::new()),
    };
    source.ended(id, outcome, data);
}

/// The next request that has not to wait.
fn next(
    source: &mut impl RequestSource,
    backend: &impl Backend,
    waiting: &mut VecDeque<Taken>,
) -> Option<Taken> {
    let must_wait = |taken: &Taken| backend.must_wait(taken.id, &taken.request);
    if let Some(index) = waiting.iter().position(|taken| !must_wait(taken))
        && source.may_leave()
    {
        return waiting.remove(index);
    }
    loop {
        let taken = source.take()?;
        if !must_wait(&taken) {
            return Some(taken);
        }
        waiting.push_back(taken);
    }
}

fn outcome_of(error: &io::Error) -> Outcome {
    if error.kind() == io::ErrorKind::Unsupported {
        Outcome::Unsupported
    } else {
        log::error!("a request of the guest has failed: {error}");
        Outcome::Failed
    }
}
