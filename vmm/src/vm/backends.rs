//! What a live machine has of this host: its consoles' other ends, and its devices' backends.
//!
//! Does: open images, say what devices the machine gets, and start the threads behind the gate.
//! Does not: carry requests out (`host`), or hold them back (`ft`'s gate).
//!
//! Invariant: only a live machine has backends; a backup opens nothing before it goes live. They
//! take from the gate only what may leave, and are asked no more once the role is silenced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use block::Image;
use machine::balloon::BalloonSpec;
use machine::block::BlockSpec;
use machine::net::NetSpec;
use machine::vsock::VsockSpec;
use machine::{DeviceSpec, Event, Lane, Machine, StreamEvent, Submission};
use net_util::{MacAddress, Tap, TapError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bells::Bells;
use super::device_counters::{Counted, DeviceCounters};
use super::fencing::Fencing;
use super::gated::GatedRequests;
use super::inbox::Inbox;
use super::outlet::{History, Outlet};
use super::primary_role::{SharedPrimary, lock};
use super::receivers::{Received, StreamInbox, receiver};
use crate::config::{self, DiskConfig, NetConfig, Place, Planned, VmConfig, VsockConfig};
use crate::control::VmError;
use crate::host::card::{Card, CardThread};
use crate::host::disk::{self, Disk, Takeover};
use crate::host::entropy::Entropy;
use crate::host::fence::{Fence, FenceThread};
use crate::host::rate_limiter::RateLimiter;
use crate::host::request_thread::RequestThread;
use crate::host::unix_listener::{Claim, PathListener};
use crate::host::vsock::{self, StreamBackend, StreamThread};
use crate::status::Ptys;

/// What a device has of this host.
pub enum OpenedDevice {
    /// A disk's image, locked.
    Image(Box<dyn Image>),
    /// A card's TAP device.
    Tap(Tap),
    /// Nothing that is opened beforehand.
    Nothing,
}

impl std::fmt::Debug for OpenedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            OpenedDevice::Image(_) => "Image",
            OpenedDevice::Tap(_) => "Tap",
            OpenedDevice::Nothing => "Nothing",
        })
    }
}

/// What the devices of a machine that is to be built have of this host, by slot.
pub type Opened = BTreeMap<u8, OpenedDevice>;

fn place(config: &DiskConfig) -> disk::Place {
    disk::Place {
        path: config.path.clone().unwrap_or_default(),
        options: config.open_options(),
        uses_ring: !config.disable_io_uring,
    }
}

/// The devices that `config` means, in the order of their slots, with what they need.
pub fn prepare(config: &VmConfig) -> Result<(Vec<(u8, DeviceSpec)>, Opened), VmError> {
    let mut all = Opened::new();
    let mut specs = BTreeMap::new();
    for place in config.devices() {
        let (spec, opened) = open_device(place.planned, place.device)?;
        specs.insert(place.device, spec);
        all.insert(place.device, opened);
    }
    Ok((specs.into_iter().collect(), all))
}

/// What the guest sees of a device, and what stands behind it: an image says how large a disk is.
pub fn open_device(planned: Planned<'_>, slot: u8) -> Result<(DeviceSpec, OpenedDevice), VmError> {
    Ok(match planned {
        Planned::Disk(config) => {
            let image = place(config).open().map_err(|source| VmError::Because {
                what: "use a disk",
                source: Box::new(source),
            })?;
            let spec = DeviceSpec::Block(disk_spec(config, &*image));
            (spec, OpenedDevice::Image(image))
        }
        Planned::Net(config) => {
            let tap = open_tap(config).map_err(|source| VmError::Because {
                what: "use a network card's TAP device",
                source: Box::new(source),
            })?;
            let spec = DeviceSpec::Net(NetSpec {
                mac: mac_of(config, slot).0,
                mtu: config.mtu,
                checksums: config.offload_csum,
                segments: config.offload_tso,
                fragments: config.offload_ufo,
                pairs: config.num_queues / 2,
                queue_size: config.queue_size,
            });
            (spec, OpenedDevice::Tap(tap))
        }
        Planned::Rng(_) => (DeviceSpec::Rng, OpenedDevice::Nothing),
        Planned::Console(_) => (DeviceSpec::Console, OpenedDevice::Nothing),
        Planned::Vsock(config) => {
            let cid = config.cid.into();
            (DeviceSpec::Vsock(VsockSpec { cid }), OpenedDevice::Nothing)
        }
        Planned::Balloon(config) => {
            let spec = BalloonSpec {
                pages: (config.size / machine::PAGE_SIZE) as u32,
                deflate_on_oom: config.deflate_on_oom,
                reporting: config.free_page_reporting,
            };
            (DeviceSpec::Balloon(spec), OpenedDevice::Nothing)
        }
    })
}

