//! What the guest may learn of CPU, time and chance: CPUID, RDTSC, RDTSCP, RDPID, RDRAND, RDSEED,
//! RDPMC.
//!
//! Invariant: every answer comes from the CPU model, from virtual time or from the seeded
//! generator; nothing of the host shows.

use iced_x86::{Instruction, Mnemonic};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::core::{Core, cr4};
use crate::decode::operands::gpr;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::state::XCR0_YMM;
use crate::system::msr::{
    APIC_ENABLED, IA32_APIC_BASE, MISC_ENABLE_LIMIT_CPUID, MISC_ENABLE_XD_DISABLE,
};
use crate::word::Word;

/// Names the handler.
pub(crate) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Cpuid => Selected::inline(cpuid),
        Mnemonic::Rdtsc => Selected::inline(rdtsc),
        Mnemonic::Rdtscp => Selected::inline(rdtscp),
        Mnemonic::Rdpmc => Selected::inline(rdpmc),
        Mnemonic::Rdpid => {
            op.dst = gpr(insn.op0_register());
            Selected::inline(rdpid)
        }
        // Both take from the same generator, which never runs dry.
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            op.dst = gpr(insn.op0_register());
            match insn.op0_register().size() {
                2 => Selected::inline(random::<u16>),
                4 => Selected::inline(random::<u32>),
                _ => Selected::inline(random::<u64>),
            }
        }
        _ => None,
    }
}

/// Leaf 1, ECX: CR4.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1, EDX: the local APIC is enabled.
const APIC: u32 = 1 << 9;

/// Leaf 0x80000001, EDX: no-execute pages.
const NX: u32 = 1 << 20;
/// The last basic leaf while IA32_MISC_ENABLE limits them.
const LIMITED_MAX: u32 = 2;
/// The first leaf that is not basic.
const HYPERVISOR: u32 = 0x4000_0000;

/// The model's answer, with the bits that show the CPU's state.
fn cpuid(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let (mut leaf, subleaf) = (core.reg::<u32>(0), core.reg::<u32>(1));
    let limited = core.msr.misc_enable & MISC_ENABLE_LIMIT_CPUID != 0;
    if limited && leaf < HYPERVISOR {
        leaf = leaf.min(LIMITED_MAX);
    }
    let mut found = arch::cpuid::cpuid(core.profile, leaf, subleaf);
    match (leaf, subleaf) {
        (0, _) if limited => found.eax = LIMITED_MAX,
        (0x8000_0001, _) if core.msr.misc_enable & MISC_ENABLE_XD_DISABLE != 0 => {
            found.edx &= !NX;
        }
        (1, _) => {
            if core.cr4 & cr4::OSXSAVE != 0 {
                found.ecx |= OSXSAVE;
            }
            let base = env.bus.msr_read(core.progress(), IA32_APIC_BASE);
            if base.is_none_or(|base| base & APIC_ENABLED == 0) {
                found.edx &= !APIC;
            }
        }
        // What XCR0 enables determines the size of XSAVE's area.
        (0xd, 0 | 1) if core.xcr0 & XCR0_YMM != 0 && found.ebx != 0 => {
            found.ebx += arch::cpuid::XSAVE_AVX_SIZE;
        }
        _ => {}
    }
    core.set_reg::<u32>(0, found.eax);
    core.set_reg::<u32>(3, found.ebx);
    core.set_reg::<u32>(1, found.ecx);
    core.set_reg::<u32>(2, found.edx);
    Ok(Flow::Next)
}

fn may_read_tsc(core: &mut Core) -> Exec<()> {
    if core.cr4 & cr4::TSD != 0 && core.cpl != 0 && core.protected() {
        return core.raise(Fault::protection(0));
    }
    Ok(())
}

fn set_pair(core: &mut Core, value: u64) {
    core.set_reg::<u32>(0, value as u32);
    core.set_reg::<u32>(2, (value >> 32) as u32);
}

fn rdtsc(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    may_read_tsc(core)?;
    let tsc = core.tsc(env);
    set_pair(core, tsc);
    Ok(Flow::Next)
}

fn rdtscp(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    rdtsc(core, env, op)?;
    core.set_reg::<u32>(1, core.msr.tsc_aux as u32);
    Ok(Flow::Next)
}

/// There are no counters: every index is invalid.
fn rdpmc(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    core.raise(Fault::protection(0))
}

/// Outside 64-bit mode the upper half of the register is not to be seen.
fn rdpid(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.set_reg::<u64>(op.dst, core.msr.tsc_aux);
    Ok(Flow::Next)
}

fn random<T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.random();
    core.set_reg::<T>(op.dst, T::from64(value));
    // CF says that the value is good; the others are cleared.
    core.flags.set_arithmetic(crate::flags::CF);
    Ok(Flow::Next)
}

impl Core {
    /// The next 64 bits of the machine's generator (ChaCha20 keyed by the seed).
    fn random(&mut self) -> u64 {
        let mut generator = ChaCha20Rng::from_seed(self.random_seed);
        generator.set_word_pos(u128::from(self.random_words));
        self.random_words = self.random_words.wrapping_add(2);
        generator.next_u64()
    }
}
