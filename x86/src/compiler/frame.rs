//! The way into compiled code and out of it.
//!
//! Does: keep what compiled code needs on the host's stack, where RSP finds it; move the guest's
//! registers between there and the host's; call handlers from compiled code. Does not: decide what
//! to run (`run`).
//!
//! Invariant: between [`enter`] and its return RSP points at a [`Frame`] with ordinary stack below
//! it, so a signal may arrive at any time. The host's callee-saved registers, its MXCSR and its
//! direction flag are as the caller left them whenever Rust code runs.
//!
//! | host | holds |
//! |---|---|
//! | RAX | the guest's flags while they are saved: AH as LAHF has it, AL is OF; else scratch |
//! | RCX RDX RBX RBP RSI RDI R8 R9 R10 | the guest's register of that name |
//! | R11 | the guest's RAX |
//! | R12 | the guest's RSP |
//! | R13 R14 | scratch: a linear, then a host address; an entry of the TLB |
//! | R15 | steps that are left, see [`Frame::budget`] |
//! | RSP | the frame, which has the guest's R11 to R15 |
//! | XMM0–15, YMM0–15 | the guest's, as far as [`Frame::live`] says |

#![allow(unsafe_code)]

use std::arch::naked_asm;
use std::mem::offset_of;

use super::run;
use crate::block::Jump;
use crate::cpu::Cpu;
use crate::env::Env;

/// What compiled code finds at RSP. The first 128 bytes are the cheapest to reach.
#[repr(C)]
pub(crate) struct Frame {
    /// First entry of the TLB set for data.
    pub(super) tlb: u64,
    /// RIP of the start of the page that executes; in 64-bit code also its linear address.
    pub(super) page: u64,
    /// The jump cache.
    pub(super) jumps: u64,
    /// Key of the jump cache's entries that hold now.
    pub(super) key: u64,
    /// [`call_handler`].
    pub(super) call_handler: u64,
    pub(super) scratch: u64,
    /// Bases of FS and GS.
    pub(super) bases: [u64; 2],
    /// A [`Live`]: which vector registers are the guest's. If not none, MXCSR is, too.
    pub(super) live: u64,
    /// General registers, R15 first; those that the host's registers hold are stale.
    gpr: [u64; 16],
    /// The flags that are not arithmetic, at their places in RFLAGS; and CPL.
    pub(super) system: u64,
    pub(super) level: u64,
    /// What the key contributes to places in the jump cache.
    pub(super) spread: u64,
    /// [`leave`].
    pub(super) leave: u64,
    /// [`load_vectors`].
    pub(super) load_vectors: u64,
    /// RAX: the guest's flags, saved.
    pub(super) flags: u64,
    /// R15. Steps at the end of the running block are `origin - budget`.
    pub(super) budget: i64,
    pub(super) origin: u64,
    /// R14 and R13 at [`leave`]: why, and what for.
    pub(super) exit: u64,
    pub(super) argument: u64,
    /// The guest's MXCSR, and the host's.
    pub(super) mxcsr: [u32; 2],
    pub(super) cpu: *mut Cpu,
    pub(super) env: *mut Env<'static>,
    pub(super) xmm: [u128; 16],
    /// Upper halves of YMM0–15.
    pub(super) ymm_high: [u128; 16],
}

/// Which of the host's vector registers hold the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Live {
    /// None.
    Nothing = 0,
    /// XMM0–15; the upper halves of YMM are the host's.
    Xmm = 1,
    /// YMM0–15.
    Ymm = 2,
}

/// Bytes that [`enter`] reserves: the frame, and what aligns it after a call and six pushes.
const SIZE: usize = size_of::<Frame>() + 8;

const _: () = assert!(SIZE % 16 == 8, "the frame is aligned");
const _: () = assert!(offset_of!(Frame, xmm) % 16 == 0, "MOVAPS is aligned");

/// Offset of a guest register's place.
pub(super) const fn gpr(number: u8) -> i32 {
    (offset_of!(Frame, gpr) + (15 - number as usize) * 8) as i32
}

macro_rules! offsets {
    ($($name:ident: $field:ident $(+ $more:literal)?;)*) => {
        $(pub(super) const $name: i32 = (offset_of!(Frame, $field) $(+ $more)?) as i32;)*
    };
}

offsets! {
    TLB: tlb;
    PAGE: page;
    JUMPS: jumps;
    KEY: key;
    SPREAD: spread;
    SYSTEM: system;
    LEVEL: level;
    CALL_HANDLER: call_handler;
    SCRATCH: scratch;
    FS_BASE: bases;
    GS_BASE: bases + 8;
    LIVE: live;
    LEAVE: leave;
    LOAD_VECTORS: load_vectors;
}

impl Frame {
    /// A guest register.
    pub(super) fn gpr(&self, number: usize) -> u64 {
        self.gpr[15 - number]
    }

