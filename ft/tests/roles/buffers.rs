//! What waits, where, and for how long.

use ft::Settings;
use ft::backup::Replay;
use ft::log::Body;
use ft::primary::{self};
use machine::{Input, Position};

use super::pair::{MS, Pair, offer};

#[test]
fn batches_wait_for_company_but_not_for_long() {
    let mut pair = Pair::protected();
    pair.append(110, Body::Watermark);
    assert_eq!(pair.sent_by_primary(), []);
    assert!(!pair.primary.wants_to_write(pair.now));
    let due = pair.now + Settings::default().flush_interval;
    assert!(pair.primary.deadline().unwrap() <= due);
    pair.now = due;
    assert!(pair.primary.wants_to_write(pair.now));
    assert!(!pair.sent_by_primary().is_empty());
    pair.append(111, Body::Watermark);
    pair.primary.flush();
    assert!(!pair.sent_by_primary().is_empty());
}

#[test]
fn a_full_send_buffer_stops_the_vcpu_until_it_drains() {
    let mut pair = Pair::protected();
    let mut position = 100;
    while pair.primary.may_run() {
        position += 1;
        let body = Body::Input(Input::SerialInput(vec![0; 60_000]));
        pair.append(position, body);
        assert!(position < 1000, "never stopped");
    }
    assert_eq!(pair.primary_said(), [primary::Command::StallVcpu]);
    pair.exchange();
    assert_eq!(pair.primary_said(), [primary::Command::RunVcpu]);
}

#[test]
fn a_full_receive_buffer_is_not_read_into() {
    let settings = Settings {
        receive_buffer_bytes: 4096,
        ..Settings::default()
    };
    let mut pair = Pair::new(settings, offer());
    pair.exchange();
    pair.clone_machine(1);
    assert!(pair.backup.wants_bytes());
    for position in 100..200 {
        pair.append(position, Body::Input(Input::PowerButton));
    }
    pair.now += 50 * MS;
    pair.exchange();
    assert!(!pair.backup.wants_bytes());
    for position in 100..200 {
        while pair.backup.replay(Position(position)).unwrap()
            != Replay::RunTo(Position(position + 1))
            && position < 199
        {}
    }
    while pair.backup.replay(Position(199)).unwrap() != Replay::Wait {}
    assert!(pair.backup.wants_bytes());
    assert_eq!(pair.backup.status().executed, Position(199));
}
