//! The float convolution over the inner loops of [`fma`].
//!
//! A tile of output pixels has its input gathered once, padding filled in, in blocks of four, eight or sixteen channels,
//! `[block][row][pixel][channel]`: then every tap of every output pixel is at a fixed distance from the first. With a
//! stride the pixels of a row are kept by their residue, and the rows of a tile are a dilation apart, for the same reason.
//! Weights are packed for as many output channels at a time as fit, in the order in which they are used.

pub mod gate;

mod fma;
mod winograd;

use self::fma::{Isa, Lanes, QUAD_PIXELS, Quads, ROWS, Tap};
use crate::Error;
use crate::kernels::conv::{MAX_PATCH, Window};
use crate::kernels::{Map, MapMut};

/// Elements of the gathered tile.
const ROOM: usize = 16 * 1024;
/// Elements that a tile should have at most, so that it stays in the first cache.
const COMFORT: usize = 6 * 1024;
/// Elements of the packed weights: one vector of output channels of the longest patch.
const PACKED: usize = 16 * MAX_PATCH;
/// The same for the narrow layers.
const PACKED_FEW: usize = 4 * 1024;
/// Most taps, counted once for each block of input channels.
const MAX_TAPS: usize = 320;

/// The rows that `output` holds of a layer whose shapes have been checked; `false`, and nothing written, where the
/// processor has not the instructions or a tile does not fit.
pub fn conv(
    window: Window,
    relu: bool,
    input: &Map<f32>,
    weights: &[f32],
    bias: &[f32],
    output: &mut MapMut<f32>,
) -> Result<bool, Error> {
    let Some(isa) = Isa::detect() else { return Ok(false) };
    if winograd::conv(isa, window, relu, input, weights, bias, output) {
        return Ok(true);
    }
    convolve(isa, window, relu, input, weights, bias, output)
}

fn convolve(
    isa: Isa,
    window: Window,
    relu: bool,
    input: &Map<f32>,
    weights: &[f32],
    bias: &[f32],
    output: &mut MapMut<f32>,
) -> Result<bool, Error> {
    let (input, mut output) = if window.kernel == 1 && window.stride == 1 {
        (&input.band(output.rows())?.flattened(), output.flattened())
    } else {
        (input, output.reborrow())
    };
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    let tile = |lanes| Tile::new(isa, window, lanes, input, &output);
    let quads = bias.len() <= 4 && window.stride == 1 && matches!(window.kernel, 1 | 3 | 5);
    let tile = if quads { tile(4) } else { None }.or_else(|| tile(isa.lanes(bias.len())));
    let Some(tile) = tile else { return Ok(false) };
    let layer = Layer { isa, tile, low, bias };
    match layer.tile.lanes {
        4 => layer.run::<4>(input, weights, &mut output)?,
        8 => layer.run::<8>(input, weights, &mut output)?,
        _ => layer.run::<16>(input, weights, &mut output)?,
    }
    Ok(true)
}

struct Layer<'a> {
    isa: Isa,
    tile: Tile,
    low: f32,
    bias: &'a [f32],
}

