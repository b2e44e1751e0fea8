//! The flag: what stands in the arbiter about each generation of a pairing.
//!
//! Does: name the two records of a generation, its members and the one decision that ends it, and
//! code them as text. Does not: store them (`arbiter`).
//!
//! Invariant: a record is written once, whole, and never changed or removed: the flag is never
//! released (paper §2.3: the atomic test-and-set on shared storage). A record that was cut off or
//! belongs elsewhere is not taken for one.

use std::fmt::Write;

use thiserror::Error;

use crate::identity::{Generation, Incarnation, VmId};

/// The most members of a generation.
pub const MAX_MEMBERS: usize = 16;
const FORMAT: &str = "1";

/// Who is in a generation; written by the live side before it clones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The VM.
    pub vm: VmId,
    /// The generation that begins.
    pub generation: Generation,
    /// The live side, which is a member too.
    pub by: Incarnation,
    /// All members.
    pub members: Vec<Incarnation>,
}

/// The one decision that ends a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// From here on this member alone speaks for the VM.
    Won {
        /// The member.
        by: Incarnation,
    },
    /// The next generation, with these members, takes its place.
    Succeeded {
        /// The members of the next generation.
        members: Vec<Incarnation>,
    },
    /// The VM is over.
    Ended,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decision::Won { by } => write!(f, "won by {by}"),
            Decision::Succeeded { members } => {
                write!(f, "succeeded with {} members", members.len())
            }
            Decision::Ended => write!(f, "ended"),
        }
    }
}

/// Why a text is not the record it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// It is malformed, cut off, or of another version.
    #[error("the record is malformed at line {0}")]
    Malformed(usize),
    /// It is about something else.
    #[error("the record is of another VM or generation")]
    Elsewhere,
}

/// The name of a generation's members record.
pub fn members_name(vm: VmId, generation: Generation) -> String {
    format!("{vm}.{generation}.members")
}

/// The name of a generation's flag.
pub fn flag_name(vm: VmId, generation: Generation) -> String {
    format!("{vm}.{generation}.flag")
}

impl Members {
    /// The record's text.
    pub fn to_text(&self) -> String {
        let mut text = head("ft-members", self.vm, self.generation);
        let _ = writeln!(text, "by {}", self.by);
        put_members(&mut text, &self.members);
        text + "end\n"
    }

    /// The record in a text that must be about this generation.
    pub fn from_text(vm: VmId, generation: Generation, text: &str) -> Result<Self, RecordError> {
        let mut lines = Lines::of("ft-members", vm, generation, text)?;
        let by = lines.id("by")?;
        let members = lines.members()?;
        lines.end()?;
        if members.is_empty() || !members.contains(&by) {
            return Err(RecordError::Malformed(5));
        }
        Ok(Members {
            vm,
            generation,
            by,
            members,
        })
    }
}

impl Decision {
    /// The text of the flag of this generation.
    pub fn to_text(&self, vm: VmId, generation: Generation) -> String {
        let mut text = head("ft-flag", vm, generation);
        match self {
            Decision::Won { by } => {
                let _ = writeln!(text, "won {by}");
            }
            Decision::Succeeded { members } => {
                text += "succeeded\n";
                put_members(&mut text, members);
            }
            Decision::Ended => text += "ended\n",
        }
        text + "end\n"
    }

    /// The decision in a text that must be about this generation.
    pub fn from_text(vm: VmId, generation: Generation, text: &str) -> Result<Self, RecordError> {
        let mut lines = Lines::of("ft-flag", vm, generation, text)?;
        let decision = match lines.next()? {
            "ended" => Decision::Ended,
            "succeeded" => Decision::Succeeded {
                members: lines.members()?,
            },
            line => Decision::Won {
                by: lines.id_in("won", line)?,
            },
        };
        lines.end()?;
        Ok(decision)
    }
}

fn head(what: &str, vm: VmId, generation: Generation) -> String {
    format!("{what} {FORMAT}\nvm {vm}\ngeneration {generation}\n")
}

fn put_members(text: &mut String, members: &[Incarnation]) {
    for member in members {
        let _ = writeln!(text, "member {member}");
    }
}

struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn of(
        what: &str,
        vm: VmId,
        generation: Generation,
        text: &'a str,
    ) -> Result<Self, RecordError> {
        let rest = text
            .strip_prefix(what)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| rest.strip_prefix(FORMAT))
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or(RecordError::Malformed(1))?;
        let mut lines = Lines { rest, number: 1 };
        let (vm_line, generation_line) = (lines.next()?, lines.next()?);
        if vm_line != format!("vm {vm}") || generation_line != format!("generation {generation}") {
            return Err(RecordError::Elsewhere);
        }
        Ok(lines)
    }

    fn malformed(&self) -> RecordError {
        RecordError::Malformed(self.number)
    }

    /// The next line, which must be a whole one.
    fn next(&mut self) -> Result<&'a str, RecordError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or(self.malformed())?;
        self.rest = rest;
        Ok(line)
    }

    fn id(&mut self, key: &str) -> Result<Incarnation, RecordError> {
        let line = self.next()?;
        self.id_in(key, line)
    }

    fn id_in(&self, key: &str, line: &str) -> Result<Incarnation, RecordError> {
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|id| id.parse().ok())
            .ok_or(self.malformed())
    }

    fn members(&mut self) -> Result<Vec<Incarnation>, RecordError> {
        let mut members = Vec::new();
        while self.rest.starts_with("member ") {
            members.push(self.id("member")?);
            if members.len() > MAX_MEMBERS {
                return Err(self.malformed());
            }
        }
        Ok(members)
    }

    fn end(mut self) -> Result<(), RecordError> {
        if self.next()? == "end" && self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId([0xab; 16]);
    const G: Generation = Generation(7);
    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);

    #[test]
    fn golden_records() {
        let members = Members {
            vm: VM,
            generation: G,
            by: A,
            members: vec![A, B],
        };
        let text = "ft-members 1\n\
            vm abababababababababababababababab\n\
            generation 7\n\
            by 01010101010101010101010101010101\n\
            member 01010101010101010101010101010101\n\
            member 02020202020202020202020202020202\n\
            end\n";
        assert_eq!(members.to_text(), text);
        assert_eq!(Members::from_text(VM, G, text), Ok(members));
        let text = "ft-flag 1\n\
            vm abababababababababababababababab\n\
            generation 7\n\
            won 02020202020202020202020202020202\n\
            end\n";
        assert_eq!(Decision::Won { by: B }.to_text(VM, G), text);
        assert_eq!(flag_name(VM, G), "abababababababababababababababab.7.flag");
        assert_eq!(
            members_name(VM, G),
            "abababababababababababababababab.7.members"
        );
    }

    #[test]
    fn cut_off_or_foreign_records_are_none() {
        let decisions = [
            Decision::Won { by: A },
            Decision::Succeeded {
                members: vec![A, B],
            },
            Decision::Ended,
        ];
        for decision in decisions {
            let text = decision.to_text(VM, G);
            assert_eq!(Decision::from_text(VM, G, &text), Ok(decision));
            for cut in 0..text.len() {
                assert!(Decision::from_text(VM, G, &text[..cut]).is_err(), "{cut}");
            }
            Decision::from_text(VM, G, &(text.clone() + "x")).unwrap_err();
            let elsewhere = Err(RecordError::Elsewhere);
            assert_eq!(Decision::from_text(VM, G.next(), &text), elsewhere);
            assert_eq!(Decision::from_text(VmId([0; 16]), G, &text), elsewhere);
        }
    }
}
