//! The machine: `apply(input)`, `run(until)`, outputs, state, digest.
//!
//! Does: hold vCPU, RAM and board, and keep the order of things at a boundary: entries first (the
//! caller applies them), then timers that are due, then interrupt acceptance, then execution.
//! Does not: wait, know the host's time, or know why inputs come.
//!
//! Invariant: `run` returns before anything but execution has happened at the boundary it returns
//! at. So whoever applies an input there does it before that boundary's timers, on every side.

use std::sync::atomic::{AtomicBool, Ordering};

use arch::boot::Payload;
use arch::cpuid::Profile;
use devices::PendingOutput;
use devices::acpi_pm::AcpiPm;
use devices::cmos::Cmos;
use devices::debug_port::DebugPort;
use devices::i8042::I8042;
use devices::ioapic::Ioapic;
use devices::lapic::Lapic;
use devices::pci_hotplug::PciHotplug;
use devices::serial::Serial;
use hypervisor::{CpuState, Exit as VcpuExit, Limits, Position, SoftwareVcpu, Tuning, Vcpu};
use memory::GuestRam;
use pci::RootBus;
use thiserror::Error;
use virtio_devices::{DeviceSpec, Presence, Submission};

use crate::board::{Board, PowerRequest};
use crate::clock::Clock;
use crate::digest::{self, Digest, DigestJob, HashJob, RamDigest};
use crate::input::{Input, Lane, Output};
use crate::state::{BootPayload, MachineState, STATE_VERSION, StateError};
use crate::virtio::VirtioDevices;

/// What a new machine is made of.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Bytes of RAM.
    pub memory_size: u64,
    /// The CPU model.
    pub profile: Profile,
    /// Virtio devices with their numbers on the bus, each from 1 to 31 and in this order.
    pub devices: Vec<(u8, DeviceSpec)>,
    /// Seed of the guest's random numbers.
    pub seed: [u8; 32],
    /// Seconds since 1970 (UTC) that the CMOS clock shows at virtual time zero.
    pub start_time: u64,
    /// What it boots.
    pub payload: BootPayload,
    /// How the CPU is executed. No part of the machine: it may differ between the sides.
    pub tuning: Tuning,
}

/// Why a machine cannot be made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// No RAM.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The payload does not boot.
    #[error(transparent)]
    Boot(#[from] arch::boot::Error),
}

/// Why [`Machine::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// At the position asked for.
    Until,
    /// Somebody kicked.
    Kicked,
    /// A device asked something of the world: [`Machine::take_outputs`] has it.
    Output,
    /// The CPU waits for an interrupt: nothing will happen before this virtual time (ns), or ever
    /// without an input.
    Idle {
        /// The next timer.
        deadline: Option<u64>,
    },
    /// The machine was reset, by the guest or a triple fault; it can go on.
    Reset,
    /// The guest powered the machine off; it makes no further step.
    PoweredOff,
}

/// A machine.
pub struct Machine {
    vcpu: Box<dyn Vcpu>,
    ram: GuestRam,
    board: Board,
    powered_off: bool,
    sweep_page: u64,
    payload: BootPayload,
    payload_hash: u64,
    ram_digest: RamDigest,
    /// Console bytes already given to [`Machine::take_outputs`].
    taken: u64,
}

impl Machine {
    /// A machine at position 0, ready to run its payload.
    pub fn new(config: MachineConfig) -> Result<Machine, CreateError> {
        let mut ram = GuestRam::new(config.memory_size)?;
        let cpu = boot(
            &mut ram,
            &config.payload,
            CpuState::power_up(config.profile, config.seed),
        )?;
        let high = ram.size() - ram.low_size();
        let board = Board {
            clock: Clock::new(),
            lapic: Lapic::new(0),
            ioapic: Ioapic::new(),
            serial: Serial::new(),
            cmos: Cmos::new(config.start_time, ram.low_size(), high),
            acpi: AcpiPm::new(),
            i8042: I8042::new(),
            debug: DebugPort::new(),
            pci: RootBus::new(),
            pci_hotplug: PciHotplug::new(),
            virtio: VirtioDevices::new(ram.size(), &config.devices),
            console: PendingOutput::new(),
            request: None,
        };
        Ok(Machine {
            vcpu: Box::new(SoftwareVcpu::new(&cpu, config.tuning)),
            ram_digest: RamDigest::new(&mut ram),
            ram,
            board,
            powered_off: false,
            sweep_page: 0,
            payload_hash: digest::of_payload(&config.payload),
            payload: config.payload,
            taken: 0,
        })
    }

