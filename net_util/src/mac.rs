//! MAC addresses.
//!
//! Does: read, print and make them. Does not: ask anybody whether one is taken.
//!
//! Invariant: a random one is locally administered and unicast.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// A text that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{0}' is no MAC address; it takes six hexadecimal bytes, as in 2e:89:a8:e4:bf:95")]
pub struct NotAMac(pub String);

impl MacAddress {
    /// One of our own, from six random bytes.
    pub fn local(random: [u8; 6]) -> Self {
        let [first, rest @ ..] = random;
        let mut bytes = [0; 6];
        // Locally administered, and not of a group.
        bytes[0] = first & !1 | 2;
        bytes[1..].copy_from_slice(&rest);
        MacAddress(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let none = || NotAMac(text.chars().take(64).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let part = part.ok_or_else(none)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| none())?;
        }
        match parts.next() {
            None => Ok(MacAddress(bytes)),
            Some(_) => Err(none()),
        }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_text() {
        let text = "2e:89:a8:e4:bf:95";
        let mac: MacAddress = text.parse().unwrap();
        assert_eq!(mac, MacAddress([0x2E, 0x89, 0xA8, 0xE4, 0xBF, 0x95]));
        assert_eq!(mac.to_string(), text);
        for wrong in [
            "",
            "2e:89:a8:e4:bf",
            "2e:89:a8:e4:bf:95:00",
            "2e:89:a8:e4:bf:9",
            "+1:2:3",
        ] {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
        assert_eq!(MacAddress::local([0xFF; 6]).0[0], 0xFE);
        assert_eq!(MacAddress::local([0; 6]).0[0], 2);
    }
}
