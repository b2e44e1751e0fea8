//! The process: its threads, from start to end.
//!
//! Does: start the VMM thread, the API server and the signal handler, boot what the command line
//! describes, wait for the end, and stop everything in order. Does not: read the command line.
//!
//! Invariant: when [`run`] returns, every answer that could be given has been given, and the
//! terminal is as it was found.

use std::io;
use std::thread;

use thiserror::Error;

use crate::api::http::{HttpServer, HttpServerError};
use crate::api::{ApiError, Request};
use crate::config::VmConfig;
use crate::control::{VmError, VmFactory};
use crate::host::api_socket::{ApiSocket, ApiSocketAddress, ApiSocketError};
use crate::host::event_monitor::EventMonitor;
use crate::host::signals::SignalThread;
use crate::host::terminal;
use crate::vmm::{End, Vmm};

/// What a process is to do.
#[derive(Debug)]
pub struct ProcessOptions {
    /// Where the API is served, if anywhere.
    pub api_socket: Option<ApiSocketAddress>,
    /// What boots at once, if anything.
    pub vm: Option<Box<VmConfig>>,
    /// Who is told of events.
    pub monitor: EventMonitor,
}

/// Why a process could not do what it was to do.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// Neither a VM nor a way to get one.
    #[error("there is nothing to do: give --kernel to boot a guest, or --api-socket to be asked")]
    NothingToDo,
    /// The API's socket could not be opened.
    #[error("cannot open the API socket")]
    ApiSocket(#[from] ApiSocketError),
    /// The API's server could not be started.
    #[error("cannot start the API server")]
    HttpServer(#[from] HttpServerError),
    /// A thread could not be started.
    #[error("cannot start the {name} thread")]
    Thread {
        /// Which.
        name: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The VM of the command line could not be created or booted.
    #[error("cannot boot the virtual machine")]
    Boot(#[source] ApiError),
    /// The VMM thread has panicked.
    #[error("the VMM thread has panicked; this is a bug")]
    Panicked,
    /// The VM could not go on.
    #[error("the virtual machine failed")]
    Failed(#[source] VmError),
    /// The other side of the pairing has taken over.
    #[error("the other side of the pairing has taken over; this side has halted")]
    Superseded,
}

/// From here on a panic in any thread ends the process, as a loss of its host would: a side that is
/// half alive would keep its heartbeats, and with them its peer from taking over.
pub fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        print(panic);
        std::process::abort();
    }));
}

/// Runs the process to its end.
pub fn run(factory: Box<dyn VmFactory>, options: ProcessOptions) -> Result<(), ProcessError> {
    let ProcessOptions {
        api_socket,
        vm,
        monitor,
    } = options;
    if api_socket.is_none() && vm.is_none() {
        return Err(ProcessError::NothingToDo);
    }
    let socket = api_socket.as_ref().map(ApiSocket::open).transpose()?;
    let vmm = Vmm::new(factory, socket.is_some(), monitor);
    let api = vmm.handle();

    let on_signal = api.clone();
    let signals = SignalThread::start(move |signal| on_signal.end_by_signal(signal));
    let signals = signals.map_err(|source| ProcessError::Thread {
        name: "signal-handler",
        source,
    })?;
    let server = socket
        .map(|socket| HttpServer::start(socket, api.clone()))
        .transpose()?;
    let thread = thread::Builder::new()
        .name("vmm".to_owned())
        .spawn(move || vmm.run());
    let thread = thread.map_err(|source| ProcessError::Thread {
        name: "vmm",
        source,
    })?;

    let booted = match vm {
        Some(config) => api
            .call_and_wait(Request::VmCreate(config))
            .and_then(|_| api.call_and_wait(Request::VmBoot)),
        None => Ok(crate::api::Response::Done),
    };
    if booted.is_err() {
        // The VMM thread may have ended already.
        let _ = api.call_and_wait(Request::VmmShutdown);
    }
    let end = thread.join();
    drop(server);
    drop(signals);
    terminal::restore();
    // A VM that ended or was ended while it booted has not failed to boot.
    match (end, booted) {
        (Err(_), _) => Err(ProcessError::Panicked),
        (Ok(End::Failed(error)), _) => Err(ProcessError::Failed(error)),
        (Ok(End::Superseded), _) => Err(ProcessError::Superseded),
        (Ok(End::Signal(_) | End::PoweredOff), _) => Ok(()),
        (Ok(End::Requested), Err(error)) => Err(ProcessError::Boot(error)),
        (Ok(End::Requested), Ok(_)) => Ok(()),
    }
}
