//! What the processor underneath has.

use iced_x86::{Code, CpuidFeature as C};

/// True if this processor executes `code`.
pub fn has(code: Code) -> bool {
    code.cpuid_features()
        .iter()
        .all(|&feature| has_feature(feature))
}

/// True if the processor has a feature that is not every x86-64 processor's.
fn has_feature(feature: C) -> bool {
    match feature {
        C::SSE3 => is_x86_feature_detected!("sse3"),
        C::SSSE3 => is_x86_feature_detected!("ssse3"),
        C::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        C::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        C::POPCNT => is_x86_feature_detected!("popcnt"),
        C::AES => is_x86_feature_detected!("aes"),
        C::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        C::SHA => is_x86_feature_detected!("sha"),
        C::MOVBE => is_x86_feature_detected!("movbe"),
        C::LZCNT => is_x86_feature_detected!("lzcnt"),
        C::BMI1 => is_x86_feature_detected!("bmi1"),
        C::BMI2 => is_x86_feature_detected!("bmi2"),
        C::AVX => is_x86_feature_detected!("avx"),
        C::AVX2 => is_x86_feature_detected!("avx2"),
        C::FMA => is_x86_feature_detected!("fma"),
        C::F16C => is_x86_feature_detected!("f16c"),
        C::XSAVE => is_x86_feature_detected!("xsave"),
        C::XSAVEOPT => is_x86_feature_detected!("xsaveopt"),
        C::XSAVEC => is_x86_feature_detected!("xsavec"),
        _ => true,
    }
}
