//! The disk (virtio 1.2, section 5.2).
//!
//! Does: turn the driver's requests into reads, writes, flushes, discards and zeroings of bytes on
//! a disk, with their data copied out of guest RAM; and bring results back when they are told.
//! Does not: know what is behind the disk.
//!
//! Invariant: a request is answered exactly once. What is wrong with it (beyond the end, a write to
//! a read-only disk, an unknown type) is its error status, the same on every side; a chain without
//! room for a status breaks the queue. At most [`BYTES_IN_FLIGHT`] and one request are in flight;
//! further ones wait in the ring.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach, read_bytes};
use crate::in_flight::{InFlight, Target};
use crate::request::{Event, Extent, Outcome, Request};
use crate::ring::{Broken, Chain, gather, part, scatter, total};

/// Bytes in a sector, the unit of the protocol.
pub const SECTOR: u64 = 512;
/// Bytes of a disk's serial number.
pub const SERIAL_LENGTH: usize = 20;
/// The most queues.
pub const QUEUES_MAX: u16 = 16;
/// The most entries of a queue.
pub const QUEUE_SIZE_MAX: u16 = 1024;
/// Above so many bytes in flight, further requests wait in the ring. A buffer counts as a sector at
/// least.
pub const BYTES_IN_FLIGHT: u64 = 8 << 20;
/// The most bytes of one request; a longer one fails.
const REQUEST_MAX: u64 = 32 << 20;
/// The most sectors in a discard or a zeroing.
const RANGE_SECTORS_MAX: u32 = 0x40_0000;
/// Bytes before a request's data.
const HEADER: u64 = 16;
/// Bytes of a range in a discard or a zeroing.
const RANGE: u64 = 16;

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSpec {
    /// Its size in sectors.
    pub sectors: u64,
    /// The driver cannot write.
    pub read_only: bool,
    /// Its serial number, padded with zeros.
    pub serial: [u8; SERIAL_LENGTH],
    /// Bytes in a logical block; a power of two, 512 at least.
    pub logical_block: u32,
    /// Bytes in a physical block; a power of two, not below the logical one.
    pub physical_block: u32,
    /// The driver may discard and write zeroes.
    pub discards: bool,
    /// Queues, at most [`QUEUES_MAX`].
    pub queues: u16,
    /// Entries of each, a power of two of at least 4 and at most [`QUEUE_SIZE_MAX`].
    pub queue_size: u16,
}

impl BlockSpec {
    /// Refuses what no disk can be.
    pub fn validate(&self) -> Result<(), InvalidState> {
        let blocks_fit = self.logical_block.is_power_of_two()
            && self.physical_block.is_power_of_two()
            && self.logical_block >= SECTOR as u32
            && self.physical_block >= self.logical_block;
        let queues_fit = (1..=QUEUES_MAX).contains(&self.queues)
            && (4..=QUEUE_SIZE_MAX).contains(&self.queue_size)
            && self.queue_size.is_power_of_two();
        let reason = if !blocks_fit {
            "impossible block sizes of a disk"
        } else if !queues_fit {
            "impossible queues of a disk"
        } else if self.sectors > u64::MAX / SECTOR {
            "a disk that is too large"
        } else {
            return Ok(());
        };
        Err(InvalidState { reason })
    }
}

/// What a disk remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    writeback: bool,
    in_flight: InFlight,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Block {
    spec: BlockSpec,
    state: BlockState,
}

/// What becomes of a chain.
enum Verdict {
    /// It is to be carried out.
    Submit(Request),
    /// It is answered with this status.
    Answer(u32),
    /// It is answered with this text.
    Id,
}

impl Block {
    /// A new disk. `spec` is valid.
    pub(crate) fn new(spec: BlockSpec) -> Self {
        Block {
            spec,
            state: BlockState {
                writeback: true,
                in_flight: InFlight::new(),
            },
        }
    }

    /// One with a saved state.
    pub(crate) fn restore(spec: BlockSpec, state: &BlockState) -> Result<Self, InvalidState> {
        spec.validate()?;
        state.in_flight.validate(spec.queues, requests_max(&spec))?;
        let state = state.clone();
        Ok(Block { spec, state })
    }

