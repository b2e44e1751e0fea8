//! The thread between a role of the protocol and its sockets.
//!
//! Does: move the bytes of one TCP connection and the datagrams of its heartbeats into and out of a
//! role, and call it when time has passed. Does not: know what they mean; `ft` does. Does not hold
//! the role's lock while it waits for anything.
//!
//! Invariant: everything a connection brought is given to the role before the role is told that it
//! ended. A role that wants no bytes gets none: they wait in the host's buffers, and so does the
//! peer. When the connection is gone, time goes on: a role may be waiting for its arbiter.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::clock;
use super::udp::{DATAGRAM_LENGTH_MAX, HeartbeatSocket};

/// What a role must offer to be connected. Times are those of `clock::monotonic_ns`.
pub trait ChannelRole: Send + 'static {
    /// Whether bytes are welcome now.
    fn wants_bytes(&self) -> bool;
    /// The connection brought these.
    fn on_bytes(&mut self, now: u64, bytes: &[u8]);
    /// The peer sent this heartbeat.
    fn on_datagram(&mut self, now: u64, datagram: &[u8]);
    /// The connection ended.
    fn on_disconnect(&mut self, now: u64);
    /// Time has passed.
    fn on_tick(&mut self, now: u64);
    /// When `on_tick` is due, if ever.
    fn deadline(&self) -> Option<u64>;
    /// What is to be written now.
    fn transmit(&mut self, now: u64) -> &[u8];
    /// So much of it has been written.
    fn transmitted(&mut self, now: u64, count: usize);
    /// Does what the role asked for, now that it has been called: the role's own commands, and for
    /// the connection what `wishes` holds.
    fn act(&mut self, now: u64, wishes: &mut Wishes);
}

/// A way out for outputs that may leave: taken by the thread that learnt it, at once.
pub trait Exit: Send + Sync {
    /// Lets out what may leave now.
    fn let_out(&self);
}

/// What a role wants of its connection.
#[derive(Default)]
pub struct Wishes {
    /// Where something may leave since the last call.
    pub exits: Vec<Arc<dyn Exit>>,
    /// Heartbeats to send, and the peer's port for them.
    pub datagrams: Vec<(u16, Vec<u8>)>,
    /// The connection is to be closed.
    pub close: bool,
    /// The thread is to end.
    pub end: bool,
}

/// The most time between two looks at the clock.
const TICK_MAX: Duration = Duration::from_millis(100);

/// The most bytes that are read or written at once.
const CHUNK: usize = 256 << 10;

/// So many bytes are written while the role is locked; more are copied out of it first.
const FEW: usize = 8 << 10;

/// A role's connection, until this goes away.
#[derive(Debug)]
pub struct ChannelThread {
    waker: ChannelWaker,
    sender: ChannelSender,
    stop: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

/// Tells a channel's thread that its role has something to write.
#[derive(Debug)]
pub struct ChannelWaker(EventFd);

impl ChannelWaker {
    /// Makes the thread look at its role.
    pub fn wake(&self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.0.write(1);
    }

    /// Another one for the same thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(ChannelWaker(self.0.try_clone()?))
    }
}

/// Writes to a connection around its thread: for whoever holds the role's lock, and cannot wait until
/// that thread has woken up.
#[derive(Clone, Debug, Default)]
pub struct ChannelSender {
    stream: Weak<TcpStream>,
    /// The thread is writing what it has borrowed.
    borrowed: Arc<AtomicBool>,
}

