//! Host instructions as bytes.
//!
//! Does: encode the few instructions that templates are made of, resolve labels within a block, and
//! let iced-x86 encode rewritten guest instructions. Does not: know the guest.
//!
//! Invariant: what is emitted is position-independent but for nothing: labels are relative, and
//! addresses outside of the block come from the frame.

use iced_x86::{Encoder, Instruction};

/// Host general registers by their number in encodings.
pub(super) mod reg {
    /// Saved flags, and whatever a template needs for a moment.
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// Condition codes as in Jcc's low opcode bits.
pub(super) mod cc {
    pub const AE: u8 = 3;
    pub const E: u8 = 4;
    pub const NE: u8 = 5;
    pub const BE: u8 = 6;
    pub const A: u8 = 7;
    pub const L: u8 = 12;
}

/// A memory operand.
#[derive(Clone, Copy)]
pub(super) struct Mem {
    pub base: Option<u8>,
    /// Register and shift; never RSP.
    pub index: Option<(u8, u8)>,
    pub disp: i32,
}

/// `[base + disp]`.
pub(super) fn mem(base: u8, disp: i32) -> Mem {
    Mem {
        base: Some(base),
        index: None,
        disp,
    }
}

/// A place in the block to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(u32);

/// Code in the making.
pub(super) struct Emitter {
    pub(super) code: Vec<u8>,
    labels: Vec<u32>,
    /// Offset of a 32-bit displacement, and where it leads.
    fixups: Vec<(u32, Label)>,
    encoder: Encoder,
}

const UNBOUND: u32 = u32::MAX;

impl Emitter {
    pub(super) fn new() -> Emitter {
        Emitter {
            code: Vec::with_capacity(4096),
            labels: Vec::new(),
            fixups: Vec::new(),
            encoder: Encoder::new(64),
        }
    }

    /// Where the next byte goes.
    pub(super) fn here(&self) -> u32 {
        self.code.len() as u32
    }

    /// Appends bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    // ---- labels ----------------------------------------------------------------------------

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    pub(super) fn bind(&mut self, label: Label) {
        debug_assert_eq!(self.labels[label.0 as usize], UNBOUND);
        self.labels[label.0 as usize] = self.here();
    }

    fn displacement(&mut self, label: Label) {
        self.fixups.push((self.here(), label));
        self.bytes(&[0; 4]);
    }

    pub(super) fn jmp(&mut self, label: Label) {
        self.bytes(&[0xe9]);
        self.displacement(label);
    }

    pub(super) fn jcc(&mut self, condition: u8, label: Label) {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.displacement(label);
    }

    /// Resolves all labels.
    pub(super) fn finish(&mut self) {
        for (at, label) in std::mem::take(&mut self.fixups) {
            let target = self.labels[label.0 as usize];
            debug_assert_ne!(target, UNBOUND, "a label without a place");
            let distance = target.wrapping_sub(at + 4);
            self.code[at as usize..at as usize + 4].copy_from_slice(&distance.to_le_bytes());
        }
    }

    // ---- instructions ----------------------------------------------------------------------

    /// `opcode` with a register and a memory operand; `wide` for 64 bits.
    pub(super) fn memory(&mut self, wide: bool, opcode: &[u8], register: u8, at: Mem) {
        let base = at.base.unwrap_or(0);
        let index = at.index.map_or(0, |(index, _)| index);
        let rex = 0x40
            | u8::from(wide) << 3
            | (register >> 3 & 1) << 2
            | (index >> 3 & 1) << 1
            | (base >> 3 & 1);
        if rex != 0x40 {
            self.bytes(&[rex]);
        }
        self.bytes(opcode);
        let middle = (register & 7) << 3;
        let small = i8::try_from(at.disp).is_ok();
        let mode = match at.base {
            None => 0,
            Some(base) if at.disp == 0 && base & 7 != 5 => 0,
            Some(_) if small => 0x40,
            Some(_) => 0x80,
        };
        match (at.base, at.index) {
            (Some(base), None) if base & 7 != 4 => self.bytes(&[mode | middle | (base & 7)]),
            (base, index) => {
                let (index, scale) = index.map_or((4, 0), |(index, scale)| (index & 7, scale));
                let base = base.map_or(5, |base| base & 7);
                self.bytes(&[mode | middle | 4, scale << 6 | index << 3 | base]);
            }
        }
        if mode == 0x40 {
            self.bytes(&[at.disp as u8]);
        } else if mode == 0x80 || at.base.is_none() {
            self.bytes(&at.disp.to_le_bytes());
        }
    }

