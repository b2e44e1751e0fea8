//! The unit's state as a whole: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, EMMS, VZEROUPPER, VZEROALL.
//!
//! Does: lay out the FXSAVE image (SDM vol. 1, 10.5.1), check what is loaded.
//! Does not: touch reserved parts of the image: bytes 416–511, and outside 64-bit mode the places of
//! XMM8–XMM15. The other reserved bytes are written as zeros and ignored on loading.
//!
//! Invariant: the whole area is checked before a byte is written or a register changed.

use iced_x86::{Code, Instruction};

use super::operands::{Form, Legacy, MXCSR_MASK, Vex128, leave_mmx, mmx_ready, ready, vex_ready};
use crate::core::{Core, canonical, cr0};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{Flow, Op, SEG_SS, Selected};
use crate::softfloat::F80;

/// Size of the FXSAVE area.
const AREA: usize = 512;
/// Size of the part that holds no registers.
const HEADER: usize = 32;
/// Where ST0 lies; eight registers of 16 bytes.
const ST0: u64 = 32;
/// Where XMM0 lies.
const XMM0: u64 = 160;
/// XMM registers per piece that is moved at once.
const PIECE: usize = 4;

/// x87 control: the bits that can be set.
const CONTROL_KNOWN: u16 = 0x1f7f;
/// x87 control: bit 6 reads as one.
const CONTROL_FIXED: u16 = 0x40;
/// x87 status: all but ES and B, which follow from the rest.
const STATUS_STORED: u16 = 0x7f7f;
/// x87 status: ES and B.
const STATUS_PENDING: u16 = 0x8080;
/// x87 opcode: the bits that there are.
const OPCODE_KNOWN: u16 = 0x7ff;

/// Raises what forbids FXSAVE and FXRSTOR now, and gives the area's linear address.
fn area(core: &mut Core, op: &Op, write: bool) -> Exec<u64> {
    if core.cr0 & cr0::EM != 0 {
        return core.raise(Fault::UNDEFINED);
    }
    if core.cr0 & cr0::TS != 0 {
        return core.raise(Fault::NO_DEVICE);
    }
    area_at(core, op, AREA as u64, 16, write)
}

/// Linear address of an area of `size` bytes that must be aligned to `alignment`: #GP(0) if it is
/// not, whatever EFLAGS.AC says.
pub(super) fn area_at(
    core: &mut Core,
    op: &Op,
    size: u64,
    alignment: u64,
    write: bool,
) -> Exec<u64> {
    let linear = core.linear(op, size, write)?;
    if linear & (alignment - 1) != 0 {
        let outside = core.in_64bit() && !canonical(linear);
        let stack = outside && op.seg == SEG_SS;
        return core.raise(if stack {
            Fault::stack(0)
        } else {
            Fault::protection(0)
        });
    }
    Ok(linear)
}

/// Writes `bytes` at `at` of `into`.
fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Reads `N` bytes at `at` of `from`.
fn get<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&from[at..at + N]);
    bytes
}

/// XMM registers that the mode can reach.
pub(super) fn registers(core: &Core) -> usize {
    if core.in_64bit() { 16 } else { 8 }
}

/// The first 32 bytes of the image. `WIDE` is the form with REX.W.
pub(super) fn header<const WIDE: bool>(core: &Core) -> [u8; HEADER] {
    let x87 = &core.x87;
    let mut image = [0; HEADER];
    put(&mut image, 0, &x87.control.to_le_bytes());
    put(&mut image, 2, &x87.status.to_le_bytes());
    image[4] = x87.valid;
    put(&mut image, 6, &x87.opcode.to_le_bytes());
    if WIDE {
        put(&mut image, 8, &x87.instruction.to_le_bytes());
        put(&mut image, 16, &x87.operand.to_le_bytes());
    } else {
        put(&mut image, 8, &(x87.instruction as u32).to_le_bytes());
        put(&mut image, 12, &x87.instruction_selector.to_le_bytes());
        put(&mut image, 16, &(x87.operand as u32).to_le_bytes());
        put(&mut image, 20, &x87.operand_selector.to_le_bytes());
    }
    put(&mut image, 24, &core.mxcsr.to_le_bytes());
    put(&mut image, 28, &MXCSR_MASK.to_le_bytes());
    image
}

/// Index of ST0 among the physical registers.
pub(super) fn top(core: &Core) -> usize {
    usize::from(core.x87.status >> 11 & 7)
}

/// FXSAVE. CR4.OSFXSR makes no difference: XMM registers and MXCSR are always part of it.
fn save<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let linear = area(core, op, true)?;
    core.check_write(env, linear, AREA, op.seg)?;
    let image = header::<WIDE>(core);
    core.write_bytes(env, linear, op.seg, &image)?;
    for i in 0..8 {
        let value = core.x87.registers[(top(core) + i) & 7].to_bytes();
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &value);
        let at = linear.wrapping_add(ST0 + 16 * i as u64);
        core.write_bytes(env, at, op.seg, &bytes)?;
    }
    for first in (0..registers(core)).step_by(PIECE) {
        let mut bytes = [0; 16 * PIECE];
        for i in 0..PIECE {
            put(&mut bytes, 16 * i, &core.xmm[first + i].to_le_bytes());
        }
        let at = linear.wrapping_add(XMM0 + 16 * first as u64);
        core.write_bytes(env, at, op.seg, &bytes)?;
    }
    core.next_after_access(env, op)
}

