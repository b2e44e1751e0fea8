//! The cache of decoded blocks.
//!
//! Does: hold runs of [`Op`]s by physical address and code size, find them by linear address, drop
//! those whose bytes were stored to. Does not: decode or translate (`cpu`).
//!
//! Invariant: **blocks are invisible.** While a block is held, its bytes are those it was decoded
//! from: their pages have [`memory::WATCH_CODE`], and a store to them drops it before the next step.
//! An entry of the jump cache is believed only under the key it was made with, and while its block
//! is held. Compiled code lives and dies with its block: what leads to it afterwards leaves at once.

use std::collections::BTreeMap;

use arch::cpuid::Features;
use memory::{GuestRam, WATCH_CODE, Write};

use crate::compiler::Compiler;
use crate::decode::end_mark;
use crate::op::{CodeSize, Op};

/// Most instructions in a block.
pub(crate) const LONGEST_BLOCK: usize = 48;

const BUCKETS: usize = 1 << 15;
const JUMPS: usize = 1 << 13;
const NONE: u32 = u32::MAX;

/// A run of decoded instructions in the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    start: u32,
    pub(crate) count: u16,
    /// Bytes from the first instruction to the end of the last.
    pub(crate) bytes: u16,
}

#[derive(Clone, Copy)]
struct Block {
    run: Run,
    physical: u64,
    size: CodeSize,
    /// Physical page of the bytes beyond the first page, for a lone instruction that crosses.
    second: Option<u64>,
    live: bool,
    /// How often it was interpreted, as far as anybody wants to know.
    heat: u16,
    /// Address of its compiled code; 0 if there is none.
    code: u64,
    next: u32,
}

/// An entry of the jump cache; compiled code reads it too.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Jump {
    pub(crate) linear: u64,
    /// Epoch of the translations of code, and mode; 0 matches nothing.
    pub(crate) key: u64,
    /// Where compiled code goes on: the block's code, or the way out.
    pub(crate) code: u64,
    block: u32,
}

impl Jump {
    /// Entries in the cache.
    pub(crate) const COUNT: usize = JUMPS;
}

/// An entry that nothing matches.
const NOWHERE: Jump = Jump {
    linear: 0,
    key: 0,
    code: 0,
    block: 0,
};

const _: () = assert!(size_of::<Jump>() == 32, "compiled code shifts by 5");

/// What was found at RIP.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) run: Run,
    /// Number of the block; `None` for a run that nothing will find again.
    pub(crate) block: Option<u32>,
    /// Address of its compiled code; 0 if there is none.
    pub(crate) code: u64,
}

/// A page with decoded bytes.
#[derive(Default)]
struct CodePage {
    blocks: Vec<u32>,
    /// Bit per 8 bytes: some block was decoded from them.
    decoded: [u64; 8],
}

/// The cache.
pub(crate) struct BlockCache {
    arena: Vec<Op>,
    blocks: Vec<Block>,
    buckets: Box<[u32]>,
    pages: BTreeMap<u32, CodePage>,
    jumps: Box<[Jump]>,
    /// Most instructions in the arena.
    capacity: usize,
    compiler: Option<Compiler>,
}

impl BlockCache {
    /// An empty cache that keeps to about `bytes` of memory; a quarter of them for compiled code, if
    /// that is wanted and possible. `compiler` says whether its code stops exactly at limits.
    pub(crate) fn new(bytes: usize, compiler: Option<bool>) -> BlockCache {
        let compiler = compiler.and_then(|exact| Compiler::new(bytes / 4, exact));
        let rest = if compiler.is_some() {
            bytes - bytes / 4
        } else {
            bytes
        };
        BlockCache {
            arena: Vec::new(),
            blocks: Vec::new(),
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            pages: BTreeMap::new(),
            jumps: vec![NOWHERE; JUMPS].into_boxed_slice(),
            // Two thirds for instructions, the rest for the books about them.
            capacity: (rest / 3 * 2 / size_of::<Op>()).max(4 * LONGEST_BLOCK),
            compiler,
        }
    }