    /// `struct virtio_blk_config`.
    fn config(&self) -> [u8; 60] {
        let spec = &self.spec;
        let mut bytes = [0; 60];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, &spec.sectors.to_le_bytes());
        put(12, &u32::from(spec.queue_size - 2).to_le_bytes());
        put(20, &spec.logical_block.to_le_bytes());
        let exponent = (spec.physical_block / spec.logical_block).trailing_zeros();
        put(24, &[exponent as u8]);
        put(26, &1u16.to_le_bytes());
        put(32, &[u8::from(self.state.writeback)]);
        put(34, &spec.queues.to_le_bytes());
        // Sectors and ranges of a discard, its alignment; of a zeroing; whether that may unmap.
        for (offset, value) in [
            (36, RANGE_SECTORS_MAX),
            (40, 1),
            (44, spec.logical_block / SECTOR as u32),
            (48, RANGE_SECTORS_MAX),
            (52, 1),
        ] {
            put(offset, &value.to_le_bytes());
        }
        put(56, &[1]);
        bytes
    }

    /// Takes requests from a queue while there is room for what they carry.
    fn work(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        // What outlived a reset counts too: a driver that resets again and again gains nothing.
        let most = requests_max(&self.spec);
        while self.state.in_flight.load() < BYTES_IN_FLIGHT && self.state.in_flight.len() < most {
            let Some(ring) = reach.rings.get_mut(queue) else {
                break;
            };
            let Some(chain) = ring.take(reach.ram)? else {
                break;
            };
            self.request(queue as u16, chain, reach)?;
        }
        Ok(())
    }

    fn request(&mut self, queue: u16, chain: Chain, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let room = total(&chain.writable);
        let (Some(end), true) = (room.checked_sub(1), total(&chain.readable) >= HEADER) else {
            return Err(Broken);
        };
        let data = part(&chain.writable, 0, end);
        let status = part(&chain.writable, end, room).first().map(|s| s.address);
        match self.judge(&chain, end, reach) {
            Verdict::Submit(request) => {
                let target = Target {
                    queue,
                    head: chain.head,
                    data: match request {
                        Request::Read(_) => data,
                        _ => Vec::new(),
                    },
                    status,
                };
                let in_flight = &mut self.state.in_flight;
                // Only what is submitted at once needs a second copy.
                if let Some(id) = in_flight.push(request, target)
                    && let Some(pending) = in_flight.get(id)
                {
                    (reach.submit)(id, pending.request.clone());
                }
                Ok(())
            }
            Verdict::Answer(status_byte) => {
                answer(reach, queue, chain.head, status, status_byte, 0)
            }
            Verdict::Id => {
                let written = scatter(reach.ram, &data, 0, &self.spec.serial);
                let written = written as u32;
                answer(reach, queue, chain.head, status, VIRTIO_BLK_S_OK, written)
            }
        }
    }

    /// What is to be done with a chain, whose writable part holds `room` bytes of data.
    fn judge(&self, chain: &Chain, room: u64, reach: &Reach<'_>) -> Verdict {
        let header = gather(reach.ram, &part(&chain.readable, 0, HEADER));
        let kind = number(&header[..4]) as u32;
        let sector = number(&header[8..]);
        let payload = total(&chain.readable) - HEADER;
        match kind {
            VIRTIO_BLK_T_IN => match self.extent(sector, room) {
                Some(extent) => Verdict::Submit(Request::Read(extent)),
                None => Verdict::Answer(VIRTIO_BLK_S_IOERR),
            },
            VIRTIO_BLK_T_OUT => match self.extent(sector, payload) {
                Some(extent) if !self.spec.read_only => Verdict::Submit(Request::Write {
                    offset: extent.offset,
                    data: gather(reach.ram, &part(&chain.readable, HEADER, HEADER + payload)),
                    durable: self.is_write_through(reach.features),
                }),
                _ => Verdict::Answer(VIRTIO_BLK_S_IOERR),
            },
            VIRTIO_BLK_T_FLUSH => Verdict::Submit(Request::Flush),
            VIRTIO_BLK_T_GET_ID => Verdict::Id,
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
                if self.spec.discards && !self.spec.read_only =>
            {
                self.range(kind, chain, payload, reach)
            }
            _ => Verdict::Answer(VIRTIO_BLK_S_UNSUPP),
        }
    }

    fn range(&self, kind: u32, chain: &Chain, payload: u64, reach: &Reach<'_>) -> Verdict {
        if payload != RANGE {
            // The configuration says: one range.
            return Verdict::Answer(VIRTIO_BLK_S_IOERR);
        }
        let range = gather(reach.ram, &part(&chain.readable, HEADER, HEADER + RANGE));
        let (sectors, flags) = (number(&range[8..12]) as u32, number(&range[12..]) as u32);
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let is_discard = kind == VIRTIO_BLK_T_DISCARD;
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (is_discard && unmap) {
            return Verdict::Answer(VIRTIO_BLK_S_UNSUPP);
        }
        let sector = number(&range[..8]);
        let length = u64::from(sectors) * SECTOR;
        match self.within(sector, length) {
            Some(_) if sectors > RANGE_SECTORS_MAX => Verdict::Answer(VIRTIO_BLK_S_IOERR),
            Some(extent) if is_discard => Verdict::Submit(Request::Discard(extent)),
            Some(extent) => Verdict::Submit(Request::WriteZeroes { extent, unmap }),
            None => Verdict::Answer(VIRTIO_BLK_S_IOERR),
        }
    }

    /// The bytes that a transfer reaches, if that is possible.
    fn extent(&self, sector: u64, length: u64) -> Option<Extent> {
        let fits = length.is_multiple_of(SECTOR) && length <= REQUEST_MAX;
        fits.then(|| self.within(sector, length)).flatten()
    }

    fn within(&self, sector: u64, length: u64) -> Option<Extent> {
        let left = self.spec.sectors.checked_sub(sector)?;
        (length / SECTOR <= left).then_some(Extent {
            offset: sector * SECTOR,
            length,
        })
    }

    /// Whether a write is complete only when it is durable.
    fn is_write_through(&self, features: u64) -> bool {
        let has = |bit: u32| features & (1 << bit) != 0;
        if has(VIRTIO_BLK_F_CONFIG_WCE) {
            return !self.state.writeback;
        }
        // A driver that cannot flush relies on it.
        !has(VIRTIO_BLK_F_FLUSH)
    }
}

