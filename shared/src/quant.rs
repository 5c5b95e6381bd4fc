//! The integer contract: how an exact int32 sum becomes an int8 (or int16) value, the same on every target.
//!
//! Activations are int8, per tensor: real = scale·(q − zero). Weights are int8 in [−127, 127], symmetric, per output
//! channel. A real factor is a [`Multiplier`] m/2^s with a 31-bit m, and
//!
//! ```text
//! q_out = sat(zero_out + ((acc·m + 2^(s−1)) >> s))      acc·m in i64: one rounding, halves towards +∞
//! ```
//!
//! ReLU is the lower clamp at `zero_out`. A sum of two rescaled terms is rounded once too ([`MultiplierPair`]).
//! The records are read in place from the model image, so they are plain little-endian words.

use crate::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[cfg(target_endian = "big")]
compile_error!("the model image is little-endian and read in place");

/// Steps of the logit map per unit: logits are int16 with zero point 0.
pub const LOGIT_STEPS: f32 = 256.0;
/// Largest shift of a [`Multiplier`]: the rounding addend stays inside an i64.
pub const MAX_SHIFT: u32 = 62;
/// Largest shift of a [`MultiplierPair`], which leaves room for a bias that is added before the rounding.
pub const MAX_PAIR_SHIFT: u32 = 48;

/// Quantisation of one map: real = scale·(q − zero).
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct Activation {
    /// Real value of one step; positive.
    pub scale: f32,
    /// The int8 value that stands for 0, in [−128, 127]; 0 for the int16 logit map.
    pub zero: i32,
}

impl Activation {
    /// The int8 value nearest to a real one, saturated; the middle goes away from zero. NaN gives the zero point.
    pub fn quantise(&self, real: f32) -> i8 {
        (libm::roundf(real / self.scale) as i32).saturating_add(self.zero).clamp(-128, 127) as i8
    }

    /// The real value of an int8 one.
    pub fn dequantise(&self, q: i8) -> f32 {
        self.scale * (i32::from(q) - self.zero) as f32
    }

    /// Whether scale and zero point are in their ranges.
    pub fn is_valid(&self) -> bool {
        self.scale.is_finite() && self.scale > 0.0 && (-128..=127).contains(&self.zero)
    }
}

/// A non-negative real factor m/2^shift with 0 ≤ m < 2^31 and 1 ≤ shift ≤ [`MAX_SHIFT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct Multiplier {
    /// The 31-bit integer factor.
    pub m: i32,
    /// The binary shift.
    pub shift: u32,
}

impl Multiplier {
    /// The multiplier nearest to `real`, with as many bits as fit. Errors: negative, not finite, or 2^30 and above.
    pub fn from_real(real: f64) -> Result<Self, Error> {
        let (m, shift) = fixed_point(real, real, MAX_SHIFT)?;
        Ok(Multiplier { m, shift })
    }

    /// The factor as a real number.
    pub fn to_real(&self) -> f64 {
        f64::from(self.m) / (1u64 << self.shift.min(63)) as f64
    }

    /// This factor divided by `n`, in integers, rounded to 31 bits: for factors that depend on the frame size.
    pub fn over(&self, n: core::num::NonZeroU32) -> Self {
        let quotient = ((self.m.max(0) as u64) << 32) / u64::from(n.get());
        let shift = self.shift + 32;
        let significant = u64::BITS - quotient.leading_zeros();
        let drop = significant.saturating_sub(31).max(shift.saturating_sub(MAX_SHIFT)).min(63);
        let mut m = (quotient + ((1u64 << drop) >> 1)) >> drop;
        let mut shift = shift - drop;
        if m > i32::MAX as u64 {
            (m, shift) = (m >> 1, shift.saturating_sub(1));
        }
        Multiplier { m: m as i32, shift }
    }

    /// acc·m/2^shift, rounded once, halves towards +∞.
    #[inline(always)]
    pub fn apply(&self, acc: i32) -> i64 {
        round_shift(i64::from(acc).wrapping_mul(i64::from(self.m)), self.shift)
    }

    /// Whether m and shift are in their ranges.
    pub fn is_valid(&self) -> bool {
        self.m >= 0 && (1..=MAX_SHIFT).contains(&self.shift)
    }
}

