//! How a side comes to follow: it listens for a primary.
//!
//! Does: on a thread of its own, accept connections, make each a backup's role with its channel
//! thread, and turn away whoever comes while one is busy. Does not: replay.
//!
//! Invariant: a stranger changes nothing. Whoever connects and does not introduce himself soon
//! makes room for the next; once a primary has introduced itself, and until it is known to be of no
//! use, everybody else is turned away (paper §3.1).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use ft::backup::Offer;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backup_role::{BackupRole, Over, lock};
use super::board::Part;
use super::digests;
use super::pairing;
use super::parts::Parts;
use crate::config::FtReceiveConfig;
use crate::control::VmError;
use crate::host::channel_thread::ChannelThread;
use crate::host::clock;
use crate::host::tcp;
use crate::host::udp::HeartbeatSocket;

/// So long a connection may be without an introduction while another one waits (host ns).
const INTRODUCTION: u64 = 1_000_000_000;
const POLL: u64 = 20_000_000;

/// The thread, until this goes away.
#[derive(Debug)]
pub struct ListenerThread {
    stop: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl ListenerThread {
    /// Listens as `config` says. The vCPU thread of `parts` gets the clones.
    pub fn start(config: &FtReceiveConfig, parts: Arc<Parts>) -> Result<Self, VmError> {
        let listener = tcp::listen(&config.listen, config.insecure);
        let listener = listener.map_err(|error| VmError::Because {
            what: "wait for a primary",
            source: Box::new(error),
        })?;
        let host = |source| VmError::Host {
            what: "start a thread",
            source,
        };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host)?;
        let (stop_too, config) = (stop.try_clone().map_err(host)?, config.clone());
        let thread = thread::Builder::new()
            .name("ft-listen".to_owned())
            .spawn(move || listen(&listener, &stop_too, &config, &parts))
            .map_err(host)?;
        Ok(ListenerThread {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for ListenerThread {
    fn drop(&mut self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

/// What the present connection is.
enum Guest {
    Nobody,
    Stranger,
    Primary,
}

fn listen(listener: &TcpListener, stop: &EventFd, config: &FtReceiveConfig, parts: &Parts) {
    let mut since = 0;
    loop {
        let (stream, peer) = match tcp::accept(listener, stop) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return,
            Err(error) => {
                log::warn!("a connection could not be accepted: {error}");
                clock::sleep_until_ns(clock::monotonic_ns() + POLL);
                continue;
            }
        };
        let is_free = loop {
            match guest(parts) {
                Guest::Nobody => break true,
                Guest::Primary => break false,
                Guest::Stranger if clock::monotonic_ns() >= since + INTRODUCTION => break true,
                Guest::Stranger if stop.read().is_ok() => return,
                Guest::Stranger => {
                    clock::sleep_until_ns(clock::monotonic_ns() + POLL);
                }
            }
        };
        if !is_free {
            log::info!("{peer} is turned away: this side has a primary");
            continue;
        }
        since = clock::monotonic_ns();
        if let Err(error) = receive(stream, peer, config, parts) {
            log::warn!("the connection of {peer} cannot be used: {error}");
        }
    }
}

fn guest(parts: &Parts) -> Guest {
    let shared = match parts.board.part() {
        Part::Waiting => return Guest::Nobody,
        Part::Primary(_) => return Guest::Primary,
        Part::Backup(role) => role,
    };
    let role = lock(&shared);
    match role.over() {
        Some(Over::Again(_)) => Guest::Nobody,
        Some(_) => Guest::Primary,
        None if role.has_primary() => Guest::Primary,
        None => Guest::Stranger,
    }
}

fn receive(
    stream: TcpStream,
    peer: SocketAddr,
    config: &FtReceiveConfig,
    parts: &Parts,
) -> io::Result<()> {
    let heartbeats = HeartbeatSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?;
    let offer = Offer {
        semantics: digests::offered(),
        us: parts.us,
        vm: None,
        heartbeat_port: heartbeats.local_address()?.port(),
    };
    let role = BackupRole::new(
        pairing::settings(config.detection_timeout_ms),
        offer,
        config.lease.clone(),
        config.fence.clone(),
        Arc::clone(&parts.inbox),
    );
    // The last connection's thread ends first.
    parts.close_connection();
    parts
        .board
        .set_part(Part::Backup(Arc::clone(&role)), Some(peer.to_string()));
    let thread = ChannelThread::start(Arc::clone(&role), stream, Some(heartbeats))?;
    lock(&role).set_waker(thread.waker().try_clone()?);
    parts.set_connection(thread);
    Ok(())
}
