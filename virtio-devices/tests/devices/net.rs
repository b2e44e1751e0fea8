//! The network card, as a driver meets it.

use virtio_devices::net::{FRAME_MAX, HEADER, NetSpec};
use virtio_devices::{DeviceSpec, Event, Offloads, Request};

use crate::driver::{DEVICE, Driver, EVENT_INDEX, NEEDS_RESET, STATUS, descriptors};

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const MTU: u64 = 1 << 3;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
const CTRL_VQ: u64 = 1 << 17;
const GUEST_ANNOUNCE: u64 = 1 << 21;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const CONTROL: u16 = 2;

fn spec() -> NetSpec {
    NetSpec {
        mac: [2, 1, 2, 3, 4, 5],
        mtu: Some(1400),
        checksums: true,
        segments: true,
        fragments: false,
        pairs: 1,
        queue_size: 256,
    }
}

fn card() -> Driver {
    let mut driver = Driver::running(
        &DeviceSpec::Net(spec()),
        GUEST_CSUM | CTRL_VQ | GUEST_ANNOUNCE,
    );
    driver.submissions.clear();
    driver
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend((0..length - HEADER).map(|i| (i as u8).wrapping_add(seed)));
    frame
}

/// How many frames of these lengths it would take now.
fn room(driver: &Driver, lengths: &[usize]) -> Option<usize> {
    let mut lengths = lengths.iter().copied();
    driver.device.receivable(&driver.ram, &mut lengths)
}

fn command(driver: &mut Driver, bytes: &[u8]) -> u8 {
    driver.ram.write(0x7000, bytes).unwrap();
    driver.ram.write(0x7800, &[0xEE]).unwrap();
    driver.offer(
        CONTROL,
        0,
        &[(0x7000, bytes.len() as u32, false), (0x7800, 1, true)],
    );
    driver.notify(CONTROL);
    let mut answer = [0];
    driver.ram.read(0x7800, &mut answer).unwrap();
    answer[0]
}

#[test]
fn the_configuration_tells_the_card() {
    let mut driver = card();
    assert_eq!(driver.read(DEVICE), [2, 1, 2, 3]);
    assert_eq!(driver.read(DEVICE + 4), [4, 5]);
    assert_eq!(driver.read(DEVICE + 6), [1, 0], "the link is up");
    assert_eq!(driver.read(DEVICE + 10), 1400u16.to_le_bytes());
    let offered = driver.offered();
    assert_eq!(offered & (CSUM | MTU | HOST_TSO4), CSUM | MTU | HOST_TSO4);
    let plain = NetSpec {
        mtu: None,
        checksums: false,
        ..spec()
    };
    let offered = Driver::new(&DeviceSpec::Net(plain)).offered();
    assert_eq!(
        offered & (CSUM | MTU | HOST_TSO4),
        0,
        "nor segments without checksums"
    );
}

#[test]
fn the_backend_learns_what_the_driver_accepted() {
    let features = GUEST_CSUM | GUEST_TSO4;
    let mut driver = Driver::running(&DeviceSpec::Net(spec()), features);
    let expected = Request::Offloads(Offloads {
        checksums: true,
        segments4: true,
        segments6: false,
        congestion: false,
        fragments: false,
    });
    assert_eq!(driver.submissions[0].request, expected);
    driver.save_and_restore();
    // Whoever goes live asks for the same.
    assert_eq!(driver.device.in_flight()[0].request, expected);
    driver.write(STATUS, &[0]);
    assert!(driver.device.in_flight().is_empty());
}

#[test]
fn sending_completes_at_once_and_a_notification_is_one_request() {
    let mut driver = card();
    let (first, second) = (frame(72, 1), frame(1514 + HEADER, 2));
    driver.ram.write(0x1000, &first).unwrap();
    driver.ram.write(0x2000, &second).unwrap();
    driver.offer(TRANSMIT, 0, &[(0x1000, 12, false), (0x100C, 60, false)]);
    driver.offer(TRANSMIT, 2, &[(0x2000, second.len() as u32, false)]);
    // Too short and too long: lost.
    driver.offer(TRANSMIT, 3, &[(0x2000, 5, false)]);
    driver.offer(TRANSMIT, 4, &[(0x2000, FRAME_MAX as u32 + 1, false)]);
    driver.notify(TRANSMIT);
    assert_eq!(driver.used(TRANSMIT).len(), 4);
    assert_eq!(driver.raised(), [2]);
    let frames = vec![first, second];
    assert_eq!(driver.submissions.len(), 1);
    assert_eq!(driver.submissions[0].request, Request::Transmit { frames });
}

