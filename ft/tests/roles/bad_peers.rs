//! Peers that do not fit, and bytes that are no message.

use ft::backup::{self, Backup, HaltReason, Offer, Replay};
use ft::channel::{BlobKind, HelloError, Message, MessageError, PAGE_BYTES};
use ft::frame::{self, FrameError, Kind};
use ft::identity::{Semantics, VmId};
use ft::log::{Body, LogError};
use ft::primary::{self, LossReason};
use ft::{PeerError, Settings};
use machine::Position;
use proptest::prelude::*;

use super::pair::{A, MS, Pair, VM, a_claims, b_claims, digest, offer, output, semantics};

#[test]
fn a_backup_with_another_arbiter_refuses() {
    let mut pair = Pair::new(Settings::default(), offer());
    pair.exchange();
    let _ = pair.members.take();
    pair.clone_machine(1);
    assert!(matches!(
        &pair.backup_said()[..],
        [.., backup::Command::Halt(HaltReason::Refused(_))]
    ));
    pair.exchange();
    assert!(pair.primary_said().contains(&a_claims()));
}

fn hello_error(said: &[backup::Command]) -> Option<HelloError> {
    match said {
        [
            backup::Command::Halt(HaltReason::Incomplete(backup::LossReason::Failed(
                PeerError::Hello(error) | PeerError::Message(MessageError::Hello(error)),
            ))),
            backup::Command::CloseChannel,
        ] => Some(error.clone()),
        _ => None,
    }
}

#[test]
fn a_backup_is_whichever_of_its_machines_the_primary_is() {
    let other = Semantics {
        cpu_model: "m2".into(),
        ..semantics()
    };
    let many = Offer {
        semantics: vec![other, semantics()],
        ..offer()
    };
    let mut pair = Pair::new(Settings::default(), many);
    pair.exchange();
    let answer = pair.primary.peer().expect("the backup answered");
    assert_eq!(answer.semantics, semantics());
    let none = Offer {
        semantics: Vec::new(),
        ..offer()
    };
    let mut pair = Pair::new(Settings::default(), none);
    pair.exchange();
    assert_eq!(
        hello_error(&pair.backup_said()),
        Some(HelloError::NothingOffered)
    );
}

#[test]
fn strangers_are_turned_away() {
    let other = Semantics {
        number: 2,
        ..semantics()
    };
    let wrong_machine = Offer {
        semantics: vec![other.clone()],
        ..offer()
    };
    let wrong_vm = Offer {
        vm: Some(VmId([8; 16])),
        ..offer()
    };
    let ourselves = Offer { us: A, ..offer() };
    let small = Settings {
        max_ram_bytes: PAGE_BYTES as u64,
        ..Settings::default()
    };
    let cases = [
        (
            Settings::default(),
            wrong_machine,
            HelloError::WrongSemantics {
                ours: other,
                theirs: semantics(),
            },
        ),
        (
            Settings::default(),
            wrong_vm,
            HelloError::WrongVm {
                ours: VmId([8; 16]),
                theirs: VM,
            },
        ),
        (Settings::default(), ourselves, HelloError::Ourselves),
        (
            small,
            offer(),
            HelloError::BadRamSize {
                size: 8 * PAGE_BYTES as u64,
                cap: PAGE_BYTES as u64,
            },
        ),
    ];
    for (settings, offer, error) in cases {
        let mut pair = Pair::new(settings, offer);
        pair.exchange();
        let said = pair.backup_said();
        assert_eq!(hello_error(&said), Some(error), "{said:?}");
        // The primary runs on as if nothing had been.
        pair.primary.on_disconnect(pair.now);
        let said = pair.primary_said();
        assert_eq!(
            said,
            [
                primary::Command::CloseChannel,
                primary::Command::Unprotected(LossReason::Disconnected)
            ]
        );
    }
}

#[test]
fn garbage_gets_a_typed_error() {
    let mut backup = Backup::new(Settings::default(), offer());
    backup.on_bytes(0, b"GET / HTTP/1.1\r\n");
    assert_eq!(
        backup.next_command(),
        Some(backup::Command::Halt(HaltReason::Incomplete(
            backup::LossReason::Failed(PeerError::Message(MessageError::Frame(
                FrameError::NoFrame(b'G')
            )))
        )))
    );
    // A message before its time.
    let mut backup = Backup::new(Settings::default(), offer());
    let mut bytes = Vec::new();
    Message::Ping(1).encode(&mut bytes);
    backup.on_bytes(0, &bytes);
    assert!(matches!(
        backup.next_command(),
        Some(backup::Command::Halt(HaltReason::Incomplete(
            backup::LossReason::Failed(PeerError::Unexpected { .. })
        )))
    ));
}

