//! Convolution over AVX-512 VNNI or AVX2: the fast twin of [`crate::kernels::conv`].
//!
//! The rows of input that a row of output needs lie in a ring as planes of [`quads`](super::quads), padding filled in, so
//! that a tap of neighbouring pixels is one unaligned load. Rows of one residue modulo the dilation follow each other, so
//! that each enters the ring once. Activations are x + 128, whose 128·Σw is taken off the bias.
//!
//! VNNI multiplies four unsigned by four signed bytes into each 32-bit lane (`vpdpbusd`), so that the weights of an output
//! channel are one word a tap, for all lanes, and lie right in the model image. AVX2 has no such product that is exact: it
//! takes the even and the odd channels of a quad as halves (`vpmaddwd`), and weights in two words of two halves each.

use core::arch::x86_64::{__m256i, __m512i};
use core::mem::MaybeUninit;

use super::Level;
use super::quads::{PIXELS, Planes, constant, interleave, quads};
use super::requantise::{Factor, Place};
use super::vector::Vector;
use crate::Error;
use crate::kernels::conv::Window;
use crate::kernels::rescale::HighWord;
use crate::kernels::{Map, MapMut};
use crate::quant::{ConvChannel, Output};

/// Words of the ring.
const ROOM: usize = 20 * 1024;
/// Most output channels of one pass over the map.
const BLOCK: usize = 64;
/// Bytes of the weights of a pass that cannot be used where they lie.
const ARRANGED: usize = 32 * 1024;
/// Most words of weights of an output channel.
const TAPS: usize = 1024;
/// Output pixels whose results are brought together at one time.
const MOST: usize = 64;
/// Words of those results: as many of every quad.
const RESULTS: usize = BLOCK / 4 * MOST;
/// Most output pixels of a run.
const RUN: usize = 512;

/// A layer whose shapes have been checked, as the model image holds its parameters.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// Kernel, stride and dilation.
    pub window: Window,
    /// Zero point of the input.
    pub zero_in: i8,
    /// `[out][ky][kx][in]`.
    pub weights: &'a [i8],
    /// One for each output channel.
    pub channels: &'a [ConvChannel],
    /// Where the results are placed.
    pub place: Output,
}

/// The rows of a layer that `output` holds; `false`, and nothing written, where it is outside this form's range. `level` is
/// the highest one that is taken, where the processor has it.
pub fn conv(level: Level, layer: Layer, input: &Map<i8>, output: &mut MapMut<i8>) -> Result<bool, Error> {
    let run = match level.min(super::level()) {
        Level::Any => return Ok(false),
        Level::Avx2 => run::<__m256i>,
        Level::Vnni => run::<__m512i>,
    };
    // SAFETY: the processor has been asked.
    Ok(unsafe { run(layer, input, output) }.is_some())
}

/// How taps lie.
struct Layout {
    window: Window,
    quads: usize,
    /// Words of weights of an output channel.
    taps: usize,
    /// Most output pixels of a run.
    outputs: usize,
    /// Words of a plane: the columns of every residue modulo the stride.
    plane: usize,
    /// Columns of one residue modulo the stride.
    columns: usize,
}

impl Layout {
    /// `None` where the ring has no room.
    fn new(window: Window, channels: usize, width: usize) -> Option<Self> {
        let Window { kernel, stride, dilation } = window;
        let (quads, halo) = (quads(channels), (kernel - 1) * dilation / stride);
        let taps = kernel * kernel * quads;
        let most = ROOM.checked_sub(PIXELS)? / (kernel * quads * stride);
        let most = most.checked_sub(halo)?.min(RUN) / PIXELS * PIXELS;
        let even = width.div_ceil(width.div_ceil(most.max(1))).next_multiple_of(PIXELS);
        let outputs = even.min(most);
        let columns = outputs + halo;
        let layout = Layout { window, quads, taps, outputs, plane: stride * columns, columns };
        (outputs > 0 && taps <= TAPS).then_some(layout)
    }

    /// Words of the whole ring, and what vectors may read beyond it.
    fn room(&self) -> usize {
        self.window.kernel * self.row() + PIXELS
    }

    /// Words of a row of the ring.
    fn row(&self) -> usize {
        self.quads * self.plane
    }

    /// Where the words of every tap begin, in the weights' order, twice over: an output row that begins with another row
    /// of the ring has the same taps from that row's on ([`Self::turned`]).
    fn offsets(&self, offsets: &mut [u32]) {
        let Window { kernel, stride, dilation } = self.window;
        let cells = (0..2 * kernel * kernel).map(|cell| (cell / kernel % kernel, cell % kernel * dilation));
        let starts = cells.map(|(row, x)| row * self.row() + x % stride * self.columns + x / stride);
        for (offsets, start) in offsets.chunks_mut(self.quads).zip(starts) {
            for (q, offset) in offsets.iter_mut().enumerate() {
                *offset = (start + q * self.plane) as u32;
            }
        }
    }

