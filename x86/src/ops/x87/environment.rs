//! The FPU's environment and state in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR.
//!
//! Does: the four layouts of the environment (SDM vol. 1, 8.1.10): 16 or 32 bits, real or
//! protected mode; the tag word. Does not: FXSAVE.
//!
//! Invariant: the whole operand is checked before a byte is written or a register changed.

use iced_x86::{Code, Instruction};

use super::formats::aligned;
use super::status::{BUSY, SUMMARY, available, ready};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{Class, F80, Flags};
use crate::state::X87State;

/// Size of the environment with 16-bit operands.
const NARROW: usize = 14;
/// Size of the environment with 32-bit operands.
const WIDE: usize = 28;
/// Size of a register.
const REGISTER: usize = 10;
/// The bits of the last opcode.
const OPCODE: u32 = 0x7ff;
/// Tag of an empty register.
const EMPTY: u16 = 3;

/// The seven fields of the environment, each in the low half if the layout gives it 32 bits but
/// the architecture only 16.
type Fields = [u32; 7];

/// True if the layout is that of real and virtual-8086 mode.
fn real_layout(core: &Core) -> bool {
    !core.protected() || core.v8086()
}

// ---- tags ----------------------------------------------------------------------------------

/// The tag of a register: valid, zero, special or empty.
fn tag(value: F80, valid: bool) -> u16 {
    match value.class() {
        _ if !valid => EMPTY,
        Class::Normal => 0,
        Class::Zero => 1,
        Class::Unsupported | Class::Nan | Class::Infinity | Class::Denormal => 2,
    }
}

/// The tag word.
fn tag_word(x87: &X87State) -> u16 {
    (0..8).fold(0, |word, i| {
        word | tag(x87.registers[i], x87.valid >> i & 1 != 0) << (2 * i)
    })
}

/// Which registers a tag word says are not empty.
fn valid_registers(tags: u16) -> u8 {
    (0..8).fold(0, |valid, i| {
        valid | u8::from(tags >> (2 * i) & EMPTY != EMPTY) << i
    })
}

// ---- layouts -------------------------------------------------------------------------------

/// The environment in the layout of `SIZE` bytes.
fn fields<const SIZE: usize>(core: &Core) -> Fields {
    let x87 = &core.x87;
    let opcode = u32::from(x87.opcode);
    let (ip, dp) = (x87.instruction as u32, x87.operand as u32);
    let (cs, ds) = (
        u32::from(x87.instruction_selector),
        u32::from(x87.operand_selector),
    );
    let pointers = if real_layout(core) {
        let (ip, dp) = (ip.wrapping_add(cs << 4), dp.wrapping_add(ds << 4));
        // Bits 31–16 of a pointer go into bits 27–12 of the next field.
        [
            ip & 0xffff,
            ip >> 16 << 12 | opcode,
            dp & 0xffff,
            dp >> 16 << 12,
        ]
    } else if SIZE == WIDE {
        [ip, opcode << 16 | cs, dp, 0xffff_0000 | ds]
    } else {
        [ip, cs, dp, ds]
    };
    let word = |value: u16| 0xffff_0000 | u32::from(value);
    let [a, b, c, d] = pointers;
    [
        word(x87.control),
        word(x87.status),
        word(tag_word(x87)),
        a,
        b,
        c,
        d,
    ]
}

/// Sets the environment from the layout of `SIZE` bytes.
fn set_fields<const SIZE: usize>(core: &mut Core, fields: Fields) {
    let real = real_layout(core);
    let [control, status, tags, a, b, c, d] = fields;
    let x87 = &mut core.x87;
    x87.status = status as u16 & !(SUMMARY | BUSY);
    x87.set_control(control as u16);
    x87.valid = valid_registers(tags as u16);
    let (ip, dp, cs, ds, opcode) = if real {
        let pointer = |low: u32, high: u32| low & 0xffff | (high >> 12 & 0xffff) << 16;
        (pointer(a, b), pointer(c, d), 0, 0, b)
    } else if SIZE == WIDE {
        (a, c, b, d, b >> 16)
    } else {
        (a, c, b, d, 0)
    };
    x87.instruction = u64::from(ip);
    x87.operand = u64::from(dp);
    x87.instruction_selector = cs as u16;
    x87.operand_selector = ds as u16;
    x87.opcode = (opcode & OPCODE) as u16;
}

