//! The spatial gate of FrequencyAttention: out = x · Σ_b σ(conv7×7([max_c D_b; mean_c D_b])), b = LH, HL, HH, LL.
//!
//! D_b is the stride-1 Haar band of x, zero beyond the left and upper border (see [`super::haar`]); the 7×7 conv has
//! `same` zero padding and a bias. Only seven rows of the eight statistics are held: rows of statistics enter a ring,
//! and an output row is finished as soon as the three below it are in. Inside the ring a column's seven rows are
//! neighbours, so a 7×7 patch is 49 contiguous taps and the weights are turned, not the ring.
//!
//! Int8: the statistics are exact int16, without calibration: the maximum in half steps of the input, the mean in
//! 1/[`MEAN_STEPS`] of half steps, both relative to the zero point. The two weight planes of a band have a scale each;
//! their sums meet in one rounding at sixteenths of a logit ([`GateBand`]), σ is Q0.15, the sum of four is exact.

use super::dot::Tap;
use super::feature_map::{chunks, chunks_mut};
use super::haar::doubled_bands;
use super::rescale::{HighWord, Int8Place, round_shift};
use super::sigmoid::{gate, gate_int8, sigmoid_f32};
use super::{Map, MapMut, widest};
use crate::Error;
use crate::quant::{GateBand, Multiplier, Output, Quantised};
use core::num::NonZeroU32;
use core::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// Steps of the int8 engine's channel mean per half step of the input.
pub const MEAN_STEPS: u32 = 16;
/// Most channels of a gated map.
pub const MAX_CHANNELS: usize = 256;
/// Weights of one band: `[maximum, mean][ky][kx]`.
pub const BAND_WEIGHTS: usize = 2 * PATCH;
/// Float parameters of all bands.
pub const PARAMETERS: usize = 4 * (BAND_WEIGHTS + 1);

/// Side of the window.
const SIDE: usize = 7;
const REACH: usize = SIDE / 2;
const PATCH: usize = SIDE * SIDE;
/// [`PATCH`] in whole vectors; the lanes beyond it have weight zero.
const PADDED: usize = PATCH.next_multiple_of(16);
/// Pixels whose sums are held at one time.
const RUN: usize = 32;
/// Elements of the working memory that a sum takes: it is an int32 where they are int16.
const SUM_ELEMENTS: usize = 2;
/// Maximum and mean of four bands.
const PLANES: usize = 8;

/// Working memory for maps of this width, in elements (f32, or int16 in the int8 engine).
pub const fn scratch_len(width: usize) -> usize {
    PLANES * (plane_len(width) + PADDED + SUM_ELEMENTS * RUN)
}

const fn plane_len(width: usize) -> usize {
    width * SIDE + PADDED
}

/// `parameters`: for each band its weights `[maximum, mean][ky][kx]`, then its bias. Errors: shapes that do not fit,
/// views that do not hold all rows.
pub fn spatial_gate_f32(
    input: Map<f32>,
    parameters: &[f32],
    scratch: &mut [f32],
    #[cfg_attr(not(kernels = "vnni"), expect(unused_mut))] mut output: MapMut<f32>,
) -> Result<(), Error> {
    check(&input, &output)?;
    if !output.as_map().is_whole() {
        return Err(Error::Shape);
    }
    let (weights, bias) = bands_f32(parameters)?;
    #[cfg(kernels = "vnni")]
    if super::simd::x86::float::gate::gate(&input, weights, bias, &mut output)? {
        return Ok(());
    }
    sweep_f32(input, weights, bias, scratch, output)
}

/// As [`spatial_gate_f32`], in plain Rust.
pub(super) fn sweep_f32(
    input: Map<f32>,
    weights: [&[f32]; 4],
    bias: [f32; 4],
    scratch: &mut [f32],
    mut output: MapMut<f32>,
) -> Result<(), Error> {
    let rows = output.rows();
    sweep(input, 0.0, rows, weights, scratch, statistics_f32, |y, x, pixel, sums| {
        let sum: f32 = sums.iter().zip(bias).map(|([max, mean], bias)| sigmoid_f32(max + mean + bias)).sum();
        for (out, x) in output.pixels_from_mut(y, x).next().into_iter().flatten().zip(pixel) {
            *out = x * sum;
        }
    })
}

