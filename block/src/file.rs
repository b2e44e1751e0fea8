//! An image's file, opened and perhaps locked, and not read yet.
//!
//! Does: open and lock it, and make an image of it. Does not: interpret its content beyond the
//! format.
//!
//! Invariant: the lock is the file's: it holds as long as this or the image made of it lives, and
//! ends with the process by whatever means.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::aligned::Aligned;
use crate::format::{Detected, Format, detect};
use crate::lock::{self, LockError};
use crate::qcow2::Qcow2Image;
use crate::raw::RawImage;
use crate::{Image, ImageError, OpenOptions};

/// The least that is a disk.
const SECTOR: u64 = 512;

/// The file.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    path: PathBuf,
    options: OpenOptions,
}

impl ImageFile {
    /// Opens the file in `path`. Nothing is read, written or locked.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open {
            path: path.to_owned(),
            source,
        };
        let mut flags = libc::O_CLOEXEC;
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        let file = FileOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(ImageError::NoImage {
                path: path.to_owned(),
                what: "neither a file nor a block device",
            });
        }
        // What this host remembers of a shared image may be older than what another one wrote.
        // SAFETY: no memory is involved; the advice may fail without harm.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(ImageFile {
            file,
            path: path.to_owned(),
            options,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks it: alone for writing, with other readers for reading.
    pub fn lock(&self) -> Result<(), LockError> {
        let length = self.length()?;
        let OpenOptions {
            read_only,
            lock_granularity,
            ..
        } = self.options;
        lock::lock(&self.file, read_only, lock_granularity, length)
    }

    /// [`Self::lock`], with an error that names the file.
    pub fn lock_or_say(&self) -> Result<(), ImageError> {
        self.lock().map_err(|source| ImageError::Lock {
            path: self.path.clone(),
            source,
        })
    }

    /// Whether somebody else has it locked so that nobody may write.
    pub fn is_locked(&self) -> io::Result<bool> {
        lock::is_taken(&self.file)
    }

    /// Its format, as configured or by its content.
    pub fn format(&self) -> Result<Format, ImageError> {
        if let Some(format) = self.options.format {
            return Ok(format);
        }
        let mut head = Aligned::zeros(SECTOR as usize);
        let count = self.file.read_at(head.bytes(), 0);
        let count = count.map_err(|source| ImageError::Open {
            path: self.path.clone(),
            source,
        })?;
        match detect(&head.bytes()[..count]) {
            Detected::Known(format) => Ok(format),
            Detected::Unknown(format) => Err(ImageError::UnknownFormat {
                path: self.path.clone(),
                format,
            }),
        }
    }

    /// The image in it.
    pub fn image(&self) -> Result<Box<dyn Image>, ImageError> {
        let failed = |source| ImageError::Open {
            path: self.path.clone(),
            source,
        };
        let file = self.file.try_clone().map_err(failed)?;
        let length = self.length().map_err(failed)?;
        Ok(match self.format()? {
            Format::Raw if length < SECTOR => {
                return Err(ImageError::NoImage {
                    path: self.path.clone(),
                    what: "shorter than a sector",
                });
            }
            Format::Raw => Box::new(RawImage::new(file, length, self.options).map_err(failed)?),
            Format::Qcow2 => Box::new(Qcow2Image::new(file, length, &self.path, self.options)?),
        })
    }

    fn length(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }
}
