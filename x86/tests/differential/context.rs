//! What goes into an instruction and what comes out, as plain memory that two processes share.

use crate::layout::{DATA_BYTES, Mode};
use crate::rng::Rng;

/// Bytes of an FXSAVE image up to XMM15.
pub const FX_BYTES: usize = 416;
/// Most bytes in a patch.
pub const PATCH_BYTES: usize = 64;
/// Longest instruction.
pub const LONGEST: usize = 15;

/// An FXSAVE64 image: x87 in the first 160 bytes, then XMM0–XMM15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Fx(pub [u8; FX_BYTES]);

impl Fx {
    /// The state after FNINIT, all registers zero.
    pub fn initial() -> Fx {
        let mut fx = Fx([0; FX_BYTES]);
        fx.set_u16(0, 0x37f);
        fx.set_u32(24, 0x1f80);
        fx
    }

    /// Sets two bytes.
    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Sets four bytes.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// MXCSR.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.set_u32(24, value);
    }

    /// XMM register `n`.
    pub fn set_xmm(&mut self, n: usize, value: u128) {
        self.0[160 + 16 * n..][..16].copy_from_slice(&value.to_le_bytes());
    }

    /// XMM register `n`.
    pub fn xmm(&self, n: usize) -> u128 {
        u128::from_le_bytes(
            self.0[160 + 16 * n..][..16]
                .try_into()
                .expect("sixteen bytes"),
        )
    }

    /// ST(`n`), or MM`n` as its low 64 bits.
    pub fn set_st(&mut self, n: usize, mantissa: u64, sign_exponent: u16) {
        self.0[32 + 16 * n..][..8].copy_from_slice(&mantissa.to_le_bytes());
        self.set_u16(32 + 16 * n + 8, sign_exponent);
    }
}

/// The registers of a program.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8–R15.
    pub gpr: [u64; 16],
    /// Offset of the instruction in its code segment.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// x87 and SSE.
    pub fx: Fx,
    /// Upper halves of YMM0–YMM15.
    pub ymm_high: [u128; 16],
}

/// Bytes put into the data pages before the instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Patch {
    /// Linear address; what lies outside the data pages is dropped.
    pub address: u64,
    /// How many of `bytes`.
    pub length: u8,
    /// What to put there.
    pub bytes: [u8; PATCH_BYTES],
}

impl Patch {
    /// Puts `bytes`, at most [`PATCH_BYTES`], at `address`.
    pub fn new(address: u64, bytes: &[u8]) -> Patch {
        let mut patch = Patch {
            address,
            length: bytes.len() as u8,
            ..Patch::default()
        };
        patch.bytes[..bytes.len()].copy_from_slice(bytes);
        patch
    }
}

impl Default for Patch {
    /// Nothing.
    fn default() -> Patch {
        Patch {
            address: 0,
            length: 0,
            bytes: [0; PATCH_BYTES],
        }
    }
}

/// One instruction with everything it can see.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Case {
    /// What it runs as.
    pub mode: Mode,
    /// Bytes of the instruction.
    pub code: [u8; LONGEST],
    /// How many.
    pub length: u8,
    /// Run a REP instruction to its end, not for one iteration.
    pub whole: bool,
    /// The guest has TF set too, because the instruction reads it.
    pub reads_tf: bool,
    /// The guest starts with cold caches.
    pub cold: bool,
    /// Registers before.
    pub before: Registers,
    /// Seed of the data pages' content.
    pub memory_seed: u64,
    /// Changes to it.
    pub patches: [Patch; 2],
}

impl Case {
    /// Fills in the content of the data pages; must not allocate.
    pub fn fill_memory(&self, data: &mut [u8; DATA_BYTES]) {
        let mut rng = Rng::new(self.memory_seed);
        for word in data.chunks_exact_mut(8) {
            word.copy_from_slice(&rng.next().to_le_bytes());
        }
        for patch in &self.patches {
            for (i, &byte) in patch.bytes.iter().enumerate().take(patch.length as usize) {
                let at = patch
                    .address
                    .wrapping_add(i as u64)
                    .wrapping_sub(crate::layout::DATA);
                if let Some(place) = data.get_mut(at as usize) {
                    *place = byte;
                }
            }
        }
    }
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fault {
    /// Vector; 255 for none.
    pub vector: u8,
    /// Error code, 0 if there is none.
    pub error: u64,
    /// CR2 for #PF, else 0.
    pub address: u64,
}

impl Fault {
    /// No exception.
    pub const NONE: Fault = Fault {
        vector: 255,
        error: 0,
        address: 0,
    };
}

/// What an instruction left behind.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outcome {
    /// Registers after.
    pub after: Registers,
    /// What was raised.
    pub fault: Fault,
    /// The data pages.
    pub memory: [u8; DATA_BYTES],
}