/// σ of one band at every pixel, `output` with one channel: what the gate adds up, for inspection.
pub fn band_gate_f32(
    input: Map<f32>,
    parameters: &[f32],
    band: usize,
    scratch: &mut [f32],
    mut output: MapMut<f32>,
) -> Result<(), Error> {
    let (from, to) = (input.shape(), output.shape());
    if (from.height, from.width, 1) != (to.height, to.width, to.channels) || !input.is_whole() {
        return Err(Error::Shape);
    }
    let (weights, bias) = bands_f32(parameters)?;
    let (bias, rows) = (bias.get(band).copied().ok_or(Error::Shape)?, output.rows());
    sweep(input, 0.0, rows, weights, scratch, statistics_f32, |y, x, _, sums| {
        let out = output.pixels_from_mut(y, x).next().and_then(|p| p.first_mut());
        if let (Some(out), Some([max, mean])) = (out, sums.get(band)) {
            *out = sigmoid_f32(max + mean + bias);
        }
    })
}

/// The weights and biases of the four bands.
fn bands_f32(parameters: &[f32]) -> Result<([&[f32]; 4], [f32; 4]), Error> {
    let wrong = Error::WrongLength { expected: PARAMETERS, found: parameters.len() };
    let (bands, []) = parameters.as_chunks::<{ BAND_WEIGHTS + 1 }>() else { return Err(wrong) };
    let bands: &[[f32; BAND_WEIGHTS + 1]; 4] = bands.try_into().map_err(|_| wrong)?;
    Ok((bands.each_ref().map(|[weights @ .., _]| weights.as_slice()), bands.each_ref().map(|[.., bias]| *bias)))
}

/// As [`spatial_gate_f32`], with `weights` `[band][maximum, mean][ky][kx]`; `scale` is scale_in/(scale_out·2^15). The
/// output may hold some rows only; the input must hold all.
#[expect(clippy::too_many_arguments, reason = "the parameters of one layer, as the model image holds them")]
pub fn spatial_gate_int8(
    input: Map<i8>,
    zero_in: i8,
    weights: &[i8],
    bands: &[GateBand],
    scale: Multiplier,
    place: Output,
    scratch: &mut [i16],
    #[cfg_attr(not(kernels = "vnni"), expect(unused_mut))] mut output: MapMut<i8>,
) -> Result<(), Error> {
    check(&input, &output)?;
    let (expected, found) = (scratch_len(input.shape().width), scratch.len());
    if found < expected {
        return Err(Error::WrongLength { expected, found });
    }
    let layer = Int8Layer::new(zero_in, weights, bands, input.shape().channels)?;
    #[cfg(kernels = "vnni")]
    if let Some(gate) = super::simd::x86::gate::Gate::new(super::level(), &layer, input.shape().channels, scale, place)
    {
        return gate.run(&input, &mut output).ok_or(Error::Shape);
    }
    layer.plain(input, scale, place, scratch, output)
}

/// The numbers of a layer but for those of its output.
pub(super) struct Int8Layer<'a> {
    pub zero: i8,
    pub weights: [&'a [i8]; 4],
    pub bands: &'a [GateBand; 4],
    /// Makes a mean of a sum over the channels.
    pub mean: HighWord,
}

impl<'a> Int8Layer<'a> {
    pub fn new(zero: i8, weights: &'a [i8], bands: &'a [GateBand], channels: usize) -> Result<Self, Error> {
        let bands = bands.try_into().map_err(|_| Error::WrongLength { expected: 4, found: bands.len() })?;
        let wrong = Error::WrongLength { expected: 4 * BAND_WEIGHTS, found: weights.len() };
        let (weights, []) = weights.as_chunks::<BAND_WEIGHTS>() else { return Err(wrong) };
        let weights: &[[i8; BAND_WEIGHTS]; 4] = weights.try_into().map_err(|_| wrong)?;
        let channels = NonZeroU32::new(channels as u32).ok_or(Error::Shape)?;
        let mean = Multiplier { m: (MEAN_STEPS << 26) as i32, shift: 26 }.over(channels);
        // Twice a band is at most 1020 in magnitude, and channels are at most 2^8.
        let mean = HighWord::new(mean, 18).ok_or(Error::Unsupported)?;
        Ok(Int8Layer { zero, weights: weights.each_ref().map(|band| band.as_slice()), bands, mean })
    }

