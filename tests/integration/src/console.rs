//! What a process writes, read while it writes it.
//!
//! Does: collect a stream's bytes with the time of their arrival, and wait for texts in them.
//! Does not: interpret them.
//!
//! Invariant: bytes are kept in the order in which the process wrote them, also those that it
//! wrote right before it was killed.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// How much of a console a failure shows.
const SHOWN_BYTES: usize = 2000;

/// One arrival: bytes up to offset `end` were there at `at`.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The offset after the bytes that arrived.
    pub end: usize,
    /// When they were read.
    pub at: Instant,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    arrivals: Vec<Arrival>,
    closed: bool,
    /// The writer is known to have ended: what can be read now is all there is.
    writer_gone: bool,
    /// How far `expect` has looked.
    looked: usize,
}

/// A stream that a thread of ours reads.
#[derive(Clone)]
pub struct Console {
    name: String,
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

impl Console {
    fn new(name: &str) -> Self {
        Console {
            name: name.to_owned(),
            shared: Arc::default(),
        }
    }

    /// Reads a pipe to its end.
    pub fn of_pipe(name: &str, mut pipe: impl Read + Send + 'static) -> Self {
        let console = Console::new(name);
        let ours = console.clone();
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => ours.collect(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            ours.close();
        });
        console
    }

    /// Reads a datagram socket, on which each `write` call of the process arrives by itself: the
    /// number of arrivals is the number of calls. It ends after [`Console::writer_is_gone`].
    pub fn of_datagrams(name: &str, socket: UnixDatagram) -> Outcome<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let console = Console::new(name);
        let ours = console.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            loop {
                // Asked before the read, so that nothing written before is missed.
                let gone = ours.lock().writer_gone;
                match socket.recv(&mut buffer) {
                    Ok(count) => ours.collect(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock && !gone => {}
                    Err(_) => break,
                }
            }
            ours.close();
        });
        Ok(console)
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().expect("a reader panicked")
    }

    fn collect(&self, bytes: &[u8]) {
        let at = Instant::now();
        let mut collected = self.lock();
        collected.bytes.extend_from_slice(bytes);
        let end = collected.bytes.len();
        collected.arrivals.push(Arrival { end, at });
        self.shared.1.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.shared.1.notify_all();
    }

    /// Says that the process has ended.
    pub fn writer_is_gone(&self) {
        self.lock().writer_gone = true;
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// How many bytes there are.
    pub fn length(&self) -> usize {
        self.lock().bytes.len()
    }

    /// When what arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.lock().arrivals.clone()
    }

    /// Everything so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Waits until `text` stands behind everything that was expected before.
    pub fn expect(&self, text: &str, patience: Duration) -> Outcome<()> {
        self.wait(&format!("{text:?}"), patience, |collected| {
            let rest = &collected.bytes[collected.looked..];
            let at = rest
                .windows(text.len())
                .position(|window| window == text.as_bytes())?;
            collected.looked += at + text.len();
            Some(())
        })
    }

    /// Waits until `count` more whole lines have come than are there now.
    pub fn expect_lines(&self, count: usize, patience: Duration) -> Outcome<()> {
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let wanted = lines(&self.lock().bytes) + count;
        self.wait(&format!("{count} more lines"), patience, |collected| {
            (lines(&collected.bytes) >= wanted).then_some(())
        })
    }

    /// Waits until more than `length` bytes are there.
    pub fn expect_more_than(&self, length: usize, patience: Duration) -> Outcome<()> {
        self.wait("more output", patience, |collected| {
            (collected.bytes.len() > length).then_some(())
        })
    }

    /// Waits for the end of the stream, and gives all of it.
    pub fn to_end(&self, patience: Duration) -> Outcome<Vec<u8>> {
        let mut collected = self.lock();
        let deadline = Instant::now() + patience;
        while !collected.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.failure("the end of the stream", patience, &collected));
            }
            let waited = self.shared.1.wait_timeout(collected, left);
            collected = waited.expect("a reader panicked").0;
        }
        Ok(collected.bytes.clone())
    }

    fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(&mut Collected) -> Option<T>,
    ) -> Outcome<T> {
        let deadline = Instant::now() + patience;
        let mut collected = self.lock();
        loop {
            if let Some(value) = found(&mut collected) {
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if collected.closed || left.is_zero() {
                return Err(self.failure(what, patience, &collected));
            }
            let waited = self.shared.1.wait_timeout(collected, left);
            collected = waited.expect("a reader panicked").0;
        }
    }

    fn failure(&self, what: &str, patience: Duration, collected: &Collected) -> Failure {
        let from = collected.bytes.len().saturating_sub(SHOWN_BYTES);
        let shown = String::from_utf8_lossy(&collected.bytes[from..]);
        let why = if collected.closed {
            "the stream ended".to_owned()
        } else {
            format!("{} s went by", patience.as_secs_f32())
        };
        Failure::new(format!(
            "{}: awaited {what}, but {why}; {} bytes were seen, at the end:\n{shown}",
            self.name,
            collected.bytes.len()
        ))
    }
}
