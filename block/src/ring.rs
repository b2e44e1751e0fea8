//! Requests to a raw image that are under way at the same time, through io_uring.
//!
//! Does: submit reads, writes and flushes, and tell how they ended. Does not: order them: who
//! submits a request that another one in flight overlaps chooses no outcome.
//!
//! Invariant: a request is submitted to the host before the call that asks for it returns, and is
//! told exactly once. Buffers live until the host is done with them: the ring waits for that when it
//! is dropped.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use crate::aligned::Aligned;
use crate::{Format, OpenOptions, check_bounds};

/// The most requests under way.
const REQUESTS: u32 = 64;

/// Bytes on their way.
enum Buffer {
    Plain(Vec<u8>),
    /// For `O_DIRECT`; so many of the bytes are meant.
    Aligned(Aligned, usize),
}

impl Buffer {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Buffer::Plain(bytes) => bytes,
            Buffer::Aligned(aligned, length) => &mut aligned.bytes()[..*length],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write { durable: bool },
    Flush,
}

/// A request under way.
struct Request {
    id: u64,
    kind: Kind,
    buffer: Buffer,
    offset: u64,
    /// Bytes that are transferred.
    done: usize,
}

/// How a request ended.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub id: u64,
    /// What it brings.
    pub result: io::Result<Vec<u8>>,
}

/// The ring.
pub struct Ring {
    ring: IoUring,
    file: File,
    size: u64,
    options: OpenOptions,
    requests: Vec<Option<Request>>,
    in_flight: usize,
    ended: VecDeque<Ended>,
}

