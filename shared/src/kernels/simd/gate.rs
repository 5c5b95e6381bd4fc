//! The float spatial gate over the inner loops of [`super::fma`].
//!
//! A band is a lane: the statistics of a strip of pixels are held as two maps of four channels, maxima and means, of which
//! the 7×7 convs are one depthwise conv each. The strip goes down the map, the last rows of statistics with it.

use super::fma::{GATE_KERNEL, Gate, Isa, QUAD_PIXELS, ROWS};
use crate::Error;
use crate::kernels::sigmoid::sigmoid_f32;
use crate::kernels::{Map, MapMut};

/// Pixels of a row of a strip, and rows that are gated together.
const WIDE: usize = 4 * QUAD_PIXELS;
const HIGH: usize = 2 * ROWS;
/// Reach of the window, and rows and pixels of statistics.
const REACH: usize = GATE_KERNEL / 2;
const STAT_ROWS: usize = HIGH + 2 * REACH;
const STAT_ROW: usize = 4 * (WIDE + 2 * REACH);

/// The four bands of one pixel.
type Bands = [f32; 4];
type StatRow = [Bands; WIDE + 2 * REACH];

/// The whole map, whose shapes have been checked; `false`, and nothing written, where the processor has not the
/// instructions or the channels do not come in fours. Per band: weights `[maximum, mean][ky][kx]`, and a bias.
pub fn gate(input: &Map<f32>, weights: [&[f32]; 4], bias: Bands, output: &mut MapMut<f32>) -> Result<bool, Error> {
    let Some(isa) = Isa::detect() else { return Ok(false) };
    gate_over(isa, input, weights, bias, output)
}

fn gate_over(
    isa: Isa,
    input: &Map<f32>,
    weights: [&[f32]; 4],
    bias: Bands,
    output: &mut MapMut<f32>,
) -> Result<bool, Error> {
    let shape = input.shape();
    if !shape.channels.is_multiple_of(4) {
        return Ok(false);
    }
    let weights = arrange(weights);
    let mut planes = [[[[0.0; 4]; WIDE + 2 * REACH]; STAT_ROWS]; 2];
    let mut logits = [[0.0; 4]; ROWS * WIDE];
    for x in (0..shape.width).step_by(WIDE) {
        let count = WIDE.min(shape.width - x);
        for y in (0..shape.height).step_by(HIGH) {
            // Rows of statistics begin REACH above the first output row; all but HIGH of them are there already.
            let there = if y == 0 { 0 } else { STAT_ROWS - HIGH };
            for plane in &mut planes {
                plane.copy_within(HIGH.., 0);
            }
            for r in there..STAT_ROWS {
                let [maxima, means] = &mut planes;
                let (Some(maxima), Some(means)) = (maxima.get_mut(r), means.get_mut(r)) else {
                    return Err(Error::Unsupported);
                };
                statistics(input, (y + r).checked_sub(REACH), x, maxima, means);
            }
            for part in (0..HIGH.min(shape.height - y)).step_by(ROWS) {
                let flat = planes.as_flattened().as_flattened().as_flattened();
                let run = Gate {
                    planes: flat.get(part * STAT_ROW..).unwrap_or_default(),
                    plane: STAT_ROWS * STAT_ROW,
                    row: STAT_ROW,
                    weights: &weights,
                    bias,
                    count,
                    out_row: 4 * WIDE,
                };
                run.run(isa, logits.as_flattened_mut());
                for value in logits.as_flattened_mut() {
                    *value = sigmoid_f32(*value);
                }
                for (y, gates) in (y + part..shape.height).zip(logits.chunks(WIDE)) {
                    let pixels = input.row(y).into_iter().flat_map(|row| row.pixels().skip(x));
                    for ((gates, pixel), out) in gates.iter().zip(pixels).zip(output.pixels_from_mut(y, x)).take(count)
                    {
                        let gate: f32 = gates.iter().sum();
                        let (fours, to_fours) = (pixel.as_chunks::<4>().0, out.as_chunks_mut::<4>().0);
                        for (out, x) in to_fours.iter_mut().zip(fours) {
                            *out = x.map(|x| x * gate);
                        }
                    }
                }
            }
        }
    }
    Ok(true)
}

/// The weights in the order of use: `[maximum, mean][kx][ky][band]`.
fn arrange(weights: [&[f32]; 4]) -> [Bands; 2 * GATE_KERNEL * GATE_KERNEL] {
    core::array::from_fn(|i| {
        let (plane, kx, ky) = (i / (GATE_KERNEL * GATE_KERNEL), i / GATE_KERNEL % GATE_KERNEL, i % GATE_KERNEL);
        weights.map(|band| band.get((plane * GATE_KERNEL + ky) * GATE_KERNEL + kx).map_or(0.0, |w| *w))
    })
}

