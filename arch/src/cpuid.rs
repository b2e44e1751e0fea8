//! The CPU models: what CPUID answers (Intel SDM vol. 2A, "CPUID"; AMD APM vol. 3, appendix E).
//!
//! Does: answer every leaf of a fixed model with one vCPU, whose xAPIC and x2APIC id is 0.
//! Does not: show anything of the host, or of the state of the CPU: bits that follow CR4, XCR0 or
//! IA32_APIC_BASE are the CPU's to patch.
//!
//! Invariant: a bit is set exactly if the software CPU and the devices implement what it stands
//! for; the model never changes under its name, since a log can only be replayed on its model.

mod features;
mod profile;

pub use features::Features;
use features::Word;
pub use profile::{Profile, UnknownProfile};

/// The registers that CPUID sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Width of guest-physical addresses in bits.
pub const PHYSICAL_ADDRESS_BITS: u32 = 46;
/// Width of linear addresses in bits.
const LINEAR_ADDRESS_BITS: u32 = 48;
/// Number of vCPUs.
pub const VCPUS: u32 = 1;
/// Frequency of the crystal that drives the local APIC's timer, in Hz.
pub const CRYSTAL_HZ: u32 = 25_000_000;
/// TSC ticks in a tick of the crystal: the TSC counts nanoseconds of virtual time.
const TSC_PER_CRYSTAL: u32 = 40;
/// Nominal frequency of the CPU in MHz.
const CPU_MHZ: u32 = 1000;

/// Value of IA32_ARCH_CAPABILITIES (MSR 0x10A): the CPU does not execute guest code speculatively
/// in a way the guest could observe. IBRS_ALL lets Linux do with one write of IA32_SPEC_CTRL instead
/// of retpolines, which are slow where returns are predicted. Of other mitigations' controls there
/// are none.
pub const ARCH_CAPABILITIES: u64 = RDCL_NO
    | IBRS_ALL
    | SKIP_L1DFL_VMENTRY
    | SSB_NO
    | MDS_NO
    | PSCHANGE_MC_NO
    | TAA_NO
    | SBDR_SSDP_NO
    | FBSDP_NO
    | PSDP_NO
    | BHI_NO
    | PBRSB_NO
    | GDS_NO
    | RFDS_NO
    | ITS_NO;

const RDCL_NO: u64 = 1 << 0;
const IBRS_ALL: u64 = 1 << 1;
const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
const SSB_NO: u64 = 1 << 4;
const MDS_NO: u64 = 1 << 5;
const PSCHANGE_MC_NO: u64 = 1 << 6;
const TAA_NO: u64 = 1 << 8;
const SBDR_SSDP_NO: u64 = 1 << 13;
const FBSDP_NO: u64 = 1 << 14;
const PSDP_NO: u64 = 1 << 15;
const BHI_NO: u64 = 1 << 20;
const PBRSB_NO: u64 = 1 << 24;
const GDS_NO: u64 = 1 << 26;
const RFDS_NO: u64 = 1 << 27;
const ITS_NO: u64 = 1 << 62;

/// Family 6, model 0xF0, stepping 1: a model that no processor has. Kernels have it in no list of
/// errata to work around, and programs that choose code by model (GCC's `target_clones` with
/// `arch=`) do not expect of it what the features do not promise, as AVX-512.
const SIGNATURE: u32 = (0xF << 16) | (6 << 8) | 1;

/// Bytes in a cache line.
const CACHE_LINE: u32 = 64;

const MAX_BASIC: u32 = 0x16;
const HYPERVISOR: u32 = 0x4000_0000;
const MAX_HYPERVISOR: u32 = 0x4000_0001;
const HYPERVISOR_END: u32 = 0x4FFF_FFFF;
const EXTENDED: u32 = 0x8000_0000;
const MAX_EXTENDED: u32 = 0x8000_0008;

/// Shown as the model's name; at most 47 bytes.
const BRAND: &[u8] = b"Virtual CPU";

/// What CPUID answers. Leaves beyond the last one answer as the last basic leaf does, as on
/// Intel's CPUs, except in the hypervisor's range.
pub fn cpuid(profile: Profile, leaf: u32, subleaf: u32) -> CpuidResult {
    let features = profile.features();
    match leaf {
        0..=MAX_BASIC => basic(features, leaf, subleaf),
        HYPERVISOR..=HYPERVISOR_END => hypervisor(leaf),
        EXTENDED..=MAX_EXTENDED => extended(features, leaf),
        _ => basic(features, MAX_BASIC, subleaf),
    }
}

/// The four registers, in their order in the manual.
fn registers(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
    CpuidResult { eax, ebx, ecx, edx }
}

