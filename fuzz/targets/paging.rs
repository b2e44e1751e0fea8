//! MMU: any page tables and control bits under any code.
//!
//! The front of the bytes rewrites table entries; what is left makes the guest.
#![no_main]

use fuzz::bytes::Bytes;
use fuzz::{arena, compare};
use libfuzzer_sys::fuzz_target;

/// Paging bits of CR4 that the guest may start with: PSE, PGE, UMIP, SMEP, SMAP.
const CR4_CHOICES: [u64; 5] = [1 << 4, 1 << 7, 1 << 11, 1 << 20, 1 << 21];

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::new(data);
    let edits = bytes.byte() % 16;
    let control = bytes.byte();
    let entries: Vec<(u64, u64)> = (0..edits)
        .map(|_| {
            let slot = u64::from(bytes.byte()) | u64::from(bytes.byte() & 3) << 9;
            // Flags from the low word, a frame within RAM or just outside, NX and others on top.
            let (low, high) = (u64::from(bytes.u32()), u64::from(bytes.byte()));
            (arena::TABLES + 8 * slot, low & 0x1f_ffff | high << 56)
        })
        .collect();
    let mut guest = arena::guest(&mut bytes);
    for (bit, choice) in CR4_CHOICES.into_iter().enumerate() {
        if control & 1 << bit != 0 && guest.state.msr.efer != 0 {
            guest.state.cr4 ^= choice;
        }
    }
    if control & 1 << 5 != 0 {
        guest.state.cr0 ^= 1 << 16;
    }
    for (address, entry) in entries {
        arena::write(&mut guest.ram, address, &entry.to_le_bytes());
    }
    compare::all_ways(&guest, 64);
});
