//! A virtio device between a driver and a host, both of which are the fuzzer's bytes.
//!
//! Does: make accesses, descriptors, rings and events of bytes, so shaped that many of them make
//! sense; save, damage and restore the device. Does not: judge what a device answers.
//!
//! Invariant: the same bytes make the same acts, and what an act does follows from the device's state
//! and guest RAM alone.

use std::collections::BTreeMap;

use memory::{GuestRam, PAGE_SIZE};
use pci::MsiMessage;
use virtio_devices::balloon::BalloonSpec;
use virtio_devices::block::BlockSpec;
use virtio_devices::net::NetSpec;
use virtio_devices::vsock::VsockSpec;
use virtio_devices::{
    DeviceSpec, Env, Event, Outcome, StreamEvent, Submission, TransportState, VirtioPci,
};

use crate::bytes::Bytes;

/// Guest RAM: queues in the lower half, buffers in the upper one.
const RAM: u64 = 32 * PAGE_SIZE;
const BUFFERS: u64 = RAM / 2;
/// Where BAR 0 lies after power-up.
const BAR: u64 = 0x1_0000_0000;
/// The guest's address for streams.
const CID: u64 = 3;

const CONFIG_COMMAND: usize = 4;
const CONFIG_MSIX_CONTROL: usize = 0x9A;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0C;
const CONFIG_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1A;
const QUEUE_ENABLE: u64 = 0x1C;
const QUEUE_ADDRESSES: u64 = 0x20;
const NOTIFY: u64 = 0x6000;
const TABLE: u64 = 0x8000;

/// Entries that a queue is given.
const SIZES: [u16; 4] = [16, 4, 1, 64];
/// Where the structures of BAR 0 begin.
const STRUCTURES: [u64; 6] = [0, 0x2000, 0x4000, NOTIFY, TABLE, 0x4_8000];
/// Queues that the bytes name.
const QUEUES: u8 = 5;

/// A device of any type.
pub fn spec(bytes: &mut Bytes<'_>) -> DeviceSpec {
    let choices = bytes.byte();
    let has = |bit: u8| choices & 1 << bit != 0;
    match bytes.byte() % 6 {
        0 => DeviceSpec::Block(BlockSpec {
            sectors: 64,
            read_only: has(0),
            serial: [7; 20],
            logical_block: 512,
            physical_block: 4096,
            discards: has(1),
            queues: 1 + u16::from(has(2)),
            queue_size: 64,
        }),
        1 => DeviceSpec::Net(NetSpec {
            mac: [2; 6],
            mtu: has(0).then_some(1500),
            checksums: has(1),
            segments: has(2),
            fragments: has(3),
            pairs: 1 + u16::from(has(4)),
            queue_size: 64,
        }),
        2 => DeviceSpec::Rng,
        3 => DeviceSpec::Console,
        4 => DeviceSpec::Vsock(VsockSpec { cid: CID }),
        _ => DeviceSpec::Balloon(BalloonSpec {
            pages: 4,
            deflate_on_oom: has(0),
            reporting: has(1),
        }),
    }
}

/// What driver or host do.
#[derive(Clone, Debug)]
pub enum Act {
    /// The driver writes BAR 0: offset, bytes.
    Write(u64, Vec<u8>),
    /// It reads BAR 0: offset, length.
    Read(u64, usize),
    /// It writes configuration space.
    WriteConfig(usize, Vec<u8>),
    /// It reads configuration space.
    ReadConfig(usize, usize),
    /// It sets everything up, with these features switched off and queues of this size.
    SetUp(u64, u16),
    /// The next time it will put a queue's part there: queue, part, address.
    Place(u8, u8, u64),
    /// It writes RAM.
    Ram(u64, Vec<u8>),
    /// It writes a descriptor: queue, index, address, length, flags, next.
    Descriptor(u8, u8, (u64, u32, u16, u16)),
    /// It makes a chain available: queue, head; and maybe tells.
    Offer(u8, u16, bool),
    /// It writes a packet of a stream.
    Packet(u64, [u32; 6]),
    /// The host says something.
    Event(Event),
    /// The host has done one of the requests in flight: which, how, and whether with data.
    Complete(u8, Outcome, bool),
    /// The host looks how much may come.
    Look(u64),
    /// The device is ejected.
    Eject,
    /// The machine is reset.
    PowerUp,
}

