//! The feature bits of the CPU models, by leaf and register.
//!
//! Does: name each bit that a model sets. Does not: name those that no model has.
//!
//! Invariant: one line per feature, so that a change of a model shows as what it is.

/// Leaf 1, ECX.
pub(super) mod leaf1_ecx {
    const CMPXCHG16B: u32 = 1 << 13;
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const RDRAND: u32 = 1 << 30;
    /// Set by every hypervisor, by convention.
    const HYPERVISOR: u32 = 1 << 31;

    pub(in crate::cpuid) const V1: u32 = CMPXCHG16B | X2APIC | TSC_DEADLINE | RDRAND | HYPERVISOR;
}

/// Leaf 1, EDX.
pub(super) mod leaf1_edx {
    const FPU: u32 = 1 << 0;
    const VME: u32 = 1 << 1;
    const DE: u32 = 1 << 2;
    const PSE: u32 = 1 << 3;
    const TSC: u32 = 1 << 4;
    const MSR: u32 = 1 << 5;
    const PAE: u32 = 1 << 6;
    const CMPXCHG8B: u32 = 1 << 8;
    const APIC: u32 = 1 << 9;
    const SYSENTER: u32 = 1 << 11;
    const MTRR: u32 = 1 << 12;
    const PGE: u32 = 1 << 13;
    const CMOV: u32 = 1 << 15;
    const PAT: u32 = 1 << 16;
    const PSE36: u32 = 1 << 17;
    const CLFLUSH: u32 = 1 << 19;
    const MMX: u32 = 1 << 23;
    const FXSR: u32 = 1 << 24;
    const SSE: u32 = 1 << 25;
    const SSE2: u32 = 1 << 26;

    /// No machine checks: there is no bank that could report one.
    pub(in crate::cpuid) const V1: u32 = FPU
        | VME
        | DE
        | PSE
        | TSC
        | MSR
        | PAE
        | CMPXCHG8B
        | APIC
        | SYSENTER
        | MTRR
        | PGE
        | CMOV
        | PAT
        | PSE36
        | CLFLUSH
        | MMX
        | FXSR
        | SSE
        | SSE2;
}

/// Leaf 7, subleaf 0.
pub(super) mod leaf7 {
    /// IA32_TSC_ADJUST. With it Linux trusts the TSC, and an idle guest is not woken twice a second
    /// to compare it with the PM timer.
    const TSC_ADJUST: u32 = 1 << 1;
    const SMEP: u32 = 1 << 7;
    const SMAP: u32 = 1 << 20;
    pub(in crate::cpuid) const EBX_V1: u32 = TSC_ADJUST | SMEP | SMAP;

    const UMIP: u32 = 1 << 2;
    pub(in crate::cpuid) const ECX_V1: u32 = UMIP;

    /// IA32_ARCH_CAPABILITIES.
    const ARCH_CAPABILITIES: u32 = 1 << 29;
    pub(in crate::cpuid) const EDX_V1: u32 = ARCH_CAPABILITIES;
}

/// Leaf 0x80000001.
pub(super) mod leaf80000001 {
    /// LAHF and SAHF in 64-bit mode.
    const LAHF_LM: u32 = 1 << 0;
    pub(in crate::cpuid) const ECX_V1: u32 = LAHF_LM;

    const SYSCALL: u32 = 1 << 11;
    const NX: u32 = 1 << 20;
    const PAGES_1G: u32 = 1 << 26;
    const RDTSCP: u32 = 1 << 27;
    const LONG_MODE: u32 = 1 << 29;
    pub(in crate::cpuid) const EDX_V1: u32 = SYSCALL | NX | PAGES_1G | RDTSCP | LONG_MODE;
}
