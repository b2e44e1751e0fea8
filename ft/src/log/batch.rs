//! Batches: runs of entries in one frame.
//!
//! Does: collect entries into a frame's payload and take them out again, checking order and caps.
//! Does not: decide when a batch is closed (`primary`), or buffer entries (`replay_buffer`).
//!
//! Invariant: what a reader accepts continues exactly where the last batch ended, and a batch is
//! taken whole or not at all. Positions stand as differences, so the format has no way to say that
//! one decreases. Paper §3.2.

use hypervisor::Position;
use thiserror::Error;

use crate::codec::{DecodeError, Decoder, put_number};
use crate::frame::{self, Kind};
use crate::log::{Body, Entry, MAX_ENTRY_BYTES};

/// The most entries in one batch.
pub const MAX_ENTRIES_PER_BATCH: usize = 4096;
/// Sequence number at the front, and the tag and position of an entry.
const LONGEST_NUMBER: usize = 10;

/// Why entries cannot be appended, or a batch not be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// A sequence number that is not the next one.
    #[error("entry {found} where {expected} is next")]
    NotDense {
        /// The next sequence number.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// A position before the previous one.
    #[error("position {found} after {last}")]
    PositionDecreases {
        /// The previous entry's position.
        last: Position,
        /// The one found.
        found: Position,
    },
    /// A position beyond what can be counted.
    #[error("a position {step} beyond {last} cannot be")]
    PositionOverflows {
        /// The previous entry's position.
        last: Position,
        /// The difference found.
        step: u64,
    },
    /// An entry above its cap.
    #[error("an entry of {length} bytes, the cap is {MAX_ENTRY_BYTES}")]
    OversizedEntry {
        /// Its encoded length.
        length: usize,
    },
    /// A batch without entries, or with too many.
    #[error("a batch of {0} entries or more")]
    BadCount(usize),
    /// Bytes that are no entry.
    #[error("the batch is malformed")]
    Malformed(#[from] DecodeError),
}

/// Encodes entries into batches.
#[derive(Debug)]
pub struct BatchWriter {
    next_seq: u64,
    last: Position,
    open: Vec<u8>,
    count: usize,
}

impl BatchWriter {
    /// A writer whose first entry will be `next_seq`, at `last` or beyond.
    pub fn new(next_seq: u64, last: Position) -> Self {
        BatchWriter {
            next_seq,
            last,
            open: Vec::new(),
            count: 0,
        }
    }

    /// The sequence number of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Bytes in the batch that is not sealed yet.
    pub fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Adds an entry. A batch that has no room for it is sealed into `out` first.
    pub fn push(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), LogError> {
        if entry.seq != self.next_seq {
            return Err(LogError::NotDense {
                expected: self.next_seq,
                found: entry.seq,
            });
        }
        let step = match entry.position.0.checked_sub(self.last.0) {
            Some(step) => step,
            None => {
                return Err(LogError::PositionDecreases {
                    last: self.last,
                    found: entry.position,
                });
            }
        };
        let before = self.open.len();
        if before == 0 {
            put_number(&mut self.open, entry.seq);
        }
        let start = self.open.len();
        self.open.push(entry.body.tag());
        put_number(&mut self.open, step);
        entry.body.encode(&mut self.open);
        let length = self.open.len() - start;
        if length > MAX_ENTRY_BYTES {
            self.open.truncate(before);
            return Err(LogError::OversizedEntry { length });
        }
        if self.open.len() > Kind::LogBatch.cap() || self.count == MAX_ENTRIES_PER_BATCH {
            let entry_bytes = self.open.split_off(start);
            self.seal(out);
            put_number(&mut self.open, entry.seq);
            self.open.extend_from_slice(&entry_bytes);
        }
        self.count += 1;
        self.next_seq += 1;
        self.last = entry.position;
        Ok(())
    }

    /// Closes the open batch, if there is one, and appends its frame to `out`.
    pub fn seal(&mut self, out: &mut Vec<u8>) {
        if self.count > 0 {
            frame::seal(Kind::LogBatch, &self.open, out);
            self.open.clear();
            self.count = 0;
        }
    }
}

/// Decodes batches.
#[derive(Clone, Debug)]
pub struct BatchReader {
    next_seq: u64,
    last: Position,
}

impl BatchReader {
    /// A reader for what `BatchWriter::new` with the same arguments writes.
    pub fn new(next_seq: u64, last: Position) -> Self {
        BatchReader { next_seq, last }
    }

    /// The sequence number of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The position of the last entry.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The entries of a `LogBatch` payload. After an error, the reader is where it was.
    pub fn read(&mut self, payload: &[u8]) -> Result<Vec<Entry>, LogError> {
        let mut from = Decoder::new(payload);
        let found = from.number("first sequence number")?;
        let (mut seq, mut position) = (self.next_seq, self.last);
        if found != seq {
            return Err(LogError::NotDense {
                expected: seq,
                found,
            });
        }
        let mut entries = Vec::new();
        while !from.is_empty() {
            if entries.len() == MAX_ENTRIES_PER_BATCH {
                return Err(LogError::BadCount(entries.len() + 1));
            }
            let tag = from.byte("entry tag")?;
            let step = from.number("position")?;
            position = Position(
                position
                    .0
                    .checked_add(step)
                    .filter(|sum| *sum < u64::MAX)
                    .ok_or(LogError::PositionOverflows {
                        last: position,
                        step,
                    })?,
            );
            let body = Body::decode(tag, &mut from)?;
            entries.push(Entry {
                seq,
                position,
                body,
            });
            seq = seq.checked_add(1).ok_or(LogError::NotDense {
                expected: seq,
                found: seq,
            })?;
        }
        if entries.is_empty() {
            return Err(LogError::BadCount(0));
        }
        (self.next_seq, self.last) = (seq, position);
        Ok(entries)
    }
}

const _: () = assert!(
    MAX_ENTRY_BYTES + 2 * LONGEST_NUMBER < Kind::LogBatch.cap(),
    "an entry fits a batch of its own"
);

#[cfg(test)]
mod tests {
    use machine::{DeviceSpec, Event, Input, Outcome, StreamEvent};

    use super::*;
    use crate::frame::FrameReader;
    use crate::log::{ComponentDigest, Control, EndReason, OutputMark};

    fn payloads(stream: &[u8]) -> Vec<Vec<u8>> {
        let mut reader = FrameReader::new();
        reader.feed(stream);
        let mut all = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::LogBatch);
            all.push(frame.payload.to_vec());
        }
        reader.finish().unwrap();
        all
    }

    fn entry(seq: u64, position: u64, body: Body) -> Entry {
        Entry {
            seq,
            position: Position(position),
            body,
        }
    }

    fn one_of_each() -> Vec<Body> {
        vec![
            Body::Watermark,
            Body::Input(Input::Anchor {
                virtual_time: 1_000_000,
                rate: 1 << 30,
            }),
            Body::Input(Input::SerialInput(b"ls\n".to_vec())),
            Body::Input(Input::ConsoleEmitted { through: 300 }),
            Body::Input(Input::PowerButton),
            Body::Input(Input::Reset),
            Body::Input(Input::Device {
                device: 1,
                event: Event::Data {
                    id: 200,
                    offset: 4096,
                    bytes: vec![9, 8],
                },
            }),
            Body::Input(Input::Device {
                device: 1,
                event: Event::Completed {
                    id: 200,
                    outcome: Outcome::Failed,
                },
            }),
            Body::Input(Input::Device {
                device: 2,
                event: Event::Frames(vec![vec![1, 2, 3], vec![4]]),
            }),
            Body::Input(Input::Device {
                device: 2,
                event: Event::Announce,
            }),
            Body::Input(Input::Device {
                device: 3,
                event: Event::Typed(b"ls".to_vec()),
            }),
            Body::Input(Input::Device {
                device: 3,
                event: Event::Emitted { through: 300 },
            }),
            Body::Input(Input::Device {
                device: 3,
                event: Event::Size {
                    columns: 200,
                    rows: 50,
                },
            }),
            Body::Input(Input::Device {
                device: 4,
                event: Event::Balloon { pages: 300 },
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Incoming {
                    stream: 1,
                    host_port: 300,
                    port: 22,
                }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Opened { stream: 2 }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Data {
                    stream: 1,
                    bytes: vec![9, 8],
                }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Consumed {
                    stream: 1,
                    count: 300,
                }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Finished { stream: 1 }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Closed { stream: 1 }),
            }),
            Body::Input(Input::Device {
                device: 5,
                event: Event::Stream(StreamEvent::Lost),
            }),
            Body::Input(Input::Plug {
                device: 4,
                spec: DeviceSpec::Rng,
                config: b"{}".to_vec(),
            }),
            Body::Input(Input::Unplug { device: 4 }),
            Body::Input(Input::Nmi),
            Body::Output(OutputMark::Console {
                through: 301,
                hash: 0x0102_0304_0506_0708,
            }),
            Body::Output(OutputMark::Device {
                device: 2,
                id: 300,
                hash: 0x0102_0304_0506_0708,
            }),
            Body::DigestHere { id: 9 },
            Body::DigestValue {
                id: 9,
                components: vec![ComponentDigest {
                    name: "cpu".into(),
                    value: 5,
                }],
            },
            Body::Control(Control::Pause),
            Body::Control(Control::Resume),
            Body::Control(Control::PowerOff),
            Body::Control(Control::EndOfLog(EndReason::RecordingStopped)),
            Body::Control(Control::EndOfLog(EndReason::ProtectionDisabled)),
            Body::Control(Control::EndOfLog(EndReason::Shutdown)),
        ]
    }

    #[test]
    fn golden_batch() {
        let mut writer = BatchWriter::new(1000, Position(5_000_000));
        let mut out = Vec::new();
        for (i, body) in one_of_each().into_iter().enumerate() {
            let i = i as u64;
            let position = 5_000_000 + 2_000_000 * i.min(1) + i;
            writer
                .push(&entry(1000 + i, position, body), &mut out)
                .unwrap();
        }
        assert!(out.is_empty());
        writer.seal(&mut out);
        #[rustfmt::skip]
        let golden = [
            // Frame: marker and version, kind, length, checksum.
            0xf1, 0x01, 0xc4, 0x01, 0xd4, 0x37, 0xd1, 0xb9,
            // First sequence number.
            0xe8, 0x07,
            // Watermark.
            0x00, 0x00,
            // Anchor.
            0x01, 0x81, 0x89, 0x7a, 0xc0, 0x84, 0x3d, 0x80, 0x80, 0x80, 0x80, 0x04,
            // Serial input.
            0x02, 0x01, 0x03, b'l', b's', b'\n',
            // Console emitted.
            0x03, 0x01, 0xac, 0x02,
            // Power button, reset.
            0x04, 0x01,
            0x05, 0x01,
            // Device data, device completed.
            0x06, 0x01, 0x01, 0xc8, 0x01, 0x80, 0x20, 0x02, 9, 8,
            0x07, 0x01, 0x01, 0xc8, 0x01, 1,
            // Frames, announce.
            0x08, 0x01, 0x02, 0x02, 0x03, 1, 2, 3, 0x01, 4,
            0x09, 0x01, 0x02,
            // Typed, emitted, size.
            0x0a, 0x01, 0x03, 0x02, b'l', b's',
            0x0b, 0x01, 0x03, 0xac, 0x02,
            0x0c, 0x01, 0x03, 0xc8, 0x01, 0x32,
            // Balloon, streams.
            0x0d, 0x01, 0x04, 0xac, 0x02,
            0x0e, 0x01, 0x05, 0, 0x01, 0xac, 0x02, 0x16,
            0x0e, 0x01, 0x05, 1, 0x02,
            0x0e, 0x01, 0x05, 2, 0x01, 0x02, 9, 8,
            0x0e, 0x01, 0x05, 3, 0x01, 0xac, 0x02,
            0x0e, 0x01, 0x05, 4, 0x01,
            0x0e, 0x01, 0x05, 5, 0x01,
            0x0e, 0x01, 0x05, 6, 0x00,
            // Plugged in, asked for, non-maskable interrupt.
            0x0f, 0x01, 0x04, 0x01, 0x02, 0x02, b'{', b'}',
            0x10, 0x01, 0x04,
            0x11, 0x01,
            // Console output.
            0x40, 0x01, 0xad, 0x02, 8, 7, 6, 5, 4, 3, 2, 1,
            // Device output.
            0x41, 0x01, 0x02, 0xac, 0x02, 8, 7, 6, 5, 4, 3, 2, 1,
            // Digest here, digest value.
            0x60, 0x01, 0x09,
            0x61, 0x01, 0x09, 0x01, 0x03, b'c', b'p', b'u', 5, 0, 0, 0, 0, 0, 0, 0,
            // Pause, resume, power off, three ends of the log.
            0x70, 0x01,
            0x71, 0x01,
            0x72, 0x01,
            0x73, 0x01, 0,
            0x73, 0x01, 1,
            0x73, 0x01, 2,
        ];
        assert_eq!(out, golden);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = BatchWriter::new(7, Position(10));
        let mut reader = BatchReader::new(7, Position(10));
        let mut entries = Vec::new();
        let mut out = Vec::new();
        for (i, body) in one_of_each().into_iter().cycle().take(100).enumerate() {
            let i = i as u64;
            let e = entry(7 + i, 10 + i * i, body);
            writer.push(&e, &mut out).unwrap();
            entries.push(e);
            if i.is_multiple_of(9) {
                writer.seal(&mut out);
            }
        }
        writer.seal(&mut out);
        writer.seal(&mut out);
        let read: Vec<Entry> = payloads(&out)
            .iter()
            .flat_map(|payload| reader.read(payload).unwrap())
            .collect();
        assert_eq!(read, entries);
        assert_eq!(reader.next_seq(), writer.next_seq());
    }

    #[test]
    fn full_batches_are_sealed_by_themselves() {
        let mut writer = BatchWriter::new(0, Position(0));
        let mut out = Vec::new();
        for seq in 0..10 {
            let body = Body::Input(Input::SerialInput(vec![1; (64 << 10) - 100]));
            writer.push(&entry(seq, seq, body), &mut out).unwrap();
        }
        for seq in 10..10_000 {
            let e = entry(seq, seq, Body::Watermark);
            writer.push(&e, &mut out).unwrap();
        }
        writer.seal(&mut out);
        let mut reader = BatchReader::new(0, Position(0));
        let counts: Vec<usize> = payloads(&out)
            .iter()
            .map(|payload| reader.read(payload).unwrap().len())
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
        assert_eq!(counts, [4, 4, 4096, 4096, 1800]);
    }

    #[test]
    fn a_writer_refuses_disorder_and_stays_as_it_was() {
        let mut writer = BatchWriter::new(3, Position(50));
        let mut out = Vec::new();
        assert_eq!(
            writer.push(&entry(4, 50, Body::Watermark), &mut out),
            Err(LogError::NotDense {
                expected: 3,
                found: 4
            })
        );
        assert_eq!(
            writer.push(&entry(3, 49, Body::Watermark), &mut out),
            Err(LogError::PositionDecreases {
                last: Position(50),
                found: Position(49)
            })
        );
        let long = Body::Input(Input::SerialInput(vec![0; MAX_ENTRY_BYTES]));
        assert!(matches!(
            writer.push(&entry(3, 50, long), &mut out),
            Err(LogError::OversizedEntry { .. })
        ));
        writer.seal(&mut out);
        assert!(out.is_empty());
        writer
            .push(&entry(3, 50, Body::Watermark), &mut out)
            .unwrap();
    }

    #[test]
    fn a_reader_refuses_disorder_and_stays_as_it_was() {
        let mut reader = BatchReader::new(3, Position(u64::MAX - 10));
        let cases: [(&[u8], LogError); 6] = [
            (
                &[2, 0, 0],
                LogError::NotDense {
                    expected: 3,
                    found: 2,
                },
            ),
            (&[3], LogError::BadCount(0)),
            (
                &[3, 0, 1, 0, 20],
                LogError::PositionOverflows {
                    last: Position(u64::MAX - 9),
                    step: 20,
                },
            ),
            (
                &[3, 0x3f, 1],
                LogError::Malformed(DecodeError::UnknownTag {
                    what: "log entry",
                    tag: 0x3f,
                }),
            ),
            (
                &[3, 0],
                LogError::Malformed(DecodeError::Truncated { what: "position" }),
            ),
            (
                &[3, 2, 0, 5, 1],
                LogError::Malformed(DecodeError::Truncated {
                    what: "serial input",
                }),
            ),
        ];
        for (payload, error) in cases {
            assert_eq!(reader.read(payload), Err(error));
        }
        assert_eq!(reader.read(&[3, 0, 1]).unwrap()[0].seq, 3);
        let mut flood = vec![4];
        flood.extend([0, 0].repeat(MAX_ENTRIES_PER_BATCH + 1));
        assert_eq!(
            reader.read(&flood),
            Err(LogError::BadCount(MAX_ENTRIES_PER_BATCH + 1))
        );
    }

    /// A computing guest makes a hundred watermarks a second, two million steps apart.
    #[test]
    fn a_computing_guest_logs_below_two_kilobytes_a_second() {
        let start = 30_000_000_000_000;
        let mut writer = BatchWriter::new(2_000_000, Position(start));
        let mut out = Vec::new();
        for i in 0..100 {
            let e = entry(2_000_000 + i, start + (i + 1) * 2_500_000, Body::Watermark);
            writer.push(&e, &mut out).unwrap();
            // Even with a batch for each.
            writer.seal(&mut out);
        }
        assert!(out.len() < 1700, "{}", out.len());
    }
}
