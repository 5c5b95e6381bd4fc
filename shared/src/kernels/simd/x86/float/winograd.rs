//! Winograd's convolution: an input tile of 6×6 pixels and a filter meet in 36 products, from which a 3×3 window makes
//! 4×4 outputs (a quarter of the definition's products) and a 5×5 window 2×2 (36 in place of 100).
//!
//! With the points 0, ±1, ±2, ∞ in both directions: out = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, summed over the input channels before
//! A is applied. B is the same for both windows. A channel is a lane throughout. Tiles of a dilated window are a dilation
//! apart. Input channels are taken [`CHUNK`] at a time, later ones adding to what is in the output.
//!
//! The products of large factors are what this costs: results are within a few times the rounding of the definition.
#![allow(unsafe_code)]

use super::fma::{Isa, Vector};
use crate::kernels::conv::Window;
use crate::kernels::{Map, MapMut};
use core::arch::x86_64::{__m256, __m512};

/// Side of a tile, and its products.
const SIDE: usize = 6;
const POINTS: usize = SIDE * SIDE;
/// Tiles that are multiplied together.
const TILES: usize = 16;
/// Vectors from one point to the next, one more than tiles: powers of two would fall on a few sets of the first cache.
const STRIDE: usize = TILES + 1;
const PLACES: usize = POINTS * STRIDE;
/// Most input channels of a pass, and most pairs of an input and an output channel.
const CHUNK: usize = 32;
const PAIRS: usize = CHUNK * 64;
/// Maps with fewer pixels do not repay the transformation of the weights.
const LEAST_PIXELS: usize = 1024;

/// The rows that `output` holds of a layer whose shapes have been checked, the first of them the first of a tile; `false`,
/// and nothing written, where it is not of this form's kind.
pub fn conv(
    isa: Isa,
    window: Window,
    relu: bool,
    input: &Map<f32>,
    weights: &[f32],
    bias: &[f32],
    output: &mut MapMut<f32>,
) -> bool {
    let (channels, lanes) = (input.shape().channels, isa.lanes(bias.len()));
    let pixels = input.shape().pixels();
    let whole = |n: usize| n.is_multiple_of(lanes);
    let fits = window.stride == 1 && matches!(window.kernel, 3 | 5) && whole(channels) && whole(bias.len());
    if !fits || pixels < LEAST_PIXELS || bias.len() * channels.min(CHUNK) > PAIRS {
        return false;
    }
    let layer = Layer { window, low: if relu { 0.0 } else { f32::NEG_INFINITY }, input, weights, bias };
    // SAFETY: `detect` saw the instructions, or a test did.
    unsafe {
        match (isa, lanes) {
            (Isa::Avx512, 16) => avx512(&layer, output),
            (Isa::Avx512, _) => avx512_half(&layer, output),
            (Isa::Avx2, _) => avx2(&layer, output),
            #[cfg(test)]
            (Isa::Model(_), 16) => layer.run::<[f32; 16], 16>(output),
            #[cfg(test)]
            (Isa::Model(_), _) => layer.run::<[f32; 8], 16>(output),
        }
    }
    true
}

/// # Safety
/// The processor has AVX-512 F and VL. So for its neighbours.
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn avx512(layer: &Layer, output: &mut MapMut<f32>) {
    // SAFETY: forwarded.
    unsafe { layer.run::<__m512, 16>(output) }
}

#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn avx512_half(layer: &Layer, output: &mut MapMut<f32>) {
    // SAFETY: forwarded.
    unsafe { layer.run::<__m256, 16>(output) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(layer: &Layer, output: &mut MapMut<f32>) {
    // SAFETY: forwarded.
    unsafe { layer.run::<__m256, 8>(output) }
}

struct Layer<'a> {
    window: Window,
    low: f32,
    input: &'a Map<'a, f32>,
    weights: &'a [f32],
    bias: &'a [f32],
}

/// What one pass over the map works on: input channels from `first` on, of which there are `count`.
struct Pass<'a> {
    first: usize,
    count: usize,
    /// `[block of outputs][point][channel][lane]`.
    filters: &'a [f32],
}

/// Transformed tiles, `[block of channels][point][tile][lane]`, and their products with the filters of one block of outputs.
struct Tiles<'a> {
    inputs: &'a mut [f32],
    products: [f32; PLACES * 16],
    /// One tile between its two transformations, `[column][row][lane]`.
    columns: [f32; POINTS * 16],
}

