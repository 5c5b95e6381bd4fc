//! Convolution over a core's inner loops: the fast twin of [`crate::kernels::conv`], whose gathering it shares in idea.
//!
//! As many output channels as fit are a block, whose weights are arranged once. For a run of output pixels in a row the
//! taps are gathered, `[column][ky][channel]`, columns apart by their residue modulo the dilation, and slide on to the
//! next row ([`Strip::gather`]); each group of the block's channels takes the whole run, so that an activation vector
//! that is loaded serves a group, and a weight vector two pixels.

use super::micro::{Cells, Constants, MAX_GROUP, Micro, Run, ordered};
use crate::Error;
use crate::kernels::conv::Window;
use crate::kernels::rescale::HighWord;
use crate::kernels::{Map, MapMut};
use crate::quant::{ConvChannel, Output};

/// Most input channels.
const MAX_CHANNELS: usize = 256;
/// Rows by which the gathered columns may slide before they are gathered anew, where the tile has the room.
const SLIDES: usize = 2;
/// Most groups of a block.
const MAX_GROUPS: usize = 16;

/// The rows of a layer, whose shapes have been checked, that `output` holds; `false`, and nothing written, where it is
/// outside this form's range. Working memory for gathered columns and for arranged weights.
#[expect(clippy::too_many_arguments, reason = "the parameters of one layer, as the model image holds them")]
pub fn convolve<M: Micro>(
    window: Window,
    input: &Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    (columns, arranged): (&mut [M::Tap], &mut [M::Tap]),
    output: &mut MapMut<i8>,
) -> Result<bool, Error> {
    // Where every output pixel has its input pixel to itself, rows need not end.
    let (input, mut output) = if window.kernel == 1 && window.stride == 1 {
        (&input.band(output.rows())?.flattened(), output.flattened())
    } else {
        (input, output.reborrow())
    };
    let (from, to) = (input.shape(), output.shape());
    let Some(bounds) = place.int8_bounds() else { return Ok(false) };
    let Some(layout) = Layout::new::<M>(window, from.channels, to.width, columns.len()) else { return Ok(false) };
    if !channels.iter().all(|channel| HighWord::new(channel.scale, 32).is_some()) {
        return Ok(false);
    }
    let pad = [zero_in; MAX_CHANNELS];
    let pad = pad.get(..from.channels).ok_or(Error::Unsupported)?;
    let mut constants = [Constants::default(); MAX_GROUPS];

    let block = layout.block::<M>(arranged.len());
    let patch = layout.kernel * layout.kernel * from.channels;
    for first in (0..channels.len()).step_by(block.max(1)) {
        let channels = channels.get(first..channels.len().min(first + block)).ok_or(Error::Unsupported)?;
        let weights = weights.get(first * patch..(first + channels.len()) * patch).ok_or(Error::Unsupported)?;
        arranged.fill(M::Tap::from(0));
        layout.arrange::<M>(weights, from.channels, arranged);
        for (constants, channels) in constants.iter_mut().zip(channels.chunks(M::GROUP)) {
            *constants = of_channels(channels);
        }
        for x in (0..to.width).step_by(layout.outputs.max(1)) {
            let count = layout.outputs.min(to.width - x);
            let strip = Strip { layout: &layout, input, pad, x, columns: layout.phase_columns(count) };
            for residue in 0..layout.dilation {
                let mut base = None;
                for y in (output.rows().start + residue..output.rows().end).step_by(layout.dilation.max(1)) {
                    let at = strip.gather::<M>(y, base, columns);
                    base = Some(at);
                    let patches = columns.get(at..).ok_or(Error::Unsupported)?;
                    let out = output.from_mut(y, x);
                    for phase in 0..layout.dilation {
                        let Some(rest) = count.checked_sub(phase + 1) else { break };
                        let patches = patches.get(phase * strip.phase()..).ok_or(Error::Unsupported)?;
                        let groups = arranged.chunks(layout.group::<M>());
                        let groups = channels.chunks(M::GROUP).zip(&constants).zip(groups);
                        for (g, ((channels, constants), weights)) in groups.enumerate() {
                            let at = phase * to.stride + first + g * M::GROUP;
                            let run = Run {
                                patches,
                                step: layout.stride * layout.column,
                                vectors: layout.vectors,
                                weights,
                                constants,
                                bounds,
                                count: rest / layout.dilation.max(1) + 1,
                                out_step: layout.dilation * to.stride,
                                channels: channels.len(),
                            };
                            M::run(run, out.get_mut(at..).ok_or(Error::Unsupported)?);
                        }
                    }
                }
            }
        }
    }
    Ok(true)
}