/// What a protected backup has been sent by somebody who is not its primary.
fn after_bad_bytes(bytes: &[u8]) -> (Pair, Vec<backup::Command>) {
    let mut pair = Pair::protected();
    pair.append(110, Body::Watermark);
    pair.now += 50 * MS;
    pair.exchange();
    let before = pair.backup.status();
    pair.backup.on_bytes(pair.now, bytes);
    let said = pair.backup_said();
    let after = pair.backup.status();
    assert_eq!(
        (before.next_expected, before.received, before.buffered_bytes),
        (after.next_expected, after.received, after.buffered_bytes),
        "nothing changed"
    );
    (pair, said)
}

#[test]
fn bad_batches_change_nothing_and_what_was_acknowledged_stays() {
    let mut gap = Vec::new();
    frame::seal(Kind::LogBatch, &[5, 0, 0], &mut gap);
    let mut half = Vec::new();
    frame::seal(Kind::LogBatch, &[1, 4, 5, 2, 9, 9], &mut half);
    let mut oversized = vec![0xf1, Kind::LogBatch as u8];
    oversized.extend([0xff, 0xff, 0x7f]);
    let mut flipped = gap.clone();
    flipped[8] ^= 1;
    for bytes in [&gap, &half, &oversized, &flipped] {
        let (mut pair, said) = after_bad_bytes(bytes);
        let [
            backup::Command::PrimaryLost(backup::LossReason::Failed(error)),
            backup::Command::CloseChannel,
        ] = &said[..]
        else {
            panic!("{said:?}");
        };
        if bytes == &gap {
            let expected = LogError::NotDense {
                expected: 1,
                found: 5,
            };
            assert_eq!(*error, PeerError::Log(expected));
        }
        assert_eq!(
            pair.backup.replay(Position(100)),
            Ok(Replay::RunTo(Position(110)))
        );
        assert_eq!(pair.backup.replay(Position(110)), Ok(Replay::Wait));
        assert_eq!(pair.backup_said(), [b_claims()]);
    }
    // A frame that never ends only waits.
    let (mut pair, said) = after_bad_bytes(&gap[..6]);
    assert_eq!(said, []);
    pair.backup.on_disconnect(pair.now);
    assert_eq!(pair.backup.status().phase, "draining");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes come in whatever frames: an error, or nothing; no panic, and no output.
    #[test]
    fn noise_never_panics(
        kind in 0u8..12,
        payload in prop::collection::vec(any::<u8>(), 0..60),
        raw in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        if raw {
            bytes.extend_from_slice(&payload);
        } else {
            bytes.extend([0xf1, kind, payload.len() as u8]);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &payload);
            bytes.extend(crc.to_le_bytes());
            bytes.extend_from_slice(&payload);
        }
        let mut pair = Pair::protected();
        pair.primary.append_output(pair.now, output(120, 3, "hi\n")).unwrap();
        pair.primary.on_bytes(pair.now, &bytes);
        pair.backup.on_bytes(pair.now, &bytes);
        let mut fresh = Backup::new(Settings::default(), offer());
        fresh.on_bytes(pair.now, &bytes);
        let mut fresh = Pair::new(Settings::default(), offer());
        fresh.primary.on_bytes(pair.now, &bytes);
        let acked = pair.primary.status(pair.now).acked;
        prop_assert!(acked == 1 || pair.primary.take_output(pair.now, machine::Lane::Console).is_none());
    }

    /// A whole conversation with one byte changed: a typed error or a lost message, no panic.
    #[test]
    fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut pair = Pair::new(Settings::default(), offer());
        pair.exchange();
        let primary = &mut pair.primary;
        primary.send_blob(BlobKind::Config, 2, b"{}").unwrap();
        primary.send_pages(0, &vec![1; 2 * PAGE_BYTES], true).unwrap();
        primary.send_blob(BlobKind::State, 3, b"cpu").unwrap();
        primary.finish_clone(pair.now, Position(100), digest(1)).unwrap();
        pair.append(120, Body::DigestHere { id: 1 });
        pair.now += 50 * MS;
        let mut bytes = pair.sent_by_primary();
        let at = at.index(bytes.len());
        let changed = bytes[at] != to;
        bytes[at] = to;
        pair.backup.on_bytes(pair.now, &bytes);
        let complete = pair.backup.status().next_expected == 1;
        prop_assert_eq!(complete, !changed);
    }
}
