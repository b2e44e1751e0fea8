//! How much memory this host has.
//!
//! Does: ask the kernel. Does not: reserve any.
//!
//! Invariant: when it is not known, no bound is made up.

use std::io::Read;

/// Bytes of memory in all, if the kernel says so.
pub fn total() -> Option<u64> {
    let mut text = String::new();
    let mut file = std::fs::File::open("/proc/meminfo").ok()?;
    file.read_to_string(&mut text).ok()?;
    total_in(&text)
}

fn total_in(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says() {
        assert!(total().is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(total_in("MemFree: 5 kB\nMemTotal:   7 kB\n"), Some(7168));
        assert_eq!(total_in("MemTotal: much\n"), None);
    }
}
