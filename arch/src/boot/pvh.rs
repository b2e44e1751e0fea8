//! ELF kernels through their PVH entry point (Xen's `start_info.h`, version 1).
//!
//! Does: load the segments, find the entry note, write start info, module list and memory map.
//! Does not: relocate; a vmlinux is loaded where it was linked to.
//!
//! Invariant: the entry point lies in a loaded segment, and no segment reaches below 1 MiB or
//! beyond the RAM below 4 GiB.

use std::io::Cursor;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use memory::GuestRam;
use vm_memory::{Address, ByteValued};

use super::memory_map::memory_map;
use super::{Error, Payload, write_command_line, write_initramfs};
use crate::layout;

/// ELF header: class 64 bits, little-endian, machine x86-64.
const CLASS_64_LITTLE: &[u8] = &[2, 1];
const MACHINE_X86_64: &[u8] = &[62, 0];
const PT_LOAD: u64 = 1;

/// Loads an ELF kernel. Gives its entry point.
pub(super) fn load(ram: &mut GuestRam, payload: &Payload) -> Result<u64, Error> {
    let kernel = payload.kernel;
    if kernel.get(4..6) != Some(CLASS_64_LITTLE) || kernel.get(18..20) != Some(MACHINE_X86_64) {
        return Err(Error::NotX86_64);
    }
    let segments = segments(kernel);
    let end = segments
        .iter()
        .map(|&(start, length)| start.saturating_add(length))
        .max()
        .unwrap_or(0);
    if let Some(&(address, _)) = segments
        .iter()
        .find(|&&(start, _)| start < layout::HIGH_RAM_START)
    {
        return Err(Error::LoadAddress { address });
    }
    if end > ram.low_size() {
        return Err(Error::TooLittleMemory {
            needed: end,
            available: ram.low_size(),
        });
    }

    let loaded = Elf::load(ram.map(), None, &mut Cursor::new(kernel), None);
    ram.replaced();
    let entry = match loaded.map_err(Error::Damaged)?.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => entry.raw_value(),
        _ => return Err(Error::NoPvhEntry),
    };
    if !segments
        .iter()
        .any(|&(start, length)| entry.wrapping_sub(start) < length)
    {
        return Err(Error::EntryOutsideImage { entry });
    }

    write_command_line(ram, payload.cmdline, usize::MAX)?;
    let initramfs = write_initramfs(ram, payload.initramfs, end, u64::MAX)?;
    write_start_info(ram, payload, initramfs)?;
    Ok(entry)
}

/// Physical start and length in memory of the loadable segments, as far as the program headers
/// are inside the file. Whatever else is wrong with them is the loader's to find.
fn segments(kernel: &[u8]) -> Vec<(u64, u64)> {
    let number = |offset: u64, length: u64| {
        let start = usize::try_from(offset).ok()?;
        let bytes = kernel.get(start..start.checked_add(length as usize)?)?;
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    };
    let table = number(32, 8).unwrap_or(0);
    let entry_length = number(54, 2).unwrap_or(0);
    let count = number(56, 2).unwrap_or(0);
    (0..count)
        .filter_map(|index| {
            let header = table.checked_add(index * entry_length)?;
            let field = |offset, length| number(header.checked_add(offset)?, length);
            let (kind, start, length) = (field(0, 4)?, field(24, 8)?, field(40, 8)?);
            (kind == PT_LOAD && length > 0).then_some((start, length))
        })
        .collect()
}

/// Writes what the entry point finds through EBX.
fn write_start_info(
    ram: &mut GuestRam,
    payload: &Payload,
    initramfs: Option<u64>,
) -> Result<(), Error> {
    let map = memory_map(ram);
    for (index, range) in map.iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.length,
            type_: range.kind as u32,
            reserved: 0,
        };
        let address = layout::PVH_MEMORY_MAP_START + (index * size_of_val(&entry)) as u64;
        ram.write(address, entry.as_slice())?;
    }
    if let Some(address) = initramfs {
        let module = hvm_modlist_entry {
            paddr: address,
            size: payload.initramfs.len() as u64,
            cmdline_paddr: 0,
            reserved: 0,
        };
        ram.write(layout::PVH_MODULES_START, module.as_slice())?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        flags: 0,
        nr_modules: initramfs.is_some().into(),
        modlist_paddr: if initramfs.is_some() {
            layout::PVH_MODULES_START
        } else {
            0
        },
        cmdline_paddr: layout::COMMAND_LINE_START,
        rsdp_paddr: layout::RSDP_START,
        memmap_paddr: layout::PVH_MEMORY_MAP_START,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    ram.write(layout::PVH_INFO_START, info.as_slice())?;
    Ok(())
}
