//! Both roles, connected by nothing but the bytes that they give each other.

use ft::arbiter::{Answer, Arbiter, MemoryStore};
use ft::backup::{self, Backup, EndedReason, HaltReason, Offer, Replay};
use ft::channel::{BlobKind, HelloError, Message, MessageError, PAGE_BYTES};
use ft::flag::{Decision, Members};
use ft::frame::{self, FrameError, Kind};
use ft::identity::{Generation, Incarnation, Semantics, VmId};
use ft::log::{Body, ComponentDigest, Control, LogError};
use ft::primary::{self, LossReason, Pairing, Primary};
use ft::{PeerError, Settings, Tick};
use machine::{Input, Output, Position};
use proptest::prelude::*;

const A: Incarnation = Incarnation([0xa; 16]);
const B: Incarnation = Incarnation([0xb; 16]);
const VM: VmId = VmId([7; 16]);
const G: Generation = Generation(1);
const MS: Tick = 1_000_000;

fn semantics() -> Semantics {
    Semantics {
        engine: "soft".into(),
        cpu_model: "m1".into(),
        number: 1,
    }
}

fn pairing() -> Pairing {
    Pairing {
        semantics: semantics(),
        vm: VM,
        generation: G,
        us: A,
        ram_size: 8 * PAGE_BYTES as u64,
        heartbeat_port: 1,
    }
}

fn offer() -> Offer {
    Offer {
        semantics: vec![semantics()],
        us: B,
        vm: None,
        heartbeat_port: 2,
    }
}

fn digest(value: u64) -> Vec<ComponentDigest> {
    vec![ComponentDigest {
        name: "cpu".into(),
        value,
    }]
}

fn output(position: u64, through: u64, text: &str) -> Output {
    Output::Console {
        position: Position(position),
        through,
        bytes: text.as_bytes().to_vec(),
    }
}

/// Two sides and what lies between them.
struct Pair {
    now: Tick,
    primary: Primary,
    backup: Backup,
    arbiter: Arbiter<MemoryStore>,
    members: Option<Members>,
    said_by_primary: Vec<primary::Command>,
    said_by_backup: Vec<backup::Command>,
}

impl Pair {
    fn new(settings: Settings, offer: Offer) -> Pair {
        let mut pair = Pair {
            now: 1000 * MS,
            primary: Primary::new(settings.clone(), 0, Position(0)),
            backup: Backup::new(settings, offer),
            arbiter: Arbiter::new(MemoryStore::default()),
            members: None,
            said_by_primary: Vec::new(),
            said_by_backup: Vec::new(),
        };
        pair.primary.connect(pair.now, pairing()).unwrap();
        pair
    }

    /// A pair that is protected, both machines at position 100.
    fn protected() -> Pair {
        let mut pair = Pair::new(Settings::default(), offer());
        pair.exchange();
        pair.clone_machine(1);
        pair.exchange();
        assert_eq!(pair.primary.status(pair.now).phase, "protected");
        assert_eq!(pair.backup.status().phase, "replaying");
        pair.said_by_primary.clear();
        pair.said_by_backup.clear();
        pair
    }

    fn clone_machine(&mut self, backup_digest: u64) {
        let primary = &mut self.primary;
        let mut memory = vec![0; 8 * PAGE_BYTES];
        memory[3 * PAGE_BYTES] = 1;
        primary.send_blob(BlobKind::Config, 2, b"{}").unwrap();
        primary.send_pages(0, &memory, true).unwrap();
        primary.send_blob(BlobKind::State, 3, b"cpu").unwrap();
        primary
            .finish_clone(self.now, Position(100), digest(1))
            .unwrap();
        self.exchange();
        let last = self.said_by_backup.last();
        assert!(matches!(last, Some(backup::Command::CheckClone { .. })));
        self.backup
            .on_clone_checked(&digest(backup_digest), self.members.as_ref());
    }

    fn sent_by_primary(&mut self) -> Vec<u8> {
        let bytes = self.primary.transmit(self.now).to_vec();
        self.primary.transmitted(self.now, bytes.len());
        bytes
    }

    fn sent_by_backup(&mut self) -> Vec<u8> {
        let bytes = self.backup.transmit(self.now).to_vec();
        self.backup.transmitted(bytes.len());
        bytes
    }

    /// Lets both sides speak until they have nothing to say.
    fn exchange(&mut self) {
        loop {
            let forth = self.sent_by_primary();
            self.backup.on_bytes(self.now, &forth);
            let back = self.sent_by_backup();
            self.primary.on_bytes(self.now, &back);
            self.obey();
            if forth.is_empty() && back.is_empty() {
                return;
            }
        }
    }

    fn obey(&mut self) {
        while let Some(command) = self.primary.next_command() {
            if let primary::Command::BeginGeneration(members) = &command {
                self.arbiter.begin(members).unwrap();
                self.members = Some(members.clone());
                self.primary.on_generation_begun(self.now, Ok(()));
            }
            self.said_by_primary.push(command);
        }
        while let Some(command) = self.backup.next_command() {
            self.said_by_backup.push(command);
        }
    }

