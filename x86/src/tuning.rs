//! How a CPU is executed, as far as anybody may choose.
//!
//! Invariant: nothing of it is visible to the guest or part of the state.

use crate::block::LONGEST_BLOCK;

/// What executes 64-bit code. Never visible to the guest, and no part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translation {
    /// The interpreter alone.
    Interpreter,
    /// Compiled code from a block's first execution on, wherever that is possible, up to the last
    /// block before a limit. For tests.
    Compiler,
    /// Compiled code for blocks that were interpreted often enough.
    #[default]
    Mixed,
}

/// How a CPU is executed. Never visible to the guest, and no part of the state: it may differ
/// between two sides that must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// About how many bytes the caches of decoded and compiled instructions may take.
    pub cache_bytes: usize,
    /// What executes.
    pub translation: Translation,
    /// Most instructions in a block; tests make it 1, so that every step starts a block.
    pub longest_block: usize,
}

impl Tuning {
    /// Caches of about `cache_bytes`, blocks of the usual length.
    pub fn new(cache_bytes: usize, translation: Translation) -> Tuning {
        Tuning {
            cache_bytes,
            translation,
            longest_block: LONGEST_BLOCK,
        }
    }
}
