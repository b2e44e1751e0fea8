//! The PCI transport, as a driver meets it.

use crate::driver::{
    BAR, Driver, INDIRECT, NEEDS_RESET, NEXT, QUEUE_DESCRIPTORS, QUEUE_ENABLE, QUEUE_SELECT,
    QUEUE_SIZE, STATUS, VERSION_1, WRITE, available, descriptors,
};
use virtio_devices::{DeviceSpec, VirtioPci};

const RNG: DeviceSpec = DeviceSpec::Rng;

#[test]
fn the_function_is_what_virtio_says() {
    let mut driver = Driver::new(&RNG);
    assert_eq!(driver.read_config(0), [0xF4, 0x1A, 0x44, 0x10]);
    assert_eq!(driver.read_config::<4>(8)[0], 1, "revision");
    // BAR 0: 64 bits, 512 KiB.
    driver.write_config(0x10, &[0xFF; 4]);
    driver.write_config(0x14, &[0xFF; 4]);
    assert_eq!(
        driver.read_config(0x10),
        [0x04, 0, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]
    );
    // Every capability is reached from the head of the chain.
    let mut found = Vec::new();
    let mut at = usize::from(driver.read_config::<1>(0x34)[0]);
    while at != 0 {
        let [id, next, length, kind] = driver.read_config(at);
        let offset = u32::from_le_bytes(driver.read_config(at + 8));
        if id == 9 {
            found.push((kind, length, offset));
        } else {
            assert_eq!((id, next), (0x11, 0));
            let control = u16::from_le_bytes([length, kind]);
            assert_eq!(control, 1, "two vectors");
            assert_eq!(driver.read_config(at + 4), 0x8000u32.to_le_bytes());
            assert_eq!(driver.read_config(at + 8), 0x4_8000u32.to_le_bytes());
        }
        at = next.into();
    }
    assert_eq!(
        found,
        [
            (1, 16, 0),
            (3, 16, 0x2000),
            (4, 16, 0x4000),
            (2, 20, 0x6000),
            (5, 20, 0)
        ]
    );
}

#[test]
fn memory_is_decoded_where_the_driver_says() {
    let mut driver = Driver::new(&RNG);
    assert_eq!(driver.device.offset(BAR + 5), Some(5));
    assert_eq!(driver.device.offset(BAR + 0x8_0000), None);
    driver.write_config(0x10, &0xD000_0000u32.to_le_bytes());
    driver.write_config(0x14, &[0; 4]);
    assert_eq!(driver.device.offset(0xD000_0000), Some(0));
    driver.write_config(4, &[0, 0]);
    assert_eq!(driver.device.offset(0xD000_0000), None);
}

#[test]
fn the_configuration_access_capability_leads_to_bar_0() {
    let mut driver = Driver::new(&RNG);
    // The number of queues, two bytes at 0x12 of the common configuration.
    driver.write_config(0x84 + 8, &0x12u32.to_le_bytes());
    driver.write_config(0x84 + 12, &2u32.to_le_bytes());
    assert_eq!(driver.read_config(0x84 + 16), [1, 0]);
    // Device status.
    driver.write_config(0x84 + 8, &0x14u32.to_le_bytes());
    driver.write_config(0x84 + 12, &1u32.to_le_bytes());
    driver.write_config(0x84 + 16, &[1]);
    assert_eq!(driver.status(), 1);
    driver.write_config(0x84 + 8, &0xFFFF_FFFFu32.to_le_bytes());
    driver.write_config(0x84 + 16, &[7]);
    assert_eq!(driver.status(), 1);
}

#[test]
fn features_are_accepted_only_if_they_were_offered() {
    let mut driver = Driver::new(&RNG);
    let offered = driver.offered();
    assert_eq!(offered, VERSION_1 | 1 << 29 | 1 << 28);
    driver.accept(0);
    assert_eq!(driver.status(), 3, "without VERSION_1");
    driver.write(STATUS, &[0]);
    driver.accept(VERSION_1 | 1 << 40);
    assert_eq!(driver.status(), 3, "beyond what was offered");
    driver.write(STATUS, &[15]);
    assert_eq!(driver.status(), 3, "nor can it run then");
    driver.write(STATUS, &[0]);
    driver.accept(VERSION_1);
    assert_eq!(driver.status(), 11);
}

#[test]
fn a_queue_is_set_up_once() {
    let mut driver = Driver::running(&RNG, 0);
    driver.write(QUEUE_SELECT, &[0, 0]);
    driver.write(QUEUE_SIZE, &8u16.to_le_bytes());
    driver.write(QUEUE_DESCRIPTORS, &[0; 4]);
    assert_eq!(driver.read(QUEUE_SIZE), 16u16.to_le_bytes());
    assert_eq!(driver.read(QUEUE_DESCRIPTORS), descriptors(0).to_le_bytes());
    // There is no second one.
    driver.write(QUEUE_SELECT, &[1, 0]);
    assert_eq!(driver.read(QUEUE_SIZE), [0, 0]);
    driver.write(QUEUE_ENABLE, &[1, 0]);
    driver.notify(1);
    driver.notify(700);
    assert_eq!(driver.status(), 15);
}

