//! Disks of this host.
//!
//! Does: carry out a disk's requests on its image. A side that goes live opens the image when it
//! may: the old side may be frozen, and wake up with a write on its lips. Does not: know formats
//! (`block` does), or fence (`fence` does).
//!
//! Invariant: until the old side is fenced, what it may still write is among the requests that were
//! in flight at go-live, and they are repeated first. So a later request that changes what they
//! change waits; the others do not. A format with tables of its own waits as a whole, and so does
//! whoever only reads, for its lock.

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{Ended, Format, Image, ImageError, ImageFile, LockError, OpenOptions, Ring};
use machine::{Extent, Request};

use super::bell::Bell;
use super::fence::Fence;
use super::request_thread::{Backend, Taken};

/// Whoever waits for a lock says so this often.
const NEWS: Duration = Duration::from_secs(10);
/// And tries to get it this often.
const INTERVAL: Duration = Duration::from_millis(50);

/// Where an image is and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its file.
    pub path: PathBuf,
    /// How.
    pub options: OpenOptions,
    /// With io_uring, if the host has it.
    pub uses_ring: bool,
}

impl Place {
    /// Opens and locks the image.
    pub fn open(&self) -> Result<Box<dyn Image>, ImageError> {
        let file = ImageFile::open(&self.path, self.options)?;
        file.lock_or_say()?;
        file.image()
    }
}

/// What a side that goes live knows of the other one.
#[derive(Debug)]
pub struct Takeover {
    /// Whether it is fenced.
    pub fence: Arc<Fence>,
    /// The lock on the image tells, because the other one's was seen here.
    pub lock_tells: bool,
    /// Nobody fences it, and that was accepted.
    pub is_risked: bool,
    /// The requests that were in flight and change the disk.
    pub in_flight: Vec<(u64, Extent)>,
}

/// A disk whose image another side may still use.
struct Shared {
    takeover: Takeover,
    file: Option<ImageFile>,
    is_locked: bool,
    is_fenced: bool,
    looked: Option<Instant>,
    told: Option<Instant>,
}

/// An image, and how several requests to it are under way.
struct Open {
    image: Box<dyn Image>,
    ring: Option<Box<Ring>>,
}

impl Open {
    fn new(image: Box<dyn Image>, place: &Place) -> Self {
        let path = place.path.display();
        let ring = match image.ring().filter(|_| place.uses_ring) {
            Some(Ok(ring)) => {
                log::info!("'{path}': several requests at a time, through io_uring");
                Some(Box::new(ring))
            }
            Some(Err(error)) => {
                log::warn!("'{path}': one request at a time, because of io_uring: {error}");
                None
            }
            None => {
                log::info!("'{path}': one request at a time");
                None
            }
        };
        Open { image, ring }
    }
}

enum State {
    Open(Open),
    /// It is not time yet.
    Waiting,
    /// It cannot be used: requests fail.
    Gone,
}

/// A disk.
pub struct Disk {
    place: Place,
    state: State,
    /// Of a side that went live, until it is alone with the image.
    shared: Option<Shared>,
}

impl Disk {
    /// With an open image, which is locked.
    pub fn with(place: Place, image: Box<dyn Image>) -> Self {
        let state = State::Open(Open::new(image, &place));
        let shared = None;
        Disk {
            place,
            state,
            shared,
        }
    }

    /// Without an image: requests fail.
    pub fn gone(place: Place) -> Self {
        let (state, shared) = (State::Gone, None);
        Disk {
            place,
            state,
            shared,
        }
    }

    /// Of a side that goes live. `bell` wakes its thread.
    pub fn taken_over(place: Place, takeover: Takeover, bell: Arc<Bell>) -> Self {
        takeover.fence.wait_for(bell);
        Disk {
            place,
            state: State::Waiting,
            shared: Some(Shared {
                takeover,
                file: None,
                is_locked: false,
                is_fenced: false,
                looked: None,
                told: None,
            }),
        }
    }

    fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.state {
            State::Open(open) => open.ring.as_deref_mut(),
            _ => None,
        }
    }

    /// Looks whether the image may be used, and how far.
    fn look(&mut self) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        let is_time = shared.looked.is_none_or(|at| at.elapsed() >= INTERVAL);
        if !is_time && !shared.takeover.fence.is_done() {
            return;
        }
        shared.looked = Some(Instant::now());
        match shared.look(&self.place, &mut self.state) {
            Ok(()) => {}
            Err(error) => {
                log::error!("the guest's requests will fail: {error}");
                self.state = State::Gone;
                // It writes nothing any more.
                shared.settle(true);
                shared.is_locked = true;
            }
        }
        if shared.is_fenced && shared.is_locked && !matches!(self.state, State::Waiting) {
            self.shared = None;
        }
    }
}