/// The address of a card. One that was not given was chosen when the VM was created.
fn mac_of(config: &NetConfig, device: u8) -> MacAddress {
    let absent = MacAddress([2, 0, 0, 0, 0, device]);
    config.mac.unwrap_or(absent)
}

fn open_tap(config: &NetConfig) -> Result<Tap, TapError> {
    if let Some(fd) = config.fds.as_ref().and_then(|fds| fds.first()) {
        return Tap::of_descriptor(*fd);
    }
    let tap = Tap::open(config.tap.as_deref().unwrap_or_default())?;
    if let (Some(ip), Some(mask)) = (config.ip, config.mask) {
        tap.set_address(ip, mask)?;
    }
    if let Some(mac) = config.host_mac {
        tap.set_mac(mac)?;
    }
    if let Some(mtu) = config.mtu {
        tap.set_mtu(mtu)?;
    }
    tap.enable()?;
    Ok(tap)
}

fn disk_spec(config: &DiskConfig, image: &dyn Image) -> BlockSpec {
    let mut serial = [0; machine::block::SERIAL_LENGTH];
    let text = config.serial.as_deref().unwrap_or_default().as_bytes();
    for (to, from) in serial.iter_mut().zip(text) {
        *to = *from;
    }
    let topology = image.topology();
    BlockSpec {
        sectors: image.size() / machine::block::SECTOR,
        read_only: config.readonly,
        serial,
        logical_block: topology.logical_block,
        physical_block: topology.physical_block,
        discards: config.sparse,
        queues: config.num_queues,
        queue_size: config.queue_size,
    }
}

/// With whom backends deal.
#[derive(Clone)]
pub struct Around {
    /// Where outputs wait.
    pub role: SharedPrimary,
    /// Who is told of what has come of them.
    pub inbox: Arc<Inbox>,
    /// Who wakes whom.
    pub bells: Arc<Bells>,
}

/// What carries out a device's requests.
enum Backend {
    Requests(RequestThread),
    Card(CardThread),
}

impl Backend {
    fn has_ended(&self) -> bool {
        match self {
            Backend::Requests(thread) => thread.has_ended(),
            Backend::Card(thread) => thread.has_ended(),
        }
    }
}

/// The backends.
pub struct Backends {
    consoles: Vec<Outlet>,
    around: Around,
    limits: Limits,
    /// By slot. One whose device is gone ends by itself.
    threads: BTreeMap<u8, Backend>,
    /// Of socket devices, by slot.
    streams: BTreeMap<u8, StreamThread>,
    counters: BTreeMap<String, Arc<DeviceCounters>>,
    /// Of a side that went live.
    fence: Option<Arc<Fence>>,
    _fence_thread: Option<FenceThread>,
}

/// With what a machine's devices begin on this host.
pub enum Start {
    /// It is new, and this was opened for it.
    New(Opened),
    /// This side goes live: images are opened when they may be, cards are announced, and what cannot
    /// be had fails the guest's requests.
    GoesLive(Inheritance),
}

/// With what one device begins.
pub enum DeviceStart<'a> {
    /// It is new, and this was opened for it.
    Opened(OpenedDevice),
    /// This side goes live.
    TakenOver(&'a Inheritance, &'a Arc<Fence>),
}

