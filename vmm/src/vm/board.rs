//! What a machine shows of itself while it runs.
//!
//! Does: keep the few values that its threads publish, and put `VmStatus` together from them and
//! from the role. Does not: ask the vCPU thread.
//!
//! Invariant: reading waits for nobody; the locks taken here are held for moments only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::Position;

use super::backup_role::{self, SharedBackup};
use super::device_counters::DeviceCounters;
use super::primary_role::{self, SharedPrimary};
use crate::host::clock;
use crate::host::fence::Fence;
use crate::status::{FailoverTimes, FenceWait, FtInfo, FtRole, FtState, Ptys, VmState, VmStatus};

/// Which part this side plays.
#[derive(Clone)]
pub enum Part {
    /// It waits for a primary.
    Waiting,
    /// It follows, or may do so soon.
    Backup(SharedBackup),
    /// It runs the guest.
    Primary(SharedPrimary),
}

struct Shown {
    state: VmState,
    memory: u64,
    part: Part,
    failover: Option<FailoverTimes>,
    fence: Option<Arc<Fence>>,
    peer: Option<String>,
    ptys: Ptys,
    counters: BTreeMap<String, Arc<DeviceCounters>>,
}

/// The values.
pub struct Board {
    shown: Mutex<Shown>,
    position: AtomicU64,
    serial_written: AtomicU64,
    serial_read: AtomicU64,
    recorded: AtomicU64,
    ballooned: AtomicU64,
}

impl Board {
    /// Of a machine that is not there yet.
    pub fn new(part: Part, memory: u64) -> Self {
        Board {
            shown: Mutex::new(Shown {
                state: VmState::Created,
                memory,
                part,
                failover: None,
                fence: None,
                peer: None,
                ptys: Ptys::default(),
                counters: BTreeMap::new(),
            }),
            position: AtomicU64::new(0),
            serial_written: AtomicU64::new(0),
            serial_read: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            ballooned: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is in this state of its life.
    pub fn set_state(&self, state: VmState) {
        self.lock().state = state;
    }

    /// In which state it is.
    pub fn state(&self) -> VmState {
        self.lock().state
    }

    /// It plays this part, with that peer.
    pub fn set_part(&self, part: Part, peer: Option<String>) {
        let mut shown = self.lock();
        (shown.part, shown.peer) = (part, peer);
    }

    /// Where the peer is or was.
    pub fn peer(&self) -> Option<String> {
        self.lock().peer.clone()
    }

    /// Which part it plays.
    pub fn part(&self) -> Part {
        self.lock().part.clone()
    }

    /// It has so much memory.
    pub fn set_memory(&self, bytes: u64) {
        self.lock().memory = bytes;
    }

    /// Its consoles' pseudo-terminals are here.
    pub fn set_ptys(&self, ptys: Ptys) {
        self.lock().ptys = ptys;
    }

    /// Its devices count what they do.
    pub fn set_counters(&self, counters: BTreeMap<String, Arc<DeviceCounters>>) {
        self.lock().counters = counters;
    }

    /// It has gone live, by a failover of these parts.
    pub fn took_over(&self, times: FailoverTimes) {
        self.lock().failover = Some(times);
    }

    /// It has gone live, and this is what it knows of the old side.
    pub fn set_fence(&self, fence: Option<Arc<Fence>>) {
        self.lock().fence = fence;
    }

    /// The machine is there.
    pub fn at(&self, position: Position, serial_written: u64) {
        self.position.store(position.0, Ordering::Relaxed);
        self.serial_written.store(serial_written, Ordering::Relaxed);
    }

    /// The guest was given so many more bytes.
    pub fn typed(&self, count: usize) {
        self.serial_read.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The recording has so many bytes.
    pub fn recorded(&self, bytes: u64) {
        self.recorded.store(bytes, Ordering::Relaxed);
    }

    /// The guest does without so many bytes of its memory.
    pub fn ballooned(&self, bytes: u64) {
        self.ballooned.store(bytes, Ordering::Relaxed);
    }

    /// All of it.
    pub fn status(&self) -> VmStatus {
        let (mut status, part) = {
            let shown = self.lock();
            let status = VmStatus {
                state: shown.state,
                memory_actual_size: shown.memory,
                ballooned: self.ballooned.load(Ordering::Relaxed),
                ptys: shown.ptys.clone(),
                counters: shown
                    .counters
                    .iter()
                    .map(|(id, counters)| (id.clone(), counters.values()))
                    .collect(),
                ft: FtInfo {
                    takeover_ms: shown.failover.map(FailoverTimes::takeover_ms),
                    failover_ms: shown.failover,
                    fencing: shown.fence.as_ref().and_then(|fence| fence_wait(fence)),
                    peer: shown.peer.clone(),
                    ..FtInfo::default()
                },
            };
            (status, shown.part.clone())
        };
        let bytes = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let serial = [
            ("read_bytes".to_owned(), bytes(&self.serial_read)),
            ("write_bytes".to_owned(), bytes(&self.serial_written)),
        ];
        status
            .counters
            .insert("__serial".to_owned(), serial.into_iter().collect());
        let info = &mut status.ft;
        info.position = self.position.load(Ordering::Relaxed);
        match part {
            Part::Waiting => {
                info.role = FtRole::Backup;
                info.state = FtState::Receiving;
            }
            Part::Backup(role) => {
                backup_role::lock(&role).describe(info);
                if info.state == FtState::Receiving {
                    info.position = 0;
                    if info.generation.is_none() {
                        // Nothing that a stranger did shows.
                        info.peer = None;
                    }
                }
            }
            Part::Primary(role) => {
                primary_role::lock(&role).describe(clock::monotonic_ns(), info);
                info.log_bytes = info.log_bytes.max(bytes(&self.recorded));
            }
        }
        status
    }
}

fn fence_wait(fence: &Fence) -> Option<FenceWait> {
    let (disks, waited) = fence.wait()?;
    let since_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    Some(FenceWait { disks, since_ms })
}