    pub fn plain(
        &self,
        input: Map<i8>,
        scale: Multiplier,
        place: Output,
        scratch: &mut [i16],
        output: MapMut<i8>,
    ) -> Result<(), Error> {
        // One walk for both: a second would take its share of a small core's stack and flash.
        let fast = HighWord::new(scale, 32).zip(Int8Place::new(place));
        let finish = |product: i32| match fast {
            Some((scale, place)) => place.place(scale.apply(product)),
            None => i8::narrow(place.place(scale.apply(product))),
        };
        widest(
            #[inline(always)]
            || self.run(input, scratch, output, finish),
        )
    }

    /// `finish` makes an int8 value of the product of a value and the sum of its four gates.
    #[cfg_attr(kernels = "vnni", inline(always))]
    fn run(
        &self,
        input: Map<i8>,
        scratch: &mut [i16],
        mut output: MapMut<i8>,
        finish: impl Fn(i32) -> i8,
    ) -> Result<(), Error> {
        let (zero, logits) = (i32::from(self.zero), self.bands.each_ref().map(Logit::new));
        let statistics = |square: [&[i8]; 4]| statistics_int8(square, zero, self.mean);
        let rows = output.rows();
        sweep(input, self.zero, rows, self.weights, scratch, statistics, |y, x, pixel, sums| {
            let gate: i32 = logits.iter().zip(sums).map(|(logit, sums)| logit.gate(sums)).sum();
            for (out, &x) in output.pixels_from_mut(y, x).next().into_iter().flatten().zip(pixel) {
                *out = finish((i32::from(x) - zero).wrapping_mul(gate));
            }
        })
    }
}

/// What makes σ of a band's two sums.
struct Logit {
    band: GateBand,
    /// The shift of the upper word, where the record's own reaches it. No sum over 49 taps comes near 2^61, so that word
    /// cannot overflow when it is rounded.
    high: Option<u32>,
}

impl Logit {
    fn new(band: &GateBand) -> Self {
        Logit { band: *band, high: band.scale.shift.checked_sub(32).filter(|&shift| shift > 0) }
    }

    #[inline(always)]
    fn gate(&self, [max, mean]: [i32; 2]) -> i32 {
        let GateBand { bias, scale, .. } = self.band;
        let Some(shift) = self.high else { return gate(scale.apply_with(max, mean, bias)) };
        let max = i64::from(max) * i64::from(scale.first);
        let mean = i64::from(mean) * i64::from(scale.second);
        let high = (bias.wrapping_add(max).wrapping_add(mean) >> 32) as i32;
        gate_int8(round_shift(high, shift).clamp(-128, 127) as i8)
    }
}

fn check<T: Copy>(input: &Map<T>, output: &MapMut<T>) -> Result<(), Error> {
    if input.is_whole() && input.shape().same_size(&output.shape()) { Ok(()) } else { Err(Error::Shape) }
}

/// Maximum and mean over the channels of the four bands, from the four pixels of a square.
fn statistics_f32([a, b, c, d]: [&[f32]; 4]) -> [f32; PLANES] {
    let mut max = [f32::NEG_INFINITY; 4];
    let mut sum = [0.0; 4];
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        for ((max, sum), v) in max.iter_mut().zip(&mut sum).zip(doubled_bands(*a, *b, *c, *d)) {
            *max = max.max(v);
            *sum += v;
        }
    }
    let half = 0.5 / a.len() as f32;
    interleave(max.map(|v| 0.5 * v), sum.map(|v| half * v))
}

fn statistics_int8(square: [&[i8]; 4], zero: i32, mean: HighWord) -> [i16; PLANES] {
    // The common widths as arrays, so that their loops are unrolled.
    if let [Ok(a), Ok(b), Ok(c), Ok(d)] = square.map(<&[i8; 4]>::try_from) {
        return statistics_of([a, b, c, d], zero, mean);
    }
    if let [Ok(a), Ok(b), Ok(c), Ok(d)] = square.map(<&[i8; 8]>::try_from) {
        return statistics_of([a, b, c, d], zero, mean);
    }
    statistics_of(square, zero, mean)
}

#[inline(always)]
fn statistics_of([a, b, c, d]: [&[i8]; 4], zero: i32, mean: HighWord) -> [i16; PLANES] {
    let mut max = [i32::MIN; 4];
    let mut sum = [0; 4];
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        let [a, b, c, d] = [a, b, c, d].map(|&v| i32::from(v) - zero);
        for ((max, sum), v) in max.iter_mut().zip(&mut sum).zip(doubled_bands(a, b, c, d)) {
            *max = v.max(*max);
            *sum += v;
        }
    }
    interleave(max.map(|v| v as i16), sum.map(|v| mean.apply(v) as i16))
}

