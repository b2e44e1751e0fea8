//! The seven formats of values in memory.
//!
//! Does: read and write them, convert to and from registers, all by `softfloat`.
//! Does not: touch the stack or the status word.
//!
//! Invariant: a format's accesses are all or nothing.

use crate::core::Core;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::Op;
use crate::softfloat::{self, Control, F80, Flags, Operand};

/// A format that can be loaded and stored.
pub(super) trait Format: 'static {
    /// The image in memory.
    type Image;
    /// Size of the image in bytes.
    const SIZE: usize;

    /// Reads the memory operand.
    fn read(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Self::Image>;

    /// Writes the memory operand.
    fn write(core: &mut Core, env: &mut Env<'_>, op: &Op, image: Self::Image) -> Exec<()>;

    /// The value that a load pushes.
    fn widen(image: Self::Image, flags: &mut Flags) -> F80;

    /// The image that a store writes.
    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> Self::Image;

    /// Raises what [`Format::write`] would.
    fn check(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()> {
        let linear = core.linear(op, Self::SIZE as u64, true)?;
        core.check_write(env, linear, Self::SIZE, op.seg)
    }
}

/// A format that can be an operand of arithmetic.
pub(super) trait Source: Format {
    /// The operand.
    fn operand(image: Self::Image) -> Operand;
}

/// Single precision.
pub(super) struct Single;
/// Double precision.
pub(super) struct Double;
/// Double extended precision: a register's image.
pub(super) struct Extended;
/// Packed BCD.
pub(super) struct Decimal;
/// Integer of 16 bits.
pub(super) struct Int16;
/// Integer of 32 bits.
pub(super) struct Int32;
/// Integer of 64 bits.
pub(super) struct Int64;

/// Reading and writing of an image that is a general operand's.
macro_rules! word_access {
    ($image:ty) => {
        type Image = $image;
        const SIZE: usize = size_of::<$image>();

        fn read(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<$image> {
            core.load(env, op)
        }

        fn write(core: &mut Core, env: &mut Env<'_>, op: &Op, image: $image) -> Exec<()> {
            core.store(env, op, image)
        }
    };
}

/// Reading and writing of ten bytes.
macro_rules! long_access {
    () => {
        type Image = [u8; 10];
        const SIZE: usize = 10;

        fn read(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<[u8; 10]> {
            let linear = aligned(core, op, 10, false, 8)?;
            core.read_bytes(env, linear, op.seg)
        }

        fn write(core: &mut Core, env: &mut Env<'_>, op: &Op, image: [u8; 10]) -> Exec<()> {
            let linear = aligned(core, op, 10, true, 8)?;
            core.write_bytes(env, linear, op.seg, &image)
        }

        fn check(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()> {
            let linear = aligned(core, op, 10, true, 8)?;
            core.check_write(env, linear, 10, op.seg)
        }
    };
}

/// Linear address of a memory operand whose size is no power of two, with the alignment (in bytes)
/// that #AC asks for.
pub(super) fn aligned(
    core: &mut Core,
    op: &Op,
    size: u64,
    write: bool,
    alignment: u64,
) -> Exec<u64> {
    let linear = core.linear(op, size, write)?;
    if linear & (alignment - 1) != 0 && core.checks_alignment() {
        return core.raise(Fault::ALIGNMENT);
    }
    Ok(linear)
}

impl Format for Single {
    word_access!(u32);

    fn widen(image: u32, flags: &mut Flags) -> F80 {
        F80::from_f32_bits(image, flags)
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> u32 {
        value.to_f32_bits(control, flags)
    }
}

impl Source for Single {
    fn operand(image: u32) -> Operand {
        Operand::from_f32_bits(image)
    }
}

impl Format for Double {
    word_access!(u64);

    fn widen(image: u64, flags: &mut Flags) -> F80 {
        F80::from_f64_bits(image, flags)
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> u64 {
        value.to_f64_bits(control, flags)
    }
}

impl Source for Double {
    fn operand(image: u64) -> Operand {
        Operand::from_f64_bits(image)
    }
}

impl Format for Extended {
    long_access!();

    fn widen(image: [u8; 10], _: &mut Flags) -> F80 {
        F80::from_bytes(image)
    }

    fn narrow(value: F80, _: &Control, _: &mut Flags) -> [u8; 10] {
        value.to_bytes()
    }
}

impl Format for Decimal {
    long_access!();

    fn widen(image: [u8; 10], _: &mut Flags) -> F80 {
        softfloat::from_bcd(image)
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> [u8; 10] {
        softfloat::to_bcd(value, control, flags)
    }
}

impl Format for Int16 {
    word_access!(u16);

    fn widen(image: u16, _: &mut Flags) -> F80 {
        F80::from_i64(i64::from(image as i16))
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> u16 {
        value.to_i16(control.rounding, flags) as u16
    }
}

impl Source for Int16 {
    fn operand(image: u16) -> Operand {
        F80::from_i64(i64::from(image as i16)).into()
    }
}

impl Format for Int32 {
    word_access!(u32);

    fn widen(image: u32, _: &mut Flags) -> F80 {
        F80::from_i64(i64::from(image as i32))
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> u32 {
        value.to_i32(control.rounding, flags) as u32
    }
}

impl Source for Int32 {
    fn operand(image: u32) -> Operand {
        F80::from_i64(i64::from(image as i32)).into()
    }
}

impl Format for Int64 {
    word_access!(u64);

    fn widen(image: u64, _: &mut Flags) -> F80 {
        F80::from_i64(image as i64)
    }

    fn narrow(value: F80, control: &Control, flags: &mut Flags) -> u64 {
        value.to_i64(control.rounding, flags) as u64
    }
}
