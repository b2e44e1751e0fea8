//! What the guest finds when it starts: memory map, boot protocol, tables, CPU model.
//!
//! Does: place kernel, initramfs and command line in guest RAM and tell where to enter; write the
//! ACPI and SMBIOS tables; answer CPUID for the fixed CPU models.
//! Does not: open files, run anything, or know the state of a CPU or device.
//!
//! Invariant: the same payload and RAM size make the same bytes at the same addresses, on every
//! host; nothing here is asked of the host.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod reset_vector;
pub mod smbios;
