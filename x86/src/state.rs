//! The CPU's state as plain data: what is saved is what is cloned is what the digest covers.
//!
//! Invariant: nothing the guest can observe is outside this type; nothing in it depends on what a
//! cache holds.

use arch::boot::EntryPoint;
use arch::cpuid::{Features, Profile};
use serde::{Deserialize, Serialize};

use crate::softfloat::F80;
use crate::system::debug::{DR6_CLEAR, DR7_CLEAR};
use crate::system::machine_check::MachineCheckState;
use crate::system::msr::{MISC_ENABLE_FIXED, MISC_ENABLE_POWER_UP, MISC_ENABLE_WRITABLE};

/// Version of [`CpuState`]; raised with every change of its meaning.
pub const STATE_VERSION: u32 = 5;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Descriptor bits 40–47 and 52–55 as in VMX access rights: type, S, DPL, P, AVL, L, D/B, G.
    pub rights: u16,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Linear base.
    pub base: u64,
}

impl Segment {
    /// Descriptor type (4 bits).
    pub fn kind(&self) -> u16 {
        self.rights & 15
    }

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.rights >> 5 & 3) as u8
    }

    /// P bit.
    pub fn present(&self) -> bool {
        self.rights & RIGHTS_PRESENT != 0
    }

    /// L bit: 64-bit code.
    pub fn long(&self) -> bool {
        self.rights & RIGHTS_LONG != 0
    }

    /// D/B bit: 32-bit default.
    pub fn big(&self) -> bool {
        self.rights & RIGHTS_BIG != 0
    }
}

/// XCR0: x87 state, always set.
pub const XCR0_X87: u64 = 1 << 0;
/// XCR0: SSE state.
pub const XCR0_SSE: u64 = 1 << 1;
/// XCR0: the upper halves of the YMM registers.
pub const XCR0_YMM: u64 = 1 << 2;
/// Every bit of XCR0 that there is.
pub const XCR0_KNOWN: u64 = XCR0_X87 | XCR0_SSE | XCR0_YMM;

/// Rights: S, code or data.
pub const RIGHTS_CODE_DATA: u16 = 1 << 4;
/// Rights: present.
pub const RIGHTS_PRESENT: u16 = 1 << 7;
/// Rights: L.
pub const RIGHTS_LONG: u16 = 1 << 13;
/// Rights: D/B.
pub const RIGHTS_BIG: u16 = 1 << 14;
/// Rights: G.
pub const RIGHTS_GRANULAR: u16 = 1 << 15;

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// x87 state; MMX registers are the significands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct X87State {
    /// Physical registers R0–R7.
    pub registers: [F80; 8],
    /// FCW.
    pub control: u16,
    /// FSW, TOP included.
    pub status: u16,
    /// Bit i set: physical register i is not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    /// Last opcode (11 bits).
    pub opcode: u16,
    /// Last instruction pointer.
    pub instruction: u64,
    /// Last instruction's code selector.
    pub instruction_selector: u16,
    /// Last operand pointer.
    pub operand: u64,
    /// Last operand's selector.
    pub operand_selector: u16,
}

/// Model-specific registers that are the CPU's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsrState {
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_TSC_ADJUST, also moved by writes to IA32_TIME_STAMP_COUNTER.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_default: u64,
    /// Fixed-range MTRRs: 64K, 16K ×2, 4K ×8.
    pub mtrr_fixed: [u64; 11],
    /// Variable-range MTRRs: base and mask by turns, 8 pairs.
    pub mtrr_variable: [u64; 16],
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_BIOS_SIGN_ID: microcode revision as last signed by CPUID.
    pub bios_sign: u64,
    /// Machine-check architecture.
    pub machine_check: MachineCheckState,
}

/// Everything a CPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// The CPU model.
    pub profile: Profile,
    /// Steps since the VM was created.
    pub steps: u64,
    /// Those of them that were REP iterations.
    pub rep_steps: u64,
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8–R15.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES CS SS DS FS GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The four PDPTEs that PAE paging loads with CR3.
    pub pdptes: [u64; 4],
    /// DR0–DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Model-specific registers.
    pub msr: MsrState,
    /// XMM0–XMM15.
    pub xmm: [u128; 16],
    /// Upper halves of YMM0–YMM15.
    pub ymm_high: [u128; 16],
    /// XCR0: which states instructions and XSAVE may use.
    pub xcr0: u64,
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub x87: X87State,
    /// STI just enabled interrupts: none is taken before the next instruction is done.
    pub sti_shadow: bool,
    /// SS was just loaded: neither interrupts nor debug traps before the next instruction is done.
    pub ss_shadow: bool,
    /// Debug conditions (DR6 bits) that wait for the next boundary.
    pub pending_debug: u64,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// HLT: waits for an interrupt.
    pub halted: bool,
    /// Triple fault: waits for a reset.
    pub shutdown: bool,
    /// Seed of RDRAND's generator.
    pub random_seed: [u8; 32],
    /// 32-bit words that RDRAND's generator has given.
    pub random_words: u64,
}

