//! Packed BCD: FBLD and FBSTP.
//!
//! What it does not: check the digits it loads. The manuals leave nibbles above 9 undefined; here
//! each counts with its value, as the hardware does.
//!
//! Invariant: eighteen digits, little-endian, two a byte; the sign is the top bit of byte 9.

use super::control::{Control, Flags};
use super::format::F80;
use super::round::note_inexact;

/// The largest magnitude of eighteen digits.
const LIMIT: u64 = 999_999_999_999_999_999;
/// The packed BCD indefinite.
const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// Loads a packed BCD integer.
#[must_use]
pub fn from_bcd(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9].iter().rev().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(100)
            .wrapping_add(u64::from(byte >> 4) * 10 + u64::from(byte & 15))
    });
    // At most 15 * 111...1, which is below 2^63.
    F80::from_i64(magnitude as i64).with_sign(bytes[9] & 0x80 != 0)
}

/// Stores a value as a packed BCD integer, or the indefinite with #IA if it does not fit.
pub fn to_bcd(a: F80, control: &Control, flags: &mut Flags) -> [u8; 10] {
    let Some((mut magnitude, rounded)) = a.to_magnitude(control.rounding, LIMIT) else {
        flags.raise(Flags::INVALID);
        return INDEFINITE;
    };
    note_inexact(rounded, flags);
    let mut bytes = [0; 10];
    for byte in &mut bytes[..9] {
        let pair = (magnitude % 100) as u8;
        *byte = (pair / 10) << 4 | (pair % 10);
        magnitude /= 100;
    }
    bytes[9] = if a.is_negative() { 0x80 } else { 0 };
    bytes
}
