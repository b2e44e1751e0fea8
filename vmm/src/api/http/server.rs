//! The `http-server` thread.
//!
//! Does: accept clients, move their bytes, hand their requests to the VMM thread and its answers
//! back to them. Does not: wait for an answer; other clients are served meanwhile.
//!
//! Invariant: all connections belong to this one thread. The VMM thread only puts answers into a
//! channel and signals an event.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::connection::{Connection, Waits};
use crate::api::{ApiError, ApiHandle, Reply, Request, Response};
use crate::host::api_socket::ApiSocket;

/// The most clients at once. Another one takes the place of the one that has been silent longest; if
/// all of them wait for answers, more wait to be accepted.
const CONNECTIONS_MAX: usize = 128;

/// How long the last responses may take when the server is stopped.
const LAST_RESPONSES: Duration = Duration::from_secs(1);

/// Names in the epoll set. Connections count from `FIRST_CONNECTION` and never repeat.
const LISTENER: u64 = 0;
const ANSWERS: u64 = 1;
const STOP: u64 = 2;
const FIRST_CONNECTION: u64 = 3;

/// Why the server could not be started.
#[derive(Debug, Error)]
#[error("cannot {what} of the API server")]
pub struct HttpServerError {
    what: &'static str,
    source: io::Error,
}

type Answer = (u64, Result<Response, ApiError>);

/// The server, until this goes away.
#[derive(Debug)]
pub struct HttpServer {
    stop: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

struct State {
    socket: ApiSocket,
    api: ApiHandle,
    epoll: Epoll,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Counts what clients have done.
    doings: u64,
    is_listening: bool,
    sender: mpsc::Sender<Answer>,
    receiver: mpsc::Receiver<Answer>,
    answered: Arc<EventFd>,
    stop: EventFd,
}

impl HttpServer {
    /// Serves `socket`, asking `api`.
    pub fn start(socket: ApiSocket, api: ApiHandle) -> Result<Self, HttpServerError> {
        let failed = |what| move |source| HttpServerError { what, source };
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let stop = event().map_err(failed("make an event"))?;
        let stop_too = stop.try_clone().map_err(failed("make an event"))?;
        let (sender, receiver) = mpsc::channel();
        let mut state = State {
            socket,
            api,
            epoll: Epoll::new().map_err(failed("make the event set"))?,
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            doings: 0,
            is_listening: false,
            sender,
            receiver,
            answered: Arc::new(event().map_err(failed("make an event"))?),
            stop: stop_too,
        };
        state.prepare().map_err(failed("fill the event set"))?;
        let thread = thread::Builder::new().name("http-server".to_owned());
        let thread = thread
            .spawn(move || state.serve())
            .map_err(failed("start the thread"))?;
        Ok(HttpServer {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for HttpServer {
    /// Lets the responses out that are there, and ends the thread.
    fn drop(&mut self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the API server has panicked");
        }
    }
}

impl State {
    fn prepare(&mut self) -> io::Result<()> {
        self.listener().set_nonblocking(true)?;
        self.watch(
            ControlOperation::Add,
            self.answered.as_raw_fd(),
            EventSet::IN,
            ANSWERS,
        )?;
        self.watch(
            ControlOperation::Add,
            self.stop.as_raw_fd(),
            EventSet::IN,
            STOP,
        )?;
        self.listen_if_there_is_room();
        Ok(())
    }

    fn listener(&self) -> &UnixListener {
        self.socket.listener()
    }

    fn watch(
        &self,
        operation: ControlOperation,
        descriptor: RawFd,
        events: EventSet,
        name: u64,
    ) -> io::Result<()> {
        self.epoll
            .ctl(operation, descriptor, EpollEvent::new(events, name))
    }

    fn serve(&mut self) {
        let mut events = vec![EpollEvent::default(); 32];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("the API server cannot wait for events and ends: {error}");
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    ANSWERS => self.deliver(),
                    STOP => return self.finish(),
                    name => self.go_on(name, event.event_set()),
                }
            }
            self.listen_if_there_is_room();
        }
    }

    /// The client that has done nothing for longest, of those that it is up to.
    fn most_silent(&self) -> Option<u64> {
        let connections = self.connections.iter();
        let silent = connections.filter(|(_, c)| c.waits() != Waits::ForAnswer);
        let longest = silent.min_by_key(|(_, connection)| connection.last_doing);
        longest.map(|(name, _)| *name)
    }