/// How taps lie.
struct Layout {
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Taps of one gathered column, padding included.
    column: usize,
    /// Vectors of one patch.
    vectors: usize,
    /// Most output pixels of one run.
    outputs: usize,
}

impl Layout {
    /// `None` where the tile or the weights of one group do not fit.
    fn new<M: Micro>(window: Window, channels: usize, width: usize, room: usize) -> Option<Self> {
        let Window { kernel, stride, dilation } = window;
        let column = (kernel * channels).next_multiple_of(M::COLUMN);
        let vectors = (kernel * column).div_ceil(M::LANES);
        if column == 0 || dilation == 0 || stride == 0 || channels > MAX_CHANNELS {
            return None;
        }
        // A patch in whole vectors may reach beyond the last column.
        let room = room.checked_sub(M::LANES)?;
        let spare = |room: usize| {
            let fit = room / column;
            (fit - fit % dilation).checked_sub((kernel - 1) * dilation + 1)
        };
        let slides = if stride < kernel { SLIDES * stride * channels } else { 0 };
        let spare = room.checked_sub(slides).and_then(spare).filter(|&n| n > dilation).or_else(|| spare(room))?;
        let most = (spare / stride).saturating_add(1);
        // Runs of equal length, in whole pairs of every residue.
        let even = width.div_ceil(width.div_ceil(most).max(1)).div_ceil((2 * dilation).max(1)) * (2 * dilation);
        let outputs = even.min(most);
        let layout = Layout { kernel, stride, dilation, column, vectors, outputs };
        (layout.block::<M>(room + M::LANES) > 0).then_some(layout)
    }

    /// Arranged taps of one group of channels.
    fn group<M: Micro>(&self) -> usize {
        (self.vectors * M::GROUP * M::LANES).max(1)
    }

    /// Channels whose arranged weights fit.
    fn block<M: Micro>(&self, room: usize) -> usize {
        (room / self.group::<M>()).min(MAX_GROUPS) * M::GROUP
    }

    /// Columns of one residue modulo the dilation that `count` outputs need.
    fn phase_columns(&self, count: usize) -> usize {
        let span = count.saturating_sub(1) * self.stride + (self.kernel - 1) * self.dilation + 1;
        span.div_ceil(self.dilation.max(1))
    }

    /// Puts weights `[out][ky][kx][in]` into the order of the columns, `[group][vector][out of the group][lane]`.
    fn arrange<M: Micro>(&self, weights: &[i8], channels: usize, to: &mut [M::Tap]) {
        let per_channel = (self.kernel * self.kernel * channels).max(1);
        for (o, weights) in weights.chunks(per_channel).enumerate() {
            let group = o / M::GROUP * self.group::<M>() + o % M::GROUP * M::LANES;
            for (cell, weights) in weights.chunks(channels.max(1)).enumerate() {
                let (ky, kx) = (cell / self.kernel.max(1), cell % self.kernel.max(1));
                let first = kx * self.column + ky * channels;
                for (c, &weight) in weights.iter().enumerate() {
                    let t = ordered::<M>(first + c);
                    let at = group + t / M::LANES * (M::GROUP * M::LANES) + t % M::LANES;
                    if let Some(place) = to.get_mut(at) {
                        *place = M::Tap::from(weight);
                    }
                }
            }
        }
    }
}

/// The columns of one run of output pixels, for one row after the other.
struct Strip<'a> {
    layout: &'a Layout,
    input: &'a Map<'a, i8>,
    pad: &'a [i8],
    /// First output pixel.
    x: usize,
    /// Columns of one residue modulo the dilation.
    columns: usize,
}