impl Layer<'_> {
    /// `P` tiles are multiplied at a time.
    #[inline(always)]
    unsafe fn run<V: Vector, const P: usize>(&self, output: &mut MapMut<f32>) {
        // Zeroing the room for the widest layers would take longer than the narrowest ones.
        // SAFETY: forwarded.
        unsafe {
            match self.bias.len().max(self.input.shape().channels) {
                ..=8 => self.passes::<V, P>(&mut [0.0; POINTS * 64], &mut [0.0; PLACES * 8], output),
                9..=16 => self.passes::<V, P>(&mut [0.0; POINTS * 256], &mut [0.0; PLACES * 16], output),
                _ => self.passes::<V, P>(&mut [0.0; POINTS * PAIRS], &mut [0.0; PLACES * CHUNK], output),
            }
        }
    }

    #[inline(always)]
    unsafe fn passes<V: Vector, const P: usize>(
        &self,
        filters: &mut [f32],
        inputs: &mut [f32],
        output: &mut MapMut<f32>,
    ) {
        let channels = self.input.shape().channels;
        let mut tiles = Tiles { inputs, products: [0.0; PLACES * 16], columns: [0.0; POINTS * 16] };
        for first in (0..channels).step_by(CHUNK) {
            let count = CHUNK.min(channels - first);
            // SAFETY: forwarded.
            unsafe {
                self.transform_filters::<V>(first, count, filters);
                let pass = Pass { first, count, filters };
                if self.window.kernel == 3 {
                    self.pass::<V, P, 4>(&pass, &mut tiles, output);
                } else {
                    self.pass::<V, P, 2>(&pass, &mut tiles, output);
                }
            }
        }
    }

    /// G g Gᵀ of every pair of an input channel of the pass and an output channel.
    #[inline(always)]
    unsafe fn transform_filters<V: Vector>(&self, first: usize, count: usize, filters: &mut [f32]) {
        let (kernel, channels) = (self.window.kernel, self.input.shape().channels);
        let patch = kernel * kernel * channels;
        let room = (POINTS * count * V::LANES).max(1);
        for (weights, filters) in self.weights.chunks(patch * V::LANES).zip(filters.chunks_exact_mut(room)) {
            for channel in 0..count {
                let mut taps = [[[0.0f32; 16]; 5]; 5];
                for (o, weights) in weights.chunks(patch).enumerate() {
                    for (i, pixel) in weights.chunks(channels).enumerate() {
                        let tap = taps
                            .get_mut(i / kernel)
                            .and_then(|row| row.get_mut(i % kernel))
                            .and_then(|tap| tap.get_mut(o));
                        if let (Some(tap), Some(weight)) = (tap, pixel.get(first + channel)) {
                            *tap = *weight;
                        }
                    }
                }
                // SAFETY: `filters` has a vector for every point and channel; taps are 16 values each.
                unsafe {
                    let mut columns = [[V::splat(0.0); SIDE]; 5];
                    let taps = taps.as_ptr().cast::<f32>();
                    for (kx, column) in columns.iter_mut().enumerate().take(kernel) {
                        *column = filter::<V>(loads(taps.add(16 * kx), 16 * 5), kernel);
                    }
                    for i in 0..SIDE {
                        let mut row = [V::splat(0.0); 5];
                        for (tap, column) in row.iter_mut().zip(&columns) {
                            *tap = column[i];
                        }
                        let row = filter(row, kernel);
                        for (j, value) in row.into_iter().enumerate() {
                            let at = ((i * SIDE + j) * count + channel) * V::LANES;
                            value.store(V::LANES, filters.as_mut_ptr().add(at));
                        }
                    }
                }
            }
        }
    }

    /// `M` outputs a side of each tile.
    #[inline(always)]
    unsafe fn pass<V: Vector, const P: usize, const M: usize>(
        &self,
        pass: &Pass,
        tiles: &mut Tiles,
        output: &mut MapMut<f32>,
    ) {
        let (shape, rows, dilation) = (self.input.shape(), output.rows(), self.window.dilation);
        let mut corners = [[0; 2]; TILES];
        let mut n = 0;
        for residue in 0..dilation * dilation {
            let (top, left) = (rows.start + residue / dilation, residue % dilation);
            for y in (top..rows.end).step_by(M * dilation) {
                for x in (left..shape.width).step_by(M * dilation) {
                    if let Some(corner) = corners.get_mut(n) {
                        *corner = [y, x];
                    }
                    n += 1;
                    if n == TILES {
                        // SAFETY: forwarded.
                        unsafe { self.batch::<V, P, M>(pass, &corners, tiles, output) };
                        n = 0;
                    }
                }
            }
        }
        // SAFETY: forwarded.
        unsafe { self.batch::<V, P, M>(pass, corners.get(..n).unwrap_or_default(), tiles, output) };
    }

    /// The tiles whose first outputs are `corners`.
    #[inline(always)]
    unsafe fn batch<V: Vector, const P: usize, const M: usize>(
        &self,
        pass: &Pass,
        corners: &[[usize; 2]],
        tiles: &mut Tiles,
        output: &mut MapMut<f32>,
    ) {
        let blocks = pass.count / V::LANES;
        // SAFETY: forwarded; a block of filters has `pass.count` vectors for every point.
        unsafe {
            for (t, &corner) in corners.iter().enumerate() {
                for (block, inputs) in tiles.inputs.chunks_exact_mut(PLACES * V::LANES).enumerate().take(blocks) {
                    self.transform_input::<V>(corner, pass.first + block * V::LANES, t, &mut tiles.columns, inputs);
                }
            }
            let filters = pass.filters.chunks_exact((POINTS * pass.count * V::LANES).max(1));
            for (o, filters) in filters.enumerate().take(self.bias.len() / V::LANES) {
                for first in (0..corners.len()).step_by(P) {
                    multiply::<V, P>(tiles.inputs, blocks, filters, first, &mut tiles.products);
                }
                for (t, &corner) in corners.iter().enumerate() {
                    self.transform_output::<V, M>(corner, o * V::LANES, pass, t, tiles, output);
                }
            }
        }
    }

    /// Bᵀ d B of one block of channels.
    #[inline(always)]
    unsafe fn transform_input<V: Vector>(
        &self,
        [y, x]: [usize; 2],
        channel: usize,
        tile: usize,
        columns: &mut [f32; POINTS * 16],
        to: &mut [f32],
    ) {
        let (shape, dilation) = (self.input.shape(), self.window.dilation);
        let reach = self.window.kernel / 2 * dilation;
        // SAFETY: a pixel has `V::LANES` channels from `channel` on, `columns` room for a vector at every point, `to` for
        // one at every place.
        unsafe {
            let (across, down) = (dilation * shape.stride, dilation * shape.width * shape.stride);
            let corner = y.checked_sub(reach).zip(x.checked_sub(reach));
            let corner = corner.filter(|(_, x)| x + (SIDE - 1) * dilation < shape.width);
            let inside = corner.map(|(y, x)| self.input.from(y, x).get(channel..).unwrap_or_default());
            let inside = inside.filter(|from| (SIDE - 1) * (across + down) + V::LANES <= from.len());
            for j in 0..SIDE {
                let taps = if let Some(from) = inside {
                    loads(from.as_ptr().add(j * across), down)
                } else {
                    let x = (x + j * dilation).wrapping_sub(reach);
                    let mut taps = [V::splat(0.0); SIDE];
                    for (i, tap) in taps.iter_mut().enumerate() {
                        let row = self.input.row((y + i * dilation).wrapping_sub(reach));
                        if let Some(pixel) = row.and_then(|row| row.pixel(x)?.get(channel..channel + V::LANES)) {
                            *tap = V::load(pixel.as_ptr());
                        }
                    }
                    taps
                };
                for (i, value) in tile_of(taps).into_iter().enumerate() {
                    value.store(V::LANES, columns.as_mut_ptr().add((j * SIDE + i) * V::LANES));
                }
            }
            for i in 0..SIDE {
                let row = tile_of::<V>(loads(columns.as_ptr().add(i * V::LANES), SIDE * V::LANES));
                for (j, value) in row.into_iter().enumerate() {
                    value.store(V::LANES, to.as_mut_ptr().add(((i * SIDE + j) * STRIDE + tile) * V::LANES));
                }
            }
        }
    }

    /// Aᵀ m A of one block of output channels, added to the bias or to what is there.
    #[inline(always)]
    unsafe fn transform_output<V: Vector, const M: usize>(
        &self,
        [y, x]: [usize; 2],
        channel: usize,
        pass: &Pass,
        tile: usize,
        tiles: &mut Tiles,
        output: &mut MapMut<f32>,
    ) {
        let (shape, end, dilation) = (self.input.shape(), output.rows().end, self.window.dilation);
        // SAFETY: there is a product at every place and room for `M` vectors for every column; the bias and a pixel of the
        // output have `V::LANES` from `channel` on.
        unsafe {
            let Tiles { products, columns, .. } = tiles;
            for j in 0..SIDE {
                let points = loads(products.as_ptr().add((j * STRIDE + tile) * V::LANES), SIDE * STRIDE * V::LANES);
                for (i, value) in outputs::<V, M>(points).into_iter().enumerate() {
                    value.store(V::LANES, columns.as_mut_ptr().add((j * M + i) * V::LANES));
                }
            }
            let bias = V::load(self.bias.as_ptr().add(channel));
            let last = pass.first + pass.count == shape.channels;
            let low = V::splat(if last { self.low } else { f32::NEG_INFINITY });
            for i in 0..M {
                let y = y + i * dilation;
                if y >= end {
                    break;
                }
                let row = outputs::<V, M>(loads(columns.as_ptr().add(i * V::LANES), M * V::LANES));
                for (j, value) in row.into_iter().enumerate() {
                    let x = x + j * dilation;
                    if x >= shape.width {
                        break;
                    }
                    let Some(out) = output.from_mut(y, x).get_mut(channel..channel + V::LANES) else { return };
                    let before = if pass.first == 0 { bias } else { V::load(out.as_ptr()) };
                    value.add(before).at_least(low).store(V::LANES, out.as_mut_ptr());
                }
            }
        }
    }
}

