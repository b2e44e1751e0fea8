//! Where the threads that let things out take them from: behind the gate.
//!
//! Does: give a console's and a device's thread what may leave, and tell the vCPU thread what has
//! left or ended. Does not: decide what may leave (`ft`'s gate, by the role).
//!
//! Invariant: what is taken was acknowledged; it is asked again, by `may_write` and `may_leave`,
//! immediately before it leaves (paper §2.2).

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

use machine::{Lane, Outcome, Output, Request};

use super::device_counters::DeviceCounters;
use super::inbox::{Completion, Inbox};
use super::primary_role::{SharedPrimary, lock};
use crate::host::clock;
use crate::host::console_sink::ConsoleSource;
use crate::host::request_thread::{RequestSource, Taken};
use crate::host::sleeper::Watched;

/// A console's thread takes from here what may leave.
pub struct GatedConsole {
    /// Where outputs wait.
    pub role: SharedPrimary,
    /// Who is told of what has left.
    pub inbox: Arc<Inbox>,
    /// Which console.
    pub lane: Lane,
}

impl ConsoleSource for GatedConsole {
    fn take(&mut self) -> Option<(u64, Vec<u8>)> {
        let output = lock(&self.role).take_output(clock::monotonic_ns(), self.lane);
        match output? {
            Output::Console { through, bytes, .. } => Some((through, bytes)),
            Output::Device { submission, .. } => match submission.request {
                Request::Console { through, bytes } => Some((through, bytes)),
                _ => None,
            },
        }
    }

    fn may_write(&mut self) -> bool {
        lock(&self.role).may_emit(clock::monotonic_ns())
    }

    fn emitted(&mut self, through: u64) {
        self.inbox.emitted(self.lane, through);
    }
}

/// A device's thread takes from here what may leave.
pub struct GatedRequests {
    /// Where requests wait.
    pub role: SharedPrimary,
    /// Who is told how they ended.
    pub inbox: Arc<Inbox>,
    /// The device's number.
    pub device: u8,
    /// What counts them.
    pub counters: Option<Arc<DeviceCounters>>,
    /// The device waits for its requests' ends.
    pub is_awaited: bool,
}

impl RequestSource for GatedRequests {
    fn take(&mut self) -> Option<Taken> {
        let now = clock::monotonic_ns();
        let mut role = lock(&self.role);
        let output = role.take_output(now, Lane::Device(self.device));
        // While somebody could take over, what is done must not depend on this host.
        let durable = !role.is_alone();
        match output? {
            Output::Device { submission, .. } => {
                if let Some(counters) = &self.counters {
                    counters.begun(now, submission.id, &submission.request);
                }
                Some(Taken {
                    id: submission.id,
                    request: submission.request,
                    durable,
                })
            }
            Output::Console { .. } => None,
        }
    }

    fn may_leave(&mut self) -> bool {
        lock(&self.role).may_leave(clock::monotonic_ns())
    }

    fn ended(&mut self, id: u64, outcome: Outcome, data: Vec<u8>) {
        if let Some(counters) = &self.counters {
            counters.ended(clock::monotonic_ns(), id, outcome);
        }
        if self.is_awaited {
            self.inbox.completed(Completion {
                device: self.device,
                id,
                outcome,
                data,
            });
        }
    }

    fn watch(&mut self, ends: Weak<dyn Watched>) -> io::Result<()> {
        self.inbox.watch(self.device, ends)
    }

    fn unwatch(&mut self, descriptor: RawFd) {
        self.inbox.unwatch(self.device, descriptor);
    }
}
