//! A machine alone.

use vmm::api::Request;
use vmm::host::clock;
use vmm::status::VmState;

use super::site::{Site, assert_one_history, wait_until};

#[test]
fn a_guest_runs_as_its_clock_says() {
    let site = Site::new();
    let host = site.boot(None);
    host.wait_for_lines(20);
    let (before, began) = (host.shown().lines().count(), clock::monotonic_ns());
    host.wait_for_lines(100);
    let lines = host.shown().lines().count() - before;
    let seconds = (clock::monotonic_ns() - began) as f64 / 1e9;
    let rate = lines as f64 / seconds;
    // On a busy host it may fall behind; it never races.
    assert!(rate < 115.0, "{rate} lines a second instead of 100");
    host.ask(Request::VmPause);
    assert_eq!(host.state(), VmState::Paused);
    clock::sleep_until_ns(clock::monotonic_ns() + 200_000_000);
    let paused = host.shown();
    clock::sleep_until_ns(clock::monotonic_ns() + 300_000_000);
    assert_eq!(host.shown(), paused);
    host.try_ask(Request::VmPause).unwrap_err();
    host.ask(Request::VmResume);
    host.wait_for_lines(5);
    assert_one_history(&host.shown(), 1);
    host.ask(Request::VmReboot);
    wait_until("a second beginning", || {
        host.shown().matches("00000001 ").count() == 2
    });
    host.ask(Request::VmShutdown);
    let done = host.shown();
    clock::sleep_until_ns(clock::monotonic_ns() + 100_000_000);
    assert_eq!(host.shown(), done);
}
