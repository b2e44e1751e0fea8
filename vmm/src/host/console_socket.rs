//! A console behind a UNIX socket.
//!
//! Does: accept whoever connects, one at a time, and hold the connection for those who read and
//! write it. Does not: read or write.
//!
//! Invariant: the last one to connect has the console; the one before is disconnected.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::unix_listener::{Claim, PathListener};

/// The console's end.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: PathListener,
    connection: Mutex<Option<Arc<UnixStream>>>,
}

impl ConsoleSocket {
    /// Waits at `path` for somebody to connect.
    pub fn bind(path: &Path, claim: Claim) -> io::Result<Self> {
        Ok(ConsoleSocket {
            listener: PathListener::bind(path, claim)?,
            connection: Mutex::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where others connect.
    pub fn listener(&self) -> &PathListener {
        &self.listener
    }

    /// Accepts whoever wants to connect now.
    pub fn accept(&self) {
        while let Ok((stream, _)) = self.listener.socket().accept() {
            if stream.set_nonblocking(true).is_ok() {
                *self.lock() = Some(Arc::new(stream));
            }
        }
    }

    /// The connection, if there is one.
    pub fn connection(&self) -> Option<Arc<UnixStream>> {
        self.lock().clone()
    }

    /// `stream` is of no use any more.
    pub fn disconnected(&self, stream: &Arc<UnixStream>) {
        let mut connection = self.lock();
        if connection
            .as_ref()
            .is_some_and(|ours| Arc::ptr_eq(ours, stream))
        {
            *connection = None;
        }
    }
}
