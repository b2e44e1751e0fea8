//! Which host register, or which place in the frame, holds a guest register.
//!
//! Does: map registers of iced-x86's instructions. Does not: emit.
//!
//! Invariant: RAX, R13, R14, R15 and RSP of the host are never a guest register's home.

use iced_x86::Register;

use super::emit::reg;

/// Where a guest register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// In a host register.
    Host(u8),
    /// In the frame.
    Frame,
}

/// Home of general register `number`.
pub(super) fn home(number: u8) -> Home {
    match number {
        0 => Home::Host(reg::R11),
        4 => Home::Host(reg::R12),
        1..=10 => Home::Host(number),
        _ => Home::Frame,
    }
}

/// Number of a general register; `None` for AH to BH and for other registers.
pub(super) fn number(register: Register) -> Option<u8> {
    let high = matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    );
    (register.is_gpr() && !high).then(|| register.full_register().number() as u8)
}

/// Host register `number` with so many bytes, as iced-x86 calls it.
pub(super) fn named(number: u8, bytes: usize) -> Register {
    let first = match bytes {
        1 if number < 4 => Register::AL,
        1 if number < 8 => return Register::SPL + u32::from(number - 4),
        1 => return Register::R8L + u32::from(number - 8),
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    first + u32::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_number_and_size() {
        for bytes in [1, 2, 4, 8] {
            for n in 0..16 {
                let register = named(n, bytes);
                assert_eq!(number(register), Some(n), "{register:?}");
                assert_eq!(register.size(), bytes, "{register:?}");
            }
        }
        assert_eq!(number(Register::AH), None);
        assert_eq!(number(Register::XMM3), None);
    }
}
