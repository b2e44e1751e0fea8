//! The tables, found as a guest finds them.

use super::*;

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// The table at a guest-physical address, its checksum verified.
fn table(tables: &[u8], address: u64) -> &[u8] {
    let start = (address - layout::RSDP_START) as usize;
    let length = number(&tables[start + 4..start + 8]) as usize;
    let table = &tables[start..start + length];
    assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
    table
}

/// Follows RSDP and XSDT to the table with a signature.
fn find<'a>(tables: &'a [u8], signature: &[u8; 4]) -> &'a [u8] {
    let xsdt = table(tables, number(&tables[24..32]));
    assert_eq!(&xsdt[..4], b"XSDT");
    xsdt[36..]
        .chunks(8)
        .map(|entry| table(tables, number(entry)))
        .find(|table| table.starts_with(signature))
        .unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_root_pointer_is_valid() {
    let tables = tables(512 << 20);
    assert_eq!(&tables[..8], b"RSD PTR ");
    assert_eq!(tables[15], 2, "revision");
    assert_eq!(sum(&tables[..20]), 0);
    assert_eq!(sum(&tables[..36]), 0);
}

#[test]
fn fadt_names_the_ports() {
    let tables = tables(512 << 20);
    let fadt = find(&tables, b"FACP");
    assert_eq!(fadt.len(), 276);
    assert_eq!(number(&fadt[76..80]), 0x608);
    let flags = number(&fadt[112..116]);
    assert_eq!(
        flags & (1 << 20 | 1 << 10 | 1 << 8),
        1 << 20 | 1 << 10 | 1 << 8
    );
    let register = |offset: usize| {
        (
            fadt[offset],
            fadt[offset + 1],
            number(&fadt[offset + 4..][..8]),
        )
    };
    assert_eq!(register(116), (1, 8, 0x600), "reset");
    assert_eq!(fadt[128], 1, "reset value");
    assert_eq!(register(208), (1, 32, 0x608), "PM timer");
    assert_eq!(register(244), (1, 8, 0x600), "sleep control");
    assert_eq!(register(256), (1, 8, 0x600), "sleep status");
    assert_eq!(number(&fadt[109..111]) & 3, 0, "no legacy devices, no 8042");
    let dsdt = table(&tables, number(&fadt[140..148]));
    assert_eq!(&dsdt[..4], b"DSDT");
}

#[test]
fn madt_has_one_of_each() {
    let tables = tables(512 << 20);
    let madt = find(&tables, b"APIC");
    assert_eq!(number(&madt[36..40]), 0xFEE0_0000);
    let mut entries = Vec::new();
    let mut rest = &madt[44..];
    while !rest.is_empty() {
        let (entry, next) = rest.split_at(rest[1].into());
        entries.push(entry);
        rest = next;
    }
    assert_eq!(
        entries,
        [
            &[9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
            &[2, 10, 0, 4, 4, 0, 0, 0, 0, 0],
        ]
    );
}

#[test]
fn mcfg_is_the_ecam() {
    let tables = tables(512 << 20);
    let mcfg = find(&tables, b"MCFG");
    assert_eq!(mcfg.len(), 60);
    assert_eq!(number(&mcfg[44..52]), 0xE800_0000);
    assert_eq!(number(&mcfg[52..56]), 0, "segment 0, bus 0 to 0");
}

#[test]
fn dsdt_has_the_devices() {
    let tables = tables(512 << 20);
    let fadt = find(&tables, b"FACP");
    let dsdt = table(&tables, number(&fadt[140..148]));
    for part in [
        &b"COM1"[..],
        b"PC00",
        b"PWRB",
        b"RTC_",
        b"ACPI0013\0",
        // Name(_S5_, Package { 5 })
        b"\x08_S5_\x12\x04\x01\x0A\x05",
        // IO(Decode16, 0x3F8, 0x3F8, 1, 8)
        b"\x47\x01\xF8\x03\xF8\x03\x01\x08",
        // Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }, then { 5 }
        b"\x89\x06\x00\x03\x01\x04\x00\x00\x00",
        b"\x89\x06\x00\x03\x01\x05\x00\x00\x00",
        // OperationRegion(EVTR, SystemIO, 0x604, 1)
        b"\x5B\x80EVTR\x01\x0B\x04\x06\x01",
        // OperationRegion(PCST, SystemMemory, 0xF8000000, 16)
        b"\x5B\x80PCST\x00\x0C\x00\x00\x00\xF8\x0A\x10",
        // Device(S031) { Name(_SUN, 31), Name(_ADR, 0x1F0000), … }
        b"S031\x08_SUN\x0A\x1F\x08_ADR\x0C\x00\x00\x1F\x00",
        b"PCNT",
    ] {
        assert!(contains(dsdt, part), "{}", String::from_utf8_lossy(part));
    }
}

#[test]
fn the_64_bit_window_moves_with_the_ram() {
    let window = |ram_size| {
        let start = layout::pci_mmio64_start(ram_size);
        let mut bytes = start.to_le_bytes().to_vec();
        bytes.extend((start + layout::PCI_MMIO64_LENGTH - 1).to_le_bytes());
        contains(&tables(ram_size), &bytes)
    };
    assert!(window(512 << 20));
    assert!(window(16 << 30));
}

#[test]
fn the_tables_are_written_where_the_boot_protocols_say() {
    let mut ram = GuestRam::new(16 << 20).unwrap();
    write(&mut ram).unwrap();
    assert_eq!(
        ram.read_u64(layout::RSDP_START).unwrap().to_le_bytes(),
        *b"RSD PTR "
    );
    let mut tiny = GuestRam::new(4096).unwrap();
    write(&mut tiny).unwrap_err();
}
