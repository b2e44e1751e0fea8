//! The processor underneath: executes cases in a child process.
//!
//! The child lives in its signal handler. An INT3 starts a batch; the handler puts the registers of
//! a case into the frame it was given, with TF set, and returns into the instruction; the trap or
//! the fault after it brings the handler back, which notes the outcome and goes on with the next
//! case. So no register is ever out of place, and branches, faults and 32-bit code need nothing
//! special.
//!
//! The child allocates nothing and uses nothing of its parent but the shared batch and two pipes.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void};

use crate::context::{Case, FX_BYTES, Fault, Outcome};
use crate::layout::{
    BASE16, CODE, CODE_BYTES, DATA, DATA_BYTES, FILLER, GS_BASE, Mode, PAGE, READ_ONLY,
};

/// Cases in a batch.
pub const BATCH: usize = 256;

/// What parent and child share.
#[repr(C)]
struct Shared {
    count: usize,
    current: usize,
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// The child process.
pub struct Native {
    shared: *mut Shared,
    child: libc::pid_t,
    requests: c_int,
    replies: c_int,
}

/// Held from making a child's pipes to closing its ends of them.
static FORKING: Mutex<()> = Mutex::new(());

/// Maps memory, at `address` unless that is 0.
fn map(address: u64, length: usize, protection: c_int, flags: c_int) -> *mut c_void {
    let fixed = if address == 0 {
        0
    } else {
        libc::MAP_FIXED_NOREPLACE
    };
    // SAFETY: an anonymous mapping that replaces nothing.
    let at = unsafe {
        let flags = flags | fixed | libc::MAP_ANONYMOUS;
        libc::mmap(address as *mut c_void, length, protection, flags, -1, 0)
    };
    assert!(
        at != libc::MAP_FAILED && (address == 0 || at as u64 == address),
        "mmap failed"
    );
    at
}

impl Native {
    /// Starts a child.
    pub fn start() -> Native {
        let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
        let shared = map(0, size_of::<Shared>(), read | write, libc::MAP_SHARED).cast::<Shared>();
        let (mut down, mut up) = ([0; 2], [0; 2]);
        // No other child may inherit this child's ends: its death would go unnoticed.
        let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both arrays have room for two descriptors.
        let piped = unsafe { libc::pipe(down.as_mut_ptr()) | libc::pipe(up.as_mut_ptr()) };
        assert_eq!(piped, 0, "pipe failed");
        // SAFETY: the child uses only what is safe after a fork in a process with threads.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork failed");
        if child == 0 {
            // SAFETY: the child owns its copies of the descriptors and its address space.
            unsafe {
                libc::close(down[1]);
                libc::close(up[0]);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                serve(shared, down[0], up[1]);
            }
        }
        // SAFETY: these ends belong to the child.
        unsafe {
            libc::close(down[0]);
            libc::close(up[1]);
        }
        Native {
            shared,
            child,
            requests: down[1],
            replies: up[0],
        }
    }

