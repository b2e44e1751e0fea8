//! Decoder and interpreter: any bytes as code, in any mode.
#![no_main]

use fuzz::bytes::Bytes;
use fuzz::{arena, compare};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let guest = arena::guest(&mut Bytes::new(data));
    compare::all_ways(&guest, 64);
});
