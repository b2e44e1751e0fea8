//! Prints what the compiler makes of a block of 64-bit code.
//!
//! `cargo run -p x86 --example translate -- HEX…`: the block's bytes, as if at offset 40h of a page.

use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use x86::{Profile, listing};

/// Offset in the page.
const START: u16 = 0x40;

fn main() {
    let text: String = std::env::args().skip(1).collect();
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("hexadecimal digits"))
        .collect();
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect();
    if bytes.is_empty() {
        eprintln!("usage: translate HEX…");
        std::process::exit(2);
    }
    let Some(listing) = listing(&bytes, START, Profile::default().features()) else {
        println!("left to the interpreter");
        return;
    };
    let (mut guest, mut host) = (0, 0);
    for (n, share) in listing.shares.iter().enumerate() {
        match listing.lengths.get(n) {
            Some(&length) => {
                let end = (guest + length).min(bytes.len());
                print(u64::from(START) + guest as u64, &bytes[guest..end], "");
                guest = end;
            }
            None => println!("out of line"),
        }
        print(host, share, "        ");
        host += share.len() as u64;
    }
}

/// Prints instructions that start at `ip`.
fn print(ip: u64, bytes: &[u8], indent: &str) {
    let mut formatter = FastFormatter::new();
    for instruction in Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        println!("{indent}{:5x}  {line}", instruction.ip());
    }
}