    /// Executes `cases` (at most [`BATCH`]).
    pub fn run(&mut self, cases: &[Case]) -> &[Outcome] {
        assert!(cases.len() <= BATCH);
        // SAFETY: the mapping lives as long as `self`, and the child waits for the byte.
        unsafe {
            let shared = &mut *self.shared;
            shared.count = cases.len();
            shared.current = 0;
            shared.cases[..cases.len()].copy_from_slice(cases);
        }
        let mut byte = 0u8;
        // SAFETY: one byte is written and one is read.
        let moved = unsafe {
            let sent = libc::write(self.requests, ptr::from_ref(&byte).cast(), 1);
            assert_eq!(sent, 1, "the child is gone");
            libc::read(self.replies, ptr::from_mut(&mut byte).cast(), 1)
        };
        // SAFETY: the child has answered or is dead.
        let shared = unsafe { &*self.shared };
        if moved != 1 {
            panic!("the child died of {:x?}", cases[shared.current]);
        }
        &shared.outcomes[..cases.len()]
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for yet; nobody uses the mapping any more.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::close(self.requests);
            libc::close(self.replies);
            libc::waitpid(self.child, ptr::null_mut(), 0);
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}

// ---- the child -------------------------------------------------------------------------------

/// State of the child, which has one thread.
struct Child {
    shared: *mut Shared,
    running: bool,
    /// Registers of the child itself while a batch runs.
    own: [i64; 23],
    own_fx: [u8; FX_BYTES],
    /// The processor has YMM registers, and the kernel's frames hold them.
    has_avx: bool,
}

static mut CHILD: Child = Child {
    shared: ptr::null_mut(),
    running: false,
    own: [0; 23],
    own_fx: [0; FX_BYTES],
    has_avx: false,
};

/// Selector of the 16-bit code segment in the child's LDT.
const LDT_CODE16: u16 = 7;
/// Selector of the 16-bit data segment.
const LDT_DATA16: u16 = 8 | 7;
/// Linux' selector of 32-bit user code.
const USER_CODE32: u16 = 0x23;
/// Linux' selector of 64-bit user code.
const USER_CODE64: u16 = 0x33;
/// Linux' selector of flat user data.
const USER_DATA: u16 = 0x2b;
/// Where a frame's XSAVE header says which states it holds.
const XSTATE_BV: usize = 512;
/// The header's bit for the upper halves of YMM registers.
const AVX_STATE: u64 = 4;
/// Where these are.
const YMM_HIGH: usize = 576;
/// Their size.
const YMM_HIGH_BYTES: usize = 256;
/// Trap flag.
const TF: i64 = 0x100;
/// Flags a case may set.
const SETTABLE: u64 = 0xcd5;

/// `struct user_desc`.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base: u32,
    limit: u32,
    /// Bits: 0 32-bit, 1–2 contents, 3 read-exec-only, 4 limit in pages, 5 not present, 6 useable.
    bits: u32,
}

/// The child's life: serves batches until its parent is gone.
unsafe fn serve(shared: *mut Shared, requests: c_int, replies: c_int) -> ! {
    // SAFETY: single-threaded from here on; all pointers are to mappings made here.
    unsafe {
        let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
        let exec = libc::PROT_EXEC;
        let code = map(CODE, CODE_BYTES, read | write | exec, libc::MAP_PRIVATE);
        ptr::write_bytes(code.cast::<u8>(), FILLER, CODE_BYTES);
        map(DATA, DATA_BYTES, read | write, libc::MAP_PRIVATE);
        let read_only = map(READ_ONLY, PAGE as usize, read, libc::MAP_PRIVATE);
        // The page must be there, or the first fault's error code would tell.
        read_only.cast::<u8>().read_volatile();
        let stack_size = 1 << 16;
        let stack = libc::stack_t {
            ss_sp: map(0, stack_size, read | write, libc::MAP_PRIVATE),
            ss_flags: 0,
            ss_size: stack_size,
        };
        libc::sigaltstack(&stack, ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [
            libc::SIGTRAP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
        ] {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
        const ARCH_SET_GS: c_int = 0x1001;
        libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
        let code16 = UserDesc {
            entry_number: 0,
            base: CODE as u32,
            limit: 0xffff,
            bits: 2 << 1 | 1 << 6,
        };
        let data16 = UserDesc {
            entry_number: 1,
            base: BASE16 as u32,
            limit: 0xffff,
            bits: 1 << 6,
        };
        for descriptor in [code16, data16] {
            const WRITE_LDT: c_int = 1;
            libc::syscall(
                libc::SYS_modify_ldt,
                WRITE_LDT,
                &raw const descriptor,
                size_of::<UserDesc>(),
            );
        }
        let child = &raw mut CHILD;
        (*child).shared = shared;
        (*child).has_avx = is_x86_feature_detected!("avx");
        loop {
            let mut byte = 0u8;
            if libc::read(requests, (&raw mut byte).cast(), 1) != 1 {
                libc::_exit(0);
            }
            // A case that hangs must not outlive the test.
            libc::alarm(60);
            std::arch::asm!("int3");
            libc::alarm(0);
            libc::write(replies, (&raw const byte).cast(), 1);
        }
    }
}

/// The x87 and SSE part of the frame.
unsafe fn fx_of(frame: &libc::ucontext_t) -> *mut u8 {
    frame.uc_mcontext.fpregs.cast::<u8>()
}

unsafe extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, frame: *mut c_void) {
    // SAFETY: the kernel passes a valid frame; the child has one thread, and signals are raised
    // only by the instructions under test, never in here.
    unsafe {
        let frame = &mut *frame.cast::<libc::ucontext_t>();
        let child = &raw mut CHILD;
        let child = &mut *child;
        let shared = &mut *child.shared;
        if child.running {
            note(shared, frame, child.has_avx);
            shared.current += 1;
        } else {
            child.own = frame.uc_mcontext.gregs;
            ptr::copy_nonoverlapping(fx_of(frame), child.own_fx.as_mut_ptr(), FX_BYTES);
            child.running = true;
        }
        if shared.current < shared.count {
            let case = &shared.cases[shared.current];
            begin(case, frame, &child.own, child.has_avx);
        } else {
            child.running = false;
            frame.uc_mcontext.gregs = child.own;
            ptr::copy_nonoverlapping(child.own_fx.as_ptr(), fx_of(frame), FX_BYTES);
        }
    }
}

/// Where the frame keeps our register numbers.
const ORDER: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Prepares memory and the frame for a case.
unsafe fn begin(case: &Case, frame: &mut libc::ucontext_t, own: &[i64; 23], has_avx: bool) {
    // SAFETY: the pages are the child's own; an instruction lies within the code pages.
    unsafe {
        case.fill_memory(&mut *(DATA as *mut [u8; DATA_BYTES]));
        let code = (case.mode.code_base() + case.before.rip) as *mut u8;
        ptr::copy_nonoverlapping(case.code.as_ptr(), code, usize::from(case.length));
        let fx = fx_of(frame);
        let image = case.before.fx.0.as_ptr();
        ptr::copy_nonoverlapping(image, fx, 28);
        ptr::copy_nonoverlapping(image.add(32), fx.add(32), FX_BYTES - 32);
        // The XSAVE header: x87, SSE and AVX are to be loaded.
        *fx.add(XSTATE_BV).cast::<u64>() |= 3;
        if has_avx {
            *fx.add(XSTATE_BV).cast::<u64>() |= AVX_STATE;
            let high = case.before.ymm_high.as_ptr().cast::<u8>();
            ptr::copy_nonoverlapping(high, fx.add(YMM_HIGH), YMM_HIGH_BYTES);
        }
        let (code, data, stack) = match case.mode {
            Mode::Long => (USER_CODE64, USER_DATA, USER_DATA),
            Mode::Flat32 => (USER_CODE32, USER_DATA, USER_DATA),
            Mode::Segmented16 => (LDT_CODE16, LDT_DATA16, LDT_DATA16),
        };
        std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) data);
        let registers = &mut frame.uc_mcontext.gregs;
        for (&at, &value) in ORDER.iter().zip(&case.before.gpr) {
            registers[at as usize] = value as i64;
        }
        registers[libc::REG_RIP as usize] = case.before.rip as i64;
        let step = if case.whole { 0 } else { TF };
        let flags = own[libc::REG_EFL as usize] & !(SETTABLE as i64 | TF);
        registers[libc::REG_EFL as usize] = flags | (case.before.flags & SETTABLE) as i64 | step;
        let selectors = u64::from(code) | u64::from(stack) << 48;
        registers[libc::REG_CSGSFS as usize] = selectors as i64;
    }
}