impl Shared {
    fn look(&mut self, place: &Place, state: &mut State) -> Result<(), ImageError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => ImageFile::open(&place.path, place.options)?,
        };
        let mut is_lockable = true;
        if !self.is_locked {
            match file.lock() {
                Ok(()) => self.is_locked = true,
                Err(LockError::Taken) => {}
                Err(error @ LockError::Host(_)) => {
                    is_lockable = false;
                    self.say(&error.to_string());
                }
            }
        }
        let read_only = place.options.read_only;
        let Takeover {
            lock_tells,
            is_risked,
            ..
        } = self.takeover;
        let is_raw = file.format()? == Format::Raw;
        self.settle(
            read_only
                || self.is_locked && lock_tells
                || is_raw && is_risked
                || self.takeover.fence.is_done(),
        );
        let may_open = if read_only {
            self.is_locked || !is_lockable || self.takeover.fence.is_done()
        } else {
            self.is_fenced || is_raw
        };
        if may_open && matches!(state, State::Waiting) {
            *state = State::Open(Open::new(file.image()?, place));
        }
        if !self.is_fenced || !may_open {
            let what = if may_open { "some of" } else { "all" };
            let path = place.path.display();
            self.say(&format!(
                "{what} the guest's requests wait until the old side is fenced: '{path}'"
            ));
        }
        self.file = Some(file);
        Ok(())
    }

    fn settle(&mut self, is_fenced: bool) {
        if is_fenced && !self.is_fenced {
            self.is_fenced = true;
            self.takeover.in_flight.clear();
            self.takeover.fence.one_is_fenced();
        }
    }

    fn say(&mut self, text: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= NEWS) {
            log::warn!("{text}");
            self.told = Some(Instant::now());
        }
    }
}

impl Drop for Shared {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        self.settle(true);
    }
}

impl Backend for Disk {
    fn is_ready(&mut self) -> bool {
        self.look();
        !matches!(self.state, State::Waiting)
    }

    fn must_wait(&self, id: u64, request: &Request) -> bool {
        let Some(shared) = &self.shared else {
            return false;
        };
        let in_flight = &shared.takeover.in_flight;
        let Some(extent) = request.extent().filter(|_| request.modifies()) else {
            return false;
        };
        in_flight.iter().all(|(repeated, _)| *repeated != id)
            && in_flight.iter().any(|(_, old)| old.overlaps(&extent))
    }

