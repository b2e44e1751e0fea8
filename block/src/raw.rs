//! Raw images: a file or block device whose bytes are those of the disk.
//!
//! Does: positioned reads and writes, with or without the page cache. Does not: grow or shrink it.
//!
//! Invariant: a transfer is whole or fails. With `O_DIRECT` the host's alignment is kept by copying.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::aligned::{ALIGNMENT, Aligned};
use crate::lock::{self, LockError};
use crate::{Image, ImageError, OpenOptions, Topology};

const SECTOR: u64 = 512;

/// A raw image.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    size: u64,
    options: OpenOptions,
    topology: Topology,
}

impl RawImage {
    /// Opens the image in `path`, and locks nothing.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open {
            path: path.to_owned(),
            source,
        };
        let mut flags = libc::O_CLOEXEC;
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        let mut file = FileOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        let is_device = kind.is_block_device();
        let no_image = |what| {
            Err(ImageError::NoImage {
                path: path.to_owned(),
                what,
            })
        };
        if !is_device && !kind.is_file() {
            return no_image("neither a file nor a block device");
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < SECTOR {
            return no_image("shorter than a sector");
        }
        let topology = if is_device {
            device_topology(&file).map_err(failed)?
        } else {
            Topology {
                logical_block: if options.direct {
                    direct_alignment(&file)
                } else {
                    SECTOR as u32
                },
                physical_block: ALIGNMENT as u32,
            }
        };
        Ok(RawImage {
            file,
            size: size - size % u64::from(topology.logical_block),
            options,
            topology,
        })
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "beyond the end of the disk",
            )),
        }
    }

    fn write_some(&self, offset: u64, bytes: &[u8], durable: bool) -> io::Result<usize> {
        let part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let fd = self.file.as_raw_fd();
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the one part is a live slice that the kernel only reads.
        let count = unsafe { libc::pwritev2(fd, &part, 1, offset, flags) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn write_all(&self, mut offset: u64, mut bytes: &[u8], durable: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(offset, bytes, durable) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A file system without such writes has a flush.
                Err(error) if durable && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.write_all(offset, bytes, false)?;
                    return self.file.sync_data();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Frees or zeroes space; false if the host cannot.
    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<bool> {
        self.check(offset, length)?;
        if length == 0 {
            return Ok(true);
        }
        let fd = self.file.as_raw_fd();
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no memory is involved.
        let result = unsafe { libc::fallocate(fd, mode, offset as i64, length as i64) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(false),
            _ => Err(error),
        }
    }
}

impl Image for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn topology(&self) -> Topology {
        self.topology
    }

    fn lock(&mut self) -> Result<(), LockError> {
        lock::lock(&self.file, self.options.read_only)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(offset, bytes.len() as u64)?;
        if !self.options.direct {
            return self.file.read_exact_at(bytes, offset);
        }
        let mut aligned = Aligned::zeros(bytes.len());
        let there = &mut aligned.bytes()[..bytes.len()];
        self.file.read_exact_at(there, offset)?;
        bytes.copy_from_slice(there);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        self.check(offset, bytes.len() as u64)?;
        if !self.options.direct {
            return self.write_all(offset, bytes, durable);
        }
        let mut aligned = Aligned::zeros(bytes.len());
        let there = &mut aligned.bytes()[..bytes.len()];
        there.copy_from_slice(bytes);
        self.write_all(offset, there, durable)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // It is a hint: a host that cannot has nothing to give back.
        self.allocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length)
            .map(drop)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.allocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length)? {
            return Ok(());
        }
        if self.allocate(libc::FALLOC_FL_ZERO_RANGE, offset, length)? {
            return Ok(());
        }
        let zeros = vec![0; (1 << 20).min(length as usize)];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let count = (zeros.len() as u64).min(end - at);
            self.write(at, &zeros[..count as usize], false)?;
            at += count;
        }
        Ok(())
    }
}