    fn primary_said(&mut self) -> Vec<primary::Command> {
        self.obey();
        std::mem::take(&mut self.said_by_primary)
    }

    fn backup_said(&mut self) -> Vec<backup::Command> {
        self.obey();
        self.said_by_backup
            .retain(|command| *command != backup::Command::Replay);
        std::mem::take(&mut self.said_by_backup)
    }

    fn append(&mut self, position: u64, body: Body) {
        self.primary
            .append(self.now, Position(position), body)
            .unwrap();
    }

    fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.now += 50 * MS;
            self.primary.on_tick(self.now);
            self.backup.on_tick(self.now);
            self.obey();
        }
    }
}

fn a_claims() -> primary::Command {
    primary::Command::Decide {
        generation: G,
        decision: Decision::Won { by: A },
    }
}

fn b_claims() -> backup::Command {
    backup::Command::Decide {
        generation: G,
        decision: Decision::Won { by: B },
    }
}

#[test]
fn outputs_leave_when_their_entry_is_acknowledged_and_not_before() {
    let mut pair = Pair::protected();
    let out = output(120, 3, "hi\n");
    pair.primary.append_output(pair.now, out.clone()).unwrap();
    assert_eq!(pair.primary.take_output(pair.now), None);
    // At once, because an output waits.
    let bytes = pair.sent_by_primary();
    assert!(!bytes.is_empty());
    pair.backup.on_bytes(pair.now, &bytes);
    assert_eq!(pair.primary.take_output(pair.now), None);
    // Acknowledged on receipt: nothing was executed.
    let ack = pair.sent_by_backup();
    pair.primary.on_bytes(pair.now, &ack);
    assert_eq!(
        pair.primary_said(),
        [primary::Command::OutputsReady],
        "said once"
    );
    assert_eq!(pair.primary.take_output(pair.now), Some(out.clone()));
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
    assert_eq!(pair.primary.take_output(pair.now), None);
    // It asks, and the backup, which happens to be patient, answers.
    let ping = pair.sent_by_primary();
    pair.backup.on_bytes(pair.now, &ping);
    let answer = pair.sent_by_backup();
    pair.primary.on_bytes(pair.now, &answer);
    assert!(pair.primary.take_output(pair.now).is_some());
}

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
    assert_eq!(pair.primary.take_output(pair.now), None);
    // No answer: wait, ask again.
    pair.primary.on_answer(pair.now, G, Answer::Unreachable);
    assert_eq!(pair.primary_said(), []);
    assert_eq!(pair.primary.take_output(pair.now), None);
    pair.now = pair.primary.deadline().unwrap();
    pair.primary.on_tick(pair.now);
    assert_eq!(pair.primary_said(), [a_claims()]);
    pair.primary.on_answer(pair.now, G, Answer::Won);
    let said = pair.primary_said();
    let gone = primary::Command::Unprotected(LossReason::Disconnected);
    assert!(said.contains(&gone) && said.contains(&primary::Command::RunVcpu));
    assert!(pair.primary.take_output(pair.now).is_some());
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
    assert_eq!(pair.primary.take_output(pair.now), None);
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
fn silence_is_noticed_by_both() {
    let mut pair = Pair::protected();
    pair.ticks(22);
    assert!(pair.primary_said().contains(&a_claims()));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    assert!(pair.backup_said().contains(&b_claims()));
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
fn a_backup_that_differs_tells_and_never_claims() {
    let mut pair = Pair::protected();
    pair.append(100, Body::DigestHere { id: 4 });
    pair.append(
        100,
        Body::DigestValue {
            id: 4,
            components: digest(8),
        },
    );
    pair.now += 50 * MS;
    pair.exchange();
    assert!(matches!(
        pair.backup.replay(Position(100)),
        Ok(Replay::Apply(_))
    ));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Wait));
    pair.backup.own_digest(4, digest(9));
    let said = pair.backup_said();
    assert!(matches!(
        &said[..],
        [backup::Command::DigestMismatch(m)] if m.component == "cpu" && m.position == Position(100)
    ));
    assert_eq!(pair.backup.replay(Position(100)), Ok(Replay::Stop));
    pair.exchange();
    let said = pair.primary_said();
    assert!(said.contains(&a_claims()));
    pair.backup.on_disconnect(pair.now);
    let said = pair.backup_said();
    assert!(matches!(
        said[..],
        [
            backup::Command::Halt(HaltReason::Diverged(_)),
            backup::Command::CloseChannel
        ]
    ));
}

#[test]
fn a_clone_that_differs_is_no_backup() {
    let mut pair = Pair::new(Settings::default(), offer());
    pair.exchange();
    pair.clone_machine(2);
    pair.exchange();
    assert_eq!(pair.backup.status().phase, "halted");
    assert!(pair.primary_said().contains(&a_claims()));
}

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
    assert_eq!(pair.primary.take_output(pair.now), None);
    assert!(pair.primary_said().contains(&a_claims()));
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
        prop_assert!(acked == 1 || pair.primary.take_output(pair.now).is_none());
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
