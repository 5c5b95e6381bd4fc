//! Convolution over AVX-512 VNNI: the fast twin of [`crate::kernels::conv`].
//!
//! `vpdpbusd` multiplies four unsigned by four signed bytes into each 32-bit lane. The rows of input that a row of output
//! needs lie in a ring as planes of [`quads`](super::quads), padding filled in, so that a tap of sixteen neighbouring
//! pixels is one unaligned load; the weights of an output channel are one word a tap, for all lanes. Rows of one residue
//! modulo the dilation follow each other, so that each enters the ring once. Activations are x + 128, whose 128·Σw is
//! taken off the bias.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use super::quads::{PIXELS, Planes, constant, quads};
use super::requantise::{Factor, Place};
use crate::Error;
use crate::kernels::conv::Window;
use crate::kernels::rescale::HighWord;
use crate::kernels::{Map, MapMut};
use crate::quant::{ConvChannel, Output};

/// Words of the ring.
const ROOM: usize = 20 * 1024;
/// Most output channels of one pass over the map.
const BLOCK: usize = 64;
/// Weights of a pass whose input channels are not whole quads, filled up.
const PADDED: usize = 24 * 1024;
/// Most words of weights of an output channel.
const TAPS: usize = 1024;
/// Most output pixels of a run.
const RUN: usize = 512;

/// The whole layer, whose shapes have been checked; `false`, and nothing written, where it is outside this form's range.
pub fn conv(
    window: Window,
    input: &Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    output: &mut MapMut<i8>,
) -> Result<bool, Error> {
    if super::level() < super::Level::Vnni {
        return Ok(false);
    }
    // SAFETY: the processor has been asked.
    Ok(unsafe { layer(window, input, zero_in, weights, channels, place, output) }.is_some())
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

    /// Where the words of every tap of the output row that begins with tap row `first` begin, in the weights' order.
    fn offsets(&self, first: usize, offsets: &mut [u32]) {
        let Window { kernel, stride, dilation } = self.window;
        let cells = (0..kernel * kernel).map(|cell| (cell / kernel, cell % kernel * dilation));
        let starts = cells.map(|(ky, x)| (first + ky) % kernel * self.row() + x % stride * self.columns + x / stride);
        for (offsets, start) in offsets.chunks_mut(self.quads).zip(starts) {
            for (q, offset) in offsets.iter_mut().enumerate() {
                *offset = (start + q * self.plane) as u32;
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn layer(
    window: Window,
    input: &Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    output: &mut MapMut<i8>,
) -> Option<()> {
    // Where every output pixel has its input pixel to itself, rows need not end.
    let flat = window.kernel == 1 && window.stride == 1;
    let (input, mut output) = (&input.flattened(flat), output.flattened(flat));
    let (from, to) = (input.shape(), output.shape());
    let place = Place::new(place)?;
    let layout = Layout::new(window, from.channels, to.width)?;
    let Window { kernel, stride, dilation } = window;
    let patch = kernel * kernel * from.channels;
    let whole = from.channels.is_multiple_of(4);
    let block = if whole { BLOCK } else { (PADDED / (4 * layout.taps)).min(BLOCK) };
    if block == 0 || !channels.iter().all(|channel| HighWord::new(channel.scale, 32).is_some()) {
        return None;
    }
    let (mut ring, mut offsets, mut padded) = (MaybeUninit::uninit(), [0; TAPS], [0; PADDED]);
    let words = filled(&mut ring, layout.room(), constant(zero_in, from.channels)[0]);
    let offsets = offsets.get_mut(..layout.taps)?;

    for first in (0..channels.len()).step_by(block) {
        let channels = channels.get(first..channels.len().min(first + block))?;
        let weights = weights.get(first * patch..(first + channels.len()) * patch)?;
        let mut constants = [Constants::default(); BLOCK];
        for ((constants, channel), weights) in constants.iter_mut().zip(channels).zip(weights.chunks(patch)) {
            *constants = Constants::new(channel, weights)?;
        }
        let weights = if whole { weights } else { fill_up(weights, from.channels, &mut padded) };
        for x in (0..to.width).step_by(layout.outputs) {
            let count = layout.outputs.min(to.width - x);
            for residue in 0..dilation.min(to.height) {
                let mut entered = 0;
                for (n, y) in (residue..to.height).step_by(dilation).enumerate() {
                    for row in entered.max(n * stride)..n * stride + kernel {
                        let ring = words.get_mut(row % kernel * layout.row()..)?.get_mut(..layout.row())?;
                        let mut planes = Planes { words: ring, plane: layout.plane };
                        enter(&layout, input, zero_in, (residue + row * dilation, x * stride), count, &mut planes);
                    }
                    entered = n * stride + kernel;
                    layout.offsets(n * stride, offsets);
                    let out = output.from_mut(y, x).get_mut(first..)?;
                    let run = Run { words, offsets, weights, constants: constants.get(..channels.len())?, place };
                    run.compute(count, to.stride, out)?;
                }
            }
        }
    }
    Some(())
}

/// The first `len` words, all `value`.
fn filled(ring: &mut MaybeUninit<[u32; ROOM]>, len: usize, value: u32) -> &mut [u32] {
    let len = len.min(ROOM);
    let words = ring.as_mut_ptr().cast::<u32>();
    // SAFETY: `len` words are in the array, and all of them are written before they are lent.
    unsafe {
        for i in 0..len {
            words.add(i).write(value);
        }
        core::slice::from_raw_parts_mut(words, len)
    }
}

/// Weights `[out][ky][kx][in]` with the channels filled up to whole quads; the bytes there meet zero activations.
fn fill_up<'a>(weights: &[i8], channels: usize, padded: &'a mut [i8]) -> &'a [i8] {
    let step = channels.next_multiple_of(4);
    for (to, from) in padded.chunks_mut(step).zip(weights.chunks(channels)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
    padded.get(..weights.len() / channels * step).unwrap_or_default()
}

/// Puts the columns that `count` outputs need of one input row into the ring. The coordinates are counted from the tap
/// before all others of the map's first output, so that none is negative.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn enter(layout: &Layout, input: &Map<i8>, zero: i8, (y, x): (usize, usize), count: usize, planes: &mut Planes) {
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
            planes.copy(row, first + before * stride - reach, stride, start + before, within - before);
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
        Some(Constants { bias, factor: Factor::new(HighWord::new(channel.scale, 32)?)? })
    }
}

/// A run of output pixels in a row.
struct Run<'a> {
    words: &'a [u32],
    /// Of each tap's word of the first pixel.
    offsets: &'a [u32],
    /// One word for each tap, channel after channel.
    weights: &'a [i8],
    /// Of each channel.
    constants: &'a [Constants],
    place: Place,
}