    /// The instructions of a run.
    #[inline(always)]
    pub(crate) fn ops(&self, run: Run) -> &[Op] {
        &self.arena[run.start as usize..run.start as usize + usize::from(run.count)]
    }

    /// The instructions of a run and its end mark.
    #[inline(always)]
    pub(crate) fn ops_and_end(&self, run: Run) -> &[Op] {
        &self.arena[run.start as usize..run.start as usize + usize::from(run.count) + 1]
    }

    /// Where `linear` is remembered. Address spaces, whose keys differ, have different places.
    #[inline(always)]
    fn jump_slot(linear: u64, key: u64) -> usize {
        ((linear ^ (linear >> 12) ^ Self::spread(key)) as usize) & (JUMPS - 1)
    }

    /// What a key contributes to the place.
    #[inline(always)]
    pub(crate) fn spread(key: u64) -> u64 {
        (key >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52
    }

    /// What is at a linear address, if it was found there since the last change. `key` is made of
    /// the epoch of the translations of code and of the mode (four bits).
    #[inline(always)]
    pub(crate) fn jump(&self, linear: u64, key: u64) -> Option<Found> {
        let entry = &self.jumps[Self::jump_slot(linear, key)];
        if entry.linear != linear || entry.key != key {
            return None;
        }
        let block = &self.blocks[entry.block as usize];
        block.live.then_some(Found {
            run: block.run,
            block: Some(entry.block),
            code: block.code,
        })
    }

    /// Remembers that `linear` leads to `block`.
    pub(crate) fn remember_jump(&mut self, linear: u64, key: u64, block: u32) {
        let code = match self.blocks[block as usize].code {
            0 => crate::compiler::way_out(),
            code => code,
        };
        self.jumps[Self::jump_slot(linear, key)] = Jump {
            linear,
            key,
            code,
            block,
        };
    }

    /// Address of the jump cache, for compiled code.
    pub(crate) fn jumps_address(&self) -> u64 {
        self.jumps.as_ptr().expose_provenance() as u64
    }

    // ---- compiled code ---------------------------------------------------------------------

    /// The compiler, for compiled code and for who may run it.
    #[inline]
    pub(crate) fn compiler(&mut self) -> &mut Compiler {
        self.compiler.as_mut().expect("there is compiled code")
    }

    /// True if there is a compiler.
    #[inline]
    pub(crate) fn compiles(&self) -> bool {
        self.compiler.is_some()
    }

    /// True once `block` was asked about `threshold` times.
    #[inline]
    pub(crate) fn is_hot(&mut self, block: u32, threshold: u16) -> bool {
        let heat = &mut self.blocks[block as usize].heat;
        *heat = heat.saturating_add(1);
        *heat == threshold
    }

    /// Compiles a block, which lies within a page of RAM. Gives the address of its code, or 0.
    pub(crate) fn compile(&mut self, ram: &mut GuestRam, block: u32, features: Features) -> u64 {
        let Block {
            run,
            physical,
            size,
            second,
            ..
        } = self.blocks[block as usize];
        if size != CodeSize::Bits64 || second.is_some() {
            return 0;
        }
        let page = ram.page_index(physical).expect("code lies in RAM");
        let start = (physical & 0xfff) as usize;
        let bytes = &ram.page(page)[start..start + usize::from(run.bytes)];
        let ops = &self.arena[run.start as usize..run.start as usize + usize::from(run.count)];
        let Some(compiler) = &mut self.compiler else {
            return 0;
        };
        match compiler.compile(block, start as u16, ops, bytes, features) {
            Ok(code) => {
                self.blocks[block as usize].code = code;
                code
            }
            Err(_) => {
                self.clear(ram);
                0
            }
        }
    }

    /// Links the jump `site` of compiled code to `block`, if that is where it leads on its own page.
    pub(crate) fn link(&mut self, site: u32, block: u32) {
        let Block {
            physical,
            size,
            code,
            second,
            ..
        } = self.blocks[block as usize];
        let compiler = self.compiler.as_mut().expect("there is compiled code");
        let from = &self.blocks[compiler.site_block(site) as usize];
        let same_page = (from.physical ^ physical) < 4096;
        if code != 0 && from.live && same_page && size == from.size && second.is_none() {
            compiler.link(site, block, code);
        }
    }

    /// Offset of a block in its page.
    pub(crate) fn page_offset(&self, block: u32) -> u64 {
        self.blocks[block as usize].physical & 0xfff
    }

    /// An instruction of a block, and the run it belongs to.
    pub(crate) fn instruction(&self, block: u32, index: usize) -> (Run, Op) {
        let run = self.blocks[block as usize].run;
        (run, self.ops(run)[index])
    }

    fn bucket(physical: u64) -> usize {
        ((physical ^ (physical >> 13)) as usize) & (BUCKETS - 1)
    }

    /// The block at a physical address, with the page its tail lies in if it crosses.
    pub(crate) fn find(&self, physical: u64, size: CodeSize) -> Option<(Found, Option<u64>)> {
        let mut index = self.buckets[Self::bucket(physical)];
        while index != NONE {
            let block = &self.blocks[index as usize];
            if block.physical == physical && block.size == size {
                let found = Found {
                    run: block.run,
                    block: Some(index),
                    code: block.code,
                };
                return Some((found, block.second));
            }
            index = block.next;
        }
        None
    }

    /// Adds a block decoded from `physical` (and `second`), whose pages are RAM and now watched by
    /// the caller. Replaces one at the same address. May drop everything else first.
    pub(crate) fn insert(
        &mut self,
        ram: &mut GuestRam,
        ops: &[Op],
        bytes: u16,
        physical: u64,
        second: Option<u64>,
        size: CodeSize,
    ) -> Found {
        let run = self.append(ram, ops, bytes).run;
        let index = self.blocks.len() as u32;
        let bucket = Self::bucket(physical);
        self.blocks.push(Block {
            run,
            physical,
            size,
            second,
            live: true,
            heat: 0,
            code: 0,
            next: self.buckets[bucket],
        });
        self.buckets[bucket] = index;
        for (start, length) in extents(&self.blocks[index as usize]).into_iter().flatten() {
            let page = ram.page_index(start).expect("code lies in RAM");
            ram.add_watch(page, WATCH_CODE);
            let entry = self.pages.entry(page as u32).or_default();
            entry.blocks.push(index);
            mark(&mut entry.decoded, start, length);
        }
        Found {
            run,
            block: Some(index),
            code: 0,
        }
    }

    /// Adds a run that nothing will find again.
    pub(crate) fn append(&mut self, ram: &mut GuestRam, ops: &[Op], bytes: u16) -> Found {
        if self.arena.len() + ops.len() >= self.capacity || self.blocks.len() >= self.capacity / 2 {
            self.clear(ram);
        }
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(ops);
        self.arena.push(end_mark());
        let run = Run {
            start,
            count: ops.len() as u16,
            bytes,
        };
        Found {
            run,
            block: None,
            code: 0,
        }
    }

    /// Drops the blocks that a store made stale.
    pub(crate) fn code_written(&mut self, ram: &mut GuestRam, write: Write) {
        let Some(page) = ram.page_index(write.address) else {
            return;
        };
        let Some(entry) = self.pages.get(&(page as u32)) else {
            return;
        };
        let mut stored = [0; 8];
        mark(&mut stored, write.address, u64::from(write.length));
        if entry.decoded.iter().zip(&stored).all(|(a, b)| a & b == 0) {
            return;
        }
        let end = write.address + u64::from(write.length);
        let stale: Vec<u32> = entry
            .blocks
            .iter()
            .copied()
            .filter(|&index| {
                extents(&self.blocks[index as usize])
                    .into_iter()
                    .flatten()
                    .any(|(start, length)| start < end && write.address < start + length)
            })
            .collect();
        for index in stale {
            self.drop_block(ram, index);
        }
    }

    fn drop_block(&mut self, ram: &mut GuestRam, index: u32) {
        let block = self.blocks[index as usize];
        if !block.live {
            return;
        }
        self.blocks[index as usize].live = false;
        if let Some(compiler) = &mut self.compiler {
            compiler.drop_block(index, block.code);
        }
        let bucket = Self::bucket(block.physical);
        if self.buckets[bucket] == index {
            self.buckets[bucket] = block.next;
        } else {
            let mut at = self.buckets[bucket];
            while self.blocks[at as usize].next != index {
                at = self.blocks[at as usize].next;
            }
            self.blocks[at as usize].next = block.next;
        }
        for (start, _) in extents(&block).into_iter().flatten() {
            let page = ram.page_index(start).expect("code lies in RAM");
            let Some(entry) = self.pages.get_mut(&(page as u32)) else {
                continue;
            };
            entry.blocks.retain(|&other| other != index);
            if entry.blocks.is_empty() {
                self.pages.remove(&(page as u32));
                ram.remove_watch(page, WATCH_CODE);
                continue;
            }
            entry.decoded = [0; 8];
            for &other in &entry.blocks {
                for (start, length) in extents(&self.blocks[other as usize]).into_iter().flatten() {
                    if ram.page_index(start) == Some(page) {
                        mark(&mut entry.decoded, start, length);
                    }
                }
            }
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, ram: &mut GuestRam) {
        self.jumps.fill(NOWHERE);
        for &page in self.pages.keys() {
            ram.remove_watch(page as usize, WATCH_CODE);
        }
        self.pages.clear();
        self.blocks.clear();
        self.arena.clear();
        self.buckets.fill(NONE);
        if let Some(compiler) = &mut self.compiler {
            compiler.clear();
        }
    }
}

/// Physical stretches of a block, each within a page.
fn extents(block: &Block) -> [Option<(u64, u64)>; 2] {
    let bytes = u64::from(block.run.bytes);
    let first = bytes.min(4096 - (block.physical & 0xfff));
    let second = block
        .second
        .filter(|_| first < bytes)
        .map(|page| (page, bytes - first));
    [Some((block.physical, first)), second]
}

/// Sets the bits of the 8-byte granules of a stretch within a page.
fn mark(bits: &mut [u64; 8], start: u64, length: u64) {
    let first = (start & 0xfff) / 8;
    let last = ((start & 0xfff) + length - 1) / 8;
    for granule in first..=last.min(511) {
        bits[(granule / 64) as usize] |= 1 << (granule % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_fed_for_ever_stays_within_its_capacity() {
        let mut ram = GuestRam::new(1 << 20).expect("RAM can be mapped");
        let mut cache = BlockCache::new(64 << 10, None);
        let op = end_mark();
        for round in 0..100_000u64 {
            // The same address over and over, as for an instruction with an alternating tail.
            let second = Some(0x2000 + 0x1000 * (round % 2));
            cache.insert(&mut ram, &[op; 3], 8, 0x1ffc, second, CodeSize::Bits64);
            assert!(cache.arena.len() <= cache.capacity);
            assert!(cache.blocks.len() <= cache.capacity / 2 + 1);
            assert!(cache.pages.len() <= 3);
            let (_, page) = cache
                .find(0x1ffc, CodeSize::Bits64)
                .expect("it was just added");
            assert_eq!(page, second);
        }
        let listed: usize = cache.pages.values().map(|page| page.blocks.len()).sum();
        assert!(listed <= 2 * cache.blocks.len());
    }
}
