//! Formats of disk images.
//!
//! Does: recognise one by the first bytes of a file. Does not: read any further.
//!
//! Invariant: what is not recognised is raw, so a guest that may write the first bytes of a raw
//! image could choose its format for the next time. Whoever uses an image of which only the content
//! told the format asks [`Format::is_disguise`] before each write.

use std::fmt;

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// What a file seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    Known(Format),
    /// A format that nobody here reads.
    Unknown(&'static str),
}

/// How the files of a format begin, in QEMU's and Microsoft's words.
const MAGICS: [(&[u8], Detected); 2] = [
    (b"QFI\xFB", Detected::Known(Format::Qcow2)),
    (b"vhdxfile", Detected::Unknown("VHDX")),
];

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

/// The format of a file that begins with `head`.
pub(crate) fn detect(head: &[u8]) -> Detected {
    let found = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
    found.map_or(Detected::Known(Format::Raw), |(_, detected)| *detected)
}

impl Format {
    /// Whether `bytes`, written from the byte `offset` of a raw image on, would make it look like
    /// an image of another format.
    pub fn is_disguise(offset: u64, bytes: &[u8]) -> bool {
        // A write begins with a whole sector, and no magic is longer.
        offset == 0 && detect(bytes) != Detected::Known(Format::Raw)
    }
}
