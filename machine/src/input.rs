//! The narrow waist: everything that enters the machine, and everything that leaves it.
//!
//! Does: name inputs and outputs as plain data. Does not: encode them (`ft::log`), or act on them.
//!
//! Invariant: an input is applied between two steps and changes devices and clock only; the same
//! inputs at the same positions make the same machine.

use hypervisor::Position;
use virtio_devices::{DeviceSpec, Event, Submission};

/// Something from the outside world, applied at a boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Re-bases virtual time: from here, `virtual_time` nanoseconds, and `rate` per cost unit.
    Anchor {
        /// Virtual time at this boundary, in nanoseconds; never below what it was.
        virtual_time: u64,
        /// Nanoseconds per cost unit in 32.32 fixed point.
        rate: u64,
    },
    /// Bytes that arrived on the serial port's line.
    SerialInput(Vec<u8>),
    /// All console bytes up to this count (since the VM's creation) are known to be emitted.
    ConsoleEmitted {
        /// Number of bytes.
        through: u64,
    },
    /// Somebody pressed the power button.
    PowerButton,
    /// Somebody asked for a reset (`vm.reboot`).
    Reset,
    /// Somebody asked for a non-maskable interrupt (`vm.nmi`).
    Nmi,
    /// A new virtio device is put into a slot; one that is taken stays as it is.
    Plug {
        /// The slot, which is the device's number on the PCI bus.
        device: u8,
        /// What it is.
        spec: DeviceSpec,
        /// What a host must know to stand behind it; nothing to the machine.
        config: Vec<u8>,
    },
    /// The guest is asked to give up a virtio device. When it has, [`virtio_devices::Request::Detach`]
    /// leaves the machine, after the device's other requests have ended.
    Unplug {
        /// The device's number on the PCI bus; one that there is not is ignored.
        device: u8,
    },
    /// The world says something to a virtio device.
    Device {
        /// The device's number on the PCI bus; one that there is not is ignored.
        device: u8,
        /// What it says.
        event: Event,
    },
}

/// To whom an output goes, and which console's end an input comes from. Outputs of one lane leave in order; lanes do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// To the serial port's other end.
    Console,
    /// To the backend of the virtio device of this number.
    Device(u8),
}

impl Lane {
    /// Bytes are typed at the console of this lane.
    pub fn typed(self, bytes: Vec<u8>) -> Input {
        match self {
            Lane::Console => Input::SerialInput(bytes),
            Lane::Device(device) => Input::Device {
                device,
                event: Event::Typed(bytes),
            },
        }
    }

    /// All bytes of the console of this lane up to the count `through` are known to be emitted.
    pub fn emitted(self, through: u64) -> Input {
        match self {
            Lane::Console => Input::ConsoleEmitted { through },
            Lane::Device(device) => Input::Device {
                device,
                event: Event::Emitted { through },
            },
        }
    }
}

/// Something that leaves the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Console bytes that the guest wrote to its serial port since the last such output.
    Console {
        /// The boundary after the last of the steps that wrote them.
        position: Position,
        /// Count of console bytes since the VM's creation, these included.
        through: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A virtio device asks something of the world.
    Device {
        /// The boundary after the step that asked, or the one at which an input made it ask.
        position: Position,
        /// What is asked.
        submission: Submission,
    },
}

impl Output {
    /// To whom it goes.
    pub fn lane(&self) -> Lane {
        match self {
            Output::Console { .. } => Lane::Console,
            Output::Device { submission, .. } => Lane::Device(submission.device),
        }
    }

    /// Bytes that it holds.
    pub fn length(&self) -> usize {
        match self {
            Output::Console { bytes, .. } => bytes.len(),
            Output::Device { submission, .. } => submission.request.data_length(),
        }
    }

    /// Whether nobody outside could tell if it left: it only asks for something.
    pub fn is_harmless(&self) -> bool {
        match self {
            Output::Console { .. } => false,
            Output::Device { submission, .. } => submission.request.is_harmless(),
        }
    }
}
