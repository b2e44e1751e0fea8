//! Named cases at the edges: each is a rule that random operands hardly ever meet.

use super::super::{Control, F80, Flags, add, mul, sub};
use super::host;

const EXTENDED: u16 = 0x37f;

fn value(sign_exponent: u16, mantissa: u64) -> F80 {
    F80 {
        mantissa,
        sign_exponent,
    }
}

/// A result that rounds up to the smallest normal number is not tiny.
#[test]
fn tininess_is_after_rounding() {
    let a = value(1, 0xffff_ffff_ffff_ffff);
    let half = value(0x3ffe, 1 << 63);
    let mut flags = Flags::default();
    let control = Control::from_fcw(EXTENDED);
    let result = mul(a, half, &control, &mut flags);
    let host = host::fmul(a, half, [0; 16], EXTENDED);
    assert_eq!(
        (result, flags.exceptions, flags.c1),
        (host.st[0], host.exceptions(), host.c1())
    );
}

/// `x - x` is plus zero, or minus zero when rounding down.
#[test]
fn the_sign_of_an_exact_zero_sum() {
    for fcw in [0x037f, 0x077f, 0x0b7f, 0x0f7f] {
        let control = Control::from_fcw(fcw);
        let result = sub(F80::ONE, F80::ONE, &control, &mut Flags::default());
        assert_eq!(result, host::fsub(F80::ONE, F80::ONE, [0; 16], fcw).st[0]);
        assert_eq!(result.is_negative(), fcw == 0x077f);
    }
}

/// Images survive the way through memory.
#[test]
fn ten_bytes() {
    let pi = value(0x4000, 0xc90f_daa2_2168_c235);
    assert_eq!(
        pi.to_bytes(),
        [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40]
    );
    assert_eq!(F80::from_bytes(pi.to_bytes()), pi);
    let mut flags = Flags::default();
    add(pi, pi.negate(), &Control::from_fcw(EXTENDED), &mut flags);
    assert_eq!(flags, Flags::default());
}
