//! Bilinear ×2 over AVX-512: the fast twin of [`crate::kernels::upsample2`].
//!
//! The exact sum is taken apart: rows are blended first, once for all columns, then columns.

use core::arch::x86_64::*;

use super::requantise::{Factor, Place};
use crate::kernels::rescale::HighWord;
use crate::kernels::upsample2::Axis;
use crate::kernels::{Map, MapMut};
use crate::quant::Output;

/// Elements of a row.
const ROOM: usize = 8192;
/// Elements of a vector.
const LANES: usize = 16;

/// The rows that `output` holds of a map whose shapes have been checked; `scale` has both denominators in it. `None`, and nothing written, where
/// it is outside this form's range.
pub fn upsample2(input: &Map<i8>, zero: i32, scale: HighWord, place: Output, output: &mut MapMut<i8>) -> Option<()> {
    let shape = input.shape();
    let fits = shape.width.checked_mul(shape.channels).is_some_and(|len| len <= ROOM);
    let whole = shape.channels == 8 || shape.channels.is_multiple_of(LANES);
    if super::level() < super::Level::Vnni || !fits || !whole || scale.before > 0 {
        return None;
    }
    input.dense()?;
    let place = Place::new(place)?;
    // SAFETY: the processor has been asked.
    unsafe { rows(input, zero, Factor::new(scale), place, output) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn rows(input: &Map<i8>, zero: i32, scale: Factor, place: Place, output: &mut MapMut<i8>) -> Option<()> {
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
            if channels == 8 {
                eights(from, width, scale, place, out, step)
            } else {
                columns(from, width, channels, scale, place, out, step)
            }
        }
    }
    Some(())
}

/// # Safety
/// `from` has `width` + 1 columns of `channels` values, a multiple of sixteen; `out` has room for as many bytes at every
/// `step`th of 2·`width` places.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns(
    from: *const i32,
    width: usize,
    channels: usize,
    scale: Factor,
    place: Place,
    out: *mut i8,
    step: usize,
) {
    for (x, (column, left, right)) in Axis::new(width).take(2 * width).enumerate() {
        let (left, right) = (_mm512_set1_epi32(left as i32), _mm512_set1_epi32(right as i32));
        for c in (0..channels).step_by(LANES) {
            // SAFETY: the promise of the caller.
            unsafe {
                let from = from.add(column * channels + c);
                let (a, b) = (_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(channels).cast()));
                let sum = _mm512_add_epi32(_mm512_mullo_epi32(left, a), _mm512_mullo_epi32(right, b));
                _mm_storeu_si128(out.add(x * step + c).cast(), place.bytes(scale.apply(sum)));
            }
        }
    }
}

/// As [`columns`] for eight channels: a vector is a column and its right neighbour, and two output pixels are one.
///
/// # Safety
/// See [`columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
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
        let bytes = place.bytes(scale.apply(_mm512_add_epi32(left, right)));
        // SAFETY: the promise of the caller.
        unsafe {
            _mm_storel_epi64(out.add(x * step).cast(), bytes);
            _mm_storel_epi64(out.add((x + 1) * step).cast(), _mm_unpackhi_epi64(bytes, bytes));
        }
    }
}
