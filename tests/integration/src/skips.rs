//! Tests that cannot run here say so, where somebody sees it.

use std::fs::OpenOptions;
use std::io::Write;

/// Says on stderr, and in the file `CH_SKIPS` that `scripts/test.sh` prints at its end, that
/// `test` was skipped.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("CH_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Ok(mut file) = file {
            // Without the file the line on stderr has to do.
            let _ = writeln!(file, "{test}: {reason}");
        }
    }
}
