//! The model's leaves agree with each other and with what they promise.

use super::*;

fn leaf(leaf: u32) -> CpuidResult {
    cpuid(Profile::V1, leaf, 0)
}

fn bytes(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn signatures() {
    let id = leaf(0);
    assert_eq!(bytes(&[id.ebx, id.edx, id.ecx]), b"GenuineIntel");
    let hypervisor = leaf(0x4000_0000);
    assert_eq!(
        bytes(&[hypervisor.ebx, hypervisor.ecx, hypervisor.edx]),
        b"KVMKVMKVM\0\0\0"
    );
    assert_eq!(hypervisor.eax, 0x4000_0001);
    assert_eq!(leaf(0x4000_0001), CpuidResult::default(), "no features");
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|part| {
            let r = leaf(part);
            bytes(&[r.eax, r.ebx, r.ecx, r.edx])
        })
        .collect();
    assert!(brand.starts_with(b"Virtual CPU\0"));
    assert_eq!(brand.len(), 48);
    assert_eq!(brand[47], 0);
}

#[test]
fn family_and_model() {
    let eax = leaf(1).eax;
    assert_eq!((eax >> 8) & 0xF, 6);
    assert_eq!((eax >> 16 & 0xF) << 4 | eax >> 4 & 0xF, 0x8F);
    assert_eq!(eax >> 20, 0, "no extended family");
}

#[test]
fn the_tsc_counts_nanoseconds() {
    let r = leaf(0x15);
    assert_eq!(
        u64::from(r.ecx) * u64::from(r.ebx) / u64::from(r.eax),
        1_000_000_000
    );
    assert_eq!(leaf(0x16).eax, 1000);
    assert_ne!(leaf(0x8000_0007).edx & 1 << 8, 0, "invariant");
    assert_ne!(leaf(6).eax & 1 << 2, 0, "always running timer");
}

#[test]
fn v1_is_the_psabi_baseline_and_no_more_than_promised() {
    let (one, seven, extended) = (leaf(1), leaf(7), leaf(0x8000_0001));
    for bit in [0, 8, 15, 23, 24, 25, 26] {
        assert_ne!(one.edx & 1 << bit, 0, "baseline bit {bit}");
    }
    for bit in [11, 20, 26, 27, 29] {
        assert_ne!(extended.edx & 1 << bit, 0, "extended bit {bit}");
    }
    for bit in [13, 21, 24, 30, 31] {
        assert_ne!(one.ecx & 1 << bit, 0, "ECX bit {bit}");
    }
    // SSE3, PCLMULQDQ, MONITOR, SSSE3, FMA, PCID, SSE4, MOVBE, POPCNT, AES, XSAVE, OSXSAVE, AVX, F16C.
    for bit in [0, 1, 3, 9, 12, 17, 19, 20, 22, 23, 25, 26, 27, 28, 29] {
        assert_eq!(one.ecx & 1 << bit, 0, "ECX bit {bit}");
    }
    // FSGSBASE, BMI, TSX, AVX2, INVPCID, RDSEED, ADX, SHA and whatever else is new.
    assert_eq!(seven.ebx & !(1 << 1 | 1 << 7 | 1 << 20), 0);
    assert_eq!(seven.eax, 0, "no further subleaf");
    assert_eq!(cpuid(Profile::V1, 7, 1), CpuidResult::default());
    assert_eq!(leaf(0xD), CpuidResult::default(), "no XSAVE");
    assert_eq!(leaf(0xA), CpuidResult::default(), "no counters");
}

#[test]
fn no_speculation_control_is_claimed() {
    // IBRS, STIBP, L1D_FLUSH, SSBD and CORE_CAPABILITIES; only ARCH_CAPABILITIES is there.
    assert_eq!(leaf(7).edx, 1 << 29);
    assert_eq!(leaf(0x8000_0008).ebx, 0);
    let ibrs_all = 1 << 1;
    let rsba = 1 << 2 | 1 << 19;
    let controls = 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 25;
    assert_eq!(ARCH_CAPABILITIES & (ibrs_all | rsba | controls), 0);
    assert_eq!(ARCH_CAPABILITIES, 0x4000_0000_0D10_E179);
}

#[test]
fn one_cpu_in_every_leaf() {
    assert_eq!(
        leaf(1).ebx >> 16,
        1 << 8 >> 8,
        "one logical processor, APIC id 0"
    );
    let mut levels = Vec::new();
    for subleaf in 0..4 {
        let r = cpuid(Profile::V1, 0xB, subleaf);
        assert_eq!(r.ecx & 0xFF, subleaf);
        assert_eq!((r.eax, r.edx), (0, 0));
        levels.push(((r.ecx >> 8) & 0xFF, r.ebx));
    }
    assert_eq!(levels, [(1, 1), (2, 1), (0, 0), (0, 0)]);
    for subleaf in 0..4 {
        assert_eq!(cpuid(Profile::V1, 4, subleaf).eax >> 14, 0);
    }
}

#[test]
fn caches_agree() {
    let kib = |subleaf| {
        let r = cpuid(Profile::V1, 4, subleaf);
        let line = (r.ebx & 0xFFF) + 1;
        let ways = (r.ebx >> 22) + 1;
        line * ways * (r.ecx + 1) / 1024
    };
    assert_eq!([kib(0), kib(1), kib(2), kib(3)], [32, 32, 1024, 16 * 1024]);
    assert_eq!(cpuid(Profile::V1, 4, 4), CpuidResult::default());
    assert_eq!(leaf(0x8000_0006).ecx >> 16, kib(2));
    assert_eq!((leaf(1).ebx >> 8 & 0xFF) * 8, 64, "CLFLUSH");
}

#[test]
fn address_widths() {
    assert_eq!(leaf(0x8000_0008).eax, 48 << 8 | 46);
}

#[test]
fn leaves_that_do_not_exist_answer_as_on_intel() {
    assert_eq!(leaf(0).eax, 0x16);
    assert_eq!(leaf(0x8000_0000).eax, 0x8000_0008);
    assert_eq!(leaf(0x17), leaf(0x16));
    assert_eq!(leaf(0x8000_0009), leaf(0x16));
    assert_eq!(leaf(u32::MAX), leaf(0x16));
    assert_eq!(leaf(0x4000_0002), CpuidResult::default());
    assert_eq!(leaf(0x4000_0100), CpuidResult::default());
}
