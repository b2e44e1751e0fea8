//! Pairs, and what they survive.

use vmm::api::{ApiError, Request, Response};
use vmm::config::{FtEnableConfig, Lease};
use vmm::host::clock;
use vmm::status::{FtRole, FtState, VmState};

use super::site::{Site, assert_one_history, wait_until};

#[test]
fn a_guest_outlives_host_after_host() {
    let site = Site::new();
    let mut primary = site.boot(None);
    primary.wait_for_lines(10);
    for generation in 1..=3 {
        let backup = site.protect(&primary);
        primary.wait_for_lines(150);
        wait_until("digests", || backup.info().digests_matched > 0);
        let info = primary.info();
        assert_eq!(info.generation, Some(generation));
        primary.crash();
        let info = backup.wait_for(FtState::Unprotected);
        assert!(info.takeover_ms.is_some(), "{info:?}");
        primary = backup;
        primary.wait_for_lines(20);
        assert_eq!(primary.state(), VmState::Running);
    }
    assert_one_history(&primary.shown(), 4);
}

#[test]
fn a_guest_outlives_its_backups() {
    let site = Site::new();
    let primary = site.boot(None);
    for _ in 0..2 {
        let backup = site.protect(&primary);
        primary.wait_for_lines(20);
        backup.crash();
        wait_until("the loss", || primary.info().state == FtState::Unprotected);
        primary.wait_for_lines(20);
    }
    // Switched off in order.
    let backup = site.protect(&primary);
    let Response::Info(shown) = backup.ask(Request::VmInfo) else {
        panic!("it knows what it follows");
    };
    assert_eq!(shown.memory_actual_size, 32 << 20);
    primary.ask(Request::FtDisable);
    primary.wait_for(FtState::Unprotected);
    backup.wait_for(FtState::Receiving);
    // What it would have become is nothing that it shows any more.
    wait_until("the clone is forgotten", || {
        let info = backup.try_ask(Request::VmInfo);
        matches!(info, Err(ApiError::VmReceiving))
    });
    primary.wait_for_lines(20);
    assert_one_history(&primary.shown(), 1);
}

#[test]
fn a_guest_that_is_paused_stays_paused() {
    let site = Site::new();
    let mut primary = site.boot(None);
    primary.wait_for_lines(5);
    for is_protected_first in [true, false] {
        let early = is_protected_first.then(|| site.protect(&primary));
        primary.ask(Request::VmPause);
        let backup = early.unwrap_or_else(|| site.protect(&primary));
        clock::sleep_until_ns(clock::monotonic_ns() + 200_000_000);
        let shown = primary.shown();
        primary.crash();
        backup.wait_for(FtState::Unprotected);
        assert_eq!(backup.state(), VmState::Paused);
        // Bytes that may not have left are shown again; no new ones are made.
        clock::sleep_until_ns(clock::monotonic_ns() + 200_000_000);
        assert!(backup.shown().lines().last() == shown.lines().last());
        backup.ask(Request::VmResume);
        backup.wait_for_lines(10);
        primary = backup;
    }
}

#[test]
fn without_an_answer_of_the_arbiter_nobody_goes_on() {
    let site = Site::new();
    let primary = site.boot(None);
    let shared = site.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let (backup, peer) = site.receive();
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer,
        lease: Some(Lease::File(shared.join("flag"))),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    backup.wait_for(FtState::Replaying);
    primary.wait_for_lines(10);
    std::fs::rename(&shared, site.path("elsewhere")).unwrap();
    primary.crash();
    wait_until("waiting", || backup.info().state == FtState::Waiting);
    let shown = backup.shown();
    clock::sleep_until_ns(clock::monotonic_ns() + 700_000_000);
    assert_eq!(backup.info().state, FtState::Waiting);
    assert_eq!(backup.shown(), shown);
    std::fs::rename(site.path("elsewhere"), &shared).unwrap();
    backup.wait_for(FtState::Unprotected);
    backup.wait_for_lines(10);
    assert_one_history(&backup.shown(), 2);
}

#[test]
fn nothing_is_lost_when_there_is_no_peer() {
    let site = Site::new();
    let primary = site.boot(None);
    let (backup, peer) = site.receive();
    drop(backup);
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer,
        lease: site.lease(),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    wait_until("the failure", || !primary.info().last_error.is_empty());
    assert_eq!(primary.info().state, FtState::Unprotected);
    primary.wait_for_lines(10);
    let backup = site.protect(&primary);
    backup.try_ask(Request::VmReboot).unwrap_err();
    assert_eq!(primary.info().last_error, Vec::<String>::new());
}

/// Found by review: asking for protection of a VM that has it closed the connection to its backup.
#[test]
fn who_is_protected_is_not_protected_again() {
    let site = Site::new();
    let primary = site.boot(None);
    let backup = site.protect(&primary);
    let (other, peer) = site.receive();
    let again = FtEnableConfig {
        fence: None,
        peer,
        lease: Some(Lease::File(site.path("another"))),
        insecure: false,
        detection_timeout_ms: 1000,
    };
    primary
        .try_ask(Request::FtEnable(again.clone()))
        .unwrap_err();
    let before = primary.info();
    primary.wait_for_lines(50);
    let after = primary.info();
    assert_eq!(after.state, FtState::Protected);
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.peer, before.peer);
    assert_eq!(other.info().state, FtState::Receiving);
    primary.crash();
    backup.wait_for(FtState::Unprotected);
    backup.wait_for_lines(10);
}

