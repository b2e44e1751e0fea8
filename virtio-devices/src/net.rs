//! The network card (virtio 1.2, section 5.1).
//!
//! Does: copy the frames that the driver sends, each with its virtio header, into one request a
//! notification; put received frames into the driver's buffers; answer control commands; tell the
//! driver to announce itself. Does not: look into frames, or know what is behind the card.
//!
//! Invariant: sending completes at once, by copy: no frame is ever in flight, and the driver never
//! waits for the world (Scales et al. 2010, section 3.5). Frames for which the driver has no buffer
//! are lost, the same on every side. Which offloads the driver accepted is asked of the backend
//! when it begins to run, and again at go-live.

use memory::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
    VIRTIO_NET_ERR, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_OK, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP,
};

use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach, read_bytes};
use crate::request::{Event, Offloads, Request};
use crate::ring::{Broken, Chain, Ring, gather, scatter, total};

/// The most pairs of queues.
pub const PAIRS_MAX: u16 = 8;
/// The most entries of a queue.
pub const QUEUE_SIZE_MAX: u16 = 1024;
/// Entries of the control queue.
const CONTROL_QUEUE_SIZE: u16 = 64;
/// Bytes of the virtio header before a frame.
pub const HEADER: usize = 12;
/// The longest frame, its header included: 64 KiB of payload behind Ethernet's header.
pub const FRAME_MAX: usize = HEADER + 18 + 65_535;
/// The features that a driver can switch off and on.
const OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_UFO;
/// A request holds frames up to about this many bytes.
const REQUEST_BYTES: usize = 256 << 10;

/// What a card is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// Its address.
    pub mac: [u8; 6],
    /// The link's MTU, if the driver is told.
    pub mtu: Option<u16>,
    /// Checksums may be left to the other side.
    pub checksums: bool,
    /// Large TCP segments may be passed.
    pub segments: bool,
    /// Large UDP fragments may be passed.
    pub fragments: bool,
    /// Pairs of queues, at most [`PAIRS_MAX`].
    pub pairs: u16,
    /// Entries of each, a power of two from 4 to [`QUEUE_SIZE_MAX`].
    pub queue_size: u16,
}

impl NetSpec {
    /// Refuses what no card can be.
    pub fn validate(&self) -> Result<(), InvalidState> {
        let is_possible = (1..=PAIRS_MAX).contains(&self.pairs)
            && (4..=QUEUE_SIZE_MAX).contains(&self.queue_size)
            && self.queue_size.is_power_of_two();
        let reason = "impossible queues of a network card";
        is_possible.then_some(()).ok_or(InvalidState { reason })
    }
}

/// What a card remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    next_id: u64,
    /// The driver is to announce itself.
    announces: bool,
    /// What the driver accepted, as the backend was told.
    offloads: Option<Offloads>,
    /// Frames that were lost because the driver had no buffer for them.
    lost: u64,
}

/// A card.
#[derive(Debug)]
pub(crate) struct Net {
    spec: NetSpec,
    state: NetState,
}

impl Net {
    /// A new card. `spec` is valid.
    pub(crate) fn new(spec: NetSpec) -> Self {
        Net {
            spec,
            state: NetState {
                next_id: 0,
                announces: false,
                offloads: None,
                lost: 0,
            },
        }
    }

    /// One with a saved state.
    pub(crate) fn restore(spec: NetSpec, state: &NetState) -> Result<Self, InvalidState> {
        spec.validate()?;
        let state = state.clone();
        Ok(Net { spec, state })
    }

    fn control_queue(&self) -> usize {
        2 * usize::from(self.spec.pairs)
    }

    fn submit(&mut self, request: Request, reach: &mut Reach<'_>) {
        let id = self.state.next_id;
        self.state.next_id += 1;
        (reach.submit)(id, request);
    }

