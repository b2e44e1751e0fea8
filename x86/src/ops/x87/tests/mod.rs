//! The family's tests: a CPU without paging that executes one instruction at a time.
//!
//! What instructions compute, and what they do to stack and status, is compared with the host in
//! the differential tests; here is what those cannot reach.

mod environment;
mod exceptions;
mod pointers;
mod stack;

use ::memory::GuestRam;

use crate::bus::{Bus, Progress};
use crate::core::{Core, cr0, efer};
use crate::decode::{Decoded, decode};
use crate::env::Env;
use crate::fault::Fault;
use crate::op::{Flow, SLOT_BLOCK_RIP};
use crate::softfloat::F80;
use arch::cpuid::Profile;

use crate::state::{CpuState, RIGHTS_BIG, RIGHTS_LONG};

/// Size of the test's RAM.
const RAM: u64 = 1 << 20;
/// RIP of the instruction under test.
const RIP: u64 = 0x1234;
/// What RDI, and with it the memory operand, is.
const DATA: u64 = 0x8000;
/// Base of the data segment in real and virtual-8086 mode.
const REAL_BASE: u64 = 0x2_0000;

/// A bus with nothing on it.
struct Nothing;

impl Bus for Nothing {
    fn io_read(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8) -> u32 {
        unreachable!()
    }
    fn io_write(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8, _: u32) {
        unreachable!()
    }
    fn mmio_read(&mut self, _: &mut GuestRam, _: Progress, _: u64, _: u8) -> u64 {
        unreachable!()
    }
    fn mmio_write(&mut self, _: &mut GuestRam, _: Progress, _: u64, _: u8, _: u64) {
        unreachable!()
    }
    fn msr_read(&mut self, _: Progress, _: u32) -> Option<u64> {
        unreachable!()
    }
    fn msr_write(&mut self, _: Progress, _: u32, _: u64) -> Option<()> {
        unreachable!()
    }
    fn cr8(&mut self) -> u64 {
        unreachable!()
    }
    fn set_cr8(&mut self, _: u64) {
        unreachable!()
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        unreachable!()
    }
    fn tsc(&self, _: Progress) -> u64 {
        unreachable!()
    }
}

/// What the CPU executes as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Long,
    Protected32,
    Real,
    Virtual8086,
}

/// A CPU after FNINIT, and its RAM.
struct Bench {
    core: Core,
    ram: GuestRam,
}

impl Bench {
    fn new(mode: Mode) -> Bench {
        let mut state = CpuState::power_up(Profile::V1, [0; 32]);
        state.gpr[7] = DATA;
        state.cr0 = cr0::ET | cr0::NE;
        if mode != Mode::Real {
            state.cr0 |= cr0::PE;
        }
        for (slot, segment) in state.segments.iter_mut().enumerate() {
            segment.base = 0;
            match mode {
                Mode::Long => segment.rights |= if slot == 1 { RIGHTS_LONG } else { 0 },
                Mode::Protected32 => segment.rights |= RIGHTS_BIG,
                Mode::Real | Mode::Virtual8086 => {
                    segment.base = REAL_BASE;
                    segment.selector = (REAL_BASE >> 4) as u16;
                }
            }
        }
        match mode {
            Mode::Long => state.msr.efer = efer::LME | efer::LMA,
            Mode::Virtual8086 => state.rflags |= crate::flags::VM,
            Mode::Protected32 | Mode::Real => {}
        }
        let mut bench = Bench {
            core: Core::from_state(&state),
            ram: GuestRam::new(RAM).expect("memory"),
        };
        bench.core.x87.initialize();
        bench
    }

    /// Executes the instruction that `bytes` are.
    fn run(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        let Decoded::Op { op, .. } = decode(&padded, 0, self.core.code_size, self.core.features)
        else {
            panic!("not an instruction: {bytes:02x?}");
        };
        self.core.gpr[usize::from(SLOT_BLOCK_RIP)] = RIP;
        let mut env = Env {
            ram: &mut self.ram,
            bus: &mut Nothing,
        };
        match (op.run)(&mut self.core, &mut env, &op) {
            Ok(flow) => {
                assert_eq!(flow, Flow::Next);
                assert_eq!(usize::from(op.length), bytes.len(), "{bytes:02x?}");
                Ok(())
            }
            Err(_) => Err(self.core.fault),
        }
    }

    fn push(&mut self, value: F80) {
        self.core.x87.push(value);
    }

    fn st(&self, i: u8) -> Option<F80> {
        self.core.x87.get(i)
    }

    fn poke(&mut self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).expect("RAM");
    }

    fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(address, &mut bytes).expect("RAM");
        bytes
    }
}

/// `FLD1`.
const FLD1: &[u8] = &[0xd9, 0xe8];
/// `FNSTENV [RDI]`.
const FNSTENV: &[u8] = &[0xd9, 0x37];

/// Two, which no constant instruction loads.
const TWO: F80 = F80::new(false, 0x4000, 1 << 63);