impl Strip<'_> {
    /// Taps of the columns of one residue.
    fn phase(&self) -> usize {
        self.columns * self.layout.column
    }

    /// Brings the taps of row `y`'s outputs into `tile`, `[residue][column][ky][channel]`; where they begin.
    ///
    /// `before` is where those of the previous row of the same residue begin. They are this row's but for a shift of one
    /// tap row: moving the beginning up by a pixel's channels makes ky of what was ky + 1, and the new last row of each
    /// column takes the place of the next column's first.
    fn gather<M: Micro>(&self, y: usize, before: Option<usize>, tile: &mut [M::Tap]) -> usize {
        let Layout { kernel, stride, dilation, .. } = *self.layout;
        let channels = self.input.shape().channels;
        let len = dilation * self.phase() + M::LANES;
        let slides = channels.is_multiple_of(M::COLUMN) && stride < kernel;
        let moved = before.map(|before| before + stride * channels).filter(|&at| slides && at + len <= tile.len());
        let first = if moved.is_some() { kernel - stride } else { 0 };
        let at = moved.unwrap_or(0);
        let top = (y * stride).wrapping_sub((kernel - 1) * dilation / 2);
        for ky in first..kernel {
            if let Some(tile) = tile.get_mut(at..) {
                self.gather_row::<M>(top.wrapping_add(ky * dilation), ky, tile);
            }
        }
        at
    }

    /// Puts input row `y`, or padding where there is none, into the columns as their row `ky`.
    fn gather_row<M: Micro>(&self, y: usize, ky: usize, tile: &mut [M::Tap]) {
        let (layout, shape, count) = (self.layout, self.input.shape(), self.columns);
        let dilation = layout.dilation.max(1);
        let reach = (layout.kernel - 1) * dilation / 2;
        let row = self.input.row(y);
        for phase in 0..dilation {
            // Coordinates are counted from the leftmost tap of the map's first column: none is negative.
            let first = self.x * layout.stride + phase;
            let before = reach.saturating_sub(first).div_ceil(dilation).min(count);
            let within = (reach + shape.width).saturating_sub(first).div_ceil(dilation).min(count);
            let (before, within) = if row.is_some() { (before, within.max(before)) } else { (count, count) };
            let mut put = |from: &[i8], from_step: usize, start: usize, end: usize| {
                let at = (phase * count + start) * layout.column;
                if let (true, Some(to)) = (end > start, tile.get_mut(at..)) {
                    let (at, to_step, channels) = (ky * shape.channels, layout.column, shape.channels);
                    M::copy(Cells { from_step, to_step, at, channels, count: end - start }, from, to);
                }
            };
            put(self.pad, 0, 0, before);
            if let Some(row) = row {
                let from = row.from((first + before * dilation).wrapping_sub(reach));
                put(from, dilation * shape.stride, before, within);
            }
            put(self.pad, 0, within, count);
        }
    }
}

fn of_channels(channels: &[ConvChannel]) -> Constants {
    // Absent channels of the last group: any valid factor.
    let mut constants = Constants { bias: [0; MAX_GROUP], factor: [0; MAX_GROUP], shift: [1; MAX_GROUP] };
    for (i, channel) in channels.iter().enumerate().take(MAX_GROUP) {
        let (factor, shift) = HighWord::new(channel.scale, 32).map_or((0, 1), |high| (high.factor, high.shift));
        if let (Some(b), Some(f), Some(s)) =
            (constants.bias.get_mut(i), constants.factor.get_mut(i), constants.shift.get_mut(i))
        {
            (*b, *f, *s) = (channel.bias, factor, shift as i32);
        }
    }
    constants
}

#[cfg(test)]
mod tests {
    use super::super::model::{DspModel, HeliumModel, NeonModel};
    use super::*;
    use crate::kernels::conv::{conv_int8, conv_plain, output_size};
    use crate::kernels::testing::{Scratch, Stream, TestMap, conv_reads, in_bands};
    use crate::quant::Multiplier;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn a_layer_outside_the_range_is_left_alone() {
        let input = TestMap::filled(1i8, 4, 4, 4, 0);
        let window = Window { kernel: 3, stride: 1, dilation: 1 };
        let run = |factor: f64, place| {
            let channel = [ConvChannel { bias: 0, scale: Multiplier::from_real(factor).unwrap() }];
            let mut out = TestMap::filled(99i8, 4, 4, 1, 0);
            let (mut a, mut b) = ([9; 3072], [9; 3072]);
            let buffers = (a.as_mut_slice(), b.as_mut_slice());
            let map = input.map();
            let done = convolve::<HeliumModel>(window, &map, 0, &[1; 36], &channel, place, buffers, &mut out.map_mut());
            (done, out.data.iter().all(|&v| v == 99))
        };
        assert_eq!(run(0.249, Output::int8(0, false)), (Ok(true), false));
        assert_eq!(run(0.25, Output::int8(0, false)), (Ok(false), true));
        assert_eq!(run(0.1, Output::logit()), (Ok(false), true));
    }

