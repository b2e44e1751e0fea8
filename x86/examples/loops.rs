//! Small loops on the interpreter and on the compiler: millions of steps in a second of host CPU time.
//!
//! `cargo run --release -p x86 --example loops [STEPS]`

use std::sync::atomic::AtomicBool;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestRam;
use x86::{Cpu, CpuState, Limits, NoDevices, Profile, Translation, Tuning};

/// Where code and data lie.
const CODE: u64 = 0x10_0000;
const STACK: u64 = 0x18_0000;
const DATA: u64 = 0x20_0000;
const OTHER: u64 = 0x60_0000;
/// Bytes of each of the two arrays, which would alias in a TLB without hashing.
const BYTES: u64 = 4 << 20;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Xorshift, a comparison, a branch.
fn xorshift(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut over) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    for (left, count) in [(true, 13), (false, 7), (true, 17)] {
        a.mov(rdx, rax)?;
        if left {
            a.shl(rdx, count)?;
        } else {
            a.shr(rdx, count)?;
        }
        a.xor(rax, rdx)?;
    }
    a.cmp(rax, rbx)?;
    a.jb(over)?;
    a.inc(rsi)?;
    a.set_label(&mut over)?;
    a.dec(rcx)?;
    a.jne(top)
}

/// A sum over an array.
fn checksum(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.set_label(&mut outer)?;
    a.mov(rdi, DATA)?;
    a.set_label(&mut top)?;
    a.add(rax, qword_ptr(rdi))?;
    a.add(rdi, 8)?;
    a.cmp(rdi, (DATA + BYTES) as i32)?;
    a.jne(top)?;
    a.jmp(outer)
}

/// A copy of an array.
fn copy(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.set_label(&mut outer)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rcx + DATA as i32))?;
    a.mov(qword_ptr(rcx + OTHER as i32), rax)?;
    a.add(rcx, 8)?;
    a.cmp(rcx, BYTES as i32)?;
    a.jne(top)?;
    a.jmp(outer)
}

/// Calls with a push, a load and a pop.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut function) = (a.create_label(), a.create_label());
    a.mov(rdi, DATA)?;
    a.set_label(&mut top)?;
    a.call(function)?;
    a.dec(rcx)?;
    a.jne(top)?;
    a.jmp(top)?;
    a.set_label(&mut function)?;
    a.push(rbx)?;
    a.mov(rbx, qword_ptr(rdi))?;
    a.add(rax, rbx)?;
    a.pop(rbx)?;
    a.ret()
}

/// Calls and returns from page to page.
fn far_calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut function) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.call(function)?;
    a.dec(rcx)?;
    a.jne(top)?;
    a.jmp(top)?;
    a.nops_with_size(5000)?;
    a.set_label(&mut function)?;
    a.add(rax, rcx)?;
    a.ret()
}

/// Scalar doubles: x = x * a + b.
fn doubles(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(rdi, DATA)?;
    a.set_label(&mut top)?;
    a.movsd_2(xmm1, qword_ptr(rdi))?;
    a.mulsd(xmm1, xmm2)?;
    a.addsd(xmm1, xmm3)?;
    a.movsd_2(qword_ptr(rdi + 8), xmm1)?;
    a.dec(rcx)?;
    a.jne(top)
}

const LOOPS: [(&str, Program); 6] = [
    ("xorshift", xorshift),
    ("checksum", checksum),
    ("copy", copy),
    ("calls", calls),
    ("far calls", far_calls),
    ("doubles", doubles),
];

fn state() -> CpuState {
    let mut state = CpuState::power_up(Profile::default(), [0; 32]);
    state.cr0 = 0x8000_0031;
    state.cr4 = 0x620;
    state.cr3 = 0x1000;
    state.msr.efer = 0x500;
    for (slot, segment) in state.segments.iter_mut().enumerate() {
        segment.selector = if slot == 1 { 8 } else { 16 };
        segment.rights = if slot == 1 { 0xa09b } else { 0xc093 };
        segment.limit = u32::MAX;
        segment.base = 0;
    }
    state.rip = CODE;
    state.gpr[4] = STACK;
    state.gpr[0] = 88_172_645_463_325_252;
    state.gpr[3] = 1 << 63;
    state.gpr[1] = u64::MAX;
    state.xmm[2] = u128::from(0.999f64.to_bits());
    state.xmm[3] = u128::from(0.5f64.to_bits());
    state
}

/// Host CPU time of this thread.
fn seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure outlives the call.
    #[expect(unsafe_code, reason = "a benchmark measures host time")]
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time)
    };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn rate(program: Program, translation: Translation, steps: u64) -> f64 {
    let mut ram = GuestRam::new(16 << 20).expect("RAM can be mapped");
    let mut assembler = CodeAssembler::new(64).expect("64 bits");
    program(&mut assembler).expect("the instructions exist");
    let code = assembler.assemble(CODE).expect("they can be encoded");
    ram.write(CODE, &code).expect("RAM");
    ram.write(0x1000, &0x2003u64.to_le_bytes()).expect("RAM");
    ram.write(0x2000, &0x3003u64.to_le_bytes()).expect("RAM");
    for page in 0..8u64 {
        ram.write(0x3000 + 8 * page, &(page << 21 | 0x83).to_le_bytes())
            .expect("RAM");
    }
    let mut cpu = Cpu::new(&state(), Tuning::new(16 << 20, translation));
    let kick = AtomicBool::new(false);
    let mut run = |steps| {
        let limits = Limits {
            steps: cpu.progress().steps + steps,
            units: u64::MAX,
            interrupt: false,
        };
        cpu.run(&mut ram, &mut NoDevices, limits, &kick);
    };
    run(steps / 10);
    let start = seconds();
    run(steps);
    steps as f64 / (seconds() - start) / 1e6
}

fn main() {
    let steps = std::env::args()
        .nth(1)
        .map_or(300_000_000, |text| text.parse().expect("STEPS is a number"));
    println!("{:12} {:>12} {:>12}", "loop", "interpreter", "compiler");
    for (name, program) in LOOPS {
        let interpreted = rate(program, Translation::Interpreter, steps / 10);
        let compiled = rate(program, Translation::Mixed, steps);
        println!("{name:12} {interpreted:>12.0} {compiled:>12.0}");
    }
}
