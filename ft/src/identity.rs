//! Who is who: the VM, the generation of its pairing, the processes that are its members.
//!
//! Does: name identities as plain data with a text form. Does not: make them; random ids come from
//! the host side.
//!
//! Invariant: an incarnation id belongs to one process for one life. It is never written to disk by
//! that process for its own later use, so a restarted process is somebody else (paper §2.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::codec::{DecodeError, Decoder, put_bytes, put_number};

/// The longest engine or CPU model name.
pub const MAX_NAME: usize = 64;

/// A text that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not an id: 32 hexadecimal digits are needed")]
pub struct BadId(pub String);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            /// 32 hexadecimal digits; dashes as in a UUID are allowed.
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId(text.chars().take(64).collect());
                let mut id = [0; 16];
                let mut count = 0;
                for c in text.chars().filter(|c| *c != '-') {
                    let digit = c.to_digit(16).ok_or_else(bad)? as u8;
                    let byte = id.get_mut(count / 2).ok_or_else(bad)?;
                    *byte = *byte << 4 | digit;
                    count += 1;
                }
                if count == 32 { Ok($name(id)) } else { Err(bad()) }
            }
        }
    };
}

id_type! {
    /// A VM, from `vm.create` (or restore) to its end, across hosts.
    VmId
}

id_type! {
    /// One process in one life, as a member of pairings.
    Incarnation
}

/// The number of a pairing: 1 for a VM's first, and each pairing has a fresh one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the machine's behaviour is defined by. Two sides that differ in it never pair, and a log
/// replays only under the semantics it was recorded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semantics {
    /// The engine, which also gives positions their meaning.
    pub engine: String,
    /// The CPU model that the guest sees.
    pub cpu_model: String,
    /// Raised with every change of the machine's behaviour.
    pub number: u64,
}

impl Semantics {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.engine.as_bytes());
        put_bytes(out, self.cpu_model.as_bytes());
        put_number(out, self.number);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Semantics {
            engine: from.text(MAX_NAME, "engine name")?,
            cpu_model: from.text(MAX_NAME, "CPU model name")?,
            number: from.number("semantics number")?,
        })
    }
}

impl fmt::Display for Semantics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.engine, self.cpu_model, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_text_form() {
        let text = "00112233445566778899aabbccddeeff";
        let id: VmId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(
            "00112233-4455-6677-8899-aabbccddeeff".parse::<VmId>(),
            Ok(id)
        );
        for bad in ["", "00", &text[1..], &format!("{text}0"), "zz"] {
            assert!(bad.parse::<VmId>().is_err(), "{bad}");
        }
    }
}
