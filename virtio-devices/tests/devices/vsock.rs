//! The socket device, as a driver meets it.

use proptest::prelude::*;
use virtio_devices::vsock::{BUFFER, CONNECTIONS_MAX, DATA_MAX, REFUSALS_MAX, VsockSpec};
use virtio_devices::{DeviceSpec, Event, Request, StreamCommand, StreamEvent};

use crate::driver::{DEVICE, Driver, EVENT_INDEX, NEEDS_RESET, SIZE, STATUS, used};

const CID: u64 = 7;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENTS: u16 = 2;
/// Where packets are written to be sent, and where buffers lie.
const SENT: u64 = 0x1_0000;
const BUFFERS: u64 = 0x4_0000;
const BUFFER_LENGTH: u32 = 1024;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A driver that counts what it has offered and seen.
struct Guest {
    driver: Driver,
    sent: u16,
    offered: u16,
    seen: usize,
    buffer: u32,
    consumed: u32,
}

/// What the driver was given: operation, ports of guest and host, flags, data.
type Packet = (u16, u32, u32, u32, Vec<u8>);

impl Guest {
    fn new() -> Guest {
        Guest::with(0)
    }

    fn with(features: u64) -> Guest {
        let spec = DeviceSpec::Vsock(VsockSpec { cid: CID });
        Guest {
            driver: Driver::running(&spec, features),
            sent: 0,
            offered: 0,
            seen: 0,
            buffer: 4096,
            consumed: 0,
        }
    }

