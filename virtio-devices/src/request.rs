//! What devices ask of the world, and what the world tells them.
//!
//! Does: name requests (outputs) and events (inputs) as plain data. Does not: carry them out, or
//! encode them for the log.
//!
//! Invariant: a request holds copies of everything that it needs of guest RAM; whoever carries it
//! out never looks there.

use serde::{Deserialize, Serialize};

use crate::stream::{StreamCommand, StreamEvent};

/// A stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Extent {
    /// Whether two have a byte in common.
    pub fn overlaps(&self, other: &Extent) -> bool {
        self.offset < other.offset.saturating_add(other.length)
            && other.offset < self.offset.saturating_add(self.length)
    }
}

/// What the driver of a network card takes off the other side's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// Checksums that are not there yet.
    pub checksums: bool,
    /// Large TCP segments over IPv4.
    pub segments4: bool,
    /// Large TCP segments over IPv6.
    pub segments6: bool,
    /// These with congestion notification.
    pub congestion: bool,
    /// Large UDP fragments.
    pub fragments: bool,
}

/// What a device asks of its backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Read from the disk.
    Read(Extent),
    /// Write to the disk.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// What is written.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// It is complete only when it would survive a loss of power.
        durable: bool,
    },
    /// Make complete writes survive a loss of power.
    Flush,
    /// The content is not needed any more.
    Discard(Extent),
    /// The content becomes zeros.
    WriteZeroes {
        /// Where.
        extent: Extent,
        /// Its space may be given back.
        unmap: bool,
    },
    /// Random bytes.
    Entropy {
        /// How many.
        length: u32,
    },
    /// Frames for the network, each with its virtio header. Nobody waits for their end.
    Transmit {
        /// The frames, in order.
        frames: Vec<Vec<u8>>,
    },
    /// How frames may come from now on. Nobody waits for its end.
    Offloads(Offloads),
    /// Bytes that were written to a console. What is known to be emitted is told by an event.
    Console {
        /// Count of the console's bytes since the VM's creation, these included.
        through: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// What is to be done with streams, in order. Nobody waits for its end.
    Streams(Vec<StreamCommand>),
    /// The device has left its slot, and nothing comes after this. Nobody waits for its end.
    Detach,
}

impl Request {
    /// The stretch of disk that it concerns.
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Request::Read(extent)
            | Request::Discard(extent)
            | Request::WriteZeroes { extent, .. } => Some(*extent),
            Request::Write { offset, data, .. } => Some(Extent {
                offset: *offset,
                length: data.len() as u64,
            }),
            Request::Flush
            | Request::Entropy { .. }
            | Request::Transmit { .. }
            | Request::Offloads(_)
            | Request::Console { .. }
            | Request::Streams(_)
            | Request::Detach => None,
        }
    }

    /// Whether it changes the disk.
    pub fn modifies(&self) -> bool {
        matches!(
            self,
            Request::Write { .. } | Request::Discard(_) | Request::WriteZeroes { .. }
        )
    }

    /// Whether nobody could tell afterwards if it was carried out: it only asks for something.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Request::Read(_) | Request::Entropy { .. })
    }

    /// Bytes that it brings to the device.
    pub fn answer_length(&self) -> u64 {
        match self {
            Request::Read(extent) => extent.length,
            Request::Entropy { length } => u64::from(*length),
            _ => 0,
        }
    }

    /// Bytes that it holds.
    pub fn data_length(&self) -> usize {
        match self {
            Request::Write { data, .. } => data.len(),
            Request::Console { bytes, .. } => bytes.len(),
            Request::Streams(commands) => commands.iter().map(StreamCommand::length).sum(),
            Request::Transmit { frames } => frames.iter().map(Vec::len).sum(),
            _ => 0,
        }
    }

    /// Gives what identifies it, piece by piece, to a hash.
    pub fn identify(&self, feed: &mut dyn FnMut(&[u8])) {
        let mut numbers = |tag: u8, a: u64, b: u64| {
            feed(&[tag]);
            feed(&a.to_le_bytes());
            feed(&b.to_le_bytes());
        };
        match self {
            Request::Read(extent) => numbers(0, extent.offset, extent.length),
            Request::Write {
                offset,
                data,
                durable,
            } => {
                numbers(1, *offset, u64::from(*durable));
                feed(data);
            }
            Request::Flush => numbers(2, 0, 0),
            Request::Discard(extent) => numbers(3, extent.offset, extent.length),
            Request::WriteZeroes { extent, unmap } => {
                numbers(4 + u8::from(*unmap), extent.offset, extent.length);
            }
            Request::Entropy { length } => numbers(6, 0, u64::from(*length)),
            Request::Transmit { frames } => {
                for frame in frames {
                    feed(&[7]);
                    feed(&(frame.len() as u64).to_le_bytes());
                    feed(frame);
                }
            }
            Request::Offloads(offloads) => {
                let Offloads {
                    checksums,
                    segments4,
                    segments6,
                    congestion,
                    fragments,
                } = *offloads;
                let bits = [checksums, segments4, segments6, congestion, fragments];
                let bits = bits.iter().rev();
                let bits = bits.fold(0, |bits, bit| bits << 1 | u64::from(*bit));
                numbers(8, bits, 0);
            }
            Request::Console { through, bytes } => {
                numbers(9, *through, 0);
                feed(bytes);
            }
            Request::Streams(commands) => {
                for command in commands {
                    command.identify(feed);
                }
            }
            Request::Detach => numbers(10, 0, 0),
        }
    }
}

/// A request of one device, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The device's number on the bus.
    pub device: u8,
    /// Dense for each device, from 0 when it was plugged in; 0 for [`Request::Detach`].
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The backend failed.
    Failed,
    /// The backend does not do such a thing.
    Unsupported,
}

/// What the world tells a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of what the request `id` brings. All parts come before the completion.
    Data {
        /// Which request.
        id: u64,
        /// Where the part belongs.
        offset: u32,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The request `id` has ended.
    Completed {
        /// Which request.
        id: u64,
        /// How.
        outcome: Outcome,
    },
    /// Frames have come from the network, each with its virtio header.
    Frames(Vec<Vec<u8>>),
    /// The card may be elsewhere in the network than before: its driver is to announce it.
    Announce,
    /// Bytes were typed at a console.
    Typed(Vec<u8>),
    /// All bytes of a console up to this count are known to be emitted.
    Emitted {
        /// Number of bytes since the VM's creation.
        through: u64,
    },
    /// A console's terminal has this size now.
    Size {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// The driver of a balloon is to put so many pages into it.
    Balloon {
        /// Pages of 4 KiB.
        pages: u32,
    },
    /// Something happened to streams between guest and host.
    Stream(StreamEvent),
}