    /// What the driver takes off the other side's hands, by its features' bits.
    fn set_offloads(&mut self, bits: u64, reach: &mut Reach<'_>) {
        let offloads = Offloads {
            checksums: has(bits, VIRTIO_NET_F_GUEST_CSUM),
            segments4: has(bits, VIRTIO_NET_F_GUEST_TSO4),
            segments6: has(bits, VIRTIO_NET_F_GUEST_TSO6),
            congestion: has(bits, VIRTIO_NET_F_GUEST_ECN),
            fragments: has(bits, VIRTIO_NET_F_GUEST_UFO),
        };
        self.state.offloads = Some(offloads);
        self.submit(Request::Offloads(offloads), reach);
    }

    fn transmit(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while let Some(ring) = reach.rings.get_mut(queue)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let length = total(&chain.readable);
            // What is no frame is lost on the way, as anywhere.
            if (HEADER as u64..=FRAME_MAX as u64).contains(&length) {
                frames.push(gather(reach.ram, &chain.readable));
                bytes += length as usize;
            }
            ring.put(reach.ram, chain.head, 0)?;
            if bytes >= REQUEST_BYTES {
                bytes = 0;
                let frames = std::mem::take(&mut frames);
                self.submit(Request::Transmit { frames }, reach);
            }
        }
        if !frames.is_empty() {
            self.submit(Request::Transmit { frames }, reach);
        }
        Ok(())
    }

    /// A frame arrives: its virtio header and itself.
    fn receive(&mut self, frame: &[u8], reach: &mut Reach<'_>) -> Result<(), Broken> {
        let merges = has(reach.features, VIRTIO_NET_F_MRG_RXBUF);
        let Some(ring) = reach.rings.first_mut() else {
            return Ok(());
        };
        if !(HEADER..=FRAME_MAX).contains(&frame.len()) {
            self.state.lost += 1;
            return Ok(());
        }
        let mut chains = Vec::new();
        let mut room = 0;
        while room < frame.len() as u64 && (merges || chains.is_empty()) {
            match ring.take(reach.ram)? {
                Some(chain) => {
                    room += total(&chain.writable);
                    chains.push(chain);
                }
                None => break,
            }
        }
        if room < frame.len() as u64 {
            self.state.lost += 1;
            if merges {
                // Smaller frames may fit.
                ring.untake(chains.len() as u16);
                return Ok(());
            }
            return match chains.first() {
                Some(chain) => ring.put(reach.ram, chain.head, 0),
                None => Ok(()),
            };
        }
        let mut frame = frame.to_vec();
        frame[HEADER - 2..HEADER].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut rest = &frame[..];
        for chain in chains {
            let here = rest.len().min(total(&chain.writable) as usize);
            let written = scatter(reach.ram, &chain.writable, 0, &rest[..here]);
            ring.put(reach.ram, chain.head, written as u32)?;
            rest = &rest[here..];
        }
        Ok(())
    }

    fn control(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let queue = self.control_queue();
        while let Some(ring) = reach.rings.get_mut(queue)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let answer = self.obey(&chain, reach);
            let written = scatter(reach.ram, &chain.writable, 0, &[answer as u8]);
            if let Some(ring) = reach.rings.get_mut(queue) {
                ring.put(reach.ram, chain.head, written as u32)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, chain: &Chain, reach: &mut Reach<'_>) -> u32 {
        if total(&chain.readable) > 64 {
            return VIRTIO_NET_ERR;
        }
        let command = gather(reach.ram, &chain.readable);
        let [class, kind, data @ ..] = &command[..] else {
            return VIRTIO_NET_ERR;
        };
        match (u32::from(*class), u32::from(*kind), data) {
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, []) => {
                self.state.announces = false;
                VIRTIO_NET_OK
            }
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, bits) => {
                let Ok(bits) = <[u8; 8]>::try_from(bits) else {
                    return VIRTIO_NET_ERR;
                };
                let wanted = u64::from_le_bytes(bits);
                // What was negotiated can be switched off and on, and nothing else.
                let possible = reach.features & OFFLOADS;
                if !has(reach.features, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || wanted & !possible != 0
                {
                    return VIRTIO_NET_ERR;
                }
                self.set_offloads(wanted, reach);
                VIRTIO_NET_OK
            }
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, [low, high])
                if (1..=self.spec.pairs).contains(&u16::from_le_bytes([*low, *high])) =>
            {
                // Whatever it uses, it receives from the first.
                VIRTIO_NET_OK
            }
            _ => VIRTIO_NET_ERR,
        }
    }
}

fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

impl Model for Net {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_NET as u16
    }

    fn class(&self) -> [u8; 2] {
        // Network, Ethernet.
        [0x02, 0x00]
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
            VIRTIO_NET_F_MRG_RXBUF,
        ];
        let spec = &self.spec;
        if spec.checksums {
            bits.extend([
                VIRTIO_NET_F_CSUM,
                VIRTIO_NET_F_GUEST_CSUM,
                VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            ]);
        }
        if spec.checksums && spec.segments {
            bits.extend([
                VIRTIO_NET_F_GUEST_TSO4,
                VIRTIO_NET_F_GUEST_TSO6,
                VIRTIO_NET_F_GUEST_ECN,
                VIRTIO_NET_F_HOST_TSO4,
                VIRTIO_NET_F_HOST_TSO6,
                VIRTIO_NET_F_HOST_ECN,
            ]);
        }
        if spec.checksums && spec.fragments {
            bits.extend([VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO]);
        }
        if spec.mtu.is_some() {
            bits.push(VIRTIO_NET_F_MTU);
        }
        if spec.pairs > 1 {
            bits.push(VIRTIO_NET_F_MQ);
        }
        bits.iter().map(|bit| 1 << bit).sum()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![self.spec.queue_size; self.control_queue()];
        sizes.push(CONTROL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut status = VIRTIO_NET_S_LINK_UP as u16;
        if self.state.announces {
            status |= VIRTIO_NET_S_ANNOUNCE as u16;
        }
        let mut bytes = self.spec.mac.to_vec();
        bytes.extend(status.to_le_bytes());
        bytes.extend(self.spec.pairs.to_le_bytes());
        bytes.extend(self.spec.mtu.unwrap_or(0).to_le_bytes());
        read_bytes(&bytes, offset, data);
    }

    fn write_config(&mut self, _: usize, _: &[u8], _: u64) {}

    fn receivable(
        &self,
        rings: &[Ring],
        features: u64,
        ram: &GuestRam,
        frames: &mut dyn Iterator<Item = usize>,
    ) -> Option<usize> {
        let ring = rings.first()?;
        let waiting = usize::from(ring.waiting(ram));
        if !has(features, VIRTIO_NET_F_MRG_RXBUF) {
            return Some(frames.take(waiting).count());
        }
        // Of a driver that offers many buffers, all of which are too little, no more is to be
        // hoped for: the frame is lost, so that it does not stand in the way of others.
        let may_wait = waiting < usize::from(ring.size()) / 4;
        let mut rooms = ring.rooms(ram);
        let fit = frames.take_while(|length| {
            let mut room = 0;
            while room < *length as u64 {
                match rooms.next() {
                    Some(bytes) => room += bytes,
                    None => return false,
                }
            }
            true
        });
        let count = fit.count();
        Some(if count == 0 && !may_wait { 1 } else { count })
    }

    fn started(&mut self, reach: &mut Reach<'_>) {
        self.set_offloads(reach.features, reach);
    }

    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        if queue == self.control_queue() {
            self.control(reach)
        } else if queue % 2 == 1 {
            self.transmit(queue, reach)
        } else {
            // Buffers to receive into are looked for when a frame comes.
            Ok(())
        }
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match event {
            Event::Frames(frames) => frames
                .iter()
                .try_for_each(|frame| self.receive(frame, reach)),
            Event::Announce => {
                if has(reach.features, VIRTIO_NET_F_GUEST_ANNOUNCE) {
                    self.state.announces = true;
                    reach.config_changed = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn reset(&mut self, _: &mut dyn FnMut(u64, Request)) {
        self.state.announces = false;
        self.state.offloads = None;
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        // Frames are not repeated: the network loses frames, and whoever cares sends them again.
        let offloads = self.state.offloads.map(Request::Offloads);
        offloads.map(|request| (0, request)).into_iter().collect()
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Net(self.spec.clone())
    }

    fn save(&self) -> ModelState {
        ModelState::Net(self.state.clone())
    }
}
