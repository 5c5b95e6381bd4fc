//! Bilinear ×2 with aligned corners: output position p of 2n reads the input at p·(n−1)/(2n−1).
//!
//! With D = 2n − 1, p·(n−1) = i·D + f splits into the left neighbour i and its integer weights D − f and f, so the int8
//! form is an exact integer sum over both axes, and one multiplier carries the scales and both denominators.

use super::rescale::{HighWord, Int8Place};
use super::{Map, MapMut, Shape, widest};
use crate::Error;
use crate::quant::{Multiplier, Output, Quantised};
use core::num::NonZeroU32;

/// Left neighbour and weight of the right one, in 1/(2n−1), of every output position of an axis of `n` pixels.
#[derive(Clone)]
pub(super) struct Axis {
    index: usize,
    fraction: usize,
    step: usize,
    denominator: usize,
}

impl Axis {
    pub(super) fn new(n: usize) -> Self {
        Axis { index: 0, fraction: 0, step: n - 1, denominator: 2 * n - 1 }
    }
}

impl Iterator for Axis {
    /// (left neighbour, its weight, the right neighbour's weight); both weights sum to 2n − 1.
    type Item = (usize, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let item = (self.index, self.denominator - self.fraction, self.fraction);
        self.fraction += self.step;
        if self.fraction >= self.denominator {
            self.fraction -= self.denominator;
            self.index += 1;
        }
        Some(item)
    }
}

/// `output` has twice the input's height and width.
pub fn upsample2_f32(input: Map<f32>, output: MapMut<f32>) -> Result<(), Error> {
    let (height, width) = (input.shape().height as f32, input.shape().width as f32);
    let (rows, columns) = (1.0 / (2.0 * height - 1.0), 1.0 / (2.0 * width - 1.0));
    upsample(input, output, |[top, bottom]: [f32; 2], [left, right]: [f32; 2]| {
        let (top, bottom, left, right) = (top * rows, bottom * rows, left * columns, right * columns);
        move |[a, b, c, d]: [f32; 4]| top * (left * a + right * b) + bottom * (left * c + right * d)
    })
}

/// As [`upsample2_f32`]; `scale` is scale_in/scale_out, whatever the size. Errors: a map so large that sums overflow.
pub fn upsample2_int8(
    input: Map<i8>,
    zero_in: i32,
    scale: Multiplier,
    place: Output,
    #[cfg_attr(not(kernels = "vnni"), expect(unused_mut))] mut output: MapMut<i8>,
) -> Result<(), Error> {
    let shape = input.shape();
    let denominator = (2 * shape.height - 1).checked_mul(2 * shape.width - 1).filter(|&d| d < (1 << 31) / 256);
    let denominator = denominator.and_then(|d| NonZeroU32::new(d as u32)).ok_or(Error::Unsupported)?;
    let scale = scale.over(denominator);
    #[cfg(kernels = "vnni")]
    if doubles(shape, output.shape())
        && let Some(scale) = HighWord::new(scale, 32)
        && super::simd::x86::upsample2::upsample2(super::level(), &input, zero_in, scale, place, &mut output).is_some()
    {
        return Ok(());
    }
    if let (Some(scale), Some(place)) = (HighWord::new(scale, 32), Int8Place::new(place)) {
        return widest(
            #[inline(always)]
            || blend_int8(input, zero_in, output, |sum| place.place(scale.apply(sum))),
        );
    }
    blend_int8(input, zero_in, output, |sum| i8::narrow(place.place(scale.apply(sum))))
}

