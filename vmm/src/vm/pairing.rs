//! How protection begins: the way from an operator's word to a connection.
//!
//! Does: on a thread of its own, ask the arbiter for a generation, connect to the peer, and give
//! the connection to the role. Does not: clone (the vCPU thread does, when the role asks for it),
//! or keep anything.
//!
//! Invariant: nothing here is waited for by the vCPU thread, and a failure leaves the VM running as
//! it was, unprotected, with the reason in `ft-info` (paper §3.1).

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use ft::Settings;
use ft::arbiter::{Arbiter, ArbiterError};
use ft::identity::{Generation, Semantics};
use ft::primary::{Pairing, WrongPhase};
use machine::Machine;
use thiserror::Error;

use super::parts::Parts;
use super::primary_role::{SharedPrimary, lock};
use super::{digests, reasons};
use crate::config::{FtEnableConfig, Lease};
use crate::control::VmError;
use crate::host::arbiter_thread::ArbiterThread;
use crate::host::channel_thread::ChannelThread;
use crate::host::clock;
use crate::host::file_arbiter::FileStore;
use crate::host::memory;
use crate::host::tcp::{self, EndpointError};
use crate::host::udp::HeartbeatSocket;

/// How long a peer has for taking a connection, and the arbiter for answering.
const PATIENCE: Duration = Duration::from_secs(5);
const MILLISECOND: u64 = 1_000_000;

/// Why there is no pairing.
#[derive(Debug, Error)]
enum PairingError {
    #[error("the arbiter has not answered")]
    Silent,
    #[error("the arbiter gives no generation")]
    Arbiter(#[from] ArbiterError),
    #[error("the peer cannot be reached")]
    Endpoint(#[from] EndpointError),
    #[error("the host does not help")]
    Host(#[from] io::Error),
    #[error("the virtual machine is not ready for it")]
    Phase(#[from] WrongPhase),
}

/// The times of a pairing in which a peer is lost after `timeout_ms` of silence.
pub fn settings(timeout_ms: u64) -> Settings {
    let defaults = Settings::default();
    let timeout = timeout_ms * MILLISECOND;
    Settings {
        timeout,
        heartbeat_interval: defaults.heartbeat_interval.min(timeout / 10),
        // Whoever connects may claim any size before anything is known of him.
        max_ram_bytes: memory::total().map_or(defaults.max_ram_bytes, |total| {
            total.min(defaults.max_ram_bytes)
        }),
        ..defaults
    }
}

/// Begins to protect `machine`, which is the one of `role`. The answer is in the role's status.
pub fn begin(
    parts: &std::sync::Arc<Parts>,
    role: &SharedPrimary,
    config: &FtEnableConfig,
    lease: &Lease,
    machine: &Machine,
) -> Result<(), VmError> {
    let thread_failed = |source| VmError::Host {
        what: "start a thread",
        source,
    };
    let not_now = |source: WrongPhase| VmError::Because {
        what: "begin to protect it",
        source: Box::new(source),
    };
    // Before anything is touched that the present pairing needs.
    lock(role).check_alone().map_err(not_now)?;
    let arbiter = ArbiterThread::start(lease).map_err(thread_failed)?;
    // The last pairing has said all that it had to say, or never will.
    parts.close_connection();
    {
        let mut role = lock(role);
        role.forget_connection(clock::monotonic_ns());
        let settings = settings(config.detection_timeout_ms);
        role.begin_pairing(config.peer.to_string(), settings, arbiter.clone())
            .map_err(not_now)?;
    }
    let (parts, shared, config) = (parts.clone(), role.clone(), config.clone());
    let semantics = digests::semantics(machine.profile());
    let ram_size = machine.ram().size();
    let run = move || {
        let connected = connect(&parts, &shared, &config, &arbiter, semantics, ram_size);
        if let Err(error) = connected {
            lock(&shared).pairing_failed(reasons::chain(&error));
        }
    };
    let thread = thread::Builder::new().name("ft-connect".to_owned());
    match thread.spawn(run) {
        Ok(_) => Ok(()),
        Err(source) => {
            lock(role).pairing_failed(vec![source.to_string()]);
            Err(thread_failed(source))
        }
    }
}

fn connect(
    parts: &Parts,
    role: &SharedPrimary,
    config: &FtEnableConfig,
    arbiter: &ArbiterThread,
    semantics: Semantics,
    ram_size: u64,
) -> Result<(), PairingError> {
    let vm = lock(role).vm();
    let us = parts.us;
    let generation = next_generation(arbiter, move |arbiter| arbiter.next_generation(vm, us))?;
    let stream = tcp::connect(&config.peer, config.insecure, PATIENCE)?;
    let heartbeats = HeartbeatSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?;
    let pairing = Pairing {
        semantics,
        vm,
        generation,
        us,
        ram_size,
        heartbeat_port: heartbeats.local_address()?.port(),
    };
    lock(role).connect(clock::monotonic_ns(), pairing)?;
    match ChannelThread::start(role.clone(), stream, Some(heartbeats)) {
        Ok(thread) => {
            match thread.waker().try_clone() {
                Ok(waker) => lock(role).set_channel(waker, thread.sender()),
                // Its thread looks every now and then.
                Err(error) => log::warn!("the channel cannot be woken: {error}"),
            }
            parts.set_connection(thread);
            Ok(())
        }
        Err(error) => {
            lock(role).lose_connection(clock::monotonic_ns());
            Err(error.into())
        }
    }
}

fn next_generation(
    arbiter: &ArbiterThread,
    question: impl FnOnce(&mut Arbiter<FileStore>) -> Result<Generation, ArbiterError> + Send + 'static,
) -> Result<Generation, PairingError> {
    let (sender, receiver) = mpsc::channel();
    arbiter.ask(move |arbiter| {
        // Whoever gave up waiting does not need the answer.
        let _ = sender.send(question(arbiter));
    });
    let answer = receiver.recv_timeout(PATIENCE);
    Ok(answer.map_err(|_| PairingError::Silent)??)
}
