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
    assert_eq!((eax >> 16 & 0xF) << 4 | eax >> 4 & 0xF, 0xF0);
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
    assert_eq!(seven.eax, 2, "the last subleaf");
    assert_eq!(cpuid(Profile::V1, 7, 1), CpuidResult::default());
    assert_eq!(cpuid(Profile::V1, 7, 3), CpuidResult::default());
    assert_eq!(leaf(0xD), CpuidResult::default(), "no XSAVE");
    assert_eq!(leaf(0xA), CpuidResult::default(), "no counters");
}

#[test]
fn levels_are_those_of_the_psabi() {
    // CMPXCHG16B, LAHF, POPCNT, SSE3, SSE4.1, SSE4.2, SSSE3.
    let v2 = [13, 23, 0, 19, 20, 9];
    // AVX, F16C, FMA, MOVBE; OSXSAVE follows CR4.
    let v3 = [28, 29, 12, 22, 26];
    for profile in [Profile::V2, Profile::V3] {
        let ecx = cpuid(profile, 1, 0).ecx;
        assert!(v2.iter().all(|bit| ecx & 1 << bit != 0));
        let all = v3.iter().all(|bit| ecx & 1 << bit != 0);
        assert_eq!(all, profile == Profile::V3);
        assert_eq!(ecx & 1 << 27, 0, "OSXSAVE");
        // AVX2, BMI1, BMI2; LZCNT.
        let ebx = cpuid(profile, 7, 0).ebx;
        let all = [3, 5, 8].iter().all(|bit| ebx & 1 << bit != 0);
        assert_eq!(all, profile == Profile::V3);
        let lzcnt = cpuid(profile, 0x8000_0001, 0).ecx & 1 << 5 != 0;
        assert_eq!(lzcnt, profile == Profile::V3);
    }
    assert_eq!(cpuid(Profile::V2, 0xD, 0), CpuidResult::default());
    let area = cpuid(Profile::V3, 0xD, 0);
    assert_eq!((area.eax, area.ecx, area.edx), (7, 832, 0));
    let avx = cpuid(Profile::V3, 0xD, 2);
    assert_eq!((avx.eax, avx.ebx), (256, 576));
}

#[test]
fn each_feature_has_a_bit_of_its_own() {
    for word in [
        Word::Leaf1Ecx,
        Word::Leaf1Edx,
        Word::Leaf7Ebx,
        Word::Leaf7Ecx,
        Word::Leaf7Edx,
        Word::Leaf7Sub2Edx,
        Word::LeafDEax,
        Word::Extended1Ecx,
        Word::Extended1Edx,
    ] {
        let mut seen = 0;
        for bit in features::bits_in(word) {
            assert_eq!(seen & 1 << bit, 0, "{word:?}[{bit}]");
            seen |= 1 << bit;
        }
        assert_ne!(seen, 0);
    }
}

#[test]
fn models_have_names() {
    for profile in Profile::ALL {
        assert_eq!(profile.name().parse(), Ok(profile));
    }
    let error = "v4".parse::<Profile>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"v4\" is no CPU model: use v1, v2 or v3"
    );
    assert_eq!(Profile::ALL.last(), Some(&Profile::default()));
}

#[test]
fn no_more_speculation_control_is_claimed_than_ibrs() {
    // IBRS, STIBP and ARCH_CAPABILITIES; not L1D_FLUSH, SSBD and CORE_CAPABILITIES.
    assert_eq!(leaf(7).edx, 1 << 26 | 1 << 27 | 1 << 29);
    // BHI_CTRL; not PSFD, IPRED_CTRL, RRSBA_CTRL.
    let two = cpuid(Profile::V1, 7, 2);
    assert_eq!(two.edx, 1 << 4);
    assert_eq!(leaf(0x8000_0008).ebx, 0);
    let rsba = 1 << 2 | 1 << 19;
    let controls = 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 25;
    assert_eq!(ARCH_CAPABILITIES & (rsba | controls), 0);
    assert_eq!(ARCH_CAPABILITIES, 0x4000_0000_0D10_E17B);
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
