//! bzImages through the 32-bit boot protocol of Linux (`Documentation/x86/boot.rst`).
//!
//! Does: load the protected-mode part at 1 MiB and enter it there, write the zero page: the
//! kernel's own setup header with the loader's fields filled in, E820 map, RSDP address.
//! Does not: run the real-mode part; so the heap and video fields that are meant for it keep what
//! the kernel's build put there.
//!
//! Invariant: the RAM that decompression needs (`pref_address` and `init_size`) exists, and the
//! initramfs is above it and below `initrd_addr_max`.

use std::io::Cursor;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage;
use memory::GuestRam;
use vm_memory::GuestAddress;

use super::memory_map::memory_map;
use super::{Error, Payload, write_command_line, write_initramfs};
use crate::layout;

/// Where the setup header starts, in the file and in the zero page alike.
const HEADER_START: usize = 0x1F1;
/// End of the longest setup header the zero page has room for.
const HEADER_LIMIT: usize = 0x290;
/// The oldest boot protocol we load: 2.12 brought `xloadflags`.
const OLDEST_PROTOCOL: u16 = 0x020C;
/// `xloadflags`: the kernel has a 64-bit entry point, hence is one for x86-64.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader`: a loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xFF;

// Offsets of fields, in the file and in the zero page alike.
const ACPI_RSDP: usize = 0x070;
const E820_COUNT: usize = 0x1E8;
const HEADER_JUMP: usize = 0x201;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22C;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820_TABLE: usize = 0x2D0;
/// Bytes of the zero page.
const ZERO_PAGE_LENGTH: usize = 4096;

/// Loads a bzImage. Gives its entry point.
pub(super) fn load(ram: &mut GuestRam, payload: &Payload) -> Result<u64, Error> {
    let kernel = payload.kernel;
    let mut page = ZeroPage::new(kernel);
    let version = page.get::<2>(VERSION) as u16;
    if version < OLDEST_PROTOCOL {
        return Err(Error::OldBootProtocol { version });
    }
    if page.get::<2>(XLOADFLAGS) as u16 & XLF_KERNEL_64 == 0 {
        return Err(Error::NotX86_64);
    }

    // It is loaded at 1 MiB, and moves itself to where it prefers to be decompressed.
    let loaded_end = layout::HIGH_RAM_START.saturating_add(kernel.len() as u64);
    let decompressed_end = page
        .get::<8>(PREF_ADDRESS)
        .max(layout::HIGH_RAM_START)
        .saturating_add(page.get::<4>(INIT_SIZE));
    let kernel_end = loaded_end.max(decompressed_end);
    if kernel_end > ram.low_size() {
        return Err(Error::TooLittleMemory {
            needed: kernel_end,
            available: ram.low_size(),
        });
    }
    let loaded = BzImage::load(
        ram.map(),
        Some(GuestAddress(layout::HIGH_RAM_START)),
        &mut Cursor::new(kernel),
        None,
    );
    ram.replaced();
    loaded.map_err(Error::Damaged)?;

    write_command_line(ram, payload.cmdline, page.get::<4>(CMDLINE_SIZE) as usize)?;
    let ceiling = page.get::<4>(INITRD_ADDR_MAX) + 1;
    let initramfs = write_initramfs(ram, payload.initramfs, kernel_end, ceiling)?;

    page.set::<1>(TYPE_OF_LOADER, LOADER_UNDEFINED.into());
    page.set::<4>(CODE32_START, layout::HIGH_RAM_START);
    page.set::<4>(CMD_LINE_PTR, layout::COMMAND_LINE_START);
    if let Some(address) = initramfs {
        page.set::<4>(RAMDISK_IMAGE, address);
        page.set::<4>(RAMDISK_SIZE, payload.initramfs.len() as u64);
    }
    page.set::<8>(ACPI_RSDP, layout::RSDP_START);
    let map = memory_map(ram);
    page.set::<1>(E820_COUNT, map.len() as u64);
    for (index, range) in map.iter().enumerate() {
        let entry = E820_TABLE + index * 20;
        page.set::<8>(entry, range.start);
        page.set::<8>(entry + 8, range.length);
        page.set::<4>(entry + 16, range.kind as u64);
    }
    ram.write(layout::ZERO_PAGE_START, &page.0)?;
    Ok(layout::HIGH_RAM_START)
}

/// `struct boot_params`, by offset: the protocol is defined by offsets, not by a C type.
struct ZeroPage([u8; ZERO_PAGE_LENGTH]);

impl ZeroPage {
    /// A zero page with the setup header of `kernel`, which ends where its first jump goes to.
    fn new(kernel: &[u8]) -> Self {
        let mut page = [0; ZERO_PAGE_LENGTH];
        let jump = kernel.get(HEADER_JUMP).copied().unwrap_or(0);
        let end = (0x202 + usize::from(jump))
            .min(HEADER_LIMIT)
            .min(kernel.len());
        if let Some(header) = kernel.get(HEADER_START..end) {
            page[HEADER_START..end].copy_from_slice(header);
        }
        ZeroPage(page)
    }

    /// Reads a little-endian field of `N` bytes.
    fn get<const N: usize>(&self, offset: usize) -> u64 {
        let mut value = [0; 8];
        value[..N].copy_from_slice(&self.0[offset..offset + N]);
        u64::from_le_bytes(value)
    }

    /// Writes a little-endian field of `N` bytes.
    fn set<const N: usize>(&mut self, offset: usize, value: u64) {
        self.0[offset..offset + N].copy_from_slice(&value.to_le_bytes()[..N]);
    }
}
