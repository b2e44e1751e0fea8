//! The ways out of a generation that an operator or the guest chooses.

use ft::Settings;
use ft::arbiter::Answer;
use ft::backup::{self, Backup, EndedReason, HaltReason, Replay};
use ft::channel::{BlobKind, GoodbyeReason};
use ft::flag::Decision;
use ft::log::{Body, Control};
use ft::primary::{self, LossReason, Pairing, WrongPhase};
use machine::{Input, Position};

use super::pair::{A, B, G, MS, Pair, a_claims, b_claims, digest, offer, output, pairing};

fn ended() -> primary::Command {
    primary::Command::Decide {
        generation: G,
        decision: Decision::Ended,
    }
}

#[test]
fn a_power_off_is_no_failure() {
    let mut pair = Pair::protected();
    pair.append(100, Body::Control(Control::PowerOff));
    pair.exchange();
    let ended = primary::Command::Decide {
        generation: G,
        decision: Decision::Ended,
    };
    assert!(pair.primary_said().contains(&ended));
    assert!(matches!(
        pair.backup.replay(Position(100)),
        Ok(Replay::Apply(_))
    ));
    let said = pair.backup_said();
    assert!(said.contains(&backup::Command::Ended(EndedReason::PowerOff)));
    assert!(!said.contains(&b_claims()));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Stop));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    assert!(pair.primary_said().contains(&primary::Command::Ended));
}

#[test]
fn disabling_asks_the_flag_and_dismisses_the_backup() {
    let mut pair = Pair::protected();
    pair.primary.disable(pair.now).unwrap();
    assert!(pair.primary_said().contains(&a_claims()));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    pair.exchange();
    let said = pair.primary_said();
    assert!(said.contains(&primary::Command::Unprotected(LossReason::Disabled)));
    assert!(said.contains(&primary::Command::CloseChannel));
    let said = pair.backup_said();
    assert!(said.contains(&backup::Command::Ended(EndedReason::Disabled)));
    assert!(!said.contains(&b_claims()));
    // And it can be protected again.
    pair.primary
        .connect(
            pair.now,
            Pairing {
                generation: G.next(),
                ..pairing()
            },
        )
        .unwrap();
}

#[test]
fn a_power_off_that_the_backup_does_not_hear_of_is_one_all_the_same() {
    let mut pair = Pair::protected();
    pair.append(100, Body::Control(Control::PowerOff));
    pair.primary.on_disconnect(pair.now);
    assert!(pair.primary_said().contains(&ended()));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    assert!(pair.primary_said().contains(&primary::Command::Ended));
    // The backup was faster: then the VM goes on there, and the power-off never happened.
    let mut pair = Pair::protected();
    pair.append(100, Body::Control(Control::PowerOff));
    pair.primary.on_disconnect(pair.now);
    let to = Decision::Won { by: B };
    pair.primary
        .on_answer(pair.now, G, Answer::Lost { to: to.clone() });
    let said = pair.primary_said();
    assert!(said.contains(&primary::Command::Halt(to)));
    assert!(!said.contains(&primary::Command::Ended));
}

#[test]
fn cancelling_after_protection_began_asks_the_flag() {
    let mut pair = Pair::new(Settings::default(), offer());
    pair.exchange();
    let primary = &mut pair.primary;
    primary.send_blob(BlobKind::Config, 2, b"{}").unwrap();
    primary.send_blob(BlobKind::State, 3, b"cpu").unwrap();
    primary
        .finish_clone(pair.now, Position(100), digest(1))
        .unwrap();
    assert_eq!(primary.status(pair.now).phase, "verifying");
    // Nobody there can take over yet, so nothing is handed over.
    assert_eq!(primary.hand_over(pair.now), Err(WrongPhase("verifying")));
    primary.disable(pair.now).unwrap();
    assert!(pair.primary_said().contains(&a_claims()));
    // Before that it costs nothing.
    let mut pair = Pair::new(Settings::default(), offer());
    pair.exchange();
    pair.primary_said();
    pair.primary.disable(pair.now).unwrap();
    assert_eq!(
        pair.primary_said(),
        [
            primary::Command::CloseChannel,
            primary::Command::Unprotected(LossReason::Disabled)
        ]
    );
}