/// What a side that goes live takes over.
pub struct Inheritance {
    /// How it fences the other one.
    pub fencing: Fencing,
    /// Which VM, in which generation, and where the other side was.
    pub variables: Vec<(&'static str, String)>,
    /// The requests in flight.
    pub in_flight: Vec<Submission>,
}

impl Backends {
    /// Starts those of `machine`, which is of `config`.
    pub fn start(
        config: &VmConfig,
        start: Start,
        around: &Around,
        machine: &Machine,
    ) -> Result<Self, VmError> {
        let host = |what| move |source| VmError::Host { what, source };
        let (mut opened, inheritance) = match start {
            Start::New(opened) => (opened, None),
            Start::GoesLive(inheritance) => (Opened::new(), Some(inheritance)),
        };
        let history = match inheritance {
            Some(_) => History::Continues,
            None => History::Begins,
        };
        let console = |id: &str, lane, config| {
            let emitted = machine.output(lane).map_or(0, |output| output.emitted);
            Outlet::open(id, lane, config, history, around, emitted)
        };
        let mut consoles = vec![console("__serial", Lane::Console, &config.serial)?];
        let fence = Arc::new(Fence::default());
        let mut backends = Backends {
            consoles: Vec::new(),
            around: around.clone(),
            limits: Limits::new(config),
            threads: BTreeMap::new(),
            streams: BTreeMap::new(),
            counters: BTreeMap::new(),
            fence: None,
            _fence_thread: None,
        };
        for place in config.devices() {
            match place.planned {
                Planned::Console(config) => {
                    let lane = Lane::Device(place.device);
                    consoles.push(console(&place.id, lane, config)?);
                }
                Planned::Vsock(config) => backends.listen(&place, config, history)?,
                _ => {
                    let start = match &inheritance {
                        Some(inheritance) => DeviceStart::TakenOver(inheritance, &fence),
                        None => {
                            let opened = opened.remove(&place.device);
                            DeviceStart::Opened(opened.unwrap_or(OpenedDevice::Nothing))
                        }
                    };
                    backends.attach(&place, start)?;
                }
            }
        }
        backends.consoles = consoles;
        let command = inheritance.as_ref().and_then(Inheritance::command);
        backends._fence_thread = command
            .map(|(command, variables)| FenceThread::start(Arc::clone(&fence), command, variables))
            .transpose()
            .map_err(host("start the thread that fences"))?;
        backends.fence = inheritance.map(|_| fence);
        Ok(backends)
    }

    /// What a device's thread takes from.
    fn source(&self, device: u8, planned: Planned<'_>) -> GatedRequests {
        GatedRequests {
            role: Arc::clone(&self.around.role),
            inbox: Arc::clone(&self.around.inbox),
            counters: None,
            device,
            is_awaited: matches!(planned, Planned::Disk(_) | Planned::Rng(_)),
        }
    }

    /// Starts the backend of a socket device.
    fn listen(
        &mut self,
        place: &Place<'_>,
        config: &VsockConfig,
        history: History,
    ) -> Result<(), VmError> {
        let (device, around) = (place.device, &self.around);
        let name = format!("{}-in", place.id);
        let (backend, stream) = socket_device(&name, config, history, around, device)?;
        if history == History::Continues {
            let lost = Event::Stream(StreamEvent::Lost);
            around.inbox.tell_device(device, lost);
        }
        let source = self.source(device, place.planned);
        let bell = around.bells.of(Lane::Device(device));
        let limiter = RateLimiter::default();
        let thread = RequestThread::start(&place.id, bell, source, backend, limiter);
        let thread = thread.map_err(|source| VmError::Host {
            what: "start a device's thread",
            source,
        })?;
        self.streams.insert(device, stream);
        self.threads.insert(device, Backend::Requests(thread));
        Ok(())
    }

