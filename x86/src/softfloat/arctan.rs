//! FPATAN: the angle of a point.
//!
//! What it does not: use the 66-bit pi of `trig`; its pi has 128 bits.
//!
//! Invariant: a result is correctly rounded unless it is within 2^-118 (relative) of where
//! rounding switches, so it is off by less than 0.5 + 2^-50 units in the last place to nearest,
//! and by less than 1 + 2^-50 in the other modes. Zeros are the only exact results.
//!
//! For a quotient t <= 1 of the smaller by the larger magnitude and the k/32 nearest to it,
//! `atan(t) = atan(k/32) + atan(u)` with `u = (t - k/32) / (1 + t * k/32)`, |u| <= 1/64, whose
//! numerator and denominator are exact integers; then the octant is put right.

use super::control::{Control, Flags};
use super::format::{F80, Finite};
use super::operand::{denormal, screen_two};
use super::round::{Unrounded, pack};
use super::wide::{ONE, constant, from_fixed, inexact, mul_fixed};

/// Pi.
const PI: Unrounded = constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// Pi/2.
const HALF_PI: Unrounded = constant(0, PI.significand);
/// Pi/4.
const QUARTER_PI: Unrounded = constant(-1, PI.significand);
/// 3 pi/4.
const THREE_QUARTERS_PI: Unrounded = constant(1, 0x96cb_e3f9_990e_91a7_9394_c9e8_a0a5_159d);

/// atan(k/32) for k from 1 to 32, in fixed point.
#[rustfmt::skip]
const TABLE: [u128; 32] = [
    0x03ff_aab7_752e_c495_09de_75dd_b76a_3188,
    0x07fd_56ed_cb3f_7a71_b659_3c96_e071_706b,
    0x0bf7_0c13_0178_8746_0935_67e7_84cf_8367,
    0x0fea_dd4d_5617_b6e3_2c89_7989_f3e8_88ef,
    0x13d6_eee8_c662_6c58_68ec_33a4_a06c_1fd1,
    0x17b9_7b4b_ce5b_0226_8f61_69f1_0393_8e91,
    0x1b90_d752_9260_a204_5ec4_34b8_396a_a5e0,
    0x1f5b_75f9_2c80_dd62_adb8_f3de_bef4_42fd,
    0x2317_eb46_17e2_f04c_3291_d22c_6fe2_0a63,
    0x26c4_ee6e_0fd7_979a_716a_ed26_349e_bcca,
    0x2a61_5b32_a39a_93b6_a66d_fdde_fdf6_7a30,
    0x2dec_3283_c9bd_e11c_e2a8_c848_b73f_9121,
    0x3164_9a72_9436_4adb_685d_1ba4_7d42_8a37,
    0x34c9_dd87_9847_f96d_909f_257a_4007_9c4e,
    0x381b_6992_9d93_df19_f18c_7b65_9e63_2e01,
    0x3b58_ce0a_c376_9ed1_5bf9_117b_2f0e_a341,
    0x3e81_ba16_a828_2f97_19b4_8f1f_5772_3b31,
    0x4195_fa53_6cc3_3f15_25b5_04e5_b0d2_8ae0,
    0x4495_766f_ef4a_a3da_84a2_3c7e_2395_a57e,
    0x4780_2eaf_7bfa_cfcd_ae41_af0b_32e2_1ba4,
    0x4a56_3964_c238_c37b_0c62_79c9_fbc5_197c,
    0x4d17_c073_38de_ed10_2113_7c71_1027_f9de,
    0x4fc4_fee2_7a5b_d0f6_7c5a_4932_2783_80f0,
    0x525e_3e8c_9a7b_8492_0cd4_3f95_22be_d64f,
    0x54e3_d5ee_2418_7ae4_48b5_425a_df3c_99fb,
    0x5756_261c_5a6c_6040_0a39_2f17_9f29_0385,
    0x59b5_98e4_8f82_1b48_ac80_a0ba_2231_7c9d,
    0x5c02_9f15_e118_cf39_e596_d2a9_0852_221f,
    0x5e3d_aef5_74c5_7940_6a08_9803_7407_d948,
    0x6067_42dc_5629_3320_44ee_b162_3749_7d12,
    0x627f_d7fd_5fc7_deaa_465a_1e88_5e4f_0111,
    0x6487_ed51_10b4_611a_6263_3145_c06e_0e69,
];