    fn header(&self, op: u16, ports: (u32, u32), flags: u32, length: u32) -> Vec<u8> {
        let mut bytes = CID.to_le_bytes().to_vec();
        bytes.extend(2u64.to_le_bytes());
        for word in [ports.0, ports.1, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        for word in [flags, self.buffer, self.consumed] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.driver.ram.write(SENT, bytes).unwrap();
        let head = self.sent % SIZE;
        self.sent = self.sent.wrapping_add(1);
        let length = bytes.len() as u32;
        self.driver.offer(TRANSMIT, head, &[(SENT, length, false)]);
        self.driver.notify(TRANSMIT);
    }

    fn send(&mut self, op: u16, ports: (u32, u32), flags: u32, data: &[u8]) {
        let mut bytes = self.header(op, ports, flags, data.len() as u32);
        bytes.extend_from_slice(data);
        self.send_raw(&bytes);
    }

    /// Offers buffers.
    fn offer(&mut self, count: u16) {
        for _ in 0..count {
            let head = self.offered % SIZE;
            self.offered = self.offered.wrapping_add(1);
            let at = BUFFERS + u64::from(head) * u64::from(BUFFER_LENGTH);
            self.driver
                .offer(RECEIVE, head, &[(at, BUFFER_LENGTH, true)]);
        }
        self.driver.notify(RECEIVE);
    }

    /// The packets since the last call.
    fn packets(&mut self) -> Vec<Packet> {
        let used = self.driver.used(RECEIVE);
        let new = used[self.seen..].to_vec();
        self.seen = used.len();
        let read = |(head, length): (u32, u32)| {
            let mut bytes = vec![0; length as usize];
            let at = BUFFERS + u64::from(head) * u64::from(BUFFER_LENGTH);
            self.driver.ram.read(at, &mut bytes).unwrap();
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!((word(0), word(8)), (2, CID as u32));
            assert_eq!(word(24) as usize, bytes.len() - 44);
            assert_eq!(word(28) & 0xFFFF, 1);
            let op = (word(28) >> 16) as u16;
            (op, word(20), word(16), word(32), bytes[44..].to_vec())
        };
        new.into_iter().map(read).collect()
    }

    fn event(&mut self, event: StreamEvent) {
        self.driver.event(&Event::Stream(event));
    }

    fn commands(&mut self) -> Vec<StreamCommand> {
        let submissions = self.driver.submissions.drain(..);
        submissions
            .flat_map(|submission| match submission.request {
                Request::Streams(commands) => commands,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// A connection from the guest's port 5 to the host's port 80.
    fn connected() -> Guest {
        let mut guest = Guest::new();
        guest.send(REQUEST, (5, 80), 0, &[]);
        let connect = StreamCommand::Connect {
            stream: 0,
            port: 80,
        };
        assert_eq!(guest.commands(), [connect]);
        guest.offer(8);
        assert!(guest.packets().is_empty());
        guest.event(StreamEvent::Opened { stream: 0 });
        assert_eq!(guest.packets(), [(RESPONSE, 5, 80, 0, vec![])]);
        guest
    }
}

const PORTS: (u32, u32) = (5, 80);

#[test]
fn the_guest_connects_and_both_sides_talk() {
    let mut guest = Guest::connected();
    assert_eq!(guest.driver.read(DEVICE), CID.to_le_bytes());
    guest.send(RW, PORTS, 0, b"hello");
    let bytes = b"hello".to_vec();
    assert_eq!(guest.commands(), [StreamCommand::Send { stream: 0, bytes }]);
    assert_eq!(guest.driver.used(TRANSMIT).len(), 2, "at once");
    guest.driver.save_and_restore();
    assert!(guest.driver.device.in_flight().is_empty());
    let room = guest.driver.device.stream_room(0, &guest.driver.ram);
    assert_eq!(room, Some(4096), "the guest's credit");
    // In pieces as large as the buffers.
    let bytes = vec![9; 1500];
    guest.event(StreamEvent::Data { stream: 0, bytes });
    let packets = guest.packets();
    let data = |length| (RW, 5, 80, 0, vec![9; length]);
    assert_eq!(packets, [data(980), data(520)]);
    guest.send(CREDIT_REQUEST, PORTS, 0, &[]);
    guest.event(StreamEvent::Consumed {
        stream: 0,
        count: 5,
    });
    let packets = guest.packets();
    assert_eq!(packets[0].0, CREDIT_UPDATE);
    guest.event(StreamEvent::Finished { stream: 0 });
    assert_eq!(guest.packets(), [(SHUTDOWN, 5, 80, 2, vec![])]);
    guest.send(SHUTDOWN, PORTS, 2, &[]);
    assert_eq!(guest.commands(), [StreamCommand::Finish { stream: 0 }]);
    guest.send(SHUTDOWN, PORTS, 1, &[]);
    assert_eq!(guest.commands(), [StreamCommand::Close { stream: 0 }]);
    assert_eq!(guest.packets(), [(RST, 5, 80, 0, vec![])]);
    let room = guest.driver.device.stream_room(0, &guest.driver.ram);
    assert_eq!(room, None);
}

#[test]
fn the_host_connects() {
    let mut guest = Guest::new();
    let incoming = |stream| StreamEvent::Incoming {
        stream,
        host_port: 1 << 30,
        port: 22,
    };
    guest.event(incoming(1));
    guest.driver.save_and_restore();
    guest.offer(1);
    assert_eq!(guest.packets(), [(REQUEST, 22, 1 << 30, 0, vec![])]);
    // The same ports again, and a name that is not the host's to give.
    guest.event(incoming(3));
    guest.event(incoming(2));
    let close = |stream| StreamCommand::Close { stream };
    assert_eq!(guest.commands(), [close(3), close(2)]);
    guest.send(RESPONSE, (22, 1 << 30), 0, &[]);
    assert_eq!(guest.commands(), [StreamCommand::Accept { stream: 1 }]);
    // The program goes away with something still to be said.
    let bytes = b"bye".to_vec();
    guest.event(StreamEvent::Data { stream: 1, bytes });
    guest.event(StreamEvent::Closed { stream: 1 });
    guest.offer(4);
    let packets = guest.packets();
    assert_eq!(packets[0], (RW, 22, 1 << 30, 0, b"bye".to_vec()));
    assert_eq!(packets[1], (SHUTDOWN, 22, 1 << 30, 3, vec![]));
    guest.send(RW, (22, 1 << 30), 0, b"nobody hears this");
    guest.send(SHUTDOWN, (22, 1 << 30), 3, &[]);
    assert_eq!(guest.commands(), [close(1)]);
    assert_eq!(guest.packets(), [(RST, 22, 1 << 30, 0, vec![])]);
}

#[test]
fn credit_is_kept_on_both_sides() {
    let mut guest = Guest::connected();
    guest.offer(SIZE - 8);
    let bytes = vec![3; 5000];
    guest.event(StreamEvent::Data { stream: 0, bytes });
    let got: usize = guest.packets().iter().map(|packet| packet.4.len()).sum();
    assert_eq!(got, 4096);
    let room = guest.driver.device.stream_room(0, &guest.driver.ram);
    assert_eq!(room, Some(0));
    guest.driver.save_and_restore();
    guest.consumed = 1000;
    guest.send(CREDIT_UPDATE, PORTS, 0, &[]);
    let got: usize = guest.packets().iter().map(|packet| packet.4.len()).sum();
    assert_eq!(got, 904);
    // The guest may send so much before the host has taken any, and no more.
    let piece = vec![1; 32 << 10];
    for _ in 0..BUFFER / (32 << 10) {
        guest.send(RW, PORTS, 0, &piece);
    }
    assert_eq!(guest.commands().len(), 4);
    guest.send(RW, PORTS, 0, b"x");
    assert_eq!(guest.commands(), [StreamCommand::Close { stream: 0 }]);
    assert_eq!(guest.packets(), [(RST, 5, 80, 0, vec![])]);
}

#[test]
fn what_nobody_knows_is_refused_and_refusals_are_bounded() {
    let mut guest = Guest::new();
    for op in [RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, 0, 99] {
        guest.send(op, PORTS, 0, &[]);
    }
    guest.send(RST, PORTS, 0, &[]);
    guest.offer(8);
    assert_eq!(guest.packets(), vec![(RST, 5, 80, 0, vec![]); 6]);
    // Without buffers nothing more is taken than can be answered.
    let before = guest.driver.used(TRANSMIT).len();
    guest.offer(2);
    guest.packets();
    for _ in 0..REFUSALS_MAX as u16 + 12 {
        guest.send(RW, PORTS, 0, &[]);
    }
    assert!(guest.driver.used(TRANSMIT).len() - before <= REFUSALS_MAX + 12);
    guest.driver.save_and_restore();
    // Others than this guest, or to others than this host, are nobody.
    let mut guest = Guest::new();
    let mut bytes = guest.header(REQUEST, PORTS, 0, 0);
    bytes[0] = 8;
    guest.send_raw(&bytes);
    bytes[0] = 7;
    bytes[8] = 3;
    guest.send_raw(&bytes);
    assert!(guest.commands().is_empty());
    guest.offer(1);
    assert!(guest.packets().is_empty());
}

#[test]
fn connections_are_bounded() {
    let mut guest = Guest::new();
    for port in 0..CONNECTIONS_MAX as u32 {
        guest.send(REQUEST, (port, 80), 0, &[]);
    }
    assert_eq!(guest.commands().len(), CONNECTIONS_MAX);
    guest.send(REQUEST, (9999, 80), 0, &[]);
    assert!(guest.commands().is_empty());
    guest.event(StreamEvent::Incoming {
        stream: 1,
        host_port: 1,
        port: 1,
    });
    assert_eq!(guest.commands(), [StreamCommand::Close { stream: 1 }]);
    guest.driver.save_and_restore();
    guest.driver.write(STATUS, &[0]);
    assert_eq!(guest.commands(), [StreamCommand::CloseAll]);
}

#[test]
fn packets_that_make_no_sense_need_a_reset() {
    let whole = Guest::new().header(RW, PORTS, 0, 0);
    let long = Guest::new().header(RW, PORTS, 0, 1);
    let huge = [&Guest::new().header(RW, PORTS, 0, 65_537)[..], &[0; 65_537]].concat();
    for bytes in [&whole[..43], &long, &huge] {
        let mut guest = Guest::connected();
        guest.send_raw(bytes);
        assert_eq!(guest.driver.status(), 15 | NEEDS_RESET);
        assert_eq!(guest.commands(), [StreamCommand::CloseAll]);
        guest.driver.save_and_restore();
    }
    // A buffer that is too short for any data.
    let mut guest = Guest::new();
    guest.driver.offer(RECEIVE, 0, &[(BUFFERS, 44, true)]);
    guest.send(RW, PORTS, 0, &[]);
    assert_eq!(guest.driver.status(), 15 | NEEDS_RESET);
}

#[test]
fn another_host_has_none_of_the_streams() {
    let mut guest = Guest::connected();
    guest.send(REQUEST, (6, 80), 0, &[]);
    guest.driver.offer(EVENTS, 0, &[(0x9000, 4, true)]);
    guest.driver.ram.write(0x9000, &[9; 4]).unwrap();
    guest.driver.raised();
    guest.event(StreamEvent::Lost);
    assert_eq!(guest.driver.used(EVENTS), [(0, 4)]);
    assert_eq!(guest.driver.ram.read_u32(0x9000).unwrap(), 0);
    assert_eq!(
        guest.packets(),
        [(RST, 6, 80, 0, vec![])],
        "which waited for an answer"
    );
    assert_eq!(guest.driver.raised(), [1, 3]);
    // What it sends before it has dealt with that is not refused: that would look like an end.
    guest.send(RW, PORTS, 0, b"is anybody there?");
    guest.send(SHUTDOWN, PORTS, 3, &[]);
    guest.driver.save_and_restore();
    assert_eq!(guest.packets(), []);
    guest.driver.offer(EVENTS, 2, &[(0x9000, 4, true)]);
    guest.driver.notify(EVENTS);
    assert_eq!(guest.packets(), [(RST, 5, 80, 0, vec![])]);
    guest.send(RW, PORTS, 0, b"is anybody there?");
    assert_eq!(guest.packets(), [(RST, 5, 80, 0, vec![])]);
    guest.event(StreamEvent::Lost);
    assert_eq!(guest.driver.used(EVENTS), [(0, 4), (2, 4)]);
    // The event waits for a buffer.
    guest.event(StreamEvent::Lost);
    guest.driver.save_and_restore();
    guest.driver.offer(EVENTS, 1, &[(0x9000, 4, true)]);
    guest.driver.notify(EVENTS);
    assert_eq!(guest.driver.used(EVENTS).len(), 3);
}

/// A driver that has said with an event index that it is to be asked for is.
#[test]
fn lost_connections_are_settled_without_a_packet_of_the_guests() {
    let mut guest = Guest::with(EVENT_INDEX);
    for head in 0..4 {
        guest.driver.offer(EVENTS, head, &[(0x9000, 4, true)]);
    }
    guest.offer(8);
    guest.send(REQUEST, PORTS, 0, &[]);
    guest.event(StreamEvent::Opened { stream: 0 });
    guest.packets();
    guest.event(StreamEvent::Lost);
    assert_eq!(guest.driver.used(EVENTS), [(0, 4)]);
    let asked = used(EVENTS) + 4 + 8 * u64::from(SIZE);
    let asked = guest.driver.ram.read_u32(asked).unwrap() as u16;
    assert_eq!(asked, 4, "to tell of the fifth");
    // A new connection from the same port is one.
    guest.commands();
    guest.send(REQUEST, PORTS, 0, &[]);
    let (stream, port) = (2, 80);
    assert_eq!(guest.commands(), [StreamCommand::Connect { stream, port }]);
    guest.driver.offer(EVENTS, 0, &[(0x9000, 4, true)]);
    guest.driver.notify(EVENTS);
    assert_eq!(guest.packets(), []);
    guest.event(StreamEvent::Opened { stream });
    assert_eq!(guest.packets(), [(RESPONSE, 5, 80, 0, vec![])]);
}

/// Programs of the host come and go while the driver has no buffers.
#[test]
fn connections_that_the_guest_never_heard_of_leave_nothing() {
    let mut guest = Guest::new();
    for index in 0..2 * CONNECTIONS_MAX as u64 {
        let stream = 2 * index + 1;
        guest.event(StreamEvent::Incoming {
            stream,
            host_port: index as u32,
            port: 22,
        });
        guest.event(StreamEvent::Closed { stream });
    }
    guest.driver.save_and_restore();
    guest.offer(8);
    assert_eq!(guest.packets(), []);
}

/// What a guest or a host may do.
#[derive(Clone, Debug)]
enum Act {
    Send(u16, u32, u32, u32, u16),
    Bytes(Vec<u8>),
    Offer(u16),
    Host(StreamEvent),
}

fn act() -> impl Strategy<Value = Act> {
    let stream = 0u64..6;
    let host = (0u8..7, stream, 0u32..3, 0usize..3000).prop_map(|(kind, stream, port, length)| {
        Act::Host(match kind {
            0 => StreamEvent::Incoming {
                stream,
                host_port: port,
                port,
            },
            1 => StreamEvent::Opened { stream },
            2 => StreamEvent::Data {
                stream,
                bytes: vec![1; length],
            },
            3 => StreamEvent::Consumed {
                stream,
                count: length as u32,
            },
            4 => StreamEvent::Finished { stream },
            5 => StreamEvent::Closed { stream },
            _ => StreamEvent::Lost,
        })
    });
    prop_oneof![
        6 => (0u16..9, 0u32..3, 0u32..3, 0u32..4, 0u16..2000)
            .prop_map(|(op, guest, host, flags, length)| Act::Send(op, guest, host, flags, length)),
        1 => proptest::collection::vec(any::<u8>(), 30..120).prop_map(Act::Bytes),
        4 => (1u16..6).prop_map(Act::Offer),
        6 => host,
    ]
}

proptest! {
    /// Whatever a guest sends and a host does: the state can be saved and restored at any moment,
    /// buffers stay bounded, and the guest gets no more than it has room for.
    #[test]
    fn anything_may_happen(acts in proptest::collection::vec(act(), 1..60)) {
        let mut guest = Guest::new();
        for act in acts {
            match act {
                Act::Send(op, port, host, flags, length) => {
                    guest.send(op, (port, host), flags, &vec![2; length.into()]);
                }
                Act::Bytes(bytes) => guest.send_raw(&bytes),
                Act::Offer(count) => guest.offer(count),
                Act::Host(StreamEvent::Data { stream, bytes }) => {
                    let room = guest.driver.device.stream_room(stream, &guest.driver.ram);
                    let room = room.unwrap_or(0);
                    prop_assert!(room <= DATA_MAX);
                    let bytes = bytes[..bytes.len().min(room)].to_vec();
                    guest.event(StreamEvent::Data { stream, bytes });
                }
                Act::Host(event) => guest.event(event),
            }
            guest.driver.save_and_restore();
            for command in guest.commands() {
                prop_assert!(command.length() <= 2000);
            }
            if guest.driver.status() & NEEDS_RESET != 0 {
                guest = Guest::new();
            }
        }
    }
}
