//! The handshake: both sides introduce themselves before anything else.
//!
//! Does: code the introduction and check the other side's. Does not: choose ids or generations.
//!
//! Invariant: two sides go on only if protocol, machine semantics, VM, generation and memory size
//! are the same, their roles differ, and they are not the same process (paper §2.3, §3.1).

use thiserror::Error;

use crate::Tick;
use crate::codec::{DecodeError, Decoder, put_number};
use crate::identity::{Generation, Incarnation, Semantics, VmId};

/// Raised with every change of any message or its meaning.
pub const PROTOCOL_VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"ft-chan\n";

/// Which side a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs the guest.
    Primary,
    /// It replays.
    Backup,
}

/// A side's introduction: the payload of `Hello` (primary) and `HelloAck` (backup).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the machine's behaviour is defined by.
    pub semantics: Semantics,
    /// The VM.
    pub vm: VmId,
    /// The number of the pairing that is being made.
    pub generation: Generation,
    /// The sender.
    pub incarnation: Incarnation,
    /// What the sender will be.
    pub role: Role,
    /// Guest memory in bytes.
    pub ram_size: u64,
    /// The UDP port where the sender takes heartbeats; 0 for none.
    pub heartbeat_port: u16,
    /// After this much silence the sender takes the other side for lost.
    pub timeout: Tick,
}

/// Why an introduction is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The peer speaks something else.
    #[error("the peer does not speak this protocol")]
    BadMagic,
    /// Another version of the protocol.
    #[error("the peer speaks protocol version {0}, this build speaks {PROTOCOL_VERSION}")]
    WrongVersion(u16),
    /// Another kind of machine.
    #[error("the peer's machine is {theirs}, ours is {ours}")]
    WrongSemantics {
        /// Ours.
        ours: Semantics,
        /// The peer's.
        theirs: Semantics,
    },
    /// This side cannot be a backup of any machine.
    #[error("this side offers no machine")]
    NothingOffered,
    /// Another VM.
    #[error("the peer's VM is {theirs}, ours is {ours}")]
    WrongVm {
        /// Ours.
        ours: VmId,
        /// The peer's.
        theirs: VmId,
    },
    /// Another pairing.
    #[error("the peer is in generation {theirs}, we are in {ours}")]
    WrongGeneration {
        /// Ours.
        ours: Generation,
        /// The peer's.
        theirs: Generation,
    },
    /// Both are primary, or both backup.
    #[error("the peer wants to be {0:?}, as we do")]
    SameRole(Role),
    /// A process was connected to itself.
    #[error("the peer has our own incarnation id")]
    Ourselves,
    /// More memory than this side can give, or none, or a broken page.
    #[error("a guest of {size} bytes of memory; at most {cap}, in whole pages")]
    BadRamSize {
        /// What the peer says.
        size: u64,
        /// The most that is accepted.
        cap: u64,
    },
    /// Not a sensible time.
    #[error("a detection timeout of {0} ns")]
    BadTimeout(Tick),
    /// Bytes that are no introduction.
    #[error("the peer's introduction is malformed")]
    Malformed(#[from] DecodeError),
}

impl Hello {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        self.semantics.encode(out);
        out.extend_from_slice(&self.vm.0);
        put_number(out, self.generation.0);
        out.extend_from_slice(&self.incarnation.0);
        out.push(match self.role {
            Role::Primary => 0,
            Role::Backup => 1,
        });
        put_number(out, self.ram_size);
        out.extend_from_slice(&self.heartbeat_port.to_le_bytes());
        put_number(out, self.timeout);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Hello, HelloError> {
        let mut from = Decoder::new(payload);
        if from.array::<8>("magic")? != *MAGIC {
            return Err(HelloError::BadMagic);
        }
        let version = from.fixed_u16("protocol version")?;
        if version != PROTOCOL_VERSION {
            return Err(HelloError::WrongVersion(version));
        }
        let hello = Hello {
            semantics: Semantics::decode(&mut from)?,
            vm: VmId(from.array("VM id")?),
            generation: Generation(from.number("generation")?),
            incarnation: Incarnation(from.array("incarnation id")?),
            role: match from.byte("role")? {
                0 => Role::Primary,
                1 => Role::Backup,
                tag => return Err(DecodeError::UnknownTag { what: "role", tag }.into()),
            },
            ram_size: from.number("memory size")?,
            heartbeat_port: from.fixed_u16("heartbeat port")?,
            timeout: from.number("timeout")?,
        };
        from.finish("introduction")?;
        // From a millisecond to an hour: beyond, arithmetic on ticks would need care.
        if !(1_000_000..=3_600_000_000_000).contains(&hello.timeout) {
            return Err(HelloError::BadTimeout(hello.timeout));
        }
        Ok(hello)
    }

    /// Checks `theirs`, as the primary, against what it asked for.
    pub(crate) fn check_answer(&self, theirs: &Hello) -> Result<(), HelloError> {
        self.check_common(theirs)?;
        if theirs.vm != self.vm {
            return Err(HelloError::WrongVm {
                ours: self.vm,
                theirs: theirs.vm,
            });
        }
        if theirs.generation != self.generation {
            return Err(HelloError::WrongGeneration {
                ours: self.generation,
                theirs: theirs.generation,
            });
        }
        if theirs.ram_size != self.ram_size {
            return Err(HelloError::BadRamSize {
                size: theirs.ram_size,
                cap: self.ram_size,
            });
        }
        Ok(())
    }

    /// What does not depend on who asked.
    pub(crate) fn check_common(&self, theirs: &Hello) -> Result<(), HelloError> {
        if theirs.semantics != self.semantics {
            return Err(HelloError::WrongSemantics {
                ours: self.semantics.clone(),
                theirs: theirs.semantics.clone(),
            });
        }
        if theirs.role == self.role {
            return Err(HelloError::SameRole(theirs.role));
        }
        if theirs.incarnation == self.incarnation {
            return Err(HelloError::Ourselves);
        }
        Ok(())
    }
}
