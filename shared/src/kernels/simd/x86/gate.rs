//! The spatial gate over AVX-512 VNNI: the fast twin of [`crate::kernels::spatial_gate`].
//!
//! A strip of columns at a time. Rows of statistics lie in a ring as pairs: a word holds a column's rows 2j and 2j + 1, so
//! that one `vpdpwssd` takes two taps of sixteen columns. Two output rows have the same four pairs, the one without the
//! last of their eight rows, the other without the first, and share every load.
//!
//! Channels are two to a word while maximum and sum are taken: sums of at most 64 channels of bytes stay in 16 bits.

use core::arch::x86_64::*;

use super::quads::{PIXELS, Planes, constant, interleave, quads};
use super::requantise::{Factor, Place};
use crate::kernels::rescale::HighWord;
use crate::kernels::sigmoid::TABLE;
use crate::kernels::spatial_gate::Int8Layer;
use crate::kernels::{Map, MapMut};
use crate::quant::{GateBand, Multiplier, Output};

/// Output columns of a strip.
const STRIP: usize = 128;
/// Columns of statistics: three more on either side, in whole vectors.
const COLUMNS: usize = (STRIP + 6).next_multiple_of(PIXELS);
/// Pixels of a gathered row: one more on the left, and what the last vector reads beyond.
const ROW: usize = COLUMNS + PIXELS;
/// Most channels.
const CHANNELS: usize = 64;
/// Maximum and mean of four bands.
const PLANES: usize = 8;
const SIDE: usize = 7;
/// Pairs of rows that a pair of output rows needs, and the ring holds.
const PAIRS: usize = 4;
/// Most pixels that are computed together.
const MOST: usize = 64;

/// What the layer's numbers are in this form.
pub struct Gate {
    zero: i8,
    /// Of the upper and of the lower output row: `[plane][pair][column]`, two weights to a word.
    weights: [[[u32; PAIRS * SIDE]; PLANES]; 2],
    bands: [GateBand; 4],
    mean: HighWord,
    output: Factor,
    place: Place,
}

impl Gate {
    /// `None` where the processor lacks the instructions, or a number is outside this form's range.
    pub fn new(layer: &Int8Layer, channels: usize, scale: Multiplier, place: Output) -> Option<Self> {
        let Int8Layer { zero, weights, bands, mean } = *layer;
        let far = |band: &GateBand| (33..=62).contains(&band.scale.shift);
        if super::level() < super::Level::Vnni || channels > CHANNELS || !channels.is_multiple_of(4) {
            return None;
        }
        let (output, place) = (Factor::new(HighWord::new(scale, 32)?), Place::new(place)?);
        let mut gate = Gate { zero, weights: [[[0; _]; _]; 2], bands: *bands, mean, output, place };
        let planes = weights.into_iter().flat_map(|band| band.chunks_exact(SIDE * SIDE));
        for (plane, weights) in planes.enumerate() {
            for (i, &weight) in weights.iter().enumerate() {
                let (ky, kx) = (i / SIDE, i % SIDE);
                for (row, rows) in gate.weights.iter_mut().enumerate() {
                    let (pair, half) = ((ky + row) / 2, (ky + row) % 2);
                    *rows.get_mut(plane)?.get_mut(pair * SIDE + kx)? |= u32::from(weight as i16 as u16) << (16 * half);
                }
            }
        }
        bands.iter().all(far).then_some(gate)
    }

