//! Where the guest's arithmetic flags are while a block runs, and which of them anybody will see.
//!
//! Does: find out before each instruction which flags are still needed; save them from RFLAGS to AX
//! and back. Does not: decide what instructions do to them; iced-x86 and the templates know.
//!
//! Invariant: wherever the guest could look (a fault, a handler, the end of the block), the needed
//! flags are in AX, with our definition of those that the manuals leave undefined.
//!
//! A template that reaches memory loses RFLAGS, and may fault: so flags are saved before it, unless
//! they are saved already. Between two instructions without memory they stay in RFLAGS.

use iced_x86::{Instruction, RflagsBits};

use super::translate::Translator;

/// The six arithmetic flags, in iced-x86's bits.
pub(super) const ALL: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// What must be done to RFLAGS to get the guest's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    /// Nothing.
    Exact,
    /// After a shift by one: AF is 0.
    ClearAf,
    /// After SHR or SAR by more than one: AF and OF are 0.
    ClearAfOf,
    /// After SHL by more than one: AF is 0, OF is CF ≠ SF.
    ShiftLeft,
}

impl Fix {
    /// Flags that RFLAGS has right without being fixed.
    fn exact(self) -> u32 {
        match self {
            Fix::Exact => ALL,
            Fix::ClearAf => ALL & !RflagsBits::AF,
            Fix::ClearAfOf | Fix::ShiftLeft => ALL & !(RflagsBits::AF | RflagsBits::OF),
        }
    }
}

/// Where the flags are. Neither: nobody needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// In RFLAGS, to be fixed.
    pub native: Option<Fix>,
    /// In AX.
    pub saved: bool,
}

impl Place {
    /// In AX alone.
    pub(super) const SAVED: Place = Place {
        native: None,
        saved: true,
    };
    /// Nowhere.
    pub(super) const LOST: Place = Place {
        native: None,
        saved: false,
    };
}

/// Flags an instruction writes, undefined ones included.
pub(super) fn written(insn: &Instruction) -> u32 {
    insn.rflags_modified() & ALL
}

/// Flags an instruction reads.
pub(super) fn read(insn: &Instruction) -> u32 {
    insn.rflags_read() & ALL
}

/// What one instruction means for the flags before it.
#[derive(Clone, Copy)]
pub(super) struct Effect {
    /// Flags it reads, or lets be seen.
    pub uses: u32,
    /// Flags it always writes.
    pub kills: u32,
    /// It may go on at the start of the block, and nowhere else outside.
    pub loops: bool,
}

/// The flags needed before each instruction, and after the last.
pub(super) fn needs(effects: &[Effect]) -> Vec<u32> {
    let mut needs = vec![ALL; effects.len() + 1];
    let mut first = 0;
    loop {
        for (i, effect) in effects.iter().enumerate().rev() {
            let back = if effect.loops { first } else { 0 };
            needs[i] = effect.uses | back | needs[i + 1] & !effect.kills;
        }
        // What the loop's start needs only grows from round to round.
        if needs[0] == first || !effects.iter().any(|effect| effect.loops) {
            return needs;
        }
        first = needs[0];
    }
}

impl Translator<'_> {
    /// Saves the flags if they are in RFLAGS alone.
    pub(super) fn save_flags(&mut self) {
        let Some(fix) = self.flags.native else {
            return;
        };
        if self.flags.saved {
            return;
        }
        self.flags.saved = true;
        match fix {
            // lahf; seto al
            Fix::Exact => self.e.bytes(&[0x9f, 0x0f, 0x90, 0xc0]),
            // lahf; seto al; and ah, ~AF
            Fix::ClearAf => {
                self.e.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x80, 0xe4, 0xef]);
                self.flags.native = None;
            }
            // lahf; and ah, ~AF; mov al, 0
            Fix::ClearAfOf => {
                self.e.bytes(&[0x9f, 0x80, 0xe4, 0xef, 0xb0, 0]);
                self.flags.native = None;
            }
            // lahf; and ah, ~AF; mov al, ah; shr al, 7; xor al, ah; and al, 1
            Fix::ShiftLeft => {
                self.e.bytes(&[0x9f, 0x80, 0xe4, 0xef]);
                self.e
                    .bytes(&[0x88, 0xe0, 0xc0, 0xe8, 7, 0x30, 0xe0, 0x24, 1]);
                self.flags.native = None;
            }
        }
    }

    /// Before something that destroys RFLAGS, and may let the flags be seen.
    pub(super) fn expose_flags(&mut self) {
        self.save_flags();
        self.flags.native = None;
    }

    /// Brings the flags in `wanted` to RFLAGS.
    pub(super) fn native_flags(&mut self, wanted: u32) {
        if let Some(fix) = self.flags.native {
            if wanted & !fix.exact() == 0 {
                return;
            }
            self.save_flags();
        }
        self.restore_flags();
    }

    /// RFLAGS from AX, which stays.
    pub(super) fn restore_flags(&mut self) {
        // cmp al, 81h overflows exactly if AL is 1; sahf sets the other five.
        self.e.bytes(&[0x3c, 0x81, 0x9e]);
        self.flags.native = Some(Fix::Exact);
    }

    /// The running instruction has written all flags to RFLAGS.
    pub(super) fn flags_written(&mut self, fix: Fix) {
        self.flags = Place {
            native: Some(fix),
            saved: false,
        };
    }

    /// CF of RFLAGS into the saved flags: rcr ah, 1; rol ah, 1.
    pub(super) fn save_carry(&mut self) {
        self.e.bytes(&[0xd0, 0xdc, 0xd0, 0xc4]);
        self.flags = Place::SAVED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_needs_at_its_end_what_it_needs_at_its_start() {
        let plain = Effect {
            uses: 0,
            kills: 0,
            loops: false,
        };
        let kill = Effect {
            kills: ALL,
            ..plain
        };
        let branch = Effect {
            uses: RflagsBits::ZF,
            loops: true,
            ..plain
        };
        let end = Effect { uses: 0, ..kill };
        // Nothing reads the flags before they are written again.
        assert_eq!(needs(&[kill, branch, end])[0], 0);
        assert_eq!(needs(&[kill, branch, end])[1], RflagsBits::ZF);
        // The start lets them be seen.
        let seen = Effect { uses: ALL, ..plain };
        assert_eq!(needs(&[seen, kill, branch, end])[2], ALL);
        assert_eq!(needs(&[plain])[0], ALL);
    }
}
