//! From a block's instructions to host code: the frame around the templates.
//!
//! Does: go through the instructions, give each its template or a call of its handler, and emit what
//! lies out of line: slow paths, taken branches, exits. Does not: place the code (`mod`).
//!
//! Invariant: at every place from which the guest's state can be seen, the registers are in their
//! homes, the flags are saved, and R15 has been charged for the whole block.

use arch::cpuid::Features;
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, RflagsBits};

use super::Host;
use super::emit::{Emitter, Label, cc, mem, reg};
use super::family::{self, Family};
use super::flags::{ALL, Effect, Fix, Place, needs, read, written};
use super::frame::{self, Live};
use super::run::Leaving;
use crate::features;
use crate::op::Op;

/// Bits of an instruction's index in what names it to handlers; the rest is the block.
pub(super) const INDEX_BITS: u32 = 6;

/// Where a block's code leaves if there is no budget: `jl`, after `sub r15, count`.
pub(super) const ENTRY_JUMP: u32 = 4;
/// What makes it leave always: `nop`, and `jmp` with the displacement of `jl`.
pub(super) const ALWAYS: [u8; 2] = [0x90, 0xe9];

/// A jump within the page that is to be linked to its target.
pub(super) struct Site {
    /// Offset in the code of the jump's displacement.
    pub at: u32,
    /// Offset in the page of the target.
    pub target: u16,
}

/// The block to translate.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// What names it to handlers.
    pub block: u32,
    /// Offset in its page.
    pub start: u16,
    /// Bytes.
    pub length: u16,
    /// Number of its first site.
    pub first_site: u32,
}

/// What came out.
pub(super) struct Translation {
    pub code: Vec<u8>,
    pub sites: Vec<Site>,
    /// Offset in the code of each instruction's, in order.
    pub starts: Vec<u32>,
}

/// Code out of line.
enum Stub {
    /// The template gave up: the handler executes the instruction.
    Slow {
        label: Label,
        index: usize,
        /// Where to go on; `None` after a branch, whose handler leaves.
        resume: Option<Label>,
        flags: Place,
        live: Live,
    },
    /// Too few vector registers are live.
    Load {
        label: Label,
        resume: Label,
        index: usize,
        live: Live,
    },
    /// A conditional branch is taken.
    Taken {
        label: Label,
        index: usize,
        target: i64,
        flags: Place,
    },
    /// A jump within the page has no target yet.
    Unlinked { label: Label, site: usize },
    /// The next block is not in the jump cache.
    Next { label: Label, target: i64 },
}

/// A block in the making.
pub(super) struct Translator<'a> {
    pub(super) e: Emitter,
    pub(super) host: Host,
    instructions: &'a [Instruction],
    families: Vec<Option<Family>>,
    needs: Vec<u32>,
    /// The running instruction.
    pub(super) index: usize,
    pub(super) flags: Place,
    /// At least these vector registers are live here.
    live: Live,
    /// The block, as handlers know it.
    id: u32,
    first_site: u32,
    /// Offset of the block in its page.
    start: i64,
    /// Offset of its end.
    end: i64,
    entry: Label,
    /// Where the running instruction is left to its handler.
    slow: Option<Label>,
    stubs: Vec<Stub>,
    sites: Vec<Site>,
    /// A template could not be encoded.
    failed: bool,
}

/// Decodes what `ops` were decoded from, with RIP the offset in the page.
pub(super) fn decode(
    ops: &[Op],
    bytes: &[u8],
    start: u16,
    features: Features,
) -> Option<Vec<Instruction>> {
    let options = features::decoder_options(features) | DecoderOptions::NONE;
    let mut decoder = Decoder::with_ip(64, bytes, u64::from(start), options);
    let mut instructions = Vec::with_capacity(ops.len());
    for op in ops {
        let instruction = decoder.decode();
        if op.length != 0 && instruction.len() != usize::from(op.length) {
            return None;
        }
        instructions.push(instruction);
    }
    Some(instructions)
}

/// True for a direct near branch.
pub(super) fn is_direct(insn: &Instruction) -> bool {
    insn.op0_kind() == OpKind::NearBranch64
}

