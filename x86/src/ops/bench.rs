//! What the tests of instruction families run on: a CPU without paging that executes one
//! instruction at a time.

use arch::cpuid::Profile;
use memory::GuestRam;

use crate::bus::{Bus, Progress};
use crate::core::{Core, cr0, cr4, efer};
use crate::decode::{Decoded, decode, end_mark};
use crate::env::Env;
use crate::fault::Fault;
use crate::op::{Flow, SLOT_BLOCK_RIP};
use crate::state::{CpuState, RIGHTS_BIG, RIGHTS_LONG, XCR0_KNOWN};

/// Size of the test's RAM.
const RAM: u64 = 1 << 20;
/// RIP of the instruction under test.
pub(crate) const RIP: u64 = 0x1234;
/// What RDI, and with it the memory operand, is unless a test says otherwise.
pub(crate) const DATA: u64 = 0x8000;
/// Base of the data segment in real and virtual-8086 mode.
pub(crate) const REAL_BASE: u64 = 0x2_0000;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Long,
    Protected32,
    Real,
    Virtual8086,
}

/// A CPU with everything enabled, x87 after FNINIT, and its RAM.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) ram: GuestRam,
}

impl Bench {
    /// A CPU in 64-bit mode.
    pub(crate) fn new() -> Bench {
        Bench::in_mode(Mode::Long)
    }

    /// A CPU in `mode`.
    pub(crate) fn in_mode(mode: Mode) -> Bench {
        let mut state = CpuState::power_up(Profile::V3, [0; 32]);
        state.gpr = [0; 16];
        state.gpr[7] = DATA;
        state.cr0 = cr0::ET | cr0::NE;
        state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        state.xcr0 = XCR0_KNOWN;
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
    pub(crate) fn run(&mut self, bytes: &[u8]) -> Result<(), Fault> {
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
        let alone = [op, end_mark()];
        self.core.cursor.start(&alone);
        let outcome = (op.run)(&mut self.core, &mut env, &alone[0]);
        self.core.cursor.leave();
        match outcome {
            Ok(flow) => {
                assert!(matches!(flow, Flow::Next | Flow::Leave));
                assert_eq!(usize::from(op.length), bytes.len(), "{bytes:02x?}");
                Ok(())
            }
            Err(_) => Err(self.core.fault),
        }
    }

    pub(crate) fn poke(&mut self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).expect("RAM");
    }

    pub(crate) fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(address, &mut bytes).expect("RAM");
        bytes
    }
}
