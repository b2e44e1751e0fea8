//! AES: AESENC, AESENCLAST, AESDEC, AESDECLAST, AESIMC, AESKEYGENASSIST (FIPS 197).
//!
//! Does: one round, by tables that are computed when this is compiled. A block's byte 0 is in the
//! lowest bits; column `n` is doubleword `n`.

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{bytes, dwords, from_bytes, from_dwords, map_bytes};
use super::native::{Binary, aes_decrypt, aes_decrypt_last, aes_encrypt, aes_encrypt_last};
use super::operands::{WithImmediate, select_vector, select_with_immediate};
use crate::op::Selected;

/// A product by x in GF(2^8).
const fn double(value: u8) -> u8 {
    value << 1 ^ if value & 0x80 != 0 { 0x1b } else { 0 }
}

/// A product in GF(2^8).
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut power, mut rest) = (0, a, b);
    while rest != 0 {
        if rest & 1 != 0 {
            product ^= power;
        }
        power = double(power);
        rest >>= 1;
    }
    product
}

/// S-box: the inverse in GF(2^8), then the affine map.
const fn substitution() -> [u8; 256] {
    let mut table = [0x63; 256];
    let (mut element, mut inverse) = (1u8, 1u8);
    loop {
        // 3 generates the group, and F6 is its inverse.
        element = multiply(element, 3);
        inverse = multiply(inverse, 0xf6);
        table[element as usize] = 0x63
            ^ inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4);
        if element == 1 {
            return table;
        }
    }
}

const fn inverse_of(table: &[u8; 256]) -> [u8; 256] {
    let mut inverse = [0; 256];
    let mut n = 0;
    while n < 256 {
        inverse[table[n] as usize] = n as u8;
        n += 1;
    }
    inverse
}

/// Products by a constant.
const fn products(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[n] = multiply(n as u8, factor);
        n += 1;
    }
    table
}

static SUBSTITUTION: [u8; 256] = substitution();
static INVERSE_SUBSTITUTION: [u8; 256] = inverse_of(&SUBSTITUTION);
static BY_9: [u8; 256] = products(9);
static BY_11: [u8; 256] = products(11);
static BY_13: [u8; 256] = products(13);
static BY_14: [u8; 256] = products(14);

fn substitute(state: u128) -> u128 {
    map_bytes(state, |x| SUBSTITUTION[usize::from(x)])
}

fn inverse_substitute(state: u128) -> u128 {
    map_bytes(state, |x| INVERSE_SUBSTITUTION[usize::from(x)])
}

/// Row `r` of the state goes left by `r` columns.
fn shift_rows(state: u128) -> u128 {
    let state = bytes(state);
    from_bytes(std::array::from_fn(|n| state[(n + 4 * (n & 3)) & 15]))
}

fn inverse_shift_rows(state: u128) -> u128 {
    let state = bytes(state);
    from_bytes(std::array::from_fn(|n| state[(n + 12 * (n & 3)) & 15]))
}

fn mix_columns(state: u128) -> u128 {
    let state = bytes(state);
    from_bytes(std::array::from_fn(|n| {
        let at = |i: usize| state[n & 12 | (n + i) & 3];
        double(at(0)) ^ double(at(1)) ^ at(1) ^ at(2) ^ at(3)
    }))
}

fn inverse_mix_columns(state: u128) -> u128 {
    let state = bytes(state);
    from_bytes(std::array::from_fn(|n| {
        let at = |i: usize| usize::from(state[n & 12 | (n + i) & 3]);
        BY_14[at(0)] ^ BY_11[at(1)] ^ BY_13[at(2)] ^ BY_9[at(3)]
    }))
}

/// AESENC.
fn encrypt(state: u128, key: u128) -> u128 {
    mix_columns(substitute(shift_rows(state))) ^ key
}

/// AESENCLAST.
fn encrypt_last(state: u128, key: u128) -> u128 {
    substitute(shift_rows(state)) ^ key
}

