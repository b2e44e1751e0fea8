//! The loss of the peer, and what the flag says then.

use ft::arbiter::Answer;
use ft::backup::{self, Replay};
use ft::flag::Decision;
use ft::log::Body;
use ft::primary::{self, LossReason};
use machine::{Input, Position};

use super::pair::{B, G, MS, Pair, a_claims, b_claims, output};

#[test]
fn without_a_backup_the_primary_asks_before_it_goes_on() {
    let mut pair = Pair::protected();
    pair.primary
        .append_output(pair.now, output(120, 3, "hi\n"))
        .unwrap();
    let bytes = pair.sent_by_primary();
    pair.backup.on_bytes(pair.now, &bytes);
    let late = pair.sent_by_backup();
    pair.primary.on_disconnect(pair.now);
    assert_eq!(
        pair.primary_said(),
        [
            a_claims(),
            primary::Command::CloseChannel,
            primary::Command::StallVcpu
        ]
    );
    assert!(!pair.primary.may_run());
    // The link comes back with the acknowledgement: too late.
    pair.primary.on_bytes(pair.now, &late);
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    // No answer: wait, ask again.
    pair.primary.on_answer(pair.now, G, Answer::Unreachable);
    assert_eq!(pair.primary_said(), []);
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    pair.now = pair.primary.deadline().unwrap();
    pair.primary.on_tick(pair.now);
    assert_eq!(pair.primary_said(), [a_claims()]);
    pair.primary.on_answer(pair.now, G, Answer::Won);
    let said = pair.primary_said();
    let gone = primary::Command::Unprotected(LossReason::Disconnected);
    assert!(said.contains(&gone) && said.contains(&primary::Command::RunVcpu));
    assert!(
        pair.primary
            .take_output(pair.now, machine::Lane::Console)
            .is_some()
    );
    assert_eq!(pair.primary.status(pair.now).phase, "unprotected");
}

#[test]
fn who_lost_the_flag_halts_and_lets_nothing_out() {
    let mut pair = Pair::protected();
    pair.primary
        .append_output(pair.now, output(120, 3, "hi\n"))
        .unwrap();
    pair.exchange();
    pair.primary.on_disconnect(pair.now);
    let to = Decision::Won { by: B };
    pair.primary
        .on_answer(pair.now, G, Answer::Lost { to: to.clone() });
    assert!(pair.primary_said().contains(&primary::Command::Halt(to)));
    assert_eq!(
        pair.primary.take_output(pair.now, machine::Lane::Console),
        None
    );
    assert!(!pair.primary.may_run());
    pair.primary
        .append(pair.now, Position(130), Body::Watermark)
        .unwrap_err();
}

#[test]
fn the_backup_drains_then_asks_then_goes_live() {
    let mut pair = Pair::protected();
    pair.append(110, Body::Input(Input::PowerButton));
    pair.append(150, Body::Watermark);
    pair.now += 50 * MS;
    pair.exchange();
    pair.backup.on_disconnect(pair.now);
    let lost = backup::Command::PrimaryLost(backup::LossReason::Disconnected);
    assert_eq!(
        pair.backup_said(),
        [lost, backup::Command::CloseChannel],
        "no claim before everything is executed"
    );
    let backup = &mut pair.backup;
    assert_eq!(
        backup.replay(Position(100)),
        Ok(Replay::RunTo(Position(110)))
    );
    assert!(matches!(
        backup.replay(Position(110)),
        Ok(Replay::Apply(entry)) if entry.body == Body::Input(Input::PowerButton)
    ));
    assert_eq!(
        backup.replay(Position(110)),
        Ok(Replay::RunTo(Position(150)))
    );
    assert_eq!(backup.replay(Position(150)), Ok(Replay::Wait));
    assert_eq!(pair.backup_said(), [b_claims()]);
    pair.backup.on_answer(pair.now, G, Answer::Unreachable);
    assert_eq!(pair.backup.replay(Position(150)), Ok(Replay::Wait));
    pair.ticks(11);
    assert_eq!(pair.backup_said(), [b_claims()]);
    pair.backup.on_answer(pair.now, G, Answer::Won);
    assert_eq!(
        pair.backup_said(),
        [backup::Command::GoLive {
            generation: G,
            next_seq: 2,
            position: Position(150)
        }]
    );
    assert_eq!(pair.backup.replay(Position(150)), Ok(Replay::GoLive));
}

/// The stream is stuck, and datagrams are not: heartbeats alone make no backup.
#[test]
fn a_log_that_nobody_acknowledges_is_a_loss() {
    let mut pair = Pair::protected();
    pair.append(110, Body::Watermark);
    for tick in 1..100 {
        pair.ticks(1);
        pair.send_heartbeats();
        let has_claimed = pair.primary_said().contains(&a_claims());
        assert_eq!(has_claimed, tick == 40, "{tick}");
        if has_claimed {
            return;
        }
    }
}

#[test]
fn silence_is_noticed_by_both() {
    let mut pair = Pair::protected();
    pair.ticks(22);
    assert!(pair.primary_said().contains(&a_claims()));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    assert!(pair.backup_said().contains(&b_claims()));
}
