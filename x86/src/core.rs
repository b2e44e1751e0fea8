//! The CPU as it runs: the state in the shape that handlers want it, and the TLB.
//!
//! Does: hold registers, give typed access to them, convert from and to [`CpuState`].
//! Does not: find or run blocks (`cpu`), or know what instructions do (`ops`).
//!
//! Invariant: `to_state` followed by `from_state` makes a CPU that behaves the same for ever.

use arch::cpuid::{Features, Profile};

use crate::bus::Progress;
use crate::chain::Cursor;
use crate::fault::{Exec, Fault, Raised};
use crate::flags::{self, Flags};
use crate::mmu::{Mmu, Paging, SET_NONE};
use crate::op::{CodeSize, HIGH_BYTE, Op, SLOT_BLOCK_RIP};
use crate::state::{CpuState, MsrState, Segment, TableRegister, X87State};
use crate::word::Word;

/// Cost units of a step that is no REP iteration.
pub const UNITS_PER_STEP: u64 = 8;

/// Slots of the register file: a power of two, so that any slot number can be masked.
pub(crate) const GPR_SLOTS: usize = 32;

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type, always one.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    /// Virtual-8086 extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// RDTSC only at CPL 0.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// 4 MiB pages.
    pub const PSE: u64 = 1 << 4;
    /// Physical-address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check exceptions.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at any CPL.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE, and SSE instructions.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// RDFSBASE and relatives.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and its relatives, and AVX.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
}

/// IA32_EFER bits.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
}

/// The registers and caches of a running CPU.
pub struct Core {
    /// The CPU model.
    pub(crate) profile: Profile,
    /// What the model can do: what is not in it raises #UD, its control bits #GP.
    pub features: Features,
    /// General registers, then the zero slot and the running block's RIP (see `op`).
    pub gpr: [u64; GPR_SLOTS],
    /// Segment bases as operands use them: 0 in 64-bit mode but for FS and GS; slot 6 is 0.
    pub(crate) seg_base: [u64; 8],
    /// RFLAGS.
    pub flags: Flags,
    /// RIP of the next instruction; inside a block, of its start.
    pub rip: u64,
    /// The running instruction's place in its block.
    pub(crate) cursor: Cursor,
    /// Set when the block must end after this instruction: a watched store, a bus access.
    pub(crate) attention: bool,
    /// A device was reached: the machine looks at its interrupt lines and timers.
    pub(crate) bus_used: bool,
    /// Current privilege level.
    pub(crate) cpl: u8,
    /// The running access is the CPU's own (descriptor tables, TSS, frames), not the program's.
    pub(crate) implicit: bool,
    /// Base and limit of CS when the code epoch last took note of them.
    code_extent: (u64, u32),
    /// Which code the CPU executes; derived from CS and EFER.
    pub(crate) code_size: CodeSize,
    /// Steps at the start of the running block (REP handlers add their extra iterations).
    pub(crate) steps: u64,
    /// REP iterations so far.
    pub(crate) rep_steps: u64,
    /// Steps at which `run` stops.
    pub(crate) steps_limit: u64,
    /// Units at which `run` stops.
    pub(crate) units_limit: u64,
    /// The exception behind a [`Raised`].
    pub(crate) fault: Fault,
    /// Page walks and the TLB.
    pub(crate) mmu: Mmu,
    /// XMM0–XMM15.
    pub xmm: [u128; 16],
    /// Upper halves of YMM0–YMM15.
    pub ymm_high: [u128; 16],
    /// XCR0.
    pub xcr0: u64,
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub x87: X87State,
    /// ES CS SS DS FS GS.
    pub(crate) segments: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    /// CR0.
    pub cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    /// CR4.
    pub cr4: u64,
    pub(crate) pdptes: [u64; 4],
    pub(crate) dr: [u64; 4],
    pub(crate) dr6: u64,
    pub(crate) dr7: u64,
    pub(crate) msr: MsrState,
    pub(crate) sti_shadow: bool,
    pub(crate) ss_shadow: bool,
    /// `sti_shadow` was set by the running instruction.
    pub(crate) fresh_sti_shadow: bool,
    /// `ss_shadow` was set by the running instruction.
    pub(crate) fresh_ss_shadow: bool,
    /// RF was set by the running instruction.
    pub(crate) fresh_resume: bool,
    /// The running instruction makes no single-step trap.
    pub(crate) trap_suppressed: bool,
    /// The running instruction or delivery has switched to another task, and RIP is that task's.
    pub(crate) task_switched: bool,
    pub(crate) pending_debug: u64,
    /// `pending_debug` before the running instruction: what it notes is lost if it faults.
    pub(crate) held_debug: u64,
    pub(crate) nmi_pending: bool,
    pub(crate) nmi_blocked: bool,
    pub(crate) halted: bool,
    pub(crate) shutdown: bool,
    pub(crate) random_seed: [u8; 32],
    pub(crate) random_words: u64,
}

impl Core {
    /// Raises `fault`: `return core.raise(Fault::UNDEFINED)`.
    #[cold]
    pub fn raise<T>(&mut self, fault: Fault) -> Exec<T> {
        self.fault = fault;
        Err(Raised)
    }

