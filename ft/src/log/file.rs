//! Log files: the same batches as on a channel, behind a header.
//!
//! Does: encode a recording into bytes for a file, and decode such bytes. The machine at its
//! beginning stands there as it does on a channel: as a clone. Does not: open files.
//!
//! Invariant: a file is readable up to its last whole batch, and says whether that is where its
//! recorder stopped. Paper §3.2; the layout is in `docs/log-format.md`.

use hypervisor::Position;
use thiserror::Error;

use crate::channel::{
    BLOB_PART_BYTES, BlobKind, BlobPart, CloneEnd, Message, MessageError, PageRun, nonzero_runs,
};
use crate::codec::{DecodeError, Decoder, put_number};
use crate::frame::{self, Frame, FrameError, FrameReader, Kind};
use crate::identity::{Generation, Semantics, VmId};
use crate::log::{BatchReader, BatchWriter, Entry, LogError};

/// The first bytes of every log file.
const MAGIC: &[u8; 8] = b"ft-log\r\n";
/// The version of entries and header, raised with every change of either.
const FORMAT: u16 = 4;
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
    /// A part of the machine at the beginning that is malformed.
    #[error("the log's initial machine is malformed")]
    Clone(#[from] MessageError),
}

/// What stands in a log file behind its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileItem {
    /// Of the machine at the beginning: a part of a blob.
    Blob(BlobPart),
    /// Of it: pages of memory.
    Pages(PageRun),
    /// The machine at the beginning is complete.
    CloneEnd(CloneEnd),
    /// A batch.
    Entries(Vec<Entry>),
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

    /// Adds the next part of a blob of `total` bytes. The machine at the beginning comes before
    /// any entry.
    pub fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) {
        for bytes in part.chunks(BLOB_PART_BYTES) {
            let bytes = bytes.to_vec();
            Message::Blob(BlobPart { kind, total, bytes }).encode(&mut self.out);
        }
    }

    /// Adds pages of the machine at the beginning; zero pages are left out.
    ///
    /// # Panics
    /// If `memory` is not whole pages.
    pub fn pages(&mut self, first: u64, memory: &[u8]) -> u64 {
        let mut count = 0;
        for run in nonzero_runs(memory) {
            let first = first + (run.start / crate::channel::PAGE_BYTES) as u64;
            let bytes = memory[run].to_vec();
            let run = PageRun { first, bytes };
            count += run.count() as u64;
            Message::RamPages(run).encode(&mut self.out);
        }
        count
    }

    /// The machine at the beginning is complete.
    pub fn clone_end(&mut self, end: CloneEnd) {
        Message::CloneEnd(end).encode(&mut self.out);
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

    /// What comes next, if it is there in whole.
    pub fn next_item(&mut self) -> Result<Option<FileItem>, FileError> {
        self.header()?;
        let Some((_, batches)) = &mut self.header else {
            return Ok(None);
        };
        let Some(frame) = self.frames.next_frame()? else {
            return Ok(None);
        };
        if let Kind::FileHeader = frame.kind {
            return Err(FileError::Unexpected(frame.kind));
        }
        let item = match Message::decode(&frame)? {
            Message::LogBatch(payload) => FileItem::Entries(batches.read(payload)?),
            Message::Blob(part) => FileItem::Blob(part),
            Message::RamPages(run) => FileItem::Pages(run),
            Message::CloneEnd(end) => FileItem::CloneEnd(end),
            _ => return Err(FileError::Unexpected(frame.kind)),
        };
        Ok(Some(item))
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
            while let Some(item) = reader.next_item()? {
                let FileItem::Entries(batch) = item else {
                    panic!("{item:?}");
                };
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
        golden.extend([0xf1, 0, 31, 0x44, 0xd3, 0xe8, 0x49]);
        golden.extend([4, 0, 4, b's', b'o', b'f', b't', 2, b'm', b'1', 3]);
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
    fn the_machine_at_the_beginning_comes_first() {
        let mut writer = FileWriter::new(&header());
        let state = vec![5; BLOB_PART_BYTES + 1];
        writer.blob(BlobKind::State, state.len() as u64, &state);
        let mut memory = vec![0; 4 * crate::channel::PAGE_BYTES];
        memory[2 * crate::channel::PAGE_BYTES] = 1;
        assert_eq!(writer.pages(10, &memory), 1);
        let end = CloneEnd {
            first_seq: 40,
            position: Position(1000),
            pages_sent: 1,
            digest: Vec::new(),
        };
        writer.clone_end(end.clone());
        let entry = Entry {
            seq: 40,
            position: Position(1001),
            body: Body::Watermark,
        };
        writer.push(&entry).unwrap();
        let mut reader = FileReader::new();
        reader.feed(&writer.flush());
        let mut items = Vec::new();
        while let Some(item) = reader.next_item().unwrap() {
            items.push(item);
        }
        assert!(matches!(&items[0], FileItem::Blob(part) if part.bytes.len() == BLOB_PART_BYTES));
        assert!(matches!(&items[1], FileItem::Blob(part) if part.bytes == [5]));
        assert!(matches!(&items[2], FileItem::Pages(run) if run.first == 12 && run.count() == 1));
        assert_eq!(items[3], FileItem::CloneEnd(end));
        assert_eq!(items[4], FileItem::Entries(vec![entry]));
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
        let Some(FileItem::Entries(first)) = reader.next_item().unwrap() else {
            panic!("there are whole batches");
        };
        assert_eq!(first[..], entries[..first.len()]);
        let mut other = b"ft-log\r\n".to_vec();
        frame::seal(Kind::FileHeader, &[9, 0], &mut other);
        assert_eq!(read(&other, 64), Err(FileError::WrongFormat(9)));
        let mut other = b"ft-log\r\n".to_vec();
        frame::seal(Kind::Ack, &[9, 0], &mut other);
        assert_eq!(read(&other, 64), Err(FileError::Unexpected(Kind::Ack)));
    }
}
