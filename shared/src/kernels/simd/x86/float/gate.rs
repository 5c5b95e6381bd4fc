//! The float spatial gate over the inner loops of [`super::fma`].
//!
//! A band is a lane: the statistics of a strip of pixels are held as two maps of four channels, maxima and means, of which
//! the 7×7 convs are one depthwise conv each. The strip goes down the map, the last rows of statistics with it.

use super::copy;
use super::fma::{GATE_KERNEL, Gate, Isa, QUAD_PIXELS, ROWS, Statistics};
use crate::Error;
use crate::kernels::sigmoid::sigmoid_f32;
use crate::kernels::{Map, MapMut};

/// Pixels of a row of a strip, and rows that are gated together.
const WIDE: usize = 4 * QUAD_PIXELS;
const HIGH: usize = 2 * ROWS;
/// Reach of the window, and rows and pixels of statistics.
const REACH: usize = GATE_KERNEL / 2;
const STAT_ROWS: usize = HIGH + 2 * REACH;
const STAT_PIXELS: usize = (WIDE + 2 * REACH).next_multiple_of(4);
const STAT_ROW: usize = 4 * STAT_PIXELS;
/// Most blocks of four channels.
const BLOCKS: usize = 16;

/// The four bands of one pixel.
type Bands = [f32; 4];
type StatRow = [Bands; STAT_PIXELS];
/// The pixels of a row of statistics and the one before them, block by block of channels.
type Row = [[Bands; STAT_PIXELS + 1]; BLOCKS];

/// The whole map, whose shapes have been checked; `false`, and nothing written, where the processor has not the
/// instructions or the channels do not come in fours, at most 16 of them. Per band: weights `[maximum, mean][ky][kx]`, and a bias.
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
    if !shape.channels.is_multiple_of(4) || shape.channels > 4 * BLOCKS {
        return Ok(false);
    }
    let weights = arrange(weights);
    let mut planes = [[[[0.0; 4]; STAT_PIXELS]; STAT_ROWS]; 2];
    let [mut above, mut here] = [[[[0.0; 4]; STAT_PIXELS + 1]; BLOCKS]; 2];
    let mut rows = [&mut above, &mut here];
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
                statistics(isa, input, (y + r).checked_sub(REACH), x, &mut rows, [maxima, means]);
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

/// Maximum and mean of the bands over the channels, for the pixels from `REACH` left of `x` on; zero outside the map. Rows
/// come one after the other: `rows` holds the one before `y`, and then `y`.
fn statistics(isa: Isa, input: &Map<f32>, y: Option<usize>, x: usize, rows: &mut [&mut Row; 2], to: [&mut StatRow; 2]) {
    let (shape, [maxima, means]) = (input.shape(), to);
    let Some((y, row)) = y.and_then(|y| Some((y, input.row(y)?))) else {
        maxima.fill([0.0; 4]);
        means.fill([0.0; 4]);
        return;
    };
    rows.swap(0, 1);
    let [above, here] = rows;
    if y == 0 {
        above.as_flattened_mut().fill([0.0; 4]);
    }
    // Place i is pixel x + i − REACH − 1.
    let before = (REACH + 1).saturating_sub(x);
    let within = (shape.width + REACH + 1).saturating_sub(x).min(STAT_PIXELS + 1);
    let from = row.from((x + before).saturating_sub(REACH + 1));
    let blocks = shape.channels / 4;
    for (block, here) in here.iter_mut().enumerate().take(blocks) {
        here.fill([0.0; 4]);
        let here = here.get_mut(before..within).unwrap_or_default();
        copy(from.get(4 * block..).unwrap_or_default(), shape.stride, 4, here);
    }
    let block = 4 * (STAT_PIXELS + 1);
    let rows = [&**above, &**here].map(|row| row.as_flattened().as_flattened());
    let run = Statistics { rows, block, blocks, count: STAT_PIXELS };
    run.run(isa, maxima.as_flattened_mut(), means.as_flattened_mut());
    let beyond = (shape.width + REACH).saturating_sub(x);
    for statistics in [maxima, means] {
        statistics.get_mut(beyond..).unwrap_or_default().fill([0.0; 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::forms;
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
            fours in prop_oneof![1usize..5, Just(16)], gaps in (0usize..3, 0usize..3)) {
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
