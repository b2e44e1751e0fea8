//! One option's keys and values.
//!
//! Does: check a text against the keys an option takes, and hand out converted values. Does not:
//! decide which combinations make sense.
//!
//! Invariant: after `parse`, every key is known, appears once, and has a value exactly if it takes
//! one.

use std::collections::BTreeMap;

use crate::error::OptionError;
use crate::split::split;
use crate::value::FromOptionValue;

/// A key that an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    name: &'static str,
    takes_value: bool,
}

impl Key {
    /// One that is written `name=value`.
    pub const fn value(name: &'static str) -> Self {
        Key {
            name,
            takes_value: true,
        }
    }

    /// One that is written as a word alone.
    pub const fn word(name: &'static str) -> Self {
        Key {
            name,
            takes_value: false,
        }
    }
}

/// The keys and values of one option.
#[derive(Clone, Debug)]
pub struct Options {
    option: String,
    given: BTreeMap<&'static str, Option<String>>,
}

impl Options {
    /// Reads `text`, which was given for `option` (named only in errors), and which may use `keys`.
    pub fn parse(option: &str, text: &str, keys: &[Key]) -> Result<Self, OptionError> {
        let items = split(text, ',').map_err(|source| OptionError::Split {
            option: option.to_owned(),
            text: text.to_owned(),
            source,
        })?;
        let mut given = BTreeMap::new();
        for item in items {
            if item.is_empty() {
                return Err(OptionError::EmptyItem {
                    option: option.to_owned(),
                    text: text.to_owned(),
                });
            }
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item.as_str(), None),
            };
            let Some(key) = keys.iter().find(|key| key.name == name) else {
                return Err(OptionError::UnknownKey {
                    option: option.to_owned(),
                    key: name.to_owned(),
                    known: known(keys),
                });
            };
            let (option, name) = (option.to_owned(), name.to_owned());
            match (key.takes_value, value) {
                (true, None | Some("")) => {
                    return Err(OptionError::MissingValue { option, key: name });
                }
                (false, Some(_)) => {
                    return Err(OptionError::UnexpectedValue { option, key: name });
                }
                (true, Some(_)) | (false, None) => {}
            }
            if given.insert(key.name, value.map(str::to_owned)).is_some() {
                return Err(OptionError::Duplicate { option, key: name });
            }
        }
        Ok(Options {
            option: option.to_owned(),
            given,
        })
    }

    /// Whether `key` was given, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Whether nothing was given at all.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// The text of `key`'s value, if it was given.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.given.get(key)?.as_deref()
    }

    /// The value of `key`, if it was given.
    pub fn get<T: FromOptionValue>(&self, key: &str) -> Result<Option<T>, OptionError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        match T::from_option_value(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(key, T::EXPECTED)),
        }
    }

    /// The value of `key`, which must have been given.
    pub fn require<T: FromOptionValue>(&self, key: &str) -> Result<T, OptionError> {
        self.get(key)?.ok_or_else(|| OptionError::Required {
            option: self.option.clone(),
            key: key.to_owned(),
        })
    }

    /// The error for a value of `key` that is of the right type but makes no sense.
    pub fn invalid(&self, key: &str, expected: &str) -> OptionError {
        OptionError::InvalidValue {
            option: self.option.clone(),
            key: key.to_owned(),
            value: self.text(key).unwrap_or_default().to_owned(),
            expected: expected.to_owned(),
        }
    }
}

fn known(keys: &[Key]) -> String {
    let names: Vec<String> = keys
        .iter()
        .map(|key| {
            if key.takes_value {
                format!("{}=", key.name)
            } else {
                key.name.to_owned()
            }
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{ByteSize, IntegerList, Toggle};

    const KEYS: [Key; 4] = [
        Key::value("size"),
        Key::value("shared"),
        Key::value("nodes"),
        Key::word("off"),
    ];

    fn parse(text: &str) -> Result<Options, OptionError> {
        Options::parse("--memory", text, &KEYS)
    }

    #[test]
    fn values_are_converted() {
        let options = parse("size=1G,shared=on,nodes=[0,2-3]").unwrap();
        assert_eq!(
            options.require::<ByteSize>("size").unwrap(),
            ByteSize(1 << 30)
        );
        assert_eq!(options.get::<Toggle>("shared").unwrap(), Some(Toggle(true)));
        assert_eq!(
            options.get::<IntegerList>("nodes").unwrap().unwrap().0,
            [0, 2, 3]
        );
        assert!(!options.has("off"));
        assert!(parse("off").unwrap().has("off"));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_value_may_contain_equals_signs() {
        assert_eq!(parse("size=a=b").unwrap().text("size"), Some("a=b"));
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = parse("sise=1").unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "--memory: unknown key 'sise'; it takes size=, shared=, nodes=, off"
        );
        assert!(matches!(
            parse("size=1,size=2"),
            Err(OptionError::Duplicate { .. })
        ));
        assert!(matches!(
            parse("size"),
            Err(OptionError::MissingValue { .. })
        ));
        assert!(matches!(
            parse("size="),
            Err(OptionError::MissingValue { .. })
        ));
        assert!(matches!(
            parse("off=1"),
            Err(OptionError::UnexpectedValue { .. })
        ));
        assert!(matches!(
            parse("size=1,,off"),
            Err(OptionError::EmptyItem { .. })
        ));
        assert!(matches!(parse("nodes=[1"), Err(OptionError::Split { .. })));
        let options = parse("size=many").unwrap();
        assert_eq!(
            options.get::<ByteSize>("size").unwrap_err().to_string(),
            "--memory: 'many' is no value for 'size', which takes a number of bytes, \
             or one followed by K, M, G or T"
        );
        assert!(matches!(
            options.require::<Toggle>("shared"),
            Err(OptionError::Required { .. })
        ));
    }
}
