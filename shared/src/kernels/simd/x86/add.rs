//! The sum of two int8 maps over AVX-512: the fast twin of [`crate::kernels::add`].
//!
//! As in [`crate::kernels::rescale::Int8Sum`] the factors are split at bit 16, here into a signed lower half, so that one
//! `vpmaddwd` makes both products and their sum. Bytes are taken as x + 128.

use core::arch::x86_64::*;

use super::quads::{PIXELS, Planes, interleave, quads};
use super::requantise::Place;
use crate::kernels::{Map, MapMut};
use crate::quant::{MultiplierPair, Output};

/// Bytes of a vector.
const BYTES: usize = 64;
/// Pixels that are taken apart at one time, where maps have gaps.
const RUN: usize = 64;
/// Most channels of such maps.
const CHANNELS: usize = 128;

/// The sum of two views of the rows that `output` holds; `None`, and nothing written, where a number is outside this
/// form's range.
pub fn add(
    [a, b]: [&Map<i8>; 2],
    zeros: [i32; 2],
    scale: MultiplierPair,
    place: Output,
    output: &mut MapMut<i8>,
) -> Option<()> {
    if super::level() < super::Level::Vnni {
        return None;
    }
    let sum = Sum::new(zeros, scale, place)?;
    // SAFETY: the processor has been asked.
    unsafe {
        if let (Some(a), Some(b), Some(out)) = (a.dense(), b.dense(), output.dense_mut()) {
            sum.dense(a, b, out);
            return Some(());
        }
        sum.apart(a, b, output)
    }
}

/// The factors, two to a word, and what is added.
struct Sum {
    upper: i32,
    lower: i32,
    upper_offset: i32,
    lower_offset: i32,
    shift: i32,
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
            shift: shift as i32,
            place: Place::new(place)?,
        })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn dense(&self, a: &[i8], b: &[i8], out: &mut [i8]) {
        let (chunks, rest) = out.as_chunks_mut::<BYTES>();
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<BYTES>(), b.as_chunks::<BYTES>());
        for ((a, b), out) in a.iter().zip(b).zip(chunks) {
            self.block(a, b, out);
        }
        let mut last = [[0; BYTES]; 3];
        last[0].iter_mut().zip(a_rest).for_each(|(to, from)| *to = *from);
        last[1].iter_mut().zip(b_rest).for_each(|(to, from)| *to = *from);
        let [a, b, sums] = &mut last;
        self.block(a, b, sums);
        rest.iter_mut().zip(sums).for_each(|(to, from)| *to = *from);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn block(&self, a: &[i8; BYTES], b: &[i8; BYTES], out: &mut [i8; BYTES]) {
        let flip = _mm512_set1_epi8(i8::MIN);
        // SAFETY: all three are a vector.
        unsafe {
            let a = _mm512_xor_si512(_mm512_loadu_si512(a.as_ptr().cast()), flip);
            let b = _mm512_xor_si512(_mm512_loadu_si512(b.as_ptr().cast()), flip);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), self.of(a, b));
        }
    }

    /// Maps with gaps, by way of planes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn apart(&self, a: &Map<i8>, b: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
        let shape = output.shape();
        let mut words = [[0u32; CHANNELS / 4 * RUN]; 2];
        let len = quads(shape.channels) * RUN;
        let [first, second] = &mut words;
        let (first, second) = (first.get_mut(..len)?, second.get_mut(..len)?);
        for y in output.rows() {
            for x in (0..shape.width).step_by(RUN) {
                let count = (shape.width - x).min(RUN);
                Planes { words: first, plane: RUN }.copy(&a.row(y)?, x, 1, 0, count);
                Planes { words: second, plane: RUN }.copy(&b.row(y)?, x, 1, 0, count);
                for (a, b) in first.as_chunks_mut::<PIXELS>().0.iter_mut().zip(second.as_chunks::<PIXELS>().0) {
                    // SAFETY: both are a vector.
                    unsafe {
                        let sum = self.of(_mm512_loadu_si512(a.as_ptr().cast()), _mm512_loadu_si512(b.as_ptr().cast()));
                        _mm512_storeu_si512(a.as_mut_ptr().cast(), sum);
                    }
                }
                interleave(first, RUN, shape.channels, count, output.from_mut(y, x), shape.stride)?;
            }
        }
        Some(())
    }

    /// Of 64 bytes each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn of(&self, a: __m512i, b: __m512i) -> __m512i {
        let zero = _mm512_setzero_si512();
        let (a_low, a_high) = (_mm512_unpacklo_epi8(a, zero), _mm512_unpackhi_epi8(a, zero));
        let (b_low, b_high) = (_mm512_unpacklo_epi8(b, zero), _mm512_unpackhi_epi8(b, zero));
        let shift = _mm_cvtsi32_si128(self.shift);
        let sum = |pairs: __m512i| {
            let upper = _mm512_madd_epi16(pairs, _mm512_set1_epi32(self.upper));
            let lower = _mm512_madd_epi16(pairs, _mm512_set1_epi32(self.lower));
            let carry = _mm512_srai_epi32::<16>(_mm512_add_epi32(lower, _mm512_set1_epi32(self.lower_offset)));
            let whole = _mm512_add_epi32(upper, _mm512_set1_epi32(self.upper_offset));
            _mm512_sra_epi32(_mm512_add_epi32(whole, carry), shift)
        };
        // What is unpacked within lanes comes together within lanes.
        self.place.together([
            sum(_mm512_unpacklo_epi16(a_low, b_low)),
            sum(_mm512_unpackhi_epi16(a_low, b_low)),
            sum(_mm512_unpacklo_epi16(a_high, b_high)),
            sum(_mm512_unpackhi_epi16(a_high, b_high)),
        ])
    }
}