    pub(super) fn set_gpr(&mut self, number: usize, value: u64) {
        self.gpr[15 - number] = value;
    }
}

/// Host registers to the frame at `{at} + [rsp]`.
macro_rules! spill {
    () => {
        concat!(
            "mov [rsp + {at} + {r0}], r11\n",
            "mov [rsp + {at} + {r0} - 8], rcx\n",
            "mov [rsp + {at} + {r0} - 16], rdx\n",
            "mov [rsp + {at} + {r0} - 24], rbx\n",
            "mov [rsp + {at} + {r0} - 32], r12\n",
            "mov [rsp + {at} + {r0} - 40], rbp\n",
            "mov [rsp + {at} + {r0} - 48], rsi\n",
            "mov [rsp + {at} + {r0} - 56], rdi\n",
            "mov [rsp + {at} + {r0} - 64], r8\n",
            "mov [rsp + {at} + {r0} - 72], r9\n",
            "mov [rsp + {at} + {r0} - 80], r10\n",
            "mov [rsp + {at} + {flags}], rax\n",
            "mov [rsp + {at} + {budget}], r15\n",
        )
    };
}

/// The frame at `{at} + [rsp]` to host registers.
macro_rules! fill {
    () => {
        concat!(
            "mov r11, [rsp + {at} + {r0}]\n",
            "mov rcx, [rsp + {at} + {r0} - 8]\n",
            "mov rdx, [rsp + {at} + {r0} - 16]\n",
            "mov rbx, [rsp + {at} + {r0} - 24]\n",
            "mov r12, [rsp + {at} + {r0} - 32]\n",
            "mov rbp, [rsp + {at} + {r0} - 40]\n",
            "mov rsi, [rsp + {at} + {r0} - 48]\n",
            "mov rdi, [rsp + {at} + {r0} - 56]\n",
            "mov r8, [rsp + {at} + {r0} - 64]\n",
            "mov r9, [rsp + {at} + {r0} - 72]\n",
            "mov r10, [rsp + {at} + {r0} - 80]\n",
            "mov rax, [rsp + {at} + {flags}]\n",
            "mov r15, [rsp + {at} + {budget}]\n",
        )
    };
}

/// The end of compiled code: back to the caller of [`enter`].
macro_rules! unwind {
    () => {
        concat!(
            "add rsp, {size}\n",
            "pop r15\n",
            "pop r14\n",
            "pop r13\n",
            "pop r12\n",
            "pop rbx\n",
            "pop rbp\n",
            "ret\n",
        )
    };
}

/// Makes a frame, lets [`run::begin`] fill it for `cpu`, and jumps to the code it names. Returns
/// when compiled code has left and the CPU has its registers again.
///
/// # Safety
/// Both pointers are valid and unique; the code that `cpu` names is compiled code.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(cpu: *mut Cpu, env: *mut Env<'static>) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, {size}",
        "mov [rsp + {cpu}], rdi",
        "mov [rsp + {env}], rsi",
        "stmxcsr [rsp + {mxcsr} + 4]",
        "mov rdi, rsp",
        "call {begin}",
        "mov [rsp + {scratch}], rax",
        fill!(),
        "jmp qword ptr [rsp + {scratch}]",
        at = const 0,
        r0 = const gpr(0),
        size = const SIZE,
        cpu = const offset_of!(Frame, cpu),
        env = const offset_of!(Frame, env),
        mxcsr = const offset_of!(Frame, mxcsr),
        scratch = const offset_of!(Frame, scratch),
        flags = const offset_of!(Frame, flags),
        budget = const offset_of!(Frame, budget),
        begin = sym run::begin,
    )
}

/// Compiled code jumps here to leave: R14 says why, R13 what for; see `run::Leaving`.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn leave() {
    naked_asm!(
        spill!(),
        "mov [rsp + {exit}], r14",
        "mov [rsp + {argument}], r13",
        "mov rdi, rsp",
        "call {spill_vectors}",
        "call {end}",
        unwind!(),
        at = const 0,
        r0 = const gpr(0),
        size = const SIZE,
        exit = const offset_of!(Frame, exit),
        argument = const offset_of!(Frame, argument),
        flags = const offset_of!(Frame, flags),
        budget = const offset_of!(Frame, budget),
        spill_vectors = sym spill_vectors,
        end = sym run::end,
    )
}

/// The jump cache leads here for blocks without code, with the block's entry in R14: leaves there.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn way_out() {
    naked_asm!(
        "mov r13, [r14 + {linear}]",
        "mov r14d, {next}",
        "jmp {leave}",
        linear = const offset_of!(Jump, linear),
        next = const run::Leaving::Next as u32,
        leave = sym leave,
    )
}