    fn carry_out(&mut self, request: &Request, durable: bool) -> io::Result<Vec<u8>> {
        let State::Open(Open { image, .. }) = &mut self.state else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no image"));
        };
        let mut bytes = Vec::new();
        match request {
            Request::Read(Extent { offset, length }) => {
                bytes = vec![0; *length as usize];
                image.read(*offset, &mut bytes)?;
            }
            Request::Write {
                offset,
                data,
                durable: asked,
            } => image.write(*offset, data, *asked || durable)?,
            Request::Flush => image.flush()?,
            Request::Discard(Extent { offset, length }) => {
                image.discard(*offset, *length)?;
                if durable {
                    image.flush()?;
                }
            }
            Request::WriteZeroes { extent, unmap } => {
                image.write_zeroes(extent.offset, extent.length, *unmap)?;
                if durable {
                    image.flush()?;
                }
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(bytes)
    }

    fn settle(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Open(open) => open.image.flush(),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, taken: Taken) -> Option<Ended> {
        let Taken {
            id,
            request,
            durable,
        } = taken;
        let State::Open(Open {
            ring: Some(ring), ..
        }) = &mut self.state
        else {
            let result = self.carry_out(&request, durable);
            return Some(Ended { id, result });
        };
        match request {
            Request::Read(Extent { offset, length }) => ring.read(id, offset, length as usize),
            Request::Write {
                offset,
                data,
                durable: asked,
            } => ring.write(id, offset, data, asked || durable),
            Request::Flush => ring.flush(id),
            request => {
                let result = self.carry_out(&request, durable);
                return Some(Ended { id, result });
            }
        }
        None
    }

    fn ended(&mut self) -> Option<Ended> {
        self.ring()?.ended()
    }

    fn in_flight(&self) -> usize {
        match &self.state {
            State::Open(Open {
                ring: Some(ring), ..
            }) => ring.in_flight(),
            _ => 0,
        }
    }

    fn has_room(&self) -> bool {
        match &self.state {
            State::Open(Open {
                ring: Some(ring), ..
            }) => ring.has_room(),
            _ => true,
        }
    }

    fn begins_at_once(&self, request: &Request) -> bool {
        let is_ours = self.shared.is_none();
        is_ours
            && self.descriptor().is_some()
            && matches!(
                request,
                Request::Read(_) | Request::Write { .. } | Request::Flush
            )
    }

    fn descriptor(&self) -> Option<RawFd> {
        match &self.state {
            State::Open(Open {
                ring: Some(ring), ..
            }) => Some(ring.descriptor()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const SECTOR: u64 = 512;

    /// An image that a frozen side has locked, and the disk of the one that goes live.
    struct Frozen {
        _directory: TempDir,
        old: Option<ImageFile>,
        fence: Arc<Fence>,
        disk: Disk,
    }

    fn frozen(lock_tells: bool, is_risked: bool, head: &[u8]) -> Frozen {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("image");
        let mut bytes = head.to_vec();
        bytes.resize(64 << 10, 0);
        std::fs::write(&path, bytes).unwrap();
        let options = OpenOptions::default();
        let old = ImageFile::open(&path, options).unwrap();
        old.lock().unwrap();
        let fence = Arc::new(Fence::default());
        let takeover = Takeover {
            fence: Arc::clone(&fence),
            lock_tells,
            is_risked,
            in_flight: vec![(7, extent(8, 8)), (9, extent(32, 1))],
        };
        let uses_ring = true;
        let place = Place {
            path,
            options,
            uses_ring,
        };
        let disk = Disk::taken_over(place, takeover, Arc::default());
        Frozen {
            _directory: directory,
            old: Some(old),
            fence,
            disk,
        }
    }

    fn extent(sector: u64, sectors: u64) -> Extent {
        Extent {
            offset: sector * SECTOR,
            length: sectors * SECTOR,
        }
    }

    fn write(sector: u64, sectors: u64) -> Request {
        let Extent { offset, length } = extent(sector, sectors);
        let data = vec![1; length as usize];
        Request::Write {
            offset,
            data,
            durable: false,
        }
    }

    fn look_again(disk: &mut Disk) -> bool {
        std::thread::sleep(INTERVAL);
        disk.is_ready()
    }

    #[test]
    fn only_what_overlaps_waits() {
        let mut frozen = frozen(true, false, &[]);
        let disk = &mut frozen.disk;
        assert!(disk.is_ready());
        assert!(!frozen.fence.is_complete());
        // What is repeated goes, and what has nothing to do with it.
        for (id, request) in [
            (7, write(8, 8)),
            (9, write(32, 1)),
            (10, write(0, 8)),
            (11, write(16, 16)),
            (12, Request::Read(extent(0, 64))),
            (13, Request::Flush),
        ] {
            assert!(!disk.must_wait(id, &request), "{id}");
            disk.carry_out(&request, true).unwrap();
        }
        let unmap = false;
        let zeroes = Request::WriteZeroes {
            extent: extent(0, 9),
            unmap,
        };
        for request in [
            write(15, 1),
            write(7, 2),
            Request::Discard(extent(0, 64)),
            zeroes,
        ] {
            assert!(disk.must_wait(20, &request), "{request:?}");
        }
        assert!(look_again(disk) && disk.must_wait(20, &write(8, 1)));
        // It was killed.
        drop(frozen.old.take());
        assert!(look_again(disk));
        assert!(!disk.must_wait(20, &write(8, 1)));
        assert!(frozen.fence.is_complete());
        // From now on it is this side's.
        assert!(disk.shared.is_none());
    }

    #[test]
    fn a_risk_that_was_accepted_waits_for_nothing() {
        let mut frozen = frozen(false, true, &[]);
        assert!(frozen.disk.is_ready());
        assert!(frozen.fence.is_complete());
        assert!(!frozen.disk.must_wait(20, &write(8, 1)));
    }

    #[test]
    fn a_lock_that_was_not_seen_before_tells_nothing() {
        let mut frozen = frozen(false, false, &[]);
        drop(frozen.old.take());
        assert!(frozen.disk.is_ready());
        assert!(frozen.disk.must_wait(20, &write(8, 1)));
        assert!(!frozen.fence.is_complete());
        // Whoever waited is not waited for when he goes.
        drop(frozen.disk);
        assert!(frozen.fence.is_complete());
    }

    #[test]
    fn a_format_with_tables_waits_as_a_whole() {
        let mut frozen = frozen(true, false, b"QFI\xFB");
        assert!(!frozen.disk.is_ready());
        assert!(!look_again(&mut frozen.disk));
        drop(frozen.old.take());
        // It is no real image, which is found only now.
        assert!(look_again(&mut frozen.disk));
        assert!(matches!(frozen.disk.state, State::Gone));
        assert!(frozen.fence.is_complete());
    }
}
