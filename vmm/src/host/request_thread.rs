//! The thread that carries out a device's requests on this host.
//!
//! Does: take requests from whoever holds them back, one after the other, carry each out, and tell
//! how it ended. Does not: decide when one may leave: its source does, and is asked immediately
//! before each.
//!
//! Invariant: requests are carried out in the order in which they are given, one at a time, so that
//! at most one is carried out after the source has changed its mind. A backend that fails is a
//! failed request, nothing more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use machine::{Outcome, Request};

use super::bell::Bell;

/// How long the thread sleeps at most before it asks its source again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who holds the requests.
pub trait RequestSource: Send + 'static {
    /// The next request that may be carried out now.
    fn take(&mut self) -> Option<Taken>;
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

    /// Makes everything that was done so far survive the loss of this host.
    fn settle(&mut self) -> io::Result<()>;

    /// Whether it can be used yet; asked every now and then until it can.
    fn is_ready(&mut self) -> bool {
        true
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
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (shared_too, bell_too) = (Arc::clone(&shared), Arc::clone(&bell));
        let run = move || shared_too.run(&bell_too, &mut source, &mut backend);
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
        !self.shared.settle.load(Ordering::SeqCst)
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
    fn run(&self, bell: &Bell, source: &mut impl RequestSource, backend: &mut impl Backend) {
        while !self.closed.load(Ordering::SeqCst) {
            if !backend.is_ready() {
                bell.wait(PATIENCE);
                continue;
            }
            if self.settle.load(Ordering::SeqCst) {
                self.busy.store(true, Ordering::SeqCst);
                if let Err(error) = backend.settle() {
                    log::error!("what was written may not survive a loss of this host: {error}");
                }
                self.settle.store(false, Ordering::SeqCst);
                self.busy.store(false, Ordering::SeqCst);
            }
            // So that whoever closes does not wait for a call that begins now.
            self.busy.store(true, Ordering::SeqCst);
            let taken = source.take();
            let Some(Taken {
                id,
                request,
                durable,
            }) = taken
            else {
                self.busy.store(false, Ordering::SeqCst);
                bell.wait(PATIENCE);
                continue;
            };
            let result = backend.carry_out(&request, durable);
            self.busy.store(false, Ordering::SeqCst);
            let (outcome, data) = match result {
                Ok(data) => (Outcome::Done, data),
                Err(error) => (outcome_of(&error), Vec::new()),
            };
            source.ended(id, outcome, data);
        }
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
