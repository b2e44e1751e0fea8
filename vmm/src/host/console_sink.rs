//! Where a console's bytes leave this host.
//!
//! Does: on a thread of its own, take bytes from whoever holds them back, write them to standard
//! output or a file, in order, and report how many are out. Does not: decide when they may leave:
//! its source does, and is asked immediately before every single call that writes.
//!
//! Invariant: bytes leave once and in order, without gaps, and at most one call's bytes leave after
//! the source has changed its mind (a process that was frozen between question and call).
//! `emitted` never counts a byte that the host's kernel has not taken. A reader that does not read
//! makes the source fill up and loses nothing; a reader that is gone (a closed pipe, a full disk)
//! is reported once, and from then on bytes count as emitted, since a console that nobody can read
//! must not stop a guest.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::bell::Bell;

/// The most bytes in one call. A pipe takes so many whole or not at all.
const CALL: usize = 4096;

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
    closed: bool,
}

impl ConsoleSink {
    /// One that writes what `source` gives to `target`. It looks again whenever `bell` rings. So
    /// many bytes have left before.
    pub fn start(
        target: Target,
        bell: Arc<Bell>,
        emitted: u64,
        mut source: impl ConsoleSource,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().emitted = emitted;
        let (shared_too, bell_too) = (Arc::clone(&shared), Arc::clone(&bell));
        let run = move || shared_too.write_all(target, &bell_too, &mut source);
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .spawn(run)?;
        Ok(ConsoleSink {
            shared,
            bell,
            thread: Some(thread),
        })
    }

    /// Waits until all bytes up to the count `through` have left, or `timeout` is over; whether
    /// they have.
    pub fn flush(&self, through: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut progress = self.shared.lock();
        while progress.emitted < through {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
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
        while !self.lock().closed {
            let Some((through, bytes)) = source.take() else {
                bell.wait(PATIENCE);
                continue;
            };
            let mut rest = &bytes[..];
            let mut is_allowed = true;
            while !rest.is_empty() {
                {
                    let mut progress = self.lock();
                    if progress.closed {
                        return;
                    }
                    progress.writing = is_allowed;
                }
                if !is_allowed {
                    bell.wait(PATIENCE);
                    is_allowed = source.may_write();
                    continue;
                }
                let length = write_some(&mut target, &rest[..rest.len().min(CALL)]);
                rest = &rest[length..];
                let emitted = through - rest.len() as u64;
                source.emitted(emitted);
                {
                    let mut progress = self.lock();
                    progress.emitted = emitted;
                    progress.writing = false;
                }
                self.changed.notify_all();
                is_allowed = source.may_write();
            }
        }
    }
}

/// Makes one call. Gives how many bytes it took, if any; or finds that nobody ever reads again.
fn write_some(target: &mut Target, bytes: &[u8]) -> usize {
    let Target::File(file) = target else {
        return bytes.len();
    };
    match file.write(bytes) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        // Standard output may share its open file with something that does not block.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            wait_writable(file);
            0
        }
        Err(error) => {
            log::error!("the console's output cannot be written and is dropped: {error}");
            *target = Target::Nowhere;
            bytes.len()
        }
    }
}

#[allow(unsafe_code)]
fn wait_writable(file: &File) {
    let mut wait = libc::pollfd {
        fd: file.as_raw_fd(),
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
        let sink = ConsoleSink::start(target, Arc::clone(&bell), emitted, source.clone());
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
    fn nowhere_counts() {
        let source = Source::default();
        source.push(3, b"abc");
        let (sink, _bell) = sink(Target::Nowhere, 0, &source);
        assert!(sink.flush(3, SOON));
        assert_eq!(source.0.lock().unwrap().emitted, [3]);
    }
}
