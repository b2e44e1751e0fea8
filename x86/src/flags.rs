//! RFLAGS, with the six arithmetic flags kept as the last result and its carries.
//!
//! Does: turn a result into flags when somebody asks. Does not: decide which flags an instruction
//! leaves alone or undefined; handlers do.
//!
//! Invariant: any combination of flags can be held, and `value()` is a pure function of the three
//! words; `set_value(value())` changes nothing that can be observed.

use crate::word::Word;

/// Carry.
pub const CF: u64 = 1 << 0;
/// Parity.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Trap.
pub const TF: u64 = 1 << 8;
/// Interrupt enable.
pub const IF: u64 = 1 << 9;
/// Direction.
pub const DF: u64 = 1 << 10;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level (two bits).
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check, and SMAP override.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt flag.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u64 = 1 << 20;
/// CPUID available.
pub const ID: u64 = 1 << 21;
/// The six arithmetic flags.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// Bit 1 reads as one.
const FIXED: u64 = 1 << 1;
/// Every bit that a flags register can hold.
pub const KNOWN: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;

/// `carries`: carry out of the top bit (CF).
const CARRY_TOP: u64 = 1 << 63;
/// `carries`: carry into the top bit; OF is its exclusive or with the carry out.
const CARRY_BELOW: u64 = 1 << 62;
/// `carries`: carry out of bit 3 (AF).
const CARRY_NIBBLE: u64 = 1 << 3;
/// `carries`: SF is the opposite of the result's sign.
const FLIP_SIGN: u64 = 1 << 1;
/// `carries`: PF is the opposite of the result's parity.
const FLIP_PARITY: u64 = 1 << 0;

/// The flags register.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// Last result, sign-extended: ZF, SF and PF come from it.
    result: u64,
    /// Carries of the last result, see the constants.
    carries: u64,
    /// All flags but the arithmetic ones, at their place.
    pub system: u64,
}

impl Flags {
    /// The whole register, bit 1 set.
    pub fn value(&self) -> u64 {
        let mut value = self.system | FIXED;
        value |= if self.cf() { CF } else { 0 };
        value |= if self.pf() { PF } else { 0 };
        value |= if self.af() { AF } else { 0 };
        value |= if self.zf() { ZF } else { 0 };
        value |= if self.sf() { SF } else { 0 };
        value |= if self.of() { OF } else { 0 };
        value
    }

    /// Sets the whole register; unknown bits are dropped.
    pub fn set_value(&mut self, value: u64) {
        self.system = value & KNOWN & !ARITHMETIC;
        self.set_arithmetic(value);
    }

    /// Sets the six arithmetic flags from a register image; the others stay.
    pub fn set_arithmetic(&mut self, value: u64) {
        // A result of 0 has even parity (PF set) and no sign; a result of 1 has neither.
        self.result = u64::from(value & ZF == 0);
        let mut carries = 0;
        if (value & PF != 0) != (value & ZF != 0) {
            carries |= FLIP_PARITY;
        }
        if value & SF != 0 {
            carries |= FLIP_SIGN;
        }
        if value & AF != 0 {
            carries |= CARRY_NIBBLE;
        }
        let cf = value & CF != 0;
        if cf {
            carries |= CARRY_TOP;
        }
        if cf != (value & OF != 0) {
            carries |= CARRY_BELOW;
        }
        self.carries = carries;
    }

    /// The arithmetic flags as compiled code saves them: bits 15–8 as LAHF has them, bit 0 is OF.
    #[inline]
    pub(crate) fn saved(&self) -> u16 {
        let low = u16::from(self.cf())
            | u16::from(self.pf()) << 2
            | u16::from(self.af()) << 4
            | u16::from(self.zf()) << 6
            | u16::from(self.sf()) << 7;
        low << 8 | 2 << 8 | u16::from(self.of())
    }

    /// Sets the arithmetic flags from what [`Flags::saved`] gives.
    #[inline]
    pub(crate) fn set_saved(&mut self, saved: u16) {
        let bit = |n: u32| u64::from(saved >> n & 1);
        let (cf, pf, af, zf, sf, of) = (bit(8), bit(10), bit(12), bit(14), bit(15), bit(0));
        // As in `set_arithmetic`.
        self.result = zf ^ 1;
        self.carries = (pf ^ zf) | sf << 1 | af << 3 | (cf ^ of) << 62 | cf << 63;
    }