/// Four characters of a signature.
fn text(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

fn basic(features: Features, leaf: u32, subleaf: u32) -> CpuidResult {
    match leaf {
        0x0 => registers(MAX_BASIC, text(b"Genu"), text(b"ntel"), text(b"ineI")),
        // EBX: APIC id 0, logical processors, line size in units of 8 bytes, no brand index.
        0x1 => registers(
            SIGNATURE,
            VCPUS << 16 | (CACHE_LINE / 8) << 8,
            features.word(Word::Leaf1Ecx),
            features.word(Word::Leaf1Edx),
        ),
        // Caches as in leaf 4 (descriptor 0xFF), prefetches of 64 bytes (0xF0).
        0x2 => registers(0x0000_FF01, 0xF0, 0, 0),
        0x4 => cache(subleaf),
        // EAX: the local APIC's timer never stops.
        0x6 => registers(1 << 2, 0, 0, 0),
        // EAX: the last subleaf.
        0x7 if subleaf == 0 => registers(
            2,
            features.word(Word::Leaf7Ebx),
            features.word(Word::Leaf7Ecx),
            features.word(Word::Leaf7Edx),
        ),
        0x7 if subleaf == 2 => registers(0, 0, 0, features.word(Word::Leaf7Sub2Edx)),
        0xB => topology(subleaf),
        0xD if features.contains(Features::XSAVE) => extended_state(features, subleaf),
        0x15 => registers(1, TSC_PER_CRYSTAL, CRYSTAL_HZ, 0),
        // Base, maximum and bus frequency.
        0x16 => registers(CPU_MHZ, CPU_MHZ, 100, 0),
        _ => CpuidResult::default(),
    }
}

/// Leaf 4: 32 KiB of data and of instructions, 1 MiB at level 2, 16 MiB at level 3.
fn cache(subleaf: u32) -> CpuidResult {
    const DATA: u32 = 1;
    const INSTRUCTIONS: u32 = 2;
    const UNIFIED: u32 = 3;
    let (kind, level, ways, sets) = match subleaf {
        0 => (DATA, 1, 8, 64),
        1 => (INSTRUCTIONS, 1, 8, 64),
        2 => (UNIFIED, 2, 16, 1024),
        3 => (UNIFIED, 3, 16, 16_384),
        _ => return CpuidResult::default(),
    };
    // EAX also: self-initialising; ids for sharing processors and cores, less one, are 0.
    registers(
        kind | level << 5 | 1 << 8,
        (ways - 1) << 22 | (CACHE_LINE - 1),
        sets - 1,
        0,
    )
}

/// Leaf 0xB: a thread in a core in a package, one of each. EDX is the x2APIC id.
fn topology(subleaf: u32) -> CpuidResult {
    match subleaf {
        0 => registers(0, VCPUS, 1 << 8, 0),
        1 => registers(0, VCPUS, 2 << 8 | 1, 0),
        _ => registers(0, 0, subleaf & 0xFF, 0),
    }
}

/// Bytes of the XSAVE area's legacy region and header.
const XSAVE_HEADER_END: u32 = 576;
/// Bytes of the upper halves of YMM0–YMM15.
pub const XSAVE_AVX_SIZE: u32 = 256;

/// Leaf 0xD: x87, SSE and AVX state, for an XCR0 that enables x87 alone (EBX is the CPU's to patch).
fn extended_state(features: Features, subleaf: u32) -> CpuidResult {
    const X87_SSE_AVX: u32 = 7;
    let all = XSAVE_HEADER_END + XSAVE_AVX_SIZE;
    match subleaf {
        0 => registers(X87_SSE_AVX, XSAVE_HEADER_END, all, 0),
        1 => registers(features.word(Word::LeafDEax), XSAVE_HEADER_END, 0, 0),
        2 => registers(XSAVE_AVX_SIZE, XSAVE_HEADER_END, 0, 0),
        _ => CpuidResult::default(),
    }
}

/// KVM's signature without any of its features: Linux allows x2APIC without interrupt remapping
/// because of it, and finds no paravirtual clock.
fn hypervisor(leaf: u32) -> CpuidResult {
    match leaf {
        HYPERVISOR => registers(
            MAX_HYPERVISOR,
            text(b"KVMK"),
            text(b"VMKV"),
            text(b"M\0\0\0"),
        ),
        _ => CpuidResult::default(),
    }
}

fn extended(features: Features, leaf: u32) -> CpuidResult {
    match leaf {
        0x8000_0000 => registers(MAX_EXTENDED, 0, 0, 0),
        0x8000_0001 => registers(
            0,
            0,
            features.word(Word::Extended1Ecx),
            features.word(Word::Extended1Edx),
        ),
        0x8000_0002..=0x8000_0004 => brand(leaf - 0x8000_0002),
        // ECX: level 2 again: KiB, ways (code 8 is 16), line size.
        0x8000_0006 => registers(0, 0, 1024 << 16 | 8 << 12 | CACHE_LINE, 0),
        // EDX: the TSC is invariant.
        0x8000_0007 => registers(0, 0, 0, 1 << 8),
        0x8000_0008 => registers(LINEAR_ADDRESS_BITS << 8 | PHYSICAL_ADDRESS_BITS, 0, 0, 0),
        _ => CpuidResult::default(),
    }
}

/// The brand string, 16 bytes at a time.
fn brand(part: u32) -> CpuidResult {
    let register = |index: usize| {
        let mut bytes = [0; 4];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            let position = part as usize * 16 + index * 4 + offset;
            *byte = BRAND.get(position).copied().unwrap_or(0);
        }
        u32::from_le_bytes(bytes)
    };
    registers(register(0), register(1), register(2), register(3))
}

#[cfg(test)]
mod tests;