/// Two factors with one shift, for a sum of two terms that is rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct MultiplierPair {
    /// Factor of the first term, before the shift.
    pub first: i32,
    /// Factor of the second term, before the shift.
    pub second: i32,
    /// The binary shift, 1..=[`MAX_PAIR_SHIFT`].
    pub shift: u32,
}

impl MultiplierPair {
    /// The pair nearest to two non-negative reals. Errors: negative, not finite, or 2^30 and above.
    pub fn from_reals(first: f64, second: f64) -> Result<Self, Error> {
        let most = first.max(second);
        let (first, shift) = fixed_point(first, most, MAX_PAIR_SHIFT)?;
        let (second, _) = fixed_point(second, most, MAX_PAIR_SHIFT)?;
        Ok(MultiplierPair { first, second, shift })
    }

    /// (a·first + b·second)/2^shift, rounded once, halves towards +∞.
    #[inline(always)]
    pub fn apply(&self, a: i32, b: i32) -> i64 {
        self.apply_with(a, b, 0)
    }

    /// (a·first + b·second + bias)/2^shift, rounded once, halves towards +∞.
    #[inline(always)]
    pub fn apply_with(&self, a: i32, b: i32, bias: i64) -> i64 {
        let a = i64::from(a).wrapping_mul(i64::from(self.first));
        let b = i64::from(b).wrapping_mul(i64::from(self.second));
        round_shift(a.wrapping_add(b).wrapping_add(bias), self.shift)
    }

    /// Whether both factors and the shift are in their ranges.
    pub fn is_valid(&self) -> bool {
        self.first >= 0 && self.second >= 0 && (1..=MAX_PAIR_SHIFT).contains(&self.shift)
    }
}

/// round(real·2^shift), with the largest shift at which `most` still has 31 bits.
fn fixed_point(real: f64, most: f64, max_shift: u32) -> Result<(i32, u32), Error> {
    let limit = (1u64 << 31) as f64 - 0.5;
    let fits = |shift: u32| most * ((1u64 << shift) as f64) < limit;
    let shift = (1..=max_shift).rev().find(|&s| fits(s)).ok_or(Error::Quantisation)?;
    // Scaling by a power of two is exact, and so is adding a half below 2^31.
    let scaled = real * (1u64 << shift) as f64 + 0.5;
    if real >= 0.0 && real <= most { Ok((scaled as i32, shift)) } else { Err(Error::Quantisation) }
}

/// (product + 2^(shift−1)) >> shift.
#[inline(always)]
fn round_shift(product: i64, shift: u32) -> i64 {
    product.wrapping_add(1i64.wrapping_shl(shift.wrapping_sub(1))).wrapping_shr(shift)
}

/// Where a rescaled value lands: its zero point and the clamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    zero: i64,
    low: i64,
    high: i64,
}

impl Output {
    /// An int8 map; ReLU clamps at the zero point.
    pub const fn int8(zero: i32, relu: bool) -> Self {
        let zero = zero as i64;
        Output { zero, low: if relu && zero > -128 { zero } else { -128 }, high: 127 }
    }

    /// The int16 logit map.
    pub const fn logit() -> Self {
        Output { zero: 0, low: i16::MIN as i64, high: i16::MAX as i64 }
    }

    /// (zero, low, high) where all three are int8.
    pub fn int8_bounds(&self) -> Option<[i8; 3]> {
        let narrow = |v: i64| i8::try_from(v).ok();
        Some([narrow(self.zero)?, narrow(self.low)?, narrow(self.high)?])
    }

    /// sat(zero + value).
    #[inline(always)]
    pub fn place(&self, value: i64) -> i32 {
        // Not `clamp`, which panics on a reversed range.
        value.wrapping_add(self.zero).max(self.low).min(self.high) as i32
    }
}

/// The integer types that maps are made of.
pub trait Quantised: Copy {
    /// Takes a value that [`Output::place`] has put in range.
    fn narrow(value: i32) -> Self;
}

impl Quantised for i8 {
    #[inline(always)]
    fn narrow(value: i32) -> i8 {
        value as i8
    }
}

impl Quantised for i16 {
    #[inline(always)]
    fn narrow(value: i32) -> i16 {
        value as i16
    }
}

