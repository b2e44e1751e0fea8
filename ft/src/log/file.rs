//! Log files: the same batches as on a channel, behind a header.
//!
//! Does: encode a recording into bytes for a file, and decode such bytes. Does not: open files.
//!
//! Invariant: a file is readable up to its last whole batch, and says whether that is where its
//! recorder stopped. Paper §3.2; the layout is in `docs/log-format.md`.

use hypervisor::Position;
use thiserror::Error;

use crate::codec::{DecodeError, Decoder, put_number};
use crate::frame::{self, Frame, FrameError, FrameReader, Kind};
use crate::identity::{Generation, Semantics, VmId};
use crate::log::{BatchReader, BatchWriter, Entry, LogError};

/// The first bytes of every log file.
const MAGIC: &[u8; 8] = b"ft-log\r\n";
/// The version of entries and header, raised with every change of either.
const FORMAT: u16 = 1;
/// An open batch of a file is closed at this size.
const BATCH_BYTES: usize = 16 << 10;

/// What a log file is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// What the recorded machine's behaviour is defined by.
    pub semantics: Semantics,
    /// The VM.
    pub vm: VmId,
    /// Its generation when the file was begun; 0 for none.
    pub generation: Generation,
    /// The sequence number of the first entry.
    pub first_seq: u64,
    /// Where the recording begins.
    pub position: Position,
}

/// Why a file is no log, or a damaged one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// The file does not begin as a log does.
    #[error("this is not a log file")]
    NotALog,
    /// Another version of the format.
    #[error("the log has format {0}, this build reads {FORMAT}")]
    WrongFormat(u16),
    /// The header is malformed.
    #[error("the log's header is malformed")]
    BadHeader(#[source] DecodeError),
    /// A frame that belongs elsewhere.
    #[error("a {0:?} frame in a log file")]
    Unexpected(Kind),
    /// A damaged frame.
    #[error("the log is damaged")]
    Frame(#[from] FrameError),
    /// A batch that does not continue the log.
    #[error("the log is inconsistent")]
    Log(#[from] LogError),
}

/// Encodes a recording.
#[derive(Debug)]
pub struct FileWriter {
    batch: BatchWriter,
    out: Vec<u8>,
}

impl FileWriter {
    /// Begins a file.
    pub fn new(header: &FileHeader) -> Self {
        let mut payload = FORMAT.to_le_bytes().to_vec();
        header.semantics.encode(&mut payload);
        payload.extend_from_slice(&header.vm.0);
        put_number(&mut payload, header.generation.0);
        put_number(&mut payload, header.first_seq);
        put_number(&mut payload, header.position.0);
        let mut out = MAGIC.to_vec();
        frame::seal(Kind::FileHeader, &payload, &mut out);
        FileWriter {
            batch: BatchWriter::new(header.first_seq, header.position),
            out,
        }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) -> Result<(), LogError> {
        self.batch.push(entry, &mut self.out)?;
        if self.batch.open_bytes() >= BATCH_BYTES {
            self.batch.seal(&mut self.out);
        }
        Ok(())
    }

    /// Bytes that can be written now; entries of an open batch stay behind.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Closes the open batch and gives all bytes not taken yet.
    pub fn flush(&mut self) -> Vec<u8> {
        self.batch.seal(&mut self.out);
        self.take()
    }
}

/// Decodes a recording that is fed in pieces of any size.
#[derive(Debug, Default)]
pub struct FileReader {
    magic: Vec<u8>,
    frames: FrameReader,
    header: Option<(FileHeader, BatchReader)>,
}

impl FileReader {
    /// A reader at the beginning of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        let missing = (MAGIC.len() - self.magic.len()).min(bytes.len());
        self.magic.extend_from_slice(&bytes[..missing]);
        self.frames.feed(&bytes[missing..]);
    }

    /// The header, if it is there.
    pub fn header(&mut self) -> Result<Option<&FileHeader>, FileError> {
        if !MAGIC.starts_with(&self.magic) {
            return Err(FileError::NotALog);
        }
        if self.header.is_none() {
            match self.frames.next_frame()? {
                None => return Ok(None),
                Some(Frame {
                    kind: Kind::FileHeader,
                    payload,
                }) => {
                    let header = decode_header(payload)?;
                    let batches = BatchReader::new(header.first_seq, header.position);
                    self.header = Some((header, batches));
                }
                Some(frame) => return Err(FileError::Unexpected(frame.kind)),
            }
        }
        Ok(self.header.as_ref().map(|(header, _)| header))
    }

    /// The entries of the next batch, if it is there in whole.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Entry>>, FileError> {
        self.header()?;
        let Some((_, batches)) = &mut self.header else {
            return Ok(None);
        };
        match self.frames.next_frame()? {
            None => Ok(None),
            Some(Frame {
                kind: Kind::LogBatch,
                payload,
            }) => Ok(Some(batches.read(payload)?)),
            Some(frame) => Err(FileError::Unexpected(frame.kind)),
        }
    }

    /// Fails if the file, having ended here, was cut off.
    pub fn finish(&self) -> Result<(), FileError> {
        if self.magic.len() < MAGIC.len() || self.header.is_none() {
            return Err(FileError::NotALog);
        }
        Ok(self.frames.finish()?)
    }
}