/// The blocks of a block device.
fn device_topology(file: &File) -> io::Result<Topology> {
    let mut logical: libc::c_int = 0;
    let mut physical: libc::c_uint = 0;
    // SAFETY: each call writes one int.
    let results = unsafe {
        [
            libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut logical),
            libc::ioctl(file.as_raw_fd(), libc::BLKPBSZGET as _, &mut physical),
        ]
    };
    if results != [0, 0] {
        return Err(io::Error::last_os_error());
    }
    let logical_block = logical.max(SECTOR as i32) as u32;
    Ok(Topology {
        logical_block,
        physical_block: physical.max(logical_block),
    })
}

/// The alignment that direct I/O on a file needs.
fn direct_alignment(file: &File) -> u32 {
    // SAFETY: all fields of a statx may be zero.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a literal, and the kernel writes one statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut stat,
        )
    };
    let alignment = stat.stx_dio_offset_align;
    if result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 && alignment.is_power_of_two() {
        alignment.clamp(SECTOR as u32, ALIGNMENT as u32)
    } else {
        SECTOR as u32
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn image(length: u64, options: OpenOptions) -> (TempDir, RawImage) {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("image");
        File::create(&path).unwrap().set_len(length).unwrap();
        let image = RawImage::open(&path, options).unwrap();
        (directory, image)
    }

    #[test]
    fn what_is_written_is_read() {
        for direct in [false, true] {
            let options = OpenOptions {
                direct,
                read_only: false,
            };
            let (_directory, mut image) = image(1 << 20, options);
            let bytes: Vec<u8> = (0..8192).map(|i| (i / 7) as u8).collect();
            image.write(4096, &bytes, false).unwrap();
            image.write(4096 + 8192, &bytes, true).unwrap();
            image.flush().unwrap();
            let mut found = vec![0; 8192];
            image.read(8192, &mut found).unwrap();
            assert_eq!(found[..4096], bytes[4096..]);
            assert_eq!(found[4096..], bytes[..4096]);
            for unmap in [false, true] {
                image.write(0, &bytes, false).unwrap();
                image.write_zeroes(0, 4096, unmap).unwrap();
                image.read(0, &mut found).unwrap();
                assert_eq!(found[..4096], [0; 4096]);
                assert_eq!(found[4096..], bytes[4096..]);
            }
            image.discard(0, 8192).unwrap();
        }
    }

    #[test]
    fn nothing_is_beyond_the_end() {
        let (_directory, mut image) = image(10_000, OpenOptions::default());
        assert_eq!(image.size(), 9728);
        image.read(9728, &mut [0; 512]).unwrap_err();
        image.write(9216, &[0; 1024], false).unwrap_err();
        image.write(u64::MAX, &[0; 512], false).unwrap_err();
        image.discard(0, 10_240).unwrap_err();
        image.write_zeroes(9728, 512, true).unwrap_err();
        image.write(9216, &[0; 512], false).unwrap();
    }

    #[test]
    fn a_written_image_has_one_user() {
        let (directory, mut first) = image(4096, OpenOptions::default());
        let path = directory.as_path().join("image");
        first.lock().unwrap();
        let reading = OpenOptions {
            read_only: true,
            direct: false,
        };
        let mut second = RawImage::open(&path, reading).unwrap();
        assert!(matches!(second.lock(), Err(LockError::Taken)));
        drop(first);
        second.lock().unwrap();
        let mut third = RawImage::open(&path, reading).unwrap();
        third.lock().unwrap();
        second.write(0, &[1; 512], false).unwrap_err();
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let directory = TempDir::new().unwrap();
        let options = OpenOptions::default();
        let error = RawImage::open(directory.as_path(), options).unwrap_err();
        assert!(matches!(error, ImageError::Open { .. }), "{error}");
        let error = RawImage::open(Path::new("/dev/zero"), options).unwrap_err();
        assert!(matches!(error, ImageError::NoImage { .. }), "{error}");
        let short = directory.as_path().join("short");
        std::fs::write(&short, [0; 100]).unwrap();
        let error = RawImage::open(&short, options).unwrap_err();
        assert!(matches!(error, ImageError::NoImage { .. }), "{error}");
    }
}