impl Act {
    /// The next one.
    pub fn take(bytes: &mut Bytes<'_>) -> Act {
        match bytes.byte() % 24 {
            0 => {
                let length = 1 << (bytes.byte() % 4);
                let offset = offset(bytes, length);
                Act::Write(
                    offset,
                    bytes.u64().to_le_bytes()[..length as usize].to_vec(),
                )
            }
            1 => {
                let length = 1 << (bytes.byte() % 4);
                Act::Read(offset(bytes, length), length as usize)
            }
            2 => {
                let length = 1 << (bytes.byte() % 3);
                let offset = usize::from(bytes.byte()) & !(length - 1);
                Act::WriteConfig(offset, bytes.u32().to_le_bytes()[..length].to_vec())
            }
            3 => {
                let length = 1 << (bytes.byte() % 3);
                Act::ReadConfig(usize::from(bytes.byte()) & !(length - 1), length)
            }
            4 => {
                let off = u64::from(bytes.byte()) | u64::from(bytes.byte()) << 24;
                Act::SetUp(off, SIZES[usize::from(bytes.byte() % 4)])
            }
            5 => {
                let (queue, part) = (bytes.byte() % QUEUES, bytes.byte() % 3);
                Act::Place(queue, part, address(bytes) & !15)
            }
            6 | 7 => {
                let length = usize::from(bytes.byte() % 32);
                Act::Ram(address(bytes), bytes.take(length).to_vec())
            }
            8..=12 => {
                let (queue, index) = (bytes.byte() % QUEUES, bytes.byte() % 64);
                let address = address(bytes);
                let length = match bytes.byte() {
                    short @ 0..128 => u32::from(short),
                    long @ 128..250 => u32::from(long - 128) * 512,
                    _ => bytes.u32(),
                };
                let flags = u16::from(bytes.byte() % 8);
                let next = u16::from(bytes.byte() % 64);
                Act::Descriptor(queue, index, (address, length, flags, next))
            }
            13..=16 => {
                let (queue, head) = (bytes.byte(), bytes.byte());
                Act::Offer(queue % QUEUES, (head % 64).into(), queue & 0x80 != 0)
            }
            17 => {
                let at = address(bytes);
                let [ports, op, flags, length] = std::array::from_fn(|_| u32::from(bytes.byte()));
                let (guest, host) = (ports & 3, ports >> 2 & 3);
                Act::Packet(
                    at,
                    [guest, host, length, 1 | (op % 9) << 16, flags, length << 4],
                )
            }
            18..=20 => Act::Event(event(bytes)),
            21 | 22 => {
                let (which, how) = (bytes.byte(), bytes.byte());
                let outcome = match how % 4 {
                    0 | 1 => Outcome::Done,
                    2 => Outcome::Failed,
                    _ => Outcome::Unsupported,
                };
                Act::Complete(which, outcome, how & 0x80 == 0)
            }
            _ => match bytes.byte() % 8 {
                0 => Act::Eject,
                1 => Act::PowerUp,
                stream => Act::Look(stream.into()),
            },
        }
    }
}

/// Somewhere in RAM, or just beyond its end, or anywhere.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    let kind = bytes.byte();
    let low = u64::from(bytes.byte()) | u64::from(bytes.byte()) << 8;
    match kind {
        0..100 => low & 0x7FFF,
        100..=250 => BUFFERS + low,
        251..=253 => RAM.wrapping_add(low).wrapping_sub(0x100),
        _ => bytes.u64(),
    }
}