fn decode_header(payload: &[u8]) -> Result<FileHeader, FileError> {
    let mut from = Decoder::new(payload);
    let format = from.fixed_u16("format").map_err(FileError::BadHeader)?;
    if format != FORMAT {
        return Err(FileError::WrongFormat(format));
    }
    let mut read = || {
        let header = FileHeader {
            semantics: Semantics::decode(&mut from)?,
            vm: VmId(from.array("VM id")?),
            generation: Generation(from.number("generation")?),
            first_seq: from.number("first sequence number")?,
            position: Position(from.number("position")?),
        };
        Ok(header)
    };
    let header = read().map_err(FileError::BadHeader)?;
    from.finish("file header").map_err(FileError::BadHeader)?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Body;

    fn header() -> FileHeader {
        FileHeader {
            semantics: Semantics {
                engine: "soft".into(),
                cpu_model: "m1".into(),
                number: 3,
            },
            vm: VmId([0xab; 16]),
            generation: Generation(2),
            first_seq: 40,
            position: Position(1000),
        }
    }

    fn file() -> (Vec<u8>, Vec<Entry>) {
        let mut writer = FileWriter::new(&header());
        let mut bytes = Vec::new();
        let mut entries = Vec::new();
        for i in 0..5000u64 {
            let entry = Entry {
                seq: 40 + i,
                position: Position(1000 + i * 3),
                body: Body::DigestHere { id: i << 20 },
            };
            writer.push(&entry).unwrap();
            entries.push(entry);
            bytes.extend(writer.take());
        }
        bytes.extend(writer.flush());
        (bytes, entries)
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Entry>, FileError> {
        let mut reader = FileReader::new();
        let mut entries = Vec::new();
        for bytes in bytes.chunks(piece) {
            reader.feed(bytes);
            while let Some(batch) = reader.next_batch()? {
                entries.extend(batch);
            }
        }
        reader.finish()?;
        assert_eq!(reader.header()?, Some(&header()));
        Ok(entries)
    }

    #[test]
    fn golden_header() {
        let bytes = FileWriter::new(&header()).flush();
        let mut golden = b"ft-log\r\n".to_vec();
        golden.extend([0xf1, 0, 31, 0x0c, 0x47, 0x3e, 0xd6]);
        golden.extend([1, 0, 4, b's', b'o', b'f', b't', 2, b'm', b'1', 3]);
        golden.extend([0xab; 16]);
        golden.extend([2, 40, 0xe8, 0x07]);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn what_is_recorded_is_read_in_pieces_of_any_size() {
        let (bytes, entries) = file();
        for piece in [1, 5, 4096, bytes.len()] {
            assert_eq!(read(&bytes, piece).as_ref(), Ok(&entries));
        }
    }

    #[test]
    fn damage_is_typed() {
        let (bytes, entries) = file();
        assert_eq!(read(b"\x7fELF----", 8), Err(FileError::NotALog));
        assert_eq!(read(&bytes[..5], 8), Err(FileError::NotALog));
        assert!(matches!(
            read(&bytes[..bytes.len() - 1], 1 << 20),
            Err(FileError::Frame(FrameError::Truncated { .. }))
        ));
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(matches!(
            read(&flipped, 1 << 20),
            Err(FileError::Frame(FrameError::BadChecksum { .. }))
        ));
        // All before the damage is there.
        let mut reader = FileReader::new();
        reader.feed(&flipped);
        let first = reader.next_batch().unwrap().unwrap();
        assert_eq!(first[..], entries[..first.len()]);
        let mut other = b"ft-log\r\n".to_vec();
        frame::seal(Kind::FileHeader, &[9, 0], &mut other);
        assert_eq!(read(&other, 64), Err(FileError::WrongFormat(9)));
        let mut other = b"ft-log\r\n".to_vec();
        frame::seal(Kind::Ack, &[9, 0], &mut other);
        assert_eq!(read(&other, 64), Err(FileError::Unexpected(Kind::Ack)));
    }
}