/// The products of `P` tiles from `first` on with the filters of a block of outputs, summed over the channels.
#[inline(always)]
unsafe fn multiply<V: Vector, const P: usize>(
    inputs: &[f32],
    blocks: usize,
    filters: &[f32],
    first: usize,
    products: &mut [f32; PLACES * 16],
) {
    let mut filters = filters.as_ptr();
    for point in 0..POINTS {
        let at = point * STRIDE + first;
        // SAFETY: `first` + `P` is at most `TILES`; there is a filter for every channel of `blocks` blocks.
        unsafe {
            let mut sums = [V::splat(0.0); P];
            for block in 0..blocks {
                let from = inputs.as_ptr().add((block * PLACES + at) * V::LANES);
                for channel in 0..V::LANES {
                    let filter = V::load(filters);
                    filters = filters.add(V::LANES);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.fma(filter, V::splat(*from.add(p * V::LANES + channel)));
                    }
                }
            }
            for (p, sum) in sums.into_iter().enumerate() {
                sum.store(V::LANES, products.as_mut_ptr().add((at + p) * V::LANES));
            }
        }
    }
}

/// Vectors `step` elements apart.
#[inline(always)]
unsafe fn loads<V: Vector, const N: usize>(from: *const f32, step: usize) -> [V; N] {
    // SAFETY: forwarded.
    unsafe {
        let mut vectors = [V::splat(0.0); N];
        for (i, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(from.add(i * step));
        }
        vectors
    }
}

