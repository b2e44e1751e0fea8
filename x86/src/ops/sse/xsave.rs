//! State in XSAVE areas: XSAVE, XSAVEOPT, XSAVEC, XRSTOR, XGETBV, XSETBV (SDM vol. 1, chapter 13).
//!
//! Does: the standard and the compacted form with x87, SSE and AVX state; with these components both
//! have the same layout. Does not: XSAVES and XRSTORS, which the CPU models lack.
//!
//! What the manual leaves open has one definition here. A component is in its initial state exactly
//! if its registers have their initial values, however they got them. XSAVEOPT and XSAVEC do not
//! write a component in its initial state; XSAVEOPT never leaves one out because it was not modified
//! since the last XRSTOR.
//!
//! Invariant: everything that will be accessed is checked before a byte is written or a register
//! changed.

use iced_x86::{Code, Instruction};

use super::operands::MXCSR_MASK;
use super::state::{area_at, header, load_header, registers, top};
use crate::core::{Core, cr0, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{Flow, Op, Selected};
use crate::softfloat::F80;
use crate::state::{X87State, XCR0_KNOWN, XCR0_SSE, XCR0_X87, XCR0_YMM};

/// Where ST0 lies.
const ST0: u64 = 32;
/// Where MXCSR and its mask lie.
const MXCSR: u64 = 24;
/// Where XMM0 lies.
const XMM0: u64 = 160;
/// Where the header lies: XSTATE_BV, XCOMP_BV, reserved.
const HEADER: u64 = 512;
/// Bytes of the header.
const HEADER_SIZE: u64 = 64;
/// Where the upper halves of YMM registers lie.
const YMM0: u64 = 576;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;
/// MXCSR after a reset.
const MXCSR_INITIAL: u32 = 0x1f80;
/// FCW after FNINIT.
const CONTROL_INITIAL: u16 = 0x37f;

// ---- components ----------------------------------------------------------------------------

/// Raises #UD unless the system has enabled XSAVE.
fn enabled(core: &mut Core) -> Exec<()> {
    if core.cr4 & cr4::OSXSAVE == 0 {
        return core.raise(Fault::UNDEFINED);
    }
    Ok(())
}

/// The components that an instruction is asked for.
fn requested(core: &Core) -> u64 {
    let mask = u64::from(core.reg::<u32>(2)) << 32 | u64::from(core.reg::<u32>(0));
    mask & core.xcr0
}

/// x87 after FNINIT with empty pointers and registers.
fn initial_x87() -> X87State {
    X87State {
        registers: [F80::ZERO; 8],
        control: CONTROL_INITIAL,
        status: 0,
        valid: 0,
        opcode: 0,
        instruction: 0,
        instruction_selector: 0,
        operand: 0,
        operand_selector: 0,
    }
}

/// The components that are not in their initial state, as far as the mode can reach them. MXCSR
/// does not count.
fn in_use(core: &Core) -> u64 {
    let reachable = 0..registers(core);
    let used = |registers: &[u128]| registers.iter().any(|&value| value != 0);
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    bit(core.x87 != initial_x87(), XCR0_X87)
        | bit(used(&core.xmm[reachable.clone()]), XCR0_SSE)
        | bit(used(&core.ymm_high[reachable]), XCR0_YMM)
}

/// Stretches of an area, from where and how many bytes.
type Extents = [(u64, u64); 5];

/// Where the components in `set` lie, with MXCSR if `mxcsr` says so, and the header.
fn extents(core: &Core, set: u64, mxcsr: bool) -> Extents {
    let size = |wanted: bool, size: u64| if wanted { size } else { 0 };
    let count = registers(core) as u64;
    [
        // The environment's first 24 bytes belong to it, and the registers.
        (0, size(set & XCR0_X87 != 0, ST0 + 128)),
        (MXCSR, size(mxcsr, 8)),
        (XMM0, size(set & XCR0_SSE != 0, 16 * count)),
        (HEADER, HEADER_SIZE),
        (YMM0, size(set & XCR0_YMM != 0, 16 * count)),
    ]
}

/// The linear address of an area, after the checks of all that lies at `extents`.
fn area(core: &mut Core, env: &mut Env<'_>, op: &Op, extents: Extents, write: bool) -> Exec<u64> {
    let end = extents
        .iter()
        .map(|(at, size)| at + size)
        .max()
        .unwrap_or(0);
    let linear = area_at(core, op, end, 64, write)?;
    for (at, size) in extents.into_iter().filter(|&(_, size)| size > 0) {
        let at = linear.wrapping_add(at);
        if write {
            core.check_write(env, at, size as usize, op.seg)?;
        } else {
            core.check_read(env, at, size as usize, op.seg)?;
        }
    }
    Ok(linear)
}

// ---- saving --------------------------------------------------------------------------------

/// XSAVE, XSAVEOPT, XSAVEC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Optimised,
    Compacted,
}

