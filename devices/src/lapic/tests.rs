//! The local APIC against the manual, register by register.

use super::*;

const TPR: u64 = 0x80;
const PPR: u64 = 0xA0;
const EOI: u64 = 0xB0;
const SVR: u64 = 0xF0;
const ESR: u64 = 0x280;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_ERROR: u64 = 0x370;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

/// A software-enabled APIC in xAPIC mode.
fn lapic() -> Lapic {
    let mut lapic = Lapic::new(0);
    lapic.mmio_write(SVR, 0x1FF, 0);
    lapic
}

/// A software-enabled APIC in x2APIC mode.
fn x2apic() -> Lapic {
    let mut lapic = lapic();
    let base = lapic.base() | BASE_X2APIC;
    lapic.wrmsr(MSR_APIC_BASE, base, 0).unwrap();
    lapic
}

fn message(vector: u8) -> Message {
    Message {
        destination: 0,
        logical: false,
        mode: DeliveryMode::Fixed,
        vector,
        level: false,
    }
}

#[test]
fn power_up_state() {
    let mut lapic = Lapic::new(0);
    assert_eq!(lapic.base(), 0xFEE0_0900);
    assert_eq!(lapic.mmio_window(), Some(0xFEE0_0000));
    assert_eq!(lapic.mmio_read(0x30, 0), 0x0005_0014);
    assert_eq!(lapic.mmio_read(SVR, 0), 0xFF);
    assert_eq!(lapic.mmio_read(0xE0, 0), u32::MAX);
    for lvt in (0x320..=0x370).step_by(16) {
        assert_eq!(lapic.mmio_read(lvt, 0), 0x1_0000);
    }
    assert!(!lapic.receive(message(0x40)), "software-disabled");
    assert_eq!(lapic.pending_interrupt(), None);
}

#[test]
fn priorities_nest() {
    let mut lapic = lapic();
    assert!(lapic.receive(message(0x41)));
    assert!(lapic.receive(message(0x45)));
    assert_eq!(lapic.acknowledge(), Some(0x45));
    assert_eq!(lapic.mmio_read(PPR, 0), 0x40);
    assert_eq!(lapic.pending_interrupt(), None, "same class waits");
    lapic.receive(message(0x52));
    assert_eq!(lapic.acknowledge(), Some(0x52));
    lapic.mmio_write(EOI, 0, 0);
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.mmio_write(EOI, 0, 0);
    assert_eq!(lapic.acknowledge(), Some(0x41));
}

#[test]
fn task_priority_holds_back_its_class() {
    let mut lapic = lapic();
    lapic.receive(message(0x4F));
    lapic.mmio_write(TPR, 0x40, 0);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.cr8(), 4);
    lapic.set_cr8(3);
    assert_eq!(lapic.mmio_read(TPR, 0), 0x30);
    assert_eq!(lapic.pending_interrupt(), Some(0x4F));
}

#[test]
fn only_level_interrupts_are_told_to_the_ioapic() {
    let mut lapic = lapic();
    lapic.receive(message(0x41));
    lapic.acknowledge();
    assert_eq!(lapic.mmio_write(EOI, 0, 0), None);
    lapic.receive(Message {
        level: true,
        ..message(0x41)
    });
    lapic.acknowledge();
    assert_eq!(lapic.mmio_write(EOI, 0, 0), Some(0x41));
    assert_eq!(lapic.mmio_write(EOI, 0, 0), None, "nothing in service");
    let mut lapic = x2apic();
    lapic.receive(Message {
        level: true,
        ..message(0x42)
    });
    lapic.acknowledge();
    assert_eq!(lapic.wrmsr(0x80B, 0, 0), Ok(Some(0x42)));
}

#[test]
fn the_same_vector_is_in_service_and_requested_at_once() {
    let mut lapic = lapic();
    lapic.receive(message(0x41));
    lapic.acknowledge();
    lapic.receive(message(0x41));
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.mmio_write(EOI, 0, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x41));
}