    /// Starts the backend of a device that is added, or of one that needs no more than this: consoles
    /// and the balloon need none here.
    pub fn attach(&mut self, place: &Place<'_>, start: DeviceStart<'_>) -> Result<(), VmError> {
        let host = |what| move |source| VmError::Host { what, source };
        let Place {
            id,
            device,
            planned,
        } = place;
        let device = *device;
        let counted = match planned {
            Planned::Disk(_) => Some(DeviceCounters::new(Counted::Disk)),
            Planned::Net(_) => Some(DeviceCounters::new(Counted::Card)),
            _ => None,
        };
        let source = GatedRequests {
            counters: counted.clone(),
            ..self.source(device, *planned)
        };
        let (around, limits) = (&self.around, &self.limits);
        let bell = around.bells.of(Lane::Device(device));
        let thread = match planned {
            Planned::Disk(config) => {
                let place = self::place(config);
                let disk = match start {
                    DeviceStart::TakenOver(inheritance, fence) => {
                        let takeover = inheritance.takeover(device, fence);
                        Disk::taken_over(place, takeover, Arc::clone(&bell))
                    }
                    DeviceStart::Opened(OpenedDevice::Image(image)) => Disk::with(place, image),
                    // `open_device` opens one for each.
                    DeviceStart::Opened(_) => Disk::gone(place),
                };
                let limiter = limits.of_disk(config);
                RequestThread::start(id, bell, source, disk, limiter).map(Backend::Requests)
            }
            Planned::Net(config) => {
                let (sends, receives) = (limits.of_card(config), limits.of_card(config));
                let inbox = Arc::clone(&around.inbox);
                let counters = counted.clone();
                let name = id.clone();
                let receive = move |tap: &Tap| {
                    let received = Received {
                        inbox: Arc::clone(&inbox),
                        device,
                        counters: counters.clone(),
                    };
                    receiver(&name, tap, received, receives.clone())
                };
                let card = match start {
                    DeviceStart::Opened(OpenedDevice::Tap(tap)) => {
                        let receiver = receive(&tap);
                        Card::new(tap, receiver)
                    }
                    _ => {
                        let mac = mac_of(config, device);
                        let config = (*config).clone();
                        let inbox = Arc::clone(&around.inbox);
                        let open = move || {
                            let tap = open_tap(&config)?;
                            let receiver = receive(&tap);
                            inbox.tell_device(device, Event::Announce);
                            Ok((tap, receiver))
                        };
                        Card::waiting(mac, Box::new(open))
                    }
                };
                CardThread::start(id, bell, source, card, sends).map(Backend::Card)
            }
            Planned::Rng(config) => {
                let limiter = RateLimiter::default();
                let entropy = Entropy::new(&config.src);
                RequestThread::start(id, bell, source, entropy, limiter).map(Backend::Requests)
            }
            Planned::Vsock(config) => return self.listen(place, config, History::Begins),
            // They ask nothing of the host, or have other ends.
            Planned::Balloon(_) | Planned::Console(_) => return Ok(()),
        };
        let thread = thread.map_err(host("start a device's thread"))?;
        let exit = match &thread {
            Backend::Requests(thread) => thread.exit(),
            Backend::Card(card) => card.exit(),
        };
        lock(&around.role).set_exit(Lane::Device(device), exit);
        self.threads.insert(device, thread);
        self.counters
            .extend(counted.map(|counted| (id.clone(), counted)));
        Ok(())
    }

    /// Slots with backends: of devices that are there, or whose last requests are under way.
    pub fn slots(&self) -> impl Iterator<Item = u8> + '_ {
        let threads = self.threads.iter();
        let running = threads.filter(|(_, thread)| !thread.has_ended());
        running.map(|(slot, _)| *slot)
    }

    /// The device of this name, which was in that slot, counts no more, and nobody connects to it.
    pub fn forget(&mut self, id: &str, slot: u8) {
        self.counters.remove(id);
        self.streams.remove(&slot);
    }

    fn request_threads(&self) -> impl Iterator<Item = &RequestThread> {
        self.threads.values().filter_map(|backend| match backend {
            Backend::Requests(thread) => Some(thread),
            // Frames that are sent are nothing that must last.
            Backend::Card(_) => None,
        })
    }

    /// Whether the side from which this one took over can write no more. Until then it would be too
    /// much to tell a third one of what it may still write.
    pub fn are_fenced(&self) -> bool {
        self.fence.as_ref().is_none_or(|fence| fence.is_complete())
    }

    /// What is known of that side, if there was one.
    pub fn fence(&self) -> Option<&Arc<Fence>> {
        self.fence.as_ref()
    }

    /// Waits until all that `machine` wrote to its consoles is out, for each not longer than
    /// `timeout`.
    pub fn flush(&self, machine: &Machine, timeout: Duration) {
        for console in &self.consoles {
            if let Some(output) = machine.output(console.lane()) {
                console.flush(output.written, timeout);
            }
        }
    }

