//! Loading of made-up kernels, and the refusals.

use super::*;

const MIB: u64 = 1 << 20;

fn ram(mib: u64) -> GuestRam {
    GuestRam::new(mib * MIB).unwrap()
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn payload(kernel: &[u8]) -> Payload<'_> {
    Payload {
        kernel,
        initramfs: b"initramfs",
        cmdline: "console=ttyS0",
    }
}

fn bytes(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read(address, &mut bytes).unwrap();
    bytes
}

/// An ELF kernel at 16 MiB: 0x1000 bytes in the file, 0x3000 in memory, entry note for 0x100_0040.
fn vmlinux() -> Vec<u8> {
    let mut image = vec![0; 0x3000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut image, 24, &0x100_0000u64.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    let header = |kind: u32, offset: u64, address: u64, file: u64, memory: u64| {
        let mut header = [0; 56];
        put(&mut header, 0, &kind.to_le_bytes());
        put(&mut header, 8, &offset.to_le_bytes());
        put(&mut header, 24, &address.to_le_bytes());
        put(&mut header, 32, &file.to_le_bytes());
        put(&mut header, 40, &memory.to_le_bytes());
        header
    };
    put(
        &mut image,
        64,
        &header(1, 0x1000, 0x100_0000, 0x1000, 0x3000),
    );
    put(&mut image, 120, &header(4, 0x2000, 0, 20, 20));
    put(&mut image, 0x1000, &[0xAA; 0x1000]);
    put(&mut image, 0x2000, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x200C, b"Xen\0");
    put(&mut image, 0x2010, &0x100_0040u32.to_le_bytes());
    image
}

/// A bzImage of protocol 2.15 with one setup sector, preferring 16 MiB and needing 2 MiB there.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 0x800];
    image[0x1F1] = 1;
    put(&mut image, 0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(&mut image, 0x202, b"HdrS\x0F\x02");
    image[0x211] = 1;
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut image, 0x236, &0x7Fu16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x270, &[0x77; 16]);
    put(&mut image, 1024, &[0xBB; 0x800]);
    image
}

#[test]
fn a_vmlinux_is_entered_through_pvh() {
    let mut ram = ram(32);
    ram.take_touched();
    let entry = load(&mut ram, &payload(&vmlinux())).unwrap();
    assert_eq!(entry.protocol, Protocol::Pvh);
    assert_eq!((entry.rip, entry.rbx, entry.rsi), (0x100_0040, 0x6000, 0));
    assert_eq!(ram.take_touched(), None, "caches learn of the load");
    assert_eq!(bytes(&ram, 0x100_0FFF, 2), [0xAA, 0]);

    assert_eq!(ram.read_u32(0x6000).unwrap(), 0x336E_C578);
    assert_eq!(ram.read_u32(0x6004).unwrap(), 1, "version");
    assert_eq!(ram.read_u32(0x600C).unwrap(), 1, "modules");
    assert_eq!(ram.read_u64(0x6010).unwrap(), 0x6040);
    assert_eq!(ram.read_u64(0x6018).unwrap(), 0x20000);
    assert_eq!(ram.read_u64(0x6020).unwrap(), 0xA0000);
    assert_eq!(ram.read_u64(0x6028).unwrap(), 0x7000);
    assert_eq!(ram.read_u32(0x6030).unwrap(), 4);
    let initramfs = ram.read_u64(0x6040).unwrap();
    assert_eq!(initramfs, 32 * MIB - 4096, "top of the RAM");
    assert_eq!(ram.read_u64(0x6048).unwrap(), 9);
    assert_eq!(bytes(&ram, initramfs, 9), b"initramfs");
    assert_eq!(bytes(&ram, 0x20000, 14), b"console=ttyS0\0");
    // The third entry of the memory map: RAM from 1 MiB.
    assert_eq!(ram.read_u64(0x7030).unwrap(), MIB);
    assert_eq!(ram.read_u64(0x7038).unwrap(), 31 * MIB);
    assert_eq!(ram.read_u32(0x7040).unwrap(), 1);
}

#[test]
fn no_initramfs_is_no_module() {
    let mut ram = ram(32);
    let kernel = vmlinux();
    let payload = Payload {
        initramfs: b"",
        ..payload(&kernel)
    };
    load(&mut ram, &payload).unwrap();
    assert_eq!(ram.read_u32(0x600C).unwrap(), 0);
    assert_eq!(ram.read_u64(0x6010).unwrap(), 0);
}