#[test]
fn one_shot_timer_fires_once() {
    let mut lapic = lapic();
    lapic.mmio_write(DIVIDE, 0b1011, 0);
    lapic.mmio_write(LVT_TIMER, 0xEC, 0);
    lapic.mmio_write(INITIAL, 25, 1000);
    assert_eq!(lapic.deadline(), Some(2000));
    assert_eq!(lapic.mmio_read(CURRENT, 1500), 13);
    lapic.advance(1999);
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.advance(2000);
    assert_eq!(lapic.acknowledge(), Some(0xEC));
    assert_eq!(lapic.deadline(), None);
    assert_eq!(lapic.mmio_read(CURRENT, 2000), 0);
}

#[test]
fn periodic_timer_fires_again() {
    let mut lapic = lapic();
    lapic.mmio_write(DIVIDE, 0b0000, 0);
    lapic.mmio_write(LVT_TIMER, 0x2_00EC, 0);
    lapic.mmio_write(INITIAL, 10, 0);
    for period in 1..4 {
        assert_eq!(lapic.deadline(), Some(800 * period));
        lapic.advance(800 * period);
        assert_eq!(lapic.acknowledge(), Some(0xEC));
        lapic.mmio_write(EOI, 0, 0);
    }
    lapic.mmio_write(INITIAL, 0, 3000);
    assert_eq!(lapic.deadline(), None);
}

#[test]
fn tsc_deadline_fires_once_and_reads_zero() {
    let mut lapic = x2apic();
    lapic.wrmsr(MSR_TSC_DEADLINE, 500, 0).unwrap();
    assert_eq!(lapic.rdmsr(MSR_TSC_DEADLINE, 0), Ok(0), "another mode");
    lapic.wrmsr(0x832, 0x4_00EC, 0).unwrap();
    lapic.wrmsr(MSR_TSC_DEADLINE, 500, 0).unwrap();
    assert_eq!(lapic.rdmsr(MSR_TSC_DEADLINE, 499), Ok(500));
    assert_eq!(lapic.deadline(), Some(500));
    assert_eq!(lapic.rdmsr(0x839, 100), Ok(0));
    lapic.wrmsr(0x838, 77, 0).unwrap();
    assert_eq!(lapic.rdmsr(0x838, 0), Ok(0), "no count in this mode");
    lapic.advance(500);
    assert_eq!(lapic.acknowledge(), Some(0xEC));
    assert_eq!(lapic.rdmsr(MSR_TSC_DEADLINE, 500), Ok(0));
    lapic.wrmsr(MSR_TSC_DEADLINE, 400, 500).unwrap();
    assert_eq!(lapic.deadline(), Some(400), "the past is due at once");
    lapic.wrmsr(MSR_TSC_DEADLINE, 0, 500).unwrap();
    assert_eq!(lapic.deadline(), None);
    lapic.wrmsr(MSR_TSC_DEADLINE, 900, 500).unwrap();
    lapic.wrmsr(0x832, 0x0_00EC, 500).unwrap();
    assert_eq!(lapic.deadline(), None, "a change of mode disarms");
}

#[test]
fn a_masked_timer_changes_nothing_until_a_register_is_written() {
    let mut lapic = lapic();
    lapic.mmio_write(DIVIDE, 0b1011, 0);
    lapic.mmio_write(LVT_TIMER, 0x3_00EC, 0);
    lapic.mmio_write(INITIAL, 10, 0);
    assert_eq!(lapic.deadline(), None);
    let before = lapic.save();
    lapic.advance(12_345);
    assert_eq!(lapic.mmio_read(CURRENT, 1080), 3);
    assert_eq!(lapic.save(), before);
    lapic.mmio_write(LVT_TIMER, 0x2_00EC, 1080);
    assert_eq!(lapic.pending_interrupt(), None, "expired while masked");
    assert_eq!(lapic.deadline(), Some(1200));
}