/// The most requests in flight.
fn requests_max(spec: &BlockSpec) -> usize {
    usize::from(spec.queues) * usize::from(spec.queue_size)
}

/// Answers a chain that needs nobody else.
fn answer(
    reach: &mut Reach<'_>,
    queue: u16,
    head: u16,
    status: Option<u64>,
    value: u32,
    written: u32,
) -> Result<(), Broken> {
    // A driver that has withdrawn DRIVER_OK waits for nothing.
    let Some(ring) = reach.rings.get_mut(usize::from(queue)) else {
        return Ok(());
    };
    if let Some(address) = status {
        // It lies in a segment of the chain.
        let _ = reach.ram.write(address, &[value as u8]);
    }
    ring.put(reach.ram, head, written + 1)
}

fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Model for Block {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_BLOCK as u16
    }

    fn class(&self) -> [u8; 2] {
        // Mass storage, of a kind that has no other number.
        [0x01, 0x80]
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_CONFIG_WCE,
        ];
        if self.spec.read_only {
            bits.push(VIRTIO_BLK_F_RO);
        } else if self.spec.discards {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        if self.spec.queues > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        bits.iter().map(|bit| 1 << bit).sum()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.spec.queue_size; self.spec.queues.into()]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8], features: u64) {
        if let (32, [mode]) = (offset, data)
            && features & (1 << VIRTIO_BLK_F_CONFIG_WCE) != 0
        {
            self.state.writeback = *mode != 0;
        }
    }

    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        self.work(queue, reach)
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match event {
            Event::Data { id, offset, bytes } => {
                self.state.in_flight.data(reach.ram, *id, *offset, bytes);
                return Ok(());
            }
            Event::Completed { id, outcome } => {
                let Some(ended) = self.state.in_flight.end(*id, reach.submit) else {
                    return Ok(());
                };
                if let Some(target) = ended.target {
                    let status = match outcome {
                        Outcome::Done => VIRTIO_BLK_S_OK,
                        Outcome::Failed => VIRTIO_BLK_S_IOERR,
                        Outcome::Unsupported => VIRTIO_BLK_S_UNSUPP,
                    };
                    let written = target.written(&ended.request, *outcome) - 1;
                    let Target { queue, head, .. } = target;
                    answer(reach, queue, head, target.status, status, written)?;
                }
            }
            _ => return Ok(()),
        }
        // There is room again.
        (0..reach.rings.len()).try_for_each(|queue| self.work(queue, reach))
    }

    fn reset(&mut self, _: &mut dyn FnMut(u64, Request)) {
        self.state.writeback = true;
        self.state.in_flight.forget_targets();
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        self.state.in_flight.submitted()
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Block(self.spec.clone())
    }

    fn save(&self) -> ModelState {
        ModelState::Block(self.state.clone())
    }
}
