//! What lies where a BIOS would have its reset vector.
//!
//! Does: place the few instructions that a kernel reaches when it restarts "by the BIOS", with a
//! real-mode jump to FFFF:0000 (Linux does so on machines with hardware-reduced ACPI and no EFI).
//! They ask the keyboard controller to reset the machine. Does not: boot anything.
//!
//! Invariant: the bytes lie in the reserved range below 1 MiB, where no kernel puts anything.

use memory::GuestRam;

use crate::layout;

/// FFFF:0000.
const ADDRESS: u64 = 0xF_FFF0;

/// `mov al, 0xfe; out 0x64, al`, then wait for what follows.
const CODE: [u8; 7] = [0xB0, 0xFE, 0xE6, 0x64, 0xF4, 0xEB, 0xFD];

/// Writes the code into `ram`.
pub fn write(ram: &mut GuestRam) -> memory::Result<()> {
    const { assert!(ADDRESS + CODE.len() as u64 <= layout::HIGH_RAM_START) };
    ram.write(ADDRESS, &CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_lies_at_the_vector() {
        let mut ram = GuestRam::new(2 << 20).unwrap();
        write(&mut ram).unwrap();
        let mut code = [0; 7];
        ram.read(ADDRESS, &mut code).unwrap();
        assert_eq!(code[..4], [0xB0, 0xFE, 0xE6, 0x64]);
    }
}
