//! A machine that arrives from a primary or from a log file.
//!
//! Does: collect configuration, payload, state and memory, and make the machine. Does not: check
//! the order of what arrives (`ft::backup` does), or compare the digest.
//!
//! Invariant: memory begins as zeros, and what does not fit together is a typed error, never half a
//! machine (paper §3.1).

use ft::channel::{BlobKind, CloneError, PAGE_BYTES, PageRun};
use machine::{
    BootPayload, GuestRam, Machine, MachineState, Position, Profile, StateError, Tuning,
};
use thiserror::Error;

use super::payload::{self, PayloadError};
use crate::config::{ConfigError, VmConfig};

/// Why a clone makes no machine.
#[derive(Debug, Error)]
pub enum CloneInError {
    /// Its configuration.
    #[error("the clone's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// Its memory.
    #[error("the clone's memory cannot be had")]
    Memory(#[from] memory::Error),
    /// Its payload.
    #[error("the clone's payload cannot be used")]
    Payload(#[from] PayloadError),
    /// Its state.
    #[error("the clone's state cannot be used")]
    State(#[from] StateError),
    /// A part is missing or elsewhere.
    #[error("the clone is broken")]
    Clone(#[from] CloneError),
    /// Configuration and state name different CPU models.
    #[error("the clone's CPU is of model {state}, its configuration says {config}")]
    Profile {
        /// In the configuration.
        config: Profile,
        /// In the state.
        state: Profile,
    },
    /// It stands somewhere else than announced.
    #[error("the clone stands at {found} and not at {expected}")]
    Position {
        /// As announced.
        expected: Position,
        /// As its state says.
        found: Position,
    },
}

/// A clone of which parts have arrived.
#[derive(Debug)]
pub struct IncomingClone {
    config: Option<Box<VmConfig>>,
    payload: Option<BootPayload>,
    state: Option<MachineState>,
    ram: GuestRam,
}

/// A clone that is here in whole.
#[derive(Debug)]
pub struct WholeClone {
    /// Its configuration.
    pub config: Box<VmConfig>,
    state: MachineState,
    ram: GuestRam,
}

impl IncomingClone {
    /// One of a machine with so much memory.
    pub fn new(ram_size: u64) -> Result<Self, CloneInError> {
        Ok(IncomingClone {
            config: None,
            payload: None,
            state: None,
            ram: GuestRam::new(ram_size)?,
        })
    }

    /// A blob is here. Gives the configuration when it is that.
    pub fn blob(
        &mut self,
        kind: BlobKind,
        bytes: Vec<u8>,
    ) -> Result<Option<&VmConfig>, CloneInError> {
        match kind {
            BlobKind::Config => {
                self.config = Some(Box::new(VmConfig::from_json(&bytes)?));
                return Ok(self.config.as_deref());
            }
            BlobKind::Payload => self.payload = Some(payload::decode(bytes)?),
            BlobKind::State => self.state = Some(MachineState::decode(&bytes)?),
        }
        Ok(None)
    }

    /// Pages are here.
    pub fn pages(&mut self, run: &PageRun) -> Result<(), CloneInError> {
        let pages = self.ram.pages() as u64;
        let outside = || CloneError::OutOfMemory {
            first: run.first,
            count: run.count(),
            pages,
        };
        let last = run.first.checked_add(run.count() as u64);
        if last.is_none_or(|last| last > pages) {
            return Err(outside().into());
        }
        for (page, bytes) in (run.first as usize..).zip(run.bytes.chunks(PAGE_BYTES)) {
            let address = self.ram.page_address(page);
            let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            if !is_zero(bytes) {
                self.ram.write(address, bytes)?;
            } else if !is_zero(self.ram.page(page)) {
                // The host need not keep memory for it, as it need not for pages that never came.
                self.ram.discard(address, PAGE_BYTES as u64)?;
            }
        }
        Ok(())
    }

    /// Everything has arrived.
    pub fn finish(self) -> Result<WholeClone, CloneInError> {
        let missing = CloneError::MissingBlob;
        let mut state = self.state.ok_or(missing(BlobKind::State))?;
        state.payload = self.payload.ok_or(missing(BlobKind::Payload))?;
        let config = self.config.ok_or(missing(BlobKind::Config))?;
        if state.cpu.profile != config.cpus.profile {
            return Err(CloneInError::Profile {
                config: config.cpus.profile,
                state: state.cpu.profile,
            });
        }
        // A device that was ejected while the clone was made is in its configuration only.
        let mut config = config;
        config.retain_slots(&state.virtio.iter().map(|device| device.device).collect());
        Ok(WholeClone {
            config,
            state,
            ram: self.ram,
        })
    }
}

impl WholeClone {
    /// The machine, which must stand at `position`.
    pub fn into_machine(self, position: Position, tuning: Tuning) -> Result<Machine, CloneInError> {
        let mut ram = self.ram;
        ram.replaced();
        let machine = Machine::restore(self.state, ram, tuning)?;
        let found = machine.position();
        if found != position {
            return Err(CloneInError::Position {
                expected: position,
                found,
            });
        }
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_pages_take_no_memory() {
        let mut clone = IncomingClone::new(8 * PAGE_BYTES as u64).unwrap();
        clone.ram.take_dirty();
        let run = |first, bytes: &[u8]| PageRun {
            first,
            bytes: bytes.iter().flat_map(|byte| [*byte; PAGE_BYTES]).collect(),
        };
        clone.pages(&run(2, &[0, 7, 0])).unwrap();
        assert_eq!(clone.ram.take_dirty(), [3], "the others are not touched");
        assert_eq!(clone.ram.page(3)[5], 7);
        clone.pages(&run(3, &[0, 8])).unwrap();
        assert_eq!((clone.ram.page(3)[5], clone.ram.page(4)[5]), (0, 8));
        let outside = clone.pages(&run(7, &[0, 0])).unwrap_err();
        assert!(matches!(outside, CloneInError::Clone(_)), "{outside}");
        clone.pages(&run(u64::MAX, &[0])).unwrap_err();
    }
}
