//! Finding the block at RIP, and building those that are not there.
//!
//! Does: translate the fetch, check the code segment's end, ask the cache of blocks, decode what it
//! has not. Does not: execute (`cpu`).
//!
//! Invariant: a block takes no fetch fault and sets no accessed bit but for its first instruction.
//! So a block ends with its page, and an instruction that crosses into the next is a block of its
//! own, whose second page is translated each time.

use memory::WATCH_CODE;

use crate::block::{Found, LONGEST_BLOCK, Run};
use crate::core::canonical;
use crate::cpu::Cpu;
use crate::decode::{self, Decoded, LONGEST};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Op};

impl Cpu {
    /// True if a run lies within the code segment.
    fn within_limit(&self, run: Run) -> bool {
        let last = self.core.rip + u64::from(run.bytes) - 1;
        last <= u64::from(self.core.segments[1].limit)
    }

    /// The run at RIP.
    #[cold]
    #[inline(never)]
    pub(crate) fn find(&mut self, env: &mut Env<'_>) -> Exec<Found> {
        let core = &mut self.core;
        let unwrapped = core.rip.wrapping_add(core.seg_base[1]);
        let linear = core.linear_ip();
        if core.in_64bit() && !canonical(linear) {
            return core.raise(Fault::protection(0));
        }
        if !core.in_64bit() && core.rip > u64::from(core.segments[1].limit) {
            return core.raise(Fault::protection(0));
        }
        let physical = self.translate_code(env, linear)?;
        let size = self.core.code_size;
        let found = match self.cache.find(physical, size) {
            Some((found, None)) => found,
            Some((found, Some(page))) => {
                // The tail's page is translated each time: it may have changed. The walk may have
                // changed the bytes.
                let tail = self.translate_tail(env, linear)?;
                match self.cache.find(physical, size) {
                    Some((same, Some(_))) if tail == page => return self.limited(env, same),
                    _ => {}
                }
                debug_assert_eq!(found.run.count, 1, "what crosses is alone");
                let found = self.build(env, linear, physical, size)?;
                return self.limited(env, found);
            }
            None => self.build(env, linear, physical, size)?,
        };
        let crosses = (physical & 0xfff) + u64::from(found.run.bytes) > 4096;
        let found = self.limited(env, found)?;
        if !crosses && let Some(block) = found.block {
            let key = self.jump_key();
            self.cache.remember_jump(unwrapped, key, block);
            return Ok(found);
        }
        // Not to be found by its number: a crossing instruction is translated each time.
        Ok(Found {
            block: None,
            ..found
        })
    }

    /// Translates a fetch. If the walk's accessed bits fell on code, stale blocks are gone after it.
    fn translate_code(&mut self, env: &mut Env<'_>, linear: u64) -> Exec<u64> {
        let physical = self.core.translate_fetch(env.ram, linear)?;
        if env.ram.has_touched() {
            self.follow_writes(env.ram);
        }
        Ok(physical)
    }

    /// Physical page of the bytes after the page of `linear`, for an instruction that crosses.
    fn translate_tail(&mut self, env: &mut Env<'_>, linear: u64) -> Exec<u64> {
        let first = 4096 - (linear & 0xfff);
        let tail = (linear | 0xfff).wrapping_add(1);
        if self.core.in_64bit() {
            if !canonical(tail) {
                return self.core.raise(Fault::protection(0));
            }
            return self.translate_code(env, tail);
        }
        if self.core.rip + first > u64::from(self.core.segments[1].limit) {
            return self.core.raise(Fault::protection(0));
        }
        self.translate_code(env, tail & 0xffff_ffff)
    }

    /// Cuts a run down to what lies within the code segment.
    fn limited(&mut self, env: &mut Env<'_>, found: Found) -> Exec<Found> {
        if self.core.in_64bit() || self.within_limit(found.run) {
            return Ok(found);
        }
        let first = self.cache.ops(found.run)[0];
        let last = self.core.rip + u64::from(first.length.max(1)) - 1;
        if last > u64::from(self.core.segments[1].limit) {
            return self.core.raise(Fault::protection(0));
        }
        Ok(self
            .cache
            .append(env.ram, &[first], u16::from(first.length)))
    }

    /// Decodes a block.
    fn build(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        physical: u64,
        size: CodeSize,
    ) -> Exec<Found> {
        let Some(page) = env.ram.page_index(physical) else {
            // Nothing there: all ones, which is no instruction.
            let Decoded::Op { op, .. } =
                decode::decode(&[0xff; LONGEST], 0, size, self.core.features)
            else {
                unreachable!("fifteen bytes are enough")
            };
            return Ok(self.cache.append(env.ram, &[op], 1));
        };
        let start = (physical & 0xfff) as usize;
        let mut ops: Vec<Op> = Vec::with_capacity(LONGEST_BLOCK);
        let mut bytes = 0;
        while ops.len() < self.longest_block {
            let rest = &env.ram.page(page)[start + bytes..];
            let window = &rest[..rest.len().min(LONGEST)];
            if window.is_empty() {
                break;
            }
            match decode::decode(window, bytes as u16, size, self.core.features) {
                // What is invalid rests on bytes nobody counted: it gets a block of its own.
                Decoded::Op { op, .. } if op.length == 0 && !ops.is_empty() => break,
                Decoded::Op { op, ends_block } => {
                    bytes += usize::from(op.length);
                    ops.push(op);
                    if ends_block {
                        break;
                    }
                }
                Decoded::Short if ops.is_empty() => {
                    return self.build_crossing(env, linear, physical, size);
                }
                Decoded::Short => break,
            }
        }
        if bytes == 0 {
            bytes = LONGEST.min(4096 - start);
        }
        self.core.mmu.watch(env.ram, page, WATCH_CODE);
        Ok(self
            .cache
            .insert(env.ram, &ops, bytes as u16, physical, None, size))
    }

    /// Decodes an instruction whose bytes lie in two pages, as a block of its own.
    fn build_crossing(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        physical: u64,
        size: CodeSize,
    ) -> Exec<Found> {
        let first = (4096 - (physical & 0xfff)) as usize;
        let second = self.translate_tail(env, linear)?;
        let mut window = [0xff; LONGEST];
        let head = first.min(LONGEST);
        env.ram
            .read(physical, &mut window[..head])
            .expect("the first page is RAM");
        let in_ram = env.ram.read(second, &mut window[head..]).is_ok();
        let Decoded::Op { op, .. } = decode::decode(&window, 0, size, self.core.features) else {
            unreachable!("fifteen bytes are enough")
        };
        let length = if op.length == 0 {
            LONGEST as u16
        } else {
            u16::from(op.length)
        };
        if !in_ram {
            return Ok(self.cache.append(env.ram, &[op], length));
        }
        for address in [physical, second] {
            let page = env.ram.page_index(address).expect("both pages are RAM");
            self.core.mmu.watch(env.ram, page, WATCH_CODE);
        }
        Ok(self
            .cache
            .insert(env.ram, &[op], length, physical, Some(second), size))
    }
}
