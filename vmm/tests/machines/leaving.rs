//! The ways out of a pairing.

use std::thread;
use vmm::api::Request;
use vmm::config::{FtEnableConfig, Lease};
use vmm::host::clock;
use vmm::status::FtState;
use vmm::vmm::End;

use super::site::{Site, assert_one_history, wait_until};

#[test]
fn a_power_off_is_no_failure() {
    let site = Site::new();
    let primary = site.boot(None);
    let mut backup = site.protect(&primary);
    primary.wait_for_lines(20);
    primary.ask(Request::VmShutdown);
    assert!(matches!(backup.end(), End::PoweredOff));
    assert_one_history(&primary.shown(), 1);
    // The id may be started again.
    primary.ask(Request::VmBoot);
    primary.wait_for_lines(5);
}

#[test]
fn a_backup_takes_over_when_it_is_told_to() {
    let site = Site::new();
    let primary = site.boot(None);
    let backup = site.protect(&primary);
    primary.ask(Request::VmReboot);
    primary.wait_for_lines(20);
    primary.ask(Request::FtFailover);
    backup.wait_for(FtState::Unprotected);
    assert_eq!(primary.info().state, FtState::Halted);
    backup.wait_for_lines(20);
}

/// Whoever is asked to hand over and has nobody to hand over to says so, and runs on.
#[test]
fn nothing_is_handed_to_nobody() {
    let site = Site::new();
    let primary = site.boot(None);
    primary.try_ask(Request::FtFailover).unwrap_err();
    let backup = site.protect(&primary);
    backup.try_ask(Request::FtFailover).unwrap_err();
    backup.crash();
    // Whether it is known already that there is no backup or not.
    primary.try_ask(Request::FtFailover).unwrap_err();
    wait_until("the loss", || primary.info().state == FtState::Unprotected);
    primary.wait_for_lines(10);
    assert_one_history(&primary.shown(), 1);
}

#[test]
fn a_backup_that_is_deleted_is_missed_by_nobody() {
    let site = Site::new();
    let primary = site.boot(None);
    let backup = site.protect(&primary);
    primary.wait_for_lines(10);
    backup.ask(Request::VmDelete);
    wait_until("the loss", || primary.info().state == FtState::Unprotected);
    let why = primary.info().last_error.join(": ");
    assert!(why.contains("shutting down"), "{why}");
    primary.wait_for_lines(10);
    assert_one_history(&primary.shown(), 1);
    // Its process can be used again.
    backup.try_ask(Request::VmInfo).unwrap_err();
}

/// A VM that has won a flag and is alone ends with its process: its id may be started again without
/// an operator's word.
#[test]
fn a_winner_that_is_told_to_end_notes_that() {
    let site = Site::new();
    let primary = site.boot(None);
    let mut backup = site.protect(&primary);
    let vm = primary.info().vm_id.unwrap();
    let lease = site.lease().unwrap();
    primary.crash();
    backup.wait_for(FtState::Unprotected);
    vmm::authority::may_boot(vm, &lease).unwrap_err();
    backup.api.end_by_signal(libc::SIGTERM);
    backup.end();
    vmm::authority::may_boot(vm, &lease).unwrap();
}

/// A backup whose primary is gone may have won the flag already: it learns that before it goes.
#[test]
fn a_backup_that_waits_for_its_arbiter_is_deleted_when_it_has_the_answer() {
    let site = Site::new();
    let primary = site.boot(None);
    let shared = site.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let (backup, peer) = site.receive();
    let lease = Lease::File(shared.join("flag"));
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer,
        lease: Some(lease.clone()),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    backup.wait_for(FtState::Replaying);
    let vm = primary.info().vm_id.unwrap();
    std::fs::rename(&shared, site.path("elsewhere")).unwrap();
    primary.crash();
    wait_until("waiting", || backup.info().state == FtState::Waiting);
    let api = backup.api.clone();
    let deletion = thread::spawn(move || api.call_and_wait(Request::VmDelete));
    clock::sleep_until_ns(clock::monotonic_ns() + 300_000_000);
    assert!(!deletion.is_finished());
    assert_eq!(backup.info().state, FtState::Waiting);
    std::fs::rename(site.path("elsewhere"), &shared).unwrap();
    deletion.join().unwrap().unwrap();
    // It won, and powered the VM off: the id may be started again.
    vmm::authority::may_boot(vm, &lease).unwrap();
}
