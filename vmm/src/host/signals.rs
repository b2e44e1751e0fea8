//! Signals that ask the process to end.
//!
//! Does: turn SIGTERM and SIGINT into a call on a thread of their own. Does not: end anything; the
//! VMM thread does, in order.
//!
//! Invariant: the first signal ends the VMM in order; a second one of them ends the process at once,
//! the terminal restored, so that a VMM that hangs can still be stopped.

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::terminal;

/// The thread that waits for signals, until this goes away.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl SignalThread {
    /// Calls `on_signal` with the number of the first signal.
    pub fn start(on_signal: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let run = move || {
            let mut count = 0;
            for signal in signals.forever() {
                count += 1;
                if count > 1 {
                    terminal::restore();
                    std::process::exit(128 + signal);
                }
                on_signal(signal);
            }
        };
        let thread = thread::Builder::new()
            .name("signal-handler".to_owned())
            .spawn(run)?;
        Ok(SignalThread {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It panics only if `on_signal` did, which has been reported then.
            let _ = thread.join();
        }
    }
}
