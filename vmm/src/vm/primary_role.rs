//! The role of the side that runs the guest, as the process's threads share it.
//!
//! Does: hold `ft`'s primary behind one lock, and do what it asks for: wake the threads concerned,
//! ask the arbiter, hand datagrams to the channel. Does not: run the machine (`live`), wait for
//! anything, or decide anything about protection.
//!
//! Invariant: the lock is held for moments only. After every call into the primary its commands are
//! carried out, whichever thread made the call. Questions to the arbiter are asked on its own
//! thread, and their answers come back through the lock (paper §2.3).

mod info;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ft::Settings;
use ft::arbiter::Answer;
use ft::flag::{Decision, Members};
use ft::identity::{Generation, Incarnation, VmId};
use ft::log::{Body, ComponentDigest, Entry};
use ft::primary::{AppendError, Command, LossReason, Pairing, Primary, WrongPhase};
use machine::{Lane, Output, Position};

use super::bells::Bells;
use super::hold_times::HoldTimes;
use super::inbox::Inbox;
use super::reasons;
use crate::host::arbiter_thread::ArbiterThread;
use crate::host::channel_thread::{ChannelRole, ChannelSender, ChannelWaker, Exit, Wishes};
use crate::host::clock;

/// Why this side is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Somebody else speaks for the VM.
    Superseded(Decision),
    /// The VM has ended.
    Ended,
}

/// A lane's first output of at most this many bytes is let out by the vCPU thread, if it may leave at
/// once. More is worth another processor. The channel's thread lets out all that it learns may leave.
const SMALL: usize = 4096;

/// The role, shared.
pub type SharedPrimary = Arc<Mutex<PrimaryRole>>;

/// Locks it.
pub fn lock(role: &Mutex<PrimaryRole>) -> MutexGuard<'_, PrimaryRole> {
    role.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a role needs of its surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The VM.
    pub vm: VmId,
    /// This process, as a member of pairings.
    pub us: Incarnation,
    /// Of the vCPU thread.
    pub inbox: Arc<Inbox>,
    /// Of those who let outputs out.
    pub bells: Arc<Bells>,
}

/// The role.
pub struct PrimaryRole {
    primary: Primary,
    around: Surroundings,
    me: Weak<Mutex<PrimaryRole>>,
    arbiter: Option<ArbiterThread>,
    waker: Option<ChannelWaker>,
    sender: ChannelSender,
    /// The ways out that need no other thread.
    exits: BTreeMap<Lane, Weak<dyn Exit>>,
    /// Whoever has the lock goes to `leaving` when it has let go of it, if what leaves first has no
    /// more than so many bytes.
    lets_out: Option<usize>,
    leaving: Vec<Arc<dyn Exit>>,
    datagrams: Vec<Vec<u8>>,
    close: bool,
    clone_wanted: bool,
    /// The vCPU thread waits for acknowledgements.
    awaited: bool,
    /// Somebody is connecting to the peer.
    connecting: bool,
    /// Nothing may leave any more, because the process is about to close its connection.
    silenced: bool,
    over: Option<Over>,
    /// The arbiter did not answer the last time.
    unreachable: bool,
    peer: Option<String>,
    generation: Option<Generation>,
    /// Of the present pairing or the last one.
    log_bytes: u64,
    hold_times: HoldTimes,
    last_error: Vec<String>,
}

impl PrimaryRole {
    /// The role around `primary`.
    pub fn new(primary: Primary, around: Surroundings) -> SharedPrimary {
        Arc::new_cyclic(|me| {
            Mutex::new(PrimaryRole {
                primary,
                around,
                me: me.clone(),
                arbiter: None,
                waker: None,
                sender: ChannelSender::default(),
                exits: BTreeMap::new(),
                lets_out: None,
                leaving: Vec::new(),
                log_bytes: 0,
                hold_times: HoldTimes::default(),
                datagrams: Vec::new(),
                close: false,
                clone_wanted: false,
                awaited: false,
                connecting: false,
                silenced: false,
                over: None,
                unreachable: false,
                peer: None,
                generation: None,
                last_error: Vec::new(),
            })
        })
    }

