//! A backup that computes something else than its primary.

use ft::log::Body;
use machine::Input;
use vmm::api::Request;
use vmm::config::FtEnableConfig;
use vmm::host::clock;
use vmm::status::{FtInfo, FtState};

use super::site::{Host, Site, assert_one_history, wait_until};
use super::wire::{Tamper, Wire};

/// Protects `primary` over a wire on which `tamper` then changes an entry; what both sides say when
/// the backup has noticed.
fn diverge(site: &Site, primary: &Host, tamper: Tamper) -> (FtInfo, FtInfo) {
    let (backup, address) = site.receive();
    let wire = Wire::to(&address);
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer: wire.address.clone(),
        lease: site.lease(),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    wait_until("a digest on which they agree", || {
        backup.info().digests_matched > 0
    });
    wire.tamper(tamper);
    wait_until("the difference", || backup.info().state == FtState::Halted);
    wait_until("its report", || {
        primary.info().state == FtState::Unprotected
    });
    // It never goes live, whatever becomes of its primary.
    let infos = (primary.info(), backup.info());
    clock::sleep_until_ns(clock::monotonic_ns() + 300_000_000);
    assert_eq!(backup.info().state, FtState::Halted);
    infos
}

/// What differs in the machine's state and nowhere else shows in the next digest.
#[test]
fn a_digest_tells_and_the_backup_leaves_the_vm_to_the_primary() {
    let site = Site::new();
    let primary = site.boot(None);
    primary.wait_for_lines(10);
    let changed: Tamper = Box::new(|body| match body {
        // Each time, because the next one would put it right.
        Body::Input(Input::ConsoleEmitted { through }) => {
            *through -= 1;
            false
        }
        _ => false,
    });
    let (ours, theirs) = diverge(&site, &primary, changed);
    for info in [&ours, &theirs] {
        let why = info.last_error.join(": ");
        assert!(why.contains("component console differs"), "{why}");
    }
    // The primary goes on, and can have another backup.
    primary.wait_for_lines(20);
    let backup = site.protect(&primary);
    primary.crash();
    backup.wait_for(FtState::Unprotected);
    backup.wait_for_lines(10);
    assert_one_history(&backup.shown(), 2);
}

/// What differs in an output is noticed at that output.
#[test]
fn an_output_tells() {
    let site = Site::new();
    let primary = site.boot(None);
    let changed: Tamper = Box::new(|body| match body {
        Body::Input(Input::Anchor { virtual_time, .. }) => {
            *virtual_time += 40_000_000;
            true
        }
        _ => false,
    });
    let (ours, theirs) = diverge(&site, &primary, changed);
    for info in [&ours, &theirs] {
        let why = info.last_error.join(": ");
        assert!(why.contains("differs at position"), "{why}");
    }
    primary.wait_for_lines(20);
    assert_one_history(&primary.shown(), 1);
}