    /// Watches the listener exactly while there is room for another client.
    fn listen_if_there_is_room(&mut self) {
        let has_room = self.connections.len() < CONNECTIONS_MAX || self.most_silent().is_some();
        if has_room == self.is_listening {
            return;
        }
        let (operation, events) = if has_room {
            (ControlOperation::Add, EventSet::IN)
        } else {
            (ControlOperation::Delete, EventSet::empty())
        };
        match self.watch(operation, self.listener().as_raw_fd(), events, LISTENER) {
            Ok(()) => self.is_listening = has_room,
            Err(error) => log::error!("cannot watch the API socket: {error}"),
        }
    }

    fn accept(&mut self) {
        loop {
            let is_full = self.connections.len() >= CONNECTIONS_MAX;
            let most_silent = self.most_silent().filter(|_| is_full);
            if is_full && most_silent.is_none() {
                return;
            }
            let accepted = self.listener().accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                Connection::new(stream)
            });
            match accepted {
                Ok(mut connection) => {
                    if let Some(silent) = most_silent {
                        self.connections.remove(&silent);
                    }
                    let name = self.next_connection;
                    self.next_connection += 1;
                    self.doings += 1;
                    connection.last_doing = self.doings;
                    let descriptor = connection.as_raw_fd();
                    match self.watch(ControlOperation::Add, descriptor, EventSet::IN, name) {
                        Ok(()) => drop(self.connections.insert(name, connection)),
                        Err(error) => log::warn!("cannot watch an API client: {error}"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("cannot accept an API client: {error}");
                    return;
                }
            }
        }
    }

    /// A client has sent something, has made room, or has gone.
    fn go_on(&mut self, name: u64, events: EventSet) {
        let Some(connection) = self.connections.get_mut(&name) else {
            return;
        };
        self.doings += 1;
        connection.last_doing = self.doings;
        let is_gone = events.contains(EventSet::ERROR)
            || (events.contains(EventSet::HANG_UP) && !events.contains(EventSet::IN));
        if is_gone {
            connection.hang_up();
        }
        let request = connection.go_on();
        self.follow_up(name, request);
    }

    /// Answers have come from the VMM thread.
    fn deliver(&mut self) {
        // It fails only when there was nothing to read; the channel is looked at anyway.
        let _ = self.answered.read();
        while let Ok((name, answer)) = self.receiver.try_recv() {
            // The client may have gone.
            if let Some(connection) = self.connections.get_mut(&name) {
                let request = connection.answer(&answer);
                self.follow_up(name, request);
            }
        }
    }

    /// Asks what a connection asks, and waits for what it waits for.
    fn follow_up(&mut self, name: u64, request: Option<Request>) {
        if let Some(request) = request {
            self.api.call(request, self.reply(name));
        }
        let Some(connection) = self.connections.get(&name) else {
            return;
        };
        let events = match connection.waits() {
            Waits::ToRead => EventSet::IN,
            Waits::ToWrite => EventSet::OUT,
            // Errors and hang-ups are reported nevertheless.
            Waits::ForAnswer => EventSet::empty(),
            Waits::Over => {
                // Its descriptor leaves the event set when it is closed.
                self.connections.remove(&name);
                return;
            }
        };
        let descriptor = connection.as_raw_fd();
        if let Err(error) = self.watch(ControlOperation::Modify, descriptor, events, name) {
            log::warn!("cannot watch an API client: {error}");
            self.connections.remove(&name);
        }
    }

    fn reply(&self, name: u64) -> Reply {
        let sender = self.sender.clone();
        let answered = Arc::clone(&self.answered);
        Reply::new(move |answer| {
            if sender.send((name, answer)).is_ok() {
                // It fails only when the counter is full: then the thread knows already.
                let _ = answered.write(1);
            }
        })
    }

    /// Lets the last responses out, for a moment.
    fn finish(&mut self) {
        self.deliver();
        let mut events = vec![EpollEvent::default(); 32];
        let deadline = crate::host::clock::monotonic_ns()
            + u64::try_from(LAST_RESPONSES.as_nanos()).unwrap_or_default();
        while self
            .connections
            .values()
            .any(|client| client.waits() == Waits::ToWrite)
        {
            let now = crate::host::clock::monotonic_ns();
            if now >= deadline {
                return;
            }
            let Ok(count) = self.epoll.wait(10, &mut events) else {
                return;
            };
            for event in &events[..count] {
                let name = event.data();
                let waits = self.connections.get(&name).map(Connection::waits);
                if waits == Some(Waits::ToWrite) {
                    self.go_on(name, event.event_set());
                }
            }
        }
    }
}
