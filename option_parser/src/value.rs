//! Types of option values.
//!
//! Does: convert a value's text to a size, toggle, number, string or list. Does not: give
//! defaults; those belong to the configuration.
//!
//! Invariant: a conversion takes the whole text or fails; it never overflows silently.

use std::path::PathBuf;

use crate::split::split;

/// A type that an option's value can have.
pub trait FromOptionValue: Sized {
    /// What such a value looks like, for error messages: "a number", "on or off".
    const EXPECTED: &'static str;

    /// The value that `text` stands for, if it is one.
    fn from_option_value(text: &str) -> Option<Self>;
}

/// A number of bytes: digits with an optional `K`, `M`, `G` or `T` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(
    /// The number of bytes.
    pub u64,
);

impl FromOptionValue for ByteSize {
    const EXPECTED: &'static str = "a number of bytes, or one followed by K, M, G or T";

    fn from_option_value(text: &str) -> Option<Self> {
        let (digits, shift) = match text.char_indices().next_back()? {
            (at, 'K' | 'k') => (&text[..at], 10),
            (at, 'M' | 'm') => (&text[..at], 20),
            (at, 'G' | 'g') => (&text[..at], 30),
            (at, 'T' | 't') => (&text[..at], 40),
            _ => (text, 0),
        };
        let number = integer(digits)?;
        number.checked_mul(1 << shift).map(ByteSize)
    }
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toggle(
    /// Whether it is on.
    pub bool,
);

impl FromOptionValue for Toggle {
    const EXPECTED: &'static str = "on, off, true or false";

    fn from_option_value(text: &str) -> Option<Self> {
        match text {
            "on" | "true" => Some(Toggle(true)),
            "off" | "false" => Some(Toggle(false)),
            _ => None,
        }
    }
}

impl FromOptionValue for String {
    const EXPECTED: &'static str = "a text";

    fn from_option_value(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromOptionValue for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_option_value(text: &str) -> Option<Self> {
        Some(PathBuf::from(text))
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromOptionValue for $type {
            const EXPECTED: &'static str =
                concat!("a number of type ", stringify!($type), ", decimal or with 0x");

            fn from_option_value(text: &str) -> Option<Self> {
                integer(text)?.try_into().ok()
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, usize);

/// Numbers and ranges: `[1,3-5]` is 1, 3, 4, 5. One number needs no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegerList(
    /// The numbers, in the order given.
    pub Vec<u64>,
);

/// The longest list that ranges may make.
const LIST_LENGTH_MAX: usize = 4096;

impl FromOptionValue for IntegerList {
    const EXPECTED: &'static str = "a list of at most 4096 numbers and ranges, as in [1,3-5]";

    fn from_option_value(text: &str) -> Option<Self> {
        let mut numbers = Vec::new();
        for item in items(text)? {
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (integer(first)?, integer(last)?),
                None => (integer(&item)?, integer(&item)?),
            };
            let length = usize::try_from(last.checked_sub(first)?).ok()?;
            if numbers.len().saturating_add(length) >= LIST_LENGTH_MAX {
                return None;
            }
            numbers.extend(first..=last);
        }
        Some(IntegerList(numbers))
    }
}

/// Texts: `[a,b]`. One text needs no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringList(
    /// The texts, in the order given.
    pub Vec<String>,
);

impl FromOptionValue for StringList {
    const EXPECTED: &'static str = "a list, as in [a,b]";

    fn from_option_value(text: &str) -> Option<Self> {
        items(text).map(StringList)
    }
}

/// What is inside the brackets, none of it empty; or the text itself if it has no brackets.
fn items(text: &str) -> Option<Vec<String>> {
    let inside = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => text,
    };
    let items = split(inside, ',').ok()?;
    (!items.iter().any(String::is_empty)).then_some(items)
}

/// Digits only: no sign, no blanks.
fn integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |text| ByteSize::from_option_value(text).map(|size| size.0);
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("0x1000"), Some(4096));
        assert_eq!(size("1K"), Some(1 << 10));
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("2G"), Some(2 << 30));
        assert_eq!(size("1T"), Some(1 << 40));
        assert_eq!(size("16777215T"), Some(16_777_215 << 40));
        for wrong in ["", "M", "-1", "+1", "1.5G", "1 G", "1GB", "16777216T", "1é"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn toggles() {
        let toggle = |text| Toggle::from_option_value(text).map(|toggle| toggle.0);
        assert_eq!(toggle("on"), Some(true));
        assert_eq!(toggle("true"), Some(true));
        assert_eq!(toggle("off"), Some(false));
        assert_eq!(toggle("false"), Some(false));
        for wrong in ["", "On", "1", "yes"] {
            assert_eq!(toggle(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(u8::from_option_value("255"), Some(255));
        assert_eq!(u8::from_option_value("256"), None);
        assert_eq!(
            u64::from_option_value("18446744073709551615"),
            Some(u64::MAX)
        );
        assert_eq!(u64::from_option_value("18446744073709551616"), None);
        assert_eq!(u64::from_option_value("0x"), None);
    }

    #[test]
    fn lists() {
        let numbers = |text| IntegerList::from_option_value(text).map(|list| list.0);
        assert_eq!(numbers("[1,3-5,0x10]"), Some(vec![1, 3, 4, 5, 16]));
        assert_eq!(numbers("7"), Some(vec![7]));
        assert_eq!(numbers("[]"), Some(vec![]));
        for wrong in [
            "[5-3]",
            "[1,]",
            "[1",
            "[a]",
            "[0-18446744073709551615]",
            "[1-]",
        ] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
        let texts = |text| StringList::from_option_value(text).map(|list| list.0);
        assert_eq!(texts("[a,b]"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(texts("a"), Some(vec!["a".into()]));
        assert_eq!(texts("[a,,b]"), None);
    }
}
