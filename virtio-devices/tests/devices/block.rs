//! The disk, as a driver meets it.

use crate::driver::{
    DEVICE, Driver, EVENT_INDEX, INDIRECT, NEEDS_RESET, NEXT, SIZE, STATUS, WRITE, available,
    descriptors, used,
};
use virtio_devices::block::BlockSpec;
use virtio_devices::{DeviceSpec, Event, Extent, Outcome, Request};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const CONFIG_WCE: u64 = 1 << 11;
const F_DISCARD: u64 = 1 << 13;

/// Where a request's status goes.
const STATUS_AT: u64 = 0x9000;
const HEADER_AT: u64 = 0x8000;

fn spec() -> BlockSpec {
    BlockSpec {
        sectors: 1000,
        read_only: false,
        serial: *b"serial-number\0\0\0\0\0\0\0",
        logical_block: 512,
        physical_block: 4096,
        discards: true,
        queues: 1,
        queue_size: 128,
    }
}

fn disk() -> Driver {
    Driver::running(&DeviceSpec::Block(spec()), F_FLUSH | CONFIG_WCE | F_DISCARD)
}

/// Offers a request whose parts begin at descriptor `head`, and notifies.
fn ask(driver: &mut Driver, head: u16, kind: u32, sector: u64, data: &[(u64, u32, bool)]) {
    let header = HEADER_AT + u64::from(head) * 16;
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    driver.ram.write(header, &bytes).unwrap();
    let status = STATUS_AT + u64::from(head);
    driver.ram.write(status, &[0xEE]).unwrap();
    let mut segments = vec![(header, 16, false)];
    segments.extend(data);
    segments.push((status, 1, true));
    driver.offer(0, head, &segments);
    driver.notify(0);
}

fn status(driver: &Driver, head: u16) -> u8 {
    let mut byte = [0];
    driver
        .ram
        .read(STATUS_AT + u64::from(head), &mut byte)
        .unwrap();
    byte[0]
}

fn done(driver: &mut Driver, id: u64) {
    let outcome = Outcome::Done;
    driver.event(&Event::Completed { id, outcome });
}

#[test]
fn the_configuration_tells_the_disk() {
    let mut driver = disk();
    assert_eq!(driver.read(DEVICE), 1000u64.to_le_bytes());
    assert_eq!(driver.read(DEVICE + 12), 126u32.to_le_bytes());
    assert_eq!(driver.read(DEVICE + 20), 512u32.to_le_bytes());
    assert_eq!(driver.read(DEVICE + 24), [3], "2^3 logical blocks");
    assert_eq!(driver.read(DEVICE + 32), [1], "write-back");
    assert_eq!(driver.read(DEVICE + 0xFF8), [0; 8]);
    let mut read_only = spec();
    read_only.read_only = true;
    let offered = Driver::new(&DeviceSpec::Block(read_only)).offered();
    assert_eq!(offered & (RO | F_DISCARD), RO);
}

#[test]
fn a_read_brings_its_data_only_when_it_has_ended() {
    let mut driver = disk();
    ask(
        &mut driver,
        0,
        IN,
        7,
        &[(0x1000, 512, true), (0x2000, 512, true)],
    );
    assert_eq!(driver.submissions.len(), 1);
    assert_eq!(
        driver.submissions[0].request,
        Request::Read(Extent {
            offset: 7 * 512,
            length: 1024
        })
    );
    let state = driver.save_and_restore();
    assert_eq!(driver.device.in_flight(), driver.submissions);
    assert!(driver.used(0).is_empty());
    let bytes: Vec<u8> = (0..1024u32).map(|i| (i / 4) as u8).collect();
    for (offset, part) in [(0, &bytes[..300]), (300, &bytes[300..])] {
        driver.event(&Event::Data {
            id: 0,
            offset,
            bytes: part.to_vec(),
        });
    }
    assert!(driver.used(0).is_empty());
    done(&mut driver, 0);
    assert_eq!(driver.used(0), [(0, 1025)]);
    assert_eq!(driver.raised(), [1]);
    assert_eq!(status(&driver, 0), 0);
    let mut found = [0; 1024];
    driver.ram.read(0x1000, &mut found[..512]).unwrap();
    driver.ram.read(0x2000, &mut found[512..]).unwrap();
    assert_eq!(found[..], bytes[..]);
    assert!(driver.device.in_flight().is_empty());
    assert_ne!(driver.device.save(), state);
}

