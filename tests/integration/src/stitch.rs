//! Whether what several hosts showed, one after the other, is one machine's history.
//!
//! Does: lay each host's output over the bytes of an undisturbed run. Does not: know where output
//! came from, or when.
//!
//! Invariant: each piece begins at or before the end of what was shown until then and goes on from
//! there without a gap; so a failover repeats at most one contiguous stretch, and nothing is lost.
//! Only what stands before the first expected byte (a booting kernel's messages, whose times
//! differ from run to run) or after the last may be anything.

use crate::failure::{Failure, Outcome};

/// How much of a wrong piece a failure shows.
const SHOWN_BYTES: usize = 400;

/// Which part of the history a piece showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes before the history's first.
    pub before: usize,
    /// Its first byte, as an offset into the history.
    pub from: usize,
    /// One past its last.
    pub to: usize,
    /// How many bytes of it had been shown already.
    pub repeated: usize,
}

/// The expected bytes, and how far they have been shown.
#[derive(Clone, Debug)]
pub struct History {
    expected: Vec<u8>,
    /// Whether the expected bytes end where the guest ends. Otherwise it could go on.
    ends: bool,
    shown: usize,
}

impl History {
    /// A history of which nothing was shown; there is at least one byte of it. `ends` says that nothing of interest follows the
    /// expected bytes.
    pub fn new(expected: Vec<u8>, ends: bool) -> Self {
        History {
            expected,
            ends,
            shown: 0,
        }
    }

    /// How many bytes have been shown.
    pub fn shown(&self) -> usize {
        self.shown
    }

    /// Whether all of it has been shown.
    pub fn is_complete(&self) -> bool {
        self.ends && self.shown == self.expected.len()
    }

    /// Adds what the next host showed.
    pub fn add(&mut self, output: &[u8]) -> Outcome<Piece> {
        let piece = self.place(output)?;
        self.shown = self.shown.max(piece.to);
        Ok(piece)
    }

    fn place(&self, output: &[u8]) -> Outcome<Piece> {
        if output.is_empty() {
            return Ok(Piece {
                before: 0,
                from: self.shown,
                to: self.shown,
                repeated: 0,
            });
        }
        let piece = |before: usize, from: usize| {
            let to = (from + output.len() - before).min(self.expected.len());
            Piece {
                before,
                from,
                to,
                repeated: self.shown.min(to).saturating_sub(from),
            }
        };
        // The latest place where something of it can be seen.
        let last = self.shown.min(self.expected.len() - 1);
        if let Some(from) = (0..=last).rev().find(|from| self.fits(output, *from)) {
            return Ok(piece(0, from));
        }
        // It may begin before the history does.
        let first = self.first_line();
        if let Some(before) = find(output, first)
            && self.fits(&output[before..], 0)
        {
            return Ok(piece(before, 0));
        }
        if self.shown < first.len() && !self.has_a_line_of(output) {
            let before = (0..=output.len())
                .find(|before| first.starts_with(&output[*before..]))
                .unwrap_or(output.len());
            return Ok(piece(before, 0));
        }
        if self.is_complete() && !self.has_a_line_of(output) {
            return Ok(piece(output.len(), self.shown));
        }
        Err(self.misfit(output))
    }

    /// Whether `output` is what the history shows from offset `from`.
    fn fits(&self, output: &[u8], from: usize) -> bool {
        let expected = &self.expected[from..];
        let common = output.len().min(expected.len());
        let rest = &output[common..];
        output[..common] == expected[..common]
            && (rest.is_empty() || (self.ends && !self.has_a_line_of(rest)))
    }

    fn has_a_line_of(&self, output: &[u8]) -> bool {
        let mut lines = output.split_inclusive(|byte| *byte == b'\n');
        lines.any(|line| {
            let mut expected = self.expected.split_inclusive(|byte| *byte == b'\n');
            line.ends_with(b"\n") && expected.any(|expected| expected == line)
        })
    }