impl Run<'_> {
    /// `count` pixels of all channels, `step` elements apart. `None` where something is not there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn compute(&self, count: usize, step: usize, out: &mut [i8]) -> Option<()> {
        let (channels, last) = (self.constants.len(), *self.offsets.iter().max()? as usize);
        let there = last + count.next_multiple_of(PIXELS) <= self.words.len()
            && self.weights.len() >= 4 * channels * self.offsets.len()
            && count.checked_sub(1)? * step + channels <= out.len()
            && channels <= step;
        if !there {
            return None;
        }
        let mut x = 0;
        while x < count {
            let vectors = (count - x).div_ceil(PIXELS);
            let mut o = 0;
            while o < channels {
                let many = channels - o > 4;
                let tile = Tile { x, o, pixels: count - x, step };
                // SAFETY: all words of pixels up to `count`, whole vectors taken, all weights and all results of the
                // channels are there, as checked.
                unsafe {
                    let out = out.as_mut_ptr().add(x * step + o);
                    match (vectors, many) {
                        (4.., _) => self.tile::<4, 4>(tile, out),
                        (2.., true) => self.tile::<2, 8>(tile, out),
                        (2.., false) => self.tile::<2, 4>(tile, out),
                        (_, true) => self.tile::<1, 8>(tile, out),
                        (_, false) => self.tile::<1, 4>(tile, out),
                    }
                }
                o += if many && vectors < 4 { 8 } else { 4 };
            }
            x += PIXELS * if vectors >= 4 { 4 } else { vectors.min(2) };
        }
        Some(())
    }

    /// `P` vectors of pixels by `O` channels, or what there is of both.
    ///
    /// # Safety
    /// The words of all taps from pixel `x` on, for `P` vectors; the weights of all channels; and room for the pixels and
    /// channels that there are. There is a channel `o` and a pixel `x`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tile<const P: usize, const O: usize>(&self, tile: Tile, out: *mut i8) {
        let Tile { x, o: first, pixels, step } = tile;
        let (taps, last) = (self.offsets.len(), self.constants.len() - 1);
        let words = self.words.as_ptr().wrapping_add(x);
        let mut weights = [self.weights.as_ptr().cast::<i32>(); O];
        let mut constants = [Constants::default(); O];
        let mut sums = [[_mm512_setzero_si512(); P]; O];
        for o in 0..O {
            // A channel beyond the last one is the last one once more.
            let channel = (first + o).min(last);
            weights[o] = weights[o].wrapping_add(channel * taps);
            constants[o] = self.constants[channel];
            sums[o] = [_mm512_set1_epi32(constants[o].bias); P];
        }
        // SAFETY: the promise of the caller.
        unsafe {
            for (t, &offset) in self.offsets.iter().enumerate() {
                let mut taps = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    taps[p] = _mm512_loadu_si512(words.add(offset as usize + p * PIXELS).cast());
                }
                for o in 0..O {
                    let weight = _mm512_set1_epi32(weights[o].add(t).read_unaligned());
                    for p in 0..P {
                        sums[o][p] = _mm512_dpbusd_epi32(sums[o][p], taps[p], weight);
                    }
                }
            }
            let channels = last + 1 - first;
            for p in 0..P {
                let pixels = pixels.saturating_sub(p * PIXELS).min(PIXELS);
                let out = out.wrapping_add(p * PIXELS * step);
                let mut quads = [_mm512_setzero_si512(); 2];
                for q in 0..O / 4 {
                    let mut of = [_mm512_setzero_si512(); 4];
                    for i in 0..4 {
                        of[i] = constants[4 * q + i].factor.apply(sums[4 * q + i][p]);
                    }
                    quads[q] = self.place.quad(of);
                }
                if O == 8 && channels >= 8 {
                    store_pairs(quads, out, step, pixels);
                } else {
                    store_quad(quads[0], out, step, pixels, channels.min(4));
                    if O == 8 {
                        store_quad(quads[1], out.wrapping_add(4), step, pixels, (channels - 4).min(4));
                    }
                }
            }
        }
    }
}

