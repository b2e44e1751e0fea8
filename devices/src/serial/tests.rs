//! The serial port against the data sheet and against what Linux's driver probes.

use super::*;

/// Writes a register that transmits nothing.
fn set(serial: &mut Serial, offset: u16, value: u8) {
    assert_eq!(serial.write(offset, value), None);
}

/// A port as Linux leaves it when the terminal is open.
fn open() -> Serial {
    let mut serial = Serial::new();
    set(&mut serial, IIR_FCR, 0x81);
    set(&mut serial, MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
    serial.read(MSR);
    set(&mut serial, IER, IER_RECEIVED | IER_LINE_STATUS);
    serial
}

#[test]
fn linux_autoconfig_finds_a_16550a() {
    let mut serial = Serial::new();
    // IER exists and has four bits.
    set(&mut serial, IER, 0);
    assert_eq!(serial.read(IER), 0);
    set(&mut serial, IER, 0xFF);
    assert_eq!(serial.read(IER), 0x0F);
    set(&mut serial, IER, 0);
    // Loopback turns RTS and OUT2 into CTS and DCD.
    set(&mut serial, MCR, MCR_LOOP | 0x0A);
    assert_eq!(serial.read(MSR) & 0xF0, 0x90);
    set(&mut serial, MCR, 0);
    assert_eq!(serial.read(MSR) & 0xF0, 0xB0);
    // FIFOs show in the identification register; bit 5 (64 bytes) never does.
    set(&mut serial, LCR, 0);
    set(&mut serial, IIR_FCR, FCR_ENABLE);
    assert_eq!(serial.read(IIR_FCR) >> 6, 3);
    for lcr in [0, 0x80] {
        set(&mut serial, LCR, lcr);
        set(&mut serial, IIR_FCR, FCR_ENABLE | 0x20);
        assert_eq!(serial.read(IIR_FCR) >> 5, 6);
    }
    // There is no enhanced feature register at offset 2.
    set(&mut serial, LCR, 0xBF);
    assert_ne!(serial.read(2), 0);
    set(&mut serial, LCR, 0);
    set(&mut serial, SCRATCH, 0xA5);
    assert_eq!(serial.read(SCRATCH), 0xA5);
}

#[test]
fn linux_startup_finds_no_transmitter_bug() {
    let mut serial = Serial::new();
    set(&mut serial, IIR_FCR, 0x01);
    for _ in 0..2 {
        set(&mut serial, IER, IER_THR_EMPTY);
        assert!(serial.line());
        assert_eq!(serial.read(LSR), LSR_EMPTY);
        assert_eq!(serial.read(IIR_FCR), IIR_FIFOS | IIR_THR_EMPTY);
        assert_eq!(
            serial.read(IIR_FCR),
            IIR_FIFOS | IIR_NONE,
            "reading ends it"
        );
        assert!(!serial.line());
        set(&mut serial, IER, IER_THR_EMPTY);
        assert!(!serial.line(), "no edge of the enable bit");
        set(&mut serial, IER, 0);
    }
}

#[test]
fn a_transmitted_byte_leaves_at_once_and_interrupts() {
    let mut serial = Serial::new();
    assert_eq!(serial.write(DATA, b'a'), Some(b'a'));
    assert!(!serial.line());
    set(&mut serial, IER, IER_THR_EMPTY);
    serial.read(IIR_FCR);
    assert_eq!(serial.write(DATA, b'b'), Some(b'b'));
    assert!(serial.line());
    assert_eq!(serial.read(LSR), LSR_EMPTY);
    set(&mut serial, IER, 0);
    assert!(!serial.line());
}

#[test]
fn received_bytes_keep_their_order_through_the_backlog() {
    let mut serial = open();
    let sent: Vec<u8> = (0..100).collect();
    assert_eq!(serial.receive(&sent), 100);
    assert_eq!(serial.room(), BACKLOG_CAPACITY - 84);
    assert_eq!(serial.read(IIR_FCR) & 0x0F, IIR_RECEIVED);
    let mut got = Vec::new();
    while serial.read(LSR) & LSR_DATA != 0 {
        assert!(serial.line());
        got.push(serial.read(DATA));
    }
    assert_eq!(got, sent);
    assert!(!serial.line());
}

#[test]
fn below_the_trigger_level_it_is_a_timeout() {
    let mut serial = open();
    serial.receive(&[1; 7]);
    assert_eq!(serial.read(IIR_FCR), IIR_FIFOS | IIR_TIMEOUT);
    serial.receive(&[1]);
    assert_eq!(serial.read(IIR_FCR), IIR_FIFOS | IIR_RECEIVED);
}

#[test]
fn input_waits_for_the_driver() {
    let mut serial = Serial::new();
    serial.receive(b"early");
    assert_eq!(serial.read(LSR), LSR_EMPTY);
    set(&mut serial, IIR_FCR, 0x07);
    serial.read(DATA);
    set(&mut serial, MCR, MCR_RTS);
    set(&mut serial, IER, IER_RECEIVED);
    assert!(serial.line());
    let got: Vec<u8> = (0..5).map(|_| serial.read(DATA)).collect();
    assert_eq!(got, b"early");
}

#[test]
fn the_backlog_is_bounded() {
    let mut serial = Serial::new();
    let flood = vec![7; BACKLOG_CAPACITY + 5];
    assert_eq!(serial.receive(&flood), BACKLOG_CAPACITY);
    assert_eq!(serial.room(), 0);
    assert_eq!(serial.receive(&flood), 0);
    set(&mut serial, MCR, MCR_RTS);
    assert_eq!(serial.room(), 1);
}

#[test]
fn loopback_carries_data_and_overruns() {
    let mut serial = Serial::new();
    set(&mut serial, IIR_FCR, FCR_ENABLE);
    set(&mut serial, MCR, MCR_LOOP | MCR_RTS);
    set(&mut serial, IER, IER_LINE_STATUS);
    serial.receive(b"outside");
    for byte in 0..17 {
        set(&mut serial, DATA, byte);
    }
    assert_eq!(serial.read(IIR_FCR), IIR_FIFOS | IIR_LINE_STATUS);
    assert_eq!(serial.read(LSR), LSR_EMPTY | LSR_DATA | LSR_OVERRUN);
    assert_eq!(serial.read(LSR), LSR_EMPTY | LSR_DATA);
    for byte in 0..16 {
        assert_eq!(serial.read(DATA), byte);
    }
    assert_eq!(serial.read(LSR), LSR_EMPTY);
    set(&mut serial, MCR, MCR_RTS);
    assert_eq!(serial.read(DATA), b'o');
}

#[test]
fn modem_changes_interrupt_until_read() {
    let mut serial = Serial::new();
    set(&mut serial, IER, IER_MODEM_STATUS);
    assert!(!serial.line());
    set(&mut serial, MCR, MCR_LOOP | MCR_OUT1);
    assert_eq!(serial.read(IIR_FCR), IIR_MODEM_STATUS);
    assert_eq!(
        serial.read(MSR),
        MSR_RI | 0x0B,
        "CTS, DSR, DCD; no ring yet"
    );
    assert!(!serial.line());
    set(&mut serial, MCR, MCR_LOOP);
    assert_eq!(serial.read(MSR), 0x04, "the ring's trailing edge");
}

#[test]
fn interrupts_are_named_by_urgency() {
    let mut serial = open();
    set(&mut serial, IER, 0x0F);
    set(&mut serial, MCR, MCR_LOOP);
    set(&mut serial, MCR, MCR_RTS);
    serial.receive(&[1]);
    assert_eq!(serial.read(IIR_FCR) & 0x0F, IIR_TIMEOUT);
    serial.read(DATA);
    assert_eq!(serial.read(IIR_FCR) & 0x0F, IIR_THR_EMPTY);
    assert_eq!(serial.read(IIR_FCR) & 0x0F, IIR_MODEM_STATUS);
    serial.read(MSR);
    assert_eq!(serial.read(IIR_FCR) & 0x0F, IIR_NONE);
}

#[test]
fn the_divisor_latch_hides_two_registers() {
    let mut serial = Serial::new();
    set(&mut serial, LCR, 0x83);
    set(&mut serial, DATA, 0x34);
    set(&mut serial, IER, 0x12);
    assert_eq!((serial.read(DATA), serial.read(IER)), (0x34, 0x12));
    set(&mut serial, LCR, 0x03);
    assert_eq!((serial.read(DATA), serial.read(IER)), (0, 0));
    assert_eq!(serial.read(8), 0xFF);
}

#[test]
fn a_reset_keeps_what_is_on_the_line() {
    let mut serial = Serial::new();
    serial.receive(b"xy");
    set(&mut serial, SCRATCH, 1);
    serial.reset();
    assert_eq!(serial.read(SCRATCH), 0);
    assert_eq!(serial.save().backlog, b"xy");
}

#[test]
fn no_write_makes_a_state_that_restore_refuses() {
    let mut serial = Serial::new();
    for round in 0..200u32 {
        serial.receive(&[round as u8; 3]);
        for offset in 0..9 {
            let value = (round.wrapping_mul(0x9E37_79B9) >> (offset + 8)) as u8;
            let _ = serial.write(offset, value);
            serial.read((offset * 5) % 9);
            let state = serial.save();
            assert_eq!(Serial::restore(&state).unwrap().save(), state);
        }
    }
}

#[test]
fn impossible_states_are_refused() {
    let good = open().save();
    let mut bad = vec![good.clone(); 7];
    bad[0].ier = 0x10;
    bad[1].fcr = 0x40;
    bad[2].mcr = 0x20;
    bad[3].thr_interrupt = true;
    bad[4].fifo = vec![0; 17];
    bad[5].backlog = vec![0; 1];
    bad[6].mcr = 0;
    bad[6].backlog = vec![0; BACKLOG_CAPACITY + 1];
    for state in bad {
        Serial::restore(&state).unwrap_err();
    }
}
