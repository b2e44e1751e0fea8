//! A small SMBIOS 3 table (DMTF DSP0134, version 3.2): what system managers show as the machine.
//!
//! Does: BIOS and system information, as Cloud Hypervisor names them, so that guests that look for
//! a virtual machine find one.
//! Does not: carry serial numbers, UUIDs, or anything of the host.
//!
//! Invariant: the bytes are the same in every machine.

use memory::GuestRam;

use crate::layout;

/// Length of the 64-bit entry point.
const ENTRY_LENGTH: usize = 24;
/// Offset of the structures from the entry point.
const TABLE_OFFSET: u64 = 32;

/// Writes entry point and structures into `ram`.
pub fn write(ram: &mut GuestRam) -> memory::Result<()> {
    let table = structures();
    let mut entry = [0; ENTRY_LENGTH];
    entry[..5].copy_from_slice(b"_SM3_");
    entry[6] = ENTRY_LENGTH as u8;
    entry[7..10].copy_from_slice(&[3, 2, 0]); // version 3.2.0
    entry[10] = 1; // entry point revision
    entry[12..16].copy_from_slice(&(table.len() as u32).to_le_bytes());
    entry[16..].copy_from_slice(&(layout::SMBIOS_START + TABLE_OFFSET).to_le_bytes());
    let sum = entry.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    entry[5] = sum.wrapping_neg();
    ram.write(layout::SMBIOS_START, &entry)?;
    ram.write(layout::SMBIOS_START + TABLE_OFFSET, &table)
}

/// The structures, the end marker last.
fn structures() -> Vec<u8> {
    let mut table = Vec::new();
    // BIOS information. Vendor and version are strings 1 and 2, there is no release date, the
    // characteristics are "not supported"; the second extension byte says "virtual machine".
    let mut bios = [0; 20];
    bios[0] = 1;
    bios[1] = 2;
    bios[6] = 1 << 3;
    bios[15] = 1 << 4;
    append(&mut table, 0, &bios, &["cloud-hypervisor", "0"]);
    // System information. Manufacturer and product are strings 1 and 2, there are no others; the
    // UUID of all zeroes means none, and wake-up type 6 is the power switch.
    let mut system = [0; 23];
    system[0] = 1;
    system[1] = 2;
    system[20] = 6;
    append(
        &mut table,
        1,
        &system,
        &["Cloud Hypervisor", "cloud-hypervisor"],
    );
    append(&mut table, 127, &[], &[]);
    table
}

/// Appends a structure: header, fields, strings, and the NUL that ends them.
fn append(table: &mut Vec<u8>, kind: u8, fields: &[u8], strings: &[&str]) {
    let handle = u16::from(kind);
    table.extend([kind, fields.len() as u8 + 4]);
    table.extend(handle.to_le_bytes());
    table.extend_from_slice(fields);
    for string in strings {
        table.extend_from_slice(string.as_bytes());
        table.push(0);
    }
    if strings.is_empty() {
        table.push(0);
    }
    table.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ram.read(address, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_entry_point_leads_to_the_structures() {
        let mut ram = GuestRam::new(1 << 20).unwrap();
        write(&mut ram).unwrap();
        let entry = bytes(&ram, 0xF_0000, 24);
        assert_eq!(&entry[..5], b"_SM3_");
        assert_eq!(entry.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
        let length = ram.read_u32(0xF_000C).unwrap() as usize;
        let mut rest = &bytes(&ram, ram.read_u64(0xF_0010).unwrap(), length)[..];
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            kinds.push((rest[0], rest[1]));
            let strings = &rest[rest[1].into()..];
            let end = strings.windows(2).position(|pair| pair == [0, 0]).unwrap();
            rest = &strings[end + 2..];
        }
        assert_eq!(kinds, [(0, 24), (1, 27), (127, 4)]);
    }
}
