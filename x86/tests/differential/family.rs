//! What distinguishes one family of instructions from another.

use iced_x86::{Code, Instruction};

use crate::context::{Case, Outcome};
use crate::rng::Rng;

/// Instructions that are tested alike.
pub struct Family {
    /// Name for messages.
    pub name: &'static str,
    /// Whether a form belongs to it. Every form that iced-x86 knows is asked.
    pub accepts: fn(Code) -> bool,
    /// Changes a random case to a more telling one: operands, prefixes of the situation.
    pub prepare: fn(&mut Rng, &Instruction, &mut Case),
    /// Whether the result is undefined as a whole (not only flags), so that nothing is compared.
    pub skip: fn(&Instruction, &Case) -> bool,
    /// RFLAGS bits that the manuals leave undefined.
    pub undefined_flags: fn(&Instruction, &Case) -> u64,
    /// Makes alike what may differ otherwise; called for both outcomes, native first.
    pub normalise: fn(&Instruction, &Case, &mut Outcome),
}

/// For [`Family::prepare`]: nothing to change.
pub fn as_generated(_: &mut Rng, _: &Instruction, _: &mut Case) {}

/// For [`Family::skip`]: everything is defined.
pub fn never(_: &Instruction, _: &Case) -> bool {
    false
}

/// For [`Family::undefined_flags`]: what iced-x86 knows of the manuals.
pub fn documented_undefined_flags(insn: &Instruction, _: &Case) -> u64 {
    use iced_x86::RflagsBits;
    let undefined = insn.rflags_undefined();
    let pairs = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::OF, 11),
    ];
    pairs
        .iter()
        .filter(|(bit, _)| undefined & bit != 0)
        .map(|(_, at)| 1 << at)
        .sum()
}

/// For [`Family::normalise`]: nothing differs.
pub fn as_is(_: &Instruction, _: &Case, _: &mut Outcome) {}
