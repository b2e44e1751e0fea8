//! Which addresses are RAM, as the guest is told.
//!
//! Does: list the ranges for PVH and E820, which share the numbers of their types.
//! Does not: write them.
//!
//! Invariant: ranges ascend and do not overlap; every byte that is usable is RAM. ACPI and SMBIOS
//! tables and the ECAM are reserved, so that Linux finds and accepts them.

use memory::GuestRam;

use crate::layout;

/// Type of a range, with the number it has in both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The guest's to use.
    Ram = 1,
    /// Not to be touched, except as some table says.
    Reserved = 2,
}

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: Kind,
}

/// The memory map for this RAM.
pub(super) fn memory_map(ram: &GuestRam) -> Vec<Range> {
    let range = |start, end, kind| Range {
        start,
        length: end - start,
        kind,
    };
    let mut map = vec![
        range(0, layout::BASE_RAM_END, Kind::Ram),
        range(layout::BASE_RAM_END, layout::HIGH_RAM_START, Kind::Reserved),
        range(layout::HIGH_RAM_START, ram.low_size(), Kind::Ram),
        range(
            layout::ECAM_START,
            layout::ECAM_START + layout::ECAM_LENGTH,
            Kind::Reserved,
        ),
    ];
    let high = ram.size() - ram.low_size();
    if high > 0 {
        map.push(range(
            layout::RAM64_START,
            layout::RAM64_START + high,
            Kind::Ram,
        ));
    }
    map
}
