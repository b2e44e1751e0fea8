//! The vCPU thread: what a machine's own thread does, from its start to its end.
//!
//! Does: run a built machine live; or wait for a clone, follow, and go live when the role says so;
//! then tell the VMM thread how it ended. Does not: know how either is done (`live`, `follower`).
//!
//! Invariant: a machine belongs to this thread. When it ends, every command that was submitted is
//! answered (paper §2.3: going live).

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ft::Settings;
use ft::backup::HaltReason;
use ft::primary::Primary;
use machine::Output;
use thiserror::Error;

use super::backends::{Around, Backends, Inheritance, Start};
use super::bells::Bells;
use super::board::Part;
use super::follower::{self, Followed, LiveMachine};
use super::journal::Journal;
use super::live::{Beginning, Live, LiveEnd};
use super::parts::Parts;
use super::primary_role::{PrimaryRole, Surroundings, lock};
use super::{backup_role, reasons};
use crate::control::{Command, Event, Stop, VmError};
use crate::host::{clock, sleeper};
use crate::status::{FailoverTimes, VmState};

/// Whoever waits looks this often anyway.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the arbiter has for noting that an unprotected VM is over.
const LAST_NOTE: Duration = Duration::from_secs(2);

/// This side can never go live.
#[derive(Debug, Error)]
#[error("{0}")]
struct Useless(String);

/// Starts the thread for a machine that was built here.
pub fn start_live(parts: Arc<Parts>, beginning: Beginning) -> io::Result<thread::JoinHandle<()>> {
    spawn(move || {
        let end = run_live(&parts, beginning);
        report(&parts, end);
    })
}

/// Starts the thread for a machine that will come from a primary.
pub fn start_receiving(parts: Arc<Parts>) -> io::Result<thread::JoinHandle<()>> {
    spawn(move || {
        let end = receive(&parts);
        report(&parts, end);
    })
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    let run = || {
        // The guest's timers are due when they are due.
        sleeper::wake_on_time();
        run();
    };
    thread::Builder::new().name("vcpu0".to_owned()).spawn(run)
}

/// How the thread ends.
enum End {
    /// Nobody needs to be told.
    Quiet,
    Stop(Stop),
}

fn report(parts: &Parts, end: End) {
    for (ticket, command) in parts.inbox.close() {
        let result = match command {
            // It has no machine any more, which is what was asked for.
            Command::Shutdown => Ok(()),
            _ => Err(VmError::Gone),
        };
        parts.answer(ticket, result);
    }
    if let End::Stop(stop) = end {
        parts.events.send(Event::Stopped(stop));
    }
}

fn run_live(parts: &Arc<Parts>, beginning: Beginning) -> End {
    let role = Arc::clone(&beginning.role);
    match Live::new(Arc::clone(parts), beginning).run() {
        LiveEnd::Off(waiting) => {
            note_end(parts, &role);
            if waiting.is_empty() {
                return End::Stop(Stop::PoweredOff);
            }
            for ticket in waiting {
                parts.answer(ticket, Ok(()));
            }
            End::Quiet
        }
        LiveEnd::Superseded => End::Stop(Stop::Superseded),
        LiveEnd::Stopped => {
            // Nobody follows: the VM ends with this process.
            if lock(&role).is_alone() {
                note_end(parts, &role);
            }
            End::Quiet
        }
        LiveEnd::Failed(error) => {
            // Whoever follows goes on from what it has.
            lock(&role).silence();
            parts.close_connection();
            End::Stop(Stop::Failed(error))
        }
    }
}

/// Notes in the arbiter, if this VM ever had one, that the VM is over: its id may start again.
fn note_end(parts: &Parts, role: &super::primary_role::SharedPrimary) {
    let (arbiter, vm) = {
        let role = lock(role);
        (role.arbiter().cloned(), role.vm())
    };
    let Some(arbiter) = arbiter else {
        return;
    };
    let (us, (sender, receiver)) = (parts.us, mpsc::channel());
    arbiter.ask(move |arbiter| {
        if let Err(error) = arbiter.end(vm, us) {
            log::warn!("{}", reasons::chain(&error).join(": "));
        }
        // Nobody may be waiting any more.
        let _ = sender.send(());
    });
    if receiver.recv_timeout(LAST_NOTE).is_err() {
        log::warn!("the arbiter did not note in time that VM {vm} is over");
    }
}

