//! The integer contract ([`crate::quant`]) in 32-bit arithmetic, for the ranges that the kernels have: exact, and a few
//! instructions where a 64-bit product, shift and clamp are a few dozen. A factor outside the range is `None`, and the
//! kernel takes the contract's own form.
//!
//! Both forms rest on one step: a rounding addend 2^(s−1) that is a multiple of 2^n leaves the low n bits of a sum
//! without influence, so ⌊(P + 2^(s−1))/2^s⌋ = (⌊P/2^n⌋ + 2^(s−n−1)) >> (s−n) wherever s > n.

use crate::quant::{Multiplier, MultiplierPair, Output};

/// A [`Multiplier`] whose product is needed in its upper word only (n = 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HighWord {
    /// The sum is shifted up by this before it is multiplied.
    pub before: u32,
    /// The 31-bit factor.
    pub factor: i32,
    /// How far the upper word is shifted down, rounded: 1…30.
    pub shift: u32,
}

impl HighWord {
    /// For sums of magnitude below 2^`bits`. `None` where neither the factor nor the sum has the bits to spare: with 32
    /// bits, for factors of a quarter and more.
    pub fn new(scale: Multiplier, bits: u32) -> Option<Self> {
        if !scale.is_valid() {
            return None;
        }
        let double = 33u32.saturating_sub(scale.shift);
        // A factor of 0 has room for any shift.
        let room = if scale.m == 0 { double } else { scale.m.leading_zeros().saturating_sub(1) };
        let in_factor = double.min(room);
        let before = double - in_factor;
        if before > 0 && before + bits > 31 {
            return None;
        }
        Some(HighWord {
            before,
            factor: scale.m.wrapping_shl(in_factor),
            shift: (scale.shift + double).checked_sub(32)?,
        })
    }

    /// [`Multiplier::apply`].
    #[inline(always)]
    pub fn apply(&self, acc: i32) -> i32 {
        let product = i64::from(acc.wrapping_shl(self.before)) * i64::from(self.factor);
        round_shift((product >> 32) as i32, self.shift)
    }
}

/// A [`MultiplierPair`] for int8 maps (n = 16): (a − zero_a)·first + (b − zero_b)·second with both factors split into
/// halves, so that the sums of the halves stay below 2^25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int8Sum {
    upper: [i32; 2],
    lower: [i32; 2],
    offset: [i32; 2],
    shift: u32,
}

impl Int8Sum {
    /// `None` where a zero point is not int8 or the shift is not in 17…47 (factors of 2^14 and more, or both below 2^−16).
    pub fn new(scale: MultiplierPair, zeros: [i32; 2]) -> Option<Self> {
        if !scale.is_valid() || zeros.iter().any(|&zero| i8::try_from(zero).is_err()) {
            return None;
        }
        let shift = scale.shift.checked_sub(16).filter(|shift| (1..32).contains(shift))?;
        let factors = [scale.first, scale.second];
        let (upper, lower) = (factors.map(|f| f >> 16), factors.map(|f| f & 0xFFFF));
        let offset = [upper, lower].map(|[a, b]| -(a * zeros[0] + b * zeros[1]));
        Some(Int8Sum { upper, lower, offset, shift })
    }

    /// [`MultiplierPair::apply`].
    #[inline(always)]
    pub fn apply(&self, a: i8, b: i8) -> i32 {
        let (a, b) = (i32::from(a), i32::from(b));
        let half =
            |[f, g]: [i32; 2], offset: i32| offset.wrapping_add(a.wrapping_mul(f)).wrapping_add(b.wrapping_mul(g));
        let [upper, lower] = [half(self.upper, self.offset[0]), half(self.lower, self.offset[1])];
        round_shift(upper.wrapping_add(lower >> 16), self.shift)
    }
}

/// (value + 2^(shift−1)) >> shift, where 1 ≤ shift ≤ 31 and the sum does not overflow.
#[inline(always)]
pub fn round_shift(value: i32, shift: u32) -> i32 {
    value.wrapping_add(1i32.wrapping_shl(shift.wrapping_sub(1))).wrapping_shr(shift)
}

/// An [`Output`] of int8, for values that are far from overflowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int8Place {
    zero: i32,
    low: i32,
    high: i32,
}

impl Int8Place {
    /// `None` where the output is another one.
    pub fn new(place: Output) -> Option<Self> {
        let [zero, low, high] = place.int8_bounds()?.map(i32::from);
        Some(Int8Place { zero, low, high })
    }

    /// sat8(zero + value).
    #[inline(always)]
    pub fn place(&self, value: i32) -> i8 {
        value.wrapping_add(self.zero).max(self.low).min(self.high) as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{MAX_PAIR_SHIFT, MAX_SHIFT};
    use proptest::prelude::*;

    #[test]
    fn common_factors_have_the_short_form() {
        let of = |real, bits| HighWord::new(Multiplier::from_real(real).unwrap(), bits);
        assert!(of(0.2499, 32).is_some() && of(0.25, 32).is_none());
        assert!(HighWord::new(Multiplier { m: 0, shift: 1 }, 32).is_some_and(|nothing| nothing.apply(i32::MIN) == 0));
        assert!(of(4.0, 18).is_some() && of(500.0, 18).is_some() && of(40_000.0, 18).is_none());
        let pair = |real| Int8Sum::new(MultiplierPair::from_reals(real, 0.1).unwrap(), [0, 0]);
        assert!(pair(16_000.0).is_some() && pair(17_000.0).is_none());
    }

    proptest! {
        #[test]
        fn the_high_word_alone_rounds_to_the_same_value(acc in any::<i32>(), m in 0..=i32::MAX, drop in 0u32..32,
            shift in 1..=MAX_SHIFT, bits in 8u32..=32) {
            let scale = Multiplier { m: m >> drop.min(31), shift };
            let acc = acc >> (32 - bits).min(31) >> u32::from(bits < 32);
            if let Some(high) = HighWord::new(scale, bits) {
                prop_assert!((1..=30).contains(&high.shift));
                prop_assert_eq!(i64::from(high.apply(acc)), scale.apply(acc));
            } else {
                prop_assert!(scale.to_real() >= 0.25);
            }
        }

        #[test]
        fn halves_of_the_factors_give_the_same_sum(a: i8, b: i8, zeros in [-128i32..=127, -128i32..=127],
            first in 0..=i32::MAX, second in 0..=i32::MAX, shift in 17..MAX_PAIR_SHIFT) {
            let pair = MultiplierPair { first, second, shift };
            let found = Int8Sum::new(pair, zeros).unwrap().apply(a, b);
            prop_assert_eq!(i64::from(found), pair.apply(i32::from(a) - zeros[0], i32::from(b) - zeros[1]));
        }

        #[test]
        fn a_place_is_the_outputs(zero in -128i32..=127, relu: bool, value in -(1i32 << 29)..1 << 29) {
            let output = Output::int8(zero, relu);
            prop_assert_eq!(i32::from(Int8Place::new(output).unwrap().place(value)), output.place(value.into()));
        }
    }
}