    /// A machine in a saved state, with RAM that was saved with it.
    pub fn restore(
        state: MachineState,
        mut ram: GuestRam,
        tuning: Tuning,
    ) -> Result<Machine, StateError> {
        let MachineState {
            version,
            memory_size,
            cpu,
            clock,
            lapic,
            ioapic,
            serial,
            cmos,
            acpi,
            i8042,
            debug,
            pci,
            pci_hotplug,
            virtio,
            console,
            request,
            powered_off,
            sweep_page,
            payload,
        } = state;
        if version != STATE_VERSION {
            return Err(StateError::Version {
                found: version,
                expected: STATE_VERSION,
            });
        }
        if memory_size != ram.size() {
            return Err(StateError::MemorySize {
                state: memory_size,
                ram: ram.size(),
            });
        }
        let impossible = |component, reason: &str| StateError::Impossible {
            component,
            reason: reason.to_string(),
        };
        cpu.validate().map_err(|field| impossible("cpu", field))?;
        let board = Board {
            clock,
            lapic: Lapic::restore(&lapic)?,
            ioapic: Ioapic::restore(&ioapic)?,
            serial: Serial::restore(&serial)?,
            cmos: Cmos::restore(&cmos)?,
            acpi: AcpiPm::restore(&acpi)?,
            i8042: I8042::restore(&i8042)?,
            debug: DebugPort::restore(&debug),
            pci: RootBus::restore(&pci)?,
            pci_hotplug: PciHotplug::restore(&pci_hotplug)?,
            virtio: VirtioDevices::restore(ram.size(), &virtio)?,
            console,
            request,
        };
        let vcpu = SoftwareVcpu::new(&cpu, tuning);
        if !board.clock.validate(vcpu.progress().units) {
            return Err(impossible(
                "clock",
                "it is ahead of the CPU, or its rate out of bounds",
            ));
        }
        if !board.console.validate() {
            return Err(impossible("console", "counts and bytes disagree"));
        }
        if sweep_page >= ram.pages() as u64 {
            return Err(impossible(
                "machine",
                "the digest's sweep is beyond the end of RAM",
            ));
        }
        Ok(Machine {
            vcpu: Box::new(vcpu),
            ram_digest: RamDigest::new(&mut ram),
            ram,
            taken: board.console.written,
            board,
            powered_off,
            sweep_page,
            payload_hash: digest::of_payload(&payload),
            payload,
        })
    }

    /// The state at this boundary; RAM is beside it.
    pub fn save(&self) -> MachineState {
        MachineState {
            version: STATE_VERSION,
            memory_size: self.ram.size(),
            cpu: self.vcpu.state(),
            clock: self.board.clock,
            lapic: self.board.lapic.save(),
            ioapic: self.board.ioapic.save(),
            serial: self.board.serial.save(),
            cmos: self.board.cmos.save(),
            acpi: self.board.acpi.save(),
            i8042: self.board.i8042.save(),
            debug: self.board.debug.save(),
            pci: self.board.pci.save(),
            pci_hotplug: self.board.pci_hotplug.save(),
            virtio: self.board.virtio.save(),
            console: self.board.console.clone(),
            request: self.board.request,
            powered_off: self.powered_off,
            sweep_page: self.sweep_page,
            payload: self.payload.clone(),
        }
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The CPU model.
    pub fn profile(&self) -> Profile {
        self.vcpu.profile()
    }

    /// Where the machine is.
    pub fn position(&self) -> Position {
        Position(self.vcpu.progress().steps)
    }

    /// Virtual time at this boundary, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.board.clock.now(self.vcpu.progress().units)
    }

    /// The rate of virtual time, see [`Input::Anchor`].
    pub fn rate(&self) -> u64 {
        self.board.clock.rate
    }

    /// Cost units so far: 8 a step, 1 a REP iteration.
    pub fn units(&self) -> u64 {
        self.vcpu.progress().units
    }

    /// True once the guest has powered the machine off.
    pub fn powered_off(&self) -> bool {
        self.powered_off
    }

    /// Bytes typed at the console of this lane that would not be lost now.
    pub fn input_room(&self, lane: Lane) -> usize {
        match lane {
            Lane::Console => self.board.serial.room(),
            Lane::Device(device) => self.board.virtio.input_room(device).unwrap_or(0),
        }
    }

