//! A small driver: what a guest would do, by hand.

use memory::GuestRam;
use pci::MsiMessage;
use virtio_devices::{DeviceSpec, Env, Event, Submission, TransportState, VirtioPci};

/// Where BAR 0 lies.
pub const BAR: u64 = 0x1_0000_0000;
/// Bytes of guest RAM.
pub const RAM: u64 = 16 << 20;

// Common configuration.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0C;
const CONFIG_VECTOR: u64 = 0x10;
pub const STATUS: u64 = 0x14;
pub const QUEUE_SELECT: u64 = 0x16;
pub const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1A;
pub const QUEUE_ENABLE: u64 = 0x1C;
pub const QUEUE_DESCRIPTORS: u64 = 0x20;
pub const DEVICE: u64 = 0x4000;
const NOTIFY: u64 = 0x6000;
const TABLE: u64 = 0x8000;

pub const VERSION_1: u64 = 1 << 32;
pub const EVENT_INDEX: u64 = 1 << 29;
pub const NEEDS_RESET: u8 = 0x40;

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Entries of every queue.
pub const SIZE: u16 = 16;

/// Where a queue's parts lie.
pub fn descriptors(queue: u16) -> u64 {
    0x10_0000 + u64::from(queue) * 0x1_0000
}
pub fn available(queue: u16) -> u64 {
    descriptors(queue) + 0x4000
}
pub fn used(queue: u16) -> u64 {
    descriptors(queue) + 0x8000
}

/// A device, its RAM, and what came out of it.
pub struct Driver {
    pub device: VirtioPci,
    pub ram: GuestRam,
    pub submissions: Vec<Submission>,
    pub messages: Vec<MsiMessage>,
    next: [u16; 4],
}

impl Driver {
    /// A device as it is after power-up, with its memory decoded.
    pub fn new(spec: &DeviceSpec) -> Driver {
        let mut driver = Driver {
            device: VirtioPci::new(3, BAR, spec),
            ram: GuestRam::new(RAM).unwrap(),
            submissions: Vec::new(),
            messages: Vec::new(),
            next: [0; 4],
        };
        driver.write_config(4, &[2, 0]);
        driver
    }

    /// One that is set up and running, with these features if they are offered.
    pub fn running(spec: &DeviceSpec, features: u64) -> Driver {
        let mut driver = Driver::new(spec);
        driver.set_up(features);
        driver
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut VirtioPci, &mut Env<'_>) -> T) -> T {
        let mut env = Env {
            ram: &mut self.ram,
            submissions: &mut self.submissions,
            messages: &mut self.messages,
        };
        call(&mut self.device, &mut env)
    }

