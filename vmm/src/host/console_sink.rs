//! Where a console's bytes leave this host.
//!
//! Does: on a thread of its own, take bytes from whoever holds them back, write them to standard
//! output, a file, a pseudo-terminal or a socket, in order, and report how many are out. Does not:
//! decide when they may leave: its source does, and is asked immediately before every single call
//! that writes.
//!
//! Invariant: bytes leave once and in order, without gaps, and at most one call's bytes leave after
//! the source has changed its mind (a process that was frozen between question and call).
//! `emitted` never counts a byte that the host's kernel has not taken. A reader that does not read
//! makes the source fill up and loses nothing; a reader that is gone (a closed pipe, a full disk)
//! is reported once, and from then on bytes count as emitted, since a console that nobody can read
//! must not stop a guest. While nobody is at the other end of a pseudo-terminal or a socket, the
//! last [`KEPT`] bytes are kept for whoever comes, and do not count as emitted; so another host
//! that takes over has them too.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::console_socket::ConsoleSocket;
use super::pty::Pty;

/// The most bytes in one call. A pipe takes so many whole or not at all.
const CALL: usize = 4096;

/// Bytes that are kept for whoever comes.
pub const KEPT: usize = 64 << 10;

/// How long the thread sleeps at most before it asks its source again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who holds the bytes.
pub trait ConsoleSource: Send + 'static {
    /// The next bytes that may leave now, and the count of all bytes, these included.
    fn take(&mut self) -> Option<(u64, Vec<u8>)>;
    /// Whether what is left of them may still leave now.
    fn may_write(&mut self) -> bool;
    /// All bytes up to this count have left.
    fn emitted(&mut self, through: u64);
}

/// Where bytes go.
#[derive(Debug)]
pub enum Target {
    /// To this file.
    File(File),
    /// To whoever has the other end open.
    Pty(Pty),
    /// To whoever is connected.
    Socket(Arc<ConsoleSocket>),
    /// Nowhere; they count as emitted.
    Nowhere,
}

impl Target {
    /// This process's standard output.
    pub fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Target::File(file))
    }

    /// The file `path`, created or emptied.
    pub fn new_file(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path)?;
        Ok(Target::File(file))
    }

    /// The end of the file `path`, created if it does not exist.
    pub fn end_of_file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Target::File(file))
    }

    /// Whether anybody is there to read.
    fn is_attached(&self) -> bool {
        match self {
            Target::File(_) | Target::Nowhere => true,
            Target::Pty(pty) => pty.is_attached(),
            Target::Socket(socket) => socket.connection().is_some(),
        }
    }
}

/// A console's way out.
#[derive(Debug)]
pub struct ConsoleSink {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// The count of bytes that have left.
    emitted: u64,
    /// A call that writes is under way.
    writing: bool,
    /// Nobody is there to read, and bytes are kept.
    keeping: bool,
    closed: bool,
}

impl ConsoleSink {
    /// One of this name that writes what `source` gives to `target`. It looks again whenever `bell` rings. So
    /// many bytes have left before.
    pub fn start(
        name: &str,
        target: Target,
        bell: Arc<Bell>,
        emitted: u64,
        mut source: impl ConsoleSource,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().emitted = emitted;
        let (shared_too, bell_too) = (Arc::clone(&shared), Arc::clone(&bell));
        let run = move || shared_too.write_all(target, &bell_too, &mut source);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(ConsoleSink {
            shared,
            bell,
            thread: Some(thread),
        })
    }