    /// The offsets of the output row whose first tap row is `first`.
    fn turned<'a>(&self, offsets: &'a [u32], first: usize) -> Option<&'a [u32]> {
        let start = first % self.window.kernel * (self.taps / self.window.kernel);
        offsets.get(start..start + self.taps)
    }
}

/// # Safety
/// The processor has the vector's instructions.
unsafe fn run<V: Vector>(layer: Layer, input: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
    // SAFETY: the promise of the caller.
    unsafe {
        V::run(
            #[inline(always)]
            || rows::<V>(layer, input, output),
        )
    }
}

/// # Safety
/// See [`run`].
#[inline(always)]
unsafe fn rows<V: Vector>(layer: Layer, input: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
    let Layer { window, zero_in, weights, channels, place } = layer;
    // Where every output pixel has its input pixel to itself, rows need not end.
    let (input, mut output) = if window.kernel == 1 && window.stride == 1 {
        (&input.band(output.rows()).ok()?.flattened(), output.flattened())
    } else {
        (input, output.reborrow())
    };
    let (from, to, rows) = (input.shape(), output.shape(), output.rows());
    let place = Place::new(place)?;
    let layout = Layout::new(window, from.channels, to.width)?;
    let Window { kernel, stride, dilation } = window;
    let patch = kernel * kernel * from.channels;
    let arranged = V::PARTS > 1 || !from.channels.is_multiple_of(4);
    let most = if arranged { ARRANGED / (4 * V::PARTS * layout.taps) } else { BLOCK };
    let passes = channels.len().div_ceil(most.clamp(1, BLOCK));
    let block = channels.len().div_ceil(passes.max(1)).next_multiple_of(4).min(most);
    if block == 0 || !channels.iter().all(|channel| HighWord::new(channel.scale, 32).is_some()) {
        return None;
    }
    let (mut ring, mut offsets, mut room) = (MaybeUninit::uninit(), [0; 2 * TAPS], MaybeUninit::uninit());
    let words: &mut [u32] = filled::<_, ROOM>(&mut ring, layout.room(), constant(zero_in, from.channels)[0]);
    let bytes = if arranged { block * 4 * V::PARTS * layout.taps } else { 0 };
    let own: &mut [i8] = filled::<_, ARRANGED>(&mut room, bytes, 0);
    layout.offsets(offsets.get_mut(..2 * layout.taps)?);
    let mut results = [0; RESULTS];

    for first in (0..channels.len()).step_by(block) {
        let channels = channels.get(first..channels.len().min(first + block))?;
        let weights = weights.get(first * patch..(first + channels.len()) * patch)?;
        let mut constants = [Constants::default(); BLOCK];
        for ((constants, channel), weights) in constants.iter_mut().zip(channels).zip(weights.chunks(patch)) {
            *constants = Constants::new(channel, weights)?;
        }
        let weights = if arranged { arrange::<V>(weights, from.channels, own) } else { weights };
        for x in (0..to.width).step_by(layout.outputs) {
            let count = layout.outputs.min(to.width - x);
            for first_row in rows.clone().take(dilation) {
                let mut entered = 0;
                // Taps are a dilation apart, and outputs a stride; one of both is 1.
                let top = rows.start * stride + (first_row - rows.start);
                for (n, y) in (first_row..rows.end).step_by(dilation).enumerate() {
                    for row in entered.max(n * stride)..n * stride + kernel {
                        let ring = words.get_mut(row % kernel * layout.row()..)?.get_mut(..layout.row())?;
                        let mut planes = Planes { words: ring, plane: layout.plane };
                        // SAFETY: the promise of the caller.
                        unsafe {
                            enter::<V>(&layout, input, zero_in, (top + row * dilation, x * stride), count, &mut planes);
                        }
                    }
                    entered = n * stride + kernel;
                    let offsets = layout.turned(&offsets, n * stride)?;
                    let out = output.from_mut(y, x).get_mut(first..)?;
                    let run = Run { words, offsets, weights, constants: &constants, channels: channels.len(), place };
                    // SAFETY: the promise of the caller.
                    unsafe { run.compute::<V>(count, to.stride, &mut results, out)? };
                }
            }
        }
    }
    Some(())
}