#[test]
fn software_disable_masks_and_keeps_what_is_pending() {
    let mut lapic = lapic();
    lapic.mmio_write(LVT_TIMER, 0xEC, 0);
    lapic.receive(message(0x41));
    lapic.mmio_write(SVR, 0xFF, 0);
    assert_eq!(lapic.mmio_read(LVT_TIMER, 0), 0x1_00EC);
    lapic.mmio_write(LVT_TIMER, 0xEC, 0);
    assert_eq!(lapic.mmio_read(LVT_TIMER, 0), 0x1_00EC);
    assert_eq!(lapic.pending_interrupt(), Some(0x41));
    let nmi = Message {
        mode: DeliveryMode::Nmi,
        ..message(0)
    };
    assert!(lapic.receive(nmi));
    assert!(lapic.pending_nmi());
    assert!(lapic.acknowledge_nmi());
    assert!(!lapic.acknowledge_nmi());
}

#[test]
fn base_transitions_follow_the_manual() {
    let on = 0xFEE0_0900;
    let x2 = 0xFEE0_0D00;
    let off = 0xFEE0_0100;
    let mut lapic = Lapic::new(0);
    let mut write = |value| lapic.wrmsr(MSR_APIC_BASE, value, 0).is_ok();
    assert!(!write(0xFEE0_0500), "x2APIC without enable");
    assert!(write(x2));
    assert!(!write(on), "x2APIC to xAPIC");
    assert!(!write(x2 | 1), "reserved bit");
    assert!(!write(x2 | 1 << 46), "beyond physical addresses");
    assert!(write(off));
    assert!(!write(x2), "disabled to x2APIC");
    assert!(write(on));
    assert!(write(x2));
}

#[test]
fn x2apic_msrs_refuse_what_the_manual_refuses() {
    let mut xapic = lapic();
    assert!(xapic.rdmsr(0x802, 0).is_err(), "xAPIC mode has no MSRs");
    xapic.wrmsr(0x808, 0, 0).unwrap_err();
    let mut lapic = x2apic();
    assert_eq!(lapic.mmio_window(), None);
    assert_eq!(lapic.rdmsr(0x802, 0), Ok(0));
    assert_eq!(lapic.rdmsr(0x80D, 0), Ok(1));
    for unreadable in [0x800, 0x809, 0x80B, 0x80E, 0x82F, 0x831, 0x83F, 0x8FF] {
        assert!(lapic.rdmsr(unreadable, 0).is_err(), "{unreadable:#x}");
    }
    for unwritable in [0x802, 0x803, 0x80A, 0x80D, 0x80E, 0x810, 0x831, 0x839] {
        assert!(lapic.wrmsr(unwritable, 0, 0).is_err(), "{unwritable:#x}");
    }
    assert!(lapic.wrmsr(0x80B, 1, 0).is_err(), "EOI takes 0 only");
    assert!(lapic.wrmsr(0x828, 1, 0).is_err(), "ESR takes 0 only");
    assert!(lapic.wrmsr(0x808, 0x100, 0).is_err(), "reserved TPR bit");
    assert!(lapic.wrmsr(0x808, 1 << 32, 0).is_err(), "upper half");
    assert!(lapic.wrmsr(0x832, 1 << 8, 0).is_err(), "reserved LVT bit");
    assert!(lapic.wrmsr(0x830, 1 << 13, 0).is_err(), "reserved ICR bit");
}

