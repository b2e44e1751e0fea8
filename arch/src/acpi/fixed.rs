//! The tables of fixed layout: FADT, MADT and MCFG (ACPI specification 6.5, sections 5.2.9 and
//! 5.2.12; PCI Firmware Specification 3.3, section 4.1.2).
//!
//! Does: fill in the fields that this machine has. Does not: list absent hardware.
//!
//! Invariant: the hardware-reduced flag is set, so no fixed event block, SCI, PIC or PIT is looked
//! for.

use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::{GenericAddress, Sdt};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, serialise};
use crate::layout;

// FADT offsets.
const FADT_PM_TIMER_BLOCK: usize = 76;
const FADT_PM_TIMER_LENGTH: usize = 91;
const FADT_CENTURY: usize = 108;
const FADT_BOOT_ARCHITECTURE: usize = 109;
const FADT_FLAGS: usize = 112;
const FADT_RESET_REGISTER: usize = 116;
const FADT_RESET_VALUE: usize = 128;
const FADT_MINOR_VERSION: usize = 131;
const FADT_X_DSDT: usize = 140;
const FADT_X_PM_TIMER_BLOCK: usize = 208;
const FADT_SLEEP_CONTROL: usize = 244;
const FADT_SLEEP_STATUS: usize = 256;
const FADT_HYPERVISOR: usize = 268;
const FADT_LENGTH: u32 = 276;

/// Boot architecture: no VGA. Without the other bits: no legacy devices, no 8042; the clock exists.
const BOOT_NO_VGA: u16 = 1 << 2;

/// WBINVD works.
const FLAG_WBINVD: u32 = 1 << 0;
/// The power button is a control method device.
const FLAG_POWER_BUTTON: u32 = 1 << 4;
/// There is no fixed sleep button.
const FLAG_SLEEP_BUTTON: u32 = 1 << 5;
/// The clock does not wake the machine.
const FLAG_FIXED_RTC: u32 = 1 << 6;
/// The PM timer has 32 bits.
const FLAG_TIMER_32_BITS: u32 = 1 << 8;
/// The reset register works.
const FLAG_RESET_REGISTER: u32 = 1 << 10;
/// No keyboard, mouse or monitor.
const FLAG_HEADLESS: u32 = 1 << 12;
/// Hardware-reduced.
const FLAG_HARDWARE_REDUCED: u32 = 1 << 20;

/// Value that resets when written to the reset register.
const RESET_VALUE: u8 = 1;
/// Index of the century in the CMOS.
const CMOS_CENTURY: u8 = 0x32;

/// The FADT, revision 6.3.
pub(super) fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = Sdt::new(*b"FACP", FADT_LENGTH, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let sleep = GenericAddress::io_port_address::<u8>(layout::ACPI_SLEEP_PORT);
    fadt.write_u32(FADT_PM_TIMER_BLOCK, layout::PM_TIMER_PORT.into());
    fadt.write_u8(FADT_PM_TIMER_LENGTH, 4);
    fadt.write_u8(FADT_CENTURY, CMOS_CENTURY);
    fadt.write_u16(FADT_BOOT_ARCHITECTURE, BOOT_NO_VGA);
    fadt.write_u32(
        FADT_FLAGS,
        FLAG_WBINVD
            | FLAG_POWER_BUTTON
            | FLAG_SLEEP_BUTTON
            | FLAG_FIXED_RTC
            | FLAG_TIMER_32_BITS
            | FLAG_RESET_REGISTER
            | FLAG_HEADLESS
            | FLAG_HARDWARE_REDUCED,
    );
    fadt.write(FADT_RESET_REGISTER, sleep);
    fadt.write_u8(FADT_RESET_VALUE, RESET_VALUE);
    fadt.write_u8(FADT_MINOR_VERSION, 3);
    fadt.write_u64(FADT_X_DSDT, dsdt);
    fadt.write(
        FADT_X_PM_TIMER_BLOCK,
        GenericAddress::io_port_address::<u32>(layout::PM_TIMER_PORT),
    );
    fadt.write(FADT_SLEEP_CONTROL, sleep);
    fadt.write(FADT_SLEEP_STATUS, sleep);
    fadt.write_bytes(FADT_HYPERVISOR, b"CLOUDHYP");
    fadt.as_slice().to_vec()
}

/// The MADT: one processor by its x2APIC id, one I/O APIC, and COM1 as what it is.
pub(super) fn madt() -> Vec<u8> {
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, layout::LAPIC_START as u32);
    // Flags: no 8259 pair.
    madt.write_u32(40, 0);

    let mut x2apic = vec![9, 16, 0, 0];
    for field in [
        0u32, // x2APIC id
        1,    // flags: enabled
        0,    // processor UID
    ] {
        x2apic.extend(field.to_le_bytes());
    }
    madt.append_slice(&x2apic);

    let mut ioapic = vec![1, 12, 0, 0];
    ioapic.extend((layout::IOAPIC_START as u32).to_le_bytes());
    ioapic.extend(0u32.to_le_bytes()); // first global interrupt
    madt.append_slice(&ioapic);

    // ISA interrupt 4 is global interrupt 4, edge-triggered and active high as on ISA.
    let mut source_override = vec![2, 10, 0, layout::COM1_PIN as u8];
    source_override.extend(layout::COM1_PIN.to_le_bytes());
    source_override.extend(0u16.to_le_bytes());
    madt.append_slice(&source_override);
    madt.as_slice().to_vec()
}

/// The MCFG: bus 0 of segment 0.
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM_START, 0, 0, 0);
    serialise(&mcfg)
}