/// The first `len` elements, all `value`.
fn filled<T: Copy, const N: usize>(room: &mut MaybeUninit<[T; N]>, len: usize, value: T) -> &mut [T] {
    let len = len.min(N);
    let first = room.as_mut_ptr().cast::<T>();
    // SAFETY: `len` elements are in the array, and all of them are written before they are lent.
    unsafe {
        for i in 0..len {
            first.add(i).write(value);
        }
        core::slice::from_raw_parts_mut(first, len)
    }
}

/// Weights `[out][ky][kx][in]` as words of the parts of quads; what fills the last quad up meets zero activations.
fn arrange<'a, V: Vector>(weights: &[i8], channels: usize, own: &'a mut [i8]) -> &'a [i8] {
    let quads = weights.chunks(channels.max(1)).flat_map(|tap| tap.chunks(4));
    for (to, from) in own.chunks_mut(4 * V::PARTS).zip(quads) {
        let mut quad = [0; 4];
        quad.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        for (to, word) in to.as_chunks_mut::<4>().0.iter_mut().zip(V::weights(quad)) {
            *to = word.to_ne_bytes().map(|byte| byte as i8);
        }
    }
    own
}

/// Puts the columns that `count` outputs need of one input row into the ring. The coordinates are counted from the tap
/// before all others of the map's first output, so that none is negative.
///
/// # Safety
/// See [`run`].
#[inline(always)]
unsafe fn enter<V: Vector>(
    layout: &Layout,
    input: &Map<i8>,
    zero: i8,
    (y, x): (usize, usize),
    count: usize,
    planes: &mut Planes,
) {
    let Window { kernel, stride, dilation } = layout.window;
    let (shape, reach) = (input.shape(), (kernel - 1) * dilation / 2);
    let pad = constant(zero, shape.channels);
    let row = y.checked_sub(reach).and_then(|y| input.row(y));
    for residue in 0..stride {
        let (start, first) = (residue * layout.columns, x + residue);
        let columns = count + (layout.columns - layout.outputs);
        let before = reach.saturating_sub(first).div_ceil(stride).min(columns);
        let within = (reach + shape.width).saturating_sub(first).div_ceil(stride).min(columns);
        let (before, within) = if row.is_some() { (before, within.max(before)) } else { (columns, columns) };
        planes.fill(start, start + before, pad);
        if let (Some(row), true) = (&row, within > before) {
            // SAFETY: the promise of the caller.
            unsafe {
                planes.copy::<V>(row, first + before * stride - reach, stride, start + before, within - before);
            }
        }
        planes.fill(start + within, start + columns, pad);
    }
}

/// What turns the sums of an output channel into int8.
#[derive(Clone, Copy, Default)]
struct Constants {
    bias: i32,
    factor: Factor,
}

impl Constants {
    fn new(channel: &ConvChannel, weights: &[i8]) -> Option<Self> {
        let sum = weights.iter().fold(0i32, |sum, &w| sum.wrapping_add(w.into()));
        let bias = channel.bias.wrapping_sub(sum.wrapping_mul(128));
        Some(Constants { bias, factor: Factor::new(HighWord::new(channel.scale, 32)?) })
    }
}

/// A run of output pixels in a row.
struct Run<'a> {
    words: &'a [u32],
    /// Of each tap's word of the first pixel.
    offsets: &'a [u32],
    /// Words of each tap's parts, channel after channel.
    weights: &'a [i8],
    /// Of each channel, and of others that do not count.
    constants: &'a [Constants; BLOCK],
    channels: usize,
    place: Place,
}

