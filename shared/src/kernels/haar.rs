//! Haar bands: the direction injection (stride 2) and the bands inside the spatial gate (stride 1).
//!
//! With a b / c d the four pixels of a square, as cross-correlations (METHOD.md §1):
//!
//! ```text
//! LH = ½(a + b − c − d)    HL = ½(a − b + c − d)    HH = ½(a − b − c + d)    LL = ½(a + b + c + d)
//! ```
//!
//! Int8: the sums are exact in half steps of the input, and the zero point cancels in all but LL.

use super::{Map, MapMut, widest};
use crate::Error;
use crate::quant::{Multiplier, Output, Quantised};
use core::ops::{Add, Sub};

/// Twice the bands LH, HL, HH, LL of the square a b / c d.
#[inline(always)]
pub fn doubled_bands<T: Copy + Add<Output = T> + Sub<Output = T>>(a: T, b: T, c: T, d: T) -> [T; 4] {
    let (top, bottom) = (a + b, c + d);
    let (fall, rise) = (a - b, c - d);
    [top - bottom, fall + rise, fall - rise, top + bottom]
}

/// HFDI: bands LH of all channels, then HL, then HH, of squares side by side; the output is half the size.
pub fn haar_inject_f32(input: Map<f32>, output: MapMut<f32>) -> Result<(), Error> {
    inject(input, output, |v| v, |doubled| 0.5 * doubled)
}

/// As [`haar_inject_f32`]; `scale` is scale_in/(2·scale_out).
pub fn haar_inject_int8(input: Map<i8>, scale: Multiplier, place: Output, output: MapMut<i8>) -> Result<(), Error> {
    widest(
        #[inline(always)]
        || inject(input, output, i32::from, |doubled| i8::narrow(place.place(scale.apply(doubled)))),
    )
}

#[cfg_attr(kernels = "vnni", inline(always))]
fn inject<T: Copy, W: Copy + Add<Output = W> + Sub<Output = W>>(
    input: Map<T>,
    mut output: MapMut<T>,
    widen: impl Fn(T) -> W,
    finish: impl Fn(W) -> T,
) -> Result<(), Error> {
    let (from, to) = (input.shape(), output.shape());
    if from.height != 2 * to.height || from.width != 2 * to.width || to.channels != 3 * from.channels {
        return Err(Error::Shape);
    }
    for y in output.rows() {
        let (Some(top), Some(bottom)) = (input.row(2 * y), input.row(2 * y + 1)) else { return Err(Error::Shape) };
        let squares = top.groups(2).zip(bottom.groups(2));
        for ((mut top, mut bottom), out) in squares.zip(output.pixels_from_mut(y, 0)) {
            let (Some(a), Some(b), Some(c), Some(d)) = (top.next(), top.next(), bottom.next(), bottom.next()) else {
                return Err(Error::Shape);
            };
            let (lh, rest) = out.split_at_mut_checked(from.channels).ok_or(Error::Shape)?;
            let (hl, hh) = rest.split_at_mut_checked(from.channels).ok_or(Error::Shape)?;
            let taps = a.iter().zip(b).zip(c.iter().zip(d));
            for (((&a, &b), (&c, &d)), ((lh, hl), hh)) in taps.zip(lh.iter_mut().zip(hl).zip(hh)) {
                let bands = doubled_bands(widen(a), widen(b), widen(c), widen(d));
                [*lh, *hl, *hh] = [finish(bands[0]), finish(bands[1]), finish(bands[2])];
            }
        }
    }
    Ok(())
}