impl Layer<'_> {
    fn run<const LANES: usize>(
        &self,
        input: &Map<f32>,
        weights: &[f32],
        output: &mut MapMut<f32>,
    ) -> Result<(), Error> {
        let packed = self.tile.patch() * self.bias.len().next_multiple_of(LANES);
        // Filling the room of the widest layers with zeros takes longer than the narrowest ones do.
        if self.tile.elements() <= COMFORT && packed <= PACKED_FEW {
            self.walk::<LANES>(input, weights, output, &mut [0.0; COMFORT], &mut [0.0; PACKED_FEW])
        } else {
            self.walk::<LANES>(input, weights, output, &mut [0.0; ROOM], &mut [0.0; PACKED])
        }
    }

    fn walk<const LANES: usize>(
        &self,
        input: &Map<f32>,
        weights: &[f32],
        output: &mut MapMut<f32>,
        columns: &mut [f32],
        packed: &mut [f32],
    ) -> Result<(), Error> {
        let Layer { tile, bias, .. } = self;
        let Window { stride, dilation, .. } = tile.window;
        let (to, held, out_channels) = (output.shape(), output.rows(), bias.len());
        let mut taps = [Tap::default(); MAX_TAPS];
        let taps = tile.taps(&mut taps).ok_or(Error::Unsupported)?;
        let patch = tile.patch();
        let group = (patch * LANES).max(1);
        let block = (packed.len() / group * LANES).max(LANES);
        for first in (0..out_channels).step_by(block) {
            let last = out_channels.min(first + block);
            let weights = weights.get(first * patch..last * patch).ok_or(Error::Unsupported)?;
            tile.pack::<LANES>(weights, packed);
            for x in (0..to.width).step_by(tile.width.max(1)) {
                let count = tile.width.min(to.width - x);
                for first_row in held.clone().take(dilation) {
                    for y in (first_row..held.end).step_by((dilation * tile.height).max(1)) {
                        let rows = (held.end - y).div_ceil(dilation.max(1)).min(tile.height);
                        tile.gather::<LANES>(input, x * stride, y * stride, rows, columns);
                        let groups = bias.get(first..last).unwrap_or_default().chunks(LANES).zip(packed.chunks(group));
                        for (g, (bias, weights)) in groups.enumerate() {
                            let run = Part { bias, weights, taps, columns, count, rows };
                            let at = first + g * LANES;
                            let out = output.from_mut(y, x).get_mut(at..).ok_or(Error::Unsupported)?;
                            let out_row = dilation * to.width * to.stride;
                            if LANES == 4 {
                                self.quads(run, to.stride, out_row, out)
                            } else {
                                self.lanes::<LANES>(run, to.stride, out_row, out)
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn quads(&self, part: Part, out_step: usize, out_row: usize, out: &mut [f32]) {
        let (tile, mut bias) = (&self.tile, [0.0; 4]);
        bias.iter_mut().zip(part.bias).for_each(|(to, from)| *to = *from);
        for y in (0..part.rows).step_by(ROWS) {
            let (Some(columns), Some(out)) = (part.columns.get(y * tile.row..), out.get_mut(y * out_row..)) else {
                return;
            };
            let run = Quads {
                kernel: tile.window.kernel,
                columns,
                inputs: tile.channels,
                block: tile.block,
                row: tile.row,
                tap: 4 * tile.window.dilation,
                weights: part.weights,
                bias,
                low: self.low,
                count: part.count,
                rows: ROWS.min(part.rows - y),
                out_step,
                out_row,
                channels: part.bias.len(),
            };
            run.run(self.isa, out);
        }
    }

    fn lanes<const LANES: usize>(&self, part: Part, out_step: usize, out_row: usize, out: &mut [f32]) {
        let (tile, mut bias) = (&self.tile, [0.0; 16]);
        bias.iter_mut().zip(part.bias).for_each(|(to, from)| *to = *from);
        for y in 0..part.rows {
            let columns = part.columns.get(y * tile.window.stride * tile.row..);
            let (Some(columns), Some(out)) = (columns, out.get_mut(y * out_row..)) else { return };
            let run = Lanes {
                lanes: LANES,
                columns,
                taps: part.taps,
                weights: part.weights,
                bias: &bias,
                low: self.low,
                count: part.count,
                out_step,
                channels: part.bias.len(),
            };
            run.run(self.isa, out);
        }
    }
}

/// A vector of output channels of a tile.
struct Part<'a> {
    bias: &'a [f32],
    weights: &'a [f32],
    taps: &'a [Tap],
    columns: &'a [f32],
    count: usize,
    rows: usize,
}

/// How a tile of output pixels is gathered.
struct Tile {
    window: Window,
    /// Input channels, and channels of a block.
    channels: usize,
    lanes: usize,
    /// Output rows and pixels of a row.
    height: usize,
    width: usize,
    /// Gathered pixels of one residue of a row.
    phase: usize,
    /// Elements of a gathered row, and of a block of channels.
    row: usize,
    block: usize,
}

impl Tile {
    /// The largest tile that is comfortable, or the smallest one; `None` where that does not fit.
    fn new(isa: Isa, window: Window, lanes: usize, input: &Map<f32>, output: &MapMut<f32>) -> Option<Self> {
        let Window { kernel, stride, dilation } = window;
        let (channels, to) = (input.shape().channels, output.shape());
        let pixels = if lanes == 4 { QUAD_PIXELS } else { isa.pixels() };
        let blocks = channels.div_ceil(lanes);
        if blocks * kernel * kernel > MAX_TAPS {
            return None;
        }
        let of = |height: usize, width: usize| {
            let phase = width.next_multiple_of(pixels) + (kernel - 1) * dilation / stride;
            let row = stride * phase * lanes;
            let rows = (height - 1) * stride + kernel;
            Tile { window, channels, lanes, height, width, phase, row, block: rows * row }
        };
        let least = if lanes == 4 { ROWS } else { 1 };
        let mut tile = of(least, pixels);
        if tile.elements() > ROOM {
            return None;
        }
        // Whichever way the next tile gathers fewer elements for each output.
        loop {
            let [taller, wider] = [of(tile.height + least, tile.width), of(tile.height, tile.width + pixels)];
            let fits = |next: &Tile| next.elements() <= COMFORT;
            let taller = Some(taller).filter(|next| fits(next) && tile.height < to.height);
            let wider = Some(wider).filter(|next| fits(next) && tile.width < to.width);
            let cost = |tile: &Tile, other: &Tile| tile.elements() * other.height * other.width;
            tile = match (taller, wider) {
                (Some(a), Some(b)) if cost(&a, &b) < cost(&b, &a) => a,
                (_, Some(next)) | (Some(next), None) => next,
                (None, None) => return Some(tile),
            };
        }
    }

    /// Elements of a gathered tile.
    fn elements(&self) -> usize {
        self.block * self.channels.div_ceil(self.lanes.max(1))
    }

    /// Taps of one output channel.
    fn patch(&self) -> usize {
        self.window.kernel * self.window.kernel * self.channels
    }

    /// Where the taps begin, block by block, row by row.
    fn taps<'a>(&self, taps: &'a mut [Tap]) -> Option<&'a [Tap]> {
        let Window { kernel, stride, dilation } = self.window;
        let mut n = 0;
        for block in 0..self.channels.div_ceil(self.lanes.max(1)) {
            for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                let column = kx * dilation;
                let (residue, index) = (column % stride.max(1), column / stride.max(1));
                *taps.get_mut(n)? = Tap {
                    at: block * self.block + ky * self.row + (residue * self.phase + index) * self.lanes,
                    channels: self.lanes.min(self.channels - block * self.lanes),
                };
                n += 1;
            }
        }
        taps.get(..n)
    }

    /// Puts weights `[out][ky][kx][in]` into the order in which they are used, `LANES` outputs at a time.
    fn pack<const LANES: usize>(&self, weights: &[f32], packed: &mut [f32]) {
        let (kernel, channels) = (self.window.kernel, self.channels);
        let patch = self.patch();
        let groups = weights.chunks((LANES * patch).max(1)).zip(packed.chunks_mut((LANES * patch).max(1)));
        for (weights, packed) in groups {
            let mut vectors = packed.as_chunks_mut::<LANES>().0.iter_mut();
            let mut vector = |ky: usize, kx: usize, channel: usize| {
                let Some(vector) = vectors.next() else { return };
                let at = (ky * kernel + kx) * channels + channel;
                for (o, to) in vector.iter_mut().enumerate() {
                    *to = weights.get(o * patch + at).map_or(0.0, |w| *w);
                }
            };
            if LANES == 4 {
                for channel in (0..4).flat_map(|first| (first..channels).step_by(4)) {
                    (0..kernel).for_each(|kx| (0..kernel).for_each(|ky| vector(ky, kx, channel)));
                }
                continue;
            }
            for block in (0..channels).step_by(LANES) {
                for tap in 0..kernel * kernel {
                    let channels = block..channels.min(block + LANES);
                    channels.for_each(|channel| vector(tap / kernel, tap % kernel, channel));
                }
            }
        }
    }

    /// The input of `rows` output rows whose first tap row is `y` less the reach, from column `x` less the reach on.
    fn gather<const LANES: usize>(&self, input: &Map<f32>, x: usize, y: usize, rows: usize, columns: &mut [f32]) {
        let Window { kernel, stride, dilation } = self.window;
        let reach = (kernel - 1) * dilation / 2;
        let shape = input.shape();
        for r in 0..(rows.max(1) - 1) * stride + kernel {
            // A row above the map wraps to a huge number, which lies outside it too.
            let row = input.row((y + r * dilation).wrapping_sub(reach));
            for phase in 0..stride {
                // Gathered pixel i is column x + phase + i·stride − reach.
                let first = x + phase;
                let before = reach.saturating_sub(first).div_ceil(stride.max(1)).min(self.phase);
                let within =
                    (reach + shape.width).saturating_sub(first).div_ceil(stride.max(1)).min(self.phase).max(before);
                for block in 0..self.channels.div_ceil(LANES) {
                    let at = block * self.block + r * self.row + phase * self.phase * LANES;
                    let Some(to) = columns.get_mut(at..).and_then(|to| to.get_mut(..self.phase * LANES)) else {
                        return;
                    };
                    let to = to.as_chunks_mut::<LANES>().0;
                    let Some(row) = row else {
                        to.fill([0.0; LANES]);
                        continue;
                    };
                    if let Some(left) = to.get_mut(..before) {
                        left.fill([0.0; LANES]);
                    }
                    if let Some(right) = to.get_mut(within..) {
                        right.fill([0.0; LANES]);
                    }
                    let from = row.from((first + before * stride).wrapping_sub(reach)).get(block * LANES..);
                    let to = to.get_mut(before..within).unwrap_or_default();
                    let channels = LANES.min(self.channels - block * LANES);
                    copy(from.unwrap_or_default(), stride * shape.stride, channels, to);
                }
            }
        }
    }
}

/// `channels` values of each pixel, pixels `step` elements apart.
#[inline(always)]
pub(super) fn copy<const LANES: usize>(from: &[f32], step: usize, channels: usize, to: &mut [[f32; LANES]]) {
    if channels == LANES && step == LANES {
        to.iter_mut().zip(from.as_chunks::<LANES>().0).for_each(|(to, from)| *to = *from);
        return;
    }
    if channels == LANES {
        for (i, to) in to.iter_mut().enumerate() {
            if let Some(from) = from.get(i * step..).and_then(|from| from.first_chunk::<LANES>()) {
                *to = *from;
            }
        }
        return;
    }
    for (i, to) in to.iter_mut().enumerate() {
        let from = from.get(i * step..i * step + channels).unwrap_or_default();
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernels::conv::output_size;
    use crate::kernels::testing::{Stream, TestMap, conv_reads, in_bands};
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    /// The definition in f64 with the sum of magnitudes, in units of which a rounded sum is off by its number of terms.
    pub fn naive(w: Window, input: &TestMap<f32>, weights: &[f32], y: isize, x: isize, o: usize) -> [f64; 2] {
        let (c, k) = (input.shape.channels, w.kernel);
        let reach = ((k - 1) * w.dilation / 2) as isize;
        let mut sums = [0.0; 2];
        for (i, &weight) in weights[o * k * k * c..(o + 1) * k * k * c].iter().enumerate() {
            let (ky, kx) = (i / (k * c), i / c % k);
            let iy = y * w.stride as isize + (ky * w.dilation) as isize - reach;
            let ix = x * w.stride as isize + (kx * w.dilation) as isize - reach;
            let product = f64::from(weight) * f64::from(input.at(iy, ix, i % c, 0.0));
            sums[0] += product;
            sums[1] += product.abs();
        }
        sums
    }

    /// Every form that can run here, and the form of arrays that it must equal.
    pub fn forms() -> Vec<(Isa, Isa)> {
        let mut forms = std::vec![(Isa::Model(16), Isa::Model(16)), (Isa::Model(8), Isa::Model(8))];
        forms.extend(std::is_x86_feature_detected!("avx512vl").then_some((Isa::Avx512, Isa::Model(16))));
        let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        forms.extend(avx2.then_some((Isa::Avx2, Isa::Model(8))));
        forms
    }

    fn channels() -> impl Strategy<Value = usize> {
        prop_oneof![1usize..30, Just(64), Just(80)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_form_is_the_definition_and_the_bits_of_its_model(seed: u64,
            kernel in prop_oneof![Just(1usize), Just(3), Just(5), Just(7)],
            (stride, dilation) in prop_oneof![Just((1usize, 1usize)), Just((2, 1)), Just((3, 1)), Just((1, 2)), Just((1, 3)), Just((1, 5))],
            h in 1usize..14, band in 1usize..14, w in 1usize..40, cin in channels(), cout in channels(), gaps in (0usize..3, 0usize..3), relu: bool) {
            let (cin, cout) = if kernel < 5 { (cin, cout) } else { (cin % 24 + 1, cout % 24 + 1) };
            let (h, w) = if cin * cout < 400 { (h, w) } else { (h % 4 + 1, w % 20 + 1) };
            let mut stream = Stream(seed);
            let window = Window { kernel, stride, dilation };
            let input = TestMap::new(|n| stream.reals(n), h, w, cin, gaps.0);
            let taps = kernel * kernel * cin;
            let (weights, bias) = (stream.reals(cout * taps), stream.reals(cout));
            let empty = TestMap::filled(99f32, output_size(h, stride), output_size(w, stride), cout, gaps.1);
            let run = |isa: Isa| {
                let mut out = empty.clone();
                in_bands(&[&input], &mut out, band, conv_reads(window), |maps, mut out| {
                    assert_eq!(convolve(isa, window, relu, &maps[0], &weights, &bias, &mut out), Ok(true));
                });
                out
            };
            for (isa, model) in forms() {
                let out = run(isa);
                prop_assert!(isa == model || out.data == run(model).data, "{:?} differs from {:?}", isa, model);
                for (i, &found) in out.data.iter().enumerate() {
                    let (pixel, o) = (i / out.shape.stride, i % out.shape.stride);
                    if o >= cout {
                        prop_assert_eq!(found, 99.0);
                        continue;
                    }
                    let (y, x) = ((pixel / out.shape.width) as isize, (pixel % out.shape.width) as isize);
                    let [sum, magnitude] = naive(window, &input, &weights, y, x, o);
                    let (sum, magnitude) = (sum + f64::from(bias[o]), magnitude + f64::from(bias[o].abs()));
                    let exact = if relu { sum.max(0.0) } else { sum };
                    let bound = (taps + 1) as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude;
                    prop_assert!((f64::from(found) - exact).abs() <= bound, "{found} for {exact} at {y}, {x}, {o}");
                }
            }
        }
    }

    /// Every layer of the networks runs here, whatever the frame.
    #[test]
    fn the_widest_layers_have_a_tile() {
        for (kernel, stride, dilation, channels) in
            [(3, 1, 1, 256), (5, 1, 1, 64), (3, 1, 5, 64), (1, 1, 1, 320), (3, 2, 1, 64)]
        {
            let window = Window { kernel, stride, dilation };
            let input = TestMap::filled(1f32, 16, 640, channels, 0);
            let weights = std::vec![1f32; kernel * kernel * channels];
            for (isa, _) in forms().into_iter().filter(|(isa, model)| isa != model) {
                let mut out = TestMap::filled(0f32, output_size(16, stride), output_size(640, stride), 1, 0);
                assert_eq!(convolve(isa, window, false, &input.map(), &weights, &[0.0], &mut out.map_mut()), Ok(true));
                assert_eq!(out.data[out.data.len() / 2 + 50], (kernel * kernel * channels) as f32);
            }
        }
    }
}
