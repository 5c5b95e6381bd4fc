//! Squeeze-and-excite: out = x · σ(E · ReLU(R · mean(x))), R `[hidden, C]`, E `[C, hidden]`, no biases.
//!
//! Int8: the channel sums are exact; the mean is in 1/[`MEAN_STEPS`] of an input step (int16), the hidden layer int16
//! with a scale of its own, the gate's logit in sixteenths, σ in Q0.15. Each of these is rounded once.

use super::feature_map::{Chunks, ChunksMut, chunks};
use super::rescale::{HighWord, Int8Place};
use super::sigmoid::{gate, sigmoid_f32};
use super::{Map, MapMut, widest};
use crate::Error;
use crate::quant::{Multiplier, Output, Quantised};
use core::num::NonZeroU32;

/// Steps of the int8 engine's channel mean per step of the input.
pub const MEAN_STEPS: u32 = 64;
/// Most channels, and with them most taps, of which no int32 sum overflows: 512·127·2^15 < 2^31.
pub const MAX_CHANNELS: usize = 512;
/// Most pixels whose int32 sum cannot overflow: 2^23·255 < 2^31.
pub const MAX_PIXELS: usize = 1 << 23;

/// Working memory in 32-bit words, for both engines.
pub const fn scratch_len(channels: usize, hidden: usize) -> usize {
    2 * channels + hidden
}

/// `reduce` `[hidden, C]`, `expand` `[C, hidden]`. Errors: shapes that do not fit each other, views that do not hold all rows.
pub fn squeeze_excite_f32(
    input: Map<f32>,
    reduce: &[f32],
    expand: &[f32],
    scratch: &mut [f32],
    mut output: MapMut<f32>,
) -> Result<(), Error> {
    let channels = input.shape().channels;
    let hidden = hidden(&input, &output, reduce.len(), expand.len())?;
    let [means, row, hidden] = split(scratch, channels, hidden)?;
    means.fill(0.0);
    for y in 0..input.shape().height {
        // Row by row, so that a long sum does not swallow its addends.
        row.fill(0.0);
        for pixel in input.row(y).ok_or(Error::Shape)?.pixels() {
            row.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
        }
        means.iter_mut().zip(row.iter()).for_each(|(sum, x)| *sum += x);
    }
    let pixels = input.shape().pixels() as f32;
    means.iter_mut().for_each(|sum| *sum /= pixels);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for (out, weights) in hidden.iter_mut().zip(chunks(reduce, channels)) {
        *out = dot(weights, means).max(0.0);
    }
    let gates = row;
    for (out, weights) in gates.iter_mut().zip(chunks(expand, hidden.len())) {
        *out = sigmoid_f32(dot(weights, hidden));
    }
    for (pixel, out) in input.pixels().zip(output.pixels_mut()) {
        for ((out, x), gate) in out.iter_mut().zip(pixel).zip(gates.iter()) {
            *out = x * gate;
        }
    }
    Ok(())
}

/// The int8 layer's parameters.
#[derive(Debug, Clone, Copy)]
pub struct SqueezeExciteInt8<'a> {
    /// `[hidden, C]`, a scale for each row.
    pub reduce: &'a [i8],
    /// Per row of `reduce`: scale_in·scale_weight/([`MEAN_STEPS`]·scale_hidden).
    pub hidden: &'a [Multiplier],
    /// `[C, hidden]`, a scale for each row.
    pub expand: &'a [i8],
    /// Per row of `expand`: scale_hidden·scale_weight·16.
    pub gates: &'a [Multiplier],
    /// scale_in/(scale_out·2^15).
    pub output: Multiplier,
}

