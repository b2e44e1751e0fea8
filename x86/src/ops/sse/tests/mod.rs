//! The family's tests: a CPU without paging that executes one instruction at a time.
//!
//! What instructions compute is compared with independent definitions (`lanes`), with a CPU's
//! recorded answers (`exceptions`) and, in the differential tests, with the host.

mod exceptions;
mod lanes;
mod memory;
mod moves;
mod rights;

use ::memory::GuestRam;
use iced_x86::{Decoder, DecoderOptions};

use crate::bus::{Bus, Progress};
use crate::core::{Core, cr0, cr4, efer};
use crate::decode::{Decoded, decode};
use crate::env::Env;
use crate::fault::Fault;
use crate::op::{CodeSize, Flow, SLOT_BLOCK_RIP};
use arch::cpuid::Profile;

use crate::state::{CpuState, RIGHTS_LONG};

/// Size of the test's RAM.
const RAM: u64 = 1 << 20;
/// Where memory operands lie unless a test says otherwise.
const DATA: u64 = 0x8000;

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

/// A CPU in 64-bit mode, its RAM, and RDI pointing to [`DATA`].
struct Bench {
    core: Core,
    ram: GuestRam,
}

impl Bench {
    fn new() -> Bench {
        let mut state = CpuState::power_up(Profile::V1, [0; 32]);
        state.cr0 = cr0::PE | cr0::ET | cr0::NE;
        state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        state.msr.efer = efer::LME | efer::LMA;
        state.segments[1].rights |= RIGHTS_LONG;
        state.mxcsr = 0x1f80;
        state.gpr[7] = DATA;
        Bench {
            core: Core::from_state(&state),
            ram: GuestRam::new(RAM).expect("memory"),
        }
    }

    /// Executes the instruction that `bytes` are.
    fn run(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        let Decoded::Op { op, .. } = decode(&padded, 0, self.core.code_size, self.core.features)
        else {
            panic!("not an instruction: {bytes:02x?}");
        };
        self.core.gpr[usize::from(SLOT_BLOCK_RIP)] = 0;
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

    fn mmx(&self, n: usize) -> u64 {
        self.core.x87.registers[n].mantissa
    }

    fn set_mmx(&mut self, n: usize, value: u64) {
        self.core.x87.registers[n].mantissa = value;
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

/// Random numbers that are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A vector whose bytes are often extremes.
    fn vector(&mut self) -> u128 {
        let mut bytes = [0u8; 16];
        for byte in &mut bytes {
            let random = self.next();
            *byte = match random & 7 {
                0 => 0x00,
                1 => 0xff,
                2 => 0x80,
                3 => 0x7f,
                _ => (random >> 8) as u8,
            };
        }
        u128::from_le_bytes(bytes)
    }
}

/// The whole instruction's name as iced-x86 knows it, to see that a test encodes what it means.
fn code(bytes: &[u8], size: CodeSize) -> String {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    format!(
        "{:?}",
        Decoder::new(bits, bytes, DecoderOptions::NONE)
            .decode()
            .code()
    )
}
