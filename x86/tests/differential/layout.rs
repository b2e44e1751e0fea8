//! Linear addresses that the child process and the guest have in common.

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Two pages of code.
pub const CODE: u64 = 0x4000_0000;
/// Bytes of code.
pub const CODE_BYTES: usize = 2 * PAGE as usize;
/// Two pages of data, read and written; the pages before and after are absent.
pub const DATA: u64 = 0x5000_0000;
/// Bytes of data.
pub const DATA_BYTES: usize = 2 * PAGE as usize;
/// A page that can only be read, all zeros; the page after it is absent.
pub const READ_ONLY: u64 = DATA + 3 * PAGE;
/// Base of GS in 64-bit mode.
pub const GS_BASE: u64 = DATA + 0x123;
/// Base of the data segments in 16-bit mode.
pub const BASE16: u64 = DATA - 4 * PAGE;
/// What fills the code pages: INT3.
pub const FILLER: u8 = 0xcc;

/// What the code runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// 32-bit code in flat segments.
    Flat32,
    /// 16-bit code; data and stack in 16-bit segments at [`BASE16`], code at [`CODE`].
    Segmented16,
}

impl Mode {
    /// Default operand size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Mode::Long => 64,
            Mode::Flat32 => 32,
            Mode::Segmented16 => 16,
        }
    }

    /// Linear address of offset 0 of code.
    pub fn code_base(self) -> u64 {
        if self == Mode::Segmented16 { CODE } else { 0 }
    }

    /// Linear address of offset 0 of data.
    pub fn data_base(self) -> u64 {
        if self == Mode::Segmented16 { BASE16 } else { 0 }
    }

    /// Bits of an offset.
    pub fn offset_mask(self) -> u64 {
        match self {
            Mode::Long => u64::MAX,
            Mode::Flat32 => 0xffff_ffff,
            Mode::Segmented16 => 0xffff,
        }
    }
}
