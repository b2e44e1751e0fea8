//! Disks of this host.
//!
//! Does: carry out a disk's requests on its image. A side that goes live opens the image when it
//! can: the old side's lock may still be there. Does not: know formats (`block` does).
//!
//! Invariant: nothing is read or written without the image's lock.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use block::{Image, ImageError, ImageFile, OpenOptions};
use machine::{Extent, Request};

use super::request_thread::Backend;

/// Whoever waits for a lock says so this often.
const NEWS: Duration = Duration::from_secs(10);

/// Where an image is and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its file.
    pub path: PathBuf,
    /// How.
    pub options: OpenOptions,
}

impl Place {
    /// Opens and locks the image.
    pub fn open(&self) -> Result<Box<dyn Image>, ImageError> {
        let file = ImageFile::open(&self.path, self.options)?;
        file.lock_or_say()?;
        file.image()
    }
}

enum State {
    Open(Box<dyn Image>),
    /// It is tried again; when somebody was told of it.
    Waiting(Option<Instant>),
    /// It cannot be used: requests fail.
    Gone,
}

/// A disk.
pub struct Disk {
    place: Place,
    state: State,
}

impl Disk {
    /// With an open image.
    pub fn with(place: Place, image: Box<dyn Image>) -> Self {
        let state = State::Open(image);
        Disk { place, state }
    }

    /// With an image that is opened as soon as it can be.
    pub fn waiting(place: Place) -> Self {
        let state = State::Waiting(None);
        Disk { place, state }
    }
}

impl Backend for Disk {
    fn is_ready(&mut self) -> bool {
        let State::Waiting(told) = &self.state else {
            return true;
        };
        match self.place.open() {
            Ok(image) => self.state = State::Open(image),
            Err(error @ ImageError::Lock { .. }) => {
                if told.is_none_or(|told| told.elapsed() >= NEWS) {
                    log::warn!("the guest's requests wait: {error}");
                    self.state = State::Waiting(Some(Instant::now()));
                }
                return false;
            }
            Err(error) => {
                log::error!("the guest's requests will fail: {error}");
                self.state = State::Gone;
            }
        }
        true
    }

    fn carry_out(&mut self, request: &Request, durable: bool) -> io::Result<Vec<u8>> {
        let State::Open(image) = &mut self.state else {
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
            State::Open(image) => image.flush(),
            _ => Ok(()),
        }
    }
}