    /// What it was when it was a backup.
    pub fn inherit(&mut self, arbiter: Option<ArbiterThread>, generation: Generation, log: u64) {
        self.arbiter = arbiter;
        self.generation = Some(generation);
        self.log_bytes = log;
    }

    // --- For the vCPU thread.

    /// Appends an entry.
    pub fn append(
        &mut self,
        now: u64,
        position: Position,
        body: Body,
    ) -> Result<Entry, AppendError> {
        let due = self.primary.deadline();
        let entry = self.primary.append(now, position, body);
        self.after_append(now, due);
        entry
    }

    /// Appends the entries of outputs, and holds the outputs back until they may leave. What may do
    /// so at once is for the caller to let out, when it has let go of the lock.
    pub fn append_outputs(
        &mut self,
        now: u64,
        outputs: Vec<Output>,
        exits: &mut Vec<Arc<dyn Exit>>,
    ) -> Result<Vec<Entry>, AppendError> {
        let due = self.primary.deadline();
        let is_protected = self.is_protected();
        let waits = outputs.iter().any(|output| !output.is_harmless());
        let outputs = outputs.into_iter();
        let entries = outputs
            .map(|output| {
                let (lane, is_harmless) = (output.lane(), output.is_harmless());
                let entry = self.primary.append_held_output(now, output);
                if entry.is_ok() && !is_harmless {
                    self.hold_times.made(lane, is_protected.then_some(now));
                }
                entry
            })
            .collect();
        self.lets_out = Some(SMALL);
        if waits {
            self.primary.flush();
            // The outputs wait for the answer: no other thread is woken to send this.
            self.send(now);
        }
        self.after_append(now, due);
        self.lets_out = None;
        exits.append(&mut self.leaving);
        entries
    }

    /// Outputs of `lane` may leave by `exit`, for as long as that is there.
    pub fn set_exit(&mut self, lane: Lane, exit: &Arc<dyn Exit>) {
        self.exits.insert(lane, Arc::downgrade(exit));
    }

    /// The next output of a lane, if it may leave now.
    pub fn take_output(&mut self, now: u64, lane: Lane) -> Option<Output> {
        if self.silenced {
            return None;
        }
        let output = self.primary.take_output(now, lane);
        if output.as_ref().is_some_and(|output| !output.is_harmless()) {
            self.hold_times.let_go(lane, now);
        }
        // It may have asked for a sign of life of the backup.
        if self.primary.wants_to_write(now) {
            self.wake_channel();
        }
        self.dispatch();
        output
    }

    /// Whether an output that was taken earlier may still leave.
    pub fn may_leave(&self, now: u64) -> bool {
        self.over.is_none() && self.may_emit(now)
    }

    /// The same of a console's bytes, which go out also when the VM is over.
    pub fn may_emit(&self, now: u64) -> bool {
        !self.silenced && self.primary.may_emit(now)
    }

    /// Sends what was appended, and wakes nobody for it if the host takes it at once.
    pub fn send_now(&mut self, now: u64) {
        self.primary.flush();
        self.send(now);
        if self.primary.wants_to_write(now) {
            self.wake_channel();
        }
        self.dispatch();
    }

    /// Writes to the connection what it takes at once. The channel's thread does the same, under the
    /// same lock, and does the rest.
    fn send(&mut self, now: u64) {
        loop {
            let bytes = self.primary.transmit(now);
            if bytes.is_empty() {
                return;
            }
            match self.sender.send(bytes) {
                Ok(count) => self.transmitted(now, count),
                // What it is, the channel's thread will find out.
                Err(_) => return,
            }
        }
    }

    /// The channel's thread must look if something is to be sent at once, or earlier than it knows.
    fn after_append(&mut self, now: u64, due_before: Option<u64>) {
        let due = self.primary.deadline();
        let is_earlier = due.is_some_and(|due| due_before.is_none_or(|before| due < before));
        if is_earlier || self.primary.wants_to_write(now) {
            self.wake_channel();
        }
        self.dispatch();
    }

