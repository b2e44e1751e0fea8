//! The thread that carries out a device's requests on this host.
//!
//! Does: take requests from whoever holds them back, one after the other, carry each out, and tell
//! how it ended; let a thread that has just let requests through begin them itself, and one that
//! sleeps until they end look after that itself, if that takes no time. Does not: decide when one
//! may leave: its source does, and is asked immediately before each.
//!
//! Invariant: requests are begun in the order in which they are given, one at a time, so that at most
//! one is begun after the source has changed its mind. Several may be under way, because none that
//! is given overlaps another; one that has to wait lets others pass. A backend that fails is a failed
//! request, nothing more. When the device has left its slot the thread ends, and with it the backend.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use block::Ended;
use machine::{Outcome, Request};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bell::Bell;
use super::channel_thread::Exit;
use super::rate_limiter::RateLimiter;
use super::sleeper::{Stand, Watched};

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
    /// Whoever waits for the ends may look after them himself from here on.
    fn watch(&mut self, _ends: Weak<dyn Watched>) -> io::Result<()> {
        Ok(())
    }
    /// The ends that can be seen at this descriptor are over.
    fn unwatch(&mut self, _descriptor: RawFd) {}
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

    /// Whether [`Self::begin`] only gives this one to the host, and does not wait.
    fn begins_at_once(&self, _request: &Request) -> bool {
        false
    }

    /// What can be read when a request that was begun has ended. It stays the same.
    fn descriptor(&self) -> Option<RawFd> {
        None
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
pub struct RequestThread {
    flags: Arc<Flags>,
    exit: Arc<dyn Exit>,
    bell: Arc<Bell>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Flags {
    closed: AtomicBool,
    /// A call of the host is under way.
    busy: AtomicBool,
    /// What was done so far is to be settled.
    settle: AtomicBool,
    /// The thread can go on only when a request has ended.
    needs_end: AtomicBool,
}

impl RequestThread {
    /// One of this name, which looks again whenever `bell` rings.
    pub fn start(
        name: &str,
        bell: Arc<Bell>,
        source: impl RequestSource,
        backend: impl Backend,
        limiter: RateLimiter,
    ) -> io::Result<Self> {
        let flags = Arc::new(Flags::default());
        let call = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let shared = Arc::new(Shared {
            flags: Arc::clone(&flags),
            bell: Arc::clone(&bell),
            call,
            descriptor: OnceLock::new(),
            worker: Mutex::new(Some(Worker {
                source,
                backend,
                waiting: VecDeque::new(),
                limiter,
            })),
        });
        let exit = Arc::clone(&shared) as _;
        let run = move || shared.run();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(RequestThread {
            flags,
            exit,
            bell,
            thread: Some(thread),
        })
    }

    /// The way out for whoever has just let something through.
    pub fn exit(&self) -> &Arc<dyn Exit> {
        &self.exit
    }

    /// Everything that was done so far is to survive the loss of this host.
    pub fn settle(&self) {
        self.flags.settle.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether that is so by now.
    pub fn is_settled(&self) -> bool {
        !self.flags.settle.load(Ordering::SeqCst) || self.has_ended()
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
        self.flags.closed.store(true, Ordering::SeqCst);
        self.bell.ring();
        // A thread that is stuck in a call ends with the process.
        if let Some(thread) = self.thread.take()
            && !self.flags.busy.load(Ordering::SeqCst)
        {
            // It panics only if the source did, which has been reported then.
            let _ = thread.join();
        }
    }
}

/// What the thread has, and whoever spares requests the way to it.
struct Worker<S, B> {
    source: S,
    backend: B,
    /// Taken, and not begun yet.
    waiting: VecDeque<Taken>,
    limiter: RateLimiter,
}

/// What the thread does after a turn.
enum Next {
    Again,
    Wait(Duration),
    End,
}

impl<S: RequestSource, B: Backend> Worker<S, B> {
    /// Begins one request, or does what else is to be done.
    fn turn(&mut self, flags: &Flags) -> Next {
        self.tell_ended(flags);
        let is_idle = self.backend.in_flight() == 0;
        let settles = flags.settle.load(Ordering::SeqCst);
        if settles && is_idle {
            flags.busy.store(true, Ordering::SeqCst);
            if let Err(error) = self.backend.settle() {
                log::error!("what was written may not survive a loss of this host: {error}");
            }
            flags.settle.store(false, Ordering::SeqCst);
            return Next::Again;
        }
        let needs_end = settles || !self.backend.has_room();
        flags.needs_end.store(needs_end, Ordering::SeqCst);
        let wait = self.limiter.wait();
        if needs_end || wait.is_some() || !self.backend.is_ready() {
            return Next::Wait(wait.unwrap_or(PATIENCE).min(PATIENCE));
        }
        // So that whoever closes does not wait for a call that begins now.
        flags.busy.store(true, Ordering::SeqCst);
        let Some(taken) = self.next() else {
            flags.busy.store(!is_idle, Ordering::SeqCst);
            return Next::Wait(PATIENCE);
        };
        if taken.request == Request::Detach {
            flags.busy.store(false, Ordering::SeqCst);
            return Next::End;
        }
        self.begin(taken);
        Next::Again
    }

    /// Begins all that may leave now and takes no time; whether nothing is left to the thread.
    fn begin_at_once(&mut self, flags: &Flags) -> bool {
        while self.waiting.is_empty()
            && self.backend.has_room()
            && self.limiter.wait().is_none()
            && !flags.settle.load(Ordering::SeqCst)
        {
            let Some(taken) = self.source.take() else {
                self.tell_ended(flags);
                return true;
            };
            let Taken { id, request, .. } = &taken;
            if !self.backend.begins_at_once(request) || self.backend.must_wait(*id, request) {
                self.waiting.push_back(taken);
                return false;
            }
            self.begin(taken);
        }
        false
    }

    fn begin(&mut self, taken: Taken) {
        let request = &taken.request;
        let bytes = request.data_length() as u64 + request.answer_length();
        self.limiter.charge(bytes, 1);
        if let Some(end) = self.backend.begin(taken) {
            tell(&mut self.source, end);
        }
    }

    fn tell_ended(&mut self, flags: &Flags) {
        while let Some(end) = self.backend.ended() {
            tell(&mut self.source, end);
        }
        let is_idle = self.backend.in_flight() == 0;
        flags.busy.store(!is_idle, Ordering::SeqCst);
    }

    /// The next request that has not to wait.
    fn next(&mut self) -> Option<Taken> {
        let must_wait = |taken: &Taken| self.backend.must_wait(taken.id, &taken.request);
        if let Some(index) = self.waiting.iter().position(|taken| !must_wait(taken))
            && self.source.may_leave()
        {
            return self.waiting.remove(index);
        }
        loop {
            let taken = self.source.take()?;
            if !must_wait(&taken) {
                return Some(taken);
            }
            self.waiting.push_back(taken);
        }
    }
}

struct Shared<S, B> {
    flags: Arc<Flags>,
    bell: Arc<Bell>,
    /// What stands for the bell while the thread waits for ends too.
    call: Arc<EventFd>,
    /// Where ends are seen, when that is known.
    descriptor: OnceLock<RawFd>,
    /// Until the thread ends.
    worker: Mutex<Option<Worker<S, B>>>,
}

impl<S: RequestSource, B: Backend> Shared<S, B> {
    fn lock(&self) -> MutexGuard<'_, Option<Worker<S, B>>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: &Arc<Self>) {
        let mut stand = None;
        while !self.flags.closed.load(Ordering::SeqCst) {
            let next = {
                let mut worker = self.lock();
                let Some(worker) = worker.as_mut() else {
                    break;
                };
                let next = worker.turn(&self.flags);
                if stand.is_none() && worker.backend.descriptor().is_some() {
                    stand = self.watch(worker);
                }
                next
            };
            match (next, &stand) {
                (Next::Again, _) => {}
                (Next::End, _) => break,
                (Next::Wait(timeout), None) => self.bell.wait(timeout),
                (Next::Wait(timeout), Some(stand)) => {
                    self.bell.wait_by(&self.call, |_| stand.wait(timeout));
                }
            }
        }
        let worker = self.lock().take();
        if let (Some(mut worker), Some(descriptor)) = (worker, self.descriptor.get()) {
            worker.source.unwatch(*descriptor);
        }
    }

    /// Lets others and this thread wait for ends; `None` as long as there is nothing to wait for.
    fn watch(self: &Arc<Self>, worker: &mut Worker<S, B>) -> Option<Stand> {
        let descriptor = worker.backend.descriptor()?;
        let descriptor = *self.descriptor.get_or_init(|| descriptor);
        let ends: Arc<dyn Watched> = Arc::clone(self) as _;
        let mut watch = || {
            worker.source.watch(Arc::downgrade(&ends))?;
            let stand = Stand::new(descriptor)?;
            stand.hear(&self.call)?;
            Ok(stand)
        };
        let stand: io::Result<Stand> = watch();
        stand
            .inspect_err(|error| log::error!("requests end late, because of a wait: {error}"))
            .ok()
    }
}

impl<S: RequestSource, B: Backend> Exit for Shared<S, B> {
    fn let_out(&self) {
        let is_done = !self.flags.closed.load(Ordering::SeqCst)
            && self.worker.try_lock().is_ok_and(|mut worker| {
                let worker = worker.as_mut();
                worker.is_none_or(|worker| worker.begin_at_once(&self.flags))
            });
        if !is_done {
            self.bell.ring();
        }
    }
}

impl<S: RequestSource, B: Backend> Watched for Shared<S, B> {
    fn fetch(&self) -> bool {
        // Whoever else has it tells of the ends.
        if let Ok(mut worker) = self.worker.try_lock() {
            let Some(worker) = worker.as_mut() else {
                return false;
            };
            worker.tell_ended(&self.flags);
            if self.flags.needs_end.swap(false, Ordering::SeqCst) {
                self.bell.ring();
            }
        }
        true
    }

    fn descriptor(&self) -> RawFd {
        self.descriptor.get().copied().unwrap_or(-1)
    }
}

fn tell(source: &mut impl RequestSource, Ended { id, result }: Ended) {
    let (outcome, data) = match result {
        Ok(data) => (Outcome::Done, data),
        Err(error) => (outcome_of(&error), Vec::new()),
    };
    source.ended(id, outcome, data);
}

fn outcome_of(error: &io::Error) -> Outcome {
    if error.kind() == io::ErrorKind::Unsupported {
        Outcome::Unsupported
    } else {
        log::error!("a request of the guest has failed: {error}");
        Outcome::Failed
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
    use std::thread::ThreadId;

    use machine::Extent;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Requests that may leave, and where their ends are told.
    struct Queue {
        requests: Receiver<Taken>,
        ended: Sender<(u64, Outcome, ThreadId)>,
        watched: Sender<Weak<dyn Watched>>,
    }

    impl RequestSource for Queue {
        fn take(&mut self) -> Option<Taken> {
            self.requests.try_recv().ok()
        }

        fn may_leave(&mut self) -> bool {
            true
        }

        fn ended(&mut self, id: u64, outcome: Outcome, _data: Vec<u8>) {
            let by = thread::current().id();
            self.ended.send((id, outcome, by)).unwrap();
        }

        fn watch(&mut self, ends: Weak<dyn Watched>) -> io::Result<()> {
            self.watched.send(ends).unwrap();
            Ok(())
        }
    }

    /// Reads end when `ends` says so; everything else at once.
    struct Toy {
        reads: VecDeque<u64>,
        ends: Arc<EventFd>,
        begun_by: Sender<(u64, ThreadId)>,
    }

    impl Backend for Toy {
        fn carry_out(&mut self, _request: &Request, _durable: bool) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }

        fn begin(&mut self, taken: Taken) -> Option<Ended> {
            let id = taken.id;
            self.begun_by.send((id, thread::current().id())).unwrap();
            if self.begins_at_once(&taken.request) {
                self.reads.push_back(id);
                return None;
            }
            let result = self.carry_out(&taken.request, false);
            Some(Ended { id, result })
        }

        fn ended(&mut self) -> Option<Ended> {
            self.ends.read().ok()?;
            let id = self.reads.pop_front()?;
            let result = Ok(Vec::new());
            Some(Ended { id, result })
        }

        fn in_flight(&self) -> usize {
            self.reads.len()
        }

        fn has_room(&self) -> bool {
            self.reads.len() < 2
        }

        fn begins_at_once(&self, request: &Request) -> bool {
            matches!(request, Request::Read(_))
        }

        fn descriptor(&self) -> Option<RawFd> {
            Some(self.ends.as_raw_fd())
        }

        fn settle(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Set {
        thread: RequestThread,
        ends: Arc<EventFd>,
        requests: Sender<Taken>,
        ended: Receiver<(u64, Outcome, ThreadId)>,
        begun_by: Receiver<(u64, ThreadId)>,
        watched: Arc<dyn Watched>,
    }

    impl Set {
        fn new() -> Set {
            let ((requests, queue), (tell, ended)) = (channel(), channel());
            let ((say_begun, begun_by), (say_watched, watched)) = (channel(), channel());
            let ends = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).unwrap());
            let source = Queue {
                requests: queue,
                ended: tell,
                watched: say_watched,
            };
            let backend = Toy {
                reads: VecDeque::new(),
                ends: Arc::clone(&ends),
                begun_by: say_begun,
            };
            let limiter = RateLimiter::default();
            let thread =
                RequestThread::start("toy", Arc::default(), source, backend, limiter).unwrap();
            let watched = watched.recv_timeout(LONG).unwrap().upgrade().unwrap();
            Set {
                thread,
                ends,
                requests,
                ended,
                begun_by,
                watched,
            }
        }

        fn let_out(&self, id: u64, request: Request) {
            let durable = false;
            let taken = Taken {
                id,
                request,
                durable,
            };
            self.requests.send(taken).unwrap();
            self.thread.exit().let_out();
        }

        /// By whom a request was begun.
        fn begun(&self, id: u64) -> ThreadId {
            let (begun, by) = self.begun_by.recv_timeout(LONG).unwrap();
            assert_eq!(begun, id);
            by
        }

        /// Who told that a request has ended.
        fn ended(&self, id: u64) -> ThreadId {
            let (ended, outcome, by) = self.ended.recv_timeout(LONG).unwrap();
            assert_eq!((ended, outcome), (id, Outcome::Done));
            by
        }
    }

    fn read() -> Request {
        Request::Read(Extent {
            offset: 0,
            length: 512,
        })
    }

    #[test]
    fn whoever_lets_out_begins_what_takes_no_time() {
        let set = Set::new();
        let us = thread::current().id();
        // The thread may just be looking around; then it begins.
        let by: Vec<_> = (0..50)
            .map(|id| {
                set.let_out(id, read());
                let by = set.begun(id);
                set.ends.write(1).unwrap();
                set.ended(id);
                by
            })
            .collect();
        assert!(by.contains(&us));
        set.let_out(50, Request::Flush);
        assert_ne!(set.begun(50), us);
        set.ended(50);
    }

    #[test]
    fn ends_are_told_by_whoever_looks_and_make_room() {
        let set = Set::new();
        for id in 0..3 {
            set.let_out(id, read());
        }
        set.begun(0);
        set.begun(1);
        // There is no room for the third before one has ended.
        let begun = set.begun_by.recv_timeout(Duration::from_millis(5));
        assert_eq!(begun, Err(RecvTimeoutError::Timeout));
        set.ends.write(1).unwrap();
        assert!(set.watched.fetch());
        set.ended(0);
        set.begun(2);
        for id in 1..3 {
            set.ends.write(1).unwrap();
            set.ended(id);
        }
        // The thread looks, too; now and then it is late.
        let by: Vec<_> = (3..500)
            .map(|id| {
                set.let_out(id, read());
                set.begun(id);
                set.ends.write(1).unwrap();
                set.watched.fetch();
                set.ended(id)
            })
            .collect();
        assert!(by.contains(&thread::current().id()));
    }

    #[test]
    fn the_backend_goes_with_its_device() {
        let set = Set::new();
        set.let_out(0, Request::Detach);
        while !set.thread.has_ended() {
            thread::yield_now();
        }
        // Its sender went with the backend.
        let left = set.begun_by.recv_timeout(LONG);
        assert_eq!(left, Err(RecvTimeoutError::Disconnected));
        assert!(!set.watched.fetch());
    }
}