    fn first_line(&self) -> &[u8] {
        let end = self.expected.iter().position(|byte| *byte == b'\n');
        &self.expected[..end.map_or(self.expected.len(), |end| end + 1)]
    }

    fn misfit(&self, output: &[u8]) -> Failure {
        let shown_before = &self.expected[self.shown.saturating_sub(SHOWN_BYTES)..self.shown];
        let later = (self.shown..self.expected.len()).find(|from| self.fits(output, *from));
        let what = match later {
            Some(from) => format!("{} bytes are missing", from - self.shown),
            None => {
                let longest = (0..=self.shown).map(|from| {
                    let pairs = self.expected[from..].iter().zip(output);
                    pairs.take_while(|(a, b)| a == b).count()
                });
                let longest = longest.max().unwrap_or(0);
                let from = longest.saturating_sub(SHOWN_BYTES / 2);
                let to = output.len().min(longest + SHOWN_BYTES / 2);
                format!(
                    "no undisturbed run shows this; the first {longest} bytes of the piece could \
                     be right, and around there it says:\n{}\n",
                    String::from_utf8_lossy(&output[from..to])
                )
            }
        };
        Failure::new(format!(
            "the output does not go on where it stopped: {what}\nshown before:\n{}\nthe piece \
             begins:\n{}",
            String::from_utf8_lossy(shown_before),
            String::from_utf8_lossy(&output[..output.len().min(SHOWN_BYTES)])
        ))
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &[u8] = b"# count\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n# done\r\n";

    fn shown(pieces: &[&[u8]]) -> Outcome<(History, Vec<Piece>)> {
        let mut history = History::new(RUN.to_vec(), true);
        let placed = pieces.iter().map(|piece| history.add(piece));
        let placed: Outcome<Vec<Piece>> = placed.collect();
        placed.map(|placed| (history, placed))
    }

    #[test]
    fn one_host_shows_all() {
        let (history, placed) =
            shown(&[b"booting\r\n# count\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n# done\r\npower down"])
                .unwrap();
        assert!(history.is_complete());
        assert_eq!(placed[0].before, 9);
        assert_eq!(placed[0].repeated, 0);
    }

    #[test]
    fn every_cut_with_every_repeat_is_accepted_and_every_gap_is_not() {
        for cut in 1..RUN.len() {
            for from in 0..RUN.len() {
                let result = shown(&[&RUN[..cut], &RUN[from..]]);
                if from <= cut {
                    let (history, placed) = result.unwrap();
                    assert!(history.is_complete());
                    assert_eq!(placed[1].repeated, cut - from);
                } else {
                    let accepted = result.is_ok_and(|(history, _)| history.is_complete());
                    assert!(!accepted, "a gap from {cut} to {from}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found_wherever_it_is() {
        for cut in [9, 20, 30] {
            for wrong in cut..RUN.len() - 1 {
                let mut rest = RUN[cut..].to_vec();
                rest[wrong - cut] ^= 1;
                assert!(shown(&[&RUN[..cut], &rest]).is_err(), "{cut} {wrong}");
            }
        }
    }

    #[test]
    fn two_repeats_in_one_piece_are_refused() {
        shown(&[&RUN[..16], b"1 aaa\r\n1 aaa\r\n2 bbb\r\n"]).unwrap_err();
    }

    #[test]
    fn a_failover_while_the_kernel_boots_is_accepted() {
        let (history, _) = shown(&[b"[0.1] boo", b"[0.1] booting\r\n# cou", &RUN[2..]]).unwrap();
        assert!(history.is_complete());
    }

    #[test]
    fn silence_is_accepted() {
        let (history, placed) = shown(&[&RUN[..12], b"", &RUN[12..]]).unwrap();
        assert!(history.is_complete());
        assert_eq!(placed[1].from, placed[1].to);
    }

    #[test]
    fn a_run_that_goes_on_past_what_is_known_is_no_proof() {
        let mut history = History::new(RUN[..16].to_vec(), false);
        history.add(&RUN[..12]).unwrap();
        history.add(&RUN[12..]).unwrap_err();
    }
}
