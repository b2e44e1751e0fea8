//! Operand sizes as types, so that one handler body serves 8, 16, 32 and 64 bits.

/// An unsigned operand of 8, 16, 32 or 64 bits.
pub trait Word: Copy + Eq + 'static {
    /// Width in bits.
    const BITS: u32;
    /// Width in bytes.
    const BYTES: u64;
    /// All ones of this width.
    const MASK: u64;
    /// Truncates.
    fn from64(value: u64) -> Self;
    /// Zero-extends.
    fn to64(self) -> u64;
    /// Sign-extends.
    fn sign64(self) -> u64;
}

macro_rules! word {
    ($u:ty, $i:ty) => {
        impl Word for $u {
            const BITS: u32 = <$u>::BITS;
            const BYTES: u64 = (<$u>::BITS / 8) as u64;
            const MASK: u64 = <$u>::MAX as u64;
            #[inline(always)]
            fn from64(value: u64) -> Self {
                value as $u
            }
            #[inline(always)]
            fn to64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sign64(self) -> u64 {
                self as $i as i64 as u64
            }
        }
    };
}

word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);
