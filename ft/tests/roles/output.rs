//! The output rule between the two roles.

use ft::backup::{self, Replay};
use ft::channel::Message;
use ft::primary::{self};
use machine::Position;

use super::pair::{MS, Pair, a_claims, output};

#[test]
fn outputs_leave_when_their_entry_is_acknowledged_and_not_before() {
    let mut pair = Pair::protected();
    let out = output(120, 3, "hi\n");
    pair.primary.append_output(pair.now, out.clone()).unwrap();
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    // At once, because an output waits.
    let bytes = pair.sent_by_primary();
    assert!(!bytes.is_empty());
    pair.backup.on_bytes(pair.now, &bytes);
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    // Acknowledged on receipt: nothing was executed.
    let ack = pair.sent_by_backup();
    pair.primary.on_bytes(pair.now, &ack);
    assert_eq!(
        pair.primary_said(),
        [primary::Command::OutputsReady(machine::Lane::Console)],
        "said once"
    );
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        Some(out.clone())
    );
    assert_eq!(
        pair.backup.replay(Position(100)),
        Ok(Replay::RunTo(Position(120)))
    );
    pair.backup.own_output(&out);
    assert_eq!(pair.backup.replay(Position(120)), Ok(Replay::Wait));
    assert_eq!(pair.backup.status().phase, "replaying");
}

#[test]
fn an_old_acknowledgement_lets_nothing_out() {
    let mut pair = Pair::protected();
    pair.primary
        .append_output(pair.now, output(120, 3, "hi\n"))
        .unwrap();
    let bytes = pair.sent_by_primary();
    pair.backup.on_bytes(pair.now, &bytes);
    let ack = pair.sent_by_backup();
    // The primary is frozen for longer than the backup waits.
    pair.now += 1500 * MS;
    pair.primary.on_bytes(pair.now, &ack);
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    // It asks, and the backup, which happens to be patient, answers.
    let ping = pair.sent_by_primary();
    pair.backup.on_bytes(pair.now, &ping);
    let answer = pair.sent_by_backup();
    pair.primary.on_bytes(pair.now, &answer);
    assert!(
        pair.primary
            .take_output(pair.now, machine::Lane::Console)
            .is_some()
    );
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut pair = Pair::protected();
    pair.primary
        .append_output(pair.now, output(120, 3, "hi\n"))
        .unwrap();
    let mut bytes = Vec::new();
    Message::Ack(ft::channel::Ack {
        next_expected: 2,
        executed: Position(100),
        echo: 0,
    })
    .encode(&mut bytes);
    pair.primary.on_bytes(pair.now, &bytes);
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    assert!(pair.primary_said().contains(&a_claims()));
}

#[test]
fn the_backup_is_asked_about_devices() {
    let mut pair = Pair::protected();
    let config = b"{}".to_vec();
    pair.primary.ask_about_device(7, config.clone()).unwrap();
    pair.exchange();
    let asked = backup::Command::DeviceQuery { id: 7, config };
    assert!(pair.said_by_backup.contains(&asked));
    for missing in [Some("no such TAP device".to_owned()), None] {
        pair.backup.answer_about_device(7, missing.clone());
        pair.exchange();
        let answer = primary::Command::DeviceAnswer { id: 7, missing };
        assert!(pair.said_by_primary.contains(&answer));
    }
    pair.primary.on_disconnect(pair.now);
    pair.primary.ask_about_device(8, Vec::new()).unwrap_err();
}