impl ChannelSender {
    /// Writes what the host takes at once; an error if it takes nothing, for whatever reason. The
    /// bytes must be the next ones, which only the role's lock ensures.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // It changes under the role's lock only.
        if self.borrowed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.stream.upgrade() {
            Some(stream) => (&*stream).write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl ChannelThread {
    /// Connects `role` to `stream`, and to `heartbeats` if there are any.
    pub fn start<R: ChannelRole>(
        role: Arc<Mutex<R>>,
        stream: TcpStream,
        heartbeats: Option<HeartbeatSocket>,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = stream.peer_addr()?;
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let (wake, stop) = (event()?, event()?);
        let stream = Arc::new(stream);
        let borrowed = Arc::new(AtomicBool::new(false));
        let sender = ChannelSender {
            stream: Arc::downgrade(&stream),
            borrowed: Arc::clone(&borrowed),
        };
        let mut channel = Channel {
            role,
            peer,
            stream: Some(stream),
            heartbeats,
            wake: wake.try_clone()?,
            stop: stop.try_clone()?,
            is_blocked: false,
            lent: Vec::new(),
            borrowed,
            is_broken: false,
        };
        let thread = thread::Builder::new().name("ft-channel".to_owned());
        let thread = thread.spawn(move || channel.run())?;
        Ok(ChannelThread {
            waker: ChannelWaker(wake),
            sender,
            stop,
            thread: Some(thread),
        })
    }

    /// Makes the thread look at its role.
    pub fn waker(&self) -> &ChannelWaker {
        &self.waker
    }

    /// Writes without the thread. It keeps no connection open.
    pub fn sender(&self) -> ChannelSender {
        self.sender.clone()
    }
}

impl Drop for ChannelThread {
    /// Closes the connection, which to the peer looks like a crash, and ends the thread.
    fn drop(&mut self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            if thread.thread().id() == thread::current().id() {
                // A role that drops its own thread; it ends when it looks at `stop`.
                return;
            }
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

struct Channel<R> {
    role: Arc<Mutex<R>>,
    peer: SocketAddr,
    stream: Option<Arc<TcpStream>>,
    heartbeats: Option<HeartbeatSocket>,
    wake: EventFd,
    stop: EventFd,
    /// Whether the host takes no more bytes at the moment.
    is_blocked: bool,
    /// Bytes of the role that are the next to be written, and whether there are any: until they are
    /// written, nobody else may write.
    lent: Vec<u8>,
    borrowed: Arc<AtomicBool>,
    /// Whether it never will: the peer does not read any more. What it sent is still read.
    is_broken: bool,
}

/// What there was to wait for, and has come.
#[derive(Debug, Default)]
struct Ready {
    stop: bool,
    stream: bool,
    heartbeats: bool,
}

impl<R: ChannelRole> Channel<R> {
    fn run(&mut self) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let now = clock::monotonic_ns();
            self.lock().on_tick(now);
            self.write(now);
            if self.act(now) {
                return;
            }
            let ready = self.wait();
            if ready.stop {
                return;
            }
            if ready.heartbeats {
                self.read_heartbeats();
            }
            if ready.stream {
                self.read(&mut chunk);
                // What may leave now does so before anything else is done.
                if self.act(clock::monotonic_ns()) {
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, R> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the role has, until it has no more or the host takes no more.
    fn write(&mut self, now: u64) {
        self.is_blocked = false;
        let Some(stream) = self.stream.clone().filter(|_| !self.is_broken) else {
            return;
        };
        loop {
            let written = if self.lent.is_empty() {
                match self.write_or_borrow(now, &stream) {
                    Some(written) => written,
                    None => return,
                }
            } else {
                let written = (&*stream).write(&self.lent);
                written.map(|count| drop(self.lent.drain(..count)))
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return;
                }
                Err(error) => {
                    log::info!("nothing more can be sent to {}: {error}", self.peer);
                    self.is_broken = true;
                    return;
                }
            }
        }
    }

    /// Writes the role's bytes if they are few, and borrows them to be written next if they are
    /// many; `None` if there are none.
    fn write_or_borrow(&mut self, now: u64, mut stream: &TcpStream) -> Option<io::Result<()>> {
        let mut role = self.role.lock().unwrap_or_else(PoisonError::into_inner);
        self.borrowed.store(false, Ordering::Relaxed);
        let bytes = role.transmit(now);
        if bytes.is_empty() {
            return None;
        }
        if bytes.len() <= FEW {
            // The stream does not block, so the lock is held for the copy only.
            let written = stream.write(bytes);
            return Some(written.map(|count| role.transmitted(now, count)));
        }
        // To the role they are written; the last byte is not, so that its last words are out when it
        // is told so.
        let count = (bytes.len() - 1).min(CHUNK);
        self.lent.extend_from_slice(&bytes[..count]);
        role.transmitted(now, count);
        self.borrowed.store(true, Ordering::Relaxed);
        Some(Ok(()))
    }

    /// Lets the role act; whether the thread is to end.
    fn act(&mut self, now: u64) -> bool {
        let mut wishes = Wishes::default();
        self.lock().act(now, &mut wishes);
        for exit in wishes.exits {
            exit.let_out();
        }
        if let Some(heartbeats) = &self.heartbeats {
            for (port, datagram) in wishes.datagrams {
                heartbeats.send_to(&datagram, SocketAddr::new(self.peer.ip(), port));
            }
        }
        if wishes.close {
            self.stream = None;
        }
        wishes.end
    }

    #[allow(unsafe_code)]
    fn wait(&self) -> Ready {
        let (wants_bytes, deadline) = {
            let role = self.lock();
            (role.wants_bytes(), role.deadline())
        };
        let mut stream_events = 0;
        if wants_bytes {
            stream_events |= libc::POLLIN;
        }
        if self.is_blocked {
            stream_events |= libc::POLLOUT;
        }
        // Negative descriptors are passed over. A stream of which nothing is wanted is too, since
        // the end of its connection would be reported without end.
        let stream = self.stream.as_ref().filter(|_| stream_events != 0);
        let entry = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut entries = [
            entry(self.stop.as_raw_fd(), libc::POLLIN),
            entry(self.wake.as_raw_fd(), libc::POLLIN),
            entry(
                stream.map_or(-1, |stream| stream.as_raw_fd()),
                stream_events,
            ),
            entry(
                self.heartbeats
                    .as_ref()
                    .map_or(-1, HeartbeatSocket::descriptor),
                libc::POLLIN,
            ),
        ];
        let left = deadline.map_or(TICK_MAX, |deadline| {
            TICK_MAX.min(Duration::from_nanos(
                deadline.saturating_sub(clock::monotonic_ns()),
            ))
        });
        // Rounded up, so that what is due is due.
        let timeout = libc::c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(100);
        // SAFETY: the pointer and the count are those of a live array.
        let count = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, timeout) };
        if count <= 0 {
            return Ready::default();
        }
        if entries[1].revents != 0 {
            // It fails only when there is nothing to read.
            let _ = self.wake.read();
        }
        Ready {
            stop: entries[0].revents != 0,
            stream: wants_bytes && entries[2].revents & !libc::POLLOUT != 0,
            heartbeats: entries[3].revents != 0,
        }
    }

    fn read_heartbeats(&self) {
        let Some(heartbeats) = &self.heartbeats else {
            return;
        };
        let mut buffer = [0; DATAGRAM_LENGTH_MAX];
        // One at a time: whoever sends many delays itself only.
        match heartbeats.receive(&mut buffer, Duration::ZERO) {
            Ok(Some((length, from))) if from.ip() == self.peer.ip() => {
                self.lock()
                    .on_datagram(clock::monotonic_ns(), &buffer[..length]);
            }
            Ok(_) => {}
            Err(error) => log::debug!("a heartbeat could not be received: {error}"),
        }
    }

    fn read(&mut self, chunk: &mut [u8]) {
        let Some(mut stream) = self.stream.as_deref() else {
            return;
        };
        let read = stream.read(chunk);
        let now = clock::monotonic_ns();
        match read {
            Ok(length) if length > 0 => self.lock().on_bytes(now, &chunk[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            ended => {
                if let Err(error) = ended {
                    log::info!("the connection to {} is broken: {error}", self.peer);
                }
                self.stream = None;
                self.lock().on_disconnect(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::TcpListener;

    use super::*;

    /// Sends what it is given, and keeps what comes.
    #[derive(Default)]
    struct Toy {
        out: VecDeque<u8>,
        received: Vec<u8>,
        refuses: bool,
        beats: Vec<(u16, Vec<u8>)>,
        heard: Vec<Vec<u8>>,
        disconnects: usize,
        ticks: usize,
        close: bool,
    }

    impl ChannelRole for Toy {
        fn wants_bytes(&self) -> bool {
            !self.refuses
        }
        fn on_bytes(&mut self, _now: u64, bytes: &[u8]) {
            self.received.extend_from_slice(bytes);
        }
        fn on_datagram(&mut self, _now: u64, datagram: &[u8]) {
            self.heard.push(datagram.to_vec());
        }
        fn on_disconnect(&mut self, _now: u64) {
            self.disconnects += 1;
        }
        fn on_tick(&mut self, _now: u64) {
            self.ticks += 1;
        }
        fn deadline(&self) -> Option<u64> {
            None
        }
        fn transmit(&mut self, _now: u64) -> &[u8] {
            self.out.make_contiguous()
        }
        fn transmitted(&mut self, _now: u64, count: usize) {
            self.out.drain(..count);
        }
        fn act(&mut self, _now: u64, wishes: &mut Wishes) {
            wishes.datagrams.append(&mut self.beats);
            wishes.close = self.close;
        }
    }

    type Shared = Arc<Mutex<Toy>>;

    fn wait_until(toy: &Shared, is_so: impl Fn(&Toy) -> bool) {
        let deadline = clock::monotonic_ns() + 20_000_000_000;
        while !is_so(&toy.lock().unwrap()) {
            assert!(clock::monotonic_ns() < deadline, "it took too long");
            clock::sleep_until_ns(clock::monotonic_ns() + 1_000_000);
        }
    }

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_cross_whole_and_wait_for_who_does_not_want_them() {
        let (a, b) = sockets();
        let (toy_a, toy_b) = (Shared::default(), Shared::default());
        toy_b.lock().unwrap().refuses = true;
        let thread_b = ChannelThread::start(Arc::clone(&toy_b), b, None).unwrap();
        let thread_a = ChannelThread::start(Arc::clone(&toy_a), a, None).unwrap();
        let bytes: Vec<u8> = (0..32 << 20).map(|i: u32| (i >> 10) as u8).collect();
        toy_a.lock().unwrap().out.extend(&bytes);
        thread_a.waker().wake();
        clock::sleep_until_ns(clock::monotonic_ns() + 50_000_000);
        assert!(!toy_a.lock().unwrap().out.is_empty());
        assert!(toy_b.lock().unwrap().received.is_empty());
        toy_b.lock().unwrap().refuses = false;
        thread_b.waker().wake();
        wait_until(&toy_b, |toy| toy.received.len() == bytes.len());
        assert!(toy_b.lock().unwrap().received == bytes);
    }

    #[test]
    fn the_end_comes_last_and_once_and_time_goes_on() {
        let (mut a, b) = sockets();
        let toy = Shared::default();
        let _thread = ChannelThread::start(Arc::clone(&toy), b, None).unwrap();
        a.write_all(&[7; 1 << 20]).unwrap();
        drop(a);
        wait_until(&toy, |toy| toy.disconnects > 0);
        assert_eq!(toy.lock().unwrap().received.len(), 1 << 20);
        let ticks = toy.lock().unwrap().ticks;
        wait_until(&toy, |toy| toy.ticks > ticks + 2);
        assert_eq!(toy.lock().unwrap().disconnects, 1);
        // It does not spin.
        assert!(toy.lock().unwrap().ticks < 1000);
    }

    #[test]
    fn a_broken_connection_is_not_watched_in_a_loop() {
        let (a, b) = sockets();
        let toy = Shared::default();
        toy.lock().unwrap().refuses = true;
        toy.lock().unwrap().out.extend(vec![0; 16 << 20]);
        let thread = ChannelThread::start(Arc::clone(&toy), b, None).unwrap();
        drop(a);
        clock::sleep_until_ns(clock::monotonic_ns() + 300_000_000);
        let ticks = toy.lock().unwrap().ticks;
        assert!(ticks < 100, "{ticks}");
        assert_eq!(toy.lock().unwrap().disconnects, 0);
        toy.lock().unwrap().refuses = false;
        thread.waker().wake();
        wait_until(&toy, |toy| toy.disconnects == 1);
    }

    #[test]
    fn heartbeats_cross() {
        let (a, b) = sockets();
        let (toy_a, toy_b) = (Shared::default(), Shared::default());
        let local = "127.0.0.1:0".parse().unwrap();
        let beats_a = HeartbeatSocket::bind(local).unwrap();
        let beats_b = HeartbeatSocket::bind(local).unwrap();
        let port = beats_b.local_address().unwrap().port();
        let thread_a = ChannelThread::start(Arc::clone(&toy_a), a, Some(beats_a)).unwrap();
        let _b = ChannelThread::start(Arc::clone(&toy_b), b, Some(beats_b)).unwrap();
        toy_a.lock().unwrap().beats.push((port, b"beat".to_vec()));
        thread_a.waker().wake();
        wait_until(&toy_b, |toy| toy.heard == [b"beat"]);
    }

    #[test]
    fn a_role_can_close_and_a_thread_can_be_stopped() {
        let (a, b) = sockets();
        let (toy_a, toy_b) = (Shared::default(), Shared::default());
        let thread_a = ChannelThread::start(Arc::clone(&toy_a), a, None).unwrap();
        let thread_b = ChannelThread::start(Arc::clone(&toy_b), b, None).unwrap();
        toy_a.lock().unwrap().close = true;
        thread_a.waker().wake();
        wait_until(&toy_b, |toy| toy.disconnects == 1);
        drop(thread_b);
        assert_eq!(
            toy_a.lock().unwrap().disconnects,
            0,
            "who closes need not be told"
        );
    }
}
