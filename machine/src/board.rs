//! The board: every device, and how the CPU reaches it.
//!
//! Does: decode ports and MMIO, carry interrupt lines to the IOAPIC and messages to the local APIC,
//! fire timers, collect what the guest asks of the machine. Does not: run the CPU (`machine`).
//!
//! Invariant: after every access the interrupt lines at the IOAPIC are those of the devices; what
//! is not decoded reads as all ones and swallows writes.

use devices::acpi_pm::{self, AcpiPm, Action};
use devices::cmos::{self, Cmos};
use devices::debug_port::{self, DebugPort};
use devices::i8042::{self, I8042};
use devices::ioapic::{self, Ioapic};
use devices::lapic::Lapic;
use devices::pci_hotplug::{self, PciHotplug};
use devices::serial::{self, Serial};
use devices::{Message, PendingOutput};
use hypervisor::{Progress, VmOps};
use memory::GuestRam;
use pci::{CONFIG_PORTS, RootBus};
use serde::{Deserialize, Serialize};
use virtio_devices::{DeviceSpec, Event};

use crate::clock::Clock;
use crate::virtio::VirtioDevices;

/// Bytes in the windows of APIC and IOAPIC.
const APIC_WINDOW: u64 = 0x1000;

/// What the guest asked of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerRequest {
    /// Power off.
    PowerOff,
    /// Reset.
    Reset,
}

/// The devices.
pub struct Board {
    pub(crate) clock: Clock,
    pub(crate) lapic: Lapic,
    pub(crate) ioapic: Ioapic,
    pub(crate) serial: Serial,
    pub(crate) cmos: Cmos,
    pub(crate) acpi: AcpiPm,
    pub(crate) i8042: I8042,
    pub(crate) debug: DebugPort,
    pub(crate) pci: RootBus,
    pub(crate) pci_hotplug: PciHotplug,
    pub(crate) virtio: VirtioDevices,
    pub(crate) console: PendingOutput,
    /// What the last step asked for; the next step does it.
    pub(crate) request: Option<PowerRequest>,
}

impl Board {
    /// Virtual time in nanoseconds.
    fn now(&self, at: Progress) -> u64 {
        self.clock.now(at.units)
    }

    /// Fires what is due at `at`. True if something was.
    pub(crate) fn advance(&mut self, at: Progress) -> bool {
        let now = self.now(at);
        let due = self
            .lapic
            .deadline()
            .is_some_and(|deadline| deadline <= now);
        if due {
            self.lapic.advance(now);
        }
        due
    }

    /// Bytes arrive on the serial line; those beyond the backlog's room are lost, as on a real
    /// line, the same on every side.
    pub(crate) fn serial_input(&mut self, bytes: &[u8]) {
        self.serial.receive(bytes);
        self.drive_lines();
    }

    /// The world says something to a virtio device.
    pub(crate) fn device_event(&mut self, ram: &mut GuestRam, device: u8, event: &Event) {
        self.virtio.event(ram, device, event);
        self.deliver_messages();
    }

    /// Delivers what virtio devices have raised.
    fn deliver_messages(&mut self) {
        for raised in self.virtio.messages.drain(..) {
            // What is no interrupt message is a write that reaches nothing.
            if let Some(message) = Message::from_msi(raised.address, raised.data) {
                self.lapic.receive(message);
            }
        }
    }

    /// The power button is pressed.
    pub(crate) fn power_button(&mut self) {
        self.acpi.press_power_button();
        self.drive_lines();
    }

    /// A device is put into a slot; the guest is told. A slot that is taken stays as it is.
    pub(crate) fn plug(&mut self, ram_size: u64, device: u8, spec: &DeviceSpec) {
        if self.virtio.plug(ram_size, device, spec) {
            self.pci_hotplug.plugged(device);
            self.acpi.slots_changed();
            self.drive_lines();
        }
    }

    /// The guest is asked to give up a device.
    pub(crate) fn ask_for(&mut self, device: u8) {
        if self.virtio.ask_for(device) {
            self.pci_hotplug.ask_for(device);
            self.acpi.slots_changed();
            self.drive_lines();
        }
    }

