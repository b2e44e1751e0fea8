//! Which instructions a CPU model has.
//!
//! Does: say whether an instruction's features are among the model's. Does not: know what CR0, CR4
//! and XCR0 allow at the moment; handlers do.
//!
//! Invariant: an instruction of a feature that the model lacks is never executed, whatever handlers
//! exist; it raises #UD, or is what older CPUs make of its bytes (TZCNT is BSF, hints are NOPs).

use arch::cpuid::Features;
use iced_x86::{CpuidFeature, DecoderOptions, Instruction};

/// The features behind one of the decoder's names; `None` if no model has it.
fn features_of(feature: CpuidFeature) -> Option<Features> {
    use CpuidFeature as C;
    Some(match feature {
        // Every model's.
        C::INTEL8086
        | C::INTEL8086_ONLY
        | C::INTEL186
        | C::INTEL286
        | C::INTEL386
        | C::INTEL486
        | C::X64
        | C::CPUID
        | C::MULTIBYTENOP
        | C::PAUSE
        | C::FPU287
        | C::FPU387
        | C::RDPMC => Features::NONE,
        // Hints: NOPs where the feature is lacking, which is everywhere.
        C::CET_IBT | C::CET_SS | C::CLDEMOTE | C::PREFETCHW | C::PREFETCHWT1 | C::PREFETCHITI => {
            Features::NONE
        }
        C::ADX => return None,
        C::AES => Features::AES,
        C::AVX => Features::AVX,
        C::AVX2 => Features::AVX2,
        C::BMI1 => Features::BMI1,
        C::BMI2 => Features::BMI2,
        C::CLFSH => Features::CLFLUSH,
        C::CMOV => Features::CMOV,
        C::CMPXCHG16B => Features::CMPXCHG16B,
        C::CX8 => Features::CMPXCHG8B,
        C::F16C => Features::F16C,
        C::FMA => Features::FMA,
        C::FPU => Features::FPU,
        C::FSGSBASE => Features::FSGSBASE,
        C::FXSR => Features::FXSR,
        C::INVPCID => Features::INVPCID,
        C::LZCNT => Features::LZCNT,
        C::MMX => Features::MMX,
        C::MOVBE => Features::MOVBE,
        C::MSR => Features::MSR,
        C::PCLMULQDQ => Features::PCLMULQDQ,
        C::POPCNT => Features::POPCNT,
        C::RDPID => Features::RDPID,
        C::RDRAND => Features::RDRAND,
        C::RDSEED => Features::RDSEED,
        C::RDTSCP => Features::RDTSCP,
        C::SEP => Features::SYSENTER,
        C::SHA => Features::SHA,
        C::SMAP => Features::SMAP,
        C::SSE => Features::SSE,
        C::SSE2 => Features::SSE2,
        C::SSE3 => Features::SSE3,
        C::SSE4_1 => Features::SSE4_1,
        C::SSE4_2 => Features::SSE4_2,
        C::SSSE3 => Features::SSSE3,
        C::SYSCALL => Features::SYSCALL,
        C::TSC => Features::TSC,
        C::XSAVE => Features::XSAVE,
        C::XSAVEC => Features::XSAVEC,
        C::XSAVEOPT => Features::XSAVEOPT,
        _ => return None,
    })
}

/// True if a CPU of `profile` has the instruction that `code` is a form of.
pub fn has_form(profile: arch::cpuid::Profile, code: iced_x86::Code) -> bool {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    offers(profile.features(), &instruction)
}

/// True if a CPU with `features` has the instruction.
pub(crate) fn offers(features: Features, instruction: &Instruction) -> bool {
    instruction
        .cpuid_features()
        .iter()
        .all(|&feature| features_of(feature).is_some_and(|wanted| features.contains(wanted)))
}

/// How the decoder reads bytes whose meaning depends on features.
pub(crate) fn decoder_options(features: Features) -> u32 {
    let mut options = DecoderOptions::NO_WBNOINVD;
    if !features.contains(Features::BMI1) {
        options |= DecoderOptions::NO_MPFX_0FBC;
    }
    if !features.contains(Features::LZCNT) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    options
}

#[cfg(test)]
mod tests {
    use arch::cpuid::Profile;
    use iced_x86::{Decoder, Mnemonic};

    use super::*;

