//! The console, as a driver meets it.

use virtio_devices::console::{CHAIN_MAX, INPUT_MAX};
use virtio_devices::{DeviceSpec, Event, Request};

use crate::driver::{DEVICE, Driver, NEEDS_RESET, STATUS};

const SIZE: u64 = 1 << 0;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

fn console() -> Driver {
    Driver::running(&DeviceSpec::Console, SIZE)
}

fn write(driver: &mut Driver, head: u16, bytes: &[u8]) {
    driver.ram.write(0x1000, bytes).unwrap();
    let length = bytes.len() as u32;
    driver.offer(
        TRANSMIT,
        head,
        &[(0x1000, 1, false), (0x1001, length - 1, false)],
    );
    driver.notify(TRANSMIT);
}

#[test]
fn what_is_written_stays_until_it_is_known_to_be_emitted() {
    let mut driver = console();
    write(&mut driver, 0, b"hello");
    write(&mut driver, 2, b" world");
    assert_eq!(driver.used(TRANSMIT), [(0, 0), (2, 0)], "at once");
    let request = |through, bytes: &[u8]| Request::Console {
        through,
        bytes: bytes.to_vec(),
    };
    let asked: Vec<_> = driver.submissions.drain(..).map(|s| s.request).collect();
    assert_eq!(asked, [request(5, b"hello"), request(11, b" world")]);
    driver.event(&Event::Emitted { through: 3 });
    driver.save_and_restore();
    // A reset takes nothing back.
    driver.write(STATUS, &[0]);
    let pending = driver.device.in_flight();
    assert_eq!(pending[0].request, request(11, b"lo world"));
    driver.event(&Event::Emitted { through: 99 });
    assert!(driver.device.in_flight().is_empty());
    assert_eq!(driver.device.output().unwrap().emitted, 11);
}

#[test]
fn what_is_typed_waits_for_buffers() {
    let mut driver = console();
    driver.event(&Event::Typed(b"ls -l\n".to_vec()));
    assert_eq!(driver.device.input_room(), Some(INPUT_MAX - 6));
    driver.save_and_restore();
    driver.offer(RECEIVE, 0, &[(0x1000, 2, true), (0x2000, 2, true)]);
    driver.offer(RECEIVE, 2, &[(0x3000, 100, true)]);
    driver.notify(RECEIVE);
    assert_eq!(driver.used(RECEIVE), [(0, 4), (2, 2)]);
    assert_eq!(driver.raised(), [1]);
    assert_eq!(driver.ram.read_u32(0x2000).unwrap() as u16, 0x2D20);
    driver.offer(RECEIVE, 4, &[(0x1000, 2, true)]);
    driver.event(&Event::Typed(b"abcd".to_vec()));
    assert_eq!(driver.used(RECEIVE)[2], (4, 2));
    assert_eq!(driver.device.input_room(), Some(INPUT_MAX - 2));
    // Who types more than there is room for loses it, the same on every side.
    driver.event(&Event::Typed(vec![b'x'; 2 * INPUT_MAX]));
    assert_eq!(driver.device.input_room(), Some(0));
    driver.save_and_restore();
}

#[test]
fn the_driver_learns_the_terminals_size() {
    let mut driver = console();
    assert_eq!(driver.read(DEVICE), [0, 0, 0, 0]);
    driver.event(&Event::Size {
        columns: 200,
        rows: 50,
    });
    assert_eq!(driver.raised(), [0]);
    assert_eq!(driver.read(DEVICE), [200, 0, 50, 0]);
    assert_eq!(driver.read(DEVICE + 4), 1u32.to_le_bytes(), "one port");
    driver.save_and_restore();
    let mut plain = Driver::running(&DeviceSpec::Console, 0);
    plain.event(&Event::Size {
        columns: 1,
        rows: 1,
    });
    assert!(plain.raised().is_empty(), "it did not ask to know");
}

#[test]
fn endless_chains_are_refused() {
    let mut driver = console();
    driver.offer(
        TRANSMIT,
        0,
        &[(0x1000, CHAIN_MAX as u32, false), (0x1000, 1, false)],
    );
    driver.notify(TRANSMIT);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
    assert!(driver.submissions.is_empty());
    // What stood before it was written.
    let mut driver = console();
    driver.ram.write(0x1000, b"ok").unwrap();
    driver.offer(TRANSMIT, 0, &[(0x1000, 2, false)]);
    driver.make_available(TRANSMIT, 0xFFF);
    driver.notify(TRANSMIT);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
    assert_eq!(driver.submissions.len(), 1);
}