/// Found by review: protection could not be called off while its peer did not answer.
#[test]
fn protection_is_called_off_before_there_is_a_peer() {
    let site = Site::new();
    let primary = site.boot(None);
    // A peer whose port is full: connecting to it takes for ever.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let connect = || {
        let timeout = std::time::Duration::from_millis(100);
        std::net::TcpStream::connect_timeout(&address, timeout)
    };
    let full: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer: format!("tcp:{address}").parse().unwrap(),
        lease: site.lease(),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    assert_eq!(primary.info().state, FtState::Cloning);
    primary.ask(Request::FtDisable);
    assert_eq!(primary.info().state, FtState::Unprotected);
    let backup = site.protect(&primary);
    drop(full);
    primary.wait_for_lines(20);
    assert_eq!(primary.info().state, FtState::Protected);
    primary.crash();
    backup.wait_for(FtState::Unprotected);
}

/// What `ft-info` says over the life of a failover.
#[test]
fn each_side_says_what_it_is() {
    let site = Site::new();
    let primary = site.boot(None);
    let info = primary.info();
    assert_eq!(
        (info.role, info.state),
        (FtRole::None, FtState::Unprotected)
    );
    assert_eq!(
        (info.generation, &info.peer, info.lag_ms),
        (None, &None, None)
    );
    assert!(info.vm_id.is_some());

    let (backup, peer) = site.receive();
    let info = backup.info();
    assert_eq!(
        (info.role, info.state),
        (FtRole::Backup, FtState::Receiving)
    );
    assert_eq!((info.vm_id, info.generation, info.peer), (None, None, None));

    let shared = site.path("shared");
    std::fs::create_dir(&shared).unwrap();
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer: peer.clone(),
        lease: Some(Lease::File(shared.join("flag"))),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    backup.wait_for(FtState::Replaying);
    primary.wait_for_lines(20);
    let ours = primary.info();
    assert_eq!((ours.role, ours.generation), (FtRole::Primary, Some(1)));
    assert_eq!(ours.peer, Some(peer.to_string()));
    assert!(
        ours.lag_ms.is_some() && ours.log_bytes > 0 && ours.log_entries > 0,
        "{ours:?}"
    );
    assert_eq!(ours.last_error, Vec::<String>::new());
    let theirs = backup.info();
    assert_eq!((theirs.role, theirs.generation), (FtRole::Backup, Some(1)));
    assert_eq!(theirs.vm_id, ours.vm_id);
    assert!(theirs.peer.is_some() && theirs.log_bytes > 0 && theirs.log_entries > 0);

    // Nobody goes on without an answer, and both say why.
    std::fs::rename(&shared, site.path("elsewhere")).unwrap();
    backup.crash();
    wait_until("waiting", || primary.info().state == FtState::Waiting);
    let info = primary.info();
    assert_eq!((info.role, info.generation), (FtRole::Primary, Some(1)));
    let why = info.last_error.join(": ");
    assert!(
        why.contains("does not answer") && why.contains("connection to the backup"),
        "{why}"
    );
    std::fs::rename(site.path("elsewhere"), &shared).unwrap();
    wait_until("alone", || primary.info().state == FtState::Unprotected);
    let info = primary.info();
    // The winner, unpaired.
    assert_eq!(
        (info.role, info.generation, &info.peer),
        (FtRole::None, Some(1), &None)
    );
    assert!(info.log_bytes >= ours.log_bytes);
    let why = info.last_error.join(": ");
    assert!(why.contains("connection to the backup"), "{why}");

    let (backup, peer) = site.receive();
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer,
        lease: Some(Lease::File(shared.join("flag"))),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    primary.ask(Request::FtFailover);
    let info = primary.info();
    assert_eq!((info.role, info.state), (FtRole::Primary, FtState::Halted));
    assert_eq!(info.generation, Some(2));
    let why = info.last_error.join(": ");
    assert!(
        why.contains("another side speaks") && why.contains("won by"),
        "{why}"
    );
    let info = backup.wait_for(FtState::Unprotected);
    assert_eq!(
        (info.role, info.generation, &info.peer),
        (FtRole::None, Some(2), &None)
    );
    assert!(info.takeover_ms.is_some() && info.log_bytes > 0, "{info:?}");
}

#[test]
fn a_backup_without_the_disk_refuses() {
    let site = Site::new();
    let image = site.path("disk");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let primary = site.boot_with(None, serde_json::json!([{ "path": image }]));
    std::fs::rename(&image, site.path("elsewhere")).unwrap();
    let (_backup, peer) = site.receive();
    primary.ask(Request::FtEnable(FtEnableConfig {
        fence: None,
        peer,
        lease: site.lease(),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    wait_until("a refusal", || !primary.info().last_error.is_empty());
    let why = primary.info().last_error.join(": ");
    assert!(why.contains("cannot use the disk"), "{why}");
    primary.wait_for_lines(3);
    // With the image there is a backup, which takes it over when it goes live.
    std::fs::rename(site.path("elsewhere"), &image).unwrap();
    primary.wait_for(FtState::Unprotected);
    let backup = site.protect(&primary);
    primary.crash();
    backup.wait_for(FtState::Unprotected);
    backup.wait_for_lines(3);
}