#[test]
fn ipis_reach_the_sender_only_when_addressed() {
    let mut lapic = x2apic();
    lapic.wrmsr(0x83F, 0x51, 0).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x51));
    lapic.wrmsr(0x80B, 0, 0).unwrap();
    lapic.wrmsr(0x830, 0x0000_0001_0000_0052, 0).unwrap();
    assert_eq!(lapic.pending_interrupt(), None, "APIC id 1 is not here");
    lapic.wrmsr(0x830, 0x000C_0052, 0).unwrap();
    assert_eq!(lapic.pending_interrupt(), None, "all but self");
    lapic.wrmsr(0x830, 0x0008_0052, 0).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x52), "all");
    lapic.wrmsr(0x80B, 0, 0).unwrap();
    lapic.wrmsr(0x830, 0x0000_0001_0000_0853, 0).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x53), "logical id 1");
    assert_eq!(lapic.rdmsr(0x830, 0), Ok(0x0000_0001_0000_0853));
    lapic.wrmsr(0x830, 0x0000_0400, 0).unwrap();
    assert!(lapic.pending_nmi(), "NMI to id 0");
    lapic.wrmsr(0x830, 0x0000_0500, 0).unwrap();
    lapic.wrmsr(0x830, 0x0000_0610, 0).unwrap();
    assert_eq!(lapic.rdmsr(0x802, 0), Ok(0), "INIT and SIPI are ignored");
}

#[test]
fn xapic_ipi_with_logical_destination() {
    let mut lapic = lapic();
    lapic.mmio_write(0xD0, 0x0200_0000, 0);
    lapic.mmio_write(ICR_HIGH, 0x0100_0000, 0);
    lapic.mmio_write(ICR, 0x0841, 0);
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.mmio_write(ICR_HIGH, 0x0300_0000, 0);
    lapic.mmio_write(ICR, 0x0841, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x41));
    lapic.mmio_write(0xE0, 0, 0);
    lapic.mmio_write(0xD0, 0x2100_0000, 0);
    lapic.mmio_write(ICR_HIGH, 0x1100_0000, 0);
    lapic.mmio_write(ICR, 0x0842, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x41), "another cluster");
    lapic.mmio_write(ICR_HIGH, 0x2100_0000, 0);
    lapic.mmio_write(ICR, 0x0842, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x42));
}

#[test]
fn init_reaches_this_cpu_and_start_up_does_not() {
    let mut lapic = x2apic();
    // De-assert; start-up; INIT to another; INIT by a shorthand that is for fixed IPIs.
    for command in [0x8500, 0x4608, 0x0000_0001_0000_4500, 0x0004_4500] {
        lapic.wrmsr(0x830, command, 0).unwrap();
        assert!(!lapic.acknowledge_init(), "{command:#x}");
    }
    lapic.wrmsr(0x830, 0x4500, 0).unwrap();
    let state = lapic.save();
    assert!(state.init);
    assert_eq!(Lapic::restore(&state).unwrap().save(), state);
    assert!(lapic.acknowledge_init());
    assert!(!lapic.acknowledge_init());
    lapic.wrmsr(0x830, 0x0008_4500, 0).unwrap();
    assert!(lapic.acknowledge_init(), "all including self");
}

#[test]
fn errors_are_latched_by_a_write() {
    let mut lapic = lapic();
    lapic.mmio_write(LVT_ERROR, 0xFE, 0);
    lapic.mmio_write(ICR, 0x0004_0005, 0);
    assert_eq!(lapic.mmio_read(ESR, 0), 0);
    assert_eq!(lapic.acknowledge(), Some(0xFE));
    lapic.mmio_write(EOI, 0, 0);
    assert_eq!(lapic.mmio_read(0x0, 0), 0);
    lapic.receive(message(3));
    lapic.mmio_write(ESR, 0, 0);
    assert_eq!(
        lapic.mmio_read(ESR, 0),
        ERROR_SEND_ILLEGAL_VECTOR | ERROR_ILLEGAL_REGISTER | ERROR_RECEIVED_ILLEGAL_VECTOR
    );
    lapic.mmio_write(ESR, 0, 0);
    assert_eq!(lapic.mmio_read(ESR, 0), 0);
}