    /// What its devices have done, by their names.
    pub fn counters(&self) -> BTreeMap<String, Arc<DeviceCounters>> {
        self.counters.clone()
    }

    /// Where the other ends of the pseudo-terminals are: of the serial port and of the console.
    pub fn ptys(&self) -> Ptys {
        let pty = |is_serial| {
            let mut consoles = self.consoles.iter();
            let found = consoles.find(|console| (console.lane() == Lane::Console) == is_serial);
            Some(found?.pty()?.to_owned())
        };
        Ptys {
            serial: pty(true),
            console: pty(false),
        }
    }

    /// What was written so far is to survive the loss of this host.
    pub fn settle(&self) {
        self.request_threads().for_each(RequestThread::settle);
    }

    /// Whether that is so by now.
    pub fn are_settled(&self) -> bool {
        self.request_threads().all(RequestThread::is_settled)
    }
}

/// Who may be used how much.
struct Limits {
    groups: BTreeMap<String, RateLimiter>,
}

impl Limits {
    fn new(config: &VmConfig) -> Self {
        let groups = config.rate_limit_groups.iter().flatten();
        Limits {
            groups: groups
                .map(|group| {
                    let limiter = RateLimiter::new(&group.rate_limiter_config);
                    (group.id.clone(), limiter)
                })
                .collect(),
        }
    }

    fn of_disk(&self, config: &DiskConfig) -> RateLimiter {
        let group = config.rate_limit_group.as_deref();
        let shared = group.and_then(|id| self.groups.get(id)).cloned();
        let own = config.rate_limiter_config.as_ref();
        shared
            .or_else(|| own.map(RateLimiter::new))
            .unwrap_or_default()
    }

    /// For one direction: each has limits of its own.
    fn of_card(&self, config: &NetConfig) -> RateLimiter {
        let own = config.rate_limiter_config.as_ref();
        own.map(RateLimiter::new).unwrap_or_default()
    }
}

impl Inheritance {
    fn takeover(&self, device: u8, fence: &Arc<Fence>) -> Takeover {
        let ours = self.in_flight.iter().filter(|s| s.device == device);
        let changes = ours.filter(|submission| submission.request.modifies());
        Takeover {
            fence: Arc::clone(fence),
            lock_tells: self.fencing.locked.contains(&device),
            is_risked: self.fencing.fence == Some(config::Fence::None),
            in_flight: changes
                .filter_map(|s| Some((s.id, s.request.extent()?)))
                .collect(),
        }
    }

    /// The fence's command, if it is one, with its variables.
    fn command(&self) -> Option<(String, Vec<(&'static str, String)>)> {
        match &self.fencing.fence {
            Some(config::Fence::Exec(command)) => Some((command.clone(), self.variables.clone())),
            _ => None,
        }
    }
}

/// The host's side of a socket device. A side that goes live goes on without programs that connect
/// to the guest if it cannot listen.
fn socket_device(
    name: &str,
    config: &VsockConfig,
    history: History,
    around: &Around,
    device: u8,
) -> Result<(StreamBackend, StreamThread), VmError> {
    let claim = match history {
        History::Begins => Claim::Free,
        History::Continues => Claim::TakeOver,
    };
    let listener = match (PathListener::bind(&config.socket, claim), history) {
        (Ok(listener), _) => Some(listener),
        (Err(error), History::Continues) => {
            log::error!("nobody can connect to the guest's sockets here: {error}");
            None
        }
        (Err(source), History::Begins) => {
            return Err(VmError::File {
                what: "listen for the guest's socket device on",
                path: config.socket.clone(),
                source,
            });
        }
    };
    let inbox = Arc::clone(&around.inbox);
    let start = || {
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        inbox.set_stream_reader(device, wake.try_clone()?);
        let inbox = Arc::clone(&inbox);
        let receiver = Arc::new(StreamInbox { inbox, device });
        vsock::start(name, &config.socket, listener, &wake, receiver)
    };
    start().map_err(|source| VmError::Host {
        what: "start a device's thread",
        source,
    })
}