    /// Bytes of RAM that the guest says it does without: they are in a balloon.
    pub fn ballooned(&self) -> u64 {
        self.board.virtio.ballooned().min(self.ram.size())
    }

    /// How many bytes of a stream from the host a device can take now; `None` if nobody wants more
    /// of it.
    pub fn stream_room(&self, device: u8, stream: u64) -> Option<usize> {
        self.board.virtio.stream_room(&self.ram, device, stream)
    }

    /// What was written to the console of this lane and is on its way out, if there is one.
    pub fn output(&self, lane: Lane) -> Option<&PendingOutput> {
        match lane {
            Lane::Console => Some(&self.board.console),
            Lane::Device(device) => self.board.virtio.output(device),
        }
    }

    /// The serial port's bytes on their way out.
    pub fn console(&self) -> &PendingOutput {
        &self.board.console
    }

    /// Applies an input at this boundary.
    pub fn apply(&mut self, input: &Input) {
        match input {
            Input::Anchor { virtual_time, rate } => {
                let units = self.vcpu.progress().units;
                self.board.clock.anchor(units, *virtual_time, *rate);
            }
            Input::SerialInput(bytes) => self.board.serial_input(bytes),
            Input::ConsoleEmitted { through } => {
                self.board.console.emitted(*through);
                self.taken = self.taken.max(self.board.console.emitted);
            }
            Input::PowerButton => self.board.power_button(),
            Input::Device { device, event } => {
                self.board.device_event(&mut self.ram, *device, event);
            }
            Input::Plug {
                device,
                spec,
                config: _,
            } => self.board.plug(self.ram.size(), *device, spec),
            Input::Unplug { device } => self.board.ask_for(*device),
            Input::Nmi => self.vcpu.raise_nmi(),
            Input::Reset => self.board.request = Some(PowerRequest::Reset),
        }
    }

    /// Runs until `until`, a kick (after one step at least), or something the caller must see.
    pub fn run(&mut self, until: Position, kick: &AtomicBool) -> Exit {
        loop {
            if self.powered_off {
                return Exit::PoweredOff;
            }
            let at = self.vcpu.progress();
            if at.steps >= until.0 {
                return Exit::Until;
            }
            if self.board.lapic.acknowledge_init() {
                // After INIT the bootstrap processor goes to the firmware's reset vector, and that
                // resets the machine.
                self.board.request = self.board.request.or(Some(PowerRequest::Reset));
            }
            match self.board.request.take() {
                Some(PowerRequest::PowerOff) => {
                    self.vcpu.count_step();
                    self.powered_off = true;
                    return Exit::PoweredOff;
                }
                Some(PowerRequest::Reset) => {
                    self.reset();
                    return Exit::Reset;
                }
                None => {}
            }
            if kick.load(Ordering::Relaxed) {
                return Exit::Kicked;
            }
            let mut fired = self.board.advance(at);
            if self.board.lapic.acknowledge_nmi() {
                self.vcpu.raise_nmi();
                fired = true;
            }
            let deadline = self.board.lapic.deadline();
            let limits = Limits {
                steps: until.0,
                units: deadline.map_or(u64::MAX, |time| self.board.clock.units_at(time)),
                interrupt: self.board.lapic.pending_interrupt().is_some(),
            };
            match self.vcpu.run(&mut self.ram, &mut self.board, limits, kick) {
                VcpuExit::Bus if !self.board.virtio.submissions.is_empty() => {
                    return Exit::Output;
                }
                VcpuExit::Limit | VcpuExit::Bus => {}
                VcpuExit::Kicked => return Exit::Kicked,
                VcpuExit::Shutdown => self.board.request = Some(PowerRequest::Reset),
                VcpuExit::Halted => {
                    let here = self.vcpu.progress();
                    let due = deadline.is_some_and(|time| time <= self.board.clock.now(here.units));
                    if fired && here.steps == at.steps {
                        // Something came and did not wake the CPU. That took this boundary: the
                        // CPU goes on waiting at the next.
                        self.vcpu.count_step();
                    } else if !due {
                        return Exit::Idle { deadline };
                    }
                }
            }
        }
    }

    /// One step from an idle boundary to its deadline. Only after [`Exit::Idle`] with that
    /// deadline.
    pub fn idle_jump(&mut self, deadline: u64) {
        self.vcpu.count_step();
        let units = self.vcpu.progress().units;
        let rate = self.board.clock.rate;
        self.board.clock.anchor(units, deadline, rate);
    }

