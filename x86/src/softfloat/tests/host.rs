//! The host's FPU, one instruction at a time.
//!
//! What it does not: deliver #MF. The state is taken by FNSAVE, which does not wait, so unmasked
//! exceptions show in the image only.

#![allow(unsafe_code)]

use core::arch::asm;

use super::super::F80;

/// The FPU after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The status word.
    pub fsw: u16,
    /// The registers from ST0 on.
    pub st: [F80; 8],
    /// The memory that a store wrote.
    pub memory: [u8; 16],
}

impl State {
    pub fn exceptions(&self) -> u16 {
        self.fsw & 0x3f
    }
    pub fn c0(&self) -> bool {
        self.fsw & 1 << 8 != 0
    }
    pub fn c1(&self) -> bool {
        self.fsw & 1 << 9 != 0
    }
    pub fn c2(&self) -> bool {
        self.fsw & 1 << 10 != 0
    }
    pub fn c3(&self) -> bool {
        self.fsw & 1 << 14 != 0
    }
}

/// Whether the host is one of those whose undefined results ours are modelled on.
pub fn is_amd() -> bool {
    core::arch::x86_64::__cpuid(0).ebx.to_le_bytes() == *b"Auth"
}

/// What the registers and memory are before an instruction.
#[repr(C, align(16))]
pub struct Frame {
    pub st0: [u8; 16],
    pub st1: [u8; 16],
    pub memory: [u8; 16],
    pub saved: [u8; 112],
    pub fcw: u16,
}

impl Frame {
    pub fn new(a: F80, b: F80, memory: [u8; 16], fcw: u16) -> Self {
        let mut frame = Self {
            st0: [0; 16],
            st1: [0; 16],
            memory,
            saved: [0; 112],
            fcw,
        };
        frame.st0[..10].copy_from_slice(&a.to_bytes());
        frame.st1[..10].copy_from_slice(&b.to_bytes());
        frame
    }

    pub fn state(&self) -> State {
        let mut st = [F80::ZERO; 8];
        for (i, register) in st.iter_mut().enumerate() {
            let at = 28 + 10 * i;
            *register = F80::from_bytes(self.saved[at..at + 10].try_into().unwrap());
        }
        State {
            fsw: u16::from_le_bytes([self.saved[4], self.saved[5]]),
            st,
            memory: self.memory,
        }
    }
}

/// A function that runs one instruction with ST0 = `a`, ST1 = `b` and RCX pointing to `memory`.
pub type Native = fn(a: F80, b: F80, memory: [u8; 16], fcw: u16) -> State;

macro_rules! natives {
    ($($name:ident: $text:literal;)*) => {
        $(
            pub fn $name(a: F80, b: F80, memory: [u8; 16], fcw: u16) -> State {
                let mut frame = Frame::new(a, b, memory, fcw);
                let at = &raw mut frame;
                // SAFETY: touches only the frame and the FPU, all of whose registers are
                // declared clobbered; FNSAVE leaves the FPU in its initial state.
                unsafe {
                    asm!(
                        "fninit",
                        "fldcw word ptr [rdx + 160]",
                        "fld tbyte ptr [rdx + 16]",
                        "fld tbyte ptr [rdx]",
                        "lea rcx, [rdx + 32]",
                        $text,
                        "fnsave [rdx + 48]",
                        in("rdx") at,
                        out("rcx") _,
                        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    );
                }
                frame.state()
            }
        )*
    };
}

natives! {
    fadd: "fadd st(0), st(1)";
    fsub: "fsub st(0), st(1)";
    fmul: "fmul st(0), st(1)";
    fdiv: "fdiv st(0), st(1)";
    fsqrt: "fsqrt";
    fprem: "fprem";
    fprem1: "fprem1";
    frndint: "frndint";
    fscale: "fscale";
    fxtract: "fxtract";
    fcom: "fcom st(1)";
    fucom: "fucom st(1)";
    fcomp: "fcomp st(1)";
    fcomi: "stc; fcomi st(0), st(1); pushfq; pop qword ptr [rcx]";
    fucomi: "stc; fucomi st(0), st(1); pushfq; pop qword ptr [rcx]";
    ftst: "ftst";
    fxam: "fxam";
    fadd_m32: "fadd dword ptr [rcx]";
    fadd_m64: "fadd qword ptr [rcx]";
    fdiv_m64: "fdiv qword ptr [rcx]";
    fdivr_m32: "fdivr dword ptr [rcx]";
    fmul_m32: "fmul dword ptr [rcx]";
    fcom_m32: "fcom dword ptr [rcx]";
    fiadd_m16: "fiadd word ptr [rcx]";
    fld_m32: "fld dword ptr [rcx]";
    fld_m64: "fld qword ptr [rcx]";
    fild_m16: "fild word ptr [rcx]";
    fild_m32: "fild dword ptr [rcx]";
    fild_m64: "fild qword ptr [rcx]";
    fbld: "fbld [rcx]";
    fst_m32: "fst dword ptr [rcx]";
    fst_m64: "fst qword ptr [rcx]";
    fist_m16: "fist word ptr [rcx]";
    fist_m32: "fist dword ptr [rcx]";
    fistp_m64: "fistp qword ptr [rcx]";
    fisttp_m16: "fisttp word ptr [rcx]";
    fisttp_m32: "fisttp dword ptr [rcx]";
    fisttp_m64: "fisttp qword ptr [rcx]";
    fbstp: "fbstp [rcx]";
    fld1: "fld1";
    fldz: "fldz";
    fldl2t: "fldl2t";
    fldl2e: "fldl2e";
    fldpi: "fldpi";
    fldlg2: "fldlg2";
    fldln2: "fldln2";
    fsin: "fsin";
    fcos: "fcos";
    fsincos: "fsincos";
    fptan: "fptan";
    fpatan: "fpatan";
    f2xm1: "f2xm1";
    fyl2x: "fyl2x";
    fyl2xp1: "fyl2xp1";
}