#[test]
fn frames_go_to_buffers_and_are_lost_without() {
    let mut driver = card();
    assert_eq!(room(&driver, &[60]), Some(0));
    driver.offer(RECEIVE, 0, &[(0x1000, 100, true), (0x2000, 2000, true)]);
    driver.offer(RECEIVE, 2, &[(0x3000, 50, true)]);
    driver.notify(RECEIVE);
    assert_eq!(room(&driver, &[60, 60, 60]), Some(2));
    assert_eq!(room(&driver, &[60]), Some(1));
    let long = frame(500, 3);
    driver.event(&Event::Frames(vec![
        long.clone(),
        frame(60, 4),
        frame(60, 5),
    ]));
    assert_eq!(
        driver.used(RECEIVE),
        [(0, 500), (2, 0)],
        "the second does not fit"
    );
    assert_eq!(driver.raised(), [1], "one interrupt");
    let mut found = vec![0; 500];
    driver.ram.read(0x1000, &mut found[..100]).unwrap();
    driver.ram.read(0x2000, &mut found[100..]).unwrap();
    assert_eq!(found[HEADER..], long[HEADER..]);
    assert_eq!(found[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(room(&driver, &[60]), Some(0));
    driver.event(&Event::Frames(vec![Vec::new(), vec![0; FRAME_MAX + 1]]));
    assert_eq!(driver.status(), 15);
    driver.save_and_restore();
    driver.write(STATUS, &[0]);
    assert_eq!(room(&driver, &[60]), None);
    driver.event(&Event::Frames(vec![frame(60, 6)]));
}

#[test]
fn a_long_frame_is_spread_over_mergeable_buffers() {
    let mut driver = Driver::running(&DeviceSpec::Net(spec()), MRG_RXBUF | EVENT_INDEX);
    for (index, length) in [200, 300, 400, 100].into_iter().enumerate() {
        let address = 0x1000 * (index as u64 + 1);
        driver.offer(RECEIVE, index as u16, &[(address, length, true)]);
    }
    assert_eq!(room(&driver, &[450, 350, 60, 60]), Some(3));
    assert_eq!(room(&driver, &[450, 550, 60]), Some(1));
    let long = frame(450, 1);
    // The second has to wait for more buffers, and is lost if nobody waits.
    let frames = vec![long.clone(), frame(600, 2), frame(60, 3)];
    driver.event(&Event::Frames(frames));
    assert_eq!(driver.used(RECEIVE), [(0, 200), (1, 250), (2, 60)]);
    assert_eq!(driver.raised(), [1], "one interrupt");
    let mut found = vec![0; 450];
    driver.ram.read(0x1000, &mut found[..200]).unwrap();
    driver.ram.read(0x2000, &mut found[200..]).unwrap();
    assert_eq!(found[HEADER..], long[HEADER..]);
    assert_eq!(found[HEADER - 2..HEADER], [2, 0], "buffers");
    driver.ram.read(0x3000, &mut found[..HEADER]).unwrap();
    assert_eq!(found[HEADER - 2..HEADER], [1, 0]);
    assert_eq!(room(&driver, &[100]), Some(1));
    driver.save_and_restore();
    // With a quarter of the ring's buffers there, none of which is enough, it does not wait.
    for index in 4..8 {
        driver.offer(RECEIVE, index, &[(0x5000, 10, true)]);
    }
    assert_eq!(room(&driver, &[1000, 60]), Some(1));
    driver.event(&Event::Frames(vec![frame(1000, 4)]));
    assert_eq!(driver.used(RECEIVE).len(), 3);
    assert_eq!(room(&driver, &[100, 20]), Some(2));
}

#[test]
fn offloads_are_switched_off_and_on() {
    let features = GUEST_CSUM | GUEST_TSO4 | CTRL_VQ | CTRL_GUEST_OFFLOADS;
    let mut driver = Driver::running(&DeviceSpec::Net(spec()), features);
    let set = |driver: &mut Driver, bits: u64| {
        driver.submissions.clear();
        let mut bytes = vec![5, 0];
        bytes.extend(bits.to_le_bytes());
        command(driver, &bytes)
    };
    for (bits, segments4) in [(GUEST_CSUM, false), (GUEST_CSUM | GUEST_TSO4, true)] {
        assert_eq!(set(&mut driver, bits), 0);
        let expected = Request::Offloads(Offloads {
            checksums: true,
            segments4,
            segments6: false,
            congestion: false,
            fragments: false,
        });
        assert_eq!(driver.submissions[0].request, expected);
        assert_eq!(driver.device.in_flight()[0].request, expected);
    }
    // What was not negotiated, and what is no offload.
    for wrong in [1 << 8, CSUM, CTRL_VQ] {
        assert_eq!(set(&mut driver, wrong), 1);
        assert!(driver.submissions.is_empty());
    }
    assert_eq!(command(&mut driver, &[5, 0, 1]), 1);
    let mut plain = card();
    assert_eq!(set(&mut plain, GUEST_CSUM), 1, "it was not offered to it");
}

#[test]
fn a_driver_may_use_several_pairs() {
    const PAIRS: u64 = 1 << 22;
    let pairs = 2;
    let mut driver = Driver::running(&DeviceSpec::Net(NetSpec { pairs, ..spec() }), PAIRS);
    driver.submissions.clear();
    assert_eq!(driver.read(DEVICE + 8), [2, 0]);
    let sent = frame(60, 1);
    driver.ram.write(0x1000, &sent).unwrap();
    for queue in [3, 1] {
        driver.offer(queue, 0, &[(0x1000, 60, false)]);
        driver.notify(queue);
    }
    let frames = vec![sent];
    let request = Request::Transmit { frames };
    assert!(driver.submissions.iter().all(|s| s.request == request));
    assert_eq!(driver.submissions.len(), 2);
    // Whatever comes, comes in the first.
    driver.offer(0, 0, &[(0x2000, 100, true)]);
    driver.offer(2, 0, &[(0x3000, 100, true)]);
    driver.event(&Event::Frames(vec![frame(60, 2)]));
    assert_eq!((driver.used(0).len(), driver.used(2).len()), (1, 0));
}

#[test]
fn the_driver_announces_itself_when_it_is_told() {
    let mut driver = card();
    driver.event(&Event::Announce);
    assert_eq!(driver.raised(), [0]);
    assert_eq!(driver.read(DEVICE + 6), [3, 0]);
    assert_eq!(command(&mut driver, &[3, 0]), 0);
    assert_eq!(driver.read(DEVICE + 6), [1, 0]);
    driver.save_and_restore();
    // One that does not know how is not asked.
    let mut plain = Driver::running(&DeviceSpec::Net(spec()), 0);
    plain.event(&Event::Announce);
    assert!(plain.raised().is_empty());
}

#[test]
fn commands_that_are_none_are_refused() {
    let mut driver = card();
    for wrong in [&[9, 9][..], &[3], &[3, 1], &[4, 0, 2, 0], &[4, 0], &[0; 65]] {
        assert_eq!(command(&mut driver, wrong), 1, "{wrong:?}");
    }
    assert_eq!(
        command(&mut driver, &[4, 0, 1, 0]),
        0,
        "one pair is what there is"
    );
    driver.offer(CONTROL, 4, &[(0x7000, 2, false)]);
    driver.notify(CONTROL);
    assert_eq!(driver.status(), 15);
    driver.descriptor(descriptors(TRANSMIT), 0, (u64::MAX, 9, 0, 0));
    driver.make_available(TRANSMIT, 0);
    driver.notify(TRANSMIT);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
}