    /// Takes over an output that was made and not emitted before this side went live.
    pub fn resume_output(&mut self, now: u64, output: Output) {
        if !output.is_harmless() {
            self.hold_times.made(output.lane(), None);
        }
        self.primary.resume_output(now, output);
        self.dispatch();
    }

    /// How far the backup's execution is behind, in nanoseconds.
    pub fn lag(&self, now: u64) -> u64 {
        self.primary.status(now).lag
    }

    /// Whether the vCPU may run.
    pub fn may_run(&self) -> bool {
        self.primary.may_run() && self.over.is_none()
    }

    /// Whether what the entry `seq` promises is kept, whatever happens to this host: somebody may
    /// be told. If not, the vCPU thread is woken when it may have become so.
    pub fn is_promise(&mut self, now: u64, seq: u64) -> bool {
        let status = self.primary.status(now);
        let is_known = match status.phase {
            "verifying" | "protected" | "handing over" => seq < status.acked,
            phase => phase != "claiming",
        };
        let is_promise = is_known && self.primary.may_emit(now);
        self.awaited = !is_promise;
        is_promise
    }

    /// Why this side is done, if it is.
    pub fn over(&self) -> Option<&Over> {
        self.over.as_ref()
    }

    /// Whether a backup follows, or is about to.
    pub fn is_protected(&self) -> bool {
        matches!(self.phase(), "verifying" | "protected" | "handing over")
    }

    /// Whether it is not known yet what becomes of a hand-over.
    pub fn is_handing_over(&self) -> bool {
        self.over.is_none() && matches!(self.phase(), "handing over" | "claiming")
    }

    /// The generation in which a verified backup follows now.
    pub fn backup(&self) -> Option<Generation> {
        let follows = self.over.is_none() && self.phase() == "protected";
        self.primary.generation().filter(|_| follows)
    }

    /// Asks the backup whether its host has what a device needs. The answer goes to the inbox.
    pub fn ask_about_device(&mut self, id: u64, config: Vec<u8>) -> Result<(), WrongPhase> {
        self.primary.ask_about_device(id, config)?;
        self.wake_channel();
        Ok(())
    }

    /// Whether a pairing is being made.
    pub fn is_pairing(&self) -> bool {
        self.connecting
            || matches!(
                self.phase(),
                "connecting" | "beginning" | "cloning" | "verifying"
            )
    }

    /// Whether protection may be asked for.
    pub fn is_alone(&self) -> bool {
        !self.connecting && self.over.is_none() && self.phase() == "unprotected"
    }