#[test]
fn sizes_and_addresses_that_cannot_be_are_ignored_or_break_the_device() {
    let mut driver = Driver::new(&RNG);
    driver.accept(VERSION_1);
    for size in [0u16, 3, 512, 0x8000] {
        driver.write(QUEUE_SIZE, &size.to_le_bytes());
        assert_eq!(driver.read(QUEUE_SIZE), 256u16.to_le_bytes());
    }
    driver.write(QUEUE_DESCRIPTORS, &0xFFFF_FFF0u32.to_le_bytes());
    driver.write(QUEUE_ENABLE, &[1, 0]);
    assert_eq!(driver.read(QUEUE_ENABLE), [0, 0]);
    assert_eq!(driver.status(), 11 | NEEDS_RESET);
    driver.write(STATUS, &[0]);
    assert_eq!(driver.status(), 0);
}

/// Every way to get a chain wrong: the device says that it needs a reset, does nothing more, and
/// works again after the reset.
#[test]
fn chains_that_make_no_sense_need_a_reset() {
    type Wrong = (&'static str, fn(&mut Driver));
    let wrong: [Wrong; 10] = [
        ("outside RAM", |d| d.offer(0, 0, &[(1 << 40, 64, true)])),
        ("across the end of RAM", |d| {
            d.offer(0, 0, &[(crate::driver::RAM - 8, 64, true)]);
        }),
        ("around the end of addresses", |d| {
            d.offer(0, 0, &[(u64::MAX - 8, 64, true)]);
        }),
        ("readable after writable", |d| {
            d.offer(0, 0, &[(0x1000, 64, true), (0x2000, 64, false)]);
        }),
        ("a loop", |d| {
            d.descriptor(descriptors(0), 0, (0x1000, 1, WRITE | NEXT, 0));
            d.make_available(0, 0);
        }),
        ("a next one that is none", |d| {
            d.descriptor(descriptors(0), 0, (0x1000, 1, WRITE | NEXT, 99));
            d.make_available(0, 0);
        }),
        ("a head that is none", |d| d.make_available(0, 0xFFFF)),
        ("an indirect table of odd length", |d| {
            d.descriptor(descriptors(0), 0, (0x3000, 17, INDIRECT, 0));
            d.make_available(0, 0);
        }),
        ("an indirect table in an indirect table", |d| {
            d.descriptor(0x3000, 0, (0x3000, 16, INDIRECT, 0));
            d.descriptor(descriptors(0), 0, (0x3000, 16, INDIRECT, 0));
            d.make_available(0, 0);
        }),
        ("more available than there can be", |d| {
            d.ram.write(available(0) + 2, &[200, 0]).unwrap();
        }),
    ];
    for (what, make) in wrong {
        let mut driver = Driver::running(&RNG, 0);
        make(&mut driver);
        driver.notify(0);
        assert_eq!(driver.status(), 15 | NEEDS_RESET, "{what}");
        assert_eq!(driver.raised(), [0], "{what}: the driver is told");
        assert!(driver.submissions.is_empty(), "{what}");
        driver.save_and_restore();
        driver.notify(0);
        assert!(driver.raised().is_empty(), "{what}");

        driver.write(STATUS, &[0]);
        driver.ram.clear();
        driver.set_up(0);
        driver.offer(0, 0, &[(0x1000, 64, true)]);
        driver.notify(0);
        assert_eq!(driver.submissions.len(), 1, "{what}: after the reset");
    }
}

#[test]
fn any_access_anywhere_is_survived() {
    let mut driver = Driver::running(&RNG, 0);
    for offset in (0..0x8_0000).step_by(0x3F4) {
        for length in [1, 2, 4, 8] {
            let mut data = [0; 8];
            driver.device.read_bar(offset, &mut data[..length]);
            driver.write(offset, &[0xA5; 8][..length]);
        }
    }
    for offset in 0..256 {
        driver.write_config(offset, &[0xFF; 4][..4 - offset % 4]);
    }
    driver.save_and_restore();
    driver.device.power_up(&mut Vec::new());
    let fresh = VirtioPci::new(3, BAR, &RNG);
    let (mut state, fresh) = (driver.device.save(), fresh.save());
    // What was asked of the world before stays asked.
    state.model = fresh.model.clone();
    assert_eq!(state, fresh);
}

#[test]
fn impossible_states_are_refused() {
    let good = Driver::running(&RNG, 0).device.save();
    VirtioPci::restore(BAR, &good).unwrap();
    let mut bad = vec![good; 5];
    bad[0].rings.clear();
    bad[1].msix.entries.pop();
    bad[2].config.bytes[0] = 0;
    bad[3].rings[0].size = 7;
    bad[4].msix.control ^= 0x4000;
    for state in bad {
        assert!(VirtioPci::restore(BAR, &state).is_err());
    }
}
