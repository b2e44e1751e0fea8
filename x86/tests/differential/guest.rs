//! The CPU: executes cases as user-mode code of a small guest.
//!
//! The guest has a kernel of some twenty instructions: every exception leads to it, and it loads
//! the registers of the next case and returns to user mode. So caches stay warm from case to case,
//! unless a case asks for cold ones.

use std::sync::atomic::AtomicBool;

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};
use memory::GuestRam;
use x86::{Cpu, CpuState, Exit, Limits, NoDevices, Profile, Translation, Tuning};

use crate::context::{Case, FX_BYTES, Fault, Fx, Outcome, Registers};
use crate::layout::{
    BASE16, CODE, CODE_BYTES, DATA, DATA_BYTES, FILLER, GS_BASE, Mode, PAGE, READ_ONLY,
};
use crate::rng::Rng;

/// Where the kernel sees physical memory.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// Physical memory.
const RAM_BYTES: u64 = 4 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const KERNEL_DIRECTORY: u64 = 0x3000;
const KERNEL_PDPT: u64 = 0xe000;
const USER_DIRECTORY: u64 = 0x4000;
const CODE_TABLE: u64 = 0x5000;
const DATA_TABLE: u64 = 0x6000;
const GDT: u64 = 0x7000;
const IDT: u64 = 0x8000;
const TSS: u64 = 0x9000;
/// Stubs, one a vector, that jump to `RESUME`.
const STUBS: u64 = 0xa000;
const STUB_BYTES: u64 = 16;
const RESUME: u64 = 0xb000;
/// XSAVE image, then general registers.
const CONTEXT: u64 = 0xc000;
const CONTEXT_HEADER: u64 = CONTEXT + 512;
const CONTEXT_YMM: u64 = CONTEXT + 576;
const CONTEXT_GPR: u64 = CONTEXT + 1024;
/// The frame that IRETQ pops.
const FRAME: u64 = 0xd000;
/// Top of the stack for exceptions.
const STACK_TOP: u64 = 0x1_1000;
const CODE_PAGES: u64 = 0x10_0000;
const DATA_PAGES: u64 = 0x10_4000;
const READ_ONLY_PAGE: u64 = 0x10_8000;

const KERNEL_CODE: u16 = 0x08;
const USER_CODE32: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const USER_CODE64: u16 = 0x2b;
const TASK: u16 = 0x30;
const CODE16: u16 = 0x43;
const DATA16: u16 = 0x4b;

const IF: u64 = 0x200;
const TF: u64 = 0x100;

/// The guest.
pub struct Guest {
    ram: GuestRam,
    cpu: Cpu,
    /// Instructions from a stub to the first one of a case.
    resume_steps: u64,
}

impl Guest {
    /// A guest that waits at a stub, on the interpreter or on the compiler. In blocks of one
    /// instruction, so that the compiler has all of them.
    pub fn start(translation: Translation) -> Guest {
        let mut ram = GuestRam::new(RAM_BYTES).expect("a few megabytes");
        map_memory(&mut ram);
        write_tables(&mut ram);
        let resume_steps = write_kernel(&mut ram);
        let cpu = Cpu::new(
            &initial_state(),
            Tuning {
                longest_block: 1,
                ..Tuning::new(1 << 20, translation)
            },
        );
        Guest {
            ram,
            cpu,
            resume_steps,
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).expect("an address in RAM");
    }

    /// Runs exactly `steps` steps.
    fn run_steps(&mut self, steps: u64) {
        let limits = Limits {
            steps: self.cpu.progress().steps + steps,
            units: u64::MAX,
            interrupt: false,
        };
        let kick = AtomicBool::new(false);
        let exit = self.cpu.run(&mut self.ram, &mut NoDevices, limits, &kick);
        assert_eq!(exit, Exit::Limit);
        assert_eq!(self.cpu.progress().steps, limits.steps);
    }

