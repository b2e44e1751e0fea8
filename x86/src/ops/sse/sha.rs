//! SHA-1 and SHA-256: SHA1RNDS4, SHA1NEXTE, SHA1MSG1, SHA1MSG2, SHA256RNDS2, SHA256MSG1, SHA256MSG2
//! (FIPS 180-4).

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{dwords, from_dwords};
use super::native::Binary;
use super::operands::{
    Legacy, Memory, Register, Source, WithImmediate, after, by_source, select_vector,
    select_with_immediate, set, sse_ready, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// Defines operations on doublewords.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: |$a:ident, $b:ident| $body:block)*) => {$(
        $(#[$doc])*
        struct $name;

        impl Binary for $name {
            fn apply(a: u128, b: u128) -> u128 {
                let ($a, $b) = (dwords(a), dwords(b));
                from_dwords($body)
            }
        }
    )*};
}

/// σ0 of SHA-256.
fn sigma_0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

/// σ1 of SHA-256.
fn sigma_1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

operations! {
    /// SHA1NEXTE.
    NextE: |a, b| {
        [b[0], b[1], b[2], b[3].wrapping_add(a[3].rotate_left(30))]
    }
    /// SHA1MSG1.
    Message1: |a, b| {
        [b[2] ^ a[0], b[3] ^ a[1], a[0] ^ a[2], a[1] ^ a[3]]
    }
    /// SHA1MSG2.
    Message2: |a, b| {
        let w16 = (a[3] ^ b[2]).rotate_left(1);
        let w17 = (a[2] ^ b[1]).rotate_left(1);
        let w18 = (a[1] ^ b[0]).rotate_left(1);
        let w19 = (a[0] ^ w16).rotate_left(1);
        [w19, w18, w17, w16]
    }
    /// SHA256MSG1.
    Message256First: |a, b| {
        let next = [a[1], a[2], a[3], b[0]];
        std::array::from_fn(|n| a[n].wrapping_add(sigma_0(next[n])))
    }
    /// SHA256MSG2.
    Message256Second: |a, b| {
        let w16 = a[0].wrapping_add(sigma_1(b[2]));
        let w17 = a[1].wrapping_add(sigma_1(b[3]));
        let w18 = a[2].wrapping_add(sigma_1(w16));
        let w19 = a[3].wrapping_add(sigma_1(w17));
        [w16, w17, w18, w19]
    }
}

/// SHA1RNDS4.
struct FourRounds;

impl WithImmediate for FourRounds {
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let [mut d, mut c, mut b_, mut a_] = dwords(a);
        let mut e = 0u32;
        for word in dwords(b).into_iter().rev() {
            let (f, k) = match selector & 3 {
                0 => (b_ & c ^ !b_ & d, 0x5a82_7999),
                1 => (b_ ^ c ^ d, 0x6ed9_eba1),
                2 => (b_ & c ^ b_ & d ^ c & d, 0x8f1b_bcdc),
                _ => (b_ ^ c ^ d, 0xca62_c1d6u32),
            };
            // The first word has E in it.
            let next = f
                .wrapping_add(a_.rotate_left(5))
                .wrapping_add(word)
                .wrapping_add(e)
                .wrapping_add(k);
            (e, d, c, b_, a_) = (d, c, b_.rotate_left(30), a_, next);
        }
        from_dwords([d, c, b_, a_])
    }
}

/// SHA256RNDS2: message and constants are in XMM0.
fn two_rounds<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let [second, _] = S::load::<Legacy>(core, env, op)?;
    let [mut h, mut g, mut d, mut c] = dwords(xmm(core, op.dst));
    let [mut f, mut e, mut b, mut a] = dwords(second);
    for word in &dwords(xmm(core, 0))[..2] {
        let choice = e & f ^ !e & g;
        let sum_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let majority = a & b ^ a & c ^ b & c;
        let sum_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let first = choice
            .wrapping_add(sum_1)
            .wrapping_add(*word)
            .wrapping_add(h);
        let next_a = first.wrapping_add(majority).wrapping_add(sum_0);
        let next_e = first.wrapping_add(d);
        (h, g, f, e, d, c, b, a) = (g, f, e, next_e, c, b, a, next_a);
    }
    set::<Legacy>(core, op.dst, [from_dwords([f, e, b, a]), 0]);
    after::<S>(core, env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Sha1rnds4 => select_with_immediate::<FourRounds>(insn),
        M::Sha1nexte => select_vector::<NextE>(insn),
        M::Sha1msg1 => select_vector::<Message1>(insn),
        M::Sha1msg2 => select_vector::<Message2>(insn),
        M::Sha256rnds2 => by_source(insn, two_rounds::<Register>, two_rounds::<Memory>),
        M::Sha256msg1 => select_vector::<Message256First>(insn),
        M::Sha256msg2 => select_vector::<Message256Second>(insn),
        _ => None,
    }
}
