//! The source of random bytes (virtio 1.2, section 5.4).
//!
//! Does: ask the world for as many bytes as the driver's buffer takes, up to a cap. Does not: make
//! random bytes; they come in as an event, so that every side has the same.
//!
//! Invariant: every buffer is given back, empty if the source fails.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach};
use crate::in_flight::{InFlight, Target};
use crate::request::{Event, Request};
use crate::ring::{Broken, total};

/// The most bytes for one buffer.
const BYTES_MAX: u64 = 4096;
const QUEUE_SIZE: u16 = 256;

/// What it remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    in_flight: InFlight,
}

/// The source.
#[derive(Debug)]
pub(crate) struct Rng {
    state: RngState,
}

impl Rng {
    /// A new one.
    pub(crate) fn new() -> Self {
        Rng {
            state: RngState {
                in_flight: InFlight::new(),
            },
        }
    }

    /// One with a saved state.
    pub(crate) fn restore(state: &RngState) -> Result<Self, InvalidState> {
        state.in_flight.validate(1, QUEUE_SIZE.into())?;
        Ok(Rng {
            state: state.clone(),
        })
    }
}

impl Model for Rng {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_RNG as u16
    }

    fn class(&self) -> [u8; 2] {
        // Nothing that PCI has a class for.
        [0xFF, 0xFF]
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _: usize, _: &[u8], _: u64) {}

    fn notify(&mut self, _: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let [ring, ..] = reach.rings else {
            return Ok(());
        };
        // Orphans of a reset count too; without a bound a driver could make them without end.
        while self.state.in_flight.len() < usize::from(QUEUE_SIZE)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let length = total(&chain.writable).min(BYTES_MAX) as u32;
            if length == 0 {
                ring.put(reach.ram, chain.head, 0)?;
                continue;
            }
            let request = Request::Entropy { length };
            let target = Target {
                queue: 0,
                head: chain.head,
                data: chain.writable,
                status: None,
            };
            if let Some(id) = self.state.in_flight.push(request.clone(), target) {
                (reach.submit)(id, request);
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match event {
            Event::Data { id, offset, bytes } => {
                self.state.in_flight.data(reach.ram, *id, *offset, bytes);
                Ok(())
            }
            Event::Completed { id, outcome } => {
                let Some(ended) = self.state.in_flight.end(*id, reach.submit) else {
                    return Ok(());
                };
                if let (Some(target), [ring, ..]) = (ended.target, &mut *reach.rings) {
                    let written = target.written(&ended.request, *outcome);
                    ring.put(reach.ram, target.head, written)?;
                }
                self.notify(0, reach)
            }
            _ => Ok(()),
        }
    }

    fn reset(&mut self, _: &mut dyn FnMut(u64, Request)) {
        self.state.in_flight.forget_targets();
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        self.state.in_flight.submitted()
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Rng
    }

    fn save(&self) -> ModelState {
        ModelState::Rng(self.state.clone())
    }
}