    /// Runs `steps` steps; half of the time not at once, which must make no difference.
    fn run_in_pieces(&mut self, case: &Case, steps: u64) {
        let mut rng = Rng::new(!case.memory_seed);
        let mut left = steps;
        if rng.chance(50) {
            while left > 1 {
                let piece = 1 + rng.below(left.min(100));
                self.run_steps(piece);
                left -= piece;
                if rng.chance(5) {
                    self.cpu.flush(&mut self.ram);
                }
            }
        }
        if left > 0 {
            self.run_steps(left);
        }
    }

    /// Executes `case` for as many steps as the processor took.
    pub fn run(&mut self, case: &Case, native: &Outcome) -> Outcome {
        self.prepare(case);
        self.run_steps(self.resume_steps);
        let state = self.cpu.state();
        assert_eq!(
            (state.rip, state.segments[1].selector & 3),
            (case.before.rip, 3),
            "the guest's kernel did not reach the case"
        );
        if case.cold {
            self.cpu.flush(&mut self.ram);
        }
        self.run_in_pieces(case, steps_taken(case, native));
        let outcome = self.outcome();
        self.return_to_kernel(case);
        outcome
    }

    fn prepare(&mut self, case: &Case) {
        let before = &case.before;
        let mut data = [0; DATA_BYTES];
        case.fill_memory(&mut data);
        self.write(DATA_PAGES, &data);
        let code = CODE_PAGES + case.mode.code_base() + before.rip - CODE;
        self.write(code, &case.code[..usize::from(case.length)]);
        self.write(CONTEXT, &before.fx.0);
        self.write(CONTEXT_HEADER, &7u64.to_le_bytes());
        for (n, value) in (0..).zip(before.ymm_high) {
            self.write(CONTEXT_YMM + 16 * n, &value.to_le_bytes());
        }
        for (n, value) in (0..).zip(before.gpr) {
            self.write(CONTEXT_GPR + 8 * n, &value.to_le_bytes());
        }
        let (code, stack) = match case.mode {
            Mode::Long => (USER_CODE64, USER_DATA),
            Mode::Flat32 => (USER_CODE32, USER_DATA),
            Mode::Segmented16 => (CODE16, DATA16),
        };
        let tf = if case.reads_tf { TF } else { 0 };
        let frame = [
            before.rip,
            code.into(),
            before.flags | IF | 2 | tf,
            before.gpr[4],
            stack.into(),
        ];
        for (n, value) in (0..).zip(frame) {
            self.write(FRAME + 8 * n, &value.to_le_bytes());
        }
        self.write(CONTEXT_GPR + 8 * 16, &stack.to_le_bytes());
    }

    /// What the case left behind: in the registers, or, if it raised, on the kernel's stack.
    fn outcome(&self) -> Outcome {
        let state = self.cpu.state();
        let mut after = Registers {
            gpr: state.gpr,
            rip: state.rip,
            flags: state.rflags,
            fx: fx_of(&state),
            ymm_high: state.ymm_high,
        };
        let mut fault = Fault::NONE;
        if let Some(vector) = vector_at(state.rip) {
            let has_error = matches!(vector, 8 | 10..=14 | 17);
            let slot = |n: u64| {
                self.ram
                    .read_u64(state.gpr[4] - KERNEL + 8 * n)
                    .expect("the stack is RAM")
            };
            let first = u64::from(has_error);
            fault = Fault {
                vector,
                error: if has_error { slot(0) } else { 0 },
                address: if vector == 14 { state.cr2 } else { 0 },
            };
            after.rip = slot(first);
            after.flags = slot(first + 2);
            after.gpr[4] = slot(first + 3);
        }
        let mut memory = [0; DATA_BYTES];
        self.ram
            .read(DATA_PAGES, &mut memory)
            .expect("an address in RAM");
        Outcome {
            after,
            fault,
            memory,
        }
    }

    /// Runs into the next exception.
    fn return_to_kernel(&mut self, case: &Case) {
        let code = CODE_PAGES + case.mode.code_base() + case.before.rip - CODE;
        self.write(code, &[FILLER; 15][..usize::from(case.length)]);
        for _ in 0..4 {
            if vector_at(self.cpu.state().rip).is_some() {
                return;
            }
            self.run_steps(1);
        }
        panic!("no way back into the guest's kernel after {case:x?}");
    }
}

