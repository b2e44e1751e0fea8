//! Why a payload does not boot.
//!
//! Does: say what is wrong and what to do about it. Does not: retry.
//!
//! Invariant: each message makes sense to somebody who only knows the command line.

use linux_loader::loader;
use thiserror::Error;

/// Why a payload was refused.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither ELF nor bzImage.
    #[error(
        "the kernel is neither an ELF image (vmlinux) nor a bzImage: \
         give a Linux kernel for x86-64"
    )]
    NotAKernel,
    /// ELF, but of another architecture.
    #[error("the kernel is an ELF image, but not for x86-64: give a Linux kernel for x86-64")]
    NotX86_64,
    /// No XEN_ELFNOTE_PHYS32_ENTRY.
    #[error(
        "the vmlinux has no PVH entry point (ELF note XEN_ELFNOTE_PHYS32_ENTRY): \
         build it with CONFIG_PVH=y, or give the bzImage of the same kernel"
    )]
    NoPvhEntry,
    /// The entry point is outside what was loaded.
    #[error("the kernel's entry point {entry:#x} is outside of its image: the file is damaged")]
    EntryOutsideImage {
        /// The entry point.
        entry: u64,
    },
    /// A segment lies where the boot structures are.
    #[error("the kernel wants to be loaded at {address:#x}, below 1 MiB: it is no Linux kernel")]
    LoadAddress {
        /// Where it wants to be.
        address: u64,
    },
    /// A boot protocol before 2.12.
    #[error(
        "the bzImage has boot protocol {}.{:02}, and 2.12 is needed: give a kernel from 2013 or later",
        .version >> 8,
        .version & 0xFF
    )]
    OldBootProtocol {
        /// Its version: major in the upper byte.
        version: u16,
    },
    /// The file ends early or contradicts itself.
    #[error("the kernel cannot be loaded: the file is damaged or cut short")]
    Damaged(#[source] loader::Error),
    /// The kernel does not fit.
    #[error(
        "{} MiB of memory below 4 GiB is too little for this kernel, which needs {} MiB: \
         give the guest more memory",
        .available >> 20,
        .needed.div_ceil(1 << 20)
    )]
    TooLittleMemory {
        /// Bytes needed, from address 0.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The initramfs does not fit.
    #[error(
        "the initramfs of {length} bytes does not fit beside the kernel, where {room} bytes are \
         left: give the guest more memory, or a smaller initramfs"
    )]
    InitramfsTooLarge {
        /// Its length in bytes.
        length: u64,
        /// Bytes there are for it.
        room: u64,
    },
    /// The command line does not fit.
    #[error("the command line has {length} bytes, and the kernel takes {limit}: shorten it")]
    CommandLineTooLong {
        /// Its length in bytes.
        length: usize,
        /// Longest that fits.
        limit: usize,
    },
    /// The command line has a NUL in it.
    #[error("the command line contains a NUL byte: remove it")]
    CommandLineNul,
    /// A fixed structure does not fit into RAM.
    #[error("the boot structures do not fit into guest memory")]
    Memory(#[from] memory::Error),
}
