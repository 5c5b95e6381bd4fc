//! Square convolution with `same` zero padding, stride, dilation, bias and ReLU.
//!
//! ```text
//! out[y, x, o] = f(bias[o] + Σ_{ky, kx, i} w[o, ky, kx, i] · in[y·s + (ky − r)·d, x·s + (kx − r)·d, i])    r = (k−1)/2
//! ```
//!
//! For a run of output pixels in one row the taps are gathered column by column into working memory (the plan's in int8,
//! the stack in float), `[column][ky][channel]`, padding filled in: then the k·k·C taps of an output pixel are contiguous, neighbours share
//! k − 1 of k columns, and every output is one dot product, without a special case at the borders. With dilation d the
//! columns are kept by their residue modulo d, which makes their taps contiguous as well.
//!
//! Int8: padded taps count as the input's zero point, whose share −zero·Σw is folded into the bias ([`ConvChannel`]).

use super::dot::{Int8Tap, Tap};
use super::feature_map::{chunks, chunks_mut};
use super::{Map, MapMut, Shape, widest};
use crate::Error;
use crate::quant::{ConvChannel, Output, Quantised};
use zerocopy::{FromBytes, IntoBytes};

/// Most taps of one output channel, k·k·C: the widest conv of the `full` network (3×3 over 4·64 channels).
pub const MAX_PATCH: usize = 9 * 256;
/// Taps gathered at one time, in float.
const TILE: usize = 8192;
/// Room for the lanes by which a padded patch may reach beyond the last column.
const SLACK: usize = 16;

/// Working memory of the int8 forms for a kernel of k×k taps over so many channels, in bytes; it starts at a multiple of 16.
///
/// Half of the least is a row of 160 pixels of 4 channels as the small cores gather it, or the weights of 16 channels of
/// a 3×3 patch over 32; beyond it, the columns of a few output pixels of the widest layers.
pub const fn scratch_len(kernel: usize, channels: usize) -> usize {
    let patch = kernel.saturating_mul(kernel).saturating_mul(channels);
    let taps = if 4 * patch > 4608 { 4 * patch } else { 4608 };
    2 * taps.next_multiple_of(16)
}

/// The shape of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Taps along a side: odd.
    pub kernel: usize,
    /// Input pixels from one output pixel to the next.
    pub stride: usize,
    /// Input pixels from one tap to the next; 1 where the stride is more than 1.
    pub dilation: usize,
}

/// `weights` `[out][ky][kx][in]`, one `bias` for each output channel. Errors: shapes that do not fit each other.
pub fn conv_f32(
    window: Window,
    relu: bool,
    input: Map<f32>,
    weights: &[f32],
    bias: &[f32],
    #[cfg_attr(not(kernels = "vnni"), expect(unused_mut))] mut output: MapMut<f32>,
) -> Result<(), Error> {
    #[cfg(kernels = "vnni")]
    {
        check(window, &input.shape(), &output.shape(), weights.len(), bias.len())?;
        if super::simd::x86::float::conv(window, relu, &input, weights, bias, &mut output)? {
            return Ok(());
        }
    }
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    let (mut columns, mut row) = ([0.0; TILE + SLACK], [0.0; MAX_PATCH + SLACK]);
    let buffers = (columns.as_mut_slice(), row.as_mut_slice());
    convolve::<f32, f32, _, _>(window, input, 0.0, weights, bias, buffers, output, |sum, bias| (sum + bias).max(low))
}

/// `weights` `[out][ky][kx][in]`, one record for each output channel; `zero_in` is the input's zero point; `scratch` of
/// [`scratch_len`] bytes. Errors: shapes that do not fit each other.
#[expect(clippy::too_many_arguments, reason = "the parameters of one layer, as the model image holds them")]
pub fn conv_int8(
    window: Window,
    input: Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    scratch: &mut [i8],
    #[cfg_attr(kernels = "portable", expect(unused_mut))] mut output: MapMut<i8>,
) -> Result<(), Error> {
    #[cfg(not(kernels = "portable"))]
    {
        check(window, &input.shape(), &output.shape(), weights.len(), channels.len())?;
        #[cfg(kernels = "vnni")]
        let done = {
            use super::simd::x86::conv::{Layer, conv};
            conv(super::level(), Layer { window, zero_in, weights, channels, place }, &input, &mut output)?
        };
        #[cfg(not(kernels = "vnni"))]
        let done = super::simd::convolve(window, &input, zero_in, weights, channels, place, scratch, &mut output)?;
        if done {
            return Ok(());
        }
    }
    conv_plain(window, input, zero_in, weights, channels, place, scratch, output)
}

