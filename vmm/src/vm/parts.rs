//! What all threads of one machine share.
//!
//! Does: hold it. Does not: run.
//!
//! Invariant: lock order is connection, role, inbox; nobody holds two of them but in that order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ft::identity::Incarnation;

use super::board::Board;
use super::inbox::Inbox;
use crate::control::{Event, EventSender, Ticket, VmError};
use crate::host::channel_thread::ChannelThread;
use crate::machine_factory::MachineOptions;

/// What all threads of one machine share.
pub struct Parts {
    /// How machines run in this process.
    pub options: MachineOptions,
    /// This process, as a member of pairings of this VM.
    pub us: Incarnation,
    /// What waits for the vCPU thread.
    pub inbox: Arc<Inbox>,
    /// To the VMM thread.
    pub events: EventSender,
    /// What it shows of itself.
    pub board: Board,
    /// The thread of the present pairing's connection.
    connection: Mutex<Option<ChannelThread>>,
}

impl Parts {
    /// Those of a new machine.
    pub fn new(
        options: MachineOptions,
        us: Incarnation,
        inbox: Arc<Inbox>,
        events: EventSender,
        board: Board,
    ) -> Arc<Self> {
        Arc::new(Parts {
            options,
            us,
            inbox,
            events,
            board,
            connection: Mutex::new(None),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Option<ChannelThread>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection's thread, instead of the last one's.
    pub fn set_connection(&self, thread: ChannelThread) {
        let before = self.connection().replace(thread);
        // Its end is waited for without the lock.
        drop(before);
    }

    /// Ends the connection's thread, if there is one. To the peer that looks like a crash.
    pub fn close_connection(&self) {
        let before = self.connection().take();
        drop(before);
    }

    /// Answers a command.
    pub fn answer(&self, ticket: Ticket, result: Result<(), VmError>) {
        self.events.send(Event::Answered { ticket, result });
    }
}
