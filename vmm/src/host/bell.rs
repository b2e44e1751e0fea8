//! A bell that wakes one thread.
//!
//! Does: remember that it was rung, and let a thread wait for that, alone or together with
//! something else that has a descriptor. Does not: say why.
//!
//! Invariant: a ring is never lost; several rings before one look are one.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

/// The bell.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    /// A thread waits for this descriptor instead.
    call: Option<Arc<EventFd>>,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings.
    pub fn ring(&self) {
        let mut state = self.lock();
        if !state.rung
            && let Some(call) = &state.call
        {
            // It fails only when the counter is full: then it can be read already.
            let _ = call.write(1);
        }
        state.rung = true;
        self.changed.notify_all();
    }

    /// Waits until it was rung since the last wait, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut state = self.lock();
        if !state.rung {
            let waited = self.changed.wait_timeout(state, timeout);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.rung = false;
    }

    /// [`Self::wait`], by a function that returns when the descriptor `call` can be read, and may
    /// return earlier.
    pub fn wait_by<T>(&self, call: &Arc<EventFd>, wait: impl FnOnce(RawFd) -> T) -> Option<T> {
        {
            let mut state = self.lock();
            if std::mem::take(&mut state.rung) {
                return None;
            }
            state.call = Some(Arc::clone(call));
        }
        let result = wait(call.as_raw_fd());
        let mut state = self.lock();
        state.call = None;
        if std::mem::take(&mut state.rung) {
            // It was written once for this.
            let _ = call.read();
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let bell = Arc::new(Bell::default());
        bell.ring();
        bell.wait(Duration::from_secs(1000));
        let too = Arc::clone(&bell);
        let thread = thread::spawn(move || too.wait(Duration::from_secs(1000)));
        bell.ring();
        thread.join().unwrap();
        bell.wait(Duration::from_millis(1));
    }

    #[test]
    fn a_ring_is_seen_by_descriptor() {
        let bell = Arc::new(Bell::default());
        let call = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        bell.ring();
        assert_eq!(bell.wait_by(&call, |_| ()), None);
        let rung = bell.wait_by(&call, |_| {
            bell.ring();
            bell.ring();
            call.read().unwrap()
        });
        assert_eq!(rung, Some(1));
        let quiet = bell.wait_by(&call, |_| call.read().is_err());
        assert_eq!(quiet, Some(true));
    }
}
