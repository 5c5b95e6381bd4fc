//! The sum of two int8 maps over AVX-512 or AVX2: the fast twin of [`crate::kernels::add`].
//!
//! As in [`crate::kernels::rescale::Int8Sum`] the factors are split at bit 16, here into a signed lower half, so that one
//! `vpmaddwd` makes both products and their sum. Bytes are taken as x + 128.

use core::arch::x86_64::{__m256i, __m512i};

use super::Level;
use super::quads::{Planes, interleave, quads};
use super::requantise::Place;
use super::vector::Vector;
use crate::kernels::{Map, MapMut};
use crate::quant::{MultiplierPair, Output};

/// Bytes of the widest vector, a multiple of every other one's.
const BYTES: usize = 64;
/// Pixels that are taken apart at one time, where maps have gaps.
const RUN: usize = 64;
/// Most channels of such maps.
const CHANNELS: usize = 128;

/// The sum of two views of the rows that `output` holds; `None`, and nothing written, where a number is outside this
/// form's range. `level` is the highest one that is taken, where the processor has it.
pub fn add(
    level: Level,
    [a, b]: [&Map<i8>; 2],
    zeros: [i32; 2],
    scale: MultiplierPair,
    place: Output,
    output: &mut MapMut<i8>,
) -> Option<()> {
    let sum = Sum::new(zeros, scale, place)?;
    // SAFETY: the processor has been asked.
    unsafe {
        match level.min(super::level()) {
            Level::Any => None,
            Level::Avx2 => sum.maps::<__m256i>(a, b, output),
            Level::Vnni => sum.maps::<__m512i>(a, b, output),
        }
    }
}

/// The factors, two to a word, and what is added.
struct Sum {
    upper: i32,
    lower: i32,
    upper_offset: i32,
    lower_offset: i32,
    shift: u64,
    place: Place,
}