/// As [`squeeze_excite_f32`].
pub fn squeeze_excite_int8(
    input: Map<i8>,
    zero_in: i32,
    layer: &SqueezeExciteInt8,
    place: Output,
    scratch: &mut [i32],
    mut output: MapMut<i8>,
) -> Result<(), Error> {
    let channels = input.shape().channels;
    let width = hidden(&input, &output, layer.reduce.len(), layer.expand.len())?;
    for (found, expected) in [(layer.hidden.len(), width), (layer.gates.len(), channels)] {
        if found != expected {
            return Err(Error::WrongLength { expected, found });
        }
    }
    let [means, gates, hidden] = split(scratch, channels, width)?;
    means.fill(0);
    let dense = cfg!(kernels = "vnni") && LANES.is_multiple_of(channels.max(1));
    if let (true, Some(data)) = (dense, input.dense()) {
        widest(
            #[inline(always)]
            || sum_lanes(data, zero_in, means),
        );
    } else {
        for pixel in input.pixels() {
            means
                .iter_mut()
                .zip(pixel)
                .for_each(|(sum, &x)| *sum = sum.wrapping_add(i32::from(x).wrapping_sub(zero_in)));
        }
    }
    let pixels = NonZeroU32::new(input.shape().pixels() as u32).ok_or(Error::Shape)?;
    let mean = Multiplier { m: (MEAN_STEPS << 24) as i32, shift: 24 }.over(pixels);
    means.iter_mut().for_each(|sum| *sum = mean.apply(*sum) as i32);

    let dot = |weights: &[i8], values: &[i32]| {
        weights.iter().zip(values).fold(0i32, |sum, (&w, &v)| sum.wrapping_add(i32::from(w).wrapping_mul(v)))
    };
    let rows = chunks(layer.reduce, channels).zip(layer.hidden);
    for (out, (weights, scale)) in hidden.iter_mut().zip(rows) {
        *out = scale.apply(dot(weights, means)).max(0).min(i64::from(i16::MAX)) as i32;
    }
    let rows = chunks(layer.expand, width).zip(layer.gates);
    for (out, (weights, scale)) in gates.iter_mut().zip(rows) {
        *out = gate(scale.apply(dot(weights, hidden)));
    }
    if let (true, Some(data), Some(out), Some(scale), Some(place)) =
        (dense, input.dense(), output.dense_mut(), HighWord::new(layer.output, 32), Int8Place::new(place))
    {
        widest(
            #[inline(always)]
            || gate_lanes(data, zero_in, gates, out, |product| place.place(scale.apply(product))),
        );
        return Ok(());
    }
    let (input, output) = (input.pixels(), output.pixels_mut());
    if let (Some(scale), Some(place)) = (HighWord::new(layer.output, 32), Int8Place::new(place)) {
        gate_pixels(input, zero_in, gates, output, |product| place.place(scale.apply(product)));
    } else {
        gate_pixels(input, zero_in, gates, output, |product| i8::narrow(place.place(layer.output.apply(product))));
    }
    Ok(())
}

/// Bytes of dense maps that x86-64 takes at one time: whole pixels, where the channels divide it.
const LANES: usize = 64;

/// Adds the values of a dense map, less the zero point, to the sums of their channels, which divide [`LANES`].
#[inline(always)]
fn sum_lanes(data: &[i8], zero: i32, sums: &mut [i32]) {
    let (blocks, rest) = data.as_chunks::<LANES>();
    let mut lanes = [0i32; LANES];
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(sum, &x)| *sum = sum.wrapping_add(i32::from(x).wrapping_sub(zero)));
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, &x)| *sum = sum.wrapping_add(i32::from(x).wrapping_sub(zero)));
    for pixel in chunks(&lanes, sums.len()) {
        sums.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum = sum.wrapping_add(x));
    }
}