impl<'a> Translator<'a> {
    /// Translates a block of 64-bit code that lies within a page.
    pub(super) fn translate(
        host: Host,
        place: Block,
        ops: &[Op],
        instructions: &'a [Instruction],
    ) -> Option<Translation> {
        let families: Vec<_> = instructions
            .iter()
            .zip(ops)
            .map(|(insn, op)| family::of(insn, op, host.features))
            .collect();
        let mut e = Emitter::new();
        let entry = e.label();
        let mut this = Translator {
            e,
            host,
            needs: Vec::new(),
            instructions,
            families,
            index: 0,
            flags: Place::SAVED,
            live: Live::Nothing,
            id: place.block << INDEX_BITS,
            first_site: place.first_site,
            start: i64::from(place.start),
            end: i64::from(place.start) + i64::from(place.length),
            entry,
            slow: None,
            stubs: Vec::new(),
            sites: Vec::new(),
            failed: false,
        };
        let effects: Vec<Effect> = (0..ops.len()).map(|i| this.effect(i)).collect();
        this.needs = needs(&effects);
        this.emit()
    }

    fn effect(&self, i: usize) -> Effect {
        let insn = &self.instructions[i];
        let target = insn.near_branch_target() as i64;
        let loops = target == self.start && is_direct(insn) && !self.host.exact;
        match self.families[i] {
            None => Effect {
                uses: ALL,
                kills: 0,
                loops: false,
            },
            Some(Family::Branch) => Effect {
                uses: if loops { read(insn) } else { ALL },
                kills: 0,
                loops,
            },
            Some(Family::Jump) if loops => Effect {
                uses: 0,
                kills: ALL,
                loops: true,
            },
            Some(family) => Effect {
                uses: if family.is_exposed() || family::has_memory(insn) {
                    ALL
                } else {
                    read(insn)
                },
                // By CL nothing may be shifted, and what rotates keep depends on the template.
                kills: match family {
                    // By CL nothing may be shifted; the others keep flags.
                    Family::ShiftByCl | Family::Rotate | Family::Divide => 0,
                    Family::Bit => RflagsBits::CF,
                    _ => written(insn),
                },
                loops: false,
            },
        }
    }

    fn emit(mut self) -> Option<Translation> {
        let count = self.instructions.len();
        let out_of_budget = self.e.label();
        self.e.bind(self.entry);
        self.e.alu_immediate(true, 5, reg::R15, count as i32);
        debug_assert_eq!(self.e.here(), ENTRY_JUMP);
        self.e.jcc(cc::L, out_of_budget);
        let mut starts = Vec::with_capacity(count);
        for index in 0..count {
            self.index = index;
            starts.push(self.e.here());
            self.step();
        }
        let last = self.families[count - 1];
        if !matches!(last, Some(Family::Call | Family::Return | Family::Jump)) {
            self.index = count - 1;
            self.go(self.end, None);
        }
        starts.push(self.e.here());
        self.e.bind(out_of_budget);
        self.e.alu_immediate(true, 0, reg::R15, count as i32);
        self.leave(Leaving::Budget, self.id);
        // Stubs may make others.
        let mut next = 0;
        while next < self.stubs.len() {
            self.stub(next);
            next += 1;
        }
        self.e.finish();
        (!self.failed).then_some(Translation {
            code: self.e.code,
            sites: self.sites,
            starts,
        })
    }

    fn step(&mut self) {
        let insn = self.instructions[self.index];
        match self.families[self.index] {
            None => self.handler(),
            Some(Family::Nothing) => {}
            Some(Family::Plain) => self.plain(&insn),
            Some(Family::Lea) => self.lea(&insn),
            Some(Family::Widen) => self.widen(&insn),
            Some(Family::Multiply) => self.multiply(&insn),
            Some(Family::MultiplyWide) => self.multiply_wide(&insn),
            Some(Family::Divide) => self.divide(&insn),
            Some(Family::Shift) => self.shift(&insn),
            Some(Family::ShiftByCl) => self.shift_by_cl(&insn),
            Some(Family::Rotate) => self.rotate(&insn),
            Some(Family::Bit) => self.bit(&insn),
            Some(Family::DoubleShift) => self.double_shift(&insn),
            Some(Family::Scan) => self.scan(&insn),
            Some(Family::CountZeros) => self.count_zeros(&insn),
            Some(Family::LowBits) => self.low_bits(&insn),
            Some(Family::CompareExchange) => self.compare_exchange(&insn),
            Some(Family::Push) => self.push(&insn),
            Some(Family::Pop) => self.pop(&insn),
            Some(Family::Leave) => self.leave_procedure(),
            Some(Family::PushFlags) => self.push_flags(),
            Some(Family::ClearInterrupt) => self.clear_interrupt(),
            Some(Family::Call) => self.call(&insn),
            Some(Family::Return) => self.ret(&insn),
            Some(Family::Jump) => self.jump(&insn),
            Some(Family::Branch) => self.branch(&insn),
            Some(Family::Vector) => self.vector(&insn),
        }
        if let Some(label) = self.slow.take() {
            let ends = matches!(
                self.families[self.index],
                Some(Family::Call | Family::Return | Family::Jump | Family::Branch)
            );
            let resume = (!ends).then(|| {
                let resume = self.e.label();
                self.e.bind(resume);
                resume
            });
            self.stubs.push(Stub::Slow {
                label,
                index: self.index,
                resume,
                flags: self.flags,
                live: self.live,
            });
        }
    }