/// As [`conv_int8`], in plain Rust and for either kind of output: an int8 map, or the int16 logit map.
// Not inlined: it would bring its variables on the stack into every caller that has a fast form.
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "as above")]
pub fn conv_plain<O: Quantised>(
    window: Window,
    input: Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    scratch: &mut [i8],
    output: MapMut<O>,
) -> Result<(), Error> {
    let (expected, found) = (scratch_len(window.kernel, input.shape().channels), scratch.len());
    let scratch = scratch.get_mut(..expected).ok_or(Error::WrongLength { expected, found })?;
    let taps = <[Int8Tap]>::mut_from_bytes(scratch.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
    let patch = window.kernel * window.kernel * input.shape().channels;
    let (row, columns) = taps.split_at_mut_checked(patch.next_multiple_of(SLACK)).ok_or(Error::Unsupported)?;
    let finish =
        |sum: i32, channel: &ConvChannel| O::narrow(place.place(channel.scale.apply(sum.wrapping_add(channel.bias))));
    widest(
        #[inline(always)]
        || convolve::<i8, Int8Tap, _, _>(window, input, zero_in, weights, channels, (columns, row), output, finish),
    )
}

/// Output pixels of a row or column of `n` input pixels.
pub const fn output_size(n: usize, stride: usize) -> usize {
    match stride {
        0 => 0,
        s => n.div_ceil(s),
    }
}

/// `columns` and `row` are working memory for gathered taps and one output channel's weights.
#[cfg_attr(kernels = "vnni", inline(always))]
#[expect(clippy::too_many_arguments, reason = "as above")]
fn convolve<S: Copy, T: Tap + From<S>, P, O: Copy>(
    window: Window,
    input: Map<S>,
    pad: S,
    weights: &[S],
    channels: &[P],
    (columns, row): (&mut [T], &mut [T]),
    mut output: MapMut<O>,
    finish: impl Fn(T::Sum, &P) -> O,
) -> Result<(), Error> {
    let (from, to) = (input.shape(), output.shape());
    check(window, &from, &to, weights.len(), channels.len())?;
    let tile = Tile::new(window, from.channels, columns.len().saturating_sub(SLACK))?;
    let padded = tile.patch().next_multiple_of(T::LANES);
    let row = row.get_mut(..padded).ok_or(Error::Unsupported)?;
    row.fill(T::ZERO);
    let (step, phases) = (tile.stride * tile.column, tile.dilation);

    for y in output.rows() {
        for x in (0..to.width).step_by(tile.outputs.max(1)) {
            let count = tile.outputs.min(to.width - x);
            let phase_len = tile.phase_columns(count) * tile.column;
            let gathered = columns.get_mut(..phase_len * phases).ok_or(Error::Unsupported)?;
            tile.gather(&input, T::from(pad), y, x, phase_len, gathered);

            let run = output.from_mut(y, x);
            for (o, (weights, channel)) in chunks(weights, tile.patch()).zip(channels).enumerate() {
                tile.arrange(weights, row, from.channels);
                for phase in 0..phases {
                    let (mut start, mut at) = (phase * phase_len, phase * to.stride + o);
                    for _ in 0..count.saturating_sub(phase).div_ceil(phases.max(1)) {
                        let (Some(patch), Some(out)) = (columns.get(start..start + padded), run.get_mut(at)) else {
                            return Err(Error::Unsupported);
                        };
                        *out = finish(T::dot(patch, row), channel);
                        (start, at) = (start + step, at + phases * to.stride);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether the shapes of one layer fit each other.
fn check(window: Window, from: &Shape, to: &Shape, weights: usize, channels: usize) -> Result<(), Error> {
    let Window { kernel, stride, dilation } = window;
    if !matches!(kernel, 1 | 3 | 5 | 7) || stride == 0 || dilation == 0 || (stride > 1 && dilation > 1) {
        return Err(Error::Unsupported);
    }
    if to.height != output_size(from.height, stride) || to.width != output_size(from.width, stride) {
        return Err(Error::Shape);
    }
    let patch = from.channels.checked_mul(kernel * kernel).filter(|&p| p <= MAX_PATCH).ok_or(Error::Unsupported)?;
    if channels != to.channels {
        return Err(Error::WrongLength { expected: to.channels, found: channels });
    }
    if weights != patch * channels {
        return Err(Error::WrongLength { expected: patch * channels, found: weights });
    }
    Ok(())
}

/// How a run of output pixels is gathered.
struct Tile {
    kernel: usize,
    stride: usize,
    dilation: usize,
    reach: usize,
    /// Elements of one gathered column: kernel·channels.
    column: usize,
    /// Most output pixels of one run.
    outputs: usize,
}

impl Tile {
    /// For a window that has been checked, in `room` taps.
    fn new(window: Window, channels: usize, room: usize) -> Result<Self, Error> {
        let Window { kernel, stride, dilation } = window;
        let (span, column) = ((kernel - 1) * dilation, kernel * channels);
        let fit = room / column.max(1);
        let spare = (fit - fit % dilation).checked_sub(span + 1).ok_or(Error::Unsupported)?;
        Ok(Tile { kernel, stride, dilation, reach: span / 2, column, outputs: spare / stride + 1 })
    }

    fn patch(&self) -> usize {
        self.kernel * self.column
    }

    /// Columns of one residue modulo the dilation that `count` outputs need.
    fn phase_columns(&self, count: usize) -> usize {
        ((count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1).div_ceil(self.dilation.max(1))
    }

    /// Fills `gathered`, `[residue][column][ky][channel]`, with the taps of the outputs from (y, x) on.
    fn gather<S: Copy, T: Tap + From<S>>(
        &self,
        input: &Map<S>,
        pad: T,
        y: usize,
        x: usize,
        phase_len: usize,
        gathered: &mut [T],
    ) {
        let channels = input.shape().channels;
        // Coordinates left of or above the map wrap to huge ones, which lie outside it too.
        let (top, left) = ((y * self.stride).wrapping_sub(self.reach), (x * self.stride).wrapping_sub(self.reach));
        for ky in 0..self.kernel {
            let row = input.row(top.wrapping_add(ky * self.dilation));
            for (phase, columns) in chunks_mut(gathered, phase_len).enumerate() {
                let mut at = left.wrapping_add(phase);
                for column in chunks_mut(columns, self.column) {
                    let Some(cell) = column.get_mut(ky * channels..(ky + 1) * channels) else { return };
                    match row.as_ref().and_then(|row| row.pixel(at)) {
                        Some(pixel) => widen(pixel, cell),
                        None => cell.fill(pad),
                    }
                    at = at.wrapping_add(self.dilation);
                }
            }
        }
    }

    /// Copies one output channel's weights `[ky][kx][in]` into the order of the gathered columns, `[kx][ky][in]`.
    fn arrange<S: Copy, T: From<S>>(&self, weights: &[S], row: &mut [T], channels: usize) {
        for (ky, weights) in chunks(weights, self.column).enumerate() {
            for (weights, column) in chunks(weights, channels).zip(chunks_mut(row, self.column)) {
                if let Some(cell) = column.get_mut(ky * channels..(ky + 1) * channels) {
                    widen(weights, cell);
                }
            }
        }
    }
}

/// Copies a pixel; four channels at a time where they come in fours, as they do in every layer but the first.
#[inline(always)]
fn widen<S: Copy, T: From<S>>(from: &[S], to: &mut [T]) {
    let ((fours, rest), (to_fours, to_rest)) = (from.as_chunks::<4>(), to.as_chunks_mut::<4>());
    for (to, from) in to_fours.iter_mut().zip(fours) {
        *to = from.map(T::from);
    }
    for (to, from) in to_rest.iter_mut().zip(rest) {
        *to = T::from(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, Stream, TestMap, conv_reads, in_bands};
    use super::*;
    use crate::quant::Multiplier;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    /// The definition, tap by tap: Σ w·(in − zero), padded taps being zero.
    fn naive(w: Window, input: &TestMap<i8>, zero: i8, weights: &[i8], y: isize, x: isize, o: usize) -> i64 {
        let (c, k) = (input.shape.channels, w.kernel);
        let reach = ((k - 1) * w.dilation / 2) as isize;
        let mut sum = 0;
        for (i, &weight) in weights[o * k * k * c..(o + 1) * k * k * c].iter().enumerate() {
            let (ky, kx) = (i / (k * c), i / c % k);
            let iy = y * w.stride as isize + (ky * w.dilation) as isize - reach;
            let ix = x * w.stride as isize + (kx * w.dilation) as isize - reach;
            sum += i64::from(weight) * (i64::from(input.at(iy, ix, i % c, zero)) - i64::from(zero));
        }
        sum
    }

    #[test]
    fn a_hand_worked_three_by_three() {
        // 1..9 in a 3×3 map; the kernel adds the left neighbour twice and the pixel below once.
        let input: Vec<f32> = (1..=9).map(|v| v as f32).collect();
        let weights = [0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let shape = Shape::dense(3, 3, 1);
        let mut out = [0.0; 9];
        let window = Window { kernel: 3, stride: 1, dilation: 1 };
        let (map, to) = (Map::new(&input, shape).unwrap(), MapMut::new(&mut out, shape).unwrap());
        conv_f32(window, true, map, &weights, &[-8.0], to).unwrap();
        // Rows: 4, 2+5, 4+6 | 7, 8+8, 10+9 | 0, 14, 16; minus 8, clamped.
        assert_eq!(out, [0.0, 0.0, 2.0, 0.0, 8.0, 11.0, 0.0, 6.0, 8.0]);
    }

    #[test]
    fn the_logit_map_has_sixteen_bits() {
        let (input, weights) = ([100i8, -100], [127i8]);
        let channel = ConvChannel { bias: 0, scale: Multiplier::from_real(1.0).unwrap() };
        let mut out = [0i16; 2];
        let shape = Shape::dense(1, 2, 1);
        let (map, to) = (Map::new(&input, shape).unwrap(), MapMut::new(&mut out, shape).unwrap());
        let window = Window { kernel: 1, stride: 1, dilation: 1 };
        let mut scratch = Scratch::new(1, 1);
        conv_plain(window, map, 0, &weights, &[channel], Output::logit(), scratch.bytes(), to).unwrap();
        assert_eq!(out, [12_700, -12_700]);
    }

    #[test]
    fn the_widest_layers_of_the_full_network_fit() {
        for (kernel, dilation, channels) in [(3, 1, 256), (5, 1, 64), (3, 5, 64), (3, 3, 64), (1, 1, 320)] {
            let window = Window { kernel, stride: 1, dilation };
            let input = TestMap::filled(1i8, 16, 16, channels, 0);
            let mut out = TestMap::filled(0i8, 16, 16, 1, 0);
            let weights = std::vec![1i8; kernel * kernel * channels];
            let scale = Multiplier::from_real(127.0 / (kernel * kernel * channels) as f64).unwrap();
            let channel = [ConvChannel { bias: 0, scale }];
            let (place, mut scratch) = (Output::int8(0, false), Scratch::new(kernel, channels));
            conv_int8(window, input.map(), 0, &weights, &channel, place, scratch.bytes(), out.map_mut()).unwrap();
            assert_eq!(out.data[8 * 16 + 8], 127, "{window:?}, {channels} channels");
            out.data.fill(0);
            conv_plain(window, input.map(), 0, &weights, &channel, place, scratch.bytes(), out.map_mut()).unwrap();
            assert_eq!(out.data[8 * 16 + 8], 127, "{window:?}, {channels} channels");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let input = TestMap::filled(0f32, 4, 4, 2, 0);
        let run = |kernel, stride, dilation, weights: usize, bias: usize, to: (usize, usize, usize)| {
            let mut out = TestMap::filled(0f32, to.0, to.1, to.2, 0);
            let (weights, bias) = (std::vec![0f32; weights], std::vec![0f32; bias]);
            conv_f32(Window { kernel, stride, dilation }, false, input.map(), &weights, &bias, out.map_mut())
        };
        assert_eq!(run(3, 1, 1, 18, 1, (4, 4, 1)), Ok(()));
        assert_eq!(run(3, 2, 1, 18, 1, (4, 4, 1)), Err(Error::Shape));
        assert_eq!(run(3, 1, 1, 17, 1, (4, 4, 1)), Err(Error::WrongLength { expected: 18, found: 17 }));
        assert_eq!(run(3, 1, 1, 18, 2, (4, 4, 1)), Err(Error::WrongLength { expected: 1, found: 2 }));
        for (kernel, stride, dilation) in [(2, 1, 1), (0, 1, 1), (3, 0, 1), (3, 1, 0), (3, 2, 2)] {
            assert_eq!(run(kernel, stride, dilation, 18, 1, (4, 4, 1)), Err(Error::Unsupported));
        }
        assert_eq!(run(3, 1, 5000, 18, 1, (4, 4, 1)), Err(Error::Unsupported));
    }

    fn windows() -> impl Strategy<Value = Window> {
        let stride = prop_oneof![Just((1, 1)), Just((2, 1)), Just((1, 2)), Just((1, 3)), Just((1, 5))];
        (prop_oneof![Just(1usize), Just(3), Just(5)], stride).prop_map(|(kernel, (stride, dilation))| Window {
            kernel,
            stride,
            dilation,
        })
    }

    proptest! {
        #[test]
        fn int8_is_the_definition_rounded_once(window in windows(), seed: u64, h in 1usize..14, w in 1usize..40,
            cin in 1usize..20, cout in 1usize..4, gaps in (0usize..3, 0usize..3), zero_in in -128i32..=127,
            zero_out in -128i32..=127, relu: bool, factor in 1e-5f64..2.0) {
            let mut stream = Stream(seed);
            let input = TestMap::new(|n| stream.i8s(n), h, w, cin, gaps.0);
            let taps = window.kernel * window.kernel * cin;
            let weights = stream.weights(cout * taps);
            let scale = Multiplier::from_real(factor).unwrap();
            let biases: Vec<i64> = (0..cout).map(|_| (stream.next() % 20_001) as i64 - 10_000).collect();
            let channels: Vec<ConvChannel> = weights.chunks(taps).zip(&biases)
                .map(|(w, &b)| ConvChannel::folded(b, w, zero_in, scale).unwrap()).collect();
            let (oh, ow) = (output_size(h, window.stride), output_size(w, window.stride));
            let mut out = TestMap::filled(99i8, oh, ow, cout, gaps.1);
            let (place, mut scratch) = (Output::int8(zero_out, relu), Scratch::new(window.kernel, cin));
            conv_int8(window, input.map(), zero_in as i8, &weights, &channels, place, scratch.bytes(), out.map_mut()).unwrap();
            out.assert_is(99, |y, x, o| {
                let acc = naive(window, &input, zero_in as i8, &weights, y, x, o) + biases[o];
                let product = i128::from(acc) * i128::from(scale.m) * 2 + (1 << scale.shift);
                let value = i128::from(zero_out) + product.div_euclid(2 << scale.shift);
                value.clamp(if relu { i128::from(zero_out) } else { -128 }, 127) as i8
            });
        }

        /// Rows computed in bands, from no more input rows than they read, are those of the whole map.
        #[test]
        fn bands_are_rows_of_the_whole(window in windows(), seed: u64, h in 2usize..24, w in 1usize..40,
            cin in 1usize..9, cout in 1usize..6, gaps in (0usize..3, 0usize..3), band in 1usize..24) {
            let mut stream = Stream(seed);
            let input = TestMap::new(|n| stream.i8s(n), h, w, cin, gaps.0);
            let weights = stream.weights(cout * window.kernel * window.kernel * cin);
            let scale = Multiplier::from_real(0.003).unwrap();
            let channels = std::vec![ConvChannel { bias: 77, scale }; cout];
            let (oh, ow) = (output_size(h, window.stride), output_size(w, window.stride));
            let empty = TestMap::filled(99i8, oh, ow, cout, gaps.1);
            let (mut whole, mut fast, mut plain) = (empty.clone(), empty.clone(), empty);
            let (place, mut scratch) = (Output::int8(-3, true), Scratch::new(window.kernel, cin));
            conv_int8(window, input.map(), 5, &weights, &channels, place, scratch.bytes(), whole.map_mut()).unwrap();
            in_bands(&[&input], &mut fast, band, conv_reads(window), |maps, out| {
                conv_int8(window, maps[0], 5, &weights, &channels, place, scratch.bytes(), out).unwrap();
            });
            in_bands(&[&input], &mut plain, band, conv_reads(window), |maps, out| {
                conv_plain(window, maps[0], 5, &weights, &channels, place, scratch.bytes(), out).unwrap();
            });
            prop_assert_eq!(&fast.data, &whole.data);
            prop_assert_eq!(&plain.data, &whole.data);
        }

        #[test]
        fn float_is_the_definition(window in windows(), seed: u64, h in 1usize..10, w in 1usize..40,
            cin in 1usize..20, cout in 1usize..20, gaps in (0usize..3, 0usize..3), relu: bool) {
            let mut stream = Stream(seed);
            let bytes = TestMap::new(|n| stream.i8s(n), h, w, cin, gaps.0);
            let input = TestMap { data: bytes.data.iter().map(|&v| f32::from(v)).collect(), shape: bytes.shape };
            // Products of bytes by small weights: every partial sum is an integer below 2^24, so order does not matter.
            let weights: Vec<i8> = stream.weights(cout * window.kernel * window.kernel * cin).iter().map(|w| w / 8).collect();
            let float: Vec<f32> = weights.iter().map(|&w| f32::from(w)).collect();
            let bias = stream.f32s(cout);
            let (oh, ow) = (output_size(h, window.stride), output_size(w, window.stride));
            let mut out = TestMap::filled(99f32, oh, ow, cout, gaps.1);
            conv_f32(window, relu, input.map(), &float, &bias, out.map_mut()).unwrap();
            out.assert_is(99.0, |y, x, o| {
                let sum = naive(window, &bytes, 0, &weights, y, x, o) as f32 + bias[o];
                if relu { sum.max(0.0) } else { sum }
            });
        }
    }
}