    /// The guest ejects the devices whose bits are set.
    fn eject(&mut self, slots: u32) {
        for slot in (1..pci::DEVICES).filter(|slot| slots & 1 << slot != 0) {
            if self.virtio.eject(slot) {
                self.pci_hotplug.gone(slot);
            }
        }
    }

    /// What a reset of the machine does to the devices.
    pub(crate) fn reset(&mut self) {
        self.lapic.reset();
        self.ioapic = Ioapic::new();
        self.serial.reset();
        self.cmos.reset();
        self.acpi = AcpiPm::new();
        self.i8042 = I8042::new();
        self.debug = DebugPort::new();
        self.pci = RootBus::new();
        self.pci_hotplug = PciHotplug::new();
        self.virtio.power_up();
        self.request = None;
        self.drive_lines();
    }

    fn drive_lines(&mut self) {
        for (pin, asserted) in [
            (serial::COM1_PIN, self.serial.line()),
            (acpi_pm::EVENT_PIN, self.acpi.line()),
        ] {
            if let Some(message) = self.ioapic.set_line(pin, asserted) {
                self.deliver([message]);
            }
        }
    }

    /// Takes messages from the IOAPIC to the local APIC.
    fn deliver(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            if !self.lapic.receive(message) {
                self.ioapic.refused(&message);
            }
        }
    }

    /// The local APIC was written, which may have ended an interrupt or made it take what it
    /// refused before.
    fn lapic_written(&mut self, ended: Option<u8>) {
        if let Some(vector) = ended {
            let messages = self.ioapic.end_of_interrupt(vector);
            self.deliver(messages);
        }
        let messages = self.ioapic.retry();
        self.deliver(messages);
    }

    fn read_port(&mut self, port: u16, now: u64) -> u8 {
        match port {
            serial::COM1..=0x3ff => self.serial.read(port - serial::COM1),
            cmos::INDEX | cmos::DATA => self.cmos.read(port, now),
            i8042::DATA | i8042::PORT_B | i8042::COMMAND => self.i8042.read(port, now),
            debug_port::POST | debug_port::CONSOLE => self.debug.read(port),
            acpi_pm::SLEEP..=0x60f => self.acpi.read(port, now),
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8, now: u64) {
        match port {
            serial::COM1..=0x3ff => {
                if let Some(byte) = self.serial.write(port - serial::COM1, value) {
                    self.console.write(byte);
                }
            }
            cmos::INDEX | cmos::DATA => self.cmos.write(port, value, now),
            i8042::DATA | i8042::PORT_B | i8042::COMMAND => {
                let resets = self.i8042.write(port, value);
                self.request = resets.then_some(PowerRequest::Reset).or(self.request);
            }
            debug_port::POST | debug_port::CONSOLE => {
                // The debug console has no one on its other end.
                let _ = self.debug.write(port, value);
            }
            acpi_pm::SLEEP..=0x60f => {
                if let Some(action) = self.acpi.write(port, value) {
                    self.request = Some(match action {
                        Action::PowerOff => PowerRequest::PowerOff,
                        Action::Reset => PowerRequest::Reset,
                    });
                }
            }
            _ => {}
        }
    }

    /// Offset into the local APIC's window. The guest may move it: then it hides other devices, but
    /// not RAM, whose accesses never come here.
    fn in_lapic(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.lapic.mmio_window()?);
        (offset < APIC_WINDOW).then_some(offset)
    }
}

impl VmOps for Board {
    fn io_read(&mut self, ram: &mut GuestRam, at: Progress, port: u16, size: u8) -> u32 {
        let mut bytes = [0xff; 4];
        let data = &mut bytes[..usize::from(size.min(4))];
        if CONFIG_PORTS.contains(&port) {
            self.pci
                .port_read(&mut self.virtio.functions(ram), port, data);
        } else {
            let now = self.now(at);
            for (port, byte) in (port..=u16::MAX).zip(data.iter_mut()) {
                *byte = self.read_port(port, now);
            }
            self.drive_lines();
        }
        u32::from_le_bytes(bytes)
    }

