//! Hosts, each with its VMM thread and what belongs to it, and what they share.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use vmm::api::{ApiError, ApiHandle, Request, Response};
use vmm::config::{FtEnableConfig, FtReceiveConfig, Lease, TcpAddress, VmConfig};
use vmm::host::clock;
use vmm::host::event_monitor::EventMonitor;
use vmm::machine_factory::{MachineFactory, MachineOptions};
use vmm::status::{FtInfo, FtState, VmState};
use vmm::vmm::{End, Vmm};
use vmm_sys_util::tempdir::TempDir;

/// For whatever should happen soon.
pub const SOON: Duration = Duration::from_secs(60);

/// What hosts share.
pub struct Site {
    pub directory: TempDir,
}

impl Site {
    pub fn new() -> Site {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.as_path().join("kernel"), super::guest::kernel()).unwrap();
        Site { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.as_path().join(name)
    }

    pub fn lease(&self) -> Option<Lease> {
        Some(Lease::File(self.path("flag")))
    }

    /// A host with the guest's machine, which runs.
    pub fn boot(&self, record: Option<&Path>) -> Host {
        self.boot_with(record, serde_json::json!([]))
    }

    /// Like [`Site::boot`], with these disks.
    pub fn boot_with(&self, record: Option<&Path>, disks: serde_json::Value) -> Host {
        let mut host = Host::new(record);
        // Whoever goes live continues the same file.
        host.console = self.path("console");
        let config = serde_json::json!({
            "payload": { "kernel": self.path("kernel") },
            "memory": { "size": 32 << 20 },
            "disks": disks,
            "serial": { "mode": "File", "file": host.console },
            "console": { "mode": "Off" },
        });
        let config = VmConfig::from_json(config.to_string().as_bytes()).unwrap();
        host.ask(Request::VmCreate(Box::new(config)));
        host.ask(Request::VmBoot);
        host
    }

    /// A host that waits for a primary, and where.
    pub fn receive(&self) -> (Host, TcpAddress) {
        let mut host = Host::new(None);
        host.console = self.path("console");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = TcpAddress {
            host: "127.0.0.1".to_owned(),
            port: free.local_addr().unwrap().port(),
        };
        drop(free);
        host.ask(Request::FtReceive(FtReceiveConfig {
            fence: None,
            listen: listen.clone(),
            lease: None,
            insecure: false,
            detection_timeout_ms: 1000,
        }));
        (host, listen)
    }

    /// Gives the machine of `primary` a backup, and waits until it has it.
    pub fn protect(&self, primary: &Host) -> Host {
        let (backup, peer) = self.receive();
        primary.ask(Request::FtEnable(FtEnableConfig {
            fence: None,
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
pub struct Host {
    pub api: ApiHandle,
    thread: Option<thread::JoinHandle<End>>,
    pub console: PathBuf,
}

impl Host {
    pub fn new(record: Option<&Path>) -> Host {
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

    pub fn try_ask(&self, request: Request) -> Result<Response, ApiError> {
        self.api.call_and_wait(request)
    }

    pub fn ask(&self, request: Request) -> Response {
        self.try_ask(request).unwrap()
    }

    pub fn info(&self) -> FtInfo {
        match self.ask(Request::FtInfo) {
            Response::Ft(info) => info,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self) -> VmState {
        match self.ask(Request::VmInfo) {
            Response::Info(info) => info.state,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_for(&self, state: FtState) -> FtInfo {
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

    pub fn shown(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Waits for `count` more lines.
    pub fn wait_for_lines(&self, count: usize) {
        let goal = self.shown().lines().count() + count;
        wait_until("more lines", || self.shown().lines().count() >= goal);
    }

    /// Ends without a word.
    pub fn crash(mut self) {
        self.api.end_by_signal(9);
        assert!(matches!(self.end(), End::Signal(9)));
    }

    /// Waits for its end.
    pub fn end(&mut self) -> End {
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

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::monotonic_ns() + SOON.as_nanos() as u64;
    while !is_so() {
        assert!(clock::monotonic_ns() < deadline, "it took too long: {what}");
        clock::sleep_until_ns(clock::monotonic_ns() + 5_000_000);
    }
}

/// What was shown is the history of one machine. Each of `hosts` may have shown some bytes again.
pub fn assert_one_history(shown: &str, hosts: usize) {
    let expected = super::guest::lines(shown.lines().count() as u32 + 1);
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
