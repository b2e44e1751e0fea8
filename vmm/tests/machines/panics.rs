//! A process in which a thread panics is lost as a whole.

use std::process::Command;

use vmm::api::Request;
use vmm::config::{FtEnableConfig, TcpAddress};
use vmm::status::FtState;

use super::site::{Site, wait_until};

/// Tells the test's own program that it is to be the primary, where its peer waits, and where the
/// arbiter is.
const PEER: &str = "CH_TEST_PEER";
const FLAG: &str = "CH_TEST_FLAG";

/// Heartbeats have a thread of their own. If it outlived another thread's panic, the peer would
/// wait for a guest that nobody runs.
#[test]
fn a_panic_in_any_thread_lets_the_peer_take_over() {
    if let Ok(port) = std::env::var(PEER) {
        be_the_primary(port.parse().unwrap());
    }
    let site = Site::new();
    let (backup, peer) = site.receive();
    let mut primary = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "panics::a_panic_in_any_thread_lets_the_peer_take_over",
        ])
        .env(PEER, peer.port.to_string())
        .env(FLAG, site.path("flag"))
        // What it leaves goes with this side's directory.
        .env("TMPDIR", site.directory.as_path())
        .spawn()
        .unwrap();
    wait_until("the takeover", || {
        backup.info().state == FtState::Unprotected
    });
    let status = primary.wait().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(libc::SIGABRT), "{status}");
}

fn be_the_primary(port: u16) -> ! {
    vmm::process::end_on_panic();
    let site = Site::new();
    let primary = site.boot(None);
    let host = "127.0.0.1".to_owned();
    let flag = std::env::var_os(FLAG).unwrap();
    primary.ask(Request::FtEnable(FtEnableConfig {
        peer: TcpAddress { host, port },
        lease: Some(vmm::config::Lease::File(flag.into())),
        insecure: false,
        fence: None,
        detection_timeout_ms: 1000,
    }));
    primary.wait_for(FtState::Protected);
    let thread = std::thread::spawn(|| panic!("some thread has a bug"));
    // Without the fix, the process goes on here.
    let _ = thread.join();
    loop {
        std::thread::park();
    }
}
