//! Machines that differ.

use ft::Settings;
use ft::backup::{self, HaltReason, Replay};
use ft::log::Body;
use machine::Position;

use super::pair::{MS, Pair, a_claims, digest, offer};

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