/// Waits for clones and follows.
fn receive(parts: &Arc<Parts>) -> End {
    loop {
        let mail = parts.inbox.take();
        if mail.stop {
            return End::Quiet;
        }
        let mut ended = false;
        for (ticket, command) in mail.commands {
            let result = if command == Command::Shutdown {
                ended = true;
                Ok(())
            } else {
                Err(VmError::WrongState {
                    state: parts.board.state(),
                    command: command.name(),
                })
            };
            parts.answer(ticket, result);
        }
        if ended {
            if let Part::Backup(role) = parts.board.part() {
                // Whoever was about to clone hears why there will be no backup.
                follower::leave(&role, parts);
            }
            parts.board.set_state(VmState::Shutdown);
            return End::Quiet;
        }
        let Some(clone) = mail.clone else {
            parts.inbox.wait(PATIENCE);
            continue;
        };
        match follower::follow(*clone, parts) {
            Followed::Again => {
                parts.board.set_state(VmState::Created);
                parts.board.set_memory(0);
                parts.events.send(Event::Forgotten);
            }
            Followed::Live(live) => return go_live(parts, *live),
            Followed::PowerOff => {
                parts.board.set_state(VmState::Shutdown);
                return End::Stop(Stop::PoweredOff);
            }
            Followed::Halted(reason) => {
                parts.board.set_state(VmState::Shutdown);
                return End::Stop(match reason {
                    HaltReason::Lost(_) => Stop::Superseded,
                    _ => Stop::Failed(VmError::Because {
                        what: "follow the primary",
                        source: Box::new(Useless(reasons::of_halt(&reason).join(": "))),
                    }),
                });
            }
            Followed::Stopped(ticket) => {
                parts.board.set_state(VmState::Shutdown);
                parts.close_connection();
                if let Some(ticket) = ticket {
                    parts.answer(ticket, Ok(()));
                }
                return End::Quiet;
            }
        }
    }
}

/// From here on this side speaks for the VM.
fn go_live(parts: &Arc<Parts>, live: LiveMachine) -> End {
    let LiveMachine {
        machine,
        config,
        promotion,
        role: backup,
        is_paused,
        shutdown,
    } = live;
    let bells = Arc::new(Bells::default());
    let settings = Settings::default();
    let primary = Primary::new(settings, promotion.next_seq, promotion.position);
    let around = Surroundings {
        vm: promotion.vm,
        us: parts.us,
        inbox: Arc::clone(&parts.inbox),
        bells: Arc::clone(&bells),
    };
    let role = PrimaryRole::new(primary, around);
    let now = clock::monotonic_ns();
    let console = machine.console();
    let (emitted, written) = (console.emitted, console.written);
    {
        let mut role = lock(&role);
        let (arbiter, log_bytes) = {
            let backup = backup_role::lock(&backup);
            (backup.arbiter().cloned(), backup.log_bytes())
        };
        role.inherit(arbiter, promotion.generation, log_bytes);
        if written > emitted {
            // What may not have left is emitted before anything new: repeats, but no gaps.
            let output = Output::Console {
                position: machine.position(),
                through: written,
                bytes: console.since(emitted),
            };
            role.resume_output(now, output);
        }
        for submission in machine.in_flight() {
            // Whether the old side carried it out is not known. Doing it again changes nothing,
            // because nothing that overlaps it has been done since.
            let position = machine.position();
            let output = Output::Device {
                position,
                submission,
            };
            role.resume_output(now, output);
        }
    }
    let around = Around {
        role: Arc::clone(&role),
        inbox: Arc::clone(&parts.inbox),
        bells,
    };
    let (fencing, old_side) = {
        let backup = backup_role::lock(&backup);
        (backup.fencing().clone(), parts.board.peer())
    };
    let start = Start::GoesLive(Inheritance {
        fencing,
        variables: vec![
            ("FT_VM", promotion.vm.to_string()),
            ("FT_GENERATION", promotion.generation.to_string()),
            ("FT_PEER", old_side.unwrap_or_default()),
        ],
        in_flight: machine.in_flight(),
    });
    let backends = match Backends::start(&config, start, &around, &machine) {
        Ok(backends) => backends,
        Err(error) => return End::Stop(Stop::Failed(error)),
    };
    parts.board.set_ptys(backends.ptys());
    parts.board.set_counters(backends.counters());
    parts.board.set_fence(backends.fence().cloned());
    let [heard, lost, asked, won] = promotion.moments;
    let times = FailoverTimes::between([heard, lost, asked, won, clock::monotonic_ns()]);
    parts.board.took_over(times);
    parts.board.set_part(Part::Primary(Arc::clone(&role)), None);
    log::warn!(
        "live since generation {} was won, at position {}: {times}",
        promotion.generation,
        promotion.position
    );
    let position = machine.position();
    let journal = match Journal::new(Arc::clone(&role), None, &parts.inbox, now, position) {
        Ok(journal) => journal,
        Err(source) => {
            let what = "start the digest thread";
            return End::Stop(Stop::Failed(VmError::Host { what, source }));
        }
    };
    let state = if is_paused {
        VmState::Paused
    } else {
        VmState::Running
    };
    run_live(
        parts,
        Beginning {
            machine,
            config,
            role,
            journal,
            backends,
            state,
            shutdown,
        },
    )
}
