//! The role of the side that follows, as the process's threads share it.
//!
//! Does: hold `ft`'s backup behind one lock, collect the clone, and do what it asks for: wake the
//! vCPU thread, ask the arbiter, hand datagrams to the channel. Does not: run the machine
//! (`follower`), wait for anything, or decide anything.
//!
//! Invariant: the lock is held for moments only. After every call into the backup its commands are
//! carried out, whichever thread made the call. A clone becomes a machine on the vCPU thread, so
//! heartbeats go on meanwhile (paper §2.3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ft::Settings;
use ft::arbiter::{Answer, ArbiterError};
use ft::backup::{Backup, Command, EndedReason, HaltReason, Offer, Replay};
use ft::channel::BlobKind;
use ft::flag::{Decision, Members};
use ft::identity::{Generation, Incarnation, VmId};
use ft::log::ComponentDigest;
use machine::{Output, Position};

use super::clone_in::{IncomingClone, WholeClone};
use super::fencing::{self, Fencing};
use super::hotplug;
use super::inbox::Inbox;
use super::reasons;
use crate::config::{Fence, Lease};
use crate::host::arbiter_thread::ArbiterThread;
use crate::host::channel_thread::{ChannelRole, ChannelWaker, Wishes};
use crate::host::clock;
use crate::status::{FtInfo, FtRole, FtState};

/// Why this side is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing came of it; another primary may try.
    Again(Vec<String>),
    /// It must never go live, and takes nobody else on.
    Halted(HaltReason),
    /// The VM has ended.
    PowerOff,
    /// It is live.
    Live(Promotion),
}

/// With what a side goes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The VM.
    pub vm: VmId,
    /// The generation that was won.
    pub generation: Generation,
    /// The next entry.
    pub next_seq: u64,
    /// Where the machine stands.
    pub position: Position,
    /// Host times: the primary's last word, its loss was known, the flag was asked, it answered.
    pub moments: [u64; 4],
}

/// A clone for the vCPU thread.
#[derive(Debug)]
pub struct ReceivedClone {
    /// The machine to be.
    pub whole: WholeClone,
    /// Where it must stand.
    pub position: Position,
    /// Who follows then.
    pub role: SharedBackup,
}

/// The role, shared.
pub type SharedBackup = Arc<Mutex<BackupRole>>;

/// Locks it.
pub fn lock(role: &Mutex<BackupRole>) -> MutexGuard<'_, BackupRole> {
    role.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The role.
#[derive(Debug)]
pub struct BackupRole {
    backup: Backup,
    us: Incarnation,
    inbox: Arc<Inbox>,
    me: Weak<Mutex<BackupRole>>,
    /// This host's name for the arbiter, if it has one of its own.
    lease: Option<Lease>,
    /// How this host fences, if it has its own way; what came of that and the VM's.
    fence: Option<Fence>,
    fencing: Fencing,
    /// Whether the images of devices that the primary asked about are seen to be locked, by the
    /// devices' names.
    looked_at: BTreeMap<String, bool>,
    arbiter: Option<ArbiterThread>,
    waker: Option<ChannelWaker>,
    datagrams: Vec<Vec<u8>>,
    close: bool,
    closed: bool,
    incoming: Option<IncomingClone>,
    /// The clone's digest as computed here, and the members of its generation as read here.
    digest: Option<Vec<ComponentDigest>>,
    members: Option<Option<Members>>,
    over: Option<Over>,
    unreachable: bool,
    heard_at: u64,
    lost_at: u64,
    asked_at: Option<u64>,
    last_error: Vec<String>,
}

impl BackupRole {
    /// A side to which somebody has just connected.
    pub fn new(
        settings: Settings,
        offer: Offer,
        lease: Option<Lease>,
        fence: Option<Fence>,
        inbox: Arc<Inbox>,
    ) -> SharedBackup {
        Arc::new_cyclic(|me| {
            Mutex::new(BackupRole {
                us: offer.us,
                backup: Backup::new(settings, offer),
                inbox,
                me: me.clone(),
                lease,
                fence,
                fencing: Fencing::default(),
                looked_at: BTreeMap::new(),
                arbiter: None,
                waker: None,
                datagrams: Vec::new(),
                close: false,
                closed: false,
                incoming: None,
                digest: None,
                members: None,
                over: None,
                unreachable: false,
                heard_at: 0,
                lost_at: 0,
                asked_at: None,
                last_error: Vec::new(),
            })
        })
    }