fn interleave<T: Copy>([a, b, c, d]: [T; 4], [e, f, g, h]: [T; 4]) -> [T; PLANES] {
    [a, e, b, f, c, g, d, h]
}

/// Walks `rows` of the map one by one: `statistics` of the square above and left of each pixel enter the ring, and
/// `finish` gets each pixel with its eight sums, `[band][maximum, mean]`, the bias not yet added.
#[cfg_attr(kernels = "vnni", inline(always))]
fn sweep<S: Copy, T: Tap<Sum: FromBytes + IntoBytes> + From<S> + FromBytes + IntoBytes>(
    input: Map<S>,
    zero: S,
    rows: Range<usize>,
    weights: [&[S]; 4],
    scratch: &mut [T],
    statistics: impl Fn([&[S]; 4]) -> [T; PLANES],
    mut finish: impl FnMut(usize, usize, &[S], [[T::Sum; 2]; 4]),
) -> Result<(), Error> {
    let shape = input.shape();
    let zeros = [zero; MAX_CHANNELS];
    let zeros = zeros.get(..shape.channels).ok_or(Error::Unsupported)?;
    let (expected, found) = (scratch_len(shape.width), scratch.len());
    let scratch = scratch.get_mut(..expected).ok_or(Error::WrongLength { expected, found })?;
    scratch.fill(T::ZERO);
    let plane_len = plane_len(shape.width);
    let (scratch, rest) = scratch.split_at_mut_checked(PLANES * plane_len).ok_or(Error::Unsupported)?;
    let (turned, sums) = rest.split_at_mut_checked(PLANES * PADDED).ok_or(Error::Unsupported)?;
    let sums = <[T::Sum]>::mut_from_bytes(sums.as_mut_bytes()).map_err(|_| Error::Misaligned)?;

    for entering in rows.start.saturating_sub(REACH)..rows.end + REACH {
        enter_row(&input, entering, zeros, scratch, plane_len, &statistics);
        let Some(y) = entering.checked_sub(REACH).filter(|y| rows.contains(y)) else { continue };
        turn(weights, y, turned);
        let row = input.row(y).ok_or(Error::Shape)?;
        let mut pixels = row.pixels();
        for x in (0..shape.width).step_by(RUN) {
            for ((plane, weights), sums) in
                chunks(scratch, plane_len).zip(chunks(turned, PADDED)).zip(chunks_mut(sums, RUN))
            {
                let count = RUN.min(shape.width - x);
                let sums = sums.get_mut(..count).unwrap_or_default();
                T::dots(plane.get(x * SIDE..).unwrap_or_default(), SIDE, weights, sums);
            }
            for (i, pixel) in (0..RUN).zip(&mut pixels) {
                let of = |plane: usize| sums.get(plane * RUN + i).copied().unwrap_or_default();
                finish(y, x + i, pixel, [[of(0), of(1)], [of(2), of(3)], [of(4), of(5)], [of(6), of(7)]]);
            }
        }
    }
    Ok(())
}

/// Puts row `y` of the statistics into the ring; rows below the map are zero.
fn enter_row<S: Copy, T: Tap>(
    input: &Map<S>,
    y: usize,
    zeros: &[S],
    scratch: &mut [T],
    plane_len: usize,
    statistics: impl Fn([&[S]; 4]) -> [T; PLANES],
) {
    let (above, here) = (input.row(y.wrapping_sub(1)), input.row(y));
    let inside = here.is_some();
    let (mut above, mut here) = (above.map(|row| row.pixels()), here.map(|row| row.pixels()));
    let mut planes = chunks_mut(scratch, plane_len);
    let mut planes: [&mut [T]; PLANES] = core::array::from_fn(|_| planes.next().unwrap_or_default());
    let (mut a, mut c) = (zeros, zeros);
    for x in 0..input.shape().width {
        let b = above.as_mut().and_then(Iterator::next).unwrap_or(zeros);
        let d = here.as_mut().and_then(Iterator::next).unwrap_or(zeros);
        let values = if inside { statistics([a, b, c, d]) } else { [T::ZERO; PLANES] };
        let at = (x + REACH) * SIDE + y % SIDE;
        for (plane, value) in planes.iter_mut().zip(values) {
            if let Some(cell) = plane.get_mut(at) {
                *cell = value;
            }
        }
        (a, c) = (b, d);
    }
}

