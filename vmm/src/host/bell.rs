//! A bell that wakes one thread.
//!
//! Does: remember that it was rung, and let a thread wait for that. Does not: say why.
//!
//! Invariant: a ring is never lost; several rings before one look are one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bell.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings.
    pub fn ring(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until it was rung since the last wait, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut rung = self.lock();
        if !*rung {
            let waited = self.changed.wait_timeout(rung, timeout);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

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
}
