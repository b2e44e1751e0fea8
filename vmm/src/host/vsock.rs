//! Streams between the guest and programs of this host, over UNIX sockets.
//!
//! Does: carry out what the guest asks (connect to `<socket>_<port>`, send, close), take programs
//! that connect to the socket and say `CONNECT <port>`, and pass on what comes from either. Does
//! not: decide when something may leave (the gate does), or know packets.
//!
//! Invariant: nothing here waits for a program. What the guest sends waits in a buffer that the
//! guest's credit bounds; what a program sends stays in its socket while whoever takes it has no
//! room. A stream's end is passed on after its bytes.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use machine::vsock::{BUFFER, CONNECTIONS_MAX};
use machine::{Request, StreamCommand, StreamEvent};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::request_thread::Backend;
use super::unix_listener::PathListener;

/// Programs that have connected and not said where to.
const VISITORS_MAX: usize = 64;
/// The longest `CONNECT` line.
const LINE_MAX: usize = 32;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// The guest is told of so many bytes that were taken at once; it can always send three times as many.
const CONSUMED_AT_ONCE: u32 = BUFFER / 4;
/// The first port from which programs of the host connect.
const FIRST_PORT: u32 = 1 << 30;

/// Who gets what comes from programs.
pub trait StreamReceiver: Send + Sync + 'static {
    /// How many bytes of a stream it takes now.
    fn room(&self, stream: u64) -> usize;
    /// Takes them.
    fn bytes(&self, stream: u64, bytes: &[u8]);
    /// Something else happened, which does not wait for bytes.
    fn event(&self, event: StreamEvent);
    /// A stream has ended, once its bytes are taken: [`StreamEvent::Finished`] or
    /// [`StreamEvent::Closed`].
    fn end(&self, stream: u64, end: StreamEvent);
}

/// One stream.
struct Stream {
    socket: UnixStream,
    /// What the guest sent and the program has not taken.
    output: VecDeque<u8>,
    /// Taken bytes of which the guest was not told.
    unreported: u32,
    /// For one that the program began: the port it comes from, until the guest has accepted.
    unanswered: Option<u32>,
    /// The program sends no more, or receives no more.
    is_finished: bool,
    is_deaf: bool,
    /// The guest sends no more, once the output is taken; or it has closed the stream.
    finishes: bool,
    closes: bool,
}

impl Stream {
    fn new(socket: UnixStream) -> Self {
        Stream {
            socket,
            output: VecDeque::new(),
            unreported: 0,
            unanswered: None,
            is_finished: false,
            is_deaf: false,
            finishes: false,
            closes: false,
        }
    }