/// A pair whose primary has told its backup, which stands where it stands, to take over.
fn handed_over() -> Pair {
    let mut pair = Pair::protected();
    pair.append(110, Body::Input(Input::Reset));
    pair.append(150, Body::Watermark);
    pair.primary.hand_over(pair.now).unwrap();
    assert_eq!(pair.primary_said(), [primary::Command::StallVcpu]);
    pair.exchange();
    // What the backup has not executed yet, it executes first.
    assert_eq!(pair.backup.status().phase, "replaying");
    let backup = &mut pair.backup;
    assert_eq!(
        backup.replay(Position(100)),
        Ok(Replay::RunTo(Position(110)))
    );
    assert!(matches!(
        backup.replay(Position(110)),
        Ok(Replay::Apply(entry)) if entry.body == Body::Input(Input::Reset)
    ));
    assert_eq!(
        backup.replay(Position(110)),
        Ok(Replay::RunTo(Position(150)))
    );
    assert_eq!(backup.replay(Position(150)), Ok(Replay::Wait));
    assert_eq!(pair.backup_said(), []);
    pair.ticks(2);
    pair.exchange();
    assert_eq!(pair.primary.status(pair.now).phase, "handing over");
    assert_eq!(pair.backup.status().phase, "draining");
    assert!(!pair.primary.may_run());
    pair.primary_said();
    pair
}

#[test]
fn who_hands_over_halts_when_the_flag_says_so() {
    let mut pair = handed_over();
    assert_eq!(pair.backup.replay(Position(150)), Ok(Replay::Wait));
    assert!(pair.backup_said().contains(&b_claims()));
    assert_eq!(
        pair.primary_said(),
        [],
        "not before the backup had its time"
    );
    pair.backup.on_answer(pair.now, G, Answer::Won);
    let said = pair.backup_said();
    assert!(matches!(said[0], backup::Command::CloseChannel), "{said:?}");
    assert!(
        matches!(said[1], backup::Command::GoLive { .. }),
        "{said:?}"
    );
    // The connection ends: the backup has its answer.
    pair.primary.on_disconnect(pair.now);
    assert!(pair.primary_said().contains(&a_claims()));
    let to = Decision::Won { by: B };
    pair.primary
        .on_answer(pair.now, G, Answer::Lost { to: to.clone() });
    assert!(pair.primary_said().contains(&primary::Command::Halt(to)));
    assert!(!pair.primary.may_run());
}

#[test]
fn a_backup_that_does_not_take_over_leaves_the_vm_where_it_was() {
    for is_silent in [false, true] {
        let mut pair = handed_over();
        let out = output(150, 3, "hi\n");
        pair.primary.resume_output(pair.now, out.clone());
        assert_eq!(
            pair.primary.take_output(pair.now, machine::Lane::Console),
            None
        );
        assert!(!pair.primary.may_emit(pair.now));
        if is_silent {
            pair.now = pair.primary.deadline().unwrap();
            pair.primary.on_tick(pair.now);
        } else {
            pair.primary.on_disconnect(pair.now);
        }
        let said = pair.primary_said();
        assert!(said.contains(&a_claims()), "{said:?}");
        pair.primary.on_answer(pair.now, G, Answer::Won);
        let said = pair.primary_said();
        let alone = primary::Command::Unprotected(LossReason::NotTakenOver);
        assert!(said.contains(&alone), "{said:?}");
        assert!(said.contains(&primary::Command::RunVcpu), "{said:?}");
        assert_eq!(
            pair.primary.take_output(pair.now, machine::Lane::Console),
            Some(out)
        );
        // And the backup, should it ask now, halts.
        assert_eq!(pair.backup.replay(Position(150)), Ok(Replay::Wait));
        let to = Decision::Won { by: A };
        pair.backup
            .on_answer(pair.now, G, Answer::Lost { to: to.clone() });
        let lost = backup::Command::Halt(HaltReason::Lost(to));
        assert!(pair.backup_said().contains(&lost));
    }
}

#[test]
fn a_backup_that_does_not_catch_up_is_handed_nothing() {
    let mut pair = Pair::protected();
    pair.append(150, Body::Watermark);
    pair.primary.hand_over(pair.now).unwrap();
    assert_eq!(
        pair.primary.hand_over(pair.now),
        Err(WrongPhase("handing over"))
    );
    let give_up = pair.now + Settings::default().hand_over_timeout;
    while pair.now < give_up {
        assert!(!pair.primary.may_run());
        pair.ticks(1);
        pair.send_heartbeats();
        pair.exchange();
    }
    assert!(pair.primary.may_run());
    assert_eq!(pair.primary.status(pair.now).phase, "protected");
    assert_eq!(pair.backup.status().phase, "replaying");
    let said = pair.primary_said();
    assert!(!said.contains(&a_claims()), "{said:?}");
}

