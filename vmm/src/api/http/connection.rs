//! One client's connection.
//!
//! Does: gather its bytes into requests, one at a time, and get its responses out. Does not: block;
//! it says what it waits for.
//!
//! Invariant: the next request of a connection is looked at only after the response to the one
//! before has been written in full. After a request that cannot be parsed, nothing more is parsed:
//! the rest is read and dropped, so that the client gets to see the answer.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use dbs_uhttp::{ConnectionError, HttpConnection};

use super::{BODY_LENGTH_MAX, response, routes};
use crate::api::{ApiError, Request, Response};

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Bytes from the client.
    ToRead,
    /// Room for a response.
    ToWrite,
    /// The VMM thread.
    ForAnswer,
    /// Nothing: it is over.
    Over,
}

/// The parser reads so often for one request at most, up to 1 KiB at a time: twice what a body of the
/// greatest length needs. It keeps every header that it is given.
const READS_MAX: usize = 2 * BODY_LENGTH_MAX / 1024;
/// The most bytes that are read and dropped after a request that cannot be parsed.
const DROPPED_MAX: usize = 64 << 20;

/// A client.
pub(super) struct Connection {
    /// Parses what comes in. Only its interim responses (100) are written by it.
    parser: HttpConnection<UnixStream>,
    stream: UnixStream,
    /// What is still to be written.
    out: Vec<u8>,
    state: State,
    /// Reads since the last request was whole.
    reads: usize,
    /// When it did something last, as the server counts.
    pub(super) last_doing: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next request is awaited.
    Reading,
    /// A request is with the VMM thread.
    Asked,
    /// What comes is dropped; so many bytes so far.
    Dropping(usize),
    Over,
}

impl Connection {
    /// A connection over `stream`, which does not block.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let mut parser = HttpConnection::new(stream.try_clone()?);
        parser.set_payload_max_size(BODY_LENGTH_MAX);
        Ok(Connection {
            parser,
            stream,
            out: Vec::new(),
            state: State::Reading,
            reads: 0,
            last_doing: 0,
        })
    }

    pub(super) fn waits(&self) -> Waits {
        match self.state {
            State::Over => Waits::Over,
            _ if !self.out.is_empty() => Waits::ToWrite,
            State::Asked => Waits::ForAnswer,
            State::Reading | State::Dropping(_) => Waits::ToRead,
        }
    }

    /// The client has gone.
    pub(super) fn hang_up(&mut self) {
        self.state = State::Over;
    }

    /// Goes on after bytes have come or room has been made; a request, if that made one.
    pub(super) fn go_on(&mut self) -> Option<Request> {
        match self.waits() {
            Waits::ToWrite => self.write(),
            Waits::ToRead => self.read(),
            Waits::ForAnswer | Waits::Over => {}
        }
        self.next_request()
    }

    /// Takes the answer to the request that was asked.
    pub(super) fn answer(&mut self, answer: &Result<Response, ApiError>) -> Option<Request> {
        if self.state == State::Asked {
            self.state = State::Reading;
            self.respond(answer);
        }
        self.next_request()
    }

    /// A request that is complete, if it may be looked at now.
    fn next_request(&mut self) -> Option<Request> {
        while self.state == State::Reading && self.out.is_empty() {
            let mut request = self.parser.pop_parsed_request()?;
            self.reads = 0;
            let files = std::mem::take(&mut request.files).into_iter();
            let descriptors = files.map(OwnedFd::from).collect();
            let body = request.body.as_ref().map_or(&[][..], |body| body.raw());
            let path = request.uri().get_abs_path();
            match routes::find(request.method(), path, body, descriptors) {
                Ok(request) => {
                    self.state = State::Asked;
                    return Some(request);
                }
                Err(error) => self.respond(&Err(error)),
            }
        }
        None
    }

    fn respond(&mut self, answer: &Result<Response, ApiError>) {
        self.out.extend(response::encode(answer));
        self.write();
    }

    fn write(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.state = State::Over;
                    return;
                }
            }
        }
        if matches!(self.state, State::Dropping(_)) {
            // The client learns that nothing more will come. It may have gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn read(&mut self) {
        if let State::Dropping(dropped) = self.state {
            self.drop_some(dropped);
            return;
        }
        self.reads += 1;
        match self.parser.try_read() {
            Ok(()) if self.reads > READS_MAX => {
                self.state = State::Dropping(0);
                self.respond(&Err(ApiError::Http {
                    reason: "the request does not end".to_owned(),
                }));
            }
            Ok(()) => {}
            Err(ConnectionError::StreamReadError(error))
                if matches!(error.errno(), libc::EAGAIN | libc::EINTR) => {}
            Err(ConnectionError::ParseError(error)) => {
                self.state = State::Dropping(0);
                self.respond(&Err(ApiError::Http {
                    reason: error.to_string(),
                }));
            }
            Err(_) => self.state = State::Over,
        }
        while self.parser.pending_write() {
            // An interim response is so short that it fits, unless the client has gone.
            if self.parser.try_write().is_err() {
                self.state = State::Over;
                return;
            }
        }
    }

    fn drop_some(&mut self, dropped: usize) {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.state = State::Over,
            Ok(length) if dropped + length > DROPPED_MAX => self.state = State::Over,
            Ok(length) => self.state = State::Dropping(dropped + length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.state = State::Over,
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