#[test]
fn a_write_holds_what_the_guest_had_at_its_submission() {
    let mut driver = disk();
    driver.ram.write(0x1000, &[7; 512]).unwrap();
    ask(&mut driver, 0, OUT, 1, &[(0x1000, 512, false)]);
    driver.ram.write(0x1000, &[8; 512]).unwrap();
    let expected = Request::Write {
        offset: 512,
        data: vec![7; 512],
        durable: false,
    };
    assert_eq!(driver.submissions[0].request, expected);
    // The same again, from a restored state.
    driver.save_and_restore();
    assert_eq!(driver.device.in_flight()[0].request, expected);
    done(&mut driver, 0);
    assert_eq!(driver.used(0), [(0, 1)]);
    // Write-through, as the driver chooses.
    driver.write(DEVICE + 32, &[0]);
    ask(&mut driver, 0, OUT, 1, &[(0x1000, 512, false)]);
    assert!(matches!(
        driver.submissions[1].request,
        Request::Write { durable: true, .. }
    ));
}

#[test]
fn what_overlaps_goes_one_after_the_other() {
    let mut driver = disk();
    ask(&mut driver, 0, OUT, 0, &[(0x1000, 1024, false)]);
    ask(&mut driver, 3, IN, 1, &[(0x2000, 512, true)]);
    ask(&mut driver, 6, FLUSH, 0, &[]);
    let ids: Vec<u64> = driver.submissions.iter().map(|s| s.id).collect();
    assert_eq!(ids, [0, 2], "the read waits for the write");
    // What waits is not begun: nobody repeats it at go-live.
    driver.save_and_restore();
    assert_eq!(driver.device.in_flight().len(), 2);
    done(&mut driver, 2);
    done(&mut driver, 0);
    assert_eq!(driver.submissions[2].id, 1);
    done(&mut driver, 1);
    assert_eq!(driver.used(0), [(6, 1), (0, 1), (3, 513)]);
}

#[test]
fn failures_are_the_guests_to_handle() {
    let mut driver = disk();
    for (head, outcome, expected) in [(0, Outcome::Failed, 1), (3, Outcome::Unsupported, 2)] {
        ask(&mut driver, head, FLUSH, 0, &[]);
        let id = driver.submissions.last().unwrap().id;
        driver.event(&Event::Completed { id, outcome });
        assert_eq!(status(&driver, head), expected);
    }
    // Nobody asked for these.
    done(&mut driver, 0);
    done(&mut driver, 77);
    driver.event(&Event::Data {
        id: 99,
        offset: 0,
        bytes: vec![1; 10],
    });
    assert_eq!(driver.used(0).len(), 2);
    assert_eq!(driver.status(), 15);
}