    // ---- what templates ask for ------------------------------------------------------------

    /// Flags that are needed after the running instruction.
    pub(super) fn needed_after(&self) -> u32 {
        self.needs[self.index + 1]
    }

    /// Where the running instruction is left to its handler: nothing has changed yet, and the flags
    /// are saved.
    pub(super) fn slow(&mut self) -> Label {
        match self.slow {
            Some(label) => label,
            None => {
                let label = self.e.label();
                self.slow = Some(label);
                label
            }
        }
    }

    /// Gives the block up.
    pub(super) fn failed(&mut self) {
        self.failed = true;
    }

    /// Emits a rewritten guest instruction.
    pub(super) fn rewritten(&mut self, insn: &Instruction) {
        self.failed |= !self.e.instruction(insn);
    }

    /// Calls the handler.
    fn handler(&mut self) {
        self.expose_flags();
        self.call_handler(self.index);
        self.flags = Place::SAVED;
        self.live = Live::Nothing;
    }

    /// Makes vector registers the guest's.
    pub(super) fn want_vectors(&mut self, live: Live) {
        if self.live >= live {
            return;
        }
        self.expose_flags();
        let (label, resume) = (self.e.label(), self.e.label());
        // cmp qword [rsp+live], nothing or YMM
        self.e.memory(true, &[0x83], 7, mem(reg::RSP, frame::LIVE));
        let (than, condition) = match live {
            Live::Ymm => (Live::Ymm, cc::NE),
            _ => (Live::Nothing, cc::E),
        };
        self.e.bytes(&[than as u8]);
        self.e.jcc(condition, label);
        self.e.bind(resume);
        self.stubs.push(Stub::Load {
            label,
            resume,
            index: self.index,
            live,
        });
        self.live = live;
    }

    // ---- where blocks end ------------------------------------------------------------------

    /// R15 for a block that ends with the running instruction.
    fn refund(&mut self) {
        let rest = self.instructions.len() - 1 - self.index;
        self.e.advance(reg::R15, rest as i32);
    }

    /// Goes on at `target`, an offset in the page or beyond. If no block is known there, `miss` gets
    /// control with nothing changed but that the flags are saved; without it the CPU leaves there.
    pub(super) fn go(&mut self, target: i64, miss: Option<Label>) {
        if target == self.start {
            if self.needs[0] != 0 || self.host.exact {
                self.save_flags();
            }
            self.refund();
            self.e.jmp(self.entry);
            return;
        }
        self.expose_flags();
        if (0..4096).contains(&target) {
            self.refund();
            let label = self.e.label();
            self.e.jmp(label);
            self.sites.push(Site {
                at: self.e.here() - 4,
                target: target as u16,
            });
            let site = self.sites.len() - 1;
            self.stubs.push(Stub::Unlinked { label, site });
            return;
        }
        self.target(target);
        let miss = miss.unwrap_or_else(|| {
            let label = self.e.label();
            self.stubs.push(Stub::Next { label, target });
            label
        });
        self.find(miss);
        self.arrive();
    }

    /// RIP of an offset in the page to R13.
    pub(super) fn target(&mut self, target: i64) {
        self.e.load(reg::R13, mem(reg::RSP, frame::PAGE));
        match i32::try_from(target) {
            Ok(target) => self.e.advance(reg::R13, target),
            Err(_) => self.failed = true,
        }
    }

