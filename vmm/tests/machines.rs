//! Machines with a small kernel of our own: alone, recorded, in pairs.
//!
//! Several hosts live in this one process, each with its VMM thread and what belongs to it, and talk
//! over the loopback interface. A host that "crashes" ends its threads and closes its connections
//! without a word to its peer.

mod guest;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use machine::{Translation, Tuning};
use vmm::api::{ApiError, ApiHandle, Request, Response};
use vmm::config::{FtEnableConfig, FtReceiveConfig, Lease, TcpAddress, VmConfig};
use vmm::host::clock;
use vmm::host::event_monitor::EventMonitor;
use vmm::machine_factory::{MachineFactory, MachineOptions};
use vmm::status::{FtInfo, FtState, VmState};
use vmm::vm::log_replay::{self, ReplayError, ReplayOptions, Replayed};
use vmm::vmm::{End, Vmm};
use vmm_sys_util::tempdir::TempDir;

/// For whatever should happen soon.
const SOON: Duration = Duration::from_secs(60);

/// What hosts share.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.as_path().join("kernel"), guest::kernel()).unwrap();
        Site { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.as_path().join(name)
    }

    fn lease(&self) -> Option<Lease> {
        Some(Lease::File(self.path("flag")))
    }

    /// A host with the guest's machine, which runs.
    fn boot(&self, record: Option<&Path>) -> Host {
        self.boot_with(record, serde_json::json!([]))
    }

    /// Like [`Site::boot`], with these disks.
    fn boot_with(&self, record: Option<&Path>, disks: serde_json::Value) -> Host {
        let mut host = Host::new(record);
        // Whoever goes live continues the same file.
        host.console = self.path("console");
        let config = serde_json::json!({
            "payload": { "kernel": self.path("kernel") },
            "memory": { "size": 32 << 20 },
            "serial": { "mode": "File", "file": host.console },
            "disks": disks,
        });
        let config = VmConfig::from_json(config.to_string().as_bytes()).unwrap();
        host.ask(Request::VmCreate(Box::new(config)));
        host.ask(Request::VmBoot);
        host
    }

    /// A host that waits for a primary, and where.
    fn receive(&self) -> (Host, TcpAddress) {
        let mut host = Host::new(None);
        host.console = self.path("console");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = TcpAddress {
            host: "127.0.0.1".to_owned(),
            port: free.local_addr().unwrap().port(),
        };
        drop(free);
        host.ask(Request::FtReceive(FtReceiveConfig {
            listen: listen.clone(),
            lease: None,
            insecure: false,
            detection_timeout_ms: 1000,
        }));
        (host, listen)
    }

    /// Gives the machine of `primary` a backup, and waits until it has it.
    fn protect(&self, primary: &Host) -> Host {
        let (backup, peer) = self.receive();
        primary.ask(Request::FtEnable(FtEnableConfig {
            peer,
            lease: self.lease(),
            insecure: false,
            detection_timeout_ms: 1000,
        }));
        primary.wait_for(FtState::Protected);
        backup.wait_for(FtState::Replaying);
        backup
    }
}

/// A VMM thread with its machine.
struct Host {
    api: ApiHandle,
    thread: Option<thread::JoinHandle<End>>,
    console: PathBuf,
}

impl Host {
    fn new(record: Option<&Path>) -> Host {
        let options = MachineOptions {
            record: record.map(Path::to_owned),
            ..Default::default()
        };
        let factory = MachineFactory::new(options).unwrap();
        let vmm = Vmm::new(Box::new(factory), true, EventMonitor::none());
        Host {
            api: vmm.handle(),
            thread: Some(thread::spawn(move || vmm.run())),
            console: PathBuf::new(),
        }
    }

    fn try_ask(&self, request: Request) -> Result<Response, ApiError> {
        self.api.call_and_wait(request)
    }

    fn ask(&self, request: Request) -> Response {
        self.try_ask(request).unwrap()
    }

    fn info(&self) -> FtInfo {
        match self.ask(Request::FtInfo) {
            Response::Ft(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> VmState {
        match self.ask(Request::VmInfo) {
            Response::Info(info) => info.state,
            other => panic!("{other:?}"),
        }
    }

    fn wait_for(&self, state: FtState) -> FtInfo {
        let mut last = FtInfo::default();
        wait_until(&format!("{state:?}"), || {
            last = self.info();
            assert!(
                last.state == state || last.last_error.is_empty() || state == FtState::Unprotected,
                "{last:?}"
            );
            last.state == state
        });
        last
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Waits for `count` more lines.
    fn wait_for_lines(&self, count: usize) {
        let goal = self.shown().lines().count() + count;
        wait_until("more lines", || self.shown().lines().count() >= goal);
    }

    /// Ends without a word.
    fn crash(mut self) {
        self.api.end_by_signal(9);
        assert!(matches!(self.end(), End::Signal(9)));
    }

    /// Waits for its end.
    fn end(&mut self) -> End {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.api.end_by_signal(9);
            // A test that has failed already needs no second panic.
            let _ = thread.join();
        }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::monotonic_ns() + SOON.as_nanos() as u64;
    while !is_so() {
        assert!(clock::monotonic_ns() < deadline, "it took too long: {what}");
        clock::sleep_until_ns(clock::monotonic_ns() + 5_000_000);
    }
}

/// What was shown is the history of one machine. Each of `hosts` may have shown some bytes again.
fn assert_one_history(shown: &str, hosts: usize) {
    let expected = guest::lines(shown.lines().count() as u32 + 1);
    let (mut rest, mut at) = (shown.as_bytes(), 0);
    for _ in 0..hosts {
        // The longest piece that fits from here on.
        let fits = |rest: &[u8], at: usize| {
            let pairs = rest.iter().zip(&expected.as_bytes()[at..]);
            pairs.take_while(|(a, b)| a == b).count()
        };
        let piece = fits(rest, at);
        (rest, at) = (&rest[piece..], at + piece);
        if rest.is_empty() {
            return;
        }
        // The next host repeats, but leaves nothing out.
        let back = (0..=at)
            .rev()
            .find(|from| fits(rest, *from) > 18 || fits(rest, *from) == rest.len());
        at = back.unwrap_or_else(|| panic!("no machine shows this: {shown}"));
    }
    assert!(rest.is_empty(), "more than {hosts} pieces: {shown}");
}

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
    primary.ask(Request::FtDisable);
    primary.wait_for(FtState::Unprotected);
    backup.wait_for(FtState::Receiving);
    primary.wait_for_lines(20);
    assert_one_history(&primary.shown(), 1);
}

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

#[test]
fn a_backup_without_the_disk_refuses() {
    let site = Site::new();
    let image = site.path("disk");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let primary = site.boot_with(None, serde_json::json!([{ "path": image }]));
    std::fs::rename(&image, site.path("elsewhere")).unwrap();
    let (_backup, peer) = site.receive();
    primary.ask(Request::FtEnable(FtEnableConfig {
        peer,
        lease: site.lease(),
        insecure: false,
        detection_timeout_ms: 1000,
    }));
    wait_until("a refusal", || !primary.info().last_error.is_empty());
    let why = primary.info().last_error.join(": ");
    assert!(why.contains("no disk image"), "{why}");
    primary.wait_for_lines(3);
    // With the image there is a backup, which takes it over when it goes live.
    std::fs::rename(site.path("elsewhere"), &image).unwrap();
    primary.wait_for(FtState::Unprotected);
    let backup = site.protect(&primary);
    primary.crash();
    backup.wait_for(FtState::Unprotected);
    backup.wait_for_lines(3);
}