/// One band (index into [`crate::graph::BANDS`]) of every pixel and its left, upper and upper-left neighbours, zero
/// beyond the borders: D_b of the spatial gate, for inspection; the gate itself never holds it. Same shape as `input`.
pub fn band_map_f32(input: Map<f32>, band: usize, mut output: MapMut<f32>) -> Result<(), Error> {
    if !input.shape().same_size(&output.shape()) || band > 3 {
        return Err(Error::Shape);
    }
    let width = input.shape().width.max(1);
    for (i, out) in output.pixels_mut().enumerate() {
        let (y, x) = (i / width, i % width);
        let (above, here) = (input.row(y.wrapping_sub(1)), input.row(y));
        let at = |row: &Option<super::feature_map::Row<f32>>, x: usize, channel: usize| {
            row.as_ref().and_then(|r| r.pixel(x)).and_then(|p| p.get(channel)).map_or(0.0, |&v| v)
        };
        for (channel, out) in out.iter_mut().enumerate() {
            let left = x.wrapping_sub(1);
            let (a, b) = (at(&above, left, channel), at(&above, x, channel));
            let (c, d) = (at(&here, left, channel), at(&here, x, channel));
            *out = 0.5 * doubled_bands(a, b, c, d).get(band).map_or(0.0, |&v| v);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hand_worked_square() {
        // 7 1 / 2 4: LH = (8−6)/2, HL = (6−2)/2, HH = (6+2)/2, LL = 14/2.
        assert_eq!(doubled_bands(7, 1, 2, 4), [2, 4, 8, 14]);
        assert_eq!(doubled_bands(7.0, 1.0, 2.0, 4.0), [2.0, 4.0, 8.0, 14.0]);
    }

    #[test]
    fn bands_come_before_channels() {
        // Channel 0 is the square above, channel 1 ten times it.
        let input = TestMap::new(|_| [7.0, 70.0, 1.0, 10.0, 2.0, 20.0, 4.0, 40.0].to_vec(), 2, 2, 2, 0);
        let mut out = TestMap::filled(0.0, 1, 1, 6, 1);
        haar_inject_f32(input.map(), out.map_mut()).unwrap();
        assert_eq!(out.data, [1.0, 10.0, 2.0, 20.0, 4.0, 40.0, 0.0]);
    }

    #[test]
    fn a_band_map_sees_zeros_left_of_and_above_the_frame() {
        let input = TestMap::new(|_| [7.0, 1.0, 2.0, 4.0].to_vec(), 2, 2, 1, 0);
        let expected = [
            [-3.5, -4.0, 2.5, 1.0], // LH
            [-3.5, 3.0, -4.5, 2.0], // HL
            [3.5, -3.0, -2.5, 4.0], // HH
            [3.5, 4.0, 4.5, 7.0],   // LL
        ];
        for (band, expected) in expected.into_iter().enumerate() {
            let mut out = TestMap::filled(0.0, 2, 2, 1, 0);
            band_map_f32(input.map(), band, out.map_mut()).unwrap();
            assert_eq!(out.data, expected, "band {band}");
        }
    }

    #[test]
    fn an_odd_map_is_an_error() {
        let input = TestMap::filled(0f32, 3, 4, 1, 0);
        assert_eq!(haar_inject_f32(input.map(), TestMap::filled(0f32, 1, 2, 3, 0).map_mut()), Err(Error::Shape));
    }

    proptest! {
        #[test]
        fn int8_is_the_definition_rounded_once(seed: u64, h in 1usize..6, w in 1usize..6, c in 1usize..4,
            gaps in (0usize..3, 0usize..3), zero in -128i32..=127, factor in 0.01f64..4.0) {
            let input = TestMap::new(|n| Stream(seed).i8s(n), 2 * h, 2 * w, c, gaps.0);
            let mut out = TestMap::filled(99i8, h, w, 3 * c, gaps.1);
            let scale = Multiplier::from_real(factor).unwrap();
            haar_inject_int8(input.map(), scale, Output::int8(zero, false), out.map_mut()).unwrap();
            let signs = [[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]];
            out.assert_is(99, |y, x, channel| {
                let sum: i64 = signs[channel / c].iter().enumerate().map(|(i, s)| {
                    let (dy, dx) = (i as isize / 2, i as isize % 2);
                    s * i64::from(input.at(2 * y + dy, 2 * x + dx, channel % c, 0))
                }).sum();
                let product = i128::from(sum) * i128::from(scale.m) * 2 + (1 << scale.shift);
                (i128::from(zero) + product.div_euclid(2 << scale.shift)).clamp(-128, 127) as i8
            });
        }
    }
}