#[test]
fn a_bzimage_is_entered_where_it_is_loaded() {
    let mut ram = ram(32);
    let kernel = bzimage();
    let entry = load(&mut ram, &payload(&kernel)).unwrap();
    assert_eq!(entry.protocol, Protocol::Linux32);
    assert_eq!((entry.rip, entry.rbx, entry.rsi), (0x10_0000, 0, 0x7000));
    assert_eq!(bytes(&ram, 0x10_07FF, 2), [0xBB, 0]);

    let page = bytes(&ram, 0x7000, 4096);
    assert_eq!(page[0x1F1..0x210], kernel[0x1F1..0x210]);
    assert_eq!(page[0x210], 0xFF, "type_of_loader");
    assert_eq!(page[0x211], 1, "loadflags");
    assert_eq!(page[0x26C..0x290], [0; 0x24], "the header ended before");
    assert_eq!(ram.read_u32(0x7214).unwrap(), 0x10_0000);
    let initramfs = 32 * MIB - 4096;
    assert_eq!(u64::from(ram.read_u32(0x7218).unwrap()), initramfs);
    assert_eq!(ram.read_u32(0x721C).unwrap(), 9);
    assert_eq!(bytes(&ram, initramfs, 9), b"initramfs");
    assert_eq!(ram.read_u32(0x7228).unwrap(), 0x20000);
    assert_eq!(ram.read_u64(0x7070).unwrap(), 0xA0000);
    assert_eq!(page[0x1E8], 4);
    assert_eq!(ram.read_u64(0x72D0 + 40).unwrap(), MIB);
    assert_eq!(ram.read_u64(0x72D0 + 48).unwrap(), 31 * MIB);
    assert_eq!(ram.read_u32(0x72D0 + 56).unwrap(), 1);
}

#[test]
fn the_entry_gdt_is_flat() {
    let mut ram = ram(32);
    let entry = load(&mut ram, &payload(&bzimage())).unwrap();
    let descriptor = |selector: u16| ram.read_u64(entry.gdt.base + u64::from(selector)).unwrap();
    assert_eq!(descriptor(entry.code_selector), 0x00CF_9B00_0000_FFFF);
    assert_eq!(descriptor(entry.data_selector), 0x00CF_9300_0000_FFFF);
    assert_eq!(descriptor(entry.task_selector), 0x0000_8B00_0000_0067);
    assert!(entry.gdt.base + u64::from(entry.gdt.limit) < entry.idt.base);
}

#[test]
fn memory_above_4_gib_is_in_the_map() {
    let mut ram = ram(3 * 1024 + 64);
    load(&mut ram, &payload(&vmlinux())).unwrap();
    assert_eq!(ram.read_u32(0x6030).unwrap(), 5);
    assert_eq!(ram.read_u64(0x7060).unwrap(), 4 << 30);
    assert_eq!(ram.read_u64(0x7068).unwrap(), 64 * MIB);
    assert_eq!(ram.read_u64(0x6040).unwrap(), (3 << 30) - 4096);
}

#[test]
fn what_is_no_kernel_is_refused() {
    let mut ram = ram(32);
    for junk in [&b""[..], b"MZ", b"#!/bin/sh\n", &[0; 4096]] {
        assert!(matches!(
            load(&mut ram, &payload(junk)),
            Err(Error::NotAKernel)
        ));
    }
    let mut other = vmlinux();
    other[18] = 183;
    assert!(matches!(
        load(&mut ram, &payload(&other)),
        Err(Error::NotX86_64)
    ));
    let mut other = bzimage();
    other[0x236] = 0;
    assert!(matches!(
        load(&mut ram, &payload(&other)),
        Err(Error::NotX86_64)
    ));
}

#[test]
fn a_vmlinux_without_entry_note_is_refused() {
    let mut ram = ram(32);
    let mut kernel = vmlinux();
    kernel[0x2008] = 17;
    let error = load(&mut ram, &payload(&kernel)).unwrap_err();
    assert!(matches!(error, Error::NoPvhEntry));
    assert!(error.to_string().contains("CONFIG_PVH"));
    let mut kernel = vmlinux();
    put(&mut kernel, 0x2010, &0x200_0000u32.to_le_bytes());
    assert!(matches!(
        load(&mut ram, &payload(&kernel)),
        Err(Error::EntryOutsideImage { entry: 0x200_0000 })
    ));
}

