//! The balloon, as a driver meets it.

use virtio_devices::balloon::BalloonSpec;
use virtio_devices::{DeviceSpec, Event};

use crate::driver::{DEVICE, Driver, NEEDS_RESET, RAM, STATUS};

const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const REPORTS: u16 = 2;
const PAGE: u64 = 4096;
/// Where page numbers stand.
const NUMBERS: u64 = 0x7000;

fn balloon() -> Driver {
    let spec = BalloonSpec {
        pages: 5,
        deflate_on_oom: true,
        reporting: true,
    };
    let mut driver = Driver::running(&DeviceSpec::Balloon(spec), DEFLATE_ON_OOM | REPORTING);
    for page in 512..RAM / PAGE {
        driver.ram.write(page * PAGE, &[7]).unwrap();
    }
    driver
}

fn zeroed(driver: &Driver) -> Vec<u64> {
    let mut byte = [0];
    (512..RAM / PAGE)
        .filter(|page| {
            driver.ram.read(page * PAGE, &mut byte).unwrap();
            byte == [0]
        })
        .collect()
}

fn give(driver: &mut Driver, queue: u16, head: u16, pages: &[u32]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    driver.ram.write(NUMBERS, &bytes).unwrap();
    driver.offer(queue, head, &[(NUMBERS, bytes.len() as u32, false)]);
    driver.notify(queue);
}

#[test]
fn pages_in_it_read_as_zeros() {
    let mut driver = balloon();
    assert_eq!(driver.read(DEVICE), [5, 0, 0, 0, 0, 0, 0, 0]);
    give(&mut driver, INFLATE, 0, &[900, 601, 600, 602, 601, 1000]);
    assert_eq!(driver.used(INFLATE), [(0, 0)]);
    assert_eq!(zeroed(&driver), [600, 601, 602, 900, 1000]);
    driver.write(DEVICE + 4, &5u32.to_le_bytes());
    assert_eq!(driver.device.ballooned(), 5 * PAGE);
    driver.save_and_restore();
    assert_eq!(driver.device.ballooned(), 5 * PAGE);
    give(&mut driver, DEFLATE, 0, &[900]);
    assert_eq!(driver.used(DEFLATE), [(0, 0)]);
    driver.write(STATUS, &[0]);
    assert_eq!(driver.device.ballooned(), 0);
}

#[test]
fn pages_that_are_reported_read_as_zeros() {
    let mut driver = balloon();
    let length = 3 * PAGE as u32;
    driver.offer(
        REPORTS,
        0,
        &[(700 * PAGE, length, true), (800 * PAGE + 8, length, true)],
    );
    driver.notify(REPORTS);
    assert_eq!(driver.used(REPORTS), [(0, 0)]);
    assert_eq!(zeroed(&driver), [700, 701, 702, 801, 802], "whole ones");
}

#[test]
fn the_driver_is_told_how_large_it_is_to_be() {
    let mut driver = balloon();
    driver.raised();
    driver.event(&Event::Balloon { pages: 0x0102_0304 });
    assert_eq!(driver.raised(), [0]);
    assert_eq!(driver.read(DEVICE), [4, 3, 2, 1]);
    driver.save_and_restore();
    // That is the operator's wish, and outlives the driver.
    driver.write(STATUS, &[0]);
    assert_eq!(driver.read(DEVICE), [4, 3, 2, 1]);
}

#[test]
fn what_makes_no_sense_needs_a_reset() {
    let last = (RAM / PAGE) as u32;
    for pages in [&[600, last][..], &[u32::MAX], &[600; 20_000]] {
        let mut driver = balloon();
        give(&mut driver, INFLATE, 0, pages);
        assert_eq!(driver.status(), 15 | NEEDS_RESET, "{}", pages.len());
    }
    let mut driver = balloon();
    driver.offer(INFLATE, 0, &[(NUMBERS, 7, false)]);
    driver.notify(INFLATE);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
    // All memory, and some of it again.
    let mut driver = balloon();
    driver.offer(REPORTS, 0, &[(0, RAM as u32, true), (0, 4096, true)]);
    driver.notify(REPORTS);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
    assert!(zeroed(&driver).is_empty());
}
