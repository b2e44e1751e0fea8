//! The socket device (virtio 1.2, section 5.10): streams between the guest and its host.
//!
//! Does: keep the connections, turn the driver's packets into commands for the host's side, one
//! request a notification, and what the host's side says into packets for the driver. Does not:
//! know what is behind a port.
//!
//! Invariant: a packet is taken from the driver only while there is room for what it may have to be
//! answered with, so that what waits for the driver's buffers is bounded: [`CONNECTIONS_MAX`]
//! connections, with one piece of data between them, and [`REFUSALS_MAX`] refusals. When the
//! machine goes on on another host, all connections are lost, and no program takes that for an
//! ordinary end: the driver hears a transport reset, upon which its sockets fail, and no refusal of
//! a lost connection before it has dealt with that (a Linux driver takes a refusal for the other
//! side's orderly end).

mod connection;
mod packet;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memory::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

pub use self::connection::BUFFER;
use self::connection::{Connection, Phase};
use self::packet::{
    HEADER, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach, read_bytes};
use crate::request::{Event, Request};
use crate::ring::{Broken, Chain, Ring, scatter, total};
use crate::stream::{StreamCommand, StreamEvent};

/// The host's address.
pub const HOST_CID: u64 = 2;
/// The most connections.
pub const CONNECTIONS_MAX: usize = 256;
/// So many refusals wait for the driver's buffers before nothing more is taken from it.
pub const REFUSALS_MAX: usize = 64;
/// The most bytes of a stream in one event.
pub const DATA_MAX: usize = 48 << 10;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENTS: usize = 2;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// `struct virtio_vsock_event`: a transport reset is number 0.
const EVENT_TRANSPORT_RESET: [u8; 4] = [0; 4];

/// What a socket device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockSpec {
    /// The guest's address, 3 or above.
    pub cid: u64,
}

/// Ports of the guest and of the host.
type Ports = (u32, u32);

/// What a socket device remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    next_id: u64,
    /// The name of the next stream that the guest begins.
    next_stream: u64,
    connections: BTreeMap<Ports, Connection>,
    /// Connections that the driver is to hear are none.
    refusals: VecDeque<Ports>,
    /// The driver is to hear that all connections are lost.
    lost: bool,
    /// Connections that were lost, as long as the driver may take them for whole. Nothing that it
    /// sends on them is answered.
    orphans: BTreeSet<Ports>,
    /// What the driver had offered for events when it was given the last one. It offers more when it
    /// has dealt with that.
    offered_before: u16,
}

/// A socket device.
#[derive(Debug)]
pub(crate) struct Vsock {
    spec: VsockSpec,
    state: VsockState,
    /// What was commanded in this step and is not submitted yet.
    commands: Vec<StreamCommand>,
}

impl Vsock {
    /// A new one.
    pub(crate) fn new(spec: VsockSpec) -> Self {
        Vsock {
            spec,
            state: VsockState {
                next_id: 0,
                next_stream: 0,
                connections: BTreeMap::new(),
                refusals: VecDeque::new(),
                lost: false,
                orphans: BTreeSet::new(),
                offered_before: 0,
            },
            commands: Vec::new(),
        }
    }

    /// One with a saved state.
    pub(crate) fn restore(spec: VsockSpec, state: &VsockState) -> Result<Self, InvalidState> {
        let all = state.connections.iter();
        let are_named = all
            .clone()
            .all(|(ports, connection)| *ports == (connection.guest_port, connection.host_port));
        let backlog: usize = all.map(|(_, connection)| connection.backlog()).sum();
        let is_possible = are_named
            && state.connections.len() + state.orphans.len() <= CONNECTIONS_MAX
            && state.refusals.len() <= CONNECTIONS_MAX + REFUSALS_MAX
            && backlog <= CONNECTIONS_MAX * DATA_MAX;
        if !is_possible {
            return Err(InvalidState {
                reason: "connections that no socket device can have",
            });
        }
        let mut vsock = Vsock::new(spec);
        vsock.state = state.clone();
        Ok(vsock)
    }

    fn submit(&mut self, submit: &mut dyn FnMut(u64, Request)) {
        if !self.commands.is_empty() {
            let id = self.state.next_id;
            self.state.next_id += 1;
            submit(id, Request::Streams(std::mem::take(&mut self.commands)));
        }
    }

