//! Memory for direct I/O.
//!
//! Does: bytes whose address is a multiple of a page. Does not: do I/O.
//!
//! Invariant: address and length are multiples of [`ALIGNMENT`].
#![allow(unsafe_code)]

/// No file system asks for more.
pub(crate) const ALIGNMENT: usize = 4096;

/// One aligned piece.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Piece([u8; ALIGNMENT]);

/// Aligned bytes.
pub(crate) struct Aligned(Vec<Piece>);

impl Aligned {
    /// Zeros, at least `length` bytes.
    pub(crate) fn zeros(length: usize) -> Self {
        Aligned(vec![Piece([0; ALIGNMENT]); length.div_ceil(ALIGNMENT)])
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let length = self.0.len() * ALIGNMENT;
        // SAFETY: the pieces are contiguous, plain bytes without padding, and borrowed for as long
        // as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }
}
