//! The features of the CPU models, and where CPUID shows each.
//!
//! Does: name each feature that some model has, and the set of each model. Does not: name those
//! that no model has.
//!
//! Invariant: one line per feature, so that a change of a model shows as what it is. The CPU raises
//! #UD for an instruction, and #GP for a control bit, whose feature its model does not have.

use super::Profile;

/// A register of a leaf that consists of feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Leaf 1.
    Leaf1Ecx,
    /// Leaf 1.
    Leaf1Edx,
    /// Leaf 7, subleaf 0.
    Leaf7Ebx,
    /// Leaf 7, subleaf 0.
    Leaf7Ecx,
    /// Leaf 7, subleaf 0.
    Leaf7Edx,
    /// Leaf 7, subleaf 2.
    Leaf7Sub2Edx,
    /// Leaf 0xD, subleaf 1.
    LeafDEax,
    /// Leaf 0x80000001.
    Extended1Ecx,
    /// Leaf 0x80000001.
    Extended1Edx,
}

/// A set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u128);

/// Declares the features in the order of the lines: a constant for each, and the table for CPUID.
macro_rules! features {
    ($($(#[doc = $doc:literal])* $name:ident = $word:ident[$bit:literal];)*) => {
        #[allow(clippy::upper_case_acronyms, non_camel_case_types, reason = "only their order matters")]
        enum Order { $($name),* }

        impl Features {
            $($(#[doc = $doc])* pub const $name: Features = Features(1 << Order::$name as u32);)*
        }

        /// Where CPUID shows each feature.
        const SHOWN: &[(Features, Word, u32)] =
            &[$((Features::$name, Word::$word, $bit)),*];
    };
}

features! {
    /// SSE3, FISTTP included.
    SSE3 = Leaf1Ecx[0];
    /// PCLMULQDQ.
    PCLMULQDQ = Leaf1Ecx[1];
    /// SSSE3.
    SSSE3 = Leaf1Ecx[9];
    /// Fused multiply-add of AVX registers.
    FMA = Leaf1Ecx[12];
    /// CMPXCHG16B.
    CMPXCHG16B = Leaf1Ecx[13];
    /// Process-context identifiers, CR4.PCIDE.
    PCID = Leaf1Ecx[17];
    /// SSE4.1.
    SSE4_1 = Leaf1Ecx[19];
    /// SSE4.2.
    SSE4_2 = Leaf1Ecx[20];
    /// x2APIC mode.
    X2APIC = Leaf1Ecx[21];
    /// MOVBE.
    MOVBE = Leaf1Ecx[22];
    /// POPCNT.
    POPCNT = Leaf1Ecx[23];
    /// The local APIC timer's TSC-deadline mode.
    TSC_DEADLINE = Leaf1Ecx[24];
    /// AES instructions.
    AES = Leaf1Ecx[25];
    /// XSAVE, XRSTOR, XGETBV, XSETBV, CR4.OSXSAVE.
    XSAVE = Leaf1Ecx[26];
    /// AVX.
    AVX = Leaf1Ecx[28];
    /// Conversions of half-precision numbers.
    F16C = Leaf1Ecx[29];
    /// RDRAND.
    RDRAND = Leaf1Ecx[30];
    /// Set by every hypervisor, by convention.
    HYPERVISOR = Leaf1Ecx[31];

    /// x87.
    FPU = Leaf1Edx[0];
    /// Virtual-8086 mode extensions.
    VME = Leaf1Edx[1];
    /// Debugging extensions: I/O breakpoints.
    DE = Leaf1Edx[2];
    /// 4 MiB pages.
    PSE = Leaf1Edx[3];
    /// RDTSC.
    TSC = Leaf1Edx[4];
    /// RDMSR and WRMSR.
    MSR = Leaf1Edx[5];
    /// Physical-address extension.
    PAE = Leaf1Edx[6];
    /// Machine-check exceptions, CR4.MCE.
    MCE = Leaf1Edx[7];
    /// CMPXCHG8B.
    CMPXCHG8B = Leaf1Edx[8];
    /// A local APIC. The CPU shows it only while IA32_APIC_BASE enables it.
    APIC = Leaf1Edx[9];
    /// SYSENTER and SYSEXIT.
    SYSENTER = Leaf1Edx[11];
    /// Memory type range registers.
    MTRR = Leaf1Edx[12];
    /// Global pages.
    PGE = Leaf1Edx[13];
    /// Machine-check architecture: banks of registers, which never report anything.
    MCA = Leaf1Edx[14];
    /// CMOVcc, and FCMOVcc.
    CMOV = Leaf1Edx[15];
    /// Page attribute table.
    PAT = Leaf1Edx[16];
    /// 40-bit physical addresses of 4 MiB pages.
    PSE36 = Leaf1Edx[17];
    /// CLFLUSH.
    CLFLUSH = Leaf1Edx[19];
    /// MMX.
    MMX = Leaf1Edx[23];
    /// FXSAVE and FXRSTOR.
    FXSR = Leaf1Edx[24];
    /// SSE.
    SSE = Leaf1Edx[25];
    /// SSE2.
    SSE2 = Leaf1Edx[26];

    /// RDFSBASE and relatives, CR4.FSGSBASE.
    FSGSBASE = Leaf7Ebx[0];
    /// IA32_TSC_ADJUST. With it Linux trusts the TSC, and an idle guest is not woken twice a second
    /// to compare it with the PM timer.
    TSC_ADJUST = Leaf7Ebx[1];
    /// ANDN, BEXTR, BLSI and relatives, TZCNT.
    BMI1 = Leaf7Ebx[3];
    /// AVX2.
    AVX2 = Leaf7Ebx[5];
    /// Supervisor-mode execution prevention.
    SMEP = Leaf7Ebx[7];
    /// BZHI, MULX, PDEP, PEXT, RORX, SARX and relatives.
    BMI2 = Leaf7Ebx[8];
    /// INVPCID.
    INVPCID = Leaf7Ebx[10];
    /// RDSEED.
    RDSEED = Leaf7Ebx[18];
    /// Supervisor-mode access prevention.
    SMAP = Leaf7Ebx[20];
    /// SHA-1 and SHA-256.
    SHA = Leaf7Ebx[29];

    /// User-mode instruction prevention.
    UMIP = Leaf7Ecx[2];
    /// RDPID.
    RDPID = Leaf7Ecx[22];

    /// IA32_SPEC_CTRL.IBRS and IA32_PRED_CMD.IBPB.
    IBRS = Leaf7Edx[26];
    /// IA32_SPEC_CTRL.STIBP.
    STIBP = Leaf7Edx[27];
    /// IA32_ARCH_CAPABILITIES.
    ARCH_CAPABILITIES = Leaf7Edx[29];

    /// IA32_SPEC_CTRL.BHI_DIS_S. Without it Linux runs a loop on each entry to the kernel, although
    /// IA32_ARCH_CAPABILITIES has BHI_NO.
    BHI_CTRL = Leaf7Sub2Edx[4];

    /// XSAVEOPT.
    XSAVEOPT = LeafDEax[0];
    /// XSAVEC, and the compacted form of XRSTOR.
    XSAVEC = LeafDEax[1];
    /// XGETBV with ECX = 1.
    XGETBV1 = LeafDEax[2];

    /// LAHF and SAHF in 64-bit mode.
    LAHF_LM = Extended1Ecx[0];
    /// LZCNT.
    LZCNT = Extended1Ecx[5];

    /// SYSCALL and SYSRET.
    SYSCALL = Extended1Edx[11];
    /// No-execute pages.
    NX = Extended1Edx[20];
    /// Pages of 1 GiB.
    PAGES_1G = Extended1Edx[26];
    /// RDTSCP.
    RDTSCP = Extended1Edx[27];
    /// Long mode.
    LONG_MODE = Extended1Edx[29];
}

impl Features {
    /// None.
    pub const NONE: Features = Features(0);

    /// x86-64-v1 with what every model has beside.
    const V1: Features = Features::of(&[
        Features::CMPXCHG16B,
        Features::X2APIC,
        Features::TSC_DEADLINE,
        Features::RDRAND,
        Features::HYPERVISOR,
        Features::FPU,
        Features::VME,
        Features::DE,
        Features::PSE,
        Features::TSC,
        Features::MSR,
        Features::PAE,
        Features::MCE,
        Features::CMPXCHG8B,
        Features::APIC,
        Features::SYSENTER,
        Features::MTRR,
        Features::PGE,
        Features::MCA,
        Features::CMOV,
        Features::PAT,
        Features::PSE36,
        Features::CLFLUSH,
        Features::MMX,
        Features::FXSR,
        Features::SSE,
        Features::SSE2,
        Features::TSC_ADJUST,
        Features::SMEP,
        Features::SMAP,
        Features::UMIP,
        Features::IBRS,
        Features::STIBP,
        Features::BHI_CTRL,
        Features::ARCH_CAPABILITIES,
        Features::LAHF_LM,
        Features::SYSCALL,
        Features::NX,
        Features::PAGES_1G,
        Features::RDTSCP,
        Features::LONG_MODE,
    ]);

    /// x86-64-v2, with what CPUs of its kind have beside and Linux uses.
    const V2: Features = Features::V1.union(Features::of(&[
        Features::SSE3,
        Features::SSSE3,
        Features::SSE4_1,
        Features::SSE4_2,
        Features::POPCNT,
        Features::AES,
        Features::PCLMULQDQ,
        Features::PCID,
        Features::INVPCID,
        Features::FSGSBASE,
        Features::RDSEED,
        Features::RDPID,
    ]));

    /// x86-64-v3, with what CPUs of its kind have beside.
    const V3: Features = Features::V2.union(Features::of(&[
        Features::AVX,
        Features::AVX2,
        Features::BMI1,
        Features::BMI2,
        Features::F16C,
        Features::FMA,
        Features::LZCNT,
        Features::MOVBE,
        Features::SHA,
        Features::XSAVE,
        Features::XSAVEOPT,
        Features::XSAVEC,
        Features::XGETBV1,
    ]));

    const fn of(list: &[Features]) -> Features {
        let mut all = Features::NONE;
        let mut index = 0;
        while index < list.len() {
            all = all.union(list[index]);
            index += 1;
        }
        all
    }

    /// Those in either set.
    pub const fn union(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// True if every one of `others` is in this set.
    pub const fn contains(self, others: Features) -> bool {
        self.0 & others.0 == others.0
    }

    /// What CPUID shows of them in `word`.
    pub(super) fn word(self, word: Word) -> u32 {
        SHOWN
            .iter()
            .filter(|(feature, shown, _)| *shown == word && self.contains(*feature))
            .fold(0, |bits, (_, _, bit)| bits | 1 << bit)
    }
}

/// The bits of `word` that stand for features of some model.
#[cfg(test)]
pub(super) fn bits_in(word: Word) -> impl Iterator<Item = u32> {
    SHOWN
        .iter()
        .filter(move |(_, shown, _)| *shown == word)
        .map(|(_, _, bit)| *bit)
}

impl Profile {
    /// What a CPU of this model can do.
    pub const fn features(self) -> Features {
        match self {
            Profile::V1 => Features::V1,
            Profile::V2 => Features::V2,
            Profile::V3 => Features::V3,
        }
    }
}
