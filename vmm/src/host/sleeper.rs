//! How a thread sleeps until it is woken, or until one of its descriptors can be read.
//!
//! Does: wait for both at once, to the nanosecond; let another thread wait for the same descriptors
//! whenever this one is awake. Does not: read anything.
//!
//! Invariant: a call of [`Sleeper::wake`] is never lost; several before one sleep are one. Of a
//! descriptor that both threads wait for, the sleeper hears and the other one sleeps on
//! (`EPOLLEXCLUSIVE`), if the sleeper began to watch first.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The number of the bell among the descriptors.
const BELL: u64 = u64::MAX;
/// So many descriptors are told of at once.
const READY_MAX: usize = 16;

/// A place to sleep, for one thread.
#[derive(Debug)]
pub struct Sleeper {
    epoll: Epoll,
    bell: EventFd,
}

impl Sleeper {
    /// One that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let (epoll, bell) = (Epoll::new()?, EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let event = EpollEvent::new(EventSet::IN, BELL);
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), event)?;
        Ok(Sleeper { epoll, bell })
    }

    /// Wakes the thread, now or when it goes to sleep.
    pub fn wake(&self) {
        // It fails only when the counter is full: then the thread wakes anyway.
        let _ = self.bell.write(1);
    }

    /// From here on the thread wakes when `descriptor` can be read, and is told its `number`.
    pub fn watch(&self, descriptor: RawFd, number: u32) -> io::Result<()> {
        watch(&self.epoll, descriptor, number.into())
    }

    /// Ends what `watch` began.
    pub fn unwatch(&self, descriptor: RawFd) {
        // It fails only if it is not watched.
        let none = EpollEvent::default();
        let _ = self.epoll.ctl(ControlOperation::Delete, descriptor, none);
    }

    /// Sleeps, at most for `timeout`; the numbers of descriptors that can be read.
    pub fn sleep(&self, timeout: Duration) -> Vec<u32> {
        let mut events = [EpollEvent::default(); READY_MAX];
        let count = wait(&self.epoll, &mut events, timeout);
        let mut ready = Vec::new();
        for event in &events[..count] {
            match u32::try_from(event.data()) {
                Ok(number) => ready.push(number),
                Err(_) => self.silence(),
            }
        }
        ready
    }

    /// Sleeps and hears only the bell, at most for `timeout`.
    #[allow(unsafe_code)]
    pub fn sleep_deaf(&self, timeout: Duration) {
        let mut entry = libc::pollfd {
            fd: self.bell.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = timespec(timeout);
        // SAFETY: one live pollfd, a live timespec, and no signal mask.
        let count = unsafe { libc::ppoll(&raw mut entry, 1, &raw const timeout, std::ptr::null()) };
        if count > 0 {
            self.silence();
        }
    }

    fn silence(&self) {
        // It fails only when nobody has rung.
        let _ = self.bell.read();
    }
}

/// What a sleeping thread looks after itself, so that no other thread has to wake it.
pub trait Watched: Send + Sync {
    /// Hands on what there is; false if nothing will ever come.
    fn fetch(&self) -> bool;
    /// What can be read when there is something.
    fn descriptor(&self) -> RawFd;
}

/// Waits for a descriptor that a [`Sleeper`] watches too, whenever that one is awake.
#[derive(Debug)]
pub struct Stand(Epoll);

impl Stand {
    /// In for the sleeper at `descriptor`, which it watches already.
    pub fn new(descriptor: RawFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        watch(&epoll, descriptor, 0)?;
        Ok(Stand(epoll))
    }

    /// From here on the waits end for `bell` too. It is for this thread alone, which reads it.
    pub fn hear(&self, bell: &EventFd) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, BELL);
        self.0.ctl(ControlOperation::Add, bell.as_raw_fd(), event)
    }

    /// Waits until the descriptor can be read, at most for `timeout`; whether it can.
    pub fn wait(&self, timeout: Duration) -> bool {
        wait(&self.0, &mut [EpollEvent::default()], timeout) > 0
    }
}

fn watch(epoll: &Epoll, descriptor: RawFd, number: u64) -> io::Result<()> {
    let event = EpollEvent::new(EventSet::IN | EventSet::EXCLUSIVE, number);
    epoll.ctl(ControlOperation::Add, descriptor, event)
}

/// How many events there are. Who is interrupted has slept enough.
#[allow(unsafe_code)]
fn wait(epoll: &Epoll, events: &mut [EpollEvent], timeout: Duration) -> usize {
    let limit = timespec(timeout);
    // The library's call knows milliseconds only.
    // SAFETY: `EpollEvent` is a transparent `epoll_event`; pointer and count are those of a live
    // slice of them, the time is live, and there is no signal mask.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as libc::c_int,
            &raw const limit,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    if count < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // Linux before 5.11: up to a millisecond late.
        let limit = timeout.as_micros().div_ceil(1000);
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        return epoll.wait(limit, events).unwrap_or(0);
    }
    usize::try_from(count).unwrap_or(0)
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Lets this thread's waits end when they are due, not up to 50 µs later, which is Linux' default.
#[allow(unsafe_code)]
pub fn wake_on_time() {
    // SAFETY: the call takes numbers only. If it fails, waits end later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(100);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_wake_up_call_is_not_lost() {
        let sleeper = Arc::new(Sleeper::new().unwrap());
        sleeper.wake();
        assert!(sleeper.sleep(LONG).is_empty());
        sleeper.wake();
        sleeper.wake();
        sleeper.sleep_deaf(LONG);
        assert!(sleeper.sleep(SHORT).is_empty());
        let too = Arc::clone(&sleeper);
        let thread = thread::spawn(move || too.sleep(LONG));
        sleeper.wake();
        assert!(thread.join().unwrap().is_empty());
    }

    #[test]
    fn descriptors_wake_and_can_be_forgotten() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let sleeper = Sleeper::new().unwrap();
        sleeper.watch(ours.as_raw_fd(), 7).unwrap();
        theirs.send(b"x").unwrap();
        assert_eq!(sleeper.sleep(LONG), [7]);
        sleeper.sleep_deaf(SHORT);
        // It stays readable until it is read.
        assert_eq!(sleeper.sleep(LONG), [7]);
        sleeper.unwatch(ours.as_raw_fd());
        assert!(sleeper.sleep(SHORT).is_empty());
    }

    #[test]
    fn the_stand_in_hears_what_the_sleeper_does_not() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let sleeper = Sleeper::new().unwrap();
        sleeper.watch(ours.as_raw_fd(), 7).unwrap();
        let stand = Stand::new(ours.as_raw_fd()).unwrap();
        let has_heard = Arc::new(AtomicBool::new(false));
        let has_heard_too = Arc::clone(&has_heard);
        let thread = thread::spawn(move || {
            assert!(stand.wait(LONG));
            has_heard_too.store(true, Ordering::SeqCst);
        });
        // Nobody sleeps: it is the stand-in's.
        thread::sleep(Duration::from_millis(20));
        theirs.send(b"x").unwrap();
        thread.join().unwrap();
        assert!(has_heard.load(Ordering::SeqCst));
        ours.recv(&mut [0]).unwrap();
        assert!(sleeper.sleep(SHORT).is_empty());
    }
}
