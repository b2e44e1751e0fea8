//! The clone: what a backup needs to become the same machine.
//!
//! Does: split memory into runs of pages without the zero ones, split blobs into parts, and put
//! blobs together again. Does not: read or write guest memory.
//!
//! Invariant: a blob never grows beyond its cap, nor beyond what was received; a page run lies
//! within the memory that the handshake named (paper §3.1).

use hypervisor::Position;
use thiserror::Error;

use crate::codec::{DecodeError, Decoder, put_number};
use crate::log::{ComponentDigest, decode_components, encode_components};

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
/// The most pages in one run.
pub const MAX_PAGES_PER_RUN: usize = 256;
/// The most bytes in one part of a blob.
pub const BLOB_PART_BYTES: usize = 256 << 10;

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobKind {
    /// The VM's configuration, JSON.
    Config,
    /// The machine's state without its memory.
    State,
    /// What the machine loads again on a reset: kernel, initramfs.
    Payload,
}

impl BlobKind {
    /// The longest blob of this kind.
    pub const fn cap(self) -> u64 {
        match self {
            BlobKind::Config => 4 << 20,
            BlobKind::State => 64 << 20,
            BlobKind::Payload => 2 << 30,
        }
    }

    fn tag(self) -> u8 {
        match self {
            BlobKind::Config => 0,
            BlobKind::State => 1,
            BlobKind::Payload => 2,
        }
    }
}

/// Why a clone is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CloneError {
    /// A blob above its kind's cap.
    #[error("a {kind:?} blob of {length} bytes, the cap is {}", kind.cap())]
    OversizedBlob {
        /// The blob's kind.
        kind: BlobKind,
        /// Its claimed length.
        length: u64,
    },
    /// Parts that do not make up the blob.
    #[error("the parts of the {0:?} blob do not fit together")]
    BrokenBlob(BlobKind),
    /// The same kind a second time.
    #[error("a second {0:?} blob")]
    RepeatedBlob(BlobKind),
    /// The clone ended without this one.
    #[error("the clone has no {0:?} blob")]
    MissingBlob(BlobKind),
    /// Pages beyond the guest's memory.
    #[error("{count} pages from page {first} on, of {pages} pages")]
    OutOfMemory {
        /// The first page.
        first: u64,
        /// How many.
        count: usize,
        /// How many pages there are.
        pages: u64,
    },
    /// Pages before the configuration.
    #[error("memory comes before the configuration")]
    TooEarly,
    /// Pages were lost or doubled.
    #[error("{found} page transfers, {expected} were announced")]
    WrongPageCount {
        /// As the end of the clone says.
        expected: u64,
        /// As received.
        found: u64,
    },
}

/// A part of a blob; parts of one blob come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPart {
    /// What it is a part of.
    pub kind: BlobKind,
    /// Length of the whole blob.
    pub total: u64,
    /// The part.
    pub bytes: Vec<u8>,
}

impl BlobPart {
    pub(crate) fn encode(kind: BlobKind, total: u64, bytes: &[u8], out: &mut Vec<u8>) {
        out.push(kind.tag());
        put_number(out, total);
        out.extend_from_slice(bytes);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<BlobPart, DecodeError> {
        let mut from = Decoder::new(payload);
        let what = "blob kind";
        let kind = match from.byte(what)? {
            0 => BlobKind::Config,
            1 => BlobKind::State,
            2 => BlobKind::Payload,
            tag => return Err(DecodeError::UnknownTag { what, tag }),
        };
        Ok(BlobPart {
            kind,
            total: from.number("blob length")?,
            bytes: from.take_rest().to_vec(),
        })
    }
}

/// Puts the parts of one blob together.
#[derive(Debug, Default)]
pub struct BlobAssembler {
    open: Option<BlobPart>,
}

impl BlobAssembler {
    /// Takes the next part; gives the blob when it is whole.
    pub fn push(&mut self, part: BlobPart) -> Result<Option<(BlobKind, Vec<u8>)>, CloneError> {
        let kind = part.kind;
        if part.total > kind.cap() {
            return Err(CloneError::OversizedBlob {
                kind,
                length: part.total,
            });
        }
        let blob = match self.open.take() {
            None => part,
            Some(mut blob) if blob.kind == kind && blob.total == part.total => {
                // An empty part in the middle would let a peer keep us busy for nothing.
                if part.bytes.is_empty() {
                    return Err(CloneError::BrokenBlob(kind));
                }
                blob.bytes.extend_from_slice(&part.bytes);
                blob
            }
            Some(blob) => return Err(CloneError::BrokenBlob(blob.kind)),
        };
        match (blob.bytes.len() as u64).cmp(&blob.total) {
            std::cmp::Ordering::Less => {
                self.open = Some(blob);
                Ok(None)
            }
            std::cmp::Ordering::Equal => Ok(Some((kind, blob.bytes))),
            std::cmp::Ordering::Greater => Err(CloneError::BrokenBlob(kind)),
        }
    }

    /// The kind of a blob that has begun and is not whole.
    pub fn unfinished(&self) -> Option<BlobKind> {
        self.open.as_ref().map(|blob| blob.kind)
    }
}

/// Consecutive pages of guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Index of the first page: pages are counted over the guest's memory in order of address,
    /// holes left out.
    pub first: u64,
    /// Whole pages.
    pub bytes: Vec<u8>,
}

impl PageRun {
    /// How many pages.
    pub fn count(&self) -> usize {
        self.bytes.len() / PAGE_BYTES
    }

