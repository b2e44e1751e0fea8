//! Images in QEMU's format qcow2, versions 2 and 3.
//!
//! Does: positioned reads and writes, discards and zeroings, with or without images below it. The
//! format itself is read and written by the crate `imago`, after a look whether its tables can be
//! trusted. Does not: resize, snapshot or repair.
//!
//! Invariant: the format's tables are read after the lock was taken. What `imago` keeps of them in
//! memory is written before a flush or a durable request ends. Files below are opened for reading
//! only, and locked so that nobody writes them.

mod soundness;

use std::fs::{File, OpenOptions as FileOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use imago::file::File as ImagoFile;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use crate::aligned::ALIGNMENT;
use crate::lock::{self, LockGranularity};
use crate::{Format, Image, ImageError, OpenOptions, Topology, check_bounds};

const SECTOR: u64 = 512;
/// Images on top of each other; a longer chain (or a loop) is a mistake.
const CHAIN_MAX: usize = 32;
/// Zeros that are written at once where the format knows no shorter way.
const ZEROS: usize = 1 << 20;

/// A qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2Image {
    image: FormatAccess<ImagoFile>,
    size: u64,
}

impl Qcow2Image {
    /// The image in `file`, which was opened from `path`, is locked, and has `length` bytes.
    pub(crate) fn new(
        file: File,
        length: u64,
        path: &Path,
        options: OpenOptions,
    ) -> Result<Self, ImageError> {
        let damaged = |source| ImageError::Damaged {
            path: path.to_owned(),
            format: Format::Qcow2,
            source,
        };
        if !options.read_only {
            soundness::check(&file, length).map_err(damaged)?;
        }
        let opened = StorageOpenOptions::new()
            .filename(path)
            .write(!options.read_only)
            .direct(options.direct);
        let file = ImagoFile::from_open_file(file, opened).map_err(damaged)?;
        let image = Qcow2::open_image(file, !options.read_only);
        let mut image: Qcow2<ImagoFile> = image.map_err(damaged)?;
        if let (Some(backing), false) = (image.implicit_backing_file(), options.backing_files) {
            return Err(ImageError::BackingFile {
                path: path.to_owned(),
                backing: backing.clone(),
            });
        }
        if image.requires_external_data_file() {
            return Err(ImageError::UnknownFormat {
                path: path.to_owned(),
                format: "qcow2 with an external data file",
            });
        }
        let below = Below {
            direct: options.direct,
            depth: 1,
        };
        image
            .open_implicit_dependencies_gated(below)
            .map_err(damaged)?;
        let image = FormatAccess::new(image);
        let size = image.size() / SECTOR * SECTOR;
        if size == 0 {
            return Err(ImageError::NoImage {
                path: path.to_owned(),
                what: "shorter than a sector",
            });
        }
        Ok(Qcow2Image { image, size })
    }

    /// What is in memory only goes to the storage, and stays there.
    fn settle(&self) -> io::Result<()> {
        self.image.flush()?;
        self.image.sync()
    }
}

/// Opens the images below one.
struct Below {
    direct: bool,
    depth: usize,
}

impl ImplicitOpenGate<ImagoFile> for Below {
    fn open_format<F: FormatDriverBuilder<ImagoFile>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<ImagoFile>> {
        let depth = self.depth + 1;
        if depth > CHAIN_MAX {
            let text = format!("more than {CHAIN_MAX} images on top of each other");
            return Err(io::Error::other(text));
        }
        let direct = self.direct;
        let image = builder.open(Below { direct, depth })?;
        Ok(FormatAccess::new(image))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImagoFile> {
        let (Some(path), false) = (options.get_filename(), options.get_writable()) else {
            return Err(io::Error::other("an external data file is not supported"));
        };
        let direct = if self.direct { libc::O_DIRECT } else { 0 };
        let file = FileOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | direct)
            .open(path)?;
        let length = file.metadata()?.len();
        lock::lock(&file, true, LockGranularity::ByteRange, length).map_err(io::Error::other)?;
        let direct = self.direct;
        ImagoFile::from_open_file(file, options.direct(direct))
    }
}

impl Image for Qcow2Image {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn topology(&self) -> Topology {
        Topology {
            logical_block: SECTOR as u32,
            physical_block: ALIGNMENT as u32,
        }
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        check_bounds(self.size, offset, bytes.len() as u64)?;
        self.image.read(bytes, offset)
    }

    fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        check_bounds(self.size, offset, bytes.len() as u64)?;
        self.image.write(bytes, offset)?;
        if durable { self.settle() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.settle()
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        check_bounds(self.size, offset, length)?;
        match self.image.discard_to_zero(offset, length) {
            // It is a hint: version 2 cannot.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        check_bounds(self.size, offset, length)?;
        let zeroed = if unmap {
            self.image.discard_to_zero(offset, length)
        } else {
            self.image.write_zeroes(offset, length)
        };
        match zeroed {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            result => return result,
        }
        let zeros = vec![0; ZEROS.min(length as usize)];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let count = (zeros.len() as u64).min(end - at);
            self.image.write(&zeros[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }
}