impl Ring {
    /// One for the image in `file`, of `size` bytes. An error if this host has no io_uring, or
    /// forbids it.
    pub(crate) fn new(file: File, size: u64, options: OpenOptions) -> io::Result<Self> {
        let ring = IoUring::new(REQUESTS)?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::other("the kernel's io_uring is too old"));
        }
        Ok(Ring {
            ring,
            file,
            size,
            options,
            requests: (0..REQUESTS).map(|_| None).collect(),
            in_flight: 0,
            ended: VecDeque::new(),
        })
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.requests.len()
    }

    /// Begins to read.
    pub fn read(&mut self, id: u64, offset: u64, length: usize) {
        let buffer = if self.options.direct {
            Buffer::Aligned(Aligned::zeros(length), length)
        } else {
            Buffer::Plain(vec![0; length])
        };
        let checked = check_bounds(self.size, offset, length as u64);
        self.begin(checked, Kind::Read, id, offset, buffer);
    }

    /// Begins to write.
    pub fn write(&mut self, id: u64, offset: u64, bytes: Vec<u8>, durable: bool) {
        let checked = check_bounds(self.size, offset, bytes.len() as u64)
            .and_then(|()| Format::check_write(self.options, offset, &bytes));
        let buffer = if self.options.direct {
            let mut aligned = Aligned::zeros(bytes.len());
            aligned.bytes()[..bytes.len()].copy_from_slice(&bytes);
            Buffer::Aligned(aligned, bytes.len())
        } else {
            Buffer::Plain(bytes)
        };
        self.begin(checked, Kind::Write { durable }, id, offset, buffer);
    }

    /// Begins to make durable what was told to be written.
    pub fn flush(&mut self, id: u64) {
        self.begin(Ok(()), Kind::Flush, id, 0, Buffer::Plain(Vec::new()));
    }

    fn begin(&mut self, checked: io::Result<()>, kind: Kind, id: u64, offset: u64, buffer: Buffer) {
        let request = Request {
            id,
            kind,
            buffer,
            offset,
            done: 0,
        };
        if let Err(error) = checked {
            let result = Err(error);
            self.ended.push_back(Ended { id, result });
            return;
        }
        let Some(slot) = self.requests.iter().position(Option::is_none) else {
            let result = Err(io::ErrorKind::ResourceBusy.into());
            self.ended.push_back(Ended { id, result });
            return;
        };
        self.requests[slot] = Some(request);
        self.in_flight += 1;
        if kind == Kind::Read && self.read_cached(slot) {
            return;
        }
        self.submit(slot);
        self.reap();
    }

    /// Reads what the host has in memory; whether that was all. It wakes nobody, as a ring does that
    /// somebody watches.
    fn read_cached(&mut self, slot: usize) -> bool {
        let Some(request) = self.requests.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        if self.options.direct {
            return false;
        }
        let bytes = request.buffer.bytes();
        let part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let (length, fd) = (bytes.len(), self.file.as_raw_fd());
        let Ok(offset) = libc::off_t::try_from(request.offset) else {
            return false;
        };
        // SAFETY: one live iovec of a live buffer that nobody else has.
        let count = unsafe { libc::preadv2(fd, &raw const part, 1, offset, libc::RWF_NOWAIT) };
        // An error is for the ring to find again.
        request.done = usize::try_from(count).unwrap_or(0);
        let is_whole = request.done == length;
        if is_whole {
            self.end(slot, Ok(()));
        }
        is_whole
    }

    /// Gives the rest of a request to the host.
    fn submit(&mut self, slot: usize) {
        let fd = Fd(self.file.as_raw_fd());
        let Some(request) = self.requests.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let offset = request.offset + request.done as u64;
        let rest = &mut request.buffer.bytes()[request.done..];
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = match request.kind {
            Kind::Read => opcode::Read::new(fd, rest.as_mut_ptr(), length)
                .offset(offset)
                .build(),
            Kind::Write { durable } => opcode::Write::new(fd, rest.as_ptr(), length)
                .offset(offset)
                .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                .build(),
            Kind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        };
        if let Err(error) = self.push(entry.user_data(slot as u64)) {
            // The entry may still be taken by the host: its buffer stays for ever.
            if let Some(request) = self.requests.get_mut(slot).and_then(Option::as_mut) {
                let nothing = Buffer::Plain(Vec::new());
                std::mem::forget(std::mem::replace(&mut request.buffer, nothing));
            }
            self.end(slot, Err(error));
        }
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the entry's buffer belongs to a request in `requests`, which stays there, and
        // whose heap memory does not move, until its completion was seen; or it has none.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // The queue is submitted after each push, so there is room.
        pushed.map_err(io::Error::other)?;
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                // It stays in the queue, and goes with the next call.
                Err(error) if is_passing(&error) => self.reap(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what has ended from the host.
    fn reap(&mut self) {
        loop {
            let next = self.ring.completion().next();
            let Some((name, result)) = next.map(|entry| (entry.user_data(), entry.result())) else {
                return;
            };
            self.advance(name as usize, result);
        }
    }

    /// A part of a request is done, or has failed.
    fn advance(&mut self, slot: usize, result: i32) {
        let Some(request) = self.requests.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let count = match usize::try_from(result) {
            Ok(count) => count,
            // It is cancelled when the thread that submitted it ends, which asks for no such thing.
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {
                self.submit(slot);
                return;
            }
            // A file system without such writes has a flush.
            Err(_)
                if -result == libc::EOPNOTSUPP
                    && request.kind == (Kind::Write { durable: true }) =>
            {
                request.kind = Kind::Write { durable: false };
                let result = self.write_and_flush(slot);
                self.end(slot, result);
                return;
            }
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                self.end(slot, Err(error));
                return;
            }
        };
        request.done += count;
        let is_whole = request.done >= request.buffer.bytes().len();
        match (request.kind, count) {
            _ if is_whole => self.end(slot, Ok(())),
            (Kind::Read, 0) => self.end(slot, Err(io::ErrorKind::UnexpectedEof.into())),
            (_, 0) => self.end(slot, Err(io::ErrorKind::WriteZero.into())),
            _ => self.submit(slot),
        }
    }

    fn write_and_flush(&mut self, slot: usize) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        if let Some(request) = self.requests.get_mut(slot).and_then(Option::as_mut) {
            let offset = request.offset + request.done as u64;
            let rest = &request.buffer.bytes()[request.done..];
            self.file.write_all_at(rest, offset)?;
        }
        self.file.sync_data()
    }

    fn end(&mut self, slot: usize, result: io::Result<()>) {
        let Some(request) = self.requests.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.in_flight -= 1;
        let (id, kind) = (request.id, request.kind);
        let result = result.map(|()| match (kind, request.buffer) {
            (Kind::Read, Buffer::Plain(bytes)) => bytes,
            (Kind::Read, Buffer::Aligned(mut aligned, length)) => {
                aligned.bytes()[..length].to_vec()
            }
            _ => Vec::new(),
        });
        self.ended.push_back(Ended { id, result });
    }

    /// The next request that has ended.
    pub fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_empty() {
            self.reap();
        }
        self.ended.pop_front()
    }

    /// What can be read when a request has ended that was not told yet.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Errors of the ring itself that another attempt mends.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !is_passing(&error)
            {
                // The host may write to these buffers at any time: they stay for ever.
                log::error!("requests to a disk image are lost: {error}");
                std::mem::forget(std::mem::take(&mut self.requests));
                return;
            }
            self.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    fn ring(direct: bool) -> (TempFile, Ring) {
        let scratch = TempFile::new().unwrap();
        scratch.as_file().set_len(1 << 20).unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(if direct { libc::O_DIRECT } else { 0 })
            .open(scratch.as_path())
            .unwrap();
        let options = OpenOptions {
            direct,
            ..OpenOptions::default()
        };
        let ring = Ring::new(file, 1 << 20, options).unwrap();
        (scratch, ring)
    }

    fn all(ring: &mut Ring, count: usize) -> Vec<Ended> {
        let mut ended = Vec::new();
        while ended.len() < count {
            match ring.ended() {
                Some(one) => ended.push(one),
                None => wait(ring),
            }
        }
        assert!(ring.ended().is_none());
        ended.sort_by_key(|one| one.id);
        ended
    }

    fn wait(ring: &Ring) {
        let mut entry = libc::pollfd {
            fd: ring.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd.
        assert_eq!(unsafe { libc::poll(&raw mut entry, 1, 10_000) }, 1);
    }

    #[test]
    fn what_is_written_is_read() {
        for direct in [false, true] {
            let (_scratch, mut ring) = ring(direct);
            for id in 0..50 {
                ring.write(id, id * 4096, vec![id as u8; 4096], id % 10 == 0);
            }
            for ended in all(&mut ring, 50) {
                assert_eq!(ended.result.unwrap(), []);
            }
            ring.flush(50);
            for id in 0..50 {
                ring.read(id, id * 4096, 4096);
            }
            for ended in all(&mut ring, 51) {
                let expected = if ended.id == 50 { 0 } else { 4096 };
                assert_eq!(ended.result.unwrap(), vec![ended.id as u8; expected]);
            }
            assert_eq!(ring.in_flight(), 0);
        }
    }

    #[test]
    fn mistakes_are_told_like_any_end() {
        let (scratch, mut ring) = ring(false);
        ring.read(1, 1 << 20, 512);
        ring.write(2, u64::MAX, vec![0; 512], false);
        ring.write(3, 0, b"QFI\xFB".repeat(128), false);
        scratch.as_file().set_len(4096).unwrap();
        ring.read(4, 2048, 4096);
        ring.read(5, 8192, 512);
        for ended in all(&mut ring, 5) {
            assert!(ended.result.is_err(), "{ended:?}");
        }
        for id in 0..=u64::from(REQUESTS) {
            ring.read(id, 0, 512);
        }
        all(&mut ring, REQUESTS as usize + 1);
    }
}