    pub fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.with(|device, env| device.write_config(env, offset, data));
    }

    pub fn read_config<const N: usize>(&mut self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        for (index, part) in data.chunks_mut(4).enumerate() {
            self.device.read_config(offset + index * 4, part);
        }
        data
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = self.device.offset(BAR + offset).expect("decoded");
        self.with(|device, env| device.write_bar(env, offset, data));
    }

    pub fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.device.read_bar(offset, &mut data);
        data
    }

    pub fn event(&mut self, event: &Event) {
        self.with(|device, env| device.event(env, event));
    }

    pub fn status(&mut self) -> u8 {
        self.read::<1>(STATUS)[0]
    }

    pub fn offered(&mut self) -> u64 {
        let half = |driver: &mut Driver, select: u32| {
            driver.write(DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(driver.read(DEVICE_FEATURE)))
        };
        half(self, 1) << 32 | half(self, 0)
    }

    pub fn accept(&mut self, features: u64) {
        self.write(STATUS, &[1]);
        self.write(STATUS, &[3]);
        for select in 0..2u32 {
            self.write(DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            let half = (features >> (32 * select)) as u32;
            self.write(DRIVER_FEATURE, &half.to_le_bytes());
        }
        self.write(STATUS, &[11]);
    }

    /// Accepts features, enables MSI-X (vector n has data n) and queues, and says DRIVER_OK.
    pub fn set_up(&mut self, features: u64) {
        self.set_up_at(features, |queue| {
            [descriptors(queue), available(queue), used(queue)]
        });
    }

    /// The same with each queue's parts elsewhere.
    pub fn set_up_at(&mut self, features: u64, places: impl Fn(u16) -> [u64; 3]) {
        let features = (features | VERSION_1) & self.offered();
        self.accept(features);
        assert_eq!(self.status(), 11);
        let queues = u16::from_le_bytes(self.read(0x12));
        self.write_config(0x98 + 2, &0x8000u16.to_le_bytes());
        for vector in 0..=u32::from(queues) {
            let entry = TABLE + u64::from(vector) * 16;
            self.write(entry, &0xFEE0_0000u32.to_le_bytes());
            self.write(entry + 4, &[0; 4]);
            self.write(entry + 8, &vector.to_le_bytes());
            self.write(entry + 12, &[0; 4]);
        }
        self.write(CONFIG_VECTOR, &[0, 0]);
        for queue in 0..queues {
            self.write(QUEUE_SELECT, &queue.to_le_bytes());
            self.write(QUEUE_SIZE, &SIZE.to_le_bytes());
            self.write(QUEUE_VECTOR, &(queue + 1).to_le_bytes());
            for (index, part) in places(queue).iter().enumerate() {
                let offset = QUEUE_DESCRIPTORS + 8 * index as u64;
                self.write(offset, &(*part as u32).to_le_bytes());
                self.write(offset + 4, &((part >> 32) as u32).to_le_bytes());
            }
            self.write(QUEUE_ENABLE, &[1, 0]);
        }
        self.write(STATUS, &[15]);
        assert_eq!(self.status(), 15);
        self.next = [0; 4];
    }

    /// Writes a descriptor.
    pub fn descriptor(&mut self, table: u64, index: u16, descriptor: (u64, u32, u16, u16)) {
        let (address, length, flags, next) = descriptor;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.ram
            .write(table + 16 * u64::from(index), &bytes)
            .unwrap();
    }

    /// Makes a chain of these segments (address, length, writable) from descriptor `head` on
    /// available, without a notification.
    pub fn offer(&mut self, queue: u16, head: u16, segments: &[(u64, u32, bool)]) {
        for (index, (address, length, writable)) in segments.iter().enumerate() {
            let at = head + index as u16;
            let is_last = index + 1 == segments.len();
            let flags = (u16::from(*writable) * WRITE) | (u16::from(!is_last) * NEXT);
            self.descriptor(descriptors(queue), at, (*address, *length, flags, at + 1));
        }
        self.make_available(queue, head);
    }

    pub fn make_available(&mut self, queue: u16, head: u16) {
        let next = &mut self.next[usize::from(queue)];
        let slot = available(queue) + 4 + 2 * u64::from(*next % SIZE);
        *next = next.wrapping_add(1);
        let index = *next;
        self.ram.write(slot, &head.to_le_bytes()).unwrap();
        self.ram
            .write(available(queue) + 2, &index.to_le_bytes())
            .unwrap();
    }

    pub fn notify(&mut self, queue: u16) {
        self.write(NOTIFY + 4 * u64::from(queue), &queue.to_le_bytes());
    }

    /// Ids and lengths in the used ring, all since the beginning.
    pub fn used(&self, queue: u16) -> Vec<(u32, u32)> {
        let word = self.ram.read_u32(used(queue)).unwrap();
        (0..(word >> 16) as u64)
            .map(|index| {
                let entry = used(queue) + 4 + 8 * (index % u64::from(SIZE));
                let length = self.ram.read_u32(entry + 4).unwrap();
                (self.ram.read_u32(entry).unwrap(), length)
            })
            .collect()
    }

    /// The vectors raised since the last call.
    pub fn raised(&mut self) -> Vec<u32> {
        self.messages
            .drain(..)
            .map(|message| message.data)
            .collect()
    }

    /// Restores the device from its saved state, which must be the same afterwards.
    pub fn save_and_restore(&mut self) -> TransportState {
        let state = self.device.save();
        self.device = VirtioPci::restore(BAR, &state).expect("what was saved can be restored");
        assert_eq!(self.device.save(), state);
        state
    }
}
