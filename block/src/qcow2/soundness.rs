//! Whether the tables of a qcow2 image are fit to be written.
//!
//! Does: see that the header, both tables and what they name lie in the file and are counted as
//! used (QEMU's docs/interop/qcow2.txt). Does not: look at data clusters, or repair.
//!
//! Invariant: in an image that passes, a cluster that counts as free holds no table, so that
//! whoever allocates it overwrites none.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::aligned::{ALIGNMENT, Aligned};

const HEADER: usize = 104;
/// Bits of an offset in the entries of both tables.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
/// The most entries of either table; QEMU's limit is the same.
const ENTRIES_MAX: u64 = 4 << 20;

fn unsound(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads through a window, so that `O_DIRECT` does.
struct Window<'a> {
    file: &'a File,
    bytes: Aligned,
    at: u64,
    length: usize,
}

const WINDOW: usize = 64 << 10;

impl<'a> Window<'a> {
    fn new(file: &'a File) -> Self {
        let bytes = Aligned::zeros(WINDOW);
        let (at, length) = (0, 0);
        Window {
            file,
            bytes,
            at,
            length,
        }
    }

    /// The big-endian number of `N` bytes at `offset`, which is a multiple of `N`.
    fn number(&mut self, offset: u64, size: usize) -> io::Result<u64> {
        let here = |at: u64, length: usize| {
            let start = usize::try_from(offset.checked_sub(at)?).ok()?;
            (start + size <= length).then_some(start)
        };
        let start = match here(self.at, self.length) {
            Some(start) => start,
            None => {
                self.at = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
                self.length = self.file.read_at(self.bytes.bytes(), self.at)?;
                here(self.at, self.length).ok_or_else(|| unsound("a table is cut off"))?
            }
        };
        let bytes = &self.bytes.bytes()[start..start + size];
        Ok(bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

/// The header's fields that say where tables are.
struct Image<'a> {
    tables: Window<'a>,
    counts: Window<'a>,
    cluster_bits: u32,
    refcount_order: u32,
    reftable: u64,
    reftable_entries: u64,
    file_length: u64,
}

impl Image<'_> {
    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// An entry's offset, if it is set.
    fn offset(&self, entry: u64, what: &str) -> io::Result<Option<u64>> {
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.cluster()) || offset >= self.file_length {
            return Err(unsound(what));
        }
        Ok(Some(offset))
    }

    fn refcount_block(&mut self, index: u64) -> io::Result<Option<u64>> {
        let entry = self.tables.number(self.reftable + index * 8, 8)?;
        self.offset(entry, "a refcount block lies outside the file")
    }

    /// The cluster at `offset` counts as used.
    fn is_used(&mut self, offset: u64) -> io::Result<bool> {
        let cluster = offset >> self.cluster_bits;
        // A block is a cluster of counts of 2^order bits.
        let per_block_bits = self.cluster_bits + 3 - self.refcount_order;
        let index = cluster >> per_block_bits;
        if index >= self.reftable_entries {
            return Ok(false);
        }
        let Some(block) = self.refcount_block(index)? else {
            return Ok(false);
        };
        let bit = (cluster & ((1 << per_block_bits) - 1)) << self.refcount_order;
        let width = 1u64 << self.refcount_order;
        Ok(if width >= 8 {
            self.counts.number(block + bit / 8, width as usize / 8)? != 0
        } else {
            let byte = self.counts.number(block + bit / 8, 1)?;
            byte >> (bit % 8) & ((1 << width) - 1) != 0
        })
    }

    fn check_range(&mut self, from: u64, bytes: u64) -> io::Result<()> {
        for offset in (from..from + bytes.max(1)).step_by(1 << self.cluster_bits) {
            if !self.is_used(offset)? {
                return Err(unsound("a table lies in a cluster that counts as free"));
            }
        }
        Ok(())
    }
}

/// Refuses an image whose tables could be overwritten. Of what no header can be, `imago` tells.
pub(super) fn check(file: &File, file_length: u64) -> io::Result<()> {
    let mut window = Window::new(file);
    if file_length < HEADER as u64 {
        return Err(unsound("shorter than a header"));
    }
    let version = window.number(4, 4)?;
    let cluster_bits = window.number(20, 4)?;
    let refcount_order = if version >= 3 {
        window.number(96, 4)?
    } else {
        4
    };
    if !(9..=21).contains(&cluster_bits) || refcount_order > 6 {
        return Err(unsound("impossible sizes in the header"));
    }
    let (cluster_bits, refcount_order) = (cluster_bits as u32, refcount_order as u32);
    let (l1, l1_entries) = (window.number(40, 8)?, window.number(36, 4)?);
    let reftable = window.number(48, 8)?;
    let reftable_entries = (window.number(56, 4)? << cluster_bits) / 8;
    let cluster = 1u64 << cluster_bits;
    let fits = |offset: u64, entries: u64| {
        let end = offset.checked_add(entries * 8);
        offset >= cluster
            && offset.is_multiple_of(cluster)
            && entries <= ENTRIES_MAX
            && end.is_some_and(|end| end <= file_length.next_multiple_of(cluster))
    };
    if reftable_entries == 0 || !fits(reftable, reftable_entries) {
        return Err(unsound("the refcount table lies outside the file"));
    }
    if l1_entries > 0 && !fits(l1, l1_entries) {
        return Err(unsound("the L1 table lies outside the file"));
    }
    let mut image = Image {
        tables: Window::new(file),
        counts: window,
        cluster_bits,
        refcount_order,
        reftable,
        reftable_entries,
        file_length,
    };
    image.check_range(0, 1)?;
    image.check_range(reftable, reftable_entries * 8)?;
    image.check_range(l1, l1_entries * 8)?;
    for index in 0..reftable_entries {
        if let Some(block) = image.refcount_block(index)? {
            image.check_range(block, 1)?;
        }
    }
    let mut entries = Window::new(file);
    for index in 0..l1_entries {
        let entry = entries.number(l1 + index * 8, 8)?;
        if let Some(table) = image.offset(entry, "an L2 table lies outside the file")? {
            image.check_range(table, 1)?;
        }
    }
    Ok(())
}
