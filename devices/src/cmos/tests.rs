//! The clock as Linux reads and sets it.

use super::*;

/// 2001-09-09 01:46:40 UTC, a Sunday.
const START: u64 = 1_000_000_000;

fn cmos() -> Cmos {
    Cmos::new(START, 512 << 20, 0)
}

fn get(cmos: &mut Cmos, index: u8, now: u64) -> u8 {
    cmos.write(INDEX, index, now);
    cmos.read(DATA, now)
}

fn set(cmos: &mut Cmos, index: u8, value: u8, now: u64) {
    cmos.write(INDEX, index, now);
    cmos.write(DATA, value, now);
}

fn time(cmos: &mut Cmos, now: u64) -> [u8; 8] {
    TIME_REGISTERS.map(|index| get(cmos, index, now))
}

#[test]
fn the_time_is_start_plus_virtual_time() {
    let mut cmos = cmos();
    assert_eq!(
        time(&mut cmos, 0),
        [0x40, 0x46, 0x01, 0x01, 0x09, 0x09, 0x01, 0x20]
    );
    let now = (22 * 3600 + 13 * 60 + 25) * NS_PER_S;
    assert_eq!(
        time(&mut cmos, now),
        [0x05, 0x00, 0x00, 0x02, 0x10, 0x09, 0x01, 0x20]
    );
}

#[test]
fn updates_are_announced() {
    let mut cmos = cmos();
    assert_eq!(get(&mut cmos, REGISTER_A, NS_PER_S - UPDATE_NS - 1), 0x26);
    assert_eq!(get(&mut cmos, REGISTER_A, NS_PER_S - UPDATE_NS), 0xA6);
    assert_eq!(get(&mut cmos, SECONDS, NS_PER_S - 1), 0x40);
    assert_eq!(get(&mut cmos, REGISTER_A, NS_PER_S), 0x26);
    assert_eq!(get(&mut cmos, SECONDS, NS_PER_S), 0x41);
}

#[test]
fn binary_and_twelve_hours() {
    let mut cmos = cmos();
    set(&mut cmos, REGISTER_B, B_BINARY, 0);
    let hour = 3600 * NS_PER_S;
    assert_eq!(get(&mut cmos, MINUTES, 0), 46);
    assert_eq!(get(&mut cmos, HOURS, 0), 1);
    assert_eq!(get(&mut cmos, HOURS, 11 * hour), 12 | HOURS_PM);
    assert_eq!(get(&mut cmos, HOURS, 23 * hour), 12);
    set(&mut cmos, REGISTER_B, 0, 0);
    assert_eq!(get(&mut cmos, HOURS, 21 * hour), 0x10 | HOURS_PM);
}

#[test]
fn linux_sets_the_time_while_updates_are_halted() {
    for format in [0, B_BINARY, B_24_HOURS, B_BINARY | B_24_HOURS] {
        let mut cmos = cmos();
        let now = 77 * NS_PER_S + 5;
        set(&mut cmos, REGISTER_B, format | B_SET, now);
        // What another clock of this format shows at 2024-02-29 13:14:15.
        let mut other = Cmos::new(1_709_212_455, 0, 0);
        set(&mut other, REGISTER_B, format, 0);
        for index in TIME_REGISTERS {
            let value = get(&mut other, index, 0);
            set(&mut cmos, index, value, now);
        }
        assert_eq!(get(&mut cmos, REGISTER_A, NS_PER_S - 1), 0x26);
        set(&mut cmos, REGISTER_B, format, now);
        assert_eq!(time(&mut cmos, now), time(&mut other, 0));
        assert_eq!(
            time(&mut cmos, now + 50 * NS_PER_S),
            time(&mut other, 50 * NS_PER_S)
        );
    }
}

#[test]
fn a_single_register_can_be_set() {
    let mut cmos = cmos();
    set(&mut cmos, MINUTES, 0x59, 0);
    assert_eq!(get(&mut cmos, MINUTES, 20 * NS_PER_S), 0x00);
    assert_eq!(get(&mut cmos, HOURS, 20 * NS_PER_S), 0x02);
}

#[test]
fn nonsense_does_not_change_the_time() {
    let mut cmos = cmos();
    let before = time(&mut cmos, 0);
    set(&mut cmos, MONTH, 0xFF, 0);
    assert_eq!(time(&mut cmos, 0), before);
}

#[test]
fn memory_sizes() {
    let mut cmos = Cmos::new(0, 3 << 30, 5 << 30);
    let mut word =
        |index| u16::from(get(&mut cmos, index, 0)) | u16::from(get(&mut cmos, index + 1, 0)) << 8;
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xFFFF);
    assert_eq!(word(0x34), 0xBF00);
    assert_eq!(word(0x5B), 0x4000);
    assert_eq!(word(0x5C), 0x0140);
}

#[test]
fn ram_survives_a_reset() {
    let mut cmos = cmos();
    set(&mut cmos, 0x0F, 0x5A, 0);
    set(&mut cmos, REGISTER_B, 0x7A, 0);
    cmos.reset();
    assert_eq!(cmos.read(DATA, 0), 0x40, "index 0");
    assert_eq!(get(&mut cmos, 0x0F, 0), 0x5A);
    assert_eq!(get(&mut cmos, REGISTER_B, 0), 0x02);
    assert_eq!(get(&mut cmos, REGISTER_C, 0), 0);
    assert_eq!(get(&mut cmos, REGISTER_D, 0), 0x80);
    assert_eq!(cmos.read(INDEX, 0), 0xFF);
}

#[test]
fn no_write_makes_a_state_that_restore_refuses() {
    for now in [0, NS_PER_S - 1, u64::MAX] {
        let mut cmos = cmos();
        for value in [0, 1, 0x12, 0x59, 0x80, 0x99, 0xFF] {
            for index in 0..=255 {
                set(&mut cmos, index, value, now);
                time(&mut cmos, u64::MAX - now);
                let state = cmos.save();
                assert_eq!(Cmos::restore(&state).unwrap().save(), state);
            }
        }
    }
    Cmos::new(u64::MAX, u64::MAX, u64::MAX).read(DATA, u64::MAX);
}

#[test]
fn impossible_states_are_refused() {
    let good = cmos().save();
    let mut bad = vec![good; 4];
    bad[0].index = 128;
    bad[1].start = i64::MIN;
    bad[2].ram.pop();
    bad[3].ram[0x0A] = 0x80;
    for state in bad {
        Cmos::restore(&state).unwrap_err();
    }
}