    /// Moves the packets that can be moved, and submits what came of it; nothing is moved after a
    /// mistake.
    fn work(&mut self, begun: Result<(), Broken>, reach: &mut Reach<'_>) -> Result<(), Broken> {
        self.settle_orphans(reach);
        let result = begun
            .and_then(|()| self.give_packets(reach))
            .and_then(|()| self.take_packets(reach))
            .and_then(|()| self.give_packets(reach));
        self.submit(reach.submit);
        result
    }

    fn find(&mut self, stream: u64) -> Option<&mut Connection> {
        let mut connections = self.state.connections.values_mut();
        connections.find(|connection| connection.stream == stream)
    }

    fn has_room(&self) -> bool {
        self.state.connections.len() + self.state.orphans.len() < CONNECTIONS_MAX
    }

    /// A connection is none any more: both sides are told.
    fn abort(&mut self, ports: Ports) {
        self.state.refusals.push_back(ports);
        if let Some(Connection { stream, .. }) = self.state.connections.remove(&ports) {
            self.commands.push(StreamCommand::Close { stream });
        }
    }

    // --- From the driver.

    /// Takes packets while there is room for their answers.
    fn take_packets(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        while self.state.refusals.len() < REFUSALS_MAX
            && let Some(ring) = reach.rings.get_mut(TRANSMIT)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let (header, data) = Header::read(reach.ram, &chain)?;
            ring.put(reach.ram, chain.head, 0)?;
            self.packet(&header, data);
            if !self.state.refusals.is_empty() {
                self.give_packets(reach)?;
            }
        }
        Ok(())
    }

    fn packet(&mut self, header: &Header, data: Vec<u8>) {
        if header.target_cid != HOST_CID || header.source_cid != self.spec.cid {
            // There is nobody.
            return;
        }
        let ports = (header.source_port, header.target_port);
        if header.op == OP_RST {
            self.state.orphans.remove(&ports);
            if let Some(Connection { stream, .. }) = self.state.connections.remove(&ports) {
                self.commands.push(StreamCommand::Close { stream });
            }
            return;
        }
        if self.state.orphans.contains(&ports) {
            // The driver does not know yet that this is none. If it begins a new one, it does.
            if header.op != OP_REQUEST {
                return;
            }
            self.state.orphans.remove(&ports);
        }
        let has_room = self.has_room();
        let Some(connection) = self.state.connections.get_mut(&ports) else {
            if header.kind == TYPE_STREAM && header.op == OP_REQUEST && has_room {
                let stream = self.state.next_stream;
                self.state.next_stream += 2;
                let connection = Connection::new(stream, ports, Some(header));
                // What is still to be said of an earlier one is not said of this one.
                self.state.refusals.retain(|refused| *refused != ports);
                self.state.connections.insert(ports, connection);
                let port = header.target_port;
                self.commands.push(StreamCommand::Connect { stream, port });
            } else {
                self.state.refusals.push_back(ports);
            }
            return;
        };
        connection.heard(header);
        let stream = connection.stream;
        match (header.op, connection.phase) {
            _ if header.kind != TYPE_STREAM => self.abort(ports),
            (OP_RESPONSE, Phase::Offered) => {
                connection.opened();
                self.commands.push(StreamCommand::Accept { stream });
            }
            (OP_RW, Phase::Open) if connection.receives(header.length) => {
                if !data.is_empty() {
                    let bytes = data;
                    self.commands.push(StreamCommand::Send { stream, bytes });
                }
            }
            // The host is gone; what it would have got goes nowhere.
            (OP_RW, Phase::Closing) | (OP_CREDIT_UPDATE, _) => {}
            (OP_CREDIT_REQUEST, _) => connection.asks_for_credit(),
            (OP_SHUTDOWN, Phase::Open | Phase::Closing) => {
                let before = connection.guest_flags;
                let both = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
                connection.guest_flags |= header.flags & both;
                if connection.guest_flags == both {
                    self.abort(ports);
                } else if connection.guest_flags & !before & SHUTDOWN_SEND != 0 {
                    self.commands.push(StreamCommand::Finish { stream });
                }
            }
            _ => self.abort(ports),
        }
    }

    // --- To the driver.

    /// Gives the driver what it is owed while it has buffers.
    fn give_packets(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        while let Some(ports) = self.state.refusals.front().copied() {
            let Some(chain) = take_buffer(reach)? else {
                return Ok(());
            };
            self.state.refusals.pop_front();
            let (target_port, source_port) = ports;
            let refusal = Header {
                source_port,
                target_port,
                op: OP_RST,
                ..Header::default()
            };
            self.give(reach, &chain, refusal, &[])?;
        }
        let owed = self.state.connections.iter();
        let owed = owed.filter(|(_, connection)| connection.owes());
        let owed: Vec<Ports> = owed.map(|(ports, _)| *ports).collect();
        for ports in owed {
            while self
                .state
                .connections
                .get(&ports)
                .is_some_and(Connection::owes)
            {
                let Some(chain) = take_buffer(reach)? else {
                    return Ok(());
                };
                let room = total(&chain.writable) as usize - HEADER;
                let connection = self.state.connections.get_mut(&ports);
                match connection.and_then(|connection| connection.next(room)) {
                    Some((header, data)) => self.give(reach, &chain, header, &data)?,
                    // Only what nobody wants any more was owed.
                    None => put(reach, RECEIVE, chain.head, 0)?,
                }
            }
        }
        Ok(())
    }

    fn give(
        &self,
        reach: &mut Reach<'_>,
        chain: &Chain,
        header: Header,
        data: &[u8],
    ) -> Result<(), Broken> {
        let header = Header {
            source_cid: HOST_CID,
            target_cid: self.spec.cid,
            kind: TYPE_STREAM,
            ..header
        };
        let mut bytes = header.bytes();
        bytes.extend_from_slice(data);
        let written = scatter(reach.ram, &chain.writable, 0, &bytes);
        put(reach, RECEIVE, chain.head, written as u32)
    }

    /// Tells the driver that all connections are lost, if it is to hear that and has a buffer.
    fn give_event(&mut self, reach: &mut Reach<'_>) -> Result<(), Broken> {
        if self.state.lost
            && let Some(ring) = reach.rings.get_mut(EVENTS)
            && let Some(chain) = ring.take(reach.ram)?
        {
            self.state.lost = false;
            self.state.offered_before = ring.offered(reach.ram);
            ring.ask_for_notification(reach.ram)?;
            let written = scatter(reach.ram, &chain.writable, 0, &EVENT_TRANSPORT_RESET);
            put(reach, EVENTS, chain.head, written as u32)?;
        }
        Ok(())
    }

    /// A driver that has given its buffer back has dealt with the event: all sockets that it took
    /// for connected have failed. A refusal means nothing to them any more. It ends those that got
    /// an old answer only afterwards, and would wait for ever.
    fn settle_orphans(&mut self, reach: &Reach<'_>) {
        let Some(ring) = reach.rings.get(EVENTS) else {
            return;
        };
        if !self.state.lost && ring.offered(reach.ram) != self.state.offered_before {
            let orphans = std::mem::take(&mut self.state.orphans);
            self.state.refusals.extend(orphans);
        }
    }

    // --- From the host.

    fn stream_event(&mut self, event: &StreamEvent, reach: &Reach<'_>) {
        match event {
            StreamEvent::Incoming {
                stream,
                host_port,
                port,
            } => self.incoming(*stream, (*port, *host_port), reach),
            StreamEvent::Opened { stream } => {
                if let Some(connection) = self.find(*stream)
                    && connection.phase == Phase::Requested
                {
                    connection.opened();
                }
            }
            StreamEvent::Data { stream, bytes } => {
                if let Some(connection) = self.find(*stream) {
                    connection.data(bytes);
                }
            }
            StreamEvent::Consumed { stream, count } => {
                if let Some(connection) = self.find(*stream) {
                    connection.was_consumed(*count);
                }
            }
            StreamEvent::Finished { stream } => {
                if let Some(connection) = self.find(*stream) {
                    connection.host_ends(SHUTDOWN_SEND);
                }
            }
            StreamEvent::Closed { stream } => {
                let Some(connection) = self.find(*stream) else {
                    return;
                };
                if connection.phase == Phase::Open {
                    connection.phase = Phase::Closing;
                    connection.host_ends(SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
                } else if connection.phase != Phase::Closing {
                    let is_known = connection.is_known();
                    let ports = (connection.guest_port, connection.host_port);
                    self.state.connections.remove(&ports);
                    if is_known {
                        self.state.refusals.push_back(ports);
                    }
                }
            }
            StreamEvent::Lost => self.lose_all(reach),
        }
    }

    fn incoming(&mut self, stream: u64, ports: Ports, reach: &Reach<'_>) {
        let has_driver = reach.rings.get(RECEIVE).is_some_and(Ring::is_ready);
        let is_possible = has_driver
            && stream % 2 == 1
            && self.find(stream).is_none()
            && !self.state.connections.contains_key(&ports)
            && !self.state.orphans.contains(&ports)
            && self.has_room();
        if is_possible {
            let connection = Connection::new(stream, ports, None);
            self.state.connections.insert(ports, connection);
        } else {
            self.commands.push(StreamCommand::Close { stream });
        }
    }

    /// The machine goes on on another host. The event is for connections that stand. What the driver
    /// began and has no answer to is refused, which is an error to whoever waits for one.
    fn lose_all(&mut self, reach: &Reach<'_>) {
        let hears_events = reach.rings.get(EVENTS).is_some_and(Ring::is_ready);
        for (ports, connection) in std::mem::take(&mut self.state.connections) {
            if !connection.is_known() {
                continue;
            }
            if connection.is_answered() && hears_events {
                self.state.orphans.insert(ports);
            } else {
                self.state.refusals.push_back(ports);
            }
        }
        self.state.lost = hears_events;
    }
}

