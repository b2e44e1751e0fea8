//! The source of random bytes, as a driver meets it.

use virtio_devices::{DeviceSpec, Event, Outcome, Request};

use crate::driver::Driver;

#[test]
fn bytes_come_as_events() {
    let mut driver = Driver::running(&DeviceSpec::Rng, 0);
    driver.offer(0, 0, &[(0x1000, 8, true), (0x2000, 8, true)]);
    driver.offer(0, 2, &[(0x3000, 1 << 20, true)]);
    driver.offer(0, 3, &[(0x3000, 16, false)]);
    driver.notify(0);
    let asked: Vec<Request> = driver
        .submissions
        .iter()
        .map(|s| s.request.clone())
        .collect();
    assert_eq!(
        asked,
        [
            Request::Entropy { length: 16 },
            Request::Entropy { length: 4096 }
        ]
    );
    assert_eq!(driver.used(0), [(3, 0)], "nothing to write into");
    driver.save_and_restore();
    assert_eq!(driver.device.in_flight(), driver.submissions);
    driver.event(&Event::Data {
        id: 0,
        offset: 0,
        bytes: (1..=16).collect(),
    });
    for (id, outcome) in [(0, Outcome::Done), (1, Outcome::Failed)] {
        driver.event(&Event::Completed { id, outcome });
    }
    assert_eq!(driver.used(0), [(3, 0), (0, 16), (2, 0)]);
    assert_eq!(
        driver.ram.read_u64(0x1000).unwrap().to_le_bytes(),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(driver.ram.read_u64(0x2000).unwrap().to_le_bytes()[7], 16);
}