#[test]
fn a_vmlinux_below_1_mib_is_refused() {
    let mut kernel = vmlinux();
    put(&mut kernel, 64 + 24, &0x7000u64.to_le_bytes());
    assert!(matches!(
        load(&mut ram(32), &payload(&kernel)),
        Err(Error::LoadAddress { address: 0x7000 })
    ));
}

#[test]
fn an_old_bzimage_is_refused() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x206, &[0x0B, 0x02]);
    let error = load(&mut ram(32), &payload(&kernel)).unwrap_err();
    assert!(error.to_string().contains("boot protocol 2.11"), "{error}");
}

#[test]
fn too_little_memory_is_told_before_anything_is_loaded() {
    for kernel in [vmlinux(), bzimage()] {
        let mut small = ram(16);
        let error = load(&mut small, &payload(&kernel)).unwrap_err();
        assert!(matches!(error, Error::TooLittleMemory { .. }), "{error}");
        assert!(error.to_string().starts_with("16 MiB"), "{error}");
        assert_eq!(bytes(&small, 0x10_0000, 16), [0; 16]);
        let mut tiny = GuestRam::new(65536).unwrap();
        assert!(matches!(
            load(&mut tiny, &payload(&kernel)),
            Err(Error::TooLittleMemory { .. })
        ));
    }
}

#[test]
fn an_initramfs_that_does_not_fit_is_refused() {
    let big = vec![1; 14 << 20];
    for (kernel, mib) in [(vmlinux(), 24), (bzimage(), 24)] {
        let payload = Payload {
            initramfs: &big,
            ..payload(&kernel)
        };
        let error = load(&mut ram(mib), &payload).unwrap_err();
        let Error::InitramfsTooLarge { length, room } = error else {
            panic!("{error}");
        };
        assert_eq!(length, 14 << 20);
        assert!((5 << 20..8 << 20).contains(&room), "{room}");
        load(&mut ram(40), &payload).unwrap();
    }
}

#[test]
fn the_initramfs_stays_below_the_kernels_limit() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x22C, &0x13F_FFFFu32.to_le_bytes());
    let mut ram = ram(32);
    load(&mut ram, &payload(&kernel)).unwrap();
    assert_eq!(ram.read_u32(0x7218).unwrap(), 0x140_0000 - 4096);
}

#[test]
fn command_lines_have_limits() {
    let cases = [
        (vmlinux(), layout::COMMAND_LINE_CAPACITY - 1),
        (bzimage(), 2047),
    ];
    for (kernel, limit) in cases {
        let longest = "x".repeat(limit);
        let mut payload = Payload {
            cmdline: &longest,
            ..payload(&kernel)
        };
        load(&mut ram(32), &payload).unwrap();
        let longer = "x".repeat(limit + 1);
        payload.cmdline = &longer;
        let error = load(&mut ram(32), &payload).unwrap_err();
        let expected = limit;
        assert!(
            matches!(error, Error::CommandLineTooLong { limit, .. } if limit == expected),
            "{error}"
        );
        payload.cmdline = "a\0b";
        assert!(matches!(
            load(&mut ram(32), &payload),
            Err(Error::CommandLineNul)
        ));
    }
}

#[test]
fn damaged_kernels_are_refused_or_loaded_but_never_panic() {
    for kernel in [vmlinux(), bzimage()] {
        for length in (0..kernel.len()).step_by(97) {
            let _ = load(&mut ram(20), &payload(&kernel[..length]));
        }
        // Every byte that steers the loader, set to extremes.
        let header = if kernel[0] == 0x7F {
            0..176
        } else {
            0x1F1..0x270
        };
        for offset in header.chain((0x2000..0x2014).filter(|&o| o < kernel.len())) {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut damaged = kernel.clone();
                damaged[offset] = value;
                let _ = load(&mut ram(20), &payload(&damaged));
                let end = (offset + 8).min(damaged.len());
                damaged[offset..end].fill(value);
                let _ = load(&mut ram(20), &payload(&damaged));
            }
        }
    }
    assert!(matches!(
        load(&mut ram(32), &payload(&vmlinux()[..0x1800])),
        Err(Error::Damaged(_))
    ));
}