/// Compiled code calls this for an instruction without a template, or one whose template gave up:
/// R13 names it, the flags are saved. Comes back with the flags saved and no vector register live,
/// or leaves.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn call_handler() {
    naked_asm!(
        spill!(),
        "lea rdi, [rsp + {at}]",
        "call {spill_vectors}",
        "mov esi, r13d",
        "sub rsp, 8",
        "call {handler}",
        "add rsp, 8",
        "test eax, eax",
        "jnz 30f",
        fill!(),
        "ret",
        "30:",
        "add rsp, 8",
        unwind!(),
        at = const 8,
        r0 = const gpr(0),
        size = const SIZE,
        flags = const offset_of!(Frame, flags),
        budget = const offset_of!(Frame, budget),
        spill_vectors = sym spill_vectors,
        handler = sym run::handler,
    )
}

/// Compiled code calls this before vector instructions if too little is live: R13 names the first of
/// them, R14 is the [`Live`] that it takes, the flags are saved. Comes back with that; if native
/// instructions cannot be exact now, leaves.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn load_vectors() {
    naked_asm!(
        spill!(),
        "mov [rsp + {at} + {argument}], r13",
        "lea rdi, [rsp + {at}]",
        "call {spill_vectors}",
        "mov esi, r14d",
        "sub rsp, 8",
        "call {load}",
        "add rsp, 8",
        "test eax, eax",
        "jnz 30f",
        "lea rdi, [rsp + {at}]",
        "call {fill_vectors}",
        fill!(),
        "ret",
        "30:",
        "add rsp, 8",
        unwind!(),
        at = const 8,
        r0 = const gpr(0),
        size = const SIZE,
        argument = const offset_of!(Frame, argument),
        flags = const offset_of!(Frame, flags),
        budget = const offset_of!(Frame, budget),
        spill_vectors = sym spill_vectors,
        fill_vectors = sym fill_vectors,
        load = sym run::load_vectors,
    )
}

/// A line for each vector register, whose number goes between each two of the parts.
macro_rules! each_register {
    ($first:literal, $($part:literal),*) => {
        concat!(
            each_register!(0: $first, $($part),*), each_register!(1: $first, $($part),*),
            each_register!(2: $first, $($part),*), each_register!(3: $first, $($part),*),
            each_register!(4: $first, $($part),*), each_register!(5: $first, $($part),*),
            each_register!(6: $first, $($part),*), each_register!(7: $first, $($part),*),
            each_register!(8: $first, $($part),*), each_register!(9: $first, $($part),*),
            each_register!(10: $first, $($part),*), each_register!(11: $first, $($part),*),
            each_register!(12: $first, $($part),*), each_register!(13: $first, $($part),*),
            each_register!(14: $first, $($part),*), each_register!(15: $first, $($part),*),
        )
    };
    ($n:literal: $first:literal, $($part:literal),*) => {
        concat!($first, $($n, $part,)* "\n")
    };
}

/// What is live, to the frame in RDI; MXCSR is the host's afterwards. Changes no general register.
/// [`Frame::live`] stays, for whoever wants to know what of the frame is the latest.
#[unsafe(naked)]
unsafe extern "sysv64" fn spill_vectors() {
    naked_asm!(
        "cmp qword ptr [rdi + {live}], {nothing}",
        "je 20f",
        each_register!("movaps [rdi + {xmm} + 16*", "], xmm", ""),
        "cmp qword ptr [rdi + {live}], {ymm}",
        "jne 10f",
        each_register!("vextractf128 [rdi + {ymm_high} + 16*", "], ymm", ", 1"),
        // The host's own SSE instructions are slow on some processors while these are not zero.
        "vzeroupper",
        "10:",
        "stmxcsr [rdi + {mxcsr}]",
        "ldmxcsr [rdi + {mxcsr} + 4]",
        "20:",
        "ret",
        live = const offset_of!(Frame, live),
        nothing = const Live::Nothing as u32,
        ymm = const Live::Ymm as u32,
        xmm = const offset_of!(Frame, xmm),
        ymm_high = const offset_of!(Frame, ymm_high),
        mxcsr = const offset_of!(Frame, mxcsr),
    )
}

/// What [`Frame::live`] says, from the frame in RDI, with the guest's MXCSR.
#[unsafe(naked)]
unsafe extern "sysv64" fn fill_vectors() {
    naked_asm!(
        each_register!("movaps xmm", ", [rdi + {xmm} + 16*", "]"),
        "cmp qword ptr [rdi + {live}], {ymm}",
        "jne 10f",
        each_register!("vinsertf128 ymm", ", ymm", ", [rdi + {ymm_high} + 16*", "], 1"),
        "10:",
        "ldmxcsr [rdi + {mxcsr}]",
        "ret",
        live = const offset_of!(Frame, live),
        ymm = const Live::Ymm as u32,
        xmm = const offset_of!(Frame, xmm),
        ymm_high = const offset_of!(Frame, ymm_high),
        mxcsr = const offset_of!(Frame, mxcsr),
    )
}
