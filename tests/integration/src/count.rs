//! The guest's `count` program and what it must print.

use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Outcome, While};

/// The arguments of `count` (see `tests/guests/count.c`).
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Pseudo-random memory accesses for each line.
    pub rounds: u64,
    /// The guest's sleep after each line.
    pub pause_ms: u64,
    /// The memory that they go to.
    pub mib: u64,
}

impl Count {
    /// Its parameter on the guest's kernel command line.
    pub fn parameter(&self, lines: u64) -> String {
        let Count {
            rounds,
            pause_ms,
            mib,
        } = self;
        format!("test=count:{lines}:{rounds}:{pause_ms}:{mib}")
    }

    /// The bytes that a console shows of `lines` lines in an undisturbed run: the same `program`,
    /// run on this host. With `done` they include the line that ends them.
    pub fn expected(&self, program: &Path, lines: u64, done: bool) -> Outcome<Vec<u8>> {
        let output = Command::new(program)
            .args([lines, self.rounds, 0, self.mib].map(|number| number.to_string()))
            .output()
            .during("running count on the host")?;
        let text = String::from_utf8(output.stdout).during("count's output")?;
        let Some(text) = text.strip_suffix("# done\n") else {
            return Err(Failure::new(format!(
                "count failed on the host: {}",
                text.lines().last().unwrap_or("it printed nothing")
            )));
        };
        let mut expected = text.replace('\n', "\r\n").into_bytes();
        if done {
            expected.extend_from_slice(b"# done\r\n");
        }
        Ok(expected)
    }
}

/// The number of the last whole line that `console` shows, 0 if there is none.
pub fn last_line(console: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(console);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .rev()
        .find_map(|line| {
            let (number, hash) = line.trim_end().split_once(' ')?;
            (hash.len() == 64).then(|| number.parse().ok()).flatten()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_a_whole_one() {
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(last_line(b""), 0);
        assert_eq!(last_line(b"init: 7 things\r\n# count 2000 4\r\n"), 0);
        let text = format!("# count 2000 4\r\n1 {hash}\r\n2 {hash}\r\n3 {hash}");
        assert_eq!(last_line(text.as_bytes()), 2);
    }
}