#[test]
fn no_write_makes_a_state_that_restore_refuses() {
    for base in [0xFEE0_0900, 0xFEE0_0D00] {
        let mut lapic = lapic();
        lapic.wrmsr(MSR_APIC_BASE, base, 0).unwrap();
        let mut now = 0;
        for round in 0..3u32 {
            for register in 0..0x100u32 {
                for value in [0, u32::MAX, 0x5A5A_5A5A, 0x1FF, register | round] {
                    now += 17;
                    lapic.mmio_write(u64::from(register) << 4, value, now);
                    lapic.mmio_read(u64::from(register) << 4, now);
                    let _ = lapic.wrmsr(0x800 + register, u64::from(value), now);
                    let _ = lapic.wrmsr(0x800 + register, u64::MAX, now);
                    lapic.advance(now);
                    lapic.acknowledge();
                    let state = lapic.save();
                    assert_eq!(Lapic::restore(&state).unwrap().save(), state);
                }
            }
        }
    }
}

#[test]
fn impossible_states_are_refused() {
    let good = x2apic().save();
    Lapic::restore(&good).unwrap();
    let mut bad = vec![good.clone(); 7];
    bad[0].base = 0xFEE0_0500;
    bad[1].irr[0] = 1;
    bad[2].svr = 0x200;
    bad[3].lvt[0] = 1 << 30;
    bad[4].timer.divide = 4;
    bad[5].esr = 1;
    bad[6].svr = 0xFF;
    bad[6].lvt[1] = 0x30;
    for state in bad {
        assert!(Lapic::restore(&state).is_err(), "{state:?}");
    }
}

#[test]
fn the_processor_priority_is_the_higher_class() {
    // Task priority, vector in service, processor priority.
    for (tpr, in_service, ppr) in [
        (0x00, None, 0x00),
        (0x2F, None, 0x2F),
        (0x2F, Some(0x31), 0x30),
        (0x35, Some(0x31), 0x35),
        (0x30, Some(0x3F), 0x30),
        (0x40, Some(0x3F), 0x40),
        (0xFF, Some(0xFE), 0xFF),
    ] {
        let mut lapic = lapic();
        if let Some(vector) = in_service {
            lapic.receive(message(vector));
            assert_eq!(lapic.acknowledge(), Some(vector));
        }
        lapic.mmio_write(TPR, tpr, 0);
        assert_eq!(lapic.mmio_read(PPR, 0), ppr, "{tpr:#x} {in_service:x?}");
        assert_eq!(u32::from(lapic.cr8()), tpr >> 4);
        // A vector is delivered above the class of the processor priority only.
        let class = (ppr >> 4) as u8;
        lapic.receive(message(class << 4 | 0xF));
        assert_eq!(lapic.pending_interrupt(), None);
        if class < 0xF {
            lapic.receive(message((class + 1) << 4));
            assert_eq!(lapic.pending_interrupt(), Some((class + 1) << 4));
        }
    }
}

#[test]
fn cr8_clears_the_sub_class_of_the_task_priority() {
    let mut lapic = lapic();
    lapic.mmio_write(TPR, 0x5A, 0);
    assert_eq!(lapic.cr8(), 5);
    lapic.set_cr8(5);
    assert_eq!(lapic.mmio_read(TPR, 0), 0x50);
}

/// What a command did to the one APIC there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    Interrupt,
    Nmi,
    Init,
}

#[test]
fn every_delivery_mode_with_every_shorthand() {
    use Effect::{Init, Interrupt, Nmi, Nothing};
    // Delivery modes 0 to 7; destination by id, self, all, all but self.
    let expected = [
        [Interrupt, Interrupt, Interrupt, Nothing],
        [Interrupt, Nothing, Interrupt, Nothing],
        [Nothing; 4],
        [Nothing; 4],
        [Nmi, Nothing, Nmi, Nothing],
        [Init, Nothing, Init, Nothing],
        [Nothing; 4],
        [Nothing; 4],
    ];
    for (mode, row) in (0u64..).zip(expected) {
        for (shorthand, effect) in (0u64..).zip(row) {
            for mut lapic in [lapic(), x2apic()] {
                let command = 0x51 | mode << 8 | 1 << 14 | shorthand << 18;
                if lapic.wrmsr(0x830, command, 0).is_err() {
                    lapic.mmio_write(ICR_HIGH, 0, 0);
                    lapic.mmio_write(ICR, command as u32, 0);
                }
                let seen = if lapic.acknowledge() == Some(0x51) {
                    Interrupt
                } else if lapic.acknowledge_nmi() {
                    Nmi
                } else if lapic.acknowledge_init() {
                    Init
                } else {
                    Nothing
                };
                assert_eq!(seen, effect, "mode {mode}, shorthand {shorthand}");
                assert_eq!(lapic.save().errors, 0);
            }
        }
    }
}