    /// Waits until all bytes up to the count `through` have left, or `timeout` is over; whether
    /// they have. Nobody is waited for who is not there.
    pub fn flush(&self, through: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut progress = self.shared.lock();
        while progress.emitted < through && !progress.keeping {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.emitted >= through
    }
}

impl Drop for ConsoleSink {
    /// Nothing more is taken; a call that is under way may end.
    fn drop(&mut self) {
        let is_stuck = {
            let mut progress = self.shared.lock();
            progress.closed = true;
            progress.writing
        };
        self.bell.ring();
        // A thread that is stuck in a call ends with the process.
        if let Some(thread) = self.thread.take()
            && !is_stuck
        {
            // It panics only if the source did, which has been reported then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn write_all(&self, mut target: Target, bell: &Bell, source: &mut impl ConsoleSource) {
        let mut held = Held {
            through: self.lock().emitted,
            bytes: VecDeque::new(),
        };
        while !self.lock().closed {
            let is_attached = target.is_attached();
            let mut is_allowed = false;
            if held.bytes.is_empty() || !is_attached {
                let Some((through, bytes)) = source.take() else {
                    self.progress(|progress| progress.keeping = !held.bytes.is_empty());
                    bell.wait(PATIENCE);
                    continue;
                };
                held.bytes.extend(bytes);
                held.through = through;
                is_allowed = true;
            }
            if !is_attached {
                let excess = held.bytes.len().saturating_sub(KEPT);
                if excess > 0 {
                    held.bytes.drain(..excess);
                    self.emitted(source, held.emitted());
                }
                continue;
            }
            if !is_allowed && !source.may_write() {
                bell.wait(PATIENCE);
                continue;
            }
            {
                let mut progress = self.lock();
                if progress.closed {
                    return;
                }
                (progress.writing, progress.keeping) = (true, false);
            }
            let (front, _) = held.bytes.as_slices();
            let length = write_some(&mut target, &front[..front.len().min(CALL)]);
            held.bytes.drain(..length);
            self.emitted(source, held.emitted());
        }
    }

    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// All bytes up to this count have left.
    fn emitted(&self, source: &mut impl ConsoleSource, emitted: u64) {
        source.emitted(emitted);
        self.progress(|progress| {
            progress.emitted = emitted;
            progress.writing = false;
        });
    }
}

/// Bytes that were taken and have not left.
struct Held {
    /// The count of all bytes, these included.
    through: u64,
    bytes: VecDeque<u8>,
}

impl Held {
    fn emitted(&self) -> u64 {
        self.through - self.bytes.len() as u64
    }
}

/// Makes one call. Gives how many bytes it took, if any; or finds that nobody ever reads again.
fn write_some(target: &mut Target, bytes: &[u8]) -> usize {
    let result = match target {
        Target::Nowhere => return bytes.len(),
        Target::File(file) => write_once(&*file, file.as_raw_fd(), bytes),
        Target::Pty(pty) => write_once(pty.main(), pty.main().as_raw_fd(), bytes),
        Target::Socket(socket) => {
            let Some(stream) = socket.connection() else {
                return 0;
            };
            write_once(&*stream, stream.as_raw_fd(), bytes).or_else(|_| {
                // Somebody else may come.
                socket.disconnected(&stream);
                Ok(0)
            })
        }
    };
    match result {
        Ok(length) => length,
        Err(error) => {
            log::error!("the console's output cannot be written and is dropped: {error}");
            *target = Target::Nowhere;
            bytes.len()
        }
    }
}

fn write_once(mut to: impl Write, descriptor: RawFd, bytes: &[u8]) -> io::Result<usize> {
    match to.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        // Standard output may share its open file with something that does not block.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            wait_writable(descriptor);
            Ok(0)
        }
        result => result,
    }
}