/// Bᵀ d.
#[inline(always)]
unsafe fn tile_of<V: Vector>([a, b, c, d, e, f]: [V; SIDE]) -> [V; SIDE] {
    // SAFETY: forwarded.
    unsafe {
        let (two, four, five) = (V::splat(-2.0), V::splat(-4.0), V::splat(-5.0));
        let (even, odd) = (e.fma(four, c), d.fma(four, b));
        let (outer, inner) = (e.sub(c), b.sub(d));
        [
            e.fma(five, c).fma(V::splat(4.0), a),
            even.add(odd),
            even.sub(odd),
            outer.fma(two, inner),
            outer.fma(V::splat(2.0), inner),
            f.fma(five, d).fma(V::splat(4.0), b),
        ]
    }
}

/// G g, of three taps (the others zero) or of five.
#[inline(always)]
unsafe fn filter<V: Vector>(taps: [V; 5], kernel: usize) -> [V; SIDE] {
    let [a, b, c, d, e] = taps;
    // SAFETY: forwarded.
    unsafe {
        let zero = V::splat(0.0);
        let scaled = |by: f32, v: V| zero.fma(V::splat(by), v);
        let even = a.add(c).add(e);
        let odd = b.add(d);
        let (far, off) = (a.fma(V::splat(4.0), c).fma(V::splat(16.0), e), scaled(2.0, b).fma(V::splat(8.0), d));
        [
            scaled(0.25, a),
            scaled(-1.0 / 6.0, even.add(odd)),
            scaled(-1.0 / 6.0, even.sub(odd)),
            scaled(1.0 / 24.0, far.add(off)),
            scaled(1.0 / 24.0, far.sub(off)),
            if kernel == 3 { c } else { e },
        ]
    }
}

