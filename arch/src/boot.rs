//! Loads what the guest boots, and tells where its CPU starts.
//!
//! Does: recognise the kernel's format, place command line and initramfs, write the descriptor
//! tables of the entry state; the formats are in `boot::pvh` and `boot::bzimage`.
//! Does not: open files, since the payload is part of the machine's state and a reset loads the
//! same bytes again.
//!
//! Invariant: RAM was all zeroes before; a payload that is refused leaves nothing to run. Nothing
//! overlaps: below 1 MiB only the fixed structures, from 1 MiB the kernel with all it needs, at the
//! top of the RAM below 4 GiB the initramfs.

mod bzimage;
mod error;
mod memory_map;
mod pvh;

#[cfg(test)]
mod tests;

use memory::GuestRam;

use crate::layout;

pub use error::Error;

/// What the guest boots.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// A vmlinux with a PVH entry point, or a bzImage.
    pub kernel: &'a [u8],
    /// An initramfs; an empty one is none.
    pub initramfs: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// How the kernel expects to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's PVH ABI (`xen/include/public/arch-x86/hvm/start_info.h`): EBX holds the start info.
    Pvh,
    /// The 32-bit boot protocol of Linux (`Documentation/x86/boot.rst`): ESI holds the zero page.
    Linux32,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear (here also physical) address.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

/// State of the CPU at the kernel's first instruction: 32-bit protected mode without paging
/// (CR0 = PE and ET, CR3 = CR4 = EFER = 0, RFLAGS = 2), all other general registers zero, flat
/// segments as the GDT describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The protocol that asks for it.
    pub protocol: Protocol,
    /// Address of the first instruction.
    pub rip: u64,
    /// RBX.
    pub rbx: u64,
    /// RSI.
    pub rsi: u64,
    /// RSP.
    pub rsp: u64,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// IDTR.
    pub idt: DescriptorTable,
    /// CS: code, 32 bits, base 0, limit 4 GiB.
    pub code_selector: u16,
    /// DS, ES, FS, GS and SS: writable data, base 0, limit 4 GiB.
    pub data_selector: u16,
    /// TR: a busy 32-bit TSS, base 0, limit 0x67.
    pub task_selector: u16,
    /// IA32_MTRR_DEF_TYPE as firmware leaves it. Linux does without PAT if MTRRs are disabled.
    pub mtrr_default_type: u64,
}

/// MTRRs enabled, write-back everywhere; what is MMIO, the guest maps uncached by itself.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Descriptors at entry: null, task, and where the Linux boot protocol asks for them, code at 0x10
/// and data at 0x18.
const GDT: [u64; 4] = [
    0,
    0x0000_8B00_0000_0067,
    0x00CF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
];

/// Loads `payload` into `ram`, which is all zeroes, and gives the CPU's state at its entry.
pub fn load(ram: &mut GuestRam, payload: &Payload) -> Result<EntryPoint, Error> {
    if ram.low_size() <= layout::HIGH_RAM_START {
        return Err(Error::TooLittleMemory {
            needed: layout::HIGH_RAM_START + payload.kernel.len() as u64,
            available: ram.low_size(),
        });
    }
    let (protocol, rip) = if payload.kernel.starts_with(b"\x7fELF") {
        (Protocol::Pvh, pvh::load(ram, payload)?)
    } else if payload.kernel.get(0x202..0x206) == Some(b"HdrS") {
        (Protocol::Linux32, bzimage::load(ram, payload)?)
    } else {
        return Err(Error::NotAKernel);
    };
    let gdt: Vec<u8> = GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let gdt_limit = gdt.len() as u16 - 1;
    ram.write(layout::GDT_START, &gdt)?;
    let (rbx, rsi) = match protocol {
        Protocol::Pvh => (layout::PVH_INFO_START, 0),
        Protocol::Linux32 => (0, layout::ZERO_PAGE_START),
    };
    Ok(EntryPoint {
        protocol,
        rip,
        rbx,
        rsi,
        rsp: layout::BOOT_STACK,
        gdt: DescriptorTable {
            base: layout::GDT_START,
            limit: gdt_limit,
        },
        idt: DescriptorTable {
            base: layout::IDT_START,
            limit: 0,
        },
        code_selector: 0x10,
        data_selector: 0x18,
        task_selector: 0x08,
        mtrr_default_type: MTRR_WRITE_BACK,
    })
}

/// Writes the command line with its final NUL. `limit` is what the kernel takes, without the NUL.
fn write_command_line(ram: &mut GuestRam, cmdline: &str, limit: usize) -> Result<(), Error> {
    let limit = limit.min(layout::COMMAND_LINE_CAPACITY - 1);
    if cmdline.len() > limit {
        return Err(Error::CommandLineTooLong {
            length: cmdline.len(),
            limit,
        });
    }
    if cmdline.contains('\0') {
        return Err(Error::CommandLineNul);
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    ram.write(layout::COMMAND_LINE_START, &bytes)?;
    Ok(())
}

/// Writes the initramfs at the top of the RAM below `ceiling`, above the kernel, which needs the
/// RAM up to `kernel_end`. Gives its address, or `None` if there is no initramfs.
fn write_initramfs(
    ram: &mut GuestRam,
    initramfs: &[u8],
    kernel_end: u64,
    ceiling: u64,
) -> Result<Option<u64>, Error> {
    if initramfs.is_empty() {
        return Ok(None);
    }
    let length = initramfs.len() as u64;
    let top = ram.low_size().min(ceiling);
    let address = top.saturating_sub(length) & !0xFFF;
    if address < kernel_end {
        return Err(Error::InitramfsTooLarge {
            length,
            room: top.saturating_sub(kernel_end) & !0xFFF,
        });
    }
    ram.write(address, initramfs)?;
    Ok(Some(address))
}