    fn has(profile: Profile, bytes: &[u8]) -> bool {
        let features = profile.features();
        let mut decoder = Decoder::new(64, bytes, decoder_options(features));
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid(), "{bytes:02x?}");
        offers(features, &instruction)
    }

    #[test]
    fn models_have_the_instructions_of_their_level() {
        let of_v1: &[&[u8]] = &[
            &[0x90],
            &[0xf3, 0x90],
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0x0f, 0x0d, 0x08],
            &[0x0f, 0x05],
            &[0x0f, 0x01, 0xf9],
            &[0x66, 0x0f, 0xfe, 0xc1],
            &[0xd9, 0xe8],
            &[0x0f, 0x01, 0xca],
            &[0x48, 0x0f, 0xc7, 0x0f],
            &[0x0f, 0xc7, 0xf0],
            &[0x0f, 0xa2],
            &[0xf4],
            &[0xf3, 0x0f, 0xbc, 0xc1],
            &[0xdb, 0xe3],
            &[0xdd, 0xc0],
            &[0x0f, 0x0d, 0x00],
            &[0xdb, 0xe4],
            &[0x0f, 0x09],
            &[0xdf, 0xc0],
            &[0xf3, 0x48, 0x0f, 0x1e, 0xc8],
        ];
        for bytes in of_v1 {
            assert!(has(Profile::V1, bytes), "{bytes:02x?}");
            assert!(has(Profile::V3, bytes), "{bytes:02x?}");
        }
        let of_v2: &[&[u8]] = &[
            &[0xf3, 0x0f, 0xb8, 0xc1],
            &[0x66, 0x0f, 0x38, 0x00, 0xc1],
            &[0xf2, 0x0f, 0x38, 0xf1, 0xc1],
            &[0xf3, 0x48, 0x0f, 0xae, 0xc0],
            &[0x66, 0x0f, 0x38, 0x82, 0x07],
            &[0x0f, 0xc7, 0xf8],
            &[0xf3, 0x0f, 0xc7, 0xf8],
            &[0x66, 0x0f, 0x38, 0xdc, 0xc1],
        ];
        for bytes in of_v2 {
            assert!(!has(Profile::V1, bytes), "{bytes:02x?}");
            assert!(has(Profile::V2, bytes), "{bytes:02x?}");
        }
        let of_v3: &[&[u8]] = &[
            &[0xc5, 0xf9, 0xfe, 0xc1],
            &[0x0f, 0x38, 0xf0, 0x07],
            &[0x0f, 0xae, 0x27],
            &[0xc4, 0xe2, 0xf9, 0xf7, 0xc1],
        ];
        for bytes in of_v3 {
            assert!(!has(Profile::V2, bytes), "{bytes:02x?}");
            assert!(has(Profile::V3, bytes), "{bytes:02x?}");
        }
        // MONITOR, RDPKRU, XSAVES, VMCALL, ADCX, EVEX.
        let of_none: &[&[u8]] = &[
            &[0x0f, 0x01, 0xc8],
            &[0x0f, 0x01, 0xee],
            &[0x0f, 0xc7, 0x2f],
            &[0x0f, 0x01, 0xc1],
            &[0x66, 0x0f, 0x38, 0xf6, 0xc1],
            &[0x62, 0xf1, 0x7d, 0x48, 0xfe, 0xc1],
        ];
        for bytes in of_none {
            assert!(!has(Profile::V3, bytes), "{bytes:02x?}");
        }
    }

    #[test]
    fn counting_zeros_is_scanning_bits_without_the_feature() {
        let mnemonic = |profile: Profile, bytes: &[u8]| {
            Decoder::new(64, bytes, decoder_options(profile.features()))
                .decode()
                .mnemonic()
        };
        let (tzcnt, lzcnt) = ([0xf3, 0x0f, 0xbc, 0xc1], [0xf3, 0x0f, 0xbd, 0xc1]);
        assert_eq!(mnemonic(Profile::V2, &tzcnt), Mnemonic::Bsf);
        assert_eq!(mnemonic(Profile::V2, &lzcnt), Mnemonic::Bsr);
        assert_eq!(mnemonic(Profile::V3, &tzcnt), Mnemonic::Tzcnt);
        assert_eq!(mnemonic(Profile::V3, &lzcnt), Mnemonic::Lzcnt);
    }
}