/// Maximum and mean of the bands over the channels, for the pixels from `REACH` left of `x` on; zero outside the map.
fn statistics(input: &Map<f32>, y: Option<usize>, x: usize, maxima: &mut StatRow, means: &mut StatRow) {
    maxima.fill([0.0; 4]);
    means.fill([0.0; 4]);
    let shape = input.shape();
    let Some((y, here)) = y.and_then(|y| Some((y, input.row(y)?))) else { return };
    let above = input.row(y.wrapping_sub(1));
    let first = x.saturating_sub(REACH);
    let pixel = |row: &Option<_>, x: usize| {
        row.as_ref().and_then(|row: &crate::kernels::feature_map::Row<'_, f32>| row.pixel(x)).unwrap_or_default()
    };
    let here = Some(here);
    let places = maxima.iter_mut().zip(means.iter_mut()).skip((first + REACH).saturating_sub(x));
    let half = 0.5 / shape.channels as f32;
    let left = first.wrapping_sub(1);
    let (mut a, mut c) = (pixel(&above, left), pixel(&here, left));
    for (x, (maximum, mean)) in (first..shape.width).zip(places) {
        let (b, d) = (pixel(&above, x), pixel(&here, x));
        let [max, sum] = square([a, b, c, d]);
        (*maximum, *mean) = (max.map(|v| 0.5 * v), sum.map(|v| half * v));
        (a, c) = (b, d);
    }
}

/// Maximum and sum over the channels of twice the bands; a pixel that is not there is zero.
#[inline(always)]
fn square(pixels: [&[f32]; 4]) -> [Bands; 2] {
    let [a, b, c, d] = pixels.map(|pixel| pixel.as_chunks::<4>().0);
    let (mut max, mut sum) = ([[f32::NEG_INFINITY; 4]; 4], [[0.0; 4]; 4]);
    for (i, d) in d.iter().enumerate() {
        let [a, b, c] = [a, b, c].map(|pixel| pixel.get(i).copied().unwrap_or_default());
        let (top, bottom) = (add(a, b), add(c, *d));
        let (fall, rise) = (sub(a, b), sub(c, *d));
        let bands = [sub(top, bottom), add(fall, rise), sub(fall, rise), add(top, bottom)];
        for ((max, sum), band) in max.iter_mut().zip(&mut sum).zip(bands) {
            *max = larger(*max, band);
            *sum = add(*sum, band);
        }
    }
    let ([e, f, g, h], [i, j, k, l]) = (turned(max), turned(sum));
    [larger(larger(e, f), larger(g, h)), add(add(i, j), add(k, l))]
}

fn turned(rows: [Bands; 4]) -> [Bands; 4] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = rows;
    [[a, e, i, m], [b, f, j, n], [c, g, k, o], [d, h, l, p]]
}

#[inline(always)]
fn zip([a, b, c, d]: Bands, [e, f, g, h]: Bands, of: impl Fn(f32, f32) -> f32) -> Bands {
    [of(a, e), of(b, f), of(c, g), of(d, h)]
}

#[inline(always)]
fn add(a: Bands, b: Bands) -> Bands {
    zip(a, b, |a, b| a + b)
}

#[inline(always)]
fn sub(a: Bands, b: Bands) -> Bands {
    zip(a, b, |a, b| a - b)
}

#[inline(always)]
fn larger(a: Bands, b: Bands) -> Bands {
    zip(a, b, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::super::float::tests::forms;
    use super::*;
    use crate::kernels::spatial_gate::{BAND_WEIGHTS, scratch_len, sweep_f32};
    use crate::kernels::testing::{Stream, TestMap};
    use proptest::prelude::*;
    extern crate std;
    use std::{vec, vec::Vec};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_form_is_the_plain_gate_and_the_bits_of_its_model(seed: u64, h in 1usize..30, w in 1usize..150,
            fours in 1usize..5, gaps in (0usize..3, 0usize..3)) {
            let mut stream = Stream(seed);
            let input = TestMap::new(|n| stream.reals(n), h, w, 4 * fours, gaps.0);
            let weights: Vec<f32> = stream.reals(4 * BAND_WEIGHTS).iter().map(|w| 0.5 * w).collect();
            let weights: [&[f32]; 4] = core::array::from_fn(|b| &weights[b * BAND_WEIGHTS..][..BAND_WEIGHTS]);
            let bias = core::array::from_fn(|_| stream.reals(1)[0]);
            let mut plain = TestMap::filled(99f32, h, w, 4 * fours, gaps.1);
            let mut scratch = vec![7.0; scratch_len(w)];
            sweep_f32(input.map(), weights, bias, &mut scratch, plain.map_mut()).unwrap();
            let run = |isa| {
                let mut out = TestMap::filled(99f32, h, w, 4 * fours, gaps.1);
                assert_eq!(gate_over(isa, &input.map(), weights, bias, &mut out.map_mut()), Ok(true));
                out.data
            };
            for (isa, model) in forms() {
                let out = run(isa);
                prop_assert!(isa == model || out == run(model), "{:?} differs from {:?}", isa, model);
                for (found, exact) in out.iter().zip(&plain.data) {
                    prop_assert!((found - exact).abs() <= 2e-5, "{} for {}", found, exact);
                }
            }
        }
    }
}