#[test]
fn a_backup_that_differs_when_it_is_to_take_over_says_so_and_does_not_ask() {
    let mut pair = Pair::protected();
    pair.append(100, Body::DigestHere { id: 4 });
    let components = digest(8);
    pair.append(100, Body::DigestValue { id: 4, components });
    pair.primary.hand_over(pair.now).unwrap();
    pair.exchange();
    assert!(matches!(
        pair.backup.replay(Position(100)),
        Ok(Replay::Apply(_))
    ));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    pair.ticks(2);
    pair.exchange();
    assert_eq!(pair.backup.status().phase, "draining");
    // It is still hashing: nobody asks before that is done.
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    assert!(!pair.backup_said().contains(&b_claims()));
    pair.backup.own_digest(4, digest(9));
    pair.exchange();
    let said = pair.primary_said();
    assert!(said.contains(&a_claims()), "{said:?}");
    pair.primary.on_answer(pair.now, G, Answer::Won);
    let said = pair.primary_said();
    let diverged = said.iter().any(|command| {
        matches!(command, primary::Command::Unprotected(LossReason::Diverged(m)) if m.component == "cpu")
    });
    assert!(diverged, "{said:?}");
    assert!(!pair.backup_said().contains(&b_claims()));
}

#[test]
fn what_is_over_is_not_handed_over() {
    let mut pair = Pair::protected();
    pair.append(100, Body::Control(Control::PowerOff));
    assert_eq!(
        pair.primary.hand_over(pair.now),
        Err(WrongPhase("powering off"))
    );
    // And a power-off on the way to a hand-over is a power-off.
    let mut pair = Pair::protected();
    pair.append(150, Body::Watermark);
    pair.primary.hand_over(pair.now).unwrap();
    pair.append(150, Body::Control(Control::PowerOff));
    pair.exchange();
    assert!(pair.primary_said().contains(&ended()));
    // Also when the backup has been told already: the flag decides which of the two it is.
    let mut pair = handed_over();
    pair.append(150, Body::Control(Control::PowerOff));
    pair.primary.on_disconnect(pair.now);
    assert!(pair.primary_said().contains(&ended()));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    assert!(pair.primary_said().contains(&primary::Command::Ended));
}

#[test]
fn a_backup_that_is_taken_away_says_so() {
    let mut pair = Pair::protected();
    assert!(pair.backup.leave("told to"));
    let left = backup::Command::Ended(EndedReason::Left);
    assert_eq!(pair.backup_said(), [left]);
    pair.exchange();
    assert_eq!(pair.backup_said(), [backup::Command::CloseChannel]);
    assert!(pair.primary_said().contains(&a_claims()));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    let said = pair.primary_said();
    let reason = LossReason::Left(GoodbyeReason::Shutdown, "told to".to_owned());
    assert!(
        said.contains(&primary::Command::Unprotected(reason)),
        "{said:?}"
    );
    // Who may be the only one left stays.
    let mut pair = Pair::protected();
    pair.backup.on_disconnect(pair.now);
    assert!(!pair.backup.leave("told to"));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    assert!(pair.backup_said().contains(&b_claims()));
    assert!(!pair.backup.leave("told to"));
}

#[test]
fn times_are_for_the_next_pairing() {
    let mut pair = Pair::protected();
    let other = Settings {
        timeout: 77 * MS,
        ..Settings::default()
    };
    assert_eq!(
        pair.primary.configure(other.clone()),
        Err(WrongPhase("protected"))
    );
    pair.primary.disable(pair.now).unwrap();
    assert_eq!(
        pair.primary.configure(other.clone()),
        Err(WrongPhase("claiming"))
    );
    pair.primary.on_answer(pair.now, G, Answer::Won);
    pair.exchange();
    pair.primary.configure(other).unwrap();
    let generation = G.next();
    let next = Pairing {
        generation,
        ..pairing()
    };
    pair.primary.connect(pair.now, next).unwrap();
    let bytes = pair.sent_by_primary();
    let mut fresh = Backup::new(Settings::default(), offer());
    fresh.on_bytes(pair.now, &bytes);
    assert_eq!(fresh.peer().map(|peer| peer.timeout), Some(77 * MS));
}

#[test]
fn the_rest_of_an_output_leaves_only_while_its_beginning_might() {
    let mut pair = Pair::protected();
    pair.primary
        .append_output(pair.now, output(120, 3, "hi\n"))
        .unwrap();
    pair.exchange();
    assert!(
        pair.primary
            .take_output(pair.now, machine::Lane::Console)
            .is_some()
    );
    assert!(pair.primary.may_emit(pair.now));
    // A freeze that is longer than the backup's patience.
    assert!(!pair.primary.may_emit(pair.now + 1500 * MS));
    pair.primary.on_disconnect(pair.now);
    assert!(!pair.primary.may_emit(pair.now));
    pair.primary.on_answer(pair.now, G, Answer::Won);
    assert!(pair.primary.may_emit(pair.now));
}