/// Puts the weights into the ring's order for output row `y`: `[plane][kx][row mod 7]`, row = y + ky − 3. The lanes
/// beyond a patch stay as they are.
fn turn<S: Copy, T: Tap + From<S>>(weights: [&[S]; 4], y: usize, turned: &mut [T]) {
    let planes = weights.into_iter().flat_map(|band| band.chunks_exact(PATCH));
    for (turned, weights) in chunks_mut(turned, PADDED).zip(planes) {
        for (ky, weights) in weights.chunks_exact(SIDE).enumerate() {
            let slot = (y + ky + SIDE - REACH) % SIDE;
            for (column, &weight) in chunks_mut(turned, SIDE).zip(weights) {
                if let Some(cell) = column.get_mut(slot) {
                    *cell = T::from(weight);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap, in_bands};
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::{vec, vec::Vec};

    const SIGNS: [[i64; 4]; 4] = [[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1], [1, 1, 1, 1]];

    /// Twice the band of one channel, zero-padded.
    fn doubled(x: &TestMap<i8>, zero: i8, band: usize, y: isize, col: isize, c: usize) -> i64 {
        let taps = [(-1, -1), (-1, 0), (0, -1), (0, 0)];
        let value = |(dy, dx)| i64::from(x.at(y + dy, col + dx, c, zero)) - i64::from(zero);
        taps.iter().zip(SIGNS[band]).map(|(&t, s)| s * value(t)).sum()
    }

    /// [maximum in half steps, sum over the channels in half steps]; zero outside the map.
    fn statistic(x: &TestMap<i8>, zero: i8, band: usize, y: isize, col: isize) -> [i64; 2] {
        if y < 0 || col < 0 || y >= x.shape.height as isize || col >= x.shape.width as isize {
            return [0, 0];
        }
        let all = || (0..x.shape.channels).map(|c| doubled(x, zero, band, y, col, c));
        [all().max().unwrap(), all().sum()]
    }

    #[test]
    fn weights_of_zero_leave_half_a_gate_per_band() {
        let input = TestMap::new(|_| vec![1.0, -2.0, 3.0, 4.0], 2, 2, 1, 0);
        let mut out = TestMap::filled(0f32, 2, 2, 1, 0);
        let mut scratch = vec![7.0; scratch_len(2)];
        spatial_gate_f32(input.map(), &[0.0; PARAMETERS], &mut scratch, out.map_mut()).unwrap();
        assert_eq!(out.data, [2.0, -4.0, 6.0, 8.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let input = TestMap::filled(0f32, 2, 2, 1, 0);
        let mut out = TestMap::filled(0f32, 2, 2, 1, 0);
        let short = scratch_len(2) - 1;
        let found = spatial_gate_f32(input.map(), &[0.0; PARAMETERS], &mut vec![0.0; short], out.map_mut());
        assert_eq!(found, Err(Error::WrongLength { expected: short + 1, found: short }));
        let found = spatial_gate_f32(input.map(), &[0.0; 5], &mut [0.0; 1000], out.map_mut());
        assert_eq!(found, Err(Error::WrongLength { expected: PARAMETERS, found: 5 }));
        let wide = TestMap::filled(0f32, 2, 2, MAX_CHANNELS + 1, 0);
        let mut out = wide.clone();
        let found = spatial_gate_f32(wide.map(), &[0.0; PARAMETERS], &mut [0.0; 1000], out.map_mut());
        assert_eq!(found, Err(Error::Unsupported));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn float_is_the_definition(seed: u64, h in 1usize..12, w in 1usize..12, c in 1usize..6, gaps in (0usize..3, 0usize..3)) {
            let mut stream = Stream(seed);
            let bytes = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let input = TestMap { data: bytes.data.iter().map(|&v| f32::from(v) / 64.0).collect(), shape: bytes.shape };
            let parameters: Vec<f32> = stream.f32s(PARAMETERS).iter().map(|w| w / 32.0).collect();
            let mut out = TestMap::filled(99f32, h, w, c, gaps.1);
            let mut scratch = vec![7.0; scratch_len(w)];
            spatial_gate_f32(input.map(), &parameters, &mut scratch, out.map_mut()).unwrap();
            let mut gates = vec![TestMap::filled(0f32, h, w, 1, 1); 4];
            for (band, map) in gates.iter_mut().enumerate() {
                band_gate_f32(input.map(), &parameters, band, &mut scratch, map.map_mut()).unwrap();
            }
            for (y, x) in (0..h * w).map(|i| ((i / w) as isize, (i % w) as isize)) {
                let mut sum = 0.0;
                for band in 0..4 {
                    let mut z = f64::from(parameters[band * 99 + 98]);
                    for (i, &weight) in parameters[band * 99..band * 99 + 98].iter().enumerate() {
                        let (plane, ky, kx) = (i / 49, (i / 7 % 7) as isize, (i % 7) as isize);
                        let value = statistic(&bytes, 0, band, y + ky - 3, x + kx - 3)[plane] as f64 / 128.0;
                        z += f64::from(weight) * value / if plane == 1 { c as f64 } else { 1.0 };
                    }
                    let exact = 1.0 / (1.0 + (-z).exp());
                    prop_assert!((f64::from(gates[band].at(y, x, 0, 0.0)) - exact).abs() < 1e-5);
                    sum += exact;
                }
                for channel in 0..c {
                    let exact = sum * f64::from(input.at(y, x, channel, 0.0));
                    prop_assert!((f64::from(out.at(y, x, channel, 0.0)) - exact).abs() < 1e-4);
                }
            }
            prop_assert!(out.data.iter().enumerate().all(|(i, &v)| i % (c + gaps.1) < c || v == 99.0));
        }

        #[test]
        fn int8_is_the_contract(seed: u64, h in 1usize..12, band in 1usize..12, w in 1usize..12, c in prop_oneof![1usize..6, Just(8), Just(12)], gaps in (0usize..3, 0usize..3),
            zeros in [-128i32..=127, -128i32..=127], factor in 1e-6f64..1e-4, bias in -4.0f64..4.0) {
            let mut stream = Stream(seed);
            let zero = zeros[0] as i8;
            let input = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let weights = stream.weights(4 * BAND_WEIGHTS);
            let bands = [0.3, 1.0, -1.0, 0.5].map(|f| GateBand::new(f * bias, 1.0 / 16.0, 0.01 / 127.0, 0.013 / 127.0).unwrap());
            let scale = Multiplier::from_real(factor).unwrap();
            let mut out = TestMap::filled(99i8, h, w, c, gaps.1);
            let mut scratch = vec![7i16; scratch_len(w)];
            let place = Output::int8(zeros[1], false);
            in_bands(&[&input], &mut out, band, |_| 0..h as isize, |maps, out| {
                spatial_gate_int8(maps[0], zero, &weights, &bands, scale, place, &mut scratch, out).unwrap();
            });
            // The mean is the sum times a 31-bit 16/C, rounded once.
            let mean = Multiplier::from_real(16.0 / c as f64).unwrap();
            let round = |numerator: i128, shift: u32| (2 * numerator + (1 << shift)).div_euclid(2 << shift);
            let exact = |y: isize, x: isize, channel: usize| {
                let mut sum = 0i128;
                for (band, record) in bands.iter().enumerate() {
                    let mut sums = [0i128; 2];
                    for (i, &weight) in weights[band * 98..(band + 1) * 98].iter().enumerate() {
                        let (plane, ky, kx) = (i / 49, (i / 7 % 7) as isize, (i % 7) as isize);
                        let [max, total] = statistic(&input, zero, band, y + ky - 3, x + kx - 3).map(i128::from);
                        let value = if plane == 0 { max } else { round(total * i128::from(mean.m), mean.shift) };
                        sums[plane] += i128::from(weight) * value;
                    }
                    let terms = sums[0] * i128::from(record.scale.first) + sums[1] * i128::from(record.scale.second);
                    let logit = round(terms + i128::from(record.bias), record.scale.shift).clamp(-128, 127);
                    sum += (32768.0 / (1.0 + (-(logit as f64) / 16.0).exp())).round() as i128;
                }
                let product = (i128::from(input.at(y, x, channel, 0)) - i128::from(zero)) * sum * i128::from(scale.m);
                (i128::from(zeros[1]) + round(product, scale.shift)).clamp(-128, 127) as i8
            };
            out.assert_is(99, exact);
        }
    }
}
