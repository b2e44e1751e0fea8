//! Numbers, byte strings and text as they stand in frames.
//!
//! Does: write and read LEB128 numbers, fixed little-endian integers and length-prefixed strings,
//! with a cap on every length. Does not: know any message.
//!
//! Invariant: each value has exactly one encoding, and a decoder never allocates more than it was
//! given bytes.

use thiserror::Error;

/// Why bytes could not be read as the value they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("the bytes end in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A number is longer than it need be, or than 64 bits.
    #[error("{what} is not a well-formed number")]
    BadNumber {
        /// What was being read.
        what: &'static str,
    },
    /// A length or count is above its cap.
    #[error("{what} has length {length}, the cap is {cap}")]
    TooLong {
        /// What was being read.
        what: &'static str,
        /// The length that was asked for.
        length: u64,
        /// The most that is accepted.
        cap: usize,
    },
    /// A tag that stands for nothing in this version.
    #[error("{what} has the unknown tag {tag:#x}")]
    UnknownTag {
        /// What was being read.
        what: &'static str,
        /// The tag found.
        tag: u8,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotText {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes that describe what cannot be.
    #[error("what should be a {what} is none")]
    Impossible {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes are left over.
    #[error("{count} bytes are left after {what}")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many bytes.
        count: usize,
    },
}

/// Appends `value` in LEB128: seven bits a byte, the least significant first.
pub(crate) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads values off the front of a slice.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything not read yet.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(1, what)?[0])
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn fixed_u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn fixed_u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the one remaining bit; a last byte of zero would be padding.
            if (shift == 63 && byte > 1) || (byte == 0 && shift > 0) {
                return Err(DecodeError::BadNumber { what });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadNumber { what })
    }

    /// A length of at most `cap`.
    pub(crate) fn length(&mut self, cap: usize, what: &'static str) -> Result<usize, DecodeError> {
        let length = self.number(what)?;
        match usize::try_from(length) {
            Ok(fits) if fits <= cap => Ok(fits),
            _ => Err(DecodeError::TooLong { what, length, cap }),
        }
    }

    pub(crate) fn bytes(
        &mut self,
        cap: usize,
        what: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let length = self.length(cap, what)?;
        self.take(length, what)
    }

    pub(crate) fn text(&mut self, cap: usize, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(cap, what)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| DecodeError::NotText { what })
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { what, count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> Result<u64, DecodeError> {
        Decoder::new(bytes).number("n")
    }

    #[test]
    fn numbers_survive_and_are_canonical() {
        for value in [0, 1, 127, 128, 300, 1 << 21, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, value);
            assert_eq!(number(&out), Ok(value));
            for cut in 0..out.len() {
                assert_eq!(
                    number(&out[..cut]),
                    Err(DecodeError::Truncated { what: "n" })
                );
            }
        }
        assert_eq!(
            number(&[0x80, 0]),
            Err(DecodeError::BadNumber { what: "n" })
        );
        assert_eq!(
            number(&[0xff; 10]),
            Err(DecodeError::BadNumber { what: "n" })
        );
    }

    #[test]
    fn lengths_are_capped_before_anything_is_read() {
        let mut out = Vec::new();
        put_bytes(&mut out, b"hello");
        assert_eq!(Decoder::new(&out).bytes(5, "b"), Ok(&b"hello"[..]));
        assert_eq!(
            Decoder::new(&out).bytes(4, "b"),
            Err(DecodeError::TooLong {
                what: "b",
                length: 5,
                cap: 4
            })
        );
        assert_eq!(
            Decoder::new(&[2, 0xff, 0xfe]).text(8, "t"),
            Err(DecodeError::NotText { what: "t" })
        );
    }
}
