//! The machine's random numbers: what RDRAND and RDSEED return.
//!
//! Does: expand a 256-bit seed with the ChaCha20 block function (RFC 8439, section 2.3). The guest
//! derives keys from these numbers, so the generator is a cryptographic one; whoever creates the
//! machine draws the seed from the host's random source, and both sides of a pair get the same.
//! Does not: draw a seed, or mix anything in later.
//!
//! Invariant: the n-th number is a function of the seed and n alone.

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};

/// Numbers in a block of 64 bytes.
const NUMBERS_PER_BLOCK: u64 = 8;

/// Seed and position, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// The seed.
    pub seed: [u8; 32],
    /// Numbers given out.
    pub drawn: u64,
}

/// A seeded generator.
#[derive(Clone)]
pub struct Rng {
    seed: [u8; 32],
    drawn: u64,
    /// The block that holds the next number, unless that is the first of a block. Derived.
    block: [u32; 16],
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed is a secret of the guest.
        f.debug_struct("Rng")
            .field("drawn", &self.drawn)
            .finish_non_exhaustive()
    }
}

impl Rng {
    /// A generator at the start of its sequence.
    pub fn new(seed: [u8; 32]) -> Self {
        Rng {
            seed,
            drawn: 0,
            block: [0; 16],
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> RngState {
        let Rng {
            seed,
            drawn,
            block: _,
        } = *self;
        RngState { seed, drawn }
    }

    /// A generator with a saved state.
    pub fn restore(state: &RngState) -> Result<Self, InvalidState> {
        let RngState { seed, drawn } = *state;
        require(drawn != u64::MAX, "random generator", "sequence at its end")?;
        let mut rng = Rng::new(seed);
        rng.drawn = drawn;
        rng.block = rng.current_block();
        Ok(rng)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        if self.drawn.is_multiple_of(NUMBERS_PER_BLOCK) {
            self.block = self.current_block();
        }
        let word = (self.drawn % NUMBERS_PER_BLOCK) as usize * 2;
        self.drawn = self.drawn.wrapping_add(1);
        u64::from(self.block[word + 1]) << 32 | u64::from(self.block[word])
    }

    /// The block that `drawn` points into.
    fn current_block(&self) -> [u32; 16] {
        let counter = self.drawn / NUMBERS_PER_BLOCK;
        chacha20_block(&self.seed, [counter as u32, (counter >> 32) as u32, 0, 0])
    }
}

/// The ChaCha20 block function for a key and the last row of its input: counter and nonce.
fn chacha20_block(key: &[u8; 32], last_row: [u32; 4]) -> [u32; 16] {
    let mut input = [0; 16];
    // "expand 32-byte k"
    input[..4].copy_from_slice(&[0x6170_7865, 0x3320_646E, 0x7962_2D32, 0x6B20_6574]);
    for (word, bytes) in input[4..12].iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes
            .iter()
            .rev()
            .fold(0, |word, &b| word << 8 | u32::from(b));
    }
    input[12..].copy_from_slice(&last_row);

    let mut x: [u32; 16] = input;
    for _ in 0..10 {
        for column in 0..4 {
            quarter_round(&mut x, [column, column + 4, column + 8, column + 12]);
        }
        for diagonal in 0..4 {
            quarter_round(
                &mut x,
                [
                    diagonal,
                    4 + (diagonal + 1) % 4,
                    8 + (diagonal + 2) % 4,
                    12 + (diagonal + 3) % 4,
                ],
            );
        }
    }
    std::array::from_fn(|word| x[word].wrapping_add(input[word]))
}

fn quarter_round(x: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    for (sum, addend, target, rotation) in
        [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]
    {
        x[sum] = x[sum].wrapping_add(x[addend]);
        x[target] = (x[target] ^ x[sum]).rotate_left(rotation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_function_is_that_of_the_rfc() {
        // RFC 8439, section 2.3.2.
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let block = chacha20_block(&key, [1, 0x0900_0000, 0x4A00_0000, 0]);
        let expected = [
            0xE4E7_F110,
            0x1559_3BD1,
            0x1FDD_0F50,
            0xC471_20A3,
            0xC7F4_D1C7,
            0x0368_C033,
            0x9AAA_2204,
            0x4E6C_D4C3,
            0x4664_82D2,
            0x09AA_9F07,
            0x05D7_C214,
            0xA202_8BD9,
            0xD19C_12B5,
            0xB94E_16DE,
            0xE883_D0CB,
            0x4E3C_50A2,
        ];
        assert_eq!(block, expected);
    }

    #[test]
    fn the_sequence_continues_from_any_saved_point() {
        let mut rng = Rng::new([7; 32]);
        let whole: Vec<u64> = (0..40).map(|_| rng.next_u64()).collect();
        for cut in 0..40 {
            let mut rng = Rng::new([7; 32]);
            for _ in 0..cut {
                rng.next_u64();
            }
            let mut rng = Rng::restore(&rng.save()).unwrap();
            let rest: Vec<u64> = (cut..40).map(|_| rng.next_u64()).collect();
            assert_eq!(rest, whole[cut..]);
        }
    }

    #[test]
    fn seeds_and_positions_make_different_numbers() {
        let mut numbers: Vec<u64> = Vec::new();
        for seed in 0..4 {
            let mut rng = Rng::new([seed; 32]);
            numbers.extend((0..100).map(|_| rng.next_u64()));
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 400);
    }

    #[test]
    fn debug_output_keeps_the_seed() {
        assert!(!format!("{:?}", Rng::new([0xAB; 32])).contains("171"));
    }
}