/// The image of `SIZE` bytes.
fn image<const SIZE: usize>(fields: Fields) -> [u8; SIZE] {
    let width = SIZE / fields.len();
    let mut image = [0; SIZE];
    for (part, field) in image.chunks_exact_mut(width).zip(fields) {
        part.copy_from_slice(&field.to_le_bytes()[..width]);
    }
    image
}

/// The fields in an image.
fn parse<const SIZE: usize>(image: [u8; SIZE]) -> Fields {
    let mut fields = Fields::default();
    let width = SIZE / fields.len();
    for (part, field) in image.chunks_exact(width).zip(&mut fields) {
        let mut bytes = [0; 4];
        bytes[..width].copy_from_slice(part);
        *field = u32::from_le_bytes(bytes);
    }
    fields
}

// ---- instructions --------------------------------------------------------------------------

/// Linear address of an operand that begins with an environment of `SIZE` bytes.
fn place<const SIZE: usize>(core: &mut Core, op: &Op, size: usize, write: bool) -> Exec<u64> {
    aligned(core, op, size as u64, write, (SIZE / 7) as u64)
}

/// Linear address of register ST(i) of a state that begins at `linear`.
fn register_at<const SIZE: usize>(linear: u64, i: u8) -> u64 {
    linear.wrapping_add((SIZE + REGISTER * usize::from(i)) as u64)
}

/// FNSTENV. All exceptions are masked then.
fn store_environment<const SIZE: usize>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    let linear = place::<SIZE>(core, op, SIZE, true)?;
    let image = image::<SIZE>(fields::<SIZE>(core));
    core.write_bytes(env, linear, op.seg, &image)?;
    let masked = core.x87.control | Flags::ALL;
    core.x87.set_control(masked);
    core.next_after_access(env, op)
}

/// FLDENV.
fn load_environment<const SIZE: usize>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let linear = place::<SIZE>(core, op, SIZE, false)?;
    let image: [u8; SIZE] = core.read_bytes(env, linear, op.seg)?;
    set_fields::<SIZE>(core, parse(image));
    core.next_after_access(env, op)
}

/// FNSAVE: environment and registers, then FNINIT.
fn save<const SIZE: usize>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    let size = SIZE + 8 * REGISTER;
    let linear = place::<SIZE>(core, op, size, true)?;
    core.check_write(env, linear, size, op.seg)?;
    let image = image::<SIZE>(fields::<SIZE>(core));
    core.write_bytes(env, linear, op.seg, &image)?;
    for i in 0..8 {
        let value = core.x87.raw(i).to_bytes();
        core.write_bytes(env, register_at::<SIZE>(linear, i), op.seg, &value)?;
    }
    core.x87.initialize();
    core.next_after_access(env, op)
}

/// FRSTOR.
fn restore<const SIZE: usize>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let size = SIZE + 8 * REGISTER;
    let linear = place::<SIZE>(core, op, size, false)?;
    core.check_read(env, linear, size, op.seg)?;
    let image: [u8; SIZE] = core.read_bytes(env, linear, op.seg)?;
    let mut registers = [F80::ZERO; 8];
    for (i, register) in (0..8).zip(&mut registers) {
        let at = register_at::<SIZE>(linear, i);
        *register = F80::from_bytes(core.read_bytes(env, at, op.seg)?);
    }
    set_fields::<SIZE>(core, parse(image));
    for (i, register) in (0..8).zip(registers) {
        let physical = core.x87.physical(i);
        core.x87.registers[physical] = register;
    }
    core.next_after_access(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fnstenv_m14byte => store_environment::<NARROW>,
        Code::Fnstenv_m28byte => store_environment::<WIDE>,
        Code::Fldenv_m14byte => load_environment::<NARROW>,
        Code::Fldenv_m28byte => load_environment::<WIDE>,
        Code::Fnsave_m94byte => save::<NARROW>,
        Code::Fnsave_m108byte => save::<WIDE>,
        Code::Frstor_m94byte => restore::<NARROW>,
        Code::Frstor_m108byte => restore::<WIDE>,
        _ => return None,
    })
}