#[test]
fn the_trigger_bit_of_a_command_makes_no_level_interrupt() {
    let mut lapic = x2apic();
    lapic.wrmsr(0x830, 0xC051, 0).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x51));
    assert_eq!(lapic.rdmsr(0x81A, 0), Ok(0), "TMR");
    assert_eq!(lapic.wrmsr(0x80B, 0, 0), Ok(None), "nothing for the IOAPIC");
}

#[test]
fn the_trigger_mode_of_a_vector_is_that_of_its_last_request() {
    let mut lapic = lapic();
    let level = Message {
        level: true,
        ..message(0x61)
    };
    lapic.receive(level);
    assert_eq!(lapic.mmio_read(0x1B0, 0), 1 << 1);
    lapic.receive(message(0x61));
    assert_eq!(lapic.mmio_read(0x1B0, 0), 0);
    lapic.acknowledge();
    assert_eq!(lapic.mmio_write(EOI, 0, 0), None);
}

#[test]
fn ends_are_told_from_the_highest_vector_down() {
    let mut lapic = lapic();
    for vector in [0x41, 0x51, 0x61] {
        lapic.receive(Message {
            level: vector != 0x51,
            ..message(vector)
        });
        lapic.acknowledge();
    }
    let ends = [(); 4].map(|()| lapic.mmio_write(EOI, 0, 0));
    assert_eq!(ends, [Some(0x61), None, Some(0x41), None]);
}

#[test]
fn illegal_vectors_are_errors_and_never_requested() {
    // LVT timer, IPI, SELF IPI, message: each with vector 15 and with 16.
    for (vector, legal) in [(15u8, false), (16, true)] {
        let send = |how: fn(&mut Lapic, u8)| {
            let mut lapic = x2apic();
            how(&mut lapic, vector);
            let errors = lapic.save().errors;
            (lapic.acknowledge().is_some(), errors)
        };
        let sent = if legal { 0 } else { ERROR_SEND_ILLEGAL_VECTOR };
        let received = if legal {
            0
        } else {
            ERROR_RECEIVED_ILLEGAL_VECTOR
        };
        // Vectors of class 1 are the lowest that can be delivered.
        assert_eq!(
            send(|lapic, vector| {
                lapic.wrmsr(0x830, u64::from(vector), 0).unwrap();
            }),
            (legal, sent)
        );
        assert_eq!(
            send(|lapic, vector| {
                lapic.wrmsr(0x83F, u64::from(vector), 0).unwrap();
            }),
            (legal, sent)
        );
        assert_eq!(
            send(|lapic, vector| {
                lapic.receive(message(vector));
            }),
            (legal, received)
        );
        assert_eq!(
            send(|lapic, vector| {
                lapic.wrmsr(0x832, u64::from(vector), 0).unwrap();
                lapic.wrmsr(0x838, 1, 0).unwrap();
                lapic.advance(80);
            }),
            (legal, received)
        );
    }
}