impl Run<'_> {
    /// `count` pixels of all channels, `step` elements apart. `None` where something is not there.
    ///
    /// # Safety
    /// See [`run`].
    #[inline(always)]
    unsafe fn compute<V: Vector>(
        &self,
        count: usize,
        step: usize,
        results: &mut [u32; RESULTS],
        out: &mut [i8],
    ) -> Option<()> {
        let (channels, last) = (self.channels, *self.offsets.iter().max()? as usize);
        let there = last + count.next_multiple_of(PIXELS) <= self.words.len()
            && self.weights.len() >= 4 * V::PARTS * channels * self.offsets.len()
            && (1..=BLOCK).contains(&channels);
        if !there {
            return None;
        }
        for x in (0..count).step_by(MOST) {
            let pixels = (count - x).min(MOST);
            let mut done = 0;
            while done < pixels {
                let vectors = (pixels - done).div_ceil(V::PIXELS).min(V::TILE);
                let many = channels > 4 && vectors < V::TILE;
                for o in (0..channels).step_by(if many { 8 } else { 4 }) {
                    // SAFETY: all words of pixels up to `count`, whole vectors taken, and all weights of the channels
                    // are there, as checked; `results` has `MOST` pixels of all quads of as many channels as may be.
                    unsafe {
                        let to = results.as_mut_ptr().add(o / 4 * MOST + done);
                        match (vectors, many) {
                            (4.., _) => self.tile::<V, 4, 4>(x + done, o, to),
                            (2.., true) => self.tile::<V, 2, 8>(x + done, o, to),
                            (2.., false) => self.tile::<V, 2, 4>(x + done, o, to),
                            (_, true) => self.tile::<V, 1, 8>(x + done, o, to),
                            (_, false) => self.tile::<V, 1, 4>(x + done, o, to),
                        }
                    }
                }
                done += V::PIXELS * if vectors < 4 { vectors.min(2) } else { 4 };
            }
            // SAFETY: the promise of the caller.
            unsafe { interleave::<V>(results, MOST, channels, pixels, out.get_mut(x * step..)?, step)? };
        }
        Some(())
    }

    /// The quads of `P` vectors of pixels from pixel `x` on by `O` channels from channel `o` on, to `to`.
    ///
    /// # Safety
    /// The processor has the vector's instructions; the words of all taps and the weights of all channels are there; `o`
    /// is a channel; and `to` has room for the vectors, at every `MOST`th word for another quad.
    unsafe fn tile<V: Vector, const P: usize, const O: usize>(&self, x: usize, o: usize, to: *mut u32) {
        // SAFETY: the promise of the caller.
        unsafe {
            V::run(
                #[inline(always)]
                move || self.sums::<V, P, O>(x, o, to),
            );
        }
    }

    /// What [`Self::tile`] runs.
    ///
    /// # Safety
    /// See there.
    #[inline(always)]
    unsafe fn sums<V: Vector, const P: usize, const O: usize>(&self, x: usize, o: usize, to: *mut u32) {
        let words = self.words.as_ptr().wrapping_add(x);
        let constants = self.constants.as_ptr().wrapping_add(o);
        let mut weights = [self.weights.as_ptr().cast::<i32>(); O];
        // SAFETY: the promise of the caller; a channel beyond the last one has the weights of the last one once more, and
        // constants of its own.
        unsafe {
            let mut sums = [[V::splat(0); P]; O];
            for i in 0..O {
                weights[i] = weights[i].add((o + i).min(self.channels - 1) * V::PARTS * self.offsets.len());
                sums[i] = [V::splat((*constants.add(i)).bias); P];
            }
            for (t, &offset) in self.offsets.iter().enumerate() {
                let mut taps = [V::splat(0); P];
                for (p, tap) in taps.iter_mut().enumerate() {
                    *tap = V::load(words.add(offset as usize + p * V::PIXELS));
                }
                for part in 0..V::PARTS {
                    let mut of = taps;
                    for tap in &mut of {
                        *tap = tap.part(part);
                    }
                    for i in 0..O {
                        let weight = V::splat(weights[i].add(V::PARTS * t + part).read_unaligned());
                        for p in 0..P {
                            sums[i][p] = sums[i][p].dot(of[p], weight);
                        }
                    }
                }
            }
            // Written out, so that the sums stay in registers: LLVM does not unroll loops of this length.
            macro_rules! finish {
                ($($p:literal $q:literal),*) => {$(
                    if $p < P && 4 * $q < O {
                        let mut of = [V::splat(0); 4];
                        for i in 0..4 {
                            of[i] = (*constants.add(4 * $q + i)).factor.apply(sums[4 * $q + i][$p]);
                        }
                        self.place.quad(of).store(to.add($q * MOST + $p * V::PIXELS));
                    }
                )*};
            }
            finish!(0 0, 1 0, 2 0, 3 0, 0 1, 1 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::kernels::conv::{conv_plain, output_size};
    use crate::kernels::testing::{Scratch, Stream, TestMap, conv_reads, in_bands};
    use crate::quant::Multiplier;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn a_layer_outside_the_range_is_left_alone() {
        let input = TestMap::filled(1i8, 4, 4, 4, 0);
        let window = Window { kernel: 3, stride: 1, dilation: 1 };
        let run = |level: Level, factor: f64, place| {
            let channel = [ConvChannel { bias: 0, scale: Multiplier::from_real(factor).unwrap() }];
            let mut out = TestMap::filled(99i8, 4, 4, 1, 0);
            let done = conv(
                level,
                Layer { window, zero_in: 0, weights: &[1; 36], channels: &channel, place },
                &input.map(),
                &mut out.map_mut(),
            );
            (done, out.data.iter().all(|&v| v == 99))
        };
        assert_eq!(run(Level::Any, 0.1, Output::int8(0, false)), (Ok(false), true));
        for level in levels() {
            assert_eq!(run(level, 0.1, Output::int8(0, false)), (Ok(true), false));
            assert_eq!(run(level, 0.25, Output::int8(0, false)), (Ok(false), true));
            assert_eq!(run(level, 0.1, Output::logit()), (Ok(false), true));
        }
    }

    /// The largest sums of every sign: sixteen bits do not hold two products.
    #[test]
    fn no_sum_saturates() {
        let window = Window { kernel: 3, stride: 1, dilation: 1 };
        let scale = Multiplier::from_real(2f64.powi(-17)).unwrap();
        for (value, weight, zero) in [(127, 127, -128), (-128, 127, 127), (127, -127, -128), (-128, -127, 127)] {
            let input = TestMap::filled(value as i8, 5, 40, 64, 0);
            let weights = std::vec![weight as i8; 4 * 9 * 64];
            let channels = std::vec![ConvChannel::folded(0, &weights[..9 * 64], zero, scale).unwrap(); 4];
            let mut taps = std::vec![0i32; 5 * 40];
            for (i, taps) in taps.iter_mut().enumerate() {
                let side = |at: usize, n: usize| 3 - i32::from(at == 0) - i32::from(at == n - 1);
                *taps = side(i / 40, 5) * side(i % 40, 40);
            }
            for level in levels() {
                let mut out = TestMap::filled(99i8, 5, 40, 4, 0);
                let place = Output::int8(0, false);
                let done = conv(
                    level,
                    Layer { window, zero_in: zero as i8, weights: &weights, channels: &channels, place },
                    &input.map(),
                    &mut out.map_mut(),
                );
                assert_eq!(done, Ok(true));
                out.assert_is(99, |y, x, _| {
                    let sum = 64 * taps[y as usize * 40 + x as usize] * (value - zero) * weight;
                    ((f64::from(sum) / 131_072.0 + 0.5).floor()).clamp(-128.0, 127.0) as i8
                });
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]

        /// Runs, tiles, vectors and their tails; blocks of output channels; whole and filled-up quads; both widths.
        #[test]
        fn every_tile_gives_the_plain_kernels_bytes(seed: u64, kernel in prop_oneof![Just(1usize), Just(3), Just(5)],
            (stride, dilation) in prop_oneof![Just((1usize, 1usize)), Just((2, 1)), Just((3, 1)), Just((1, 3)), Just((1, 5))],
            h in 1usize..9, band in 1usize..9, w in prop_oneof![1usize..40, 40usize..180], cin in prop_oneof![1usize..20, 20usize..70, Just(4), Just(8)],
            cout in prop_oneof![1usize..20, 60usize..70, Just(4), Just(8)], gaps in prop_oneof![Just((0usize, 0usize)), (0usize..3, 0usize..13)], zero_in in -128i32..=127,
            zero_out in -128i32..=127, relu: bool, exponent in prop_oneof![-40f64..-2.01, Just(-60.0), Just(-2.0 - 1e-9)]) {
            // Beyond that the plain kernel's working memory has no room.
            let cin = if kernel == 5 && dilation > 1 { cin % 20 + 1 } else { cin };
            let mut stream = Stream(seed);
            let window = Window { kernel, stride, dilation };
            let input = TestMap::new(|n| stream.i8s(n), h, w, cin, gaps.0);
            let taps = kernel * kernel * cin;
            let weights = stream.weights(cout * taps);
            let channels: Vec<ConvChannel> = weights.chunks(taps).map(|w| {
                let scale = Multiplier::from_real(exponent.exp2() / (1 + stream.next() % 4) as f64).unwrap();
                ConvChannel::folded((stream.next() % 2_000_001) as i64 - 1_000_000, w, zero_in, scale).unwrap()
            }).collect();
            let place = Output::int8(zero_out, relu);
            let empty = TestMap::filled(99i8, output_size(h, stride), output_size(w, stride), cout, gaps.1);
            let (mut plain, mut scratch) = (empty.clone(), Scratch::new(kernel, cin));
            let (map, zero) = (input.map(), zero_in as i8);
            conv_plain(window, map, zero, &weights, &channels, place, scratch.bytes(), plain.map_mut()).unwrap();
            for level in levels() {
                let mut found = empty.clone();
                in_bands(&[&input], &mut found, band, conv_reads(window), |maps, mut out| {
                    let done = conv(level, Layer { window, zero_in: zero, weights: &weights, channels: &channels, place }, &maps[0], &mut out);
                    assert_eq!(done, Ok(true));
                });
                prop_assert!(found.data == plain.data, "{:?} differs", level);
            }
        }
    }
}
