//! Vectors as bytes, words, doublewords and quadwords, for operations that the host's SSE2 lacks.
//!
//! Invariant: element 0 is in the lowest bits, as in memory.

/// Defines how to take a vector apart, element by element, and put it together.
macro_rules! elements {
    ($($map:ident, $map2:ident, $array:ident, $join:ident: $element:ty, $count:literal;)*) => {$(
        /// The elements.
        #[inline(always)]
        pub(super) fn $array(value: u128) -> [$element; $count] {
            std::array::from_fn(|n| (value >> (n * <$element>::BITS as usize)) as $element)
        }

        /// The vector of these elements.
        #[inline(always)]
        pub(super) fn $join(elements: [$element; $count]) -> u128 {
            elements
                .iter()
                .rev()
                .fold(0, |vector, &element| vector << <$element>::BITS | u128::from(element))
        }

        /// The vector of what `compute` makes of each element.
        #[inline(always)]
        pub(super) fn $map(value: u128, compute: impl Fn($element) -> $element) -> u128 {
            $join($array(value).map(compute))
        }

        /// The vector of what `compute` makes of each pair of elements.
        #[inline(always)]
        pub(super) fn $map2(
            a: u128,
            b: u128,
            compute: impl Fn($element, $element) -> $element,
        ) -> u128 {
            let (a, b) = ($array(a), $array(b));
            $join(std::array::from_fn(|n| compute(a[n], b[n])))
        }
    )*};
}

elements! {
    map_bytes, zip_bytes, bytes, from_bytes: u8, 16;
    map_words, zip_words, words, from_words: u16, 8;
    map_dwords, zip_dwords, dwords, from_dwords: u32, 4;
    map_qwords, zip_qwords, qwords, from_qwords: u64, 2;
}