    /// Where the CPU is, within the running instruction.
    #[inline]
    pub fn progress(&self) -> Progress {
        let steps = self.steps + self.cursor.index() as u64;
        Progress {
            steps,
            units: Self::units(steps, self.rep_steps),
        }
    }

    /// Cost units of `steps` steps, `rep_steps` of them REP iterations.
    #[inline]
    pub(crate) fn units(steps: u64, rep_steps: u64) -> u64 {
        steps * UNITS_PER_STEP - rep_steps * (UNITS_PER_STEP - 1)
    }

    /// How many REP iterations the running (last) instruction of the block may do now; at least 1.
    pub fn rep_budget(&self) -> u64 {
        let at = self.progress();
        let by_steps = self.steps_limit.saturating_sub(at.steps);
        let by_units = self.units_limit.saturating_sub(at.units);
        by_steps.min(by_units).max(1)
    }

    /// Accounts for `iterations` (≥ 1) REP iterations that made up this step and its repetitions:
    /// the run loop adds one step for the instruction itself.
    pub fn count_iterations(&mut self, iterations: u64) {
        self.steps += iterations - 1;
        self.rep_steps += iterations;
    }

    /// Accounts for `iterations` (≥ 0) complete iterations before one that faults.
    pub fn count_iterations_before_fault(&mut self, iterations: u64) {
        self.steps += iterations;
        self.rep_steps += iterations;
    }

    // ---- registers -------------------------------------------------------------------------

    /// General register `number` (0–15), low `T` bits. For bytes: AL…R15B, never AH.
    #[inline(always)]
    pub fn reg<T: Word>(&self, number: u8) -> T {
        T::from64(self.gpr[usize::from(number & 15)])
    }

    /// Sets the low `T` bits of general register `number`; 32-bit writes zero the upper half.
    #[inline(always)]
    pub fn set_reg<T: Word>(&mut self, number: u8, value: T) {
        let slot = &mut self.gpr[usize::from(number & 15)];
        *slot = match T::BITS {
            32 | 64 => value.to64(),
            _ => (*slot & !T::MASK) | value.to64(),
        };
    }

    /// Register operand `operand` (`Op::dst` or `Op::src`), with AH–BH for bytes.
    #[inline(always)]
    pub fn operand<T: Word>(&self, operand: u8) -> T {
        if T::BITS == 8 && operand & HIGH_BYTE != 0 {
            T::from64(self.gpr[usize::from(operand & 3)] >> 8)
        } else {
            self.reg::<T>(operand)
        }
    }

    /// Sets a register operand, with AH–BH for bytes.
    #[inline(always)]
    pub fn set_operand<T: Word>(&mut self, operand: u8, value: T) {
        if T::BITS == 8 && operand & HIGH_BYTE != 0 {
            let slot = &mut self.gpr[usize::from(operand & 3)];
            *slot = (*slot & !0xff00) | (value.to64() << 8);
        } else {
            self.set_reg::<T>(operand, value);
        }
    }

    // ---- instruction pointer ---------------------------------------------------------------

    /// RIP of the running instruction.
    #[inline]
    pub fn rip_of(&self, op: &Op) -> u64 {
        self.mask_ip(self.gpr[SLOT_BLOCK_RIP as usize].wrapping_add(u64::from(op.offset)))
    }