/// Aᵀ m: two outputs of a 5×5 window or four of a 3×3 one.
#[inline(always)]
unsafe fn outputs<V: Vector, const M: usize>([a, b, c, d, e, f]: [V; SIDE]) -> [V; M] {
    // SAFETY: forwarded.
    unsafe {
        let (near, slope) = (b.add(c), b.sub(c));
        let (far, steep) = (d.add(e), d.sub(e));
        let mut out = [a; M];
        for (i, out) in out.iter_mut().enumerate() {
            let power = V::splat((1 << i) as f32);
            let value = if i == 0 {
                a.add(near).add(far)
            } else if i % 2 == 0 {
                near.fma(power, far)
            } else {
                slope.fma(power, steep)
            };
            *out = if i + 1 == M { value.add(f) } else { value };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{forms, naive};
    use super::*;
    use crate::kernels::testing::{Stream, TestMap, conv_reads, in_bands};
    use proptest::prelude::*;
    extern crate std;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_form_is_close_to_the_definition_and_the_bits_of_its_model(seed: u64, kernel in prop_oneof![Just(3usize), Just(5)],
            dilation in prop_oneof![Just(1usize), Just(2), Just(3), Just(5)], h in 16usize..48, band in 1usize..48, cin in 1usize..7, cout in 1usize..4,
            gaps in (0usize..3, 0usize..3), relu: bool) {
            let mut stream = Stream(seed);
            let w = 1024usize.div_ceil(h) + (seed % 7) as usize;
            let window = Window { kernel, stride: 1, dilation };
            for (isa, model) in forms() {
                let lanes = isa.lanes(8 * cout);
                let (cin, cout) = ((8 * cin).next_multiple_of(lanes), (8 * cout).next_multiple_of(lanes));
                let input = TestMap::new(|n| stream.reals(n), h, w, cin, gaps.0);
                let (weights, bias) = (stream.reals(cout * kernel * kernel * cin), stream.reals(cout));
                let empty = TestMap::filled(99f32, h, w, cout, gaps.1);
                let run = |isa: Isa| {
                    let mut out = empty.clone();
                    in_bands(&[&input], &mut out, band, conv_reads(window), |maps, mut out| {
                        assert!(conv(isa, window, relu, &maps[0], &weights, &bias, &mut out));
                    });
                    out
                };
                let out = run(isa);
                if isa != model {
                    prop_assert!(out.data == run(model).data, "{:?} differs from {:?}", isa, model);
                }
                // One output channel of every pixel: the f64 sums take the time.
                for (i, pixel) in out.data.chunks(out.shape.stride).enumerate() {
                    let (y, x, o) = ((i / w) as isize, (i % w) as isize, i % cout);
                    let [sum, magnitude] = naive(window, &input, &weights, y, x, o);
                    let sum = sum + f64::from(bias[o]);
                    let exact = if relu { sum.max(0.0) } else { sum };
                    let error = (f64::from(pixel[o]) - exact).abs();
                    prop_assert!(error <= 4e-6 * (1.0 + magnitude), "{} is {} off, of {}", exact, error, magnitude);
                    prop_assert!(pixel[cout..].iter().all(|&v| v == 99.0));
                }
            }
        }
    }

    #[test]
    fn what_is_not_of_this_form_is_left_alone() {
        let done = |kernel, stride, channels, side: usize| {
            let window = Window { kernel, stride, dilation: 1 };
            let input = TestMap::filled(1f32, side, side, channels, 0);
            let mut out = TestMap::filled(0f32, side.div_ceil(stride), side.div_ceil(stride), 16, 0);
            let weights = std::vec![0.0; 16 * kernel * kernel * channels];
            conv(Isa::Model(16), window, false, &input.map(), &weights, &[7.0; 16], &mut out.map_mut())
        };
        assert!(done(3, 1, 16, 32) && done(5, 1, 32, 32));
        assert!(!done(3, 2, 16, 32) && !done(7, 1, 16, 32) && !done(3, 1, 15, 32) && !done(3, 1, 16, 31));
    }
}
