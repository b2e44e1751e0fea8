//! The console (virtio 1.2, section 5.3), one port.
//!
//! Does: copy what the driver writes into one request a notification and keep it until it is known
//! to be emitted; put what is typed into the driver's buffers; tell the driver the size of the
//! terminal. Does not: interpret a byte, or know what is at the other end.
//!
//! Invariant: writing completes at once, by copy. What was written and is not known to be emitted
//! is state: whoever goes live emits it first, so repeats are possible after a failover and gaps
//! are not. At most [`INPUT_MAX`] typed bytes wait for the driver; what is beyond them is lost, the
//! same on every side.

use std::collections::VecDeque;

use devices::PendingOutput;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach, read_bytes};
use crate::request::{Event, Request};
use crate::ring::{Broken, gather, scatter, total};

/// The driver may ask for the terminal's size (virtio 1.2, section 5.3.3).
const VIRTIO_CONSOLE_F_SIZE: u64 = 1 << 0;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Typed bytes that wait for the driver.
pub const INPUT_MAX: usize = 4096;
/// Bytes of a chain that the driver sends; no console is written to in longer pieces.
pub const CHAIN_MAX: u64 = 64 << 10;

/// What a console remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    next_id: u64,
    output: PendingOutput,
    /// Typed bytes for which the driver had no buffer yet.
    input: VecDeque<u8>,
    columns: u16,
    rows: u16,
}

/// A console.
#[derive(Debug)]
pub(crate) struct Console {
    state: ConsoleState,
}

impl Console {
    /// A new one.
    pub(crate) fn new() -> Self {
        Console {
            state: ConsoleState {
                next_id: 0,
                output: PendingOutput::new(),
                input: VecDeque::new(),
                columns: 0,
                rows: 0,
            },
        }
    }

    /// One with a saved state.
    pub(crate) fn restore(state: &ConsoleState) -> Result<Self, InvalidState> {
        let reason = if !state.output.validate() {
            "the console's counts and bytes disagree"
        } else if state.input.len() > INPUT_MAX {
            "more typed bytes than a console keeps"
        } else {
            let state = state.clone();
            return Ok(Console { state });
        };
        Err(InvalidState { reason })
    }

    fn transmit(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let mut bytes = Vec::new();
        let result = self.take_written(&mut bytes, reach);
        if !bytes.is_empty() {
            bytes.iter().for_each(|byte| self.state.output.write(*byte));
            let id = self.state.next_id;
            self.state.next_id += 1;
            let through = self.state.output.written;
            (reach.submit)(id, Request::Console { through, bytes });
        }
        result
    }

    fn take_written(&self, bytes: &mut Vec<u8>, reach: &mut Reach<'_>) -> Result<(), Broken> {
        while let Some(ring) = reach.rings.get_mut(TRANSMIT)
            && let Some(chain) = ring.take(reach.ram)?
        {
            if total(&chain.readable) > CHAIN_MAX {
                return Err(Broken);
            }
            bytes.extend(gather(reach.ram, &chain.readable));
            ring.put(reach.ram, chain.head, 0)?;
        }
        Ok(())
    }

    /// Typed bytes go to the driver while it has buffers.
    fn receive(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let input = &mut self.state.input;
        while !input.is_empty()
            && let Some(ring) = reach.rings.get_mut(RECEIVE)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let room = total(&chain.writable).min(input.len() as u64) as usize;
            let bytes: Vec<u8> = input.drain(..room).collect();
            let written = scatter(reach.ram, &chain.writable, 0, &bytes);
            ring.put(reach.ram, chain.head, written as u32)?;
        }
        Ok(())
    }
}

impl Model for Console {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_CONSOLE as u16
    }

    fn class(&self) -> [u8; 2] {
        // Nothing that PCI has a class for.
        [0xFF, 0xFF]
    }

    fn features(&self) -> u64 {
        VIRTIO_CONSOLE_F_SIZE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// `struct virtio_console_config`: columns, rows, the most ports, and no emergency write.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut bytes = self.state.columns.to_le_bytes().to_vec();
        bytes.extend(self.state.rows.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        read_bytes(&bytes, offset, data);
    }

    fn write_config(&mut self, _: usize, _: &[u8], _: u64) {}

    fn input_room(&self) -> Option<usize> {
        Some(INPUT_MAX - self.state.input.len())
    }

    fn output(&self) -> Option<&PendingOutput> {
        Some(&self.state.output)
    }

    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(reach),
            _ => self.transmit(reach),
        }
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match event {
            Event::Typed(bytes) => {
                let room = INPUT_MAX - self.state.input.len();
                self.state.input.extend(bytes.iter().take(room));
                self.receive(reach)
            }
            Event::Emitted { through } => {
                self.state.output.emitted(*through);
                Ok(())
            }
            Event::Size { columns, rows } => {
                (self.state.columns, self.state.rows) = (*columns, *rows);
                reach.config_changed = reach.features & VIRTIO_CONSOLE_F_SIZE != 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn reset(&mut self, _: &mut dyn FnMut(u64, Request)) {
        // What was typed is on the other end of the line, and what was written is on its way out.
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        let output = &self.state.output;
        if output.pending.is_empty() {
            return Vec::new();
        }
        let (through, bytes) = (output.written, output.since(output.emitted));
        vec![(self.state.next_id, Request::Console { through, bytes })]
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Console
    }

    fn save(&self) -> ModelState {
        ModelState::Console(self.state.clone())
    }
}