    /// Resets the machine: one step.
    fn reset(&mut self) {
        self.vcpu.count_step();
        self.ram.clear();
        let state = self.vcpu.state().reset();
        let cpu = boot(&mut self.ram, &self.payload, state)
            .expect("the payload was loaded before, into RAM of the same size");
        self.vcpu.set_state(&mut self.ram, &cpu);
        self.board.reset();
    }

    /// For how many of the next frames, of which the lengths are given, the driver of a network
    /// card has buffers now; `None` if no driver uses the card, or there is no such card.
    pub fn receivable(&self, device: u8, frames: &mut dyn Iterator<Item = usize>) -> Option<usize> {
        self.board.virtio.receivable(&self.ram, device, frames)
    }

    /// Numbers of the devices that there are, in order; one that was ejected counts until its
    /// requests in flight have ended.
    pub fn devices(&self) -> impl Iterator<Item = u8> + '_ {
        self.board.virtio.presences().map(|(device, _)| device)
    }

    /// Numbers of the devices that the guest was asked to give up, or has given up, and that are
    /// still there.
    pub fn leaving_devices(&self) -> impl Iterator<Item = u8> + '_ {
        let all = self.board.virtio.presences();
        let leaving = all.filter(|(_, presence)| *presence != Presence::Present);
        leaving.map(|(device, _)| device)
    }

    /// Requests of devices that were submitted and have not ended, in the order of submission.
    /// Whoever goes live carries them out again before anything new.
    pub fn in_flight(&self) -> Vec<Submission> {
        self.board.virtio.in_flight()
    }

    /// What leaves at this boundary: what devices asked since the last call, and what the guest
    /// wrote to its console. To be called whenever [`Machine::run`] has returned, and after inputs.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        let position = self.position();
        let submissions = self.board.virtio.submissions.drain(..);
        let mut outputs: Vec<Output> = submissions
            .map(|submission| Output::Device {
                position,
                submission,
            })
            .collect();
        let through = self.board.console.written;
        if through > self.taken {
            outputs.push(Output::Console {
                position,
                through,
                bytes: self.board.console.since(self.taken),
            });
            self.taken = through;
        }
        outputs
    }

    /// The digest at this boundary. Taking one moves the sweep, so it is itself something that both
    /// sides do at the same positions.
    pub fn digest(&mut self) -> Digest {
        self.begin_digest().finish()
    }

    /// Begins the digest at this boundary, which can be finished anywhere while the machine goes
    /// on. If the last one is not finished, that is done first.
    pub fn begin_digest(&mut self) -> DigestJob {
        let ram = self.ram_digest.of_digest(&mut self.ram, self.sweep_page);
        let pages = self.ram.pages() as u64;
        self.sweep_page = (self.sweep_page + digest::SWEEP_PAGES) % pages;
        DigestJob::new(self.save(), self.payload_hash, ram)
    }

    /// The digest of a machine that is copied. It leaves the sweep where it is, so that it is nothing
    /// that a log must tell: the copy's is the same.
    pub fn clone_digest(&mut self) -> Digest {
        self.begin_clone_digest().finish()
    }

    /// Begins [`Machine::clone_digest`].
    pub fn begin_clone_digest(&mut self) -> DigestJob {
        let HashJob(ram) = self.hash_ahead();
        DigestJob::new(self.save(), self.payload_hash, ram)
    }

    /// Begins to hash pages that the next digest would have to. No digest shows whether that was
    /// done.
    pub fn hash_ahead(&mut self) -> HashJob {
        self.ram_digest.ahead(&mut self.ram)
    }

    /// Empties the engine's caches, which must not be observable.
    pub fn flush_caches(&mut self) {
        self.vcpu.flush_caches(&mut self.ram);
    }
}

/// Loads the payload and the tables into zeroed RAM; the CPU at the kernel's entry.
fn boot(
    ram: &mut GuestRam,
    payload: &BootPayload,
    mut cpu: CpuState,
) -> Result<CpuState, CreateError> {
    let entry = arch::boot::load(
        ram,
        &Payload {
            kernel: &payload.kernel,
            initramfs: &payload.initramfs,
            cmdline: &payload.cmdline,
        },
    )?;
    arch::acpi::write(ram)?;
    arch::smbios::write(ram)?;
    arch::reset_vector::write(ram)?;
    cpu.enter_kernel(&entry);
    ram.replaced();
    Ok(cpu)
}