impl CpuState {
    /// The state after power-up (SDM vol. 3, table 11-1), at position 0.
    pub fn power_up(profile: Profile, random_seed: [u8; 32]) -> CpuState {
        let real = |selector: u16, base: u64, kind: u16| Segment {
            selector,
            rights: RIGHTS_PRESENT | RIGHTS_CODE_DATA | kind,
            limit: 0xffff,
            base,
        };
        let data = real(0, 0, 3);
        let empty = F80 {
            mantissa: 0,
            sign_exponent: 0,
        };
        let table = TableRegister {
            base: 0,
            limit: 0xffff,
        };
        let mut gpr = [0; 16];
        gpr[2] = u64::from(arch::cpuid::cpuid(profile, 1, 0).eax);
        CpuState {
            version: STATE_VERSION,
            profile,
            steps: 0,
            rep_steps: 0,
            gpr,
            rip: 0xfff0,
            rflags: 2,
            segments: [data, real(0xf000, 0xffff_0000, 11), data, data, data, data],
            ldtr: Segment {
                selector: 0,
                rights: RIGHTS_PRESENT | 2,
                limit: 0xffff,
                base: 0,
            },
            tr: Segment {
                selector: 0,
                rights: RIGHTS_PRESENT | 11,
                limit: 0xffff,
                base: 0,
            },
            gdtr: table,
            idtr: table,
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdptes: [0; 4],
            dr: [0; 4],
            dr6: DR6_CLEAR,
            dr7: DR7_CLEAR,
            msr: MsrState {
                efer: 0,
                star: 0,
                lstar: 0,
                cstar: 0,
                fmask: 0,
                kernel_gs_base: 0,
                sysenter_cs: 0,
                sysenter_esp: 0,
                sysenter_eip: 0,
                tsc_adjust: 0,
                tsc_aux: 0,
                pat: 0x0007_0406_0007_0406,
                misc_enable: MISC_ENABLE_POWER_UP,
                mtrr_default: 0,
                mtrr_fixed: [0; 11],
                mtrr_variable: [0; 16],
                spec_ctrl: 0,
                bios_sign: 0,
                machine_check: MachineCheckState::default(),
            },
            xmm: [0; 16],
            ymm_high: [0; 16],
            xcr0: XCR0_X87,
            mxcsr: 0x1f80,
            x87: X87State {
                registers: [empty; 8],
                control: 0x40,
                status: 0,
                valid: 0xff,
                opcode: 0,
                instruction: 0,
                instruction_selector: 0,
                operand: 0,
                operand_selector: 0,
            },
            sti_shadow: false,
            ss_shadow: false,
            pending_debug: 0,
            nmi_pending: false,
            nmi_blocked: false,
            halted: false,
            shutdown: false,
            random_seed,
            random_words: 0,
        }
    }

    /// The same CPU after a reset: steps and the generator go on, all else is as after power-up.
    pub fn reset(&self) -> CpuState {
        CpuState {
            steps: self.steps,
            rep_steps: self.rep_steps,
            random_words: self.random_words,
            ..CpuState::power_up(self.profile, self.random_seed)
        }
    }

    /// Puts the CPU where a kernel starts: flat 32-bit protected mode without paging.
    pub fn enter_kernel(&mut self, entry: &EntryPoint) {
        let flat = |selector: u16, kind: u16| Segment {
            selector,
            rights: RIGHTS_PRESENT | RIGHTS_CODE_DATA | RIGHTS_BIG | RIGHTS_GRANULAR | kind,
            limit: u32::MAX,
            base: 0,
        };
        let data = flat(entry.data_selector, 3);
        self.segments = [data, flat(entry.code_selector, 11), data, data, data, data];
        let busy_tss = RIGHTS_PRESENT | 11;
        self.tr = Segment {
            selector: entry.task_selector,
            rights: busy_tss,
            limit: 0x67,
            base: 0,
        };
        self.gdtr = TableRegister {
            base: entry.gdt.base,
            limit: entry.gdt.limit,
        };
        self.idtr = TableRegister {
            base: entry.idt.base,
            limit: entry.idt.limit,
        };
        self.cr0 = 0x11;
        self.rip = entry.rip;
        self.gpr[3] = entry.rbx;
        self.gpr[4] = entry.rsp;
        self.gpr[6] = entry.rsi;
        self.msr.mtrr_default = entry.mtrr_default_type;
    }

    /// Refuses a state that no CPU of this kind can be in; the text names the field.
    pub fn validate(&self) -> Result<(), &'static str> {
        use crate::core::{canonical, cr0, cr4, efer};
        if self.version != STATE_VERSION {
            return Err("version");
        }
        if self.rep_steps > self.steps {
            return Err("rep_steps");
        }
        if self.rflags & !crate::flags::KNOWN != 2 {
            return Err("rflags");
        }
        let paging = self.cr0 & cr0::PG != 0;
        if paging && self.cr0 & cr0::PE == 0 {
            return Err("cr0");
        }
        let long = self.msr.efer & efer::LMA != 0;
        if long != (paging && self.msr.efer & efer::LME != 0) {
            return Err("msr.efer");
        }
        if self.segments.iter().any(|s| !canonical(s.base)) {
            return Err("segments");
        }
        let above_x87 = self.xcr0 & !XCR0_X87;
        if self.xcr0 & !XCR0_KNOWN != 0
            || self.xcr0 & XCR0_X87 == 0
            || above_x87 == XCR0_YMM
            || above_x87 != 0 && !self.profile.features().contains(Features::XSAVE)
        {
            return Err("xcr0");
        }
        if self.cr4 & cr4::PCIDE != 0 && !long {
            return Err("cr4");
        }
        if self.msr.misc_enable & !MISC_ENABLE_WRITABLE != MISC_ENABLE_FIXED {
            return Err("msr.misc_enable");
        }
        if !self.msr.machine_check.is_valid() {
            return Err("msr.machine_check");
        }
        if self.mxcsr & !0xffff != 0 {
            return Err("mxcsr");
        }
        Ok(())
    }
}