#[test]
fn what_is_wrong_is_answered_at_once() {
    let mut read_only = spec();
    read_only.read_only = true;
    type Case = (bool, u32, u64, Vec<(u64, u32, bool)>, u8);
    let range = |sectors: u32, flags: u32| {
        let mut bytes = 5u64.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    let cases: [Case; 12] = [
        (false, IN, 1000, vec![(0x1000, 512, true)], 1),
        (false, IN, 999, vec![(0x1000, 1024, true)], 1),
        (false, IN, u64::MAX, vec![(0x1000, 512, true)], 1),
        (false, IN, u64::MAX / 512, vec![(0x1000, 512, true)], 1),
        (false, IN, 0, vec![(0x1000, 513, true)], 1),
        (false, OUT, 1000, vec![(0x1000, 512, false)], 1),
        (true, OUT, 0, vec![(0x1000, 512, false)], 1),
        (true, DISCARD, 0, vec![(0x1000, 16, false)], 2),
        (false, DISCARD, 0, vec![(0x1000, 8, false)], 1),
        (false, DISCARD, 0, vec![(0x3000, 16, false)], 2),
        (false, WRITE_ZEROES, 0, vec![(0x4000, 16, false)], 1),
        (false, 0x1234, 0, vec![], 2),
    ];
    for (is_read_only, kind, sector, data, expected) in cases {
        let spec = if is_read_only {
            read_only.clone()
        } else {
            spec()
        };
        let mut driver = Driver::running(&DeviceSpec::Block(spec), F_DISCARD);
        driver.ram.write(0x1000, &range(4, 0)).unwrap();
        driver.ram.write(0x3000, &range(4, 1)).unwrap();
        driver.ram.write(0x4000, &range(996, 0)).unwrap();
        ask(&mut driver, 0, kind, sector, &data);
        let case = format!("{kind} at {sector} with {data:x?}");
        assert_eq!(status(&driver, 0), expected, "{case}");
        assert!(driver.submissions.is_empty(), "{case}");
        assert_eq!(driver.used(0), [(0, 1)], "{case}");
    }
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let mut driver = disk();
    let extent = Extent {
        offset: 5 * 512,
        length: 4 * 512,
    };
    for (kind, flags, expected) in [
        (DISCARD, 0u32, Request::Discard(extent)),
        (
            WRITE_ZEROES,
            1,
            Request::WriteZeroes {
                extent,
                unmap: true,
            },
        ),
    ] {
        let mut bytes = 5u64.to_le_bytes().to_vec();
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        driver.ram.write(0x1000, &bytes).unwrap();
        ask(&mut driver, 0, kind, 0, &[(0x1000, 16, false)]);
        let submission = driver.submissions.pop().unwrap();
        assert_eq!(submission.request, expected);
        done(&mut driver, submission.id);
    }
}

#[test]
fn the_serial_number_needs_nobody() {
    let mut driver = disk();
    ask(&mut driver, 0, GET_ID, 0, &[(0x1000, 20, true)]);
    let mut found = [0; 20];
    driver.ram.read(0x1000, &mut found).unwrap();
    assert_eq!(found, spec().serial);
    assert_eq!(driver.used(0), [(0, 21)]);
}

#[test]
fn a_request_without_a_status_or_a_header_needs_a_reset() {
    for segments in [
        &[(0x1000, 16, false)][..],
        &[(0x1000, 15, false), (0x2000, 1, true)],
    ] {
        let mut driver = disk();
        driver.offer(0, 0, segments);
        driver.notify(0);
        assert_eq!(driver.status(), 15 | NEEDS_RESET);
    }
}

/// The end of the used ring lies over the available index: what the device writes there looks as if
/// the driver had offered more.
#[test]
fn more_chains_in_a_step_than_entries_need_a_reset() {
    let mut driver = Driver::new(&DeviceSpec::Block(spec()));
    let available = used(0) + 126;
    driver.set_up_at(0, |queue| [descriptors(queue), available, used(queue)]);
    driver.ram.write(HEADER_AT, &GET_ID.to_le_bytes()).unwrap();
    for (index, descriptor) in [
        (0, (HEADER_AT, 16, NEXT, 1)),
        (1, (0x1000, 18, NEXT | WRITE, 2)),
        (2, (STATUS_AT, 1, WRITE, 0)),
    ] {
        driver.descriptor(descriptors(0), index, descriptor);
    }
    // Sixteen times the same chain. The sixteenth answer's length, 19, is the new index.
    let index = SIZE.to_le_bytes();
    driver.ram.write(available + 2, &index).unwrap();
    driver.notify(0);
    assert_eq!(driver.status(), 15 | NEEDS_RESET);
    let used = driver.ram.read_u32(used(0)).unwrap();
    assert_eq!(used >> 16, u32::from(SIZE));
}

/// Hundreds of requests with hundreds of buffers each are compared with each other, which takes a
/// moment and not minutes; the rest waits in the ring.
#[test]
fn scattered_buffers_count() {
    let mut driver = disk();
    let (table, count) = (0x20_0000, 1000);
    let buffer = |index: u16| (0x40_0000 + u64::from(index) * 0x2000, 1, NEXT | WRITE);
    driver.ram.write(HEADER_AT, &[0; 16]).unwrap();
    driver.descriptor(table, 0, (HEADER_AT, 16, NEXT, 1));
    for index in 1..count {
        let (address, length, flags) = buffer(index);
        driver.descriptor(table, index, (address, length, flags, index + 1));
    }
    // A whole sector, and the status.
    let left = 512 * 2 - u32::from(count - 1);
    driver.descriptor(table, count, (0x1000, left, NEXT | WRITE, count + 1));
    driver.descriptor(table, count + 1, (STATUS_AT, 1, WRITE, 0));
    let length = (u32::from(count) + 2) * 16;
    for head in 0..SIZE {
        driver.descriptor(descriptors(0), head, (table, length, INDIRECT, 0));
        driver.make_available(0, head);
    }
    driver.notify(0);
    assert_eq!(driver.status(), 15);
    // They write the same pages: one after the other.
    for id in 0..u64::from(SIZE) {
        let submitted: Vec<u64> = driver.submissions.drain(..).map(|s| s.id).collect();
        assert_eq!(submitted, [id]);
        driver.save_and_restore();
        done(&mut driver, id);
    }
    assert_eq!(driver.used(0).len(), usize::from(SIZE));
}

#[test]
fn with_the_event_index_one_interrupt_serves_several() {
    let mut driver = Driver::running(&DeviceSpec::Block(spec()), EVENT_INDEX);
    // The driver wants to know when two are used.
    driver
        .ram
        .write(available(0) + 4 + 2 * 16, &[1, 0])
        .unwrap();
    ask(&mut driver, 0, FLUSH, 0, &[]);
    ask(&mut driver, 2, FLUSH, 0, &[]);
    done(&mut driver, 0);
    assert!(driver.raised().is_empty());
    done(&mut driver, 1);
    assert_eq!(driver.raised(), [1]);
}

#[test]
fn a_reset_forgets_buffers_and_not_what_is_under_way() {
    let mut driver = disk();
    ask(&mut driver, 0, IN, 0, &[(0x1000, 512, true)]);
    driver.write(STATUS, &[0]);
    assert_eq!(driver.device.in_flight().len(), 1);
    driver.ram.clear();
    driver.set_up(F_FLUSH);
    driver.ram.write(0x5000, &[3; 512]).unwrap();
    ask(&mut driver, 0, OUT, 0, &[(0x5000, 512, false)]);
    assert_eq!(
        driver.submissions.len(),
        1,
        "the write waits for the old read"
    );
    driver.event(&Event::Data {
        id: 0,
        offset: 0,
        bytes: vec![9; 512],
    });
    done(&mut driver, 0);
    assert_eq!(driver.ram.read_u64(0x1000).unwrap(), 0);
    assert!(driver.used(0).is_empty());
    assert_eq!(driver.submissions[1].id, 1);
    done(&mut driver, 1);
    assert_eq!(driver.used(0), [(0, 1)]);
}

#[test]
fn too_much_waits_in_the_ring() {
    let mut large = spec();
    large.sectors = 1 << 20;
    let mut driver = Driver::running(&DeviceSpec::Block(large), F_FLUSH);
    // Three of 4 MiB: the first two fill what may be in flight.
    for (head, sector) in [(0, 0), (3, 20_000), (6, 40_000)] {
        ask(
            &mut driver,
            head,
            OUT,
            sector,
            &[(0x40_0000, 4 << 20, false)],
        );
    }
    assert_eq!(driver.submissions.len(), 2);
    done(&mut driver, 0);
    assert_eq!(driver.submissions.len(), 3);
}
