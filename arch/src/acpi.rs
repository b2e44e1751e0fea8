//! The ACPI tables (ACPI specification 6.5, hardware-reduced model).
//!
//! Does: build RSDP, XSDT, FADT, MADT, MCFG and DSDT for this machine and place them from
//! [`layout::RSDP_START`] on. The guest learns from them: COM1, the clock, the PCI root and its
//! slots, the power button, how to power off and reset, and where interrupts go.
//! Does not: describe what the guest can see for itself (PCI functions, CPUID).
//!
//! Invariant: the bytes depend on the size of RAM only, and every table's checksum is right.

mod dsdt;
mod fixed;
mod pci_hotplug;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use memory::GuestRam;

use crate::layout;

const OEM_ID: [u8; 6] = *b"CLOUDH";
const OEM_TABLE_ID: [u8; 8] = *b"CLOUDHVM";
const OEM_REVISION: u32 = 1;

/// Writes the tables into `ram`.
pub fn write(ram: &mut GuestRam) -> memory::Result<()> {
    ram.write(layout::RSDP_START, &tables(ram.size()))
}

/// The tables for a machine with `ram_size` bytes of RAM, as they lie from
/// [`layout::RSDP_START`] on.
pub fn tables(ram_size: u64) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len()];
    let dsdt = append(&mut bytes, &dsdt::dsdt(ram_size));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fixed::fadt(dsdt), fixed::madt(), fixed::mcfg()] {
        xsdt.add_entry(append(&mut bytes, &table));
    }
    let xsdt = append(&mut bytes, &serialise(&xsdt));
    bytes[..Rsdp::len()].copy_from_slice(&serialise(&Rsdp::new(OEM_ID, xsdt)));
    assert!(
        layout::RSDP_START + bytes.len() as u64 <= layout::SMBIOS_START,
        "the tables have outgrown their range"
    );
    bytes
}

/// Appends a table on a 16-byte boundary. Gives its guest-physical address.
fn append(bytes: &mut Vec<u8>, table: &[u8]) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let address = layout::RSDP_START + bytes.len() as u64;
    bytes.extend_from_slice(table);
    address
}

fn serialise(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