/// `finish` makes an int8 value of the exact sum, which is in units of both denominators.
#[cfg_attr(kernels = "vnni", inline(always))]
pub(super) fn blend_int8(
    input: Map<i8>,
    zero: i32,
    output: MapMut<i8>,
    finish: impl Fn(i32) -> i8 + Copy,
) -> Result<(), Error> {
    upsample(input, output, |[top, bottom]: [i32; 2], [left, right]: [i32; 2]| {
        move |taps: [i8; 4]| {
            let [a, b, c, d] = taps.map(|v| i32::from(v).wrapping_sub(zero));
            let (upper, lower) = (
                left.wrapping_mul(a).wrapping_add(right.wrapping_mul(b)),
                left.wrapping_mul(c).wrapping_add(right.wrapping_mul(d)),
            );
            finish(top.wrapping_mul(upper).wrapping_add(bottom.wrapping_mul(lower)))
        }
    })
}

/// An integer weight below 2^16 as the kernel's number.
trait Weight: Copy {
    fn weight(value: usize) -> Self;
}

impl Weight for f32 {
    fn weight(value: usize) -> f32 {
        value as f32
    }
}

impl Weight for i32 {
    fn weight(value: usize) -> i32 {
        value as i32
    }
}

fn doubles(from: Shape, to: Shape) -> bool {
    to.height == 2 * from.height && to.width == 2 * from.width && to.channels == from.channels
}

