//! Raw images: a file or block device whose bytes are those of the disk.
//!
//! Does: positioned reads and writes, with or without the page cache. Does not: grow or shrink it.
//!
//! Invariant: a transfer is whole or fails. With `O_DIRECT` the host's alignment is kept by copying.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};

use crate::aligned::{ALIGNMENT, Aligned};
use crate::{Format, Image, OpenOptions, Ring, Topology, check_bounds};

const SECTOR: u64 = 512;

/// A raw image.
#[derive(Debug)]
pub(crate) struct RawImage {
    file: File,
    size: u64,
    options: OpenOptions,
    topology: Topology,
}

impl RawImage {
    /// The image in `file`, which has `length` bytes.
    pub(crate) fn new(file: File, length: u64, options: OpenOptions) -> io::Result<Self> {
        let topology = if file.metadata()?.file_type().is_block_device() {
            device_topology(&file)?
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
            size: length - length % u64::from(topology.logical_block),
            options,
            topology,
        })
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
        check_bounds(self.size, offset, length)?;
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
    fn format(&self) -> Format {
        Format::Raw
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn topology(&self) -> Topology {
        self.topology
    }

    fn ring(&self) -> Option<io::Result<Ring>> {
        let file = self.file.try_clone();
        Some(file.and_then(|file| Ring::new(file, self.size, self.options)))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        check_bounds(self.size, offset, bytes.len() as u64)?;
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
        check_bounds(self.size, offset, bytes.len() as u64)?;
        Format::check_write(self.options, offset, bytes)?;
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