/// FXRSTOR. A pending x87 exception in the image is raised by the next x87 instruction.
fn restore<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let linear = area(core, op, false)?;
    core.check_read(env, linear, AREA, op.seg)?;
    let image: [u8; HEADER] = core.read_bytes(env, linear, op.seg)?;
    let mxcsr = u32::from_le_bytes(get(&image, 24));
    if mxcsr & !MXCSR_MASK != 0 {
        return core.raise(Fault::protection(0));
    }
    let mut st = [F80::default(); 8];
    for (i, register) in st.iter_mut().enumerate() {
        let at = linear.wrapping_add(ST0 + 16 * i as u64);
        let bytes: [u8; 16] = core.read_bytes(env, at, op.seg)?;
        *register = F80::from_bytes(get(&bytes, 0));
    }
    let mut xmm = core.xmm;
    for first in (0..registers(core)).step_by(PIECE) {
        let at = linear.wrapping_add(XMM0 + 16 * first as u64);
        let bytes: [u8; 16 * PIECE] = core.read_bytes(env, at, op.seg)?;
        for i in 0..PIECE {
            xmm[first + i] = u128::from_le_bytes(get(&bytes, 16 * i));
        }
    }
    core.xmm = xmm;
    core.mxcsr = mxcsr;
    load_header::<WIDE>(core, &image);
    let top = top(core);
    for (i, register) in st.into_iter().enumerate() {
        core.x87.registers[(top + i) & 7] = register;
    }
    core.next_after_access(env, op)
}

/// Sets the x87 environment from the image.
pub(super) fn load_header<const WIDE: bool>(core: &mut Core, image: &[u8; HEADER]) {
    let x87 = &mut core.x87;
    x87.control = u16::from_le_bytes(get(image, 0)) & CONTROL_KNOWN | CONTROL_FIXED;
    x87.status = u16::from_le_bytes(get(image, 2)) & STATUS_STORED;
    if x87.status & !x87.control & 0x3f != 0 {
        x87.status |= STATUS_PENDING;
    }
    x87.valid = image[4];
    x87.opcode = u16::from_le_bytes(get(image, 6)) & OPCODE_KNOWN;
    if WIDE {
        x87.instruction = u64::from_le_bytes(get(image, 8));
        x87.instruction_selector = 0;
        x87.operand = u64::from_le_bytes(get(image, 16));
        x87.operand_selector = 0;
    } else {
        x87.instruction = u64::from(u32::from_le_bytes(get(image, 8)));
        x87.instruction_selector = u16::from_le_bytes(get(image, 12));
        x87.operand = u64::from(u32::from_le_bytes(get(image, 16)));
        x87.operand_selector = u16::from_le_bytes(get(image, 20));
    }
}

/// LDMXCSR. Flags that are set raise nothing.
fn load_mxcsr<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let value = core.load::<u32>(env, op)?;
    if value & !MXCSR_MASK != 0 {
        return core.raise(Fault::protection(0));
    }
    core.mxcsr = value;
    core.next_after_access(env, op)
}

/// STMXCSR.
fn store_mxcsr<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let value = core.mxcsr;
    core.store(env, op, value)?;
    core.next_after_access(env, op)
}

/// EMMS.
fn empty_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    leave_mmx(core);
    core.next(env, op)
}

/// Vector registers that the mode can reach.
fn reachable(core: &Core) -> std::ops::Range<usize> {
    0..registers(core)
}

/// VZEROUPPER.
fn zero_upper(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    vex_ready(core)?;
    let range = reachable(core);
    core.ymm_high[range].fill(0);
    core.next(env, op)
}

/// VZEROALL.
fn zero_all(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    vex_ready(core)?;
    let range = reachable(core);
    core.xmm[range.clone()].fill(0);
    core.ymm_high[range].fill(0);
    core.next(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    Selected::inline(match insn.code() {
        Code::Fxsave_m512byte => save::<false>,
        Code::Fxsave64_m512byte => save::<true>,
        Code::Fxrstor_m512byte => restore::<false>,
        Code::Fxrstor64_m512byte => restore::<true>,
        Code::Ldmxcsr_m32 => load_mxcsr::<Legacy>,
        Code::VEX_Vldmxcsr_m32 => load_mxcsr::<Vex128>,
        Code::Stmxcsr_m32 => store_mxcsr::<Legacy>,
        Code::VEX_Vstmxcsr_m32 => store_mxcsr::<Vex128>,
        Code::VEX_Vzeroupper => zero_upper,
        Code::VEX_Vzeroall => zero_all,
        Code::Emms => empty_mmx,
        _ => return None,
    })
}