    /// RIP of the instruction after the running one.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        let next = u64::from(op.offset) + u64::from(op.length);
        self.mask_ip(self.gpr[SLOT_BLOCK_RIP as usize].wrapping_add(next))
    }

    /// Wraps an instruction pointer to the width of the code segment.
    #[inline(always)]
    pub fn mask_ip(&self, ip: u64) -> u64 {
        match self.code_size {
            CodeSize::Bits64 => ip,
            _ => ip & 0xffff_ffff,
        }
    }

    /// Linear address of the next instruction.
    pub(crate) fn linear_ip(&self) -> u64 {
        let linear = self.rip.wrapping_add(self.seg_base[1]);
        if self.in_64bit() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Target of a direct near branch of `bits` operand size (16, 32, 64): `op.imm` is relative to
    /// the start of the block.
    #[inline(always)]
    pub fn branch_target(&self, op: &Op) -> u64 {
        self.gpr[SLOT_BLOCK_RIP as usize].wrapping_add(op.imm)
    }

    // ---- modes -----------------------------------------------------------------------------

    /// CPL, 0–3.
    pub fn cpl(&self) -> u8 {
        self.cpl
    }

    /// True in 64-bit mode.
    #[inline(always)]
    pub fn in_64bit(&self) -> bool {
        self.code_size == CodeSize::Bits64
    }

    /// True if CR0.PE is set.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// True in IA-32e mode, compatibility mode included.
    pub fn long_mode(&self) -> bool {
        self.msr.efer & efer::LMA != 0
    }

    /// True in virtual-8086 mode.
    pub fn v8086(&self) -> bool {
        self.flags.has(flags::VM)
    }

    /// IOPL, 0–3.
    pub fn iopl(&self) -> u8 {
        (self.flags.system >> 12 & 3) as u8
    }

    /// Recomputes what is derived from segments, EFER, CR0, CR4 and flags. Called after any of
    /// them changed; the block must end with the instruction that changed them.
    pub fn mode_changed(&mut self) {
        let cs = self.segments[1];
        self.code_size = if self.long_mode() && cs.long() {
            CodeSize::Bits64
        } else if cs.big() && self.protected() && !self.v8086() || cs.big() && !self.protected() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let long = self.code_size == CodeSize::Bits64;
        for slot in 0..6 {
            let keeps_base = !long || slot >= 4;
            self.seg_base[slot] = if keeps_base {
                self.segments[slot].base
            } else {
                0
            };
        }
        // Runs are remembered by linear address, and only if they lie within the code segment:
        // another base or limit, another epoch.
        let extent = (self.seg_base[1], cs.limit);
        if self.code_extent != extent {
            self.code_extent = extent;
            self.mmu.code_extent_changed();
        }
        self.select_tlb();
    }

    /// Chooses the TLB set for data accesses from CPL, CR4.SMAP and EFLAGS.AC; none while
    /// alignment checks or data breakpoints want to see every access. Called after EFLAGS.AC or
    /// DR7 changed ([`Core::mode_changed`] does it too).
    pub(crate) fn select_tlb(&mut self) {
        let override_smap = self.cr4 & cr4::SMAP == 0 || self.flags.has(flags::AC);
        self.mmu.select(self.cpl == 3, override_smap);
        if self.checks_alignment() || self.watches_data() {
            self.mmu.tlb.select(SET_NONE);
        }
    }

    // ---- saving ----------------------------------------------------------------------------

    /// A CPU in the given state, with cold caches. The state must have been validated.
    pub fn from_state(state: &CpuState) -> Core {
        let mut gpr = [0; GPR_SLOTS];
        gpr[..16].copy_from_slice(&state.gpr);
        let mut core = Core {
            profile: state.profile,
            features: state.profile.features(),
            gpr,
            seg_base: [0; 8],
            flags: Flags::default(),
            rip: state.rip,
            cursor: Cursor::nowhere(),
            attention: true,
            bus_used: false,
            cpl: 0,
            implicit: false,
            code_extent: (0, 0),
            code_size: CodeSize::Bits16,
            steps: state.steps,
            rep_steps: state.rep_steps,
            steps_limit: 0,
            units_limit: 0,
            fault: Fault::UNDEFINED,
            mmu: Mmu::new(Paging::of(
                state.cr0,
                state.cr3,
                state.cr4,
                state.msr.efer,
                state.pdptes,
            )),
            xmm: state.xmm,
            ymm_high: state.ymm_high,
            xcr0: state.xcr0,
            mxcsr: state.mxcsr,
            x87: state.x87,
            segments: state.segments,
            ldtr: state.ldtr,
            tr: state.tr,
            gdtr: state.gdtr,
            idtr: state.idtr,
            cr0: state.cr0,
            cr2: state.cr2,
            cr3: state.cr3,
            cr4: state.cr4,
            pdptes: state.pdptes,
            dr: state.dr,
            dr6: state.dr6,
            dr7: state.dr7,
            msr: state.msr.clone(),
            sti_shadow: state.sti_shadow,
            ss_shadow: state.ss_shadow,
            fresh_sti_shadow: false,
            fresh_ss_shadow: false,
            fresh_resume: false,
            trap_suppressed: false,
            task_switched: false,
            pending_debug: state.pending_debug,
            held_debug: 0,
            nmi_pending: state.nmi_pending,
            nmi_blocked: state.nmi_blocked,
            halted: state.halted,
            shutdown: state.shutdown,
            random_seed: state.random_seed,
            random_words: state.random_words,
        };
        core.flags.set_value(state.rflags);
        core.cpl = core.privilege();
        core.mode_changed();
        core
    }

    /// CPL as SS and the mode tell it.
    pub(crate) fn privilege(&self) -> u8 {
        if !self.protected() {
            0
        } else if self.v8086() {
            3
        } else {
            self.segments[2].dpl()
        }
    }

    /// The state at a boundary.
    pub fn to_state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.gpr[..16]);
        CpuState {
            version: crate::state::STATE_VERSION,
            profile: self.profile,
            steps: self.steps,
            rep_steps: self.rep_steps,
            gpr,
            rip: self.rip,
            rflags: self.flags.value(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            pdptes: self.pdptes,
            dr: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            msr: self.msr.clone(),
            xmm: self.xmm,
            ymm_high: self.ymm_high,
            xcr0: self.xcr0,
            mxcsr: self.mxcsr,
            x87: self.x87,
            sti_shadow: self.sti_shadow,
            ss_shadow: self.ss_shadow,
            pending_debug: self.pending_debug,
            nmi_pending: self.nmi_pending,
            nmi_blocked: self.nmi_blocked,
            halted: self.halted,
            shutdown: self.shutdown,
            random_seed: self.random_seed,
            random_words: self.random_words,
        }
    }
}

/// True if bits 63–47 of a linear address are equal.
#[inline(always)]
pub fn canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}