/// AESDEC.
fn decrypt(state: u128, key: u128) -> u128 {
    inverse_mix_columns(inverse_substitute(inverse_shift_rows(state))) ^ key
}

/// AESDECLAST.
fn decrypt_last(state: u128, key: u128) -> u128 {
    inverse_substitute(inverse_shift_rows(state)) ^ key
}

/// Defines rounds.
macro_rules! rounds {
    ($($(#[$doc:meta])* $name:ident: |$a:ident, $b:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        struct $name;

        impl Binary for $name {
            fn apply($a: u128, $b: u128) -> u128 {
                $body
            }
        }
    )*};
}

rounds! {
    /// AESENC.
    Encrypt: |state, key| aes_encrypt(state, key).unwrap_or_else(|| encrypt(state, key));
    /// AESENCLAST.
    EncryptLast: |state, key| {
        aes_encrypt_last(state, key).unwrap_or_else(|| encrypt_last(state, key))
    };
    /// AESDEC.
    Decrypt: |state, key| aes_decrypt(state, key).unwrap_or_else(|| decrypt(state, key));
    /// AESDECLAST.
    DecryptLast: |state, key| {
        aes_decrypt_last(state, key).unwrap_or_else(|| decrypt_last(state, key))
    };
    /// AESIMC.
    InverseMixColumns: |_a, key| inverse_mix_columns(key);
}

/// AESKEYGENASSIST.
struct ExpandKey;

impl WithImmediate for ExpandKey {
    fn apply(_: u128, b: u128, constant: u8) -> u128 {
        let [_, x1, _, x3] = dwords(substitute(b));
        let rotated = |x: u32| x.rotate_right(8) ^ u32::from(constant);
        from_dwords([x1, rotated(x1), x3, rotated(x3)])
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Aesenc | M::Vaesenc => select_vector::<Encrypt>(insn),
        M::Aesenclast | M::Vaesenclast => select_vector::<EncryptLast>(insn),
        M::Aesdec | M::Vaesdec => select_vector::<Decrypt>(insn),
        M::Aesdeclast | M::Vaesdeclast => select_vector::<DecryptLast>(insn),
        M::Aesimc | M::Vaesimc => select_vector::<InverseMixColumns>(insn),
        M::Aeskeygenassist | M::Vaeskeygenassist => select_with_immediate::<ExpandKey>(insn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sse::tests::Random;

    type Round = fn(u128, u128) -> u128;
    type Native = fn(u128, u128) -> Option<u128>;

    #[test]
    fn hosts_with_and_without_aes_agree() {
        let rounds: [(Round, Native); 4] = [
            (encrypt, |a, b| aes_encrypt(a, b)),
            (encrypt_last, |a, b| aes_encrypt_last(a, b)),
            (decrypt, |a, b| aes_decrypt(a, b)),
            (decrypt_last, |a, b| aes_decrypt_last(a, b)),
        ];
        let mut random = Random(22);
        for _ in 0..2000 {
            let (state, key) = (random.vector(), random.vector());
            for (round, native) in rounds {
                let computed = round(state, key);
                assert_eq!(computed, native(state, key).unwrap_or(computed));
            }
        }
    }

    #[test]
    fn a_round_of_the_standard() {
        // FIPS 197, appendix B: the first round, its state and keys by columns.
        let block = |hex: &str| u128::from_str_radix(hex, 16).expect("digits").swap_bytes();
        let start = block("193de3bea0f4e22b9ac68d2ae9f84808");
        let key = block("a0fafe1788542cb123a339392a6c7605");
        let after = block("a49c7ff2689f352b6b5bea43026a5049");
        assert_eq!(encrypt(start, key), after);
        // Back again, by the equivalent inverse cipher.
        let back = decrypt_last(substitute(shift_rows(start)), 0);
        assert_eq!(back, start);
    }
}
