//! The remote control.
fn main() {}