/// Notes what a case did.
unsafe fn note(shared: &mut Shared, frame: &mut libc::ucontext_t, has_avx: bool) {
    let case = &shared.cases[shared.current];
    let outcome = &mut shared.outcomes[shared.current];
    let registers = &frame.uc_mcontext.gregs;
    for (&at, value) in ORDER.iter().zip(&mut outcome.after.gpr) {
        *value = registers[at as usize] as u64;
    }
    outcome.after.rip = registers[libc::REG_RIP as usize] as u64;
    outcome.after.flags = registers[libc::REG_EFL as usize] as u64;
    let vector = registers[libc::REG_TRAPNO as usize] as u8;
    outcome.fault = match vector {
        1 => Fault::NONE,
        3 if case.whole => {
            outcome.after.rip -= 1;
            Fault::NONE
        }
        _ => Fault {
            vector,
            error: registers[libc::REG_ERR as usize] as u64,
            address: if vector == 14 {
                registers[libc::REG_CR2 as usize] as u64
            } else {
                0
            },
        },
    };
    // SAFETY: as in `begin`.
    unsafe {
        let fx = fx_of(frame);
        ptr::copy_nonoverlapping(fx, outcome.after.fx.0.as_mut_ptr(), FX_BYTES);
        outcome.after.ymm_high = case.before.ymm_high;
        if has_avx {
            let high = outcome.after.ymm_high.as_mut_ptr().cast::<u8>();
            if *fx.add(XSTATE_BV).cast::<u64>() & AVX_STATE != 0 {
                ptr::copy_nonoverlapping(fx.add(YMM_HIGH), high, YMM_HIGH_BYTES);
            } else {
                outcome.after.ymm_high = [0; 16];
            }
        }
        outcome.memory = *(DATA as *const [u8; DATA_BYTES]);
        let code = (case.mode.code_base() + case.before.rip) as *mut u8;
        ptr::write_bytes(code, FILLER, usize::from(case.length));
    }
}