/// Steps that the processor took: iterations of a REP, or one; an exception is one more.
fn steps_taken(case: &Case, native: &Outcome) -> u64 {
    let raised = native.fault != Fault::NONE;
    if !case.whole {
        return 1;
    }
    // The count shrinks by one an iteration, far less than 2^32 times.
    let iterations = case.before.gpr[1].wrapping_sub(native.after.gpr[1]) & 0xffff_ffff;
    iterations + u64::from(raised || iterations == 0)
}

/// Vector of the stub at `rip`.
fn vector_at(rip: u64) -> Option<u8> {
    let distance = rip.checked_sub(KERNEL + STUBS)?;
    (distance < 32 * STUB_BYTES).then_some((distance / STUB_BYTES) as u8)
}

fn fx_of(state: &CpuState) -> Fx {
    let mut fx = Fx([0; FX_BYTES]);
    let x87 = &state.x87;
    fx.set_u16(0, x87.control);
    fx.set_u16(2, x87.status);
    fx.0[4] = x87.valid;
    fx.set_u16(6, x87.opcode);
    fx.0[8..16].copy_from_slice(&x87.instruction.to_le_bytes());
    fx.0[16..24].copy_from_slice(&x87.operand.to_le_bytes());
    fx.set_mxcsr(state.mxcsr);
    let top = usize::from(x87.status >> 11 & 7);
    for n in 0..8 {
        let register = x87.registers[(top + n) % 8];
        fx.set_st(n, register.mantissa, register.sign_exponent);
    }
    for (n, &value) in state.xmm.iter().enumerate() {
        fx.set_xmm(n, value);
    }
    fx
}

// ---- the guest's memory ------------------------------------------------------------------------

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;

fn map_memory(ram: &mut GuestRam) {
    let mut set = |table: u64, index: u64, entry: u64| {
        ram.write(table + 8 * index, &entry.to_le_bytes())
            .expect("an address in RAM");
    };
    let all = PRESENT | WRITABLE | USER;
    set(PML4, 0, PDPT | all);
    set(PML4, KERNEL >> 39 & 511, KERNEL_PDPT | all);
    set(KERNEL_PDPT, 0, KERNEL_DIRECTORY | all);
    set(PDPT, 1, USER_DIRECTORY | all);
    set(KERNEL_DIRECTORY, 0, PRESENT | WRITABLE | LARGE);
    set(USER_DIRECTORY, CODE >> 21 & 511, CODE_TABLE | all);
    set(USER_DIRECTORY, DATA >> 21 & 511, DATA_TABLE | all);
    for page in 0..2 {
        let at = page * PAGE;
        set(CODE_TABLE, (CODE + at) >> 12 & 511, (CODE_PAGES + at) | all);
        set(
            DATA_TABLE,
            (DATA + at) >> 12 & 511,
            (DATA_PAGES + at) | all | NO_EXECUTE,
        );
    }
    set(
        DATA_TABLE,
        READ_ONLY >> 12 & 511,
        READ_ONLY_PAGE | PRESENT | USER | NO_EXECUTE,
    );
    ram.write(CODE_PAGES, &[FILLER; CODE_BYTES])
        .expect("an address in RAM");
}

