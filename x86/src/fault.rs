//! Exceptions, as the manuals number them (SDM vol. 3, 7.15).
//!
//! Does: name an exception with its error code. Does not: deliver it (`system::interrupt`).

/// An exception that an instruction, a fetch or a delivery raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector number.
    pub vector: u8,
    /// Error code to push, for the vectors that have one.
    pub error: Option<u32>,
    /// Linear address for CR2; only for #PF.
    pub address: u64,
}

impl Fault {
    const fn plain(vector: u8) -> Fault {
        Fault {
            vector,
            error: None,
            address: 0,
        }
    }

    const fn coded(vector: u8, error: u32) -> Fault {
        Fault {
            vector,
            error: Some(error),
            address: 0,
        }
    }

    /// #DE, divide error.
    pub const DIVIDE: Fault = Fault::plain(0);
    /// #DB, debug.
    pub const DEBUG: Fault = Fault::plain(1);
    /// #BR, bound range exceeded.
    pub const BOUND: Fault = Fault::plain(5);
    /// #UD, invalid opcode.
    pub const UNDEFINED: Fault = Fault::plain(6);
    /// #NM, device not available.
    pub const NO_DEVICE: Fault = Fault::plain(7);
    /// #DF, double fault.
    pub const DOUBLE: Fault = Fault::coded(8, 0);
    /// #MF, x87 floating-point error.
    pub const X87: Fault = Fault::plain(16);
    /// #AC, alignment check.
    pub const ALIGNMENT: Fault = Fault::coded(17, 0);
    /// #XM, SIMD floating-point exception.
    pub const SIMD: Fault = Fault::plain(19);

    /// #TS, invalid TSS.
    pub const fn task(error: u16) -> Fault {
        Fault::coded(10, error as u32)
    }

    /// #NP, segment not present.
    pub const fn not_present(error: u16) -> Fault {
        Fault::coded(11, error as u32)
    }

    /// #SS, stack-segment fault.
    pub const fn stack(error: u16) -> Fault {
        Fault::coded(12, error as u32)
    }

    /// #GP, general protection.
    pub const fn protection(error: u16) -> Fault {
        Fault::coded(13, error as u32)
    }

    /// #PF, page fault; `error` as in SDM vol. 3, 5.7.
    pub const fn page(address: u64, error: u32) -> Fault {
        Fault {
            vector: 14,
            error: Some(error),
            address,
        }
    }
}

/// Marks that a [`Fault`] waits in `Core::fault`. Zero-sized, so that results stay in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised;

/// Result of anything that may raise.
pub type Exec<T> = Result<T, Raised>;