    /// CF.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.carries & CARRY_TOP != 0
    }

    /// PF.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result as u8).count_ones() & 1 == 0) ^ (self.carries & FLIP_PARITY != 0)
    }

    /// AF.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.carries & CARRY_NIBBLE != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        ((self.result >> 63) ^ (self.carries >> 1)) & 1 != 0
    }

    /// OF.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.carries ^ (self.carries << 1)) & CARRY_TOP != 0
    }

    /// Condition `code` (0–15) as in Jcc's low opcode bits: O NO B AE E NE BE A S NS P NP L GE LE G.
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        let base = match code >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        base ^ (code & 1 != 0)
    }

    /// Packs a carry-out vector of width `T`.
    #[inline(always)]
    fn pack<T: Word>(vector: u64) -> u64 {
        ((vector << (64 - T::BITS)) & (CARRY_TOP | CARRY_BELOW)) | (vector & CARRY_NIBBLE)
    }

    /// Flags of `a + b (+ carry) = result`.
    #[inline(always)]
    pub fn set_add<T: Word>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to64(), b.to64(), result.to64());
        self.result = result.sign64();
        self.carries = Self::pack::<T>((a & b) | ((a | b) & !r));
    }

    /// Flags of `a - b (- borrow) = result`.
    #[inline(always)]
    pub fn set_sub<T: Word>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to64(), b.to64(), result.to64());
        self.result = result.sign64();
        self.carries = Self::pack::<T>((!a & b) | ((!a | b) & r));
    }

    /// Flags of a logical operation: CF, OF and AF cleared (AF is our definition).
    #[inline(always)]
    pub fn set_logic<T: Word>(&mut self, result: T) {
        self.result = result.sign64();
        self.carries = 0;
    }

    /// Flags of INC: as `set_add` with 1, but CF stays.
    #[inline(always)]
    pub fn set_inc<T: Word>(&mut self, a: T, result: T) {
        let cf = self.cf();
        self.set_add::<T>(a, T::from64(1), result);
        self.set_cf(cf);
    }

    /// Flags of DEC: as `set_sub` with 1, but CF stays.
    #[inline(always)]
    pub fn set_dec<T: Word>(&mut self, a: T, result: T) {
        let cf = self.cf();
        self.set_sub::<T>(a, T::from64(1), result);
        self.set_cf(cf);
    }

    /// ZF, SF, PF from `result`; CF, OF, AF as given.
    #[inline(always)]
    pub fn set_result<T: Word>(&mut self, result: T, cf: bool, of: bool, af: bool) {
        self.result = result.sign64();
        self.carries = (u64::from(cf) << 63) | (u64::from(cf != of) << 62) | (u64::from(af) << 3);
    }

    /// Sets CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        if cf != self.cf() {
            // OF is the exclusive or of two carries: flip both.
            self.carries ^= CARRY_TOP | CARRY_BELOW;
        }
    }

    /// Sets ZF alone, keeping the other five.
    pub fn set_zf(&mut self, zf: bool) {
        let value = self.value();
        self.set_arithmetic(if zf { value | ZF } else { value & !ZF });
    }

    /// Sets OF alone.
    #[inline(always)]
    pub fn set_of(&mut self, of: bool) {
        if of != self.of() {
            self.carries ^= CARRY_BELOW;
        }
    }

    /// True if a system flag is set.
    #[inline(always)]
    pub fn has(&self, bit: u64) -> bool {
        self.system & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_can_be_held() {
        for n in 0..64u64 {
            let bit = |i: u64, flag: u64| if n >> i & 1 != 0 { flag } else { 0 };
            let value = bit(0, CF) | bit(1, PF) | bit(2, AF) | bit(3, ZF) | bit(4, SF) | bit(5, OF);
            let mut flags = Flags::default();
            flags.set_value(value | DF | 1 << 40);
            assert_eq!(flags.value(), value | DF | 2);
            flags.set_cf(value & CF == 0);
            assert_eq!(flags.value(), (value ^ CF) | DF | 2);
            flags.set_of(value & OF == 0);
            assert_eq!(flags.value(), (value ^ CF ^ OF) | DF | 2);
            let saved = flags.saved();
            flags.set_saved(0);
            assert_eq!(flags.value(), DF | 2);
            flags.set_saved(saved);
            assert_eq!(flags.value(), (value ^ CF ^ OF) | DF | 2);
        }
    }

    #[test]
    fn addition_and_subtraction_of_bytes_match_their_definition() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let mut flags = Flags::default();
                let sum = a.wrapping_add(b);
                flags.set_add(a, b, sum);
                assert_eq!(flags.cf(), a.checked_add(b).is_none());
                assert_eq!(flags.of(), (a as i8).checked_add(b as i8).is_none());
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                assert_eq!(flags.sf(), (sum as i8) < 0);
                assert_eq!(flags.zf(), sum == 0);
                let difference = a.wrapping_sub(b);
                flags.set_sub(a, b, difference);
                assert_eq!(flags.cf(), a < b);
                assert_eq!(flags.of(), (a as i8).checked_sub(b as i8).is_none());
                assert_eq!(flags.af(), (a & 15) < (b & 15));
                assert_eq!(flags.pf(), difference.count_ones() % 2 == 0);
                assert_eq!(flags.condition(12), (a as i8) < (b as i8));
                assert_eq!(flags.condition(6), a <= b);
            }
        }
    }
}
