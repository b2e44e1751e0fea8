//! Where a console's bytes leave this host.
//!
//! Does: write them to standard output or a file, on a thread of its own, in order, and report how
//! many are out. Does not: decide when they may leave; whoever holds the gate pushes them here once
//! they may.
//!
//! Invariant: bytes leave once and in order, without gaps. `emitted` never counts a byte that the
//! host's kernel has not taken. A reader that does not read makes [`ConsoleSink::is_full`] true and
//! loses nothing; a reader that is gone (a closed pipe, a full disk) is reported once, and from
//! then on bytes count as emitted, since a console that nobody can read must not stop a guest.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// From how many waiting bytes on a sink counts as full.
const FULL: usize = 64 << 10;

/// Called with the count of emitted bytes each time it has grown.
pub type Progress = Box<dyn Fn(u64) + Send>;

/// A console's way out.
pub struct ConsoleSink {
    shared: Arc<Shared>,
    /// There is none if bytes are dropped; the callback then is here.
    thread: Option<thread::JoinHandle<()>>,
    drop_progress: Option<Mutex<Progress>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<u8>,
    /// The count of bytes pushed since the VM's creation.
    pushed: u64,
    /// The count of those that have left.
    emitted: u64,
    closed: bool,
}

impl ConsoleSink {
    /// One that writes to this process's standard output. Counting begins at `emitted`.
    pub fn to_stdout(emitted: u64, progress: Progress) -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        ConsoleSink::to_file(file, emitted, progress)
    }

    /// One that writes to the file `path`, which is created or emptied.
    pub fn to_path(path: &Path, emitted: u64, progress: Progress) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        ConsoleSink::to_file(file, emitted, progress)
    }

    /// One that drops bytes, which count as emitted at once.
    pub fn to_nowhere(emitted: u64, progress: Progress) -> Self {
        let shared = Arc::new(Shared::new(emitted));
        ConsoleSink {
            shared,
            thread: None,
            drop_progress: Some(Mutex::new(progress)),
        }
    }

    /// One that writes to `file`.
    pub fn to_file(file: File, emitted: u64, progress: Progress) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(emitted));
        let shared_too = Arc::clone(&shared);
        let run = move || shared_too.write_all(file, &progress);
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .spawn(run)?;
        Ok(ConsoleSink {
            shared,
            thread: Some(thread),
            drop_progress: None,
        })
    }

    /// Gives bytes away. They continue those pushed before: `through` is the count of all bytes,
    /// these included. Never blocks; see `is_full`.
    pub fn push(&self, through: u64, bytes: &[u8]) {
        let mut queue = self.shared.lock();
        assert_eq!(
            queue.pushed + bytes.len() as u64,
            through,
            "console bytes repeat or are lost"
        );
        queue.pushed = through;
        if let Some(progress) = &self.drop_progress {
            queue.emitted = through;
            drop(queue);
            progress.lock().unwrap_or_else(PoisonError::into_inner)(through);
        } else {
            queue.waiting.extend(bytes);
            self.shared.changed.notify_all();
        }
    }

    /// Whether so much waits that whoever produces bytes should wait too.
    pub fn is_full(&self) -> bool {
        self.shared.lock().waiting.len() >= FULL
    }

    /// The count of bytes that have left.
    pub fn emitted(&self) -> u64 {
        self.shared.lock().emitted
    }

    /// Waits until everything pushed has left, or `timeout` is over; whether it has.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut queue = self.shared.lock();
        while queue.emitted < queue.pushed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for ConsoleSink {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // A thread that is stuck in a write ends with the process.
        let is_done = {
            let queue = self.shared.lock();
            queue.emitted == queue.pushed
        };
        if let Some(thread) = self.thread.take()
            && is_done
        {
            // It panics only if `progress` did, which has been reported then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(emitted: u64) -> Self {
        let queue = Queue {
            pushed: emitted,
            emitted,
            ..Queue::default()
        };
        Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: takes all that waits, writes it, and again.
    fn write_all(&self, mut file: File, progress: &Progress) {
        let mut gone = false;
        let mut batch = Vec::new();
        loop {
            {
                let mut queue = self.lock();
                while queue.waiting.is_empty() {
                    if queue.closed {
                        return;
                    }
                    queue = self
                        .changed
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                batch.clear();
                // They keep counting as waiting until they have left.
                batch.extend(queue.waiting.iter());
            }
            let mut rest = &batch[..];
            while !rest.is_empty() {
                let length = if gone {
                    rest.len()
                } else {
                    write_some(&mut file, rest, &mut gone)
                };
                rest = &rest[length..];
                let emitted = {
                    let mut queue = self.lock();
                    queue.waiting.drain(..length);
                    queue.emitted += length as u64;
                    queue.emitted
                };
                self.changed.notify_all();
                progress(emitted);
            }
        }
    }
}

/// Writes at least one byte, waiting as long as it takes; or finds that nobody ever reads again.
fn write_some(file: &mut File, bytes: &[u8], gone: &mut bool) -> usize {
    loop {
        match file.write(bytes) {
            Ok(0) => {}
            Ok(length) => return length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Standard output may share its open file with something that does not block.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(file),
            Err(error) => {
                log::error!("the console's output cannot be written and is dropped: {error}");
                *gone = true;
                return bytes.len();
            }
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
    unsafe { libc::poll(&mut wait, 1, 1000) };
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn channel() -> (Progress, mpsc::Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        let progress = move |count| {
            // The receiver may be gone at the end of a test.
            let _ = sender.send(count);
        };
        (Box::new(progress), receiver)
    }

    #[test]
    fn everything_leaves_in_order() {
        let directory = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let path = directory.as_path().join("out");
        let (progress, counts) = channel();
        let sink = ConsoleSink::to_path(&path, 100, progress).unwrap();
        let mut expected = Vec::new();
        for number in 0..1000_u32 {
            let line = format!("{number}\n");
            expected.extend_from_slice(line.as_bytes());
            sink.push(100 + expected.len() as u64, line.as_bytes());
        }
        assert!(sink.flush(SOON));
        assert_eq!(sink.emitted(), 100 + expected.len() as u64);
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let counts: Vec<u64> = counts.into_iter().collect();
        assert!(counts.is_sorted());
        assert_eq!(counts.last(), Some(&(100 + expected.len() as u64)));
    }

    #[test]
    fn a_reader_that_waits_loses_nothing() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let (progress, _counts) = channel();
        let sink = ConsoleSink::to_file(File::from(OwnedFd::from(writer)), 0, progress).unwrap();
        let chunk = [b'a'; 4096];
        let mut pushed = 0;
        while !sink.is_full() || pushed < (1 << 20) {
            pushed += chunk.len() as u64;
            sink.push(pushed, &chunk);
        }
        assert!(!sink.flush(Duration::from_millis(20)));
        let thread = thread::spawn(move || {
            let mut count = 0;
            let mut bytes = [0; 8192];
            loop {
                match reader.read(&mut bytes).unwrap() {
                    0 => return count,
                    length => count += length as u64,
                }
            }
        });
        assert!(sink.flush(SOON));
        drop(sink);
        assert_eq!(thread.join().unwrap(), pushed);
    }

    #[test]
    fn a_reader_that_is_gone_stops_nobody() {
        let (writer, reader) = UnixStream::pair().unwrap();
        drop(reader);
        let (progress, _counts) = channel();
        let sink = ConsoleSink::to_file(File::from(OwnedFd::from(writer)), 0, progress).unwrap();
        sink.push(3, b"abc");
        sink.push(6, b"def");
        assert!(sink.flush(SOON));
    }

    #[test]
    fn nowhere_is_fast() {
        let (progress, counts) = channel();
        let sink = ConsoleSink::to_nowhere(0, progress);
        sink.push(3, b"abc");
        assert_eq!(sink.emitted(), 3);
        assert_eq!(counts.recv().unwrap(), 3);
    }
}