/// The terms of the series: (1/64)^(2 * 11) is 2^-132.
const TERMS: u128 = 11;

/// The angle of the point (`x`, `y`) = (ST0, ST1), with the sign of `y` (FPATAN).
pub fn atan(x: F80, y: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_two(x, y, flags) {
        return result;
    }
    if denormal(x.is_denormal() || y.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    let magnitude = match (y.is_infinite(), x.is_infinite()) {
        (true, true) if x.is_negative() => Some(THREE_QUARTERS_PI),
        (true, true) => Some(QUARTER_PI),
        (true, false) => Some(HALF_PI),
        (false, true) => on_the_axis(x),
        (false, false) if y.is_zero() => on_the_axis(x),
        (false, false) if x.is_zero() => Some(HALF_PI),
        (false, false) => Some(angle(x.unpack(), y.unpack())),
    };
    match magnitude {
        Some(value) => pack(
            inexact(value.signed(y.is_negative())),
            &control.extended(),
            flags,
        ),
        None => F80::ZERO.with_sign(y.is_negative()),
    }
}

/// The angle of a point whose `y` is zero next to `x`; none for zero.
fn on_the_axis(x: F80) -> Option<Unrounded> {
    x.is_negative().then_some(PI)
}

/// The angle of (`x`, |`y`|), both finite and not zero.
fn angle(x: Finite, y: Finite) -> Unrounded {
    let steep = (y.exponent, y.mantissa) > (x.exponent, x.mantissa);
    if steep {
        let rest = first_octant(x, y);
        // pi/2 - atan(x/y), or plus for a negative x.
        HALF_PI.plus(rest.signed(!x.negative))
    } else {
        let rest = first_octant(y, x);
        if x.negative {
            PI.plus(rest.signed(true))
        } else {
            rest
        }
    }
}

/// The arctangent of the quotient of two magnitudes, which is at most 1.
fn first_octant(small: Finite, large: Finite) -> Unrounded {
    let distance = large.exponent - small.exponent;
    if distance > 7 {
        let t = Unrounded::from(small).signed(false).over(large.into());
        return series(t);
    }
    // Both in units of the smaller's last place; 32 is the common denominator.
    let (small, large) = (
        u128::from(small.mantissa),
        u128::from(large.mantissa) << distance,
    );
    let k = (64 * small + large) / (2 * large);
    let (plus, minus) = (32 * small, k * large);
    let numerator = Unrounded::normalize(minus > plus, 0, plus.abs_diff(minus));
    let denominator = Unrounded::normalize(false, 0, 32 * large + k * small);
    let rest = match (numerator, denominator) {
        (Some(numerator), Some(denominator)) => Some(series(numerator.over(denominator))),
        _ => None,
    };
    let base = k
        .checked_sub(1)
        .map(|index| from_fixed(TABLE[index as usize]));
    match (base, rest) {
        (Some(base), Some(rest)) => base.plus(rest),
        (Some(value), None) | (None, Some(value)) => value,
        (None, None) => unreachable!("the quotient is not zero"),
    }
}

/// The arctangent of a value of magnitude at most 1/64.
fn series(t: Unrounded) -> Unrounded {
    let square = mul_fixed(t.to_fixed(), t.to_fixed());
    let mut sum = 0;
    for k in (0..=TERMS).rev() {
        sum = ONE / (2 * k + 1) - mul_fixed(square, sum);
    }
    // An arctangent is less than its argument, even where that does not show.
    t.times(from_fixed(sum.min(ONE - 1)))
}