    fn phase(&self) -> &'static str {
        self.primary.status(0).phase
    }

    /// Whether the clone is to be sent.
    pub fn wants_clone(&self) -> bool {
        self.clone_wanted && self.phase() == "cloning"
    }

    /// Gives the clone a way out.
    pub fn send_clone<T>(
        &mut self,
        send: impl FnOnce(&mut Primary) -> Result<T, WrongPhase>,
    ) -> Result<T, WrongPhase> {
        let result = send(&mut self.primary);
        self.wake_channel();
        self.dispatch();
        result
    }

    /// The clone is sent; protection begins.
    pub fn finish_clone(
        &mut self,
        now: u64,
        position: Position,
        digest: Vec<ComponentDigest>,
    ) -> Result<(), WrongPhase> {
        self.clone_wanted = false;
        let result = self.primary.finish_clone(now, position, digest);
        self.wake_channel();
        self.dispatch();
        result
    }

    /// The sequence number of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.primary.next_seq()
    }

    /// Ends protection, or the attempt to begin it.
    pub fn disable(&mut self, now: u64) -> Result<(), WrongPhase> {
        if std::mem::take(&mut self.connecting) {
            return Ok(());
        }
        let result = self.primary.disable(now);
        self.wake_channel();
        self.dispatch();
        result
    }

    /// Lets the backup take over. `is_handing_over` says when it is known what came of it.
    pub fn hand_over(&mut self, now: u64) -> Result<(), WrongPhase> {
        self.primary.hand_over(now)?;
        self.last_error.clear();
        self.wake_channel();
        self.dispatch();
        Ok(())
    }

    /// Why protection ended or did not begin.
    pub fn last_error(&self) -> &[String] {
        &self.last_error
    }

    /// Nothing leaves any more: the process ends.
    pub fn silence(&mut self) {
        self.silenced = true;
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.around.vm
    }

    /// Who decides about this VM, if that is known.
    pub fn arbiter(&self) -> Option<&ArbiterThread> {
        self.arbiter.as_ref()
    }

    // --- For whoever makes a pairing.

    /// Whether a pairing may be begun.
    pub fn check_alone(&self) -> Result<(), WrongPhase> {
        match () {
            () if self.is_alone() => Ok(()),
            () if self.connecting => Err(WrongPhase("connecting")),
            () => Err(WrongPhase(self.phase())),
        }
    }

    /// Somebody begins to connect to `peer`, with `settings` for the pairing.
    pub fn begin_pairing(
        &mut self,
        peer: String,
        settings: Settings,
        arbiter: ArbiterThread,
    ) -> Result<(), WrongPhase> {
        self.primary.configure(settings)?;
        self.connecting = true;
        self.peer = Some(peer);
        self.arbiter = Some(arbiter);
        self.last_error.clear();
        Ok(())
    }

    /// The last pairing's channel thread has ended; what it had left to say is not said.
    pub fn forget_connection(&mut self, now: u64) {
        if self.phase() == "unprotected" && self.primary.generation().is_some() {
            self.primary.on_disconnect(now);
            self.dispatch();
        }
    }

    /// The connection is gone before its thread has started.
    pub fn lose_connection(&mut self, now: u64) {
        self.primary.on_disconnect(now);
        self.dispatch();
    }

    /// The connection is there. The channel's thread starts next.
    pub fn connect(&mut self, now: u64, pairing: Pairing) -> Result<(), WrongPhase> {
        if !std::mem::take(&mut self.connecting) {
            return Err(WrongPhase("no longer to be protected"));
        }
        let generation = pairing.generation;
        self.primary.connect(now, pairing)?;
        self.close = false;
        self.datagrams.clear();
        self.log_bytes = 0;
        self.hold_times.clear();
        self.generation = Some(generation);
        Ok(())
    }

    /// The way to the channel's thread, and the one around it.
    pub fn set_channel(&mut self, waker: ChannelWaker, sender: ChannelSender) {
        (self.waker, self.sender) = (Some(waker), sender);
        self.wake_channel();
    }

    /// There will be no connection.
    pub fn pairing_failed(&mut self, why: Vec<String>) {
        log::warn!("no backup: {}", why.join(": "));
        // Somebody may have said meanwhile that there is to be none.
        if std::mem::take(&mut self.connecting) || self.is_alone() {
            self.last_error = why;
        }
        self.around.inbox.ring();
    }

    // --- Inside.

    fn wake_channel(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Carries out what the primary asked for.
    fn dispatch(&mut self) {
        while let Some(command) = self.primary.next_command() {
            match command {
                Command::StallVcpu | Command::RunVcpu | Command::BackupReady => {
                    self.around.inbox.ring();
                }
                Command::DeviceAnswer { id, missing } => {
                    self.around.inbox.answered_about_device(id, missing);
                }
                Command::OutputsReady(lane) => self.outputs_ready(lane),
                Command::Heartbeat(datagram) => self.datagrams.push(datagram.to_vec()),
                Command::BeginGeneration(members) => self.begin_generation(members),
                Command::StartClone => {
                    self.clone_wanted = true;
                    self.around.inbox.ring();
                }
                Command::Decide {
                    generation,
                    decision,
                } => self.decide(generation, decision),
                Command::CloseChannel => {
                    self.close = true;
                    self.wake_channel();
                }
                Command::Unprotected(reason) => self.unprotected(&reason),
                Command::Halt(decision) => {
                    log::error!("the flag of this generation was {decision}: halted");
                    self.last_error = reasons::of_decision(&decision);
                    self.over = Some(Over::Superseded(decision));
                    self.around.inbox.ring();
                }
                Command::Ended => {
                    self.over = Some(Over::Ended);
                    self.around.inbox.ring();
                    self.around.bells.ring_all();
                }
            }
        }
    }

    fn outputs_ready(&mut self, lane: Lane) {
        let bytes = self.primary.first_output_bytes(lane);
        let is_ours = self.lets_out.is_some_and(|most| bytes <= most);
        let exit = self.exits.get(&lane).filter(|_| is_ours);
        match exit.and_then(Weak::upgrade) {
            Some(exit) => self.leaving.push(exit),
            None => self.around.bells.ring(lane),
        }
    }

    fn unprotected(&mut self, reason: &LossReason) {
        self.clone_wanted = false;
        self.unreachable = false;
        self.last_error = match reason {
            LossReason::Disabled => Vec::new(),
            _ => reasons::of_primary_loss(reason),
        };
        log::info!(
            "unprotected: {}",
            reasons::of_primary_loss(reason).join(": ")
        );
        self.around.inbox.ring();
        self.around.bells.ring_all();
    }

    fn begin_generation(&self, members: Members) {
        let Some(arbiter) = &self.arbiter else {
            return;
        };
        let me = self.me.clone();
        arbiter.ask(move |arbiter| {
            let result = arbiter.begin(&members);
            let result = result.map_err(|error| reasons::chain(&error).join(": "));
            if let Some(role) = me.upgrade() {
                let mut role = lock(&role);
                role.primary
                    .on_generation_begun(clock::monotonic_ns(), result);
                role.wake_channel();
                role.dispatch();
            }
        });
    }

    fn decide(&self, generation: Generation, decision: Decision) {
        let Some(arbiter) = &self.arbiter else {
            return;
        };
        let (me, vm, us) = (self.me.clone(), self.around.vm, self.around.us);
        arbiter.ask(move |arbiter| {
            let answer = arbiter.answer(vm, generation, us, &decision);
            if let Some(role) = me.upgrade() {
                let mut role = lock(&role);
                role.unreachable = answer == Answer::Unreachable;
                role.primary
                    .on_answer(clock::monotonic_ns(), generation, answer);
                role.wake_channel();
                role.dispatch();
            }
        });
    }
}

