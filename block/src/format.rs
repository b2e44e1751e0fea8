//! Formats of disk images.
//!
//! Does: recognise one by the first bytes of a file. Does not: read any further.
//!
//! Invariant: what is not recognised is raw, so a guest that may write the first bytes of a raw
//! image could choose its format for the next time. Whoever uses a raw image asks
//! [`Format::check_write`] before each write.

use std::{fmt, io};

use crate::OpenOptions;

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
    /// Refuses to write `bytes` from the byte `offset` of a raw image on if only the content told
    /// that it is one, and it would look like one of another format afterwards.
    pub(crate) fn check_write(options: OpenOptions, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // A write begins with a whole sector, and no magic is longer.
        let is_raw = detect(bytes) == Detected::Known(Format::Raw);
        if options.format.is_some() || offset != 0 || is_raw {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this would make the raw image look like one of another format; configure it with \
             image_type=raw to allow that",
        ))
    }
}