#[cfg_attr(kernels = "vnni", inline(always))]
fn upsample<T: Copy, W: Weight, F: Fn([T; 4]) -> T>(
    input: Map<T>,
    mut output: MapMut<T>,
    at: impl Fn([W; 2], [W; 2]) -> F,
) -> Result<(), Error> {
    let (from, to) = (input.shape(), output.shape());
    if !doubles(from, to) {
        return Err(Error::Shape);
    }
    let rows = output.rows();
    for (y, (row, top, bottom)) in Axis::new(from.height).enumerate().take(rows.end).skip(rows.start) {
        let upper = input.row(row).ok_or(Error::Shape)?;
        // The last position's right neighbour lies outside and has weight 0.
        let lower = input.row(row + 1).unwrap_or(upper);
        let columns = Axis::new(from.width).take(to.width);
        for ((column, left, right), out) in columns.zip(output.pixels_from_mut(y, 0)) {
            let (Some(a), Some(c)) = (upper.pixel(column), lower.pixel(column)) else { return Err(Error::Shape) };
            let (b, d) = (upper.pixel(column + 1).unwrap_or(a), lower.pixel(column + 1).unwrap_or(c));
            let blend = at([W::weight(top), W::weight(bottom)], [W::weight(left), W::weight(right)]);
            for (((&a, &b), (&c, &d)), out) in a.iter().zip(b).zip(c.iter().zip(d)).zip(out) {
                *out = blend([a, b, c, d]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap, in_bands};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn corners_are_kept_and_thirds_lie_between() {
        // n = 2: sources 0, 1/3, 2/3, 1.
        let input = TestMap::new(|_| [0.0, 3.0, 6.0, 9.0].to_vec(), 2, 2, 1, 0);
        let mut out = TestMap::filled(0f32, 4, 4, 1, 0);
        upsample2_f32(input.map(), out.map_mut()).unwrap();
        for (i, &v) in out.data.iter().enumerate() {
            let exact = 2.0 * (i / 4) as f32 + (i % 4) as f32;
            assert!((v - exact).abs() < 1e-5, "{v} at {i}");
        }
    }

    #[test]
    fn one_pixel_becomes_four_equal_ones() {
        let input = TestMap::filled(42i8, 1, 1, 3, 0);
        let mut out = TestMap::filled(0i8, 2, 2, 3, 0);
        upsample2_int8(input.map(), -5, Multiplier::from_real(1.0).unwrap(), Output::int8(-5, false), out.map_mut())
            .unwrap();
        assert_eq!(out.data, [42; 12]);
    }

    #[test]
    fn a_constant_map_stays_constant_at_any_size() {
        for (h, w) in [(3, 7), (16, 10), (128, 80), (61, 127)] {
            for value in [-128i8, -1, 0, 77, 127] {
                let input = TestMap::filled(value, h, w, 1, 0);
                let mut out = TestMap::filled(0i8, 2 * h, 2 * w, 1, 0);
                let one = Multiplier::from_real(1.0).unwrap();
                upsample2_int8(input.map(), 3, one, Output::int8(3, false), out.map_mut()).unwrap();
                assert!(out.data.iter().all(|&v| v == value), "{h}×{w}, {value}");
            }
        }
    }

    proptest! {
        #[test]
        fn float_is_the_definition(seed: u64, h in 1usize..9, w in 1usize..9, c in 1usize..4, gaps in (0usize..3, 0usize..3)) {
            let input = TestMap::new(|n| Stream(seed).f32s(n), h, w, c, gaps.0);
            let mut out = TestMap::filled(99f32, 2 * h, 2 * w, c, gaps.1);
            upsample2_f32(input.map(), out.map_mut()).unwrap();
            let source = |p: isize, n: usize| p as f64 * (n as f64 - 1.0) / (2.0 * n as f64 - 1.0);
            for (y, x, channel) in (0..4 * h * w * c).map(|i| (i / c / (2 * w), i / c % (2 * w), i % c)) {
                let (sy, sx) = (source(y as isize, h), source(x as isize, w));
                let mut exact = 0.0;
                for iy in 0..h {
                    for ix in 0..w {
                        let weight = (1.0 - (sy - iy as f64).abs()).max(0.0) * (1.0 - (sx - ix as f64).abs()).max(0.0);
                        exact += weight * f64::from(input.at(iy as isize, ix as isize, channel, 0.0));
                    }
                }
                let found = f64::from(out.at(y as isize, x as isize, channel, 0.0));
                prop_assert!((found - exact).abs() < 2e-6, "{} against {} at {},{}", found, exact, y, x);
            }
        }

        /// A rational rounded once: with ratio 1 the result is within half a step (and the multiplier's 2^-30) of it.
        #[test]
        fn int8_is_the_rational_rounded_once(seed: u64, h in 1usize..9, band in 1usize..9, w in 1usize..9,
            c in prop_oneof![1usize..4, Just(8), Just(16), Just(32)],
            gaps in (0usize..3, 0usize..3), zeros in [-128i32..=127, -128i32..=127], factor in 0.01f64..2.0) {
            let input = TestMap::new(|n| Stream(seed).i8s(n), h, w, c, gaps.0);
            let mut out = TestMap::filled(99i8, 2 * h, 2 * w, c, gaps.1);
            let scale = Multiplier::from_real(factor).unwrap();
            let place = Output::int8(zeros[1], false);
            in_bands(&[&input], &mut out, band, |rows| (rows.start - 1) / 2..rows.end / 2 + 1, |maps, out| {
                upsample2_int8(maps[0], zeros[0], scale, place, out).unwrap();
            });
            let weight = |p: usize, n: usize, i: usize| {
                // Tent of half-width D around the source p(n−1), both in units of 1/D.
                let d = 2 * n as i64 - 1;
                (d - (p as i64 * (n as i64 - 1) - i as i64 * d).abs()).max(0)
            };
            let denominator = (2 * h as i64 - 1) * (2 * w as i64 - 1);
            for (y, x, channel) in (0..4 * h * w * c).map(|i| (i / c / (2 * w), i / c % (2 * w), i % c)) {
                let sum: i64 = (0..h * w).map(|i| {
                    let value = i64::from(input.at((i / w) as isize, (i % w) as isize, channel, 0)) - i64::from(zeros[0]);
                    weight(y, h, i / w) * weight(x, w, i % w) * value
                }).sum();
                let exact = f64::from(zeros[1]) + sum as f64 / denominator as f64 * scale.to_real();
                let found = f64::from(out.at(y as isize, x as isize, channel, 0));
                prop_assert!((found - exact.clamp(-128.0, 127.0)).abs() <= 0.5 + 1e-6, "{} for {}", found, exact);
            }
        }
    }
}