/// A buffer of the driver's for a packet. One without room for any data makes no sense.
fn take_buffer(reach: &mut Reach<'_>) -> Result<Option<Chain>, Broken> {
    let Some(ring) = reach.rings.get_mut(RECEIVE) else {
        return Ok(None);
    };
    let chain = ring.take(reach.ram)?;
    match &chain {
        Some(chain) if total(&chain.writable) <= HEADER as u64 => Err(Broken),
        _ => Ok(chain),
    }
}

fn put(reach: &mut Reach<'_>, queue: usize, head: u16, length: u32) -> Result<(), Broken> {
    let ring = reach.rings.get_mut(queue).ok_or(Broken)?;
    ring.put(reach.ram, head, length)
}

impl Model for Vsock {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_VSOCK as u16
    }

    fn class(&self) -> [u8; 2] {
        // Nothing that PCI has a class for.
        [0xFF, 0xFF]
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.spec.cid.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _: usize, _: &[u8], _: u64) {}

    fn stream_room(&self, stream: u64, rings: &[Ring], ram: &GuestRam) -> Option<usize> {
        let mut connections = self.state.connections.values();
        let connection = connections.find(|connection| connection.stream == stream)?;
        if !connection.takes_data() {
            return None;
        }
        let connections = self.state.connections.values();
        let is_behind = connections.map(Connection::backlog).any(|bytes| bytes > 0);
        let has_buffers = rings.get(RECEIVE).is_some_and(|ring| ring.waiting(ram) > 0);
        if connection.phase != Phase::Open || is_behind || !has_buffers {
            return Some(0);
        }
        Some((connection.credit() as usize).min(DATA_MAX))
    }

    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let result = match queue {
            EVENTS => self.give_event(reach),
            _ => Ok(()),
        };
        self.work(result, reach)
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        let Event::Stream(event) = event else {
            return Ok(());
        };
        self.stream_event(event, reach);
        let result = self.give_event(reach);
        self.work(result, reach)
    }

    fn reset(&mut self, submit: &mut dyn FnMut(u64, Request)) {
        if !self.state.connections.is_empty() {
            self.state.connections.clear();
            self.commands.push(StreamCommand::CloseAll);
        }
        self.state.refusals.clear();
        self.state.lost = false;
        self.state.orphans.clear();
        self.submit(submit);
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        // Whoever goes live loses all streams.
        Vec::new()
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Vsock(self.spec.clone())
    }

    fn save(&self) -> ModelState {
        ModelState::Vsock(self.state.clone())
    }
}