/// As [`gate_pixels`] for dense maps whose channels divide [`LANES`].
#[inline(always)]
fn gate_lanes(data: &[i8], zero: i32, gates: &[i32], out: &mut [i8], finish: impl Fn(i32) -> i8) {
    let mut lanes = [0; LANES];
    lanes.iter_mut().zip(gates.iter().cycle()).for_each(|(lane, &gate)| *lane = gate);
    let ((blocks, rest), (to, to_rest)) = (data.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (to, block) in to.iter_mut().zip(blocks) {
        for ((out, &x), &gate) in to.iter_mut().zip(block).zip(&lanes) {
            *out = finish(i32::from(x).wrapping_sub(zero).wrapping_mul(gate));
        }
    }
    for ((out, &x), &gate) in to_rest.iter_mut().zip(rest).zip(&lanes) {
        *out = finish(i32::from(x).wrapping_sub(zero).wrapping_mul(gate));
    }
}

/// `finish` makes an int8 value of each product with its channel's gate.
fn gate_pixels(input: Chunks<i8>, zero: i32, gates: &[i32], output: ChunksMut<i8>, finish: impl Fn(i32) -> i8) {
    for (pixel, out) in input.zip(output) {
        for ((out, &x), &gate) in out.iter_mut().zip(pixel).zip(gates) {
            *out = finish(i32::from(x).wrapping_sub(zero).wrapping_mul(gate));
        }
    }
}

/// The width of the bottleneck, from the lengths of the matrices.
fn hidden<T: Copy>(input: &Map<T>, output: &MapMut<T>, reduce: usize, expand: usize) -> Result<usize, Error> {
    let shape = input.shape();
    if !shape.same_size(&output.shape()) || !input.is_whole() || !output.as_map().is_whole() {
        return Err(Error::Shape);
    }
    if shape.channels > MAX_CHANNELS || reduce > shape.channels * shape.channels || shape.pixels() > MAX_PIXELS {
        return Err(Error::Unsupported);
    }
    let hidden = reduce / shape.channels.max(1);
    if hidden == 0 || hidden * shape.channels != reduce || reduce != expand {
        return Err(Error::WrongLength { expected: hidden.max(1) * shape.channels, found: expand });
    }
    Ok(hidden)
}

fn split<T>(scratch: &mut [T], channels: usize, hidden: usize) -> Result<[&mut [T]; 3], Error> {
    let short = Error::WrongLength { expected: scratch_len(channels, hidden), found: scratch.len() };
    let (first, rest) = scratch.split_at_mut_checked(channels).ok_or(short)?;
    let (second, rest) = rest.split_at_mut_checked(channels).ok_or(short)?;
    Ok([first, second, rest.get_mut(..hidden).ok_or(short)?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap};
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::{vec, vec::Vec};

    #[test]
    fn a_hand_worked_gate() {
        // Means 2 and −1; hidden = ReLU(2 − 1·(−1)·…): R = [1, 1] → 1; E = [0, ln 3] → gates ½ and ¾.
        let input = TestMap::new(|_| vec![1.0, -3.0, 3.0, 1.0], 1, 2, 2, 0);
        let mut out = TestMap::filled(0f32, 1, 2, 2, 0);
        let expand = [0.0, 3f32.ln()];
        squeeze_excite_f32(input.map(), &[1.0, 1.0], &expand, &mut [9.0; 5], out.map_mut()).unwrap();
        for (found, exact) in out.data.iter().zip([0.5, -2.25, 1.5, 0.75]) {
            assert!((found - exact).abs() < 1e-6, "{found} for {exact}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let input = TestMap::filled(0f32, 1, 2, 4, 0);
        let mut out = input.clone();
        let mut run = |reduce: usize, expand: usize, scratch: usize| {
            let mut scratch = vec![0.0; scratch];
            squeeze_excite_f32(input.map(), &vec![0.0; reduce], &vec![0.0; expand], &mut scratch, out.map_mut())
        };
        assert_eq!(run(4, 4, 9), Ok(()));
        assert_eq!(run(4, 4, 8), Err(Error::WrongLength { expected: 9, found: 8 }));
        assert!(run(4, 8, 64).is_err() && run(3, 3, 64).is_err() && run(0, 0, 64).is_err() && run(20, 20, 64).is_err());
    }

    proptest! {
        #[test]
        fn int8_is_the_contract(seed: u64, h in 1usize..9, w in 1usize..9, c in prop_oneof![4usize..20, Just(8), Just(16), Just(64)], gaps in (0usize..3, 0usize..3),
            zeros in [-128i32..=127, -128i32..=127]) {
            let mut stream = Stream(seed);
            let input = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let width = c / 4;
            let (reduce, expand) = (stream.weights(width * c), stream.weights(c * width));
            let real = |n: usize, base: f64| -> Vec<Multiplier> {
                (0..n).map(|i| Multiplier::from_real(base * (1.0 + i as f64 / 7.0)).unwrap()).collect()
            };
            let (hidden, gates) = (real(width, 0.01), real(c, 2e-5));
            let output = Multiplier::from_real(1.5 / 32768.0).unwrap();
            let layer = SqueezeExciteInt8 { reduce: &reduce, hidden: &hidden, expand: &expand, gates: &gates, output };
            let mut out = TestMap::filled(99i8, h, w, c, gaps.1);
            let mut scratch = vec![9; scratch_len(c, width)];
            squeeze_excite_int8(input.map(), zeros[0], &layer, Output::int8(zeros[1], false), &mut scratch, out.map_mut()).unwrap();

            let round = |numerator: i128, m: &Multiplier| (2 * numerator * i128::from(m.m) + (1 << m.shift)).div_euclid(2 << m.shift);
            let pixels = (0..h * w).map(|i| ((i / w) as isize, (i % w) as isize));
            let mean = Multiplier::from_real(64.0 / (h * w) as f64).unwrap();
            let means: Vec<i128> = (0..c).map(|channel| {
                let sum: i128 = pixels.clone().map(|(y, x)| i128::from(input.at(y, x, channel, 0)) - i128::from(zeros[0])).sum();
                // Within one step of the exact mean, and what a correctly rounded multiplier gives but for its last bit.
                assert!((round(sum, &mean) as f64 - sum as f64 * 64.0 / (h * w) as f64).abs() <= 0.5001);
                round(sum, &mean)
            }).collect();
            let dot = |w: &[i8], v: &[i128]| w.iter().zip(v).map(|(&w, v)| i128::from(w) * v).sum::<i128>();
            let hidden: Vec<i128> = (0..width).map(|r| round(dot(&reduce[r * c..(r + 1) * c], &means), &hidden[r]).clamp(0, 32767)).collect();
            out.assert_is(99, |y, x, channel| {
                let logit = round(dot(&expand[channel * width..(channel + 1) * width], &hidden), &gates[channel]).clamp(-128, 127);
                let sigma = (32768.0 / (1.0 + (-(logit as f64) / 16.0).exp())).round() as i128;
                let product = (i128::from(input.at(y, x, channel, 0)) - i128::from(zeros[0])) * sigma;
                (i128::from(zeros[1]) + round(product, &output)).clamp(-128, 127) as i8
            });
        }
    }
}
