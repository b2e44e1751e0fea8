//! What clients asked of registers, and what they were told.
//!
//! A history is kept as lines of text, one operation a line:
//!
//! ```text
//! CLIENT INVOKED_NS RETURNED_NS|? KEY=VALUE|KEY=nil ... | KEY=VALUE ...
//! ```
//!
//! with what was read before the bar and what was written behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Write};

use crate::failure::{Failure, Outcome};

/// Which register.
pub type Key = u32;

/// What is written: no two operations of a history write the same value.
pub type Value = u64;

/// One operation on some registers, which takes effect at once or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; for its reader only.
    pub client: u32,
    /// When it was asked, in nanoseconds of a clock that never goes back.
    pub invoked: u64,
    /// When it was answered. None if it never was: its reads are not known then, and its writes
    /// may take effect at any time after it was invoked, or never.
    pub returned: Option<u64>,
    /// What it read before it wrote; None is a register that was never written.
    pub reads: BTreeMap<Key, Option<Value>>,
    /// What it wrote.
    pub writes: BTreeMap<Key, Value>,
}

impl Operation {
    /// Every register that it reads or writes.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.reads.keys().chain(self.writes.keys()).copied()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.client, self.invoked)?;
        match self.returned {
            Some(returned) => write!(f, "{returned}")?,
            None => write!(f, "?")?,
        }
        for (key, value) in &self.reads {
            match value {
                Some(value) => write!(f, " {key}={value}")?,
                None => write!(f, " {key}=nil")?,
            }
        }
        write!(f, " |")?;
        for (key, value) in &self.writes {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Operation {
    type Err = Failure;

    fn from_str(line: &str) -> Outcome<Self> {
        let wrong = || Failure::new(format!("this is no operation: {line:?}"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (head, writes) = line.split_once('|').ok_or_else(wrong)?;
        let mut words = head.split_whitespace();
        let mut next = || words.next().ok_or_else(wrong);
        let client = next()?.parse().map_err(|_| wrong())?;
        let invoked = number(next()?)?;
        let returned = match next()? {
            "?" => None,
            text => Some(number(text)?),
        };
        let pair = |text: &str| -> Outcome<(Key, Option<Value>)> {
            let (key, value) = text.split_once('=').ok_or_else(wrong)?;
            let key = key.parse().map_err(|_| wrong())?;
            match value {
                "nil" => Ok((key, None)),
                value => Ok((key, Some(number(value)?))),
            }
        };
        let reads = words.map(pair).collect::<Outcome<_>>()?;
        let writes = writes.split_whitespace().map(|text| {
            let (key, value) = pair(text)?;
            Ok((key, value.ok_or_else(wrong)?))
        });
        Ok(Operation {
            client,
            invoked,
            returned,
            reads,
            writes: writes.collect::<Outcome<_>>()?,
        })
    }
}

/// Writes a history, a line for each operation.
pub fn write(history: &[Operation], mut to: impl Write) -> Outcome<()> {
    for operation in history {
        writeln!(to, "{operation}")?;
    }
    Ok(to.flush()?)
}

/// Reads what [`write`] wrote.
pub fn read(from: impl BufRead) -> Outcome<Vec<Operation>> {
    from.lines().map(|line| line?.parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_can_be_read_again() {
        let history = vec![
            Operation {
                client: 3,
                invoked: 10,
                returned: Some(20),
                reads: BTreeMap::from([(1, None), (2, Some(7))]),
                writes: BTreeMap::from([(1, 8), (2, 9)]),
            },
            Operation {
                client: 4,
                invoked: 15,
                returned: None,
                reads: BTreeMap::new(),
                writes: BTreeMap::from([(1, 10)]),
            },
        ];
        let mut text = Vec::new();
        write(&history, &mut text).expect("memory takes it");
        assert_eq!(read(text.as_slice()).expect("it can be read"), history);
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        for line in [
            "",
            "1 2 3",
            "1 2 3 4 |",
            "1 2 ? 1=x |",
            "1 2 3 | 1=nil",
            "x 2 3 |",
        ] {
            assert!(line.parse::<Operation>().is_err(), "{line}");
        }
    }
}