impl Sum {
    fn new(zeros: [i32; 2], scale: MultiplierPair, place: Output) -> Option<Self> {
        let shift = scale.shift.checked_sub(16).filter(|shift| scale.is_valid() && (1..32).contains(shift))?;
        if zeros.iter().any(|&zero| i8::try_from(zero).is_err()) {
            return None;
        }
        let factors = [scale.first, scale.second];
        let lower = factors.map(|f| i32::from(f as i16));
        let [a, b] = [0, 1].map(|i| (i64::from(factors[i]) - i64::from(lower[i])) >> 16);
        let upper = [i32::from(i16::try_from(a).ok()?), i32::from(i16::try_from(b).ok()?)];
        let pair = |[a, b]: [i32; 2]| (a & 0xFFFF) | (b << 16);
        let offset = |[a, b]: [i32; 2]| -(a * (zeros[0] + 128) + b * (zeros[1] + 128));
        let half = 1i32 << (shift - 1);
        Some(Sum {
            upper: pair(upper),
            lower: pair(lower),
            upper_offset: offset(upper).wrapping_add(half),
            lower_offset: offset(lower),
            shift: shift.into(),
            place: Place::new(place)?,
        })
    }

    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn maps<V: Vector>(&self, a: &Map<i8>, b: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
        // SAFETY: the promise of the caller.
        unsafe {
            if let (Some(a), Some(b), Some(out)) = (a.dense(), b.dense(), output.dense_mut()) {
                V::run(
                    #[inline(always)]
                    || self.dense::<V>(a, b, out),
                );
                return Some(());
            }
            self.apart::<V>(a, b, output)
        }
    }

    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn dense<V: Vector>(&self, a: &[i8], b: &[i8], out: &mut [i8]) {
        let (chunks, rest) = out.as_chunks_mut::<BYTES>();
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<BYTES>(), b.as_chunks::<BYTES>());
        let mut last = [[0; BYTES]; 3];
        last[0].iter_mut().zip(a_rest).for_each(|(to, from)| *to = *from);
        last[1].iter_mut().zip(b_rest).for_each(|(to, from)| *to = *from);
        // SAFETY: the promise of the caller.
        unsafe {
            for ((a, b), out) in a.iter().zip(b).zip(chunks) {
                self.block::<V>(a, b, out);
            }
            let [a, b, sums] = &mut last;
            self.block::<V>(a, b, sums);
        }
        rest.iter_mut().zip(&last[2]).for_each(|(to, from)| *to = *from);
    }

    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn block<V: Vector>(&self, a: &[i8; BYTES], b: &[i8; BYTES], out: &mut [i8; BYTES]) {
        for at in (0..BYTES).step_by(4 * V::PIXELS) {
            // SAFETY: all three are whole vectors; the promise of the caller.
            unsafe {
                let flip = V::splat8(i8::MIN);
                let (a, b) = (V::load(a.as_ptr().add(at)).xor(flip), V::load(b.as_ptr().add(at)).xor(flip));
                self.of(a, b).store(out.as_mut_ptr().add(at));
            }
        }
    }

    /// Maps with gaps, by way of planes.
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn apart<V: Vector>(&self, a: &Map<i8>, b: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
        let shape = output.shape();
        let mut words = [[0u32; CHANNELS / 4 * RUN]; 2];
        let len = quads(shape.channels) * RUN;
        let [first, second] = &mut words;
        let (first, second) = (first.get_mut(..len)?, second.get_mut(..len)?);
        for y in output.rows() {
            for x in (0..shape.width).step_by(RUN) {
                let count = (shape.width - x).min(RUN);
                let out = output.from_mut(y, x);
                // SAFETY: the promise of the caller.
                unsafe {
                    Planes { words: first, plane: RUN }.copy::<V>(&a.row(y)?, x, 1, 0, count);
                    Planes { words: second, plane: RUN }.copy::<V>(&b.row(y)?, x, 1, 0, count);
                    V::run(
                        #[inline(always)]
                        || self.planes::<V>(first, second),
                    );
                    interleave::<V>(first, RUN, shape.channels, count, out, shape.stride)?;
                }
            }
        }
        Some(())
    }

    /// The sums of planes whose lengths are a multiple of [`RUN`], in place of the first.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn planes<V: Vector>(&self, a: &mut [u32], b: &[u32]) {
        for (a, b) in a.as_chunks_mut::<RUN>().0.iter_mut().zip(b.as_chunks::<RUN>().0) {
            for at in (0..RUN).step_by(V::PIXELS) {
                // SAFETY: both are whole vectors; the promise of the caller.
                unsafe {
                    let a = a.as_mut_ptr().add(at);
                    self.of(V::load(a), V::load(b.as_ptr().add(at))).store(a);
                }
            }
        }
    }

    /// Of as many bytes each as a vector has.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn of<V: Vector>(&self, a: V, b: V) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let zero = V::splat(0);
            let (a_low, a_high, b_low, b_high) = (a.low8(zero), a.high8(zero), b.low8(zero), b.high8(zero));
            // What is unpacked within 128 bits comes together within 128 bits.
            let mut sums = [a_low.low16(b_low), a_low.high16(b_low), a_high.low16(b_high), a_high.high16(b_high)];
            for pairs in &mut sums {
                let (upper, lower) = (pairs.madd16(V::splat(self.upper)), pairs.madd16(V::splat(self.lower)));
                let carry = lower.add(V::splat(self.lower_offset)).sar(16);
                *pairs = upper.add(V::splat(self.upper_offset)).add(carry).sar(self.shift);
            }
            self.place.together(sums)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::kernels::testing::{Stream, TestMap, in_bands};
    use proptest::prelude::*;

    proptest! {
        /// Maps with and without gaps, whole vectors and their tails, both widths: the integer contract's own form.
        #[test]
        fn every_form_is_the_contract(seed: u64, h in 1usize..4, band in 1usize..4, w in 1usize..150, c in 1usize..40,
            gaps in (0usize..3, 0usize..3, 0usize..3), dense: bool, relu: bool,
            zeros in [-128i32..=127, -128i32..=127, -128i32..=127], exponents in [-16f64..13.9, -30f64..13.9]) {
            let gaps = if dense { (0, 0, 0) } else { gaps };
            let mut stream = Stream(seed);
            let a = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let b = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.1);
            let scale = MultiplierPair::from_reals(exponents[0].exp2(), exponents[1].exp2()).unwrap();
            let place = Output::int8(zeros[2], relu);
            for level in levels() {
                let mut out = TestMap::filled(99i8, h, w, c, gaps.2);
                in_bands(&[&a, &b], &mut out, band, |rows| rows, |maps, mut out| {
                    let zeros = [zeros[0], zeros[1]];
                    assert!(add(level, [&maps[0], &maps[1]], zeros, scale, place, &mut out).is_some());
                });
                out.assert_is(99, |y, x, c| {
                    let of = |m: &TestMap<i8>, zero| i32::from(m.at(y, x, c, 0)) - zero;
                    place.place(scale.apply(of(&a, zeros[0]), of(&b, zeros[1]))) as i8
                });
            }
        }
    }
}