/// A code or data descriptor. `rights` as in [`x86::CpuState`]: type, S, DPL, P, AVL, L, D/B, G.
fn descriptor(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (rights & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (rights >> 12 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

fn write_tables(ram: &mut GuestRam) {
    let mut write = |address: u64, value: u64| {
        ram.write(address, &value.to_le_bytes())
            .expect("an address in RAM");
    };
    let gdt = [
        0,
        descriptor(0, 0xf_ffff, 0xa09b),
        descriptor(0, 0xf_ffff, 0xc093),
        descriptor(0, 0xf_ffff, 0xc0fb),
        descriptor(0, 0xf_ffff, 0xc0f3),
        descriptor(0, 0xf_ffff, 0xa0fb),
        descriptor(TSS, 0x67, 0x008b),
        KERNEL >> 32,
        descriptor(CODE, 0xffff, 0x00fb),
        descriptor(BASE16, 0xffff, 0x00f3),
    ];
    for (n, entry) in (0..).zip(gdt) {
        write(GDT + 8 * n, entry);
    }
    for vector in 0..32 {
        let target = KERNEL + STUBS + vector * STUB_BYTES;
        // Present, DPL 3, 64-bit interrupt gate.
        let gate = target & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | 0xee << 40
            | (target >> 16 & 0xffff) << 48;
        write(IDT + 16 * vector, gate);
        write(IDT + 16 * vector + 8, target >> 32);
    }
    write(TSS + 4, KERNEL + STACK_TOP);
}

/// The kernel: stubs, and the way back to user mode. Returns how many steps that takes.
fn write_kernel(ram: &mut GuestRam) -> u64 {
    let absolute =
        |address: u64| MemoryOperand::with_base_displ(Register::RIP, (KERNEL + address) as i64);
    let mut resume = vec![
        Instruction::with2(
            Code::Mov_r32_rm32,
            Register::EAX,
            absolute(CONTEXT_GPR + 8 * 16),
        ),
        Instruction::with2(Code::Mov_Sreg_r32m16, Register::DS, Register::EAX),
        Instruction::with2(Code::Mov_Sreg_r32m16, Register::ES, Register::EAX),
        Instruction::with2(Code::Mov_r32_imm32, Register::EAX, 7),
        Instruction::with2(Code::Mov_r32_imm32, Register::EDX, 0),
        Instruction::with1(Code::Xrstor64_mem, absolute(CONTEXT)),
    ];
    for n in (0u32..16).filter(|&n| n != 4) {
        let place = absolute(CONTEXT_GPR + 8 * u64::from(n));
        resume.push(Instruction::with2(
            Code::Mov_r64_rm64,
            Register::RAX + n,
            place,
        ));
    }
    resume.push(Instruction::with2(
        Code::Mov_r64_imm64,
        Register::RSP,
        KERNEL + FRAME,
    ));
    let mut resume: Vec<Instruction> = resume
        .into_iter()
        .map(|insn| insn.expect("a valid instruction"))
        .collect();
    resume.push(Instruction::with(Code::Iretq));
    let steps = 1 + resume.len() as u64;
    let mut encoder = Encoder::new(64);
    let mut at = KERNEL + RESUME;
    for insn in &resume {
        at += encoder.encode(insn, at).expect("a valid instruction") as u64;
    }
    ram.write(RESUME, &encoder.take_buffer())
        .expect("an address in RAM");
    for vector in 0..32 {
        let at = STUBS + vector * STUB_BYTES;
        let target = KERNEL + RESUME;
        let jump = Instruction::with_branch(Code::Jmp_rel32_64, target).expect("a branch");
        encoder
            .encode(&jump, KERNEL + at)
            .expect("a valid instruction");
        ram.write(at, &encoder.take_buffer())
            .expect("an address in RAM");
    }
    steps
}

fn initial_state() -> CpuState {
    let mut state = CpuState::power_up(Profile::V3, [0; 32]);
    state.cr0 = 0x8001_0033;
    state.cr3 = PML4;
    // PAE, PGE, OSFXSR, OSXMMEXCPT, OSXSAVE.
    state.cr4 = 0x4_06a0;
    state.xcr0 = 7;
    state.msr.efer = 0xd01;
    state.gdtr.base = KERNEL + GDT;
    state.gdtr.limit = 0x4f;
    state.idtr.base = KERNEL + IDT;
    state.idtr.limit = 32 * 16 - 1;
    state.tr.selector = TASK;
    state.tr.base = KERNEL + TSS;
    state.tr.limit = 0x67;
    state.tr.rights = 0x8b;
    // Null or user segments alone survive the way to user mode.
    for (slot, segment) in state.segments.iter_mut().enumerate() {
        segment.selector = if slot == 1 { KERNEL_CODE } else { USER_DATA };
        segment.rights = if slot == 1 { 0xa09b } else { 0xc0f3 };
        segment.base = if slot == 5 { GS_BASE } else { 0 };
        segment.limit = u32::MAX;
    }
    state.segments[2].selector = 0x10;
    state.segments[2].rights = 0xc093;
    state.rip = KERNEL + STUBS;
    state.gpr[4] = KERNEL + STACK_TOP;
    state
}