    pub(crate) fn encode(first: u64, bytes: &[u8], out: &mut Vec<u8>) {
        put_number(out, first);
        out.extend_from_slice(bytes);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<PageRun, DecodeError> {
        let mut from = Decoder::new(payload);
        let first = from.number("page index")?;
        let bytes = from.take_rest();
        let (what, cap) = ("page run", MAX_PAGES_PER_RUN);
        match bytes.len() % PAGE_BYTES {
            0 if bytes.is_empty() => Err(DecodeError::Truncated { what }),
            0 if bytes.len() > cap * PAGE_BYTES => Err(DecodeError::TooLong {
                what,
                length: bytes.len() as u64,
                cap: cap * PAGE_BYTES,
            }),
            0 => Ok(PageRun {
                first,
                bytes: bytes.to_vec(),
            }),
            count => Err(DecodeError::Trailing { what, count }),
        }
    }

    /// Fails unless it lies within `pages` pages.
    pub(crate) fn check(&self, pages: u64) -> Result<(), CloneError> {
        let count = self.count();
        match self.first.checked_add(count as u64) {
            Some(end) if end <= pages => Ok(()),
            _ => Err(CloneError::OutOfMemory {
                first: self.first,
                count,
                pages,
            }),
        }
    }
}

/// Runs of pages that are not all zero, each short enough for one frame, as ranges of bytes.
///
/// # Panics
/// If `memory` is not whole pages.
pub fn nonzero_runs(memory: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    const ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    assert!(memory.len().is_multiple_of(PAGE_BYTES), "whole pages");
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_zero = |at: usize| memory[at..at + PAGE_BYTES] == ZERO_PAGE;
        while at < memory.len() && is_zero(at) {
            at += PAGE_BYTES;
        }
        let start = at;
        let end = memory.len().min(start + MAX_PAGES_PER_RUN * PAGE_BYTES);
        while at < end && !is_zero(at) {
            at += PAGE_BYTES;
        }
        (start < at).then_some(start..at)
    })
}

/// The end of the clone, and the beginning of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneEnd {
    /// The first entry of the log has this sequence number.
    pub first_seq: u64,
    /// Where the cloned machine stands.
    pub position: Position,
    /// How many pages were sent, each counted as often as it was.
    pub pages_sent: u64,
    /// Digest of the complete machine, memory included.
    pub digest: Vec<ComponentDigest>,
}

impl CloneEnd {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.first_seq);
        put_number(out, self.position.0);
        put_number(out, self.pages_sent);
        encode_components(&self.digest, out);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<CloneEnd, DecodeError> {
        let mut from = Decoder::new(payload);
        let end = CloneEnd {
            first_seq: from.number("first sequence number")?,
            position: Position(from.number("position")?),
            pages_sent: from.number("page count")?,
            digest: decode_components(&mut from)?,
        };
        from.finish("end of clone")?;
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(total: u64, bytes: &[u8]) -> BlobPart {
        BlobPart {
            kind: BlobKind::Config,
            total,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn blobs_are_put_together_and_bounded() {
        let mut blobs = BlobAssembler::default();
        assert_eq!(blobs.push(part(5, b"ab")), Ok(None));
        assert_eq!(blobs.unfinished(), Some(BlobKind::Config));
        assert_eq!(
            blobs.push(part(5, b"cde")),
            Ok(Some((BlobKind::Config, b"abcde".to_vec())))
        );
        assert_eq!(
            blobs.push(part(0, b"")),
            Ok(Some((BlobKind::Config, Vec::new())))
        );
        let broken = Err(CloneError::BrokenBlob(BlobKind::Config));
        assert_eq!(blobs.push(part(1, b"ab")), broken);
        assert_eq!(blobs.push(part(3, b"a")), Ok(None));
        assert_eq!(blobs.push(part(4, b"b")), broken);
        let length = BlobKind::Config.cap() + 1;
        assert_eq!(
            blobs.push(part(length, b"a")),
            Err(CloneError::OversizedBlob {
                kind: BlobKind::Config,
                length
            })
        );
    }

    #[test]
    fn zero_pages_are_left_out_and_long_runs_split() {
        let mut memory = vec![0u8; (MAX_PAGES_PER_RUN + 10) * PAGE_BYTES];
        let runs = |memory: &[u8]| {
            nonzero_runs(memory)
                .map(|run| (run.start / PAGE_BYTES, run.len() / PAGE_BYTES))
                .collect::<Vec<_>>()
        };
        assert!(runs(&memory).is_empty());
        memory[PAGE_BYTES - 1] = 1;
        memory[3 * PAGE_BYTES] = 1;
        memory[4 * PAGE_BYTES + 5] = 1;
        *memory.last_mut().unwrap() = 1;
        let last = MAX_PAGES_PER_RUN + 9;
        assert_eq!(runs(&memory), [(0, 1), (3, 2), (last, 1)]);
        memory.fill(1);
        assert_eq!(
            runs(&memory),
            [(0, MAX_PAGES_PER_RUN), (MAX_PAGES_PER_RUN, 10)]
        );
    }

    #[test]
    fn page_runs_stay_in_memory() {
        let run = |first, count| PageRun {
            first,
            bytes: vec![1; count * PAGE_BYTES],
        };
        assert_eq!(run(6, 2).check(8), Ok(()));
        assert!(run(7, 2).check(8).is_err());
        assert!(run(u64::MAX, 2).check(8).is_err());
        let mut payload = Vec::new();
        PageRun::encode(3, &[5; PAGE_BYTES], &mut payload);
        assert_eq!(PageRun::decode(&payload).unwrap().first, 3);
        payload.pop();
        PageRun::decode(&payload).unwrap_err();
        PageRun::decode(&[3]).unwrap_err();
    }
}