    /// Looks RIP R13 up in the jump cache: the entry to R14, or to `miss`. Clobbers R13.
    pub(super) fn find(&mut self, miss: Label) {
        use crate::block::Jump;
        self.e.copy(reg::R14, reg::R13);
        // shr r14, 12
        self.e.bytes(&[0x49, 0xc1, 0xee, 12]);
        self.e.registers(true, &[0x33], reg::R14, reg::R13);
        // xor r14, [rsp+spread]
        self.e
            .memory(true, &[0x33], reg::R14, mem(reg::RSP, frame::SPREAD));
        self.e
            .alu_immediate(false, 4, reg::R14, Jump::COUNT as i32 - 1);
        // shl r14, 5
        self.e.bytes(&[0x49, 0xc1, 0xe6, 5]);
        self.add_from_frame(reg::R14, frame::JUMPS);
        let field = |offset: usize| mem(reg::R14, offset as i32);
        let linear = field(std::mem::offset_of!(Jump, linear));
        // cmp r13, [r14+linear]
        self.e.memory(true, &[0x3b], reg::R13, linear);
        self.e.jcc(cc::NE, miss);
        self.e.load(reg::R13, mem(reg::RSP, frame::KEY));
        let key = field(std::mem::offset_of!(Jump, key));
        self.e.memory(true, &[0x3b], reg::R13, key);
        self.e.jcc(cc::NE, miss);
    }

    /// Goes to the block of the jump cache's entry in R14; the branch is over.
    pub(super) fn arrive(&mut self) {
        use crate::block::Jump;
        self.refund();
        let linear = std::mem::offset_of!(Jump, linear) as i32;
        self.e.load(reg::R13, mem(reg::R14, linear));
        self.e.alu_immediate(true, 4, reg::R13, -4096);
        self.e.store(mem(reg::RSP, frame::PAGE), reg::R13);
        let code = std::mem::offset_of!(Jump, code) as i32;
        // jmp [r14+code]
        self.e.memory(false, &[0xff], 4, mem(reg::R14, code));
    }

    /// The way to a branch's target, out of line.
    pub(super) fn taken(&mut self, target: i64) -> Label {
        let label = self.e.label();
        self.stubs.push(Stub::Taken {
            label,
            index: self.index,
            target,
            flags: self.flags,
        });
        label
    }

    // ---- out of line -----------------------------------------------------------------------

    fn call_handler(&mut self, index: usize) {
        self.e.set32(reg::R13, self.id | index as u32);
        // call [rsp+call_handler]
        self.e
            .memory(false, &[0xff], 2, mem(reg::RSP, frame::CALL_HANDLER));
    }

    fn load_vectors(&mut self, index: usize, live: Live) {
        self.e.set32(reg::R13, self.id | index as u32);
        self.e.set32(reg::R14, live as u32);
        self.e
            .memory(false, &[0xff], 2, mem(reg::RSP, frame::LOAD_VECTORS));
    }

    /// Leaves with the argument `what`.
    fn leave(&mut self, why: Leaving, what: u32) {
        self.e.set32(reg::R13, what);
        self.leave_with(why);
    }

    /// Leaves with the argument in R13.
    fn leave_with(&mut self, why: Leaving) {
        self.e.set32(reg::R14, why as u32);
        self.e
            .memory(false, &[0xff], 4, mem(reg::RSP, frame::LEAVE));
    }

    fn stub(&mut self, n: usize) {
        match self.stubs[n] {
            Stub::Slow {
                label,
                index,
                resume,
                flags,
                live,
            } => {
                self.e.bind(label);
                self.call_handler(index);
                let Some(resume) = resume else {
                    // The handler of a branch leaves: ud2.
                    self.e.bytes(&[0x0f, 0x0b]);
                    return;
                };
                if live != Live::Nothing && index + 1 < self.instructions.len() {
                    self.load_vectors(index + 1, live);
                }
                if flags.native.is_some() {
                    self.restore_flags();
                }
                self.e.jmp(resume);
            }
            Stub::Load {
                label,
                resume,
                index,
                live,
            } => {
                self.e.bind(label);
                self.load_vectors(index, live);
                self.e.jmp(resume);
            }
            Stub::Taken {
                label,
                index,
                target,
                flags,
            } => {
                self.e.bind(label);
                self.index = index;
                self.flags = flags;
                self.slow = None;
                let miss = self.slow();
                self.go(target, Some(miss));
                self.slow = None;
                self.stubs.push(Stub::Slow {
                    label: miss,
                    index,
                    resume: None,
                    flags: Place::SAVED,
                    live: Live::Nothing,
                });
            }
            Stub::Unlinked { label, site } => {
                self.e.bind(label);
                self.leave(Leaving::Link, self.first_site + site as u32);
            }
            Stub::Next { label, target } => {
                self.e.bind(label);
                self.target(target);
                self.leave_with(Leaving::Next);
            }
        }
    }

    /// The running instruction wrote all flags it writes, natively and exactly.
    pub(super) fn plain_flags(&mut self, insn: &Instruction) {
        if written(insn) != 0 {
            self.flags_written(Fix::Exact);
        }
    }
}