fn write_lanes(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    at: u64,
    values: [u128; 16],
) -> Exec<()> {
    for (n, value) in (0..).zip(values).take(registers(core)) {
        core.write_bytes(env, at.wrapping_add(16 * n), op.seg, &value.to_le_bytes())?;
    }
    Ok(())
}

/// `WIDE` is the form with REX.W.
fn save<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op, kind: Kind) -> Exec<Flow> {
    ready(core)?;
    let requested = requested(core);
    let mut used = in_use(core) & requested;
    if kind == Kind::Compacted && requested & XCR0_SSE != 0 && core.mxcsr != MXCSR_INITIAL {
        used |= XCR0_SSE;
    }
    let written = if kind == Kind::Plain { requested } else { used };
    let mxcsr = match kind {
        Kind::Compacted => written & XCR0_SSE != 0,
        Kind::Plain | Kind::Optimised => requested & (XCR0_SSE | XCR0_YMM) != 0,
    };
    let linear = area(core, env, op, extents(core, written, mxcsr), true)?;
    let at = |offset: u64| linear.wrapping_add(offset);
    let image = header::<WIDE>(core);
    if written & XCR0_X87 != 0 {
        for (n, part) in (0..).zip(image.chunks_exact(8)).take(3) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(part);
            core.write_bytes(env, at(8 * n), op.seg, &bytes)?;
        }
        for n in 0..8 {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&core.x87.registers[(top(core) + n) & 7].to_bytes());
            core.write_bytes(env, at(ST0 + 16 * n as u64), op.seg, &bytes)?;
        }
    }
    if mxcsr {
        let both = u64::from(MXCSR_MASK) << 32 | u64::from(core.mxcsr);
        core.write(env, at(MXCSR), op.seg, both)?;
    }
    if written & XCR0_SSE != 0 {
        write_lanes(core, env, op, at(XMM0), core.xmm)?;
    }
    if written & XCR0_YMM != 0 {
        write_lanes(core, env, op, at(YMM0), core.ymm_high)?;
    }
    if kind == Kind::Compacted {
        core.write(env, at(HEADER), op.seg, used)?;
        core.write(env, at(HEADER + 8), op.seg, requested | COMPACTED)?;
    } else {
        let before: u64 = core.read(env, at(HEADER), op.seg)?;
        core.write(env, at(HEADER), op.seg, before & !requested | used)?;
    }
    core.next_after_access(env, op)
}

/// Raises what forbids saving and restoring now. CR0.EM does not count.
fn ready(core: &mut Core) -> Exec<()> {
    enabled(core)?;
    if core.cr0 & cr0::TS != 0 {
        return core.raise(Fault::NO_DEVICE);
    }
    Ok(())
}

fn xsave<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    save::<WIDE>(core, env, op, Kind::Plain)
}

fn xsaveopt<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    save::<WIDE>(core, env, op, Kind::Optimised)
}

fn xsavec<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    save::<WIDE>(core, env, op, Kind::Compacted)
}

// ---- restoring -----------------------------------------------------------------------------

fn read_lanes(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    at: u64,
    values: &mut [u128; 16],
) -> Exec<()> {
    let count = registers(core);
    for (n, value) in (0..).zip(&mut values[..count]) {
        *value = u128::from_le_bytes(core.read_bytes(env, at.wrapping_add(16 * n), op.seg)?);
    }
    Ok(())
}

/// True if the header can be restored from: XSTATE_BV, XCOMP_BV and what is reserved.
fn is_valid(core: &Core, words: [u64; 8]) -> bool {
    let [state, form, reserved @ ..] = words;
    if form & COMPACTED == 0 {
        return state & !core.xcr0 == 0 && form == 0 && reserved[0] == 0;
    }
    let components = form & !COMPACTED;
    core.features.contains(arch::cpuid::Features::XSAVEC)
        && components & !core.xcr0 == 0
        && state & !components == 0
        && reserved == [0; 6]
}

