//! What a device has done since it has been on this host, for `vm.counters`.
//!
//! Does: count a disk's and a card's operations and bytes, and a disk's latencies, under Cloud
//! Hypervisor's names. Does not: reach the machine.
//!
//! Invariant: counts never go back; a survivor begins anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::{Outcome, Request};

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Operations {
    count: u64,
    bytes: u64,
    /// In nanoseconds; the least and the most are 0 before the first.
    latencies: u64,
    least: u64,
    most: u64,
}

impl Operations {
    fn add(&mut self, bytes: u64, latency: u64) {
        self.least = match self.count {
            0 => latency,
            _ => self.least.min(latency),
        };
        self.most = self.most.max(latency);
        self.latencies += latency;
        self.count += 1;
        self.bytes += bytes;
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// What comes to the guest: reads, received frames.
    incoming: Operations,
    /// What leaves it: writes, sent frames.
    outgoing: Operations,
    /// Operations of a disk that have not ended: whether it is a write, its bytes, its beginning.
    under_way: BTreeMap<u64, (bool, u64, u64)>,
}

/// What kind of device is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A disk.
    Disk,
    /// A network card.
    Card,
}

/// The counts of one device.
#[derive(Debug)]
pub struct DeviceCounters {
    kind: Counted,
    counts: Mutex<Counts>,
}

impl DeviceCounters {
    /// Nothing yet.
    pub fn new(kind: Counted) -> Arc<Self> {
        Arc::new(DeviceCounters {
            kind,
            counts: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At host time `now` a request is begun.
    pub fn begun(&self, now: u64, id: u64, request: &Request) {
        let mut counts = self.lock();
        match request {
            Request::Read(extent) => {
                counts.under_way.insert(id, (false, extent.length, now));
            }
            Request::Write { data, .. } => {
                counts.under_way.insert(id, (true, data.len() as u64, now));
            }
            Request::Transmit { frames } => {
                for frame in frames {
                    counts.outgoing.add(bytes_of(frame), 0);
                }
            }
            _ => {}
        }
    }

    /// At host time `now` a request has ended.
    pub fn ended(&self, now: u64, id: u64, outcome: Outcome) {
        let mut counts = self.lock();
        if let Some((is_write, bytes, begun)) = counts.under_way.remove(&id)
            && outcome == Outcome::Done
        {
            let latency = now.saturating_sub(begun);
            match is_write {
                true => counts.outgoing.add(bytes, latency),
                false => counts.incoming.add(bytes, latency),
            }
        }
    }

    /// Frames have come.
    pub fn received(&self, frames: &[Vec<u8>]) {
        let mut counts = self.lock();
        for frame in frames {
            counts.incoming.add(bytes_of(frame), 0);
        }
    }

    /// The counts by their names; latencies in microseconds.
    pub fn values(&self) -> BTreeMap<String, u64> {
        let counts = self.lock();
        let mut values = BTreeMap::new();
        let mut put = |name: String, value| values.insert(name, value);
        match self.kind {
            Counted::Disk => {
                for (kind, done) in [("read", counts.incoming), ("write", counts.outgoing)] {
                    let average = done.latencies.checked_div(done.count).unwrap_or(0);
                    put(format!("{kind}_bytes"), done.bytes);
                    put(format!("{kind}_ops"), done.count);
                    put(format!("{kind}_latency_min"), done.least / 1000);
                    put(format!("{kind}_latency_max"), done.most / 1000);
                    put(format!("{kind}_latency_avg"), average / 1000);
                }
            }
            Counted::Card => {
                for (kind, done) in [("rx", counts.incoming), ("tx", counts.outgoing)] {
                    put(format!("{kind}_bytes"), done.bytes);
                    put(format!("{kind}_frames"), done.count);
                }
            }
        }
        values
    }
}

/// Bytes of a frame behind its virtio header.
fn bytes_of(frame: &[u8]) -> u64 {
    frame.len().saturating_sub(machine::net::HEADER) as u64
}

#[cfg(test)]
mod tests {
    use machine::Extent;

    use super::*;

    #[test]
    fn operations_are_counted_when_they_have_ended() {
        let counters = DeviceCounters::new(Counted::Disk);
        let extent = |length| Extent { offset: 0, length };
        for (id, length) in [(1, 512), (2, 1024), (3, 4096)] {
            counters.begun(1000, id, &Request::Read(extent(length)));
        }
        counters.ended(3000, 2, Outcome::Done);
        counters.ended(7000, 1, Outcome::Done);
        counters.ended(9000, 3, Outcome::Failed);
        let values = counters.values();
        let expected = [
            ("read_bytes", 1536),
            ("read_ops", 2),
            ("read_latency_min", 2),
            ("read_latency_max", 6),
            ("read_latency_avg", 4),
            ("write_ops", 0),
        ];
        for (name, value) in expected {
            assert_eq!(values[name], value, "{name}");
        }
        let counters = DeviceCounters::new(Counted::Card);
        counters.received(&[vec![0; 112], vec![0; 72]]);
        assert_eq!(counters.values()["rx_bytes"], 160);
        assert_eq!(counters.values()["rx_frames"], 2);
    }
}