impl ChannelRole for PrimaryRole {
    fn wants_bytes(&self) -> bool {
        true
    }

    fn on_bytes(&mut self, now: u64, bytes: &[u8]) {
        self.primary.on_bytes(now, bytes);
        if self.awaited {
            self.around.inbox.ring();
        }
        // The thread of the channel does what `act` tells it next.
        self.lets_out = Some(usize::MAX);
        self.dispatch();
        self.lets_out = None;
    }

    fn on_datagram(&mut self, now: u64, datagram: &[u8]) {
        self.primary.on_datagram(now, datagram);
    }

    fn on_disconnect(&mut self, now: u64) {
        self.primary.on_disconnect(now);
        self.dispatch();
    }

    fn on_tick(&mut self, now: u64) {
        self.primary.on_tick(now);
        self.dispatch();
    }

    fn deadline(&self) -> Option<u64> {
        self.primary.deadline()
    }

    fn transmit(&mut self, now: u64) -> &[u8] {
        self.primary.transmit(now)
    }

    fn transmitted(&mut self, now: u64, count: usize) {
        self.primary.transmitted(now, count);
        if self.is_protected() {
            self.log_bytes = self.primary.status(now).log_bytes;
        }
        if self.clone_wanted {
            // The vCPU thread may be waiting for room for the clone.
            self.around.inbox.ring();
        }
        self.dispatch();
    }

    fn act(&mut self, _now: u64, wishes: &mut Wishes) {
        wishes.exits.append(&mut self.leaving);
        let port = self.primary.peer().map_or(0, |peer| peer.heartbeat_port);
        for datagram in self.datagrams.drain(..) {
            if port != 0 {
                wishes.datagrams.push((port, datagram));
            }
        }
        wishes.close = std::mem::take(&mut self.close);
        if self.primary.generation().is_none() {
            // The session is over.
            wishes.end = true;
            self.waker = None;
            self.sender = ChannelSender::default();
        }
    }
}