    /// What wakes the channel's thread.
    pub fn set_waker(&mut self, waker: ChannelWaker) {
        self.waker = Some(waker);
        self.wake_channel();
    }

    /// Why this side is done, if it is.
    pub fn over(&self) -> Option<&Over> {
        self.over.as_ref()
    }

    /// Whether a primary has introduced itself.
    pub fn has_primary(&self) -> bool {
        self.backup.peer().is_some()
    }

    /// Who decides about the VM.
    pub fn arbiter(&self) -> Option<&ArbiterThread> {
        self.arbiter.as_ref()
    }

    /// What keeps the primary from the disks when this side goes live.
    pub fn fencing(&self) -> &Fencing {
        &self.fencing
    }

    // --- For the vCPU thread.

    /// The clone is a machine with this digest.
    pub fn clone_built(&mut self, digest: Vec<ComponentDigest>) {
        self.digest = Some(digest);
        self.check_clone();
    }

    /// The clone makes no machine.
    pub fn refuse(&mut self, text: &str) {
        self.last_error = vec![text.to_owned()];
        self.incoming = None;
        self.backup.refuse(text);
        self.wake_channel();
        self.dispatch();
    }

    /// This side is taken away; false if it must first learn whether it is the only one.
    pub fn leave(&mut self) -> bool {
        let may_leave = self.backup.leave("it was shut down");
        self.wake_channel();
        self.dispatch();
        may_leave
    }

    /// Whether the last words to the primary are out, or never will be.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A device was plugged in.
    pub fn plugged(&mut self, slot: u8, name: &str) {
        if self.looked_at.remove(name) == Some(true) {
            self.fencing.locked.insert(slot);
        }
    }

    /// A device has left its slot.
    pub fn detached(&mut self, slot: u8) {
        self.fencing.locked.remove(&slot);
    }

    /// What a machine that stands at `at` does next.
    pub fn replay(&mut self, at: Position) -> Replay {
        let next = self.backup.replay(at).unwrap_or_else(|overrun| {
            log::error!("the replay has failed: {overrun}");
            self.backup.on_replay_failure("position");
            Replay::Stop
        });
        if next == Replay::Wait {
            // How far it came is news for the primary.
            self.wake_channel();
        }
        self.dispatch();
        next
    }

    /// The machine made an output, which goes nowhere.
    pub fn own_output(&mut self, output: &Output) {
        self.backup.own_output(output);
    }

    /// The machine's digest.
    pub fn own_digest(&mut self, id: u64, components: Vec<ComponentDigest>) {
        self.backup.own_digest(id, components);
        self.dispatch();
    }

    /// The machine cannot go on as the log says.
    pub fn replay_failed(&mut self, component: &str) {
        self.backup.on_replay_failure(component);
        self.dispatch();
    }

    // --- For `ft-info`.

    /// What it says of itself.
    pub fn describe(&self, info: &mut FtInfo) {
        let status = self.backup.status();
        info.role = FtRole::Backup;
        info.state = match (&self.over, status.phase) {
            (Some(Over::Halted(_) | Over::PowerOff), _) => FtState::Halted,
            (Some(Over::Again(_)), _) => FtState::Receiving,
            (_, "replaying") => FtState::Replaying,
            (_, "draining") => FtState::Draining,
            (_, "claiming") if self.unreachable => FtState::Waiting,
            // It is about to say so itself.
            (_, "claiming" | "live") => FtState::Claiming,
            (_, "diverged" | "halted") => FtState::Halted,
            _ => FtState::Receiving,
        };
        if let Some(Over::Again(why)) = &self.over {
            info.last_error.clone_from(why);
            return;
        }
        if let Some(primary) = self.backup.peer() {
            info.vm_id = Some(crate::config::VmId(primary.vm.0));
            info.generation = Some(primary.generation.0);
        }
        if info.state != FtState::Receiving {
            info.log_entries = status.next_expected;
            info.log_bytes = status.bytes_received;
            info.digests_matched = status.digests_compared;
        }
        info.last_error.clone_from(&self.last_error);
        if info.state == FtState::Waiting
            && let Some(arbiter) = &self.arbiter
        {
            info.last_error
                .insert(0, reasons::of_silence(arbiter.lease()));
        }
    }

    /// Bytes received.
    pub fn log_bytes(&self) -> u64 {
        self.backup.status().bytes_received
    }

    // --- Inside.