#[test]
fn a_change_from_or_to_tsc_deadline_mode_disarms_and_no_other() {
    const MODES: [u64; 3] = [0, 1 << 17, 2 << 17];
    for from in MODES {
        for to in MODES {
            let mut lapic = x2apic();
            lapic.wrmsr(0x832, from | 0xEC, 0).unwrap();
            lapic.wrmsr(0x838, 100, 0).unwrap();
            lapic.wrmsr(MSR_TSC_DEADLINE, 9000, 0).unwrap();
            let armed = if from == MODES[2] { 9000 } else { 8000 };
            assert_eq!(lapic.deadline(), Some(armed));
            lapic.wrmsr(0x832, to | 0xEC, 400).unwrap();
            let kept = from == to || (from != MODES[2] && to != MODES[2]);
            assert_eq!(lapic.deadline(), kept.then_some(armed), "{from:x} {to:x}");
            assert_eq!(
                lapic.rdmsr(0x838, 400),
                Ok(if kept && to != MODES[2] { 100 } else { 0 })
            );
        }
    }
}

#[test]
fn one_shot_becomes_periodic_while_it_counts() {
    let mut lapic = lapic();
    lapic.mmio_write(LVT_TIMER, 0xEC, 0);
    lapic.mmio_write(INITIAL, 100, 0);
    lapic.mmio_write(LVT_TIMER, 0x2_00EC, 4000);
    lapic.advance(8000);
    assert_eq!(lapic.acknowledge(), Some(0xEC));
    assert_eq!(lapic.deadline(), Some(16_000));
    // And back: the period that runs is the last.
    lapic.mmio_write(LVT_TIMER, 0xEC, 12_000);
    lapic.advance(16_000);
    assert_eq!(lapic.deadline(), None);
}

#[test]
fn a_masked_timer_fires_when_it_is_unmasked_before_it_expires() {
    let mut lapic = lapic();
    lapic.mmio_write(LVT_TIMER, 0x1_00EC, 0);
    lapic.mmio_write(INITIAL, 100, 0);
    assert_eq!(lapic.deadline(), None);
    lapic.mmio_write(LVT_TIMER, 0xEC, 7999);
    assert_eq!(lapic.deadline(), Some(8000));
    lapic.advance(8000);
    assert_eq!(lapic.acknowledge(), Some(0xEC));
}

#[test]
fn what_is_not_enabled_takes_nothing() {
    let mut lapic = lapic();
    lapic.wrmsr(MSR_APIC_BASE, 0xFEE0_0100, 0).unwrap();
    assert_eq!(lapic.mmio_window(), None);
    for mode in [DeliveryMode::Fixed, DeliveryMode::Nmi, DeliveryMode::Init] {
        assert!(!lapic.receive(Message {
            mode,
            ..message(0x41)
        }));
    }
    lapic.rdmsr(0x802, 0).unwrap_err();
    // As after power-up when it comes back.
    lapic.wrmsr(MSR_APIC_BASE, 0xFEE0_0900, 0).unwrap();
    assert_eq!(lapic.save(), Lapic::new(0).save());
}

#[test]
fn the_window_moves() {
    let mut lapic = lapic();
    lapic.wrmsr(MSR_APIC_BASE, 0xD000_0900, 0).unwrap();
    assert_eq!(lapic.mmio_window(), Some(0xD000_0000));
    assert_eq!(lapic.mmio_read(SVR, 0), 0x1FF, "nothing else changes");
}

#[test]
fn read_only_bits_of_entries_stay() {
    let mut lapic = x2apic();
    // Delivery status can be written to no effect; remote IRR of LINT0, too.
    lapic.wrmsr(0x832, 1 << 12 | 0xEC, 0).unwrap();
    assert_eq!(lapic.rdmsr(0x832, 0), Ok(0xEC));
    lapic.wrmsr(0x835, 1 << 12 | 1 << 14 | 0x8700, 0).unwrap();
    assert_eq!(lapic.rdmsr(0x835, 0), Ok(0x8700));
    lapic.wrmsr(0x832, 1 << 14, 0).unwrap_err();
    // Masks stay after a software disable until they are written.
    lapic.wrmsr(0x80F, 0xFF, 0).unwrap();
    lapic.wrmsr(0x80F, 0x1FF, 0).unwrap();
    assert_eq!(lapic.rdmsr(0x832, 0), Ok(0x1_00EC));
}