    /// The rows that `output` holds; the input is whole and of the same size.
    pub fn run(&self, input: &Map<i8>, output: &mut MapMut<i8>) -> Option<()> {
        for x in (0..input.shape().width).step_by(STRIP) {
            // SAFETY: the processor has been asked when the gate was made.
            unsafe { self.strip(input, x, output)? }
        }
        Some(())
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn strip(&self, input: &Map<i8>, x: usize, output: &mut MapMut<i8>) -> Option<()> {
        let (shape, held) = (input.shape(), output.rows());
        let count = STRIP.min(shape.width - x);
        let mut ring = Ring([[[0; COLUMNS]; PLANES]; PAIRS]);
        let mut rows = [[0; CHANNELS / 4 * ROW]; 2];
        let planes = quads(shape.channels) * ROW;
        Planes { words: rows[1].get_mut(..planes)?, plane: ROW }.fill(0, ROW, constant(self.zero, shape.channels));
        let mut sums = [[[0; MOST]; 2]; PLANES];
        // Output rows 2j − 1 and 2j need the rows of statistics from 2j − 4 to 2j + 3; those above the map are zero.
        let pairs = held.start.div_ceil(2)..=held.end / 2;
        let mut entered = (2 * pairs.start()).saturating_sub(4);
        if let Some(before) = entered.checked_sub(1) {
            self.gather(input, (before, x), count, &mut rows[1]);
        }
        for j in pairs {
            while entered <= 2 * j + 3 {
                let [even, odd] = &mut rows;
                let (above, here) = if entered % 2 == 0 { (odd, even) } else { (even, odd) };
                self.enter(input, (entered, x), count, above, here, &mut ring);
                entered += 1;
            }
            for first in (0..count).step_by(MOST) {
                let pixels = (count - first).min(MOST);
                for (plane, sums) in sums.iter_mut().enumerate() {
                    match pixels.div_ceil(PIXELS) {
                        1 => self.sums::<1>(&ring, j, plane, first, sums),
                        2 => self.sums::<2>(&ring, j, plane, first, sums),
                        _ => self.sums::<4>(&ring, j, plane, first, sums),
                    }
                }
                for row in 0..2 {
                    let Some(y) = (2 * j + row).checked_sub(1).filter(|y| held.contains(y)) else { continue };
                    self.finish(input, (y, x + first), pixels, &sums, row, output)?;
                }
            }
        }
        Some(())
    }

    /// Puts row `y` of the statistics into the ring; rows below the map are zero. `here` is for the row's pixels, `above`
    /// has those of the row above.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn enter(
        &self,
        input: &Map<i8>,
        (y, x): (usize, usize),
        count: usize,
        above: &[u32; CHANNELS / 4 * ROW],
        here: &mut [u32; CHANNELS / 4 * ROW],
        ring: &mut Ring,
    ) {
        let shape = input.shape();
        let (pair, half) = ((y + 4) / 2 % PAIRS, (y % 2) as u32);
        let quads = quads(shape.channels);
        self.gather(input, (y, x), count, here);
        let zero = i32::from(self.zero) + 128;
        // Columns of the map: of those from the third left of the strip on.
        let columns = 3usize.saturating_sub(x)..(shape.width + 3 - x).min(count + 6);
        for first in (0..count + 6).step_by(PIXELS) {
            let mut values = [_mm512_setzero_si512(); PLANES];
            if y < shape.height {
                let mask = |n: usize| (1u32 << n.saturating_sub(first).min(PIXELS)) - 1;
                let there = (mask(columns.end) & !mask(columns.start)) as __mmask16;
                let statistics = self.statistics(above, here, quads, first, zero);
                for (value, found) in values.iter_mut().zip(statistics) {
                    *value = _mm512_maskz_and_epi32(there, found, _mm512_set1_epi32(0xFFFF));
                }
            }
            for (plane, value) in values.into_iter().enumerate() {
                let Some(words) = ring.0[pair][plane].get_mut(first..first + PIXELS) else { return };
                let words = words.as_mut_ptr();
                // SAFETY: sixteen words are there.
                unsafe {
                    let before = if half == 0 { _mm512_setzero_si512() } else { _mm512_loadu_si512(words.cast()) };
                    let value = if half == 0 { value } else { _mm512_slli_epi32::<16>(value) };
                    _mm512_storeu_si512(words.cast(), _mm512_or_si512(before, value));
                }
            }
        }
    }