    fn wake_channel(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Carries out what the backup asked for.
    fn dispatch(&mut self) {
        while let Some(command) = self.backup.next_command() {
            match command {
                Command::Accepted(hello) => {
                    log::info!(
                        "receiving VM {} as generation {}",
                        hello.vm,
                        hello.generation
                    );
                    let incoming = IncomingClone::new(hello.ram_size);
                    self.incoming = self.accept(incoming);
                }
                Command::Blob(kind, bytes) => self.blob(kind, bytes),
                Command::Pages(run) => {
                    let result = self.incoming.as_mut().map(|incoming| incoming.pages(&run));
                    self.accept(result.unwrap_or(Ok(())));
                }
                Command::CheckClone {
                    vm,
                    generation,
                    position,
                } => {
                    self.build_clone(position);
                    self.read_members(vm, generation);
                }
                Command::Replay => self.inbox.ring(),
                Command::DeviceQuery { id, config } => self.look_for_device(id, config),
                Command::Heartbeat(datagram) => self.datagrams.push(datagram.to_vec()),
                Command::PrimaryLost(reason) => {
                    self.lost_at = clock::monotonic_ns();
                    self.last_error = reasons::of_backup_loss(&reason);
                    log::info!("the primary is lost: {}", self.last_error.join(": "));
                }
                Command::Decide {
                    generation,
                    decision,
                } => {
                    self.asked_at.get_or_insert_with(clock::monotonic_ns);
                    self.decide(generation, decision);
                }
                Command::GoLive {
                    generation,
                    next_seq,
                    position,
                } => self.go_live(generation, next_seq, position),
                Command::DigestMismatch(mismatch) => {
                    log::error!("{}", reasons::of_mismatch(&mismatch));
                    self.last_error = vec![
                        "the machines differ".to_owned(),
                        reasons::of_mismatch(&mismatch),
                    ];
                }
                Command::CloseChannel => {
                    (self.close, self.closed) = (true, true);
                    self.wake_channel();
                }
                Command::Halt(reason) => {
                    self.last_error = reasons::of_halt(&reason);
                    log::warn!("{}", self.last_error.join(": "));
                    self.over = Some(match reason {
                        HaltReason::Incomplete(_) | HaltReason::Refused(_) => {
                            Over::Again(self.last_error.clone())
                        }
                        HaltReason::Diverged(_) | HaltReason::Lost(_) => Over::Halted(reason),
                    });
                }
                Command::Ended(reason) => {
                    log::info!("{}", reasons::of_end(reason).join(": "));
                    self.over = Some(match reason {
                        EndedReason::PowerOff => Over::PowerOff,
                        EndedReason::Disabled | EndedReason::EndOfLog(_) | EndedReason::Left => {
                            Over::Again(reasons::of_end(reason))
                        }
                    });
                }
            }
        }
        if self.over.is_some() {
            self.incoming = None;
            self.inbox.ring();
        }
    }

    /// What there is, or a refusal.
    fn accept<T>(&mut self, result: Result<T, super::clone_in::CloneInError>) -> Option<T> {
        result
            .map_err(|error| {
                let text = reasons::chain(&error).join(": ");
                log::warn!("the clone is refused: {text}");
                self.incoming = None;
                self.backup.refuse(&text);
            })
            .ok()
    }

    fn blob(&mut self, kind: BlobKind, bytes: Vec<u8>) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        let result = incoming.blob(kind, bytes).map(|config| {
            let fencing = config.map(|config| fencing::judge(config, self.fence.as_ref()));
            let lease = config.and_then(|config| {
                let theirs = config.ft.as_ref().and_then(|ft| ft.lease.clone());
                self.lease.clone().or(theirs)
            });
            (lease, fencing)
        });
        let (lease, fencing) = self.accept(result).unwrap_or_default();
        match fencing {
            Some(Ok(fencing)) => self.fencing = fencing,
            Some(Err(problem)) => {
                log::warn!("the clone is refused: {problem}");
                self.incoming = None;
                self.backup.refuse(&problem);
                return;
            }
            None => {}
        }
        if let Some(lease) = lease {
            match ArbiterThread::start(&lease) {
                Ok(arbiter) => self.arbiter = Some(arbiter),
                Err(error) => self
                    .backup
                    .refuse(&format!("cannot start a thread for the arbiter: {error}")),
            }
        }
    }