/// XRSTOR. `WIDE` is the form with REX.W.
fn restore<const WIDE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let requested = requested(core);
    let linear = area(core, env, op, extents(core, 0, false), false)?;
    let at = |offset: u64| linear.wrapping_add(offset);
    let mut words = [0; 8];
    for (n, word) in (0..).zip(&mut words) {
        *word = core.read(env, at(HEADER + 8 * n), op.seg)?;
    }
    if !is_valid(core, words) {
        return core.raise(Fault::protection(0));
    }
    let compacted = words[1] & COMPACTED != 0;
    let loaded = words[0] & requested;
    let has_mxcsr = if compacted {
        loaded & XCR0_SSE != 0
    } else {
        requested & (XCR0_SSE | XCR0_YMM) != 0
    };
    area(core, env, op, extents(core, loaded, has_mxcsr), false)?;
    let mut mxcsr = if compacted && requested & XCR0_SSE != 0 {
        MXCSR_INITIAL
    } else {
        core.mxcsr
    };
    if has_mxcsr {
        mxcsr = core.read(env, at(MXCSR), op.seg)?;
        if mxcsr & !MXCSR_MASK != 0 {
            return core.raise(Fault::protection(0));
        }
    }
    let (mut xmm, mut ymm_high) = (core.xmm, core.ymm_high);
    let count = registers(core);
    if loaded & XCR0_SSE != 0 {
        read_lanes(core, env, op, at(XMM0), &mut xmm)?;
    } else if requested & XCR0_SSE != 0 {
        xmm[..count].fill(0);
    }
    if loaded & XCR0_YMM != 0 {
        read_lanes(core, env, op, at(YMM0), &mut ymm_high)?;
    } else if requested & XCR0_YMM != 0 {
        ymm_high[..count].fill(0);
    }
    if loaded & XCR0_X87 != 0 {
        let image: [u8; 32] = core.read_bytes(env, linear, op.seg)?;
        let mut st = [F80::ZERO; 8];
        for (n, register) in (0..).zip(&mut st) {
            *register = F80::from_bytes(core.read_bytes(env, at(ST0 + 16 * n), op.seg)?);
        }
        load_header::<WIDE>(core, &image);
        let top = top(core);
        for (n, register) in st.into_iter().enumerate() {
            core.x87.registers[(top + n) & 7] = register;
        }
    } else if requested & XCR0_X87 != 0 {
        core.x87 = initial_x87();
    }
    core.xmm = xmm;
    core.ymm_high = ymm_high;
    core.mxcsr = mxcsr;
    core.next_after_access(env, op)
}

// ---- XCR0 ----------------------------------------------------------------------------------

/// XGETBV: XCR0, or with ECX = 1 its components that are in use.
fn get_xcr(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    enabled(core)?;
    let value = match core.reg::<u32>(1) {
        0 => core.xcr0,
        1 if core.features.contains(arch::cpuid::Features::XGETBV1) => core.xcr0 & in_use(core),
        _ => return core.raise(Fault::protection(0)),
    };
    core.set_reg::<u32>(0, value as u32);
    core.set_reg::<u32>(2, (value >> 32) as u32);
    core.next(env, op)
}

/// XSETBV.
fn set_xcr(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    enabled(core)?;
    let value = u64::from(core.reg::<u32>(2)) << 32 | u64::from(core.reg::<u32>(0));
    let valid = value & !XCR0_KNOWN == 0
        && value & XCR0_X87 != 0
        && (value & XCR0_YMM == 0 || value & XCR0_SSE != 0);
    if core.cpl() != 0 || core.reg::<u32>(1) != 0 || !valid {
        return core.raise(Fault::protection(0));
    }
    core.xcr0 = value;
    Ok(Flow::Leave)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    Selected::inline(match insn.code() {
        Code::Xsave_mem => xsave::<false>,
        Code::Xsave64_mem => xsave::<true>,
        Code::Xsaveopt_mem => xsaveopt::<false>,
        Code::Xsaveopt64_mem => xsaveopt::<true>,
        Code::Xsavec_mem => xsavec::<false>,
        Code::Xsavec64_mem => xsavec::<true>,
        Code::Xrstor_mem => restore::<false>,
        Code::Xrstor64_mem => restore::<true>,
        Code::Xgetbv => get_xcr,
        Code::Xsetbv => return Selected::last(set_xcr),
        _ => return None,
    })
}