/// Which pixels and channels of a [`Run`]: from pixel `x` and channel `o` on.
struct Tile {
    x: usize,
    o: usize,
    /// Pixels that there are.
    pixels: usize,
    /// Elements from one pixel to the next.
    step: usize,
}

/// # Safety
/// `out` has room for `channels` bytes, at most four, at every `step`th of `pixels` places, at most sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_quad(quad: __m512i, out: *mut i8, step: usize, pixels: usize, channels: usize) {
    // SAFETY: the promise of the caller.
    unsafe {
        if step == 4 && channels == 4 {
            _mm512_mask_storeu_epi32(out.cast(), ((1u32 << pixels) - 1) as __mmask16, quad);
            return;
        }
        let mut words = [[0i8; 4]; PIXELS];
        _mm512_storeu_si512(words.as_mut_ptr().cast(), quad);
        for (i, word) in words.iter().enumerate().take(pixels) {
            let out = out.add(i * step);
            if channels == 4 {
                out.cast::<[i8; 4]>().write(*word);
            } else {
                for (c, &value) in word.iter().enumerate().take(channels) {
                    out.add(c).write(value);
                }
            }
        }
    }
}

/// # Safety
/// `out` has room for eight bytes at every `step`th of `pixels` places, at most sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_pairs([first, second]: [__m512i; 2], out: *mut i8, step: usize, pixels: usize) {
    // Pixels 4l, 4l + 1 and 4l + 2, 4l + 3 in lane l.
    let (low, high) = (_mm512_unpacklo_epi32(first, second), _mm512_unpackhi_epi32(first, second));
    let front = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
    let back = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
    // SAFETY: the promise of the caller.
    unsafe {
        if step == 8 {
            let mask = (1u32 << pixels) - 1;
            _mm512_mask_storeu_epi64(out.cast(), mask as __mmask8, front);
            _mm512_mask_storeu_epi64(out.wrapping_add(64).cast(), (mask >> 8) as __mmask8, back);
            return;
        }
        let mut words = [[0i8; 8]; PIXELS];
        _mm512_storeu_si512(words.as_mut_ptr().cast(), front);
        _mm512_storeu_si512(words.as_mut_ptr().add(8).cast(), back);
        for (i, word) in words.iter().enumerate().take(pixels) {
            out.add(i * step).cast::<[i8; 8]>().write(*word);
        }
    }
}