#[allow(unsafe_code)]
fn wait_writable(descriptor: RawFd) {
    let mut wait = libc::pollfd {
        fd: descriptor,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is that of one live pollfd. Whatever it returns, the caller writes again.
    unsafe { libc::poll(&mut wait, 1, 100) };
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A gate that a test opens and closes.
    #[derive(Debug, Default)]
    struct Gate {
        outputs: VecDeque<(u64, Vec<u8>)>,
        is_shut: bool,
        emitted: Vec<u64>,
    }

    #[derive(Clone, Default)]
    struct Source(Arc<Mutex<Gate>>);

    impl ConsoleSource for Source {
        fn take(&mut self) -> Option<(u64, Vec<u8>)> {
            let mut gate = self.0.lock().unwrap();
            if gate.is_shut {
                return None;
            }
            gate.outputs.pop_front()
        }
        fn may_write(&mut self) -> bool {
            !self.0.lock().unwrap().is_shut
        }
        fn emitted(&mut self, through: u64) {
            self.0.lock().unwrap().emitted.push(through);
        }
    }

    impl Source {
        fn push(&self, through: u64, bytes: &[u8]) {
            let mut gate = self.0.lock().unwrap();
            gate.outputs.push_back((through, bytes.to_vec()));
        }
        fn shut(&self, is_shut: bool) {
            self.0.lock().unwrap().is_shut = is_shut;
        }
    }

    fn sink(target: Target, emitted: u64, source: &Source) -> (ConsoleSink, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        let sink = ConsoleSink::start(
            "console",
            target,
            Arc::clone(&bell),
            emitted,
            source.clone(),
        );
        (sink.unwrap(), bell)
    }

    #[test]
    fn everything_leaves_in_order() {
        let directory = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let path = directory.as_path().join("out");
        std::fs::write(&path, "old").unwrap();
        let source = Source::default();
        let (sink, bell) = sink(Target::new_file(&path).unwrap(), 100, &source);
        let mut expected = Vec::new();
        for number in 0..1000_u32 {
            let line = format!("{number}\n");
            expected.extend_from_slice(line.as_bytes());
            source.push(100 + expected.len() as u64, line.as_bytes());
            bell.ring();
        }
        assert!(sink.flush(100 + expected.len() as u64, SOON));
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let counts = &source.0.lock().unwrap().emitted;
        assert!(counts.is_sorted());
        assert_eq!(counts.last(), Some(&(100 + expected.len() as u64)));
        Target::end_of_file(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_waits_loses_nothing() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let source = Source::default();
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i >> 8) as u8).collect();
        source.push(bytes.len() as u64, &bytes);
        let target = Target::File(File::from(OwnedFd::from(writer)));
        let (sink, _bell) = sink(target, 0, &source);
        assert!(!sink.flush(bytes.len() as u64, Duration::from_millis(50)));
        let thread = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        assert!(sink.flush(bytes.len() as u64, SOON));
        drop(sink);
        assert!(thread.join().unwrap() == bytes);
    }

    /// What a process does that was frozen in the middle of an output and finds, when it thaws,
    /// that it must not emit.
    #[test]
    fn one_call_at_most_leaves_a_shut_gate() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let source = Source::default();
        source.push(1 << 20, &vec![1; 1 << 20]);
        let target = Target::File(File::from(OwnedFd::from(writer)));
        let (sink, _bell) = sink(target, 0, &source);
        // It waits in a call for a reader.
        assert!(!sink.flush(1 << 20, Duration::from_millis(50)));
        source.shut(true);
        let before = *source.0.lock().unwrap().emitted.last().unwrap();
        reader
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut count = 0;
        let mut bytes = [0; 65536];
        while let Ok(length) = reader.read(&mut bytes) {
            count += length as u64;
        }
        assert!((before..=before + CALL as u64).contains(&count), "{count}");
        source.shut(false);
        while count < 1 << 20 {
            count += reader.read(&mut bytes).unwrap_or(0) as u64;
        }
        assert!(sink.flush(1 << 20, SOON));
    }

    #[test]
    fn a_reader_that_is_gone_stops_nobody() {
        let (writer, reader) = UnixStream::pair().unwrap();
        drop(reader);
        let source = Source::default();
        source.push(3, b"abc");
        let target = Target::File(File::from(OwnedFd::from(writer)));
        let (sink, bell) = sink(target, 0, &source);
        source.push(6, b"def");
        bell.ring();
        assert!(sink.flush(6, SOON));
    }

    #[test]
    fn what_nobody_reads_is_kept_for_whoever_comes() {
        let (pty, path) = Pty::open().unwrap();
        let source = Source::default();
        source.push(KEPT as u64 + 10, &vec![b'a'; KEPT + 10]);
        let (sink, bell) = sink(Target::Pty(pty), 0, &source);
        let total = KEPT as u64 + 15;
        let begun = Instant::now();
        while source.0.lock().unwrap().emitted.last() != Some(&10) {
            assert!(begun.elapsed() < SOON);
            thread::sleep(Duration::from_millis(1));
        }
        source.push(total, b"bcdef");
        bell.ring();
        while source.0.lock().unwrap().emitted.last() != Some(&15) {
            assert!(begun.elapsed() < SOON);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!sink.flush(total, SOON), "nobody is waited for");
        let mut options = OpenOptions::new();
        let mut other = options.read(true).write(true).open(&path).unwrap();
        let mut bytes = vec![0; KEPT];
        other.read_exact(&mut bytes).unwrap();
        assert!(bytes.ends_with(b"aabcdef"));
        assert!(sink.flush(total, SOON));
    }

    #[test]
    fn nowhere_counts() {
        let source = Source::default();
        source.push(3, b"abc");
        let (sink, _bell) = sink(Target::Nowhere, 0, &source);
        assert!(sink.flush(3, SOON));
        assert_eq!(source.0.lock().unwrap().emitted, [3]);
    }
}
