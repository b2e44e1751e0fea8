//! Recorded runs, replayed.

use machine::{Translation, Tuning};
use std::path::Path;
use vmm::api::Request;
use vmm::vm::log_replay::{self, ReplayError, ReplayOptions, Replayed};

use super::site::Site;

fn replay(path: &Path) -> (Result<Replayed, ReplayError>, String) {
    replay_with(path, None)
}

fn replay_with(path: &Path, flush: Option<u64>) -> (Result<Replayed, ReplayError>, String) {
    let mut console = Vec::new();
    let options = ReplayOptions {
        tuning: Tuning::new(1 << 20, Translation::default()),
        flush,
    };
    let result = log_replay::replay(path, options, &mut console);
    (result, String::from_utf8(console).unwrap())
}

#[test]
fn a_recorded_run_replays_to_the_same_end() {
    let site = Site::new();
    let log = site.path("log");
    let host = site.boot(Some(&log));
    host.wait_for_lines(150);
    host.ask(Request::VmPause);
    host.ask(Request::VmPowerButton);
    host.ask(Request::VmResume);
    host.ask(Request::VmReboot);
    host.wait_for_lines(20);
    host.ask(Request::VmShutdown);
    let shown = host.shown();
    drop(host);
    // Neither the kernel's file nor anything else is needed.
    std::fs::remove_file(site.path("kernel")).unwrap();
    let (first, console) = replay(&log);
    let first = first.unwrap();
    assert_eq!(console, shown);
    assert!(first.is_complete);
    assert!(first.digests >= 3, "{first:?}");
    for seed in 1..4 {
        let (again, console) = replay_with(&log, Some(seed));
        assert_eq!(again.unwrap(), first);
        assert_eq!(console, shown);
    }

    // Cut off, it replays to the last whole batch.
    let bytes = std::fs::read(&log).unwrap();
    let cut = site.path("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 3]).unwrap();
    let (result, console) = replay(&cut);
    let replayed = result.unwrap();
    assert!(!replayed.is_complete && replayed.position <= first.position);
    assert!(shown.starts_with(&console) && console.len() * 2 > shown.len());

    // Damaged, it says so.
    let mut damaged = bytes.clone();
    let middle = damaged.len() - 200;
    damaged[middle] ^= 1;
    std::fs::write(&cut, &damaged).unwrap();
    let (result, _) = replay(&cut);
    assert!(matches!(result, Err(ReplayError::File(_))), "{result:?}");
    std::fs::write(&cut, b"something else").unwrap();
    replay(&cut).0.unwrap_err();
}

#[test]
fn a_recording_that_is_interrupted_is_complete_to_there() {
    let site = Site::new();
    let log = site.path("log");
    let host = site.boot(Some(&log));
    host.wait_for_lines(30);
    let console = host.console.clone();
    host.crash();
    let (result, replayed) = replay(&log);
    assert!(result.unwrap().is_complete);
    assert_eq!(replayed, std::fs::read_to_string(console).unwrap());
}