/// Bias and factor of one output channel of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct ConvChannel {
    /// Bias in steps of scale_in·scale_weight, less zero_in·Σ weights ([`ConvChannel::folded`]).
    pub bias: i32,
    /// scale_in·scale_weight / scale_out.
    pub scale: Multiplier,
}

impl ConvChannel {
    /// Largest magnitude of a folded bias: with it, no sum over at most [`ConvChannel::MAX_TAPS`] taps overflows.
    pub const MAX_BIAS: i32 = 1 << 30;
    /// Most taps of one output: 65,000·128·127 < 2^30.
    pub const MAX_TAPS: usize = 65_000;

    /// The record of a channel with these weights. `bias` is in steps of scale_in·scale_weight; padded taps count as
    /// `zero_in`, so subtracting zero_in·Σw is exact at the borders too. Errors: the folded bias exceeds
    /// [`Self::MAX_BIAS`].
    pub fn folded(bias: i64, weights: &[i8], zero_in: i32, scale: Multiplier) -> Result<Self, Error> {
        let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let bias = i64::from(zero_in).checked_mul(sum).and_then(|z| bias.checked_sub(z)).ok_or(Error::Quantisation)?;
        let channel = ConvChannel { bias: i32::try_from(bias).map_err(|_| Error::Quantisation)?, scale };
        if channel.is_valid() { Ok(channel) } else { Err(Error::Quantisation) }
    }

    /// Whether bias and factor are in their ranges.
    pub fn is_valid(&self) -> bool {
        self.bias.unsigned_abs() <= Self::MAX_BIAS.unsigned_abs() && self.scale.is_valid()
    }
}

/// The parameters of one band of the spatial gate beside its weights (see [`crate::kernels::spatial_gate`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct GateBand {
    /// Bias in gate steps times 2^shift: round(16·bias·2^scale.shift).
    pub bias: i64,
    /// Sums over the channel maximum (first) and the channel mean (second) → sixteenths of a logit.
    pub scale: MultiplierPair,
    /// Zero.
    pub reserved: u32,
}

impl GateBand {
    /// Largest magnitude of the bias, so that no sum overflows an i64.
    pub const MAX_BIAS: i64 = 1 << 60;

    /// The record of a band: `scale_in` of the map, `scale_max` and `scale_mean` of the two 7×7 weight planes.
    pub fn new(bias: f64, scale_in: f64, scale_max: f64, scale_mean: f64) -> Result<Self, Error> {
        use crate::kernels::{sigmoid::GATE_STEPS, spatial_gate::MEAN_STEPS};
        let steps = f64::from(GATE_STEPS);
        let first = scale_in / 2.0 * scale_max * steps;
        let second = scale_in / (2.0 * f64::from(MEAN_STEPS)) * scale_mean * steps;
        let scale = MultiplierPair::from_reals(first, second)?;
        let bias = bias * steps * (1u64 << scale.shift) as f64;
        let band = GateBand { bias: libm::round(bias) as i64, scale, reserved: 0 };
        if bias.is_finite() && band.is_valid() { Ok(band) } else { Err(Error::Quantisation) }
    }