    /// Gives the program what it takes. False if it is gone.
    fn send(&mut self) -> bool {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.socket.write(front) {
                Ok(length) => {
                    self.output.drain(..length);
                    self.unreported += length as u32;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        if std::mem::take(&mut self.finishes) {
            // A program that is gone needs no telling.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        true
    }

    /// Whether nothing more is to be done with it.
    fn is_done(&self) -> bool {
        self.closes && self.output.is_empty()
    }
}

/// A program that has connected and not said where to.
struct Visitor {
    socket: UnixStream,
    line: Vec<u8>,
}

struct Streams {
    path: PathBuf,
    receiver: Arc<dyn StreamReceiver>,
    streams: BTreeMap<u64, Stream>,
    visitors: VecDeque<Visitor>,
    next_stream: u64,
    next_port: u32,
}

type Shared = Arc<Mutex<Streams>>;

fn lock(shared: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The side that obeys the guest.
pub struct StreamBackend {
    shared: Shared,
    wake: EventFd,
}

/// The thread that listens to programs, until this goes away.
pub struct StreamThread {
    stop: EventFd,
    wake: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

/// Both sides. `path` is where the guest's programs reach this host's; programs of this host connect to
/// `listener`, if there is one. `wake` is to be written to when the receiver has room again.
pub fn start(
    name: &str,
    path: &Path,
    listener: Option<PathListener>,
    wake: &EventFd,
    receiver: Arc<dyn StreamReceiver>,
) -> io::Result<(StreamBackend, StreamThread)> {
    let shared = Arc::new(Mutex::new(Streams {
        path: path.to_owned(),
        receiver,
        streams: BTreeMap::new(),
        visitors: VecDeque::new(),
        next_stream: 1,
        next_port: FIRST_PORT,
    }));
    let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    let backend = StreamBackend {
        shared: Arc::clone(&shared),
        wake: wake.try_clone()?,
    };
    let (stop_too, wake_too) = (stop.try_clone()?, wake.try_clone()?);
    let run = move || serve(&shared, listener.as_ref(), &stop_too, &wake_too);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
    let thread = StreamThread {
        stop,
        wake: wake.try_clone()?,
        thread: Some(thread),
    };
    Ok((backend, thread))
}

impl Drop for StreamThread {
    fn drop(&mut self) {
        // They fail only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // It panics only if the receiver did, which has been reported then.
            let _ = thread.join();
        }
    }
}

impl Backend for StreamBackend {
    fn carry_out(&mut self, request: &Request, _durable: bool) -> io::Result<Vec<u8>> {
        let Request::Streams(commands) = request else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        {
            let mut streams = lock(&self.shared);
            commands.iter().for_each(|command| streams.obey(command));
        }
        // It waits for other sockets from now on.
        let _ = self.wake.write(1);
        Ok(Vec::new())
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Streams {
    fn obey(&mut self, command: &StreamCommand) {
        match command {
            StreamCommand::Connect { stream, port } => self.connect(*stream, *port),
            StreamCommand::Accept { stream } => {
                if let Some(open) = self.streams.get_mut(stream)
                    && let Some(port) = open.unanswered.take()
                {
                    // A few bytes that a new socket takes; a program that is gone is noticed later.
                    let _ = open.socket.write_all(format!("OK {port}\n").as_bytes());
                }
            }
            StreamCommand::Send { stream, bytes } => {
                if let Some(open) = self.streams.get_mut(stream) {
                    open.output.extend(bytes);
                    self.send(*stream);
                }
            }
            StreamCommand::Finish { stream } => {
                if let Some(open) = self.streams.get_mut(stream) {
                    open.finishes = true;
                    self.send(*stream);
                }
            }
            StreamCommand::Close { stream } => {
                if let Some(open) = self.streams.get_mut(stream) {
                    open.closes = true;
                    self.send(*stream);
                }
            }
            StreamCommand::CloseAll => {
                for open in self.streams.values_mut() {
                    open.closes = true;
                }
                self.streams.retain(|_, open| !open.is_done());
            }
        }
    }

    fn connect(&mut self, stream: u64, port: u32) {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!("_{port}"));
        let event = match connect(Path::new(&path)) {
            Ok(socket) => {
                self.streams.insert(stream, Stream::new(socket));
                StreamEvent::Opened { stream }
            }
            Err(error) => {
                log::debug!("nobody takes the guest's stream to port {port}: {error}");
                StreamEvent::Closed { stream }
            }
        };
        self.receiver.event(event);
    }

    /// Gives a program what it takes, and tells the guest.
    fn send(&mut self, stream: u64) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if open.is_deaf || !open.send() {
            // What it has said before is still passed on.
            open.is_deaf = true;
            open.output.clear();
            if open.is_finished || open.closes || open.unanswered.is_some() {
                self.close(stream);
            }
            return;
        }
        let is_done = open.is_done();
        if open.unreported >= CONSUMED_AT_ONCE && !open.closes {
            let count = std::mem::take(&mut open.unreported);
            self.receiver.event(StreamEvent::Consumed { stream, count });
        }
        if is_done {
            self.streams.remove(&stream);
        }
    }

    /// The program is gone.
    fn close(&mut self, stream: u64) {
        if let Some(open) = self.streams.remove(&stream)
            && !open.closes
        {
            self.receiver.end(stream, StreamEvent::Closed { stream });
        }
    }

    // --- What programs do.

    fn accept(&mut self, listener: &PathListener) {
        while let Ok((socket, _)) = listener.socket().accept() {
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            if self.visitors.len() == VISITORS_MAX {
                // Who came first has had its time.
                self.visitors.pop_front();
            }
            let line = Vec::new();
            self.visitors.push_back(Visitor { socket, line });
        }
    }

    /// Reads on in the lines of those who have not said where to.
    fn listen(&mut self) {
        for mut visitor in std::mem::take(&mut self.visitors) {
            match visitor.read_line() {
                Ok(Some(port)) if self.streams.len() < CONNECTIONS_MAX => {
                    let stream = self.next_stream;
                    self.next_stream += 2;
                    let host_port = self.next_port;
                    self.next_port = host_port.checked_add(1).unwrap_or(FIRST_PORT);
                    let mut new = Stream::new(visitor.socket);
                    new.unanswered = Some(host_port);
                    self.streams.insert(stream, new);
                    self.receiver.event(StreamEvent::Incoming {
                        stream,
                        host_port,
                        port,
                    });
                }
                Ok(None) => self.visitors.push_back(visitor),
                // It says something else, or there is no room for it.
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Reads what a program says. `hung_up`: it neither sends nor receives any more.
    fn receive(&mut self, stream: u64, hung_up: bool) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if open.unanswered.is_some() || open.is_finished {
            if hung_up {
                self.close(stream);
            }
            return;
        }
        let room = self.receiver.room(stream).min(CHUNK);
        if room == 0 {
            return;
        }
        let mut bytes = vec![0; room];
        match open.socket.read(&mut bytes) {
            Ok(0) if hung_up => self.close(stream),
            Ok(0) => {
                open.is_finished = true;
                if !open.closes {
                    self.receiver.end(stream, StreamEvent::Finished { stream });
                }
            }
            Ok(length) if !open.closes => self.receiver.bytes(stream, &bytes[..length]),
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                _ => self.close(stream),
            },
        }
    }

    /// What is waited for of a stream; `None` if nothing is until there is room.
    fn interest(&self, stream: u64, open: &Stream) -> Option<libc::c_short> {
        let mut events = 0;
        if open.unanswered.is_none() && !open.is_finished {
            if self.receiver.room(stream) > 0 {
                events |= libc::POLLIN;
            } else if open.output.is_empty() {
                return None;
            }
        }
        if !open.output.is_empty() {
            events |= libc::POLLOUT;
        }
        Some(events)
    }
}

impl Visitor {
    /// The port, once the line is whole. What stands behind it stays in the socket.
    fn read_line(&mut self) -> io::Result<Option<u32>> {
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) if self.line.len() == LINE_MAX => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(_) => self.line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let line = std::str::from_utf8(&self.line).ok();
        let port = line.and_then(|line| line.trim_end().strip_prefix("CONNECT "));
        let port = port.and_then(|port| port.trim().parse().ok());
        port.map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The thread.
fn serve(shared: &Mutex<Streams>, listener: Option<&PathListener>, stop: &EventFd, wake: &EventFd) {
    loop {
        let poll = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut wait = vec![
            poll(stop.as_raw_fd(), libc::POLLIN),
            poll(wake.as_raw_fd(), libc::POLLIN),
            // What is not there is negative: nobody waits for it.
            poll(
                listener.map_or(-1, |listener| listener.socket().as_raw_fd()),
                libc::POLLIN,
            ),
        ];
        let fixed = wait.len();
        let names: Vec<u64> = {
            let streams = lock(shared);
            let visitors = streams.visitors.iter();
            wait.extend(visitors.map(|visitor| poll(visitor.socket.as_raw_fd(), libc::POLLIN)));
            let interests = streams.streams.iter().filter_map(|(name, open)| {
                let events = streams.interest(*name, open)?;
                Some((*name, poll(open.socket.as_raw_fd(), events)))
            });
            let (names, polls): (Vec<u64>, Vec<_>) = interests.unzip();
            wait.extend(polls);
            names
        };
        let count = wait.len();
        // SAFETY: the pointer and the count are those of a live vector.
        let ready = unsafe { libc::poll(wait.as_mut_ptr(), count as libc::nfds_t, -1) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
        if ready <= 0 {
            continue;
        }
        if wait[0].revents != 0 {
            return;
        }
        if wait[1].revents != 0 {
            // It fails only when somebody has read it already.
            let _ = wake.read();
        }
        let mut streams = lock(shared);
        let first_stream = count - names.len();
        if wait[fixed..first_stream]
            .iter()
            .any(|poll| poll.revents != 0)
        {
            streams.listen();
        }
        if let (Some(listener), true) = (listener, wait[2].revents != 0) {
            streams.accept(listener);
        }
        for (name, poll) in names.iter().zip(&wait[first_stream..]) {
            // The guest may have closed it meanwhile; another of this name there is not.
            if poll.revents & libc::POLLOUT != 0 {
                streams.send(*name);
            }
            if poll.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
                streams.receive(*name, poll.revents & libc::POLLHUP != 0);
            }
        }
    }
}

/// Connects to the socket at `path`, which takes no time: who does not accept at once refuses.
fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: sockaddr_un is plain data for which all bits zero are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers only.
    let descriptor = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    let socket = unsafe { UnixStream::from_raw_fd(descriptor) };
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a live sockaddr_un.
    let result = unsafe { libc::connect(descriptor, (&raw const address).cast(), length) };
    match result {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use vmm_sys_util::tempdir::TempDir;

    use super::super::unix_listener::Claim;
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    struct Guest(Mutex<mpsc::Sender<StreamEvent>>);

    impl StreamReceiver for Guest {
        fn room(&self, _: u64) -> usize {
            1000
        }
        fn bytes(&self, stream: u64, bytes: &[u8]) {
            let bytes = bytes.to_vec();
            self.event(StreamEvent::Data { stream, bytes });
        }
        fn event(&self, event: StreamEvent) {
            let _ = self.0.lock().unwrap().send(event);
        }
        fn end(&self, _: u64, end: StreamEvent) {
            self.event(end);
        }
    }

    struct Host {
        directory: TempDir,
        backend: StreamBackend,
        _thread: StreamThread,
        events: mpsc::Receiver<StreamEvent>,
    }

    impl Host {
        fn new() -> Host {
            let directory = TempDir::new().unwrap();
            let path = directory.as_path().join("vsock");
            let listener = PathListener::bind(&path, Claim::Free).unwrap();
            let (sender, events) = mpsc::channel();
            let guest = Arc::new(Guest(Mutex::new(sender)));
            let wake = EventFd::new(EFD_NONBLOCK).unwrap();
            let (backend, thread) = start("vsock", &path, Some(listener), &wake, guest).unwrap();
            Host {
                directory,
                backend,
                _thread: thread,
                events,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.as_path().join(name)
        }

        fn obey(&mut self, command: StreamCommand) {
            let request = Request::Streams(vec![command]);
            self.backend.carry_out(&request, false).unwrap();
        }

        fn next(&self) -> StreamEvent {
            self.events.recv_timeout(SOON).unwrap()
        }
    }

    #[test]
    fn the_guest_connects_to_a_program() {
        let mut host = Host::new();
        host.obey(StreamCommand::Connect { stream: 0, port: 7 });
        assert_eq!(host.next(), StreamEvent::Closed { stream: 0 }, "nobody");
        let listener = UnixListener::bind(host.path("vsock_7")).unwrap();
        host.obey(StreamCommand::Connect { stream: 2, port: 7 });
        assert_eq!(host.next(), StreamEvent::Opened { stream: 2 });
        let (mut program, _) = listener.accept().unwrap();
        // More than its socket takes at once.
        let bytes = vec![5; 4 << 20];
        host.obey(StreamCommand::Send {
            stream: 2,
            bytes: bytes.clone(),
        });
        host.obey(StreamCommand::Finish { stream: 2 });
        let mut found = Vec::new();
        program.read_to_end(&mut found).unwrap();
        assert_eq!(found.len(), bytes.len());
        let mut consumed = 0;
        while consumed + CONSUMED_AT_ONCE < 4 << 20 {
            let StreamEvent::Consumed { stream: 2, count } = host.next() else {
                panic!("bytes were taken");
            };
            consumed += count;
        }
        program.write_all(b"answer").unwrap();
        let bytes = b"answer".to_vec();
        while let event = host.next()
            && event
                != (StreamEvent::Data {
                    stream: 2,
                    bytes: bytes.clone(),
                })
        {
            assert!(matches!(event, StreamEvent::Consumed { .. }));
        }
        drop(program);
        assert_eq!(host.next(), StreamEvent::Closed { stream: 2 });
    }

    #[test]
    fn a_program_connects_to_the_guest() {
        let mut host = Host::new();
        let mut program = UnixStream::connect(host.path("vsock")).unwrap();
        program.write_all(b"CONNE").unwrap();
        thread::sleep(Duration::from_millis(20));
        program.write_all(b"CT 52\nhello").unwrap();
        let incoming = StreamEvent::Incoming {
            stream: 1,
            host_port: FIRST_PORT,
            port: 52,
        };
        assert_eq!(host.next(), incoming);
        host.obey(StreamCommand::Accept { stream: 1 });
        let mut line = vec![0; 14];
        program.read_exact(&mut line).unwrap();
        assert_eq!(line, b"OK 1073741824\n");
        let bytes = b"hello".to_vec();
        assert_eq!(host.next(), StreamEvent::Data { stream: 1, bytes });
        program.shutdown(Shutdown::Write).unwrap();
        assert_eq!(host.next(), StreamEvent::Finished { stream: 1 });
        let bytes = b"bye".to_vec();
        host.obey(StreamCommand::Send { stream: 1, bytes });
        host.obey(StreamCommand::Close { stream: 1 });
        let mut rest = Vec::new();
        program.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
        // What the guest refuses, and what is no request.
        let mut program = UnixStream::connect(host.path("vsock")).unwrap();
        program.write_all(b"CONNECT 53\n").unwrap();
        assert!(matches!(
            host.next(),
            StreamEvent::Incoming { stream: 3, .. }
        ));
        host.obey(StreamCommand::Close { stream: 3 });
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
        for wrong in ["GET / HTTP/1.1\r\n", "CONNECT x\n", &"9".repeat(100)] {
            let mut program = UnixStream::connect(host.path("vsock")).unwrap();
            program.write_all(wrong.as_bytes()).unwrap();
            // What it had still to read makes the end a reset.
            assert_eq!(program.read(&mut [0]).unwrap_or(0), 0);
        }
    }
}
