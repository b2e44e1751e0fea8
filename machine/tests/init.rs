//! What an INIT does to the machine.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod tiny;

use std::sync::atomic::AtomicBool;

use machine::{Exit, Position};

#[test]
fn an_init_of_the_only_cpu_resets_the_machine() {
    // mov dword [0xfee00300], 0x00084500: INIT to all including self; hlt.
    let code = [
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x08, 0x00, 0xf4,
    ];
    let mut machine = tiny::machine(&code);
    let kick = AtomicBool::new(false);
    for round in 1..4u64 {
        assert_eq!(machine.run(Position(1000), &kick), Exit::Reset);
        // The store, and the reset.
        assert_eq!(machine.position(), Position(2 * round));
    }
}