    fn io_write(&mut self, ram: &mut GuestRam, at: Progress, port: u16, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        let data = &bytes[..usize::from(size.min(4))];
        if CONFIG_PORTS.contains(&port) {
            self.pci
                .port_write(&mut self.virtio.functions(ram), port, data);
            self.deliver_messages();
        } else {
            let now = self.now(at);
            for (port, byte) in (port..=u16::MAX).zip(data.iter()) {
                self.write_port(port, *byte, now);
            }
            self.drive_lines();
        }
    }

    fn mmio_read(&mut self, ram: &mut GuestRam, at: Progress, address: u64, size: u8) -> u64 {
        let now = self.now(at);
        let mut bytes = [0xff; 8];
        let data = &mut bytes[..usize::from(size.min(8))];
        let dword = if let Some(offset) = self.in_lapic(address) {
            // Registers are dwords; a narrower read sees its part of one.
            Some(self.lapic.mmio_read(offset & !3, now))
        } else if address.wrapping_sub(ioapic::BASE) < APIC_WINDOW {
            Some(self.ioapic.mmio_read((address - ioapic::BASE) & !3))
        } else if address.wrapping_sub(pci_hotplug::BASE) < pci_hotplug::LENGTH {
            self.pci_hotplug.read(address - pci_hotplug::BASE, data);
            None
        } else {
            let offset = address.wrapping_sub(arch::layout::ECAM_START);
            if offset < arch::layout::ECAM_LENGTH {
                self.pci
                    .ecam_read(&mut self.virtio.functions(ram), offset, data);
            } else {
                self.virtio.read(address, data);
            }
            None
        };
        if let Some(dword) = dword {
            let shifted = dword.to_le_bytes();
            let skip = (address & 3) as usize;
            for (byte, part) in data.iter_mut().zip(&shifted[skip..]) {
                *byte = *part;
            }
        }
        let used = data.len();
        bytes[used..].fill(0);
        u64::from_le_bytes(bytes)
    }

    fn mmio_write(&mut self, ram: &mut GuestRam, at: Progress, address: u64, size: u8, value: u64) {
        let now = self.now(at);
        let bytes = value.to_le_bytes();
        let whole_dword = size >= 4 && address & 3 == 0;
        if let Some(offset) = self.in_lapic(address) {
            if whole_dword {
                let ended = self.lapic.mmio_write(offset, value as u32, now);
                self.lapic_written(ended);
            }
        } else if address.wrapping_sub(ioapic::BASE) < APIC_WINDOW {
            if whole_dword {
                let messages = self.ioapic.mmio_write(address - ioapic::BASE, value as u32);
                self.deliver(messages);
            }
        } else if address.wrapping_sub(pci_hotplug::BASE) < pci_hotplug::LENGTH {
            let data = &bytes[..usize::from(size.min(8))];
            let ejected = self.pci_hotplug.write(address - pci_hotplug::BASE, data);
            self.eject(ejected);
        } else {
            let offset = address.wrapping_sub(arch::layout::ECAM_START);
            let data = &bytes[..usize::from(size.min(8))];
            if offset < arch::layout::ECAM_LENGTH {
                self.pci
                    .ecam_write(&mut self.virtio.functions(ram), offset, data);
            } else {
                self.virtio.write(ram, address, data);
            }
            self.deliver_messages();
        }
    }

    fn msr_read(&mut self, at: Progress, index: u32) -> Option<u64> {
        self.lapic.rdmsr(index, self.now(at)).ok()
    }

    fn msr_write(&mut self, at: Progress, index: u32, value: u64) -> Option<()> {
        let ended = self.lapic.wrmsr(index, value, self.now(at)).ok()?;
        self.lapic_written(ended);
        Some(())
    }

    fn cr8(&mut self) -> u64 {
        u64::from(self.lapic.cr8())
    }

    fn set_cr8(&mut self, value: u64) {
        self.lapic.set_cr8(value as u8);
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.lapic.acknowledge()
    }

    fn tsc(&self, at: Progress) -> u64 {
        self.now(at)
    }
}
