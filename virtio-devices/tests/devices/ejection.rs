//! Devices that leave their slots.

use crate::driver::{BAR, Driver, STATUS};
use virtio_devices::block::BlockSpec;
use virtio_devices::{DeviceSpec, Env, Event, Outcome, Presence, Request, VirtioPci};

fn disk() -> Driver {
    let spec = BlockSpec {
        sectors: 1000,
        read_only: false,
        serial: [0; 20],
        logical_block: 512,
        physical_block: 512,
        discards: false,
        queues: 1,
        queue_size: 16,
    };
    Driver::running(&DeviceSpec::Block(spec), 0)
}

fn eject(driver: &mut Driver) -> bool {
    driver.device.eject(&mut driver.submissions)
}

/// Offers a read of the first sector to 0xA000.
fn read(driver: &mut Driver) {
    driver.ram.write(0x8000, &[0; 16]).unwrap();
    let segments = [(0x8000, 16, false), (0xA000, 512, true), (0x9000, 1, true)];
    driver.offer(0, 0, &segments);
    driver.notify(0);
}

#[test]
fn an_idle_device_is_gone_at_once() {
    let mut driver = disk();
    assert!(driver.device.ask_for());
    assert_eq!(driver.device.presence(), Presence::Leaving);
    assert!(!driver.device.is_gone());
    assert!(driver.device.offset(BAR).is_some(), "until it is ejected");
    let state = driver.device.save();
    let again = VirtioPci::restore(BAR, &state).unwrap();
    assert_eq!(again.save(), state);
    assert!(eject(&mut driver));
    assert!(driver.device.is_gone());
    assert!(!eject(&mut driver), "there is nothing left");
    let refused = VirtioPci::restore(BAR, &driver.device.save()).err();
    assert_eq!(refused.unwrap().reason, "a device of which nothing is left");
}

#[test]
fn requests_in_flight_outlive_their_device_and_reach_no_memory() {
    let mut driver = disk();
    read(&mut driver);
    assert!(matches!(driver.submissions[0].request, Request::Read(_)));
    let id = driver.submissions[0].id;
    assert!(eject(&mut driver));
    assert!(driver.device.offset(BAR).is_none(), "nothing answers");
    assert!(!driver.device.is_gone());
    assert_eq!(driver.device.in_flight().len(), 1);
    let state = driver.device.save();
    driver.device = VirtioPci::restore(BAR, &state).unwrap();
    assert_eq!(driver.device.save(), state);
    driver.messages.clear();
    for event in [
        Event::Data {
            id,
            offset: 0,
            bytes: vec![7; 512],
        },
        Event::Completed {
            id,
            outcome: Outcome::Done,
        },
    ] {
        assert!(!driver.device.is_gone());
        let mut env = Env {
            ram: &mut driver.ram,
            submissions: &mut driver.submissions,
            messages: &mut driver.messages,
        };
        driver.device.event(&mut env, &event);
    }
    assert!(driver.device.is_gone());
    assert_eq!(driver.ram.read_u64(0xA000).unwrap(), 0);
    assert!(driver.messages.is_empty(), "nobody is interrupted");
}

#[test]
fn what_is_built_in_stays() {
    let mut driver = Driver::running(&DeviceSpec::Rng, 0);
    assert!(!driver.device.ask_for());
    assert!(!eject(&mut driver));
    assert_eq!(driver.device.presence(), Presence::Present);
    assert_ne!(driver.read::<1>(STATUS), [0]);
}
