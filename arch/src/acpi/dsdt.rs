//! The DSDT: devices without a fixed place in ACPI, in AML (ACPI specification 6.5, chapter 20).
//!
//! Does: COM1, clock, PCI root bridge with its windows and slots, generic event device with the
//! power button and hot-plug, motherboard resources, and the sleep type of S5.
//! Does not: contain methods with side effects other than those of the event register and the
//! hot-plug controller.
//!
//! Invariant: every address is one of `layout`'s.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
    MethodCall, Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, pci_hotplug, serialise};
use crate::layout;

/// Bit of the event register that tells of changed PCI slots.
const EVENT_PCI: u8 = 1 << 2;
/// Bit of the event register that tells of the power button.
const EVENT_POWER_BUTTON: u8 = 1 << 3;
/// Notification of a button device: it was pressed (ACPI section 5.6.6).
const NOTIFY_PRESSED: u8 = 0x80;
/// Sleep type of S5, as the sleep control register takes it.
const S5_SLEEP_TYPE: u8 = 5;

/// The DSDT of a machine with `ram_size` bytes of RAM.
pub(super) fn dsdt(ram_size: u64) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for object in [
        motherboard(),
        pci_hotplug::controller(),
        pci_root(ram_size),
        com1(),
        clock(),
        power_button(),
        event_device(),
        s5(),
    ] {
        dsdt.append_slice(&object);
    }
    dsdt.as_slice().to_vec()
}

/// A device with the given objects.
fn device(path: &str, children: &[&dyn Aml]) -> Vec<u8> {
    serialise(&Device::new(Path::new(path), children.to_vec()))
}

fn name(name: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(name), value)
}

/// `_CRS` with the given resources.
fn resources(resources: &[&dyn Aml]) -> Name {
    name("_CRS", &ResourceTemplate::new(resources.to_vec()))
}

/// An edge-triggered, active-high interrupt of the I/O APIC, not shared.
fn interrupt(pin: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, pin)
}

/// Resources that belong to no other device: ECAM (Linux checks that) and ACPI's ports.
fn motherboard() -> Vec<u8> {
    device(
        "_SB_.MBRD",
        &[
            &name("_HID", &EISAName::new("PNP0C02")),
            &name("_UID", &0u8),
            &resources(&[
                &Memory32Fixed::new(true, layout::ECAM_START as u32, layout::ECAM_LENGTH as u32),
                &IO::new(layout::ACPI_SLEEP_PORT, layout::ACPI_SLEEP_PORT, 1, 12),
            ]),
        ],
    )
}

/// The PCI Express root bridge: bus 0, the ports around its own, two MMIO windows, the slots.
fn pci_root(ram_size: u64) -> Vec<u8> {
    let ports = layout::PCI_CONFIG_PORT;
    let window64 = layout::pci_mmio64_start(ram_size);
    let memory = AddressSpaceCacheable::NotCacheable;
    device(
        "_SB_.PC00",
        &[
            &name("_HID", &EISAName::new("PNP0A08")),
            &name("_CID", &EISAName::new("PNP0A03")),
            &name("_SEG", &0u8),
            &name("_BBN", &0u8),
            &name("_UID", &0u8),
            &name("_CCA", &1u8),
            &resources(&[
                &AddressSpace::<u16>::new_bus_number(0, 0),
                &IO::new(ports, ports, 1, 8),
                &AddressSpace::<u16>::new_io(0, ports - 1, None),
                &AddressSpace::<u16>::new_io(ports + 8, 0xFFFF, None),
                &AddressSpace::<u32>::new_memory(
                    memory,
                    true,
                    layout::PCI_MMIO32_START as u32,
                    (layout::PCI_MMIO32_START + layout::PCI_MMIO32_LENGTH - 1) as u32,
                    None,
                ),
                &AddressSpace::<u64>::new_memory(
                    memory,
                    true,
                    window64,
                    window64 + layout::PCI_MMIO64_LENGTH - 1,
                    None,
                ),
            ]),
            &pci_hotplug::slots(),
        ],
    )
}

fn com1() -> Vec<u8> {
    device(
        "_SB_.COM1",
        &[
            &name("_HID", &EISAName::new("PNP0501")),
            &name("_UID", &0u8),
            &name("_DDN", &"COM1"),
            &resources(&[
                &interrupt(layout::COM1_PIN),
                &IO::new(layout::COM1_PORT, layout::COM1_PORT, 1, 8),
            ]),
        ],
    )
}

/// The clock, without an interrupt: Linux keeps it for the time, and sets no alarms.
fn clock() -> Vec<u8> {
    device(
        "_SB_.RTC_",
        &[
            &name("_HID", &EISAName::new("PNP0B00")),
            &resources(&[&IO::new(layout::CMOS_PORT, layout::CMOS_PORT, 1, 2)]),
        ],
    )
}

fn power_button() -> Vec<u8> {
    device(
        "_SB_.PWRB",
        &[
            &name("_HID", &EISAName::new("PNP0C0C")),
            &name("_UID", &0u8),
        ],
    )
}

/// The generic event device: its interrupt makes the guest read the event register, which clears
/// it, and tell the devices.
fn event_device() -> Vec<u8> {
    let path = Path::new;
    device(
        "_SB_.GEDV",
        &[
            &name("_HID", &"ACPI0013"),
            &name("_UID", &0u8),
            &resources(&[&interrupt(layout::ACPI_EVENT_PIN)]),
            &OpRegion::new(
                path("EVTR"),
                OpRegionSpace::SystemIO,
                &layout::ACPI_EVENT_PORT,
                &1u8,
            ),
            &Field::new(
                path("EVTR"),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                path("_EVT"),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &layout::ACPI_EVENT_PIN),
                    vec![
                        &Store::new(&Local(0), &path("EVTS")),
                        &And::new(&Local(1), &Local(0), &EVENT_PCI),
                        &If::new(
                            &Equal::new(&Local(1), &EVENT_PCI),
                            vec![&MethodCall::new(path("\\_SB_.PHPR.PSCN"), vec![])],
                        ),
                        &And::new(&Local(1), &Local(0), &EVENT_POWER_BUTTON),
                        &If::new(
                            &Equal::new(&Local(1), &EVENT_POWER_BUTTON),
                            vec![&Notify::new(&path("\\_SB_.PWRB"), &NOTIFY_PRESSED)],
                        ),
                    ],
                )],
            ),
        ],
    )
}

/// `\_S5_`: the value for the sleep control register.
fn s5() -> Vec<u8> {
    serialise(&name("_S5_", &Package::new(vec![&S5_SLEEP_TYPE])))
}