    /// `opcode` with two registers, `rm` the one in ModRM.rm.
    pub(super) fn registers(&mut self, wide: bool, opcode: &[u8], register: u8, rm: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (register >> 3 & 1) << 2 | (rm >> 3 & 1);
        if rex != 0x40 {
            self.bytes(&[rex]);
        }
        self.bytes(opcode);
        self.bytes(&[0xc0 | (register & 7) << 3 | (rm & 7)]);
    }

    /// Loads 64 bits.
    pub(super) fn load(&mut self, to: u8, at: Mem) {
        self.memory(true, &[0x8b], to, at);
    }

    /// Stores 64 bits.
    pub(super) fn store(&mut self, at: Mem, from: u8) {
        self.memory(true, &[0x89], from, at);
    }

    /// Copies 64 bits.
    pub(super) fn copy(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x8b], to, from);
    }

    /// Address of an operand; leaves the flags alone.
    pub(super) fn lea(&mut self, to: u8, at: Mem) {
        self.memory(true, &[0x8d], to, at);
    }

    /// Adds to a register; leaves the flags alone.
    pub(super) fn advance(&mut self, register: u8, by: i32) {
        if by != 0 {
            self.lea(register, mem(register, by));
        }
    }

    /// Sets the low 32 bits, zeroes the others.
    pub(super) fn set32(&mut self, to: u8, value: u32) {
        if to >= 8 {
            self.bytes(&[0x41]);
        }
        self.bytes(&[0xb8 | (to & 7)]);
        self.bytes(&value.to_le_bytes());
    }

    /// `add`, `or`, … (`operation` 0–7) of a register and an immediate.
    pub(super) fn alu_immediate(&mut self, wide: bool, operation: u8, register: u8, value: i32) {
        if i8::try_from(value).is_ok() {
            self.registers(wide, &[0x83], operation, register);
            self.bytes(&[value as u8]);
        } else {
            self.registers(wide, &[0x81], operation, register);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// A guest instruction whose operands were rewritten to the host's; false if that cannot be
    /// encoded, and then nothing was emitted.
    pub(super) fn instruction(&mut self, instruction: &Instruction) -> bool {
        let encoded = self.encoder.encode(instruction, 0).is_ok();
        let mut buffer = self.encoder.take_buffer();
        if encoded {
            self.code.extend_from_slice(&buffer);
        }
        buffer.clear();
        self.encoder.set_buffer(buffer);
        encoded
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    use super::*;

    fn text(emit: impl FnOnce(&mut Emitter)) -> String {
        let mut emitter = Emitter::new();
        emit(&mut emitter);
        emitter.finish();
        let mut text = String::new();
        for instruction in Decoder::with_ip(64, &emitter.code, 0, DecoderOptions::NONE) {
            let mut line = String::new();
            FastFormatter::new().format(&instruction, &mut line);
            text += &line;
            text.push('\n');
        }
        text
    }

    #[test]
    fn memory_operands_of_every_shape() {
        let shapes = text(|e| {
            for base in [None, Some(0), Some(4), Some(5), Some(12), Some(13)] {
                for index in [None, Some((1, 2)), Some((12, 3))] {
                    for disp in [0, 8, -4096] {
                        e.load(9, Mem { base, index, disp });
                    }
                }
            }
        });
        let lines: Vec<&str> = shapes.lines().collect();
        assert_eq!(lines.len(), 54);
        assert_eq!(lines[0], "mov r9,[0h]");
        assert!(lines.contains(&"mov r9,[rsp+rcx*4+8h]"), "{shapes}");
        assert!(lines.contains(&"mov r9,[r13]"), "{shapes}");
        assert!(lines.contains(&"mov r9,[rbp+r12*8]"), "{shapes}");
        assert!(lines.contains(&"mov r9,[r12-1000h]"), "{shapes}");
        assert!(!shapes.contains("(bad)"), "{shapes}");
    }

    #[test]
    fn labels_lead_forwards_and_backwards() {
        let loops = text(|e| {
            let (top, end) = (e.label(), e.label());
            e.bind(top);
            e.alu_immediate(true, 5, 15, 3);
            e.jcc(cc::L, end);
            e.jmp(top);
            e.bind(end);
            e.set32(13, 7);
        });
        assert_eq!(loops, "sub r15,3h\njl 0Fh\njmp 0h\nmov r13d,7h\n");
    }
}
