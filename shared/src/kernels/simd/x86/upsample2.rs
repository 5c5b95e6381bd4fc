//! Bilinear ×2 over AVX-512 or AVX2: the fast twin of [`crate::kernels::upsample2`].
//!
//! The exact sum is taken apart: rows are blended first, once for all columns, then columns.

use core::arch::x86_64::*;

use super::Level;
use super::requantise::{Factor, Place};
use super::vector::Vector;
use crate::kernels::rescale::HighWord;
use crate::kernels::upsample2::Axis;
use crate::kernels::{Map, MapMut};
use crate::quant::Output;

/// Elements of a row.
const ROOM: usize = 8192;
/// Elements of the widest vector.
const LANES: usize = 16;

/// The rows that `output` holds of a map whose shapes have been checked; `scale` has both denominators in it. `None`, and nothing written, where
/// it is outside this form's range. `level` is the highest one that is taken, where the processor has it.
pub fn upsample2(
    level: Level,
    input: &Map<i8>,
    zero: i32,
    scale: HighWord,
    place: Output,
    output: &mut MapMut<i8>,
) -> Option<()> {
    let shape = input.shape();
    let fits = shape.width.checked_mul(shape.channels).is_some_and(|len| len <= ROOM);
    let whole = shape.channels == 8 || shape.channels.is_multiple_of(LANES);
    if !fits || !whole || scale.before > 0 {
        return None;
    }
    input.dense()?;
    let (scale, place) = (Factor::new(scale), Place::new(place)?);
    // SAFETY: the processor has been asked.
    unsafe {
        match level.min(super::level()) {
            Level::Any => None,
            Level::Avx2 => __m256i::run(
                #[inline(always)]
                || rows::<__m256i>(input, zero, scale, place, output),
            ),
            Level::Vnni => __m512i::run(
                #[inline(always)]
                || rows::<__m512i>(input, zero, scale, place, output),
            ),
        }
    }
}

/// # Safety
/// See [`Vector`]; channels are eight, or a multiple of [`LANES`].
#[inline(always)]
unsafe fn rows<V: Vector>(
    input: &Map<i8>,
    zero: i32,
    scale: Factor,
    place: Place,
    output: &mut MapMut<i8>,
) -> Option<()> {
    let (shape, step) = (input.shape(), output.shape().stride);
    let (width, channels) = (shape.width, shape.channels);
    // The last column's right neighbour, of weight 0, lies beyond the row.
    let mut blended = [0; ROOM + 32 * LANES];
    let blended = blended.get_mut(..(width + 1) * channels + LANES)?;
    let held = output.rows();
    for (y, (row, top, bottom)) in Axis::new(shape.height).enumerate().take(held.end).skip(held.start) {
        let upper = input.row(row)?;
        let lower = input.row(row + 1).unwrap_or(upper);
        let (top, bottom) = (top as i32, bottom as i32);
        let offset = (top + bottom).wrapping_mul(zero);
        for ((out, &a), &c) in blended.iter_mut().zip(upper.from(0)).zip(lower.from(0)) {
            *out = top.wrapping_mul(a.into()).wrapping_add(bottom.wrapping_mul(c.into())).wrapping_sub(offset);
        }
        let out = output.from_mut(y, 0);
        if (2 * width - 1) * step + channels > out.len() || channels > step {
            return None;
        }
        // SAFETY: `blended` has all columns and one more, and a vector; `out` has twice as many pixels, as checked.
        unsafe {
            let (from, out) = (blended.as_ptr(), out.as_mut_ptr());
            if channels < V::PIXELS {
                eights(from, width, scale, place, out, step)
            } else {
                columns::<V>(from, width, channels, scale, place, out, step)
            }
        }
    }
    Some(())
}

/// # Safety
/// See [`Vector`]; `from` has `width` + 1 columns of `channels` values, whole vectors; `out` has room for as many bytes at
/// every `step`th of 2·`width` places.
#[inline(always)]
unsafe fn columns<V: Vector>(
    from: *const i32,
    width: usize,
    channels: usize,
    scale: Factor,
    place: Place,
    out: *mut i8,
    step: usize,
) {
    for (x, (column, left, right)) in Axis::new(width).take(2 * width).enumerate() {
        for c in (0..channels).step_by(V::PIXELS) {
            // SAFETY: the promise of the caller.
            unsafe {
                let from = from.add(column * channels + c);
                let (left, right) = (V::splat(left as i32), V::splat(right as i32));
                let sum = left.mul(V::load(from)).add(right.mul(V::load(from.add(channels))));
                place.words(scale.apply(sum)).store_bytes(out.add(x * step + c));
            }
        }
    }
}

/// As [`columns`] for eight channels over AVX-512: a vector is a column and its right neighbour, and two output pixels are
/// one.
///
/// # Safety
/// See [`columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn eights(from: *const i32, width: usize, scale: Factor, place: Place, out: *mut i8, step: usize) {
    let mut axis = Axis::new(width);
    for x in (0..2 * width).step_by(2) {
        let mut halves = [_mm512_setzero_si512(); 2];
        for (half, (column, left, right)) in halves.iter_mut().zip(&mut axis) {
            let weights = _mm512_mask_set1_epi32(_mm512_set1_epi32(left as i32), 0xFF00, right as i32);
            // SAFETY: the promise of the caller.
            *half = _mm512_mullo_epi32(weights, unsafe { _mm512_loadu_si512(from.add(column * 8).cast()) });
        }
        let [a, b] = halves;
        let (left, right) = (_mm512_shuffle_i64x2::<0b01_00_01_00>(a, b), _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b));
        // SAFETY: the promise of the caller.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(place.words(scale.apply(_mm512_add_epi32(left, right))));
            _mm_storel_epi64(out.add(x * step).cast(), bytes);
            _mm_storel_epi64(out.add((x + 1) * step).cast(), _mm_unpackhi_epi64(bytes, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::kernels::rescale::Int8Place;
    use crate::kernels::testing::{Stream, TestMap, in_bands};
    use crate::kernels::upsample2::blend_int8;
    use crate::quant::Multiplier;
    use core::num::NonZeroU32;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_form_gives_the_plain_kernels_bytes(seed: u64, h in 1usize..9, band in 1usize..9, w in 1usize..40,
            c in prop_oneof![Just(8usize), Just(16), Just(32), Just(48)], gap in 0usize..3,
            zeros in [-128i32..=127, -128i32..=127], relu: bool, factor in 0.001f64..2.0) {
            let input = TestMap::new(|n| Stream(seed).i8s(n), h, w, c, 0);
            let denominator = NonZeroU32::new(((2 * h - 1) * (2 * w - 1)) as u32).unwrap();
            let scale = HighWord::new(Multiplier::from_real(factor).unwrap().over(denominator), 32);
            prop_assume!(scale.is_some_and(|scale| scale.before == 0));
            let (scale, place) = (scale.unwrap(), Output::int8(zeros[1], relu));
            let empty = TestMap::filled(99i8, 2 * h, 2 * w, c, gap);
            let (mut plain, int8) = (empty.clone(), Int8Place::new(place).unwrap());
            blend_int8(input.map(), zeros[0], plain.map_mut(), |sum| int8.place(scale.apply(sum))).unwrap();
            for level in levels() {
                let mut found = empty.clone();
                in_bands(&[&input], &mut found, band, |rows| (rows.start - 1) / 2..rows.end / 2 + 1, |maps, mut out| {
                    assert!(upsample2(level, &maps[0], zeros[0], scale, place, &mut out).is_some());
                });
                prop_assert!(found.data == plain.data, "{:?} differs", level);
            }
        }
    }
}