    fn look_for_device(&mut self, id: u64, config: Vec<u8>) {
        let me = self.me.clone();
        let fence = self.fence.clone().or_else(|| {
            let agreed = self.fencing.fence.clone();
            agreed.filter(|fence| *fence == Fence::None)
        });
        let looks = hotplug::look_for(config, fence, move |found| {
            if let Some(role) = me.upgrade() {
                let mut role = lock(&role);
                let missing = match found {
                    Ok((name, is_locked)) => {
                        role.looked_at.insert(name, is_locked);
                        None
                    }
                    Err(missing) => Some(missing),
                };
                role.backup.answer_about_device(id, missing);
                role.wake_channel();
            }
        });
        if let Err(error) = looks {
            let why = format!("it cannot look: {error}");
            self.backup.answer_about_device(id, Some(why));
            self.wake_channel();
        }
    }

    fn build_clone(&mut self, position: Position) {
        let Some(incoming) = self.incoming.take() else {
            return;
        };
        let Some(role) = self.me.upgrade() else {
            return;
        };
        let whole = incoming.finish();
        if let Some(whole) = self.accept(whole) {
            self.inbox.cloned(Box::new(ReceivedClone {
                whole,
                position,
                role,
            }));
        }
    }

    fn read_members(&mut self, vm: VmId, generation: Generation) {
        let Some(arbiter) = &self.arbiter else {
            self.members = Some(None);
            self.check_clone();
            return;
        };
        let me = self.me.clone();
        arbiter.ask(move |arbiter| {
            let members = arbiter.members(vm, generation);
            let members = members.unwrap_or_else(|error: ArbiterError| {
                log::warn!("{}", reasons::chain(&error).join(": "));
                None
            });
            if let Some(role) = me.upgrade() {
                let mut role = lock(&role);
                role.members = Some(members);
                role.check_clone();
            }
        });
    }

    fn check_clone(&mut self) {
        if let (Some(digest), Some(members)) = (&self.digest, &self.members) {
            self.backup.on_clone_checked(digest, members.as_ref());
            self.wake_channel();
            self.dispatch();
        }
    }

    fn go_live(&mut self, generation: Generation, next_seq: u64, position: Position) {
        let Some(primary) = self.backup.peer() else {
            return;
        };
        let now = clock::monotonic_ns();
        let asked_at = self.asked_at.unwrap_or(now);
        self.over = Some(Over::Live(Promotion {
            vm: primary.vm,
            generation,
            next_seq,
            position,
            moments: [self.heard_at, self.lost_at, asked_at, now],
        }));
        self.wake_channel();
    }

    fn decide(&self, generation: Generation, decision: Decision) {
        let (Some(arbiter), Some(primary)) = (&self.arbiter, self.backup.peer()) else {
            return;
        };
        let (me, vm, us) = (self.me.clone(), primary.vm, self.us);
        arbiter.ask(move |arbiter| {
            let answer = arbiter.answer(vm, generation, us, &decision);
            if let Some(role) = me.upgrade() {
                let mut role = lock(&role);
                role.unreachable = answer == Answer::Unreachable;
                role.backup
                    .on_answer(clock::monotonic_ns(), generation, answer);
                role.wake_channel();
                role.dispatch();
            }
        });
    }
}

impl ChannelRole for BackupRole {
    fn wants_bytes(&self) -> bool {
        self.backup.wants_bytes()
    }

    fn on_bytes(&mut self, now: u64, bytes: &[u8]) {
        self.heard_at = now;
        self.backup.on_bytes(now, bytes);
        self.dispatch();
    }

    fn on_datagram(&mut self, now: u64, datagram: &[u8]) {
        self.heard_at = now;
        self.backup.on_datagram(now, datagram);
    }

    fn on_disconnect(&mut self, now: u64) {
        self.backup.on_disconnect(now);
        self.dispatch();
    }

    fn on_tick(&mut self, now: u64) {
        self.backup.on_tick(now);
        self.dispatch();
    }

    fn deadline(&self) -> Option<u64> {
        self.backup.deadline()
    }

    fn transmit(&mut self, now: u64) -> &[u8] {
        self.backup.transmit(now)
    }

    fn transmitted(&mut self, _now: u64, count: usize) {
        self.backup.transmitted(count);
        self.dispatch();
    }

    fn act(&mut self, _now: u64, wishes: &mut Wishes) {
        let port = self.backup.peer().map_or(0, |peer| peer.heartbeat_port);
        for datagram in self.datagrams.drain(..) {
            if port != 0 {
                wishes.datagrams.push((port, datagram));
            }
        }
        wishes.close = std::mem::take(&mut self.close);
        wishes.end = self.closed && self.over.is_some();
    }
}