/// Somewhere in BAR 0, aligned.
fn offset(bytes: &mut Bytes<'_>, length: u64) -> u64 {
    let structure = STRUCTURES[usize::from(bytes.byte() % 6)];
    (structure + u64::from(bytes.byte() % 0x80)) & !(length - 1)
}

fn event(bytes: &mut Bytes<'_>) -> Event {
    let (kind, stream) = (bytes.byte(), u64::from(bytes.byte() % 8));
    let length = usize::from(bytes.byte());
    match kind % 14 {
        0 => Event::Frames(vec![vec![9; 300 * length]; usize::from(kind >> 6)]),
        1 => Event::Announce,
        2 => Event::Typed(vec![9; length * 8]),
        3 => Event::Emitted {
            through: length as u64,
        },
        4 => Event::Size {
            columns: length as u16,
            rows: stream as u16,
        },
        5 => Event::Balloon {
            pages: length as u32,
        },
        6 => Event::Data {
            id: stream,
            offset: length as u32,
            bytes: vec![9; length],
        },
        7 => Event::Stream(StreamEvent::Incoming {
            stream,
            host_port: (length & 3) as u32,
            port: (length >> 2 & 3) as u32,
        }),
        8 => Event::Stream(StreamEvent::Opened { stream }),
        9 => Event::Stream(StreamEvent::Data {
            stream,
            bytes: vec![9; length * 16],
        }),
        10 => Event::Stream(StreamEvent::Consumed {
            stream,
            count: bytes.u32(),
        }),
        11 => Event::Stream(StreamEvent::Finished { stream }),
        12 => Event::Stream(StreamEvent::Closed { stream }),
        _ => Event::Stream(StreamEvent::Lost),
    }
}

/// Where a queue's table, available ring and used ring lie if nobody says otherwise.
fn part(queue: u8, part: u8) -> u64 {
    u64::from(queue) * 0x1000 + u64::from(part) * 0x400
}

/// What came of an act.
#[derive(Debug, PartialEq, Eq)]
pub struct Effects {
    submissions: Vec<Submission>,
    messages: Vec<MsiMessage>,
    read: Vec<u8>,
}

/// A device with its RAM.
pub struct Rig {
    device: VirtioPci,
    ram: GuestRam,
    /// Where the driver will put parts of queues, if not to the usual places.
    places: BTreeMap<(u8, u8), u64>,
}

impl Rig {
    /// A new one.
    pub fn new(spec: &DeviceSpec) -> Rig {
        let mut ram = GuestRam::new(RAM).expect("RAM can be had");
        ram.take_dirty();
        Rig {
            device: VirtioPci::new(1, BAR, spec),
            ram,
            places: BTreeMap::new(),
        }
    }

    /// Another one that goes on where this one is; none if nothing is left of the device.
    pub fn restored(&self) -> Option<Rig> {
        let state = self.device.save();
        match VirtioPci::restore(BAR, &state) {
            Ok(device) => Some(self.with(device, &state)),
            Err(error) => {
                assert!(self.device.is_gone(), "{error:?}: {state:x?}");
                None
            }
        }
    }

    /// Another one whose saved state was changed on its way, in these places by these bits; if it is
    /// not refused.
    pub fn damaged(&self, damage: &[(u8, u8)]) -> Option<Rig> {
        let mut bytes = postcard::to_stdvec(&self.device.save()).expect("plain data encodes");
        let length = bytes.len();
        for (place, bits) in damage {
            bytes[length * usize::from(*place) / 256] ^= bits;
        }
        let state: TransportState = postcard::from_bytes(&bytes).ok()?;
        let device = VirtioPci::restore(BAR, &state).ok()?;
        Some(self.with(device, &state))
    }

    /// One with a device that was restored from `state`.
    fn with(&self, device: VirtioPci, state: &TransportState) -> Rig {
        assert_eq!(device.save(), *state);
        Rig {
            device,
            ram: self.copied_ram(),
            places: self.places.clone(),
        }
    }