    type Layer<'a> = (Window, &'a TestMap<i8>, i8, &'a [i8], &'a [ConvChannel], Output);

    /// What a core's inner loops make of a layer, `band` rows at a time, in working memory full of nonsense.
    fn over<M: Micro>(layer: Layer, band: usize, empty: &TestMap<i8>) -> Vec<i8> {
        let (window, input, zero, weights, channels, place) = layer;
        let nonsense = || Stream(1).i8s(3072).into_iter().map(M::Tap::from).collect::<Vec<_>>();
        let (mut columns, mut arranged, mut found) = (nonsense(), nonsense(), empty.clone());
        in_bands(&[input], &mut found, band, conv_reads(window), |maps, mut out| {
            let buffers = (columns.as_mut_slice(), arranged.as_mut_slice());
            let done = convolve::<M>(window, &maps[0], zero, weights, channels, place, buffers, &mut out);
            assert_eq!(done, Ok(true));
        });
        found.data
    }

    proptest! {
        #[test]
        fn every_layout_gives_the_plain_kernels_bytes(seed: u64, kernel in prop_oneof![Just(1usize), Just(3), Just(5)],
            (stride, dilation) in prop_oneof![Just((1usize, 1usize)), Just((2, 1)), Just((1, 2)), Just((1, 3)), Just((1, 5))],
            h in 1usize..12, band in 1usize..12, w in 1usize..40, cin in 1usize..18, cout in 1usize..20, gaps in (0usize..3, 0usize..3),
            zero_in in -128i32..=127, zero_out in -128i32..=127, relu: bool, factor in 1e-7f64..0.249) {
            let mut stream = Stream(seed);
            let window = Window { kernel, stride, dilation };
            let input = TestMap::new(|n| stream.i8s(n), h, w, cin, gaps.0);
            let taps = kernel * kernel * cin;
            let weights = stream.weights(cout * taps);
            let channels: Vec<ConvChannel> = weights.chunks(taps).map(|w| {
                let scale = Multiplier::from_real(factor / (1 + stream.next() % 4) as f64).unwrap();
                ConvChannel::folded((stream.next() % 20_001) as i64 - 10_000, w, zero_in, scale).unwrap()
            }).collect();
            let place = Output::int8(zero_out, relu);
            let mut plain = TestMap::filled(99i8, output_size(h, stride), output_size(w, stride), cout, gaps.1);
            let (empty, mut own) = (plain.clone(), plain.clone());
            let (map, zero, mut scratch) = (input.map(), zero_in as i8, Scratch::new(kernel, cin));
            conv_plain(window, map, zero, &weights, &channels, place, scratch.bytes(), plain.map_mut()).unwrap();
            in_bands(&[&input], &mut own, band, conv_reads(window), |maps, out| {
                conv_int8(window, maps[0], zero, &weights, &channels, place, scratch.bytes(), out).unwrap();
            });
            prop_assert_eq!(&own.data, &plain.data);
            let layer = (window, &input, zero, weights.as_slice(), channels.as_slice(), place);
            prop_assert_eq!(&over::<HeliumModel>(layer, band, &empty), &plain.data);
            prop_assert_eq!(&over::<DspModel>(layer, band, &empty), &plain.data);
            prop_assert_eq!(&over::<NeonModel>(layer, band, &empty), &plain.data);
            #[cfg(kernels = "neon")]
            if super::super::neon::has_dot_product() {
                prop_assert_eq!(&over::<super::super::neon::Neon>(layer, band, &empty), &plain.data);
            }
        }
    }
}