    /// Puts the pixels of row `y` into `words`, from the fourth left of the strip on; nothing where the map has no such row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn gather(&self, input: &Map<i8>, (y, x): (usize, usize), count: usize, words: &mut [u32; CHANNELS / 4 * ROW]) {
        let shape = input.shape();
        let words = words.get_mut(..quads(shape.channels) * ROW);
        let (Some(row), Some(words)) = (input.row(y), words) else { return };
        let (pad, pixels) = (constant(self.zero, shape.channels), count + SIDE);
        let (before, within) = (4usize.saturating_sub(x).min(pixels), (shape.width + 4 - x).min(pixels));
        let mut planes = Planes { words, plane: ROW };
        planes.fill(0, before, pad);
        planes.copy(&row, x + before - 4, 1, before, within - before);
        planes.fill(within, pixels, pad);
    }

    /// Maximum and mean of the four bands at sixteen columns, in the lower half of each word.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn statistics(
        &self,
        above: &[u32; CHANNELS / 4 * ROW],
        here: &[u32; CHANNELS / 4 * ROW],
        quads: usize,
        first: usize,
        zero: i32,
    ) -> [__m512i; PLANES] {
        let mut most = [_mm512_set1_epi16(i16::MIN); 4];
        // Of left + right and left − right, above and here.
        let mut sums = [_mm512_setzero_si512(); 4];
        let load = |row: &[u32; CHANNELS / 4 * ROW], at: usize| {
            let words = row.get(at..).and_then(|row| row.first_chunk::<PIXELS>()).unwrap_or(&[0; PIXELS]);
            // SAFETY: sixteen words are there.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        };
        for q in 0..quads.min(CHANNELS / 4) {
            let at = q * ROW + first;
            let taps = [load(above, at), load(above, at + 1), load(here, at), load(here, at + 1)];
            for odd in [false, true] {
                let half = |v: __m512i| {
                    if odd { _mm512_srli_epi16::<8>(v) } else { _mm512_and_si512(v, _mm512_set1_epi16(0xFF)) }
                };
                let [a, b, c, d] = [half(taps[0]), half(taps[1]), half(taps[2]), half(taps[3])];
                let (top, bottom) = (_mm512_add_epi16(a, b), _mm512_add_epi16(c, d));
                let (fall, rise) = (_mm512_sub_epi16(a, b), _mm512_sub_epi16(c, d));
                most[0] = _mm512_max_epi16(most[0], _mm512_sub_epi16(top, bottom));
                most[1] = _mm512_max_epi16(most[1], _mm512_add_epi16(fall, rise));
                most[2] = _mm512_max_epi16(most[2], _mm512_sub_epi16(fall, rise));
                most[3] = _mm512_max_epi16(most[3], _mm512_add_epi16(top, bottom));
                sums[0] = _mm512_add_epi16(sums[0], top);
                sums[1] = _mm512_add_epi16(sums[1], bottom);
                sums[2] = _mm512_add_epi16(sums[2], fall);
                sums[3] = _mm512_add_epi16(sums[3], rise);
            }
        }
        let one = _mm512_set1_epi16(1);
        let [top, bottom] = [_mm512_madd_epi16(sums[0], one), _mm512_madd_epi16(sums[1], one)];
        let [fall, rise] = [_mm512_madd_epi16(sums[2], one), _mm512_madd_epi16(sums[3], one)];
        let offset = _mm512_set1_epi32(16 * zero * quads as i32);
        let means = [
            _mm512_sub_epi32(top, bottom),
            _mm512_add_epi32(fall, rise),
            _mm512_sub_epi32(fall, rise),
            _mm512_sub_epi32(_mm512_add_epi32(top, bottom), offset),
        ];
        let (before, mean) = (_mm_cvtsi32_si128(self.mean.before as i32), Factor::new(self.mean));
        let mut values = [_mm512_setzero_si512(); PLANES];
        for band in 0..4 {
            values[2 * band] = _mm512_max_epi16(most[band], _mm512_srli_epi32::<16>(most[band]));
            values[2 * band + 1] = mean.apply(_mm512_sll_epi32(means[band], before));
        }
        values[6] = _mm512_sub_epi16(values[6], _mm512_set1_epi16((4 * zero) as i16));
        values
    }

    /// The sums of one plane for the `j`th pair of output rows, `P` vectors of columns from `first` on; nothing where the
    /// ring has not so many.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn sums<const P: usize>(&self, ring: &Ring, j: usize, plane: usize, first: usize, sums: &mut [[i32; MOST]; 2]) {
        if plane >= PLANES || first + P * PIXELS + SIDE - 1 > COLUMNS {
            return;
        }
        let [upper, lower] = &self.weights;
        let mut of = [[_mm512_setzero_si512(); P]; 2];
        for pair in 0..PAIRS {
            let words = ring.0[(j + pair) % PAIRS][plane].as_ptr().wrapping_add(first);
            for kx in 0..SIDE {
                let upper = _mm512_set1_epi32(upper[plane][pair * SIDE + kx] as i32);
                let lower = _mm512_set1_epi32(lower[plane][pair * SIDE + kx] as i32);
                let [above, below] = &mut of;
                for (p, (above, below)) in above.iter_mut().zip(below).enumerate() {
                    // SAFETY: the columns are there, as checked.
                    let taps = unsafe { _mm512_loadu_si512(words.add(p * PIXELS + kx).cast()) };
                    *above = _mm512_dpwssd_epi32(*above, taps, upper);
                    *below = _mm512_dpwssd_epi32(*below, taps, lower);
                }
            }
        }
        for (sums, of) in sums.iter_mut().zip(of) {
            for (sums, of) in sums.as_chunks_mut::<PIXELS>().0.iter_mut().zip(of) {
                // SAFETY: sixteen words are there.
                unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), of) }
            }
        }
    }

    /// Gates the pixels from (`y`, `x`) on with what one row of `sums` gives.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn finish(
        &self,
        input: &Map<i8>,
        (y, x): (usize, usize),
        count: usize,
        sums: &[[[i32; MOST]; 2]; PLANES],
        row: usize,
        output: &mut MapMut<i8>,
    ) -> Option<()> {
        let shape = input.shape();
        let mut words = [0; CHANNELS / 4 * MOST];
        let planes = quads(shape.channels) * MOST;
        Planes { words: words.get_mut(..planes)?, plane: MOST }.copy(&input.row(y)?, x, 1, 0, count);
        let zero = _mm512_set1_epi32(i32::from(self.zero) + 128);
        let byte = _mm512_set1_epi32(0xFF);
        for first in (0..count.min(MOST)).step_by(PIXELS) {
            let gate = self.gates(sums, row, first);
            let product = |v: __m512i| self.output.apply(_mm512_mullo_epi32(_mm512_sub_epi32(v, zero), gate));
            for q in 0..quads(shape.channels) {
                let words = words.get_mut(q * MOST + first..)?.first_chunk_mut::<PIXELS>()?.as_mut_ptr();
                // SAFETY: sixteen words are there.
                unsafe {
                    let quad = _mm512_loadu_si512(words.cast());
                    let channels = [
                        product(_mm512_and_si512(quad, byte)),
                        product(_mm512_and_si512(_mm512_srli_epi32::<8>(quad), byte)),
                        product(_mm512_and_si512(_mm512_srli_epi32::<16>(quad), byte)),
                        product(_mm512_srli_epi32::<24>(quad)),
                    ];
                    _mm512_storeu_si512(words.cast(), self.place.quad(channels));
                }
            }
        }
        let step = output.shape().stride;
        interleave(&words, MOST, shape.channels, count, output.from_mut(y, x), step)
    }

    /// The sums of the four gates of sixteen pixels from `first` on, in Q0.15.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn gates(&self, sums: &[[[i32; MOST]; 2]; PLANES], row: usize, first: usize) -> __m512i {
        let load = |plane: usize| {
            let words = sums.get(plane).and_then(|rows| rows.get(row)).and_then(|sums| sums.get(first..));
            let words = words.and_then(|sums| sums.first_chunk::<PIXELS>()).unwrap_or(&[0; PIXELS]);
            // SAFETY: sixteen words are there.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        };
        let mut total = _mm512_setzero_si512();
        for (b, GateBand { bias, scale, .. }) in self.bands.iter().enumerate() {
            let (max, mean) = (load(2 * b), load(2 * b + 1));
            let [by_max, by_mean] = [scale.first, scale.second].map(|factor| _mm512_set1_epi32(factor));
            let logit = |max: __m512i, mean: __m512i| {
                let terms = _mm512_add_epi64(_mm512_mul_epi32(max, by_max), _mm512_mul_epi32(mean, by_mean));
                _mm512_add_epi64(terms, _mm512_set1_epi64(*bias))
            };
            let even = logit(max, mean);
            let odd = logit(_mm512_srli_epi64::<32>(max), _mm512_srli_epi64::<32>(mean));
            let high = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
            let shift = scale.shift.saturating_sub(32).clamp(1, 30);
            let rounded = _mm512_add_epi32(high, _mm512_set1_epi32(1 << (shift - 1)));
            let logit = _mm512_sra_epi32(rounded, _mm_cvtsi32_si128(shift as i32));
            let logit = _mm512_max_epi32(_mm512_min_epi32(logit, _mm512_set1_epi32(127)), _mm512_set1_epi32(-128));
            total = _mm512_add_epi32(total, sigmoid(_mm512_add_epi32(logit, _mm512_set1_epi32(128))));
        }
        total
    }
}

/// Entries 0…255 of the table of the logistic function.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sigmoid(index: __m512i) -> __m512i {
    let (quarters, _) = TABLE.as_chunks::<64>();
    let mut found = _mm512_setzero_si512();
    for (i, quarter) in quarters.iter().enumerate() {
        let (low, high) = quarter.split_at(32);
        // SAFETY: both halves are 64 bytes.
        let (low, high) =
            unsafe { (_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())) };
        let here = _mm512_cmpeq_epi32_mask(_mm512_srli_epi32::<6>(index), _mm512_set1_epi32(i as i32));
        found = _mm512_mask_mov_epi32(found, here, _mm512_permutex2var_epi16(low, index, high));
    }
    _mm512_and_si512(found, _mm512_set1_epi32(0xFFFF))
}

/// `[pair][plane][column]`.
#[repr(C, align(64))]
struct Ring([[[u32; COLUMNS]; PLANES]; PAIRS]);