    fn copied_ram(&self) -> GuestRam {
        let mut ram = GuestRam::new(RAM).expect("RAM can be had");
        for page in 0..self.ram.pages() {
            let bytes = self.ram.page(page);
            if bytes.iter().any(|byte| *byte != 0) {
                ram.write(ram.page_address(page), bytes).expect("it is RAM");
            }
        }
        ram
    }

    /// Both have come to the same.
    pub fn assert_same(&self, other: &Rig) {
        assert_eq!(self.device.save(), other.device.save());
        for page in 0..self.ram.pages() {
            assert!(self.ram.page(page) == other.ram.page(page), "page {page}");
        }
    }

    /// What was written to RAM was told to the watches.
    pub fn assert_watched(mut self) {
        let told = self.ram.take_dirty();
        for page in (0..self.ram.pages()).filter(|page| !told.contains(&(*page as u32))) {
            let is_zero = self.ram.page(page).iter().all(|byte| *byte == 0);
            assert!(is_zero, "page {page} was written behind the watches' back");
        }
    }

    /// Does it.
    pub fn act(&mut self, act: &Act) -> Effects {
        let (mut submissions, mut messages, mut read) = (Vec::new(), Vec::new(), Vec::new());
        let env = &mut Env {
            ram: &mut self.ram,
            submissions: &mut submissions,
            messages: &mut messages,
        };
        let device = &mut self.device;
        match act {
            Act::Write(offset, data) => write(device, env, *offset, data),
            Act::Read(offset, length) => {
                if let Some(offset) = decoded(device, *offset) {
                    read = vec![0; *length];
                    device.read_bar(offset, &mut read);
                }
            }
            Act::WriteConfig(offset, data) => device.write_config(env, *offset, data),
            Act::ReadConfig(offset, length) => {
                read = vec![0; *length];
                device.read_config(*offset, &mut read);
            }
            Act::SetUp(off, size) => set_up(device, env, &self.places, *off, *size),
            Act::Place(queue, part, address) => {
                self.places.insert((*queue, *part), *address);
            }
            Act::Ram(address, data) => drop(env.ram.write(*address, data)),
            Act::Descriptor(queue, index, (address, length, flags, next)) => {
                let mut bytes = address.to_le_bytes().to_vec();
                bytes.extend(length.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend(next.to_le_bytes());
                let place = part(*queue, 0) + 16 * u64::from(*index);
                env.ram.write(place, &bytes).expect("it is RAM");
            }
            Act::Offer(queue, head, tells) => offer(device, env, *queue, *head, *tells),
            Act::Packet(at, words) => {
                let mut bytes = CID.to_le_bytes().to_vec();
                bytes.extend(2u64.to_le_bytes());
                bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                bytes.extend([0; 4]);
                let _ = env.ram.write(*at, &bytes);
            }
            Act::Event(event) => device.event(env, event),
            Act::Complete(which, outcome, has_data) => {
                complete(device, env, *which, *outcome, *has_data);
            }
            Act::Look(stream) => {
                let lengths = [12, 1500, 70_000];
                let looks = [
                    device.receivable(env.ram, &mut lengths.into_iter()),
                    device.input_room(),
                    device.stream_room(*stream, env.ram),
                    Some(device.ballooned() as usize),
                    device.output().map(|output| output.pending.len()),
                ];
                read = format!("{looks:?}").into_bytes();
            }
            Act::Eject => drop(device.eject(env.submissions)),
            Act::PowerUp => device.power_up(env.submissions),
        }
        Effects {
            submissions,
            messages,
            read,
        }
    }
}

/// The offset as the bus would find it, at the place that the driver gave the BAR.
fn decoded(device: &VirtioPci, offset: u64) -> Option<u64> {
    device.offset(BAR + offset)
}

fn write(device: &mut VirtioPci, env: &mut Env<'_>, offset: u64, data: &[u8]) {
    if let Some(offset) = decoded(device, offset) {
        device.write_bar(env, offset, data);
    }
}

fn set_up(
    device: &mut VirtioPci,
    env: &mut Env<'_>,
    places: &BTreeMap<(u8, u8), u64>,
    off: u64,
    size: u16,
) {
    device.write_config(env, CONFIG_COMMAND, &[6, 0]);
    device.write_config(env, CONFIG_MSIX_CONTROL, &[0, 0x80]);
    for status in [0, 1, 3] {
        write(device, env, STATUS, &[status]);
    }
    let mut features = 0u64;
    for select in 0..2u32 {
        write(device, env, 0, &select.to_le_bytes());
        let mut half = [0; 4];
        if let Some(offset) = decoded(device, 4) {
            device.read_bar(offset, &mut half);
        }
        features |= u64::from(u32::from_le_bytes(half)) << (32 * select);
    }
    features &= !off;
    for select in 0..2u32 {
        let half = (features >> (32 * select)) as u32;
        write(device, env, DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        write(device, env, DRIVER_FEATURE, &half.to_le_bytes());
    }
    write(device, env, STATUS, &[11]);
    write(device, env, CONFIG_VECTOR, &[0, 0]);
    for vector in 0..=u64::from(QUEUES) {
        let entry = TABLE + 16 * vector;
        write(device, env, entry, &0xFEE0_0000u64.to_le_bytes());
        write(device, env, entry + 8, &vector.to_le_bytes());
    }
    for queue in 0..QUEUES {
        write(device, env, QUEUE_SELECT, &[queue, 0]);
        write(device, env, QUEUE_SIZE, &size.to_le_bytes());
        write(device, env, QUEUE_VECTOR, &[queue + 1, 0]);
        for index in 0..3 {
            let offset = QUEUE_ADDRESSES + 8 * u64::from(index);
            let place = places.get(&(queue, index)).copied();
            let place = place.unwrap_or_else(|| part(queue, index));
            write(device, env, offset, &place.to_le_bytes());
        }
        write(device, env, QUEUE_ENABLE, &[1, 0]);
    }
    write(device, env, STATUS, &[15]);
}

/// Puts a head into the available ring, wherever that is.
fn offer(device: &mut VirtioPci, env: &mut Env<'_>, queue: u8, head: u16, tells: bool) {
    write(device, env, QUEUE_SELECT, &[queue, 0]);
    let (mut size, mut ring) = ([0; 2], [0; 8]);
    for (place, data) in [
        (QUEUE_SIZE, &mut size[..]),
        (QUEUE_ADDRESSES + 8, &mut ring[..]),
    ] {
        if let Some(offset) = decoded(device, place) {
            device.read_bar(offset, data);
        }
    }
    let (size, ring) = (u16::from_le_bytes(size).max(1), u64::from_le_bytes(ring));
    let mut index = [0; 2];
    if env.ram.read(ring.wrapping_add(2), &mut index).is_ok() {
        let index = u16::from_le_bytes(index);
        let slot = ring.wrapping_add(4 + 2 * u64::from(index % size));
        let _ = env.ram.write(slot, &head.to_le_bytes());
        let next = index.wrapping_add(1);
        let _ = env.ram.write(ring.wrapping_add(2), &next.to_le_bytes());
    }
    if tells {
        write(device, env, NOTIFY + 4 * u64::from(queue), &[queue, 0]);
    }
}

fn complete(
    device: &mut VirtioPci,
    env: &mut Env<'_>,
    which: u8,
    outcome: Outcome,
    has_data: bool,
) {
    let in_flight = device.in_flight();
    let Some(done) = in_flight.get(usize::from(which) % in_flight.len().max(1)) else {
        return;
    };
    let (id, length) = (done.id, done.request.answer_length());
    if has_data {
        let bytes = vec![0xA5; length as usize];
        let offset = 0;
        device.event(env, &Event::Data { id, offset, bytes });
    }
    device.event(env, &Event::Completed { id, outcome });
}