    /// Whether bias and factors are in their ranges.
    pub fn is_valid(&self) -> bool {
        self.bias.unsigned_abs() <= Self::MAX_BIAS.unsigned_abs() && self.scale.is_valid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;
    use proptest::prelude::*;

    /// floor(numerator/2^shift + 1/2) in exact integers.
    fn exact(numerator: i128, shift: u32) -> i128 {
        (2 * numerator + (1i128 << shift)).div_euclid(2i128 << shift)
    }

    #[test]
    fn halves_round_towards_plus_infinity() {
        let half = Multiplier::from_real(0.5).unwrap();
        assert_eq!([-3, -2, -1, 0, 1, 2, 3].map(|x| half.apply(x)), [-1, -1, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn a_multiplier_carries_thirty_one_bits() {
        let third = Multiplier::from_real(1.0 / 3.0).unwrap();
        assert_eq!(third, Multiplier { m: 1_431_655_765, shift: 32 }); // ⌊2^32/3⌉, below 2^31
        assert_eq!(Multiplier::from_real(1.0).unwrap(), Multiplier { m: 1 << 30, shift: 30 });
        assert_eq!(Multiplier::from_real(0.0).unwrap().apply(i32::MAX), 0);
    }

    #[test]
    fn a_factor_that_no_multiplier_holds_is_an_error() {
        for real in [f64::NAN, f64::INFINITY, -1e-9, (1u64 << 30) as f64] {
            assert_eq!(Multiplier::from_real(real), Err(Error::Quantisation), "{real}");
            assert_eq!(MultiplierPair::from_reals(real, 0.5), Err(Error::Quantisation), "{real}");
            assert_eq!(MultiplierPair::from_reals(0.5, real), Err(Error::Quantisation), "{real}");
        }
    }

    #[test]
    fn relu_is_the_clamp_at_the_zero_point() {
        let output = Output::int8(-7, true);
        assert_eq!([-1000, -1, 0, 5, 1000].map(|v| output.place(v)), [-7, -7, -7, -2, 127]);
        assert_eq!(Output::int8(-7, false).place(-1000), -128);
        assert_eq!(Output::logit().place(40_000), 32_767);
    }

    #[test]
    fn folding_the_zero_point_counts_padding_as_zero() {
        // Real tap values are x − zero: a patch that is all zero point must give the bare bias.
        let weights = [3i8, -5, 127, 1];
        let channel = ConvChannel::folded(40, &weights, -9, Multiplier::from_real(0.5).unwrap()).unwrap();
        let patch: i32 = weights.iter().map(|&w| -9 * i32::from(w)).sum();
        assert_eq!(channel.bias + patch, 40);
        assert_eq!(ConvChannel::folded(1 << 31, &weights, 0, channel.scale), Err(Error::Quantisation));
    }

    proptest! {
        #[test]
        fn requantising_is_the_exact_rational_rounded_once(acc in any::<i32>(), m in 0..=i32::MAX, shift in 1..=MAX_SHIFT) {
            let found = Multiplier { m, shift }.apply(acc);
            prop_assert_eq!(i128::from(found), exact(i128::from(acc) * i128::from(m), shift));
        }

        #[test]
        fn a_pair_is_rounded_once(a in -(1i32 << 28)..1 << 28, b in -(1i32 << 28)..1 << 28, first in 0..=i32::MAX,
            second in 0..=i32::MAX, shift in 1..=MAX_PAIR_SHIFT, bias in -GateBand::MAX_BIAS..GateBand::MAX_BIAS) {
            let sum = i128::from(a) * i128::from(first) + i128::from(b) * i128::from(second) + i128::from(bias);
            let found = MultiplierPair { first, second, shift }.apply_with(a, b, bias);
            prop_assert_eq!(i128::from(found), exact(sum, shift));
        }

        #[test]
        fn nothing_panics_on_a_multiplier_out_of_range(acc in any::<i32>(), m in any::<i32>(), shift in any::<u32>(), bias in any::<i64>()) {
            let value = Multiplier { m, shift }.apply(acc);
            let pair = MultiplierPair { first: m, second: acc, shift }.apply_with(acc, m, bias);
            prop_assert!((-128..=127).contains(&Output::int8(3, true).place(value)));
            prop_assert!((-128..=127).contains(&Output::int8(m, false).place(pair)));
        }

        #[test]
        fn the_nearest_multiplier_is_within_half_a_bit(exponent in -30i32..29, mantissa in 1.0f64..2.0) {
            let real = mantissa * 2f64.powi(exponent);
            let m = Multiplier::from_real(real).unwrap();
            prop_assert!(m.is_valid() && m.m >= 1 << 30);
            prop_assert!((m.to_real() / real - 1.0).abs() <= 0.5 / f64::from(1 << 30));
        }

        #[test]
        fn dividing_a_multiplier_keeps_its_precision(real in 1e-6f64..1e3, n in 1u32..=1 << 24) {
            let m = Multiplier::from_real(real).unwrap();
            let quotient = m.over(NonZeroU32::new(n).unwrap());
            prop_assert!(quotient.is_valid());
            let exact = m.to_real() / f64::from(n);
            prop_assert!((quotient.to_real() - exact).abs() <= exact / f64::from(1 << 29) + 2f64.powi(-62));
        }
    }
}
