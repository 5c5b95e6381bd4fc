//! The spatial gate over AVX-512 VNNI or AVX2: the fast twin of [`crate::kernels::spatial_gate`].
//!
//! A strip of columns at a time. Rows of statistics lie in a ring as pairs: a word holds a column's rows 2j and 2j + 1, so
//! that one `vpdpwssd` or `vpmaddwd` takes two taps of a vector of columns. Two output rows have the same four pairs, the one without the
//! last of their eight rows, the other without the first, and share every load.
//!
//! Channels are two to a word while maximum and sum are taken: sums of at most 64 channels of bytes stay in 16 bits.

use core::arch::x86_64::{__m256i, __m512i};

use super::Level;
use super::quads::{PIXELS, Planes, constant, interleave, quads};
use super::requantise::{Factor, Place};
use super::vector::Vector;
use crate::kernels::rescale::HighWord;
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
    level: Level,
    zero: i8,
    /// Of the upper and of the lower output row: `[plane][pair][column]`, two weights to a word.
    weights: [[[u32; PAIRS * SIDE]; PLANES]; 2],
    bands: [GateBand; 4],
    mean: HighWord,
    output: Factor,
    place: Place,
}

impl Gate {
    /// At `level`, or below where the processor has less. `None` where a number is outside this form's range, or there is no
    /// such form.
    pub fn new(level: Level, layer: &Int8Layer, channels: usize, scale: Multiplier, place: Output) -> Option<Self> {
        let Int8Layer { zero, weights, bands, mean } = *layer;
        let far = |band: &GateBand| (33..=62).contains(&band.scale.shift);
        let level = level.min(super::level());
        if level == Level::Any || channels > CHANNELS || !channels.is_multiple_of(4) {
            return None;
        }
        let (output, place) = (Factor::new(HighWord::new(scale, 32)?), Place::new(place)?);
        let mut gate = Gate { level, zero, weights: [[[0; _]; _]; 2], bands: *bands, mean, output, place };
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
            // SAFETY: the processor was asked when the gate was made.
            unsafe {
                match self.level {
                    Level::Any => return None,
                    Level::Avx2 => self.strip::<__m256i>(input, x, output)?,
                    Level::Vnni => self.strip::<__m512i>(input, x, output)?,
                }
            }
        }
        Some(())
    }

    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn strip<V: Vector>(&self, input: &Map<i8>, x: usize, output: &mut MapMut<i8>) -> Option<()> {
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
            // SAFETY: the promise of the caller.
            unsafe { self.gather::<V>(input, (before, x), count, &mut rows[1]) };
        }
        for j in pairs {
            while entered <= 2 * j + 3 {
                let [even, odd] = &mut rows;
                let (above, here) = if entered % 2 == 0 { (odd, even) } else { (even, odd) };
                // SAFETY: the promise of the caller.
                unsafe { self.enter::<V>(input, (entered, x), count, above, here, &mut ring) };
                entered += 1;
            }
            for first in (0..count).step_by(MOST) {
                let pixels = (count - first).min(MOST);
                for (plane, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the promise of the caller.
                    unsafe {
                        match pixels.div_ceil(V::PIXELS) {
                            1 => self.sums::<V, 1>(&ring, j, plane, (first, 0), sums),
                            2 => self.sums::<V, 2>(&ring, j, plane, (first, 0), sums),
                            _ => {
                                for at in (0..pixels).step_by(4 * V::PIXELS) {
                                    self.sums::<V, 4>(&ring, j, plane, (first, at), sums);
                                }
                            }
                        }
                    }
                }
                for row in 0..2 {
                    let Some(y) = (2 * j + row).checked_sub(1).filter(|y| held.contains(y)) else { continue };
                    // SAFETY: the promise of the caller.
                    unsafe { self.finish::<V>(input, (y, x + first), pixels, &sums, row, output)? };
                }
            }
        }
        Some(())
    }

    /// Puts row `y` of the statistics into the ring; rows below the map are zero. `here` is for the row's pixels, `above`
    /// has those of the row above.
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn enter<V: Vector>(
        &self,
        input: &Map<i8>,
        (y, x): (usize, usize),
        count: usize,
        above: &[u32; CHANNELS / 4 * ROW],
        here: &mut [u32; CHANNELS / 4 * ROW],
        ring: &mut Ring,
    ) {
        let shape = input.shape();
        let (pair, odd) = ((y + 4) / 2 % PAIRS, y % 2 == 1);
        let quads = quads(shape.channels);
        // SAFETY: the promise of the caller.
        unsafe { self.gather::<V>(input, (y, x), count, here) };
        let Some(planes) = ring.0.get_mut(pair) else { return };
        if y >= shape.height {
            if !odd {
                planes.as_flattened_mut().fill(0);
            }
            return;
        }
        // SAFETY: the promise of the caller.
        unsafe {
            V::run(
                #[inline(always)]
                || self.statistics::<V>(above, here, quads, count + 6, odd, planes),
            );
        }
        // Columns of the map: of those from the third left of the strip on.
        let columns = 3usize.saturating_sub(x)..(shape.width + 3 - x).min(count + 6);
        for plane in planes {
            plane.get_mut(..columns.start).unwrap_or_default().fill(0);
            plane.get_mut(columns.end..count + 6).unwrap_or_default().fill(0);
        }
    }

    /// Puts the pixels of row `y` into `words`, from the fourth left of the strip on; nothing where the map has no such row.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn gather<V: Vector>(
        &self,
        input: &Map<i8>,
        (y, x): (usize, usize),
        count: usize,
        words: &mut [u32; CHANNELS / 4 * ROW],
    ) {
        let shape = input.shape();
        let words = words.get_mut(..quads(shape.channels) * ROW);
        let (Some(row), Some(words)) = (input.row(y), words) else { return };
        let (pad, pixels) = (constant(self.zero, shape.channels), count + SIDE);
        let (before, within) = (4usize.saturating_sub(x).min(pixels), (shape.width + 4 - x).min(pixels));
        let mut planes = Planes { words, plane: ROW };
        planes.fill(0, before, pad);
        // SAFETY: the promise of the caller.
        unsafe { planes.copy::<V>(&row, x + before - 4, 1, before, within - before) };
        planes.fill(within, pixels, pad);
    }

    /// Maximum and mean of the four bands at `count` columns, as the lower half of each word, or added as the upper one.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn statistics<V: Vector>(
        &self,
        above: &[u32; CHANNELS / 4 * ROW],
        here: &[u32; CHANNELS / 4 * ROW],
        quads: usize,
        count: usize,
        upper: bool,
        planes: &mut [[u32; COLUMNS]; PLANES],
    ) {
        let count = count.min(COLUMNS - PIXELS + 1);
        for first in (0..count).step_by(V::PIXELS) {
            // SAFETY: a row of each quad has a vector and one more pixel from any column of a plane on; the promise of the
            // caller.
            unsafe {
                let mut most = [V::splat16(i16::MIN); 4];
                // Of left + right and left − right, above and here.
                let mut sums = [V::splat(0); 4];
                for q in 0..quads.min(CHANNELS / 4) {
                    let at = q * ROW + first;
                    let (above, here) = (above.as_ptr().add(at), here.as_ptr().add(at));
                    let taps = [V::load(above), V::load(above.add(1)), V::load(here), V::load(here.add(1))];
                    for odd in [false, true] {
                        let mut halves = taps;
                        for v in &mut halves {
                            *v = if odd { v.down8_of_16() } else { v.and(V::splat16(0xFF)) };
                        }
                        let [a, b, c, d] = halves;
                        let (top, bottom, fall, rise) = (a.add16(b), c.add16(d), a.sub16(b), c.sub16(d));
                        most[0] = most[0].max16(top.sub16(bottom));
                        most[1] = most[1].max16(fall.add16(rise));
                        most[2] = most[2].max16(fall.sub16(rise));
                        most[3] = most[3].max16(top.add16(bottom));
                        sums[0] = sums[0].add16(top);
                        sums[1] = sums[1].add16(bottom);
                        sums[2] = sums[2].add16(fall);
                        sums[3] = sums[3].add16(rise);
                    }
                }
                let one = V::splat16(1);
                let [top, bottom, fall, rise] =
                    [sums[0].madd16(one), sums[1].madd16(one), sums[2].madd16(one), sums[3].madd16(one)];
                let zero = i32::from(self.zero) + 128;
                let means = [
                    top.sub(bottom),
                    fall.add(rise),
                    fall.sub(rise),
                    top.add(bottom).sub(V::splat(16 * zero * quads as i32)),
                ];
                let mean = Factor::new(self.mean);
                let mut values = [V::splat(0); PLANES];
                for band in 0..4 {
                    values[2 * band] = most[band].max16(most[band].shr(16));
                    values[2 * band + 1] = mean.apply(means[band].shl(self.mean.before.into()));
                }
                values[6] = values[6].sub16(V::splat16((4 * zero) as i16));
                for (plane, value) in planes.iter_mut().zip(values) {
                    let words = plane.as_mut_ptr().add(first);
                    // The row above left the upper halves zero.
                    let word = if upper { V::load(words).or(value.shl(16)) } else { value.and(V::splat(0xFFFF)) };
                    word.store(words);
                }
            }
        }
    }

    /// The sums of one plane for the `j`th pair of output rows, `P` vectors of columns from the `at`th after `first` on;
    /// nothing where the ring, or `sums`, has not so many.
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn sums<V: Vector, const P: usize>(
        &self,
        ring: &Ring,
        j: usize,
        plane: usize,
        (first, at): (usize, usize),
        sums: &mut [[i32; MOST]; 2],
    ) {
        let columns = P * V::PIXELS;
        if plane >= PLANES || first + at + columns + SIDE - 1 > COLUMNS || at + columns > MOST {
            return;
        }
        // SAFETY: the columns are there, and the room, as checked; the promise of the caller.
        unsafe {
            V::run(
                #[inline(always)]
                || {
                    let [upper, lower] = &self.weights;
                    let mut of = [[V::splat(0); P]; 2];
                    for pair in 0..PAIRS {
                        let words = ring.0[(j + pair) % PAIRS][plane].as_ptr().wrapping_add(first + at);
                        for kx in 0..SIDE {
                            let upper = V::splat(upper[plane][pair * SIDE + kx] as i32);
                            let lower = V::splat(lower[plane][pair * SIDE + kx] as i32);
                            let [above, below] = &mut of;
                            for (p, (above, below)) in above.iter_mut().zip(below).enumerate() {
                                let taps = V::load(words.add(p * V::PIXELS + kx));
                                *above = above.dot16(taps, upper);
                                *below = below.dot16(taps, lower);
                            }
                        }
                    }
                    for (sums, of) in sums.iter_mut().zip(of) {
                        for (p, of) in of.into_iter().enumerate() {
                            of.store(sums.as_mut_ptr().add(at + p * V::PIXELS));
                        }
                    }
                },
            );
        }
    }

    /// Gates the pixels from (`y`, `x`) on with what one row of `sums` gives.
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn finish<V: Vector>(
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
        let quads = words.get_mut(..quads(shape.channels) * MOST)?;
        let sums = sums.each_ref().map(|rows| &rows[row % 2]);
        let step = output.shape().stride;
        // SAFETY: the promise of the caller.
        unsafe {
            Planes { words: quads, plane: MOST }.copy::<V>(&input.row(y)?, x, 1, 0, count);
            V::run(
                #[inline(always)]
                || self.gated::<V>(quads.as_chunks_mut().0, count.min(MOST), sums),
            );
            interleave::<V>(&words, MOST, shape.channels, count, output.from_mut(y, x), step)
        }
    }

    /// Gates `count` pixels of every quad.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    unsafe fn gated<V: Vector>(&self, quads: &mut [[u32; MOST]], count: usize, sums: [&[i32; MOST]; PLANES]) {
        for first in (0..count).step_by(V::PIXELS) {
            // SAFETY: `first` is below `MOST`, which is whole vectors; the promise of the caller.
            unsafe {
                let zero = V::splat(i32::from(self.zero) + 128);
                let byte = V::splat(0xFF);
                let gate = self.gates::<V>(sums, first);
                for quad in quads.iter_mut() {
                    let words = quad.as_mut_ptr().add(first);
                    let quad = V::load(words);
                    let mut channels = [quad.and(byte), quad.shr(8).and(byte), quad.shr(16).and(byte), quad.shr(24)];
                    for v in &mut channels {
                        *v = self.output.apply(v.sub(zero).mul(gate));
                    }
                    self.place.quad(channels).store(words);
                }
            }
        }
    }

    /// The sums of the four gates of a vector of pixels from `first` on, in Q0.15.
    ///
    /// # Safety
    /// See [`Vector`]; the pixels are there.
    #[inline(always)]
    unsafe fn gates<V: Vector>(&self, sums: [&[i32; MOST]; PLANES], first: usize) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let mut total = V::splat(0);
            for (b, GateBand { bias, scale, .. }) in self.bands.iter().enumerate() {
                let max = V::load(sums[2 * b].as_ptr().add(first));
                let mean = V::load(sums[2 * b + 1].as_ptr().add(first));
                let (by_max, by_mean, bias) = (V::splat(scale.first), V::splat(scale.second), V::splat64(*bias));
                let even = max.products(by_max).add64(mean.products(by_mean)).add64(bias);
                let odd = max.odd().products(by_max).add64(mean.odd().products(by_mean)).add64(bias);
                let shift = scale.shift.saturating_sub(32).clamp(1, 30);
                let logit = V::upper(even, odd).add(V::splat(1 << (shift - 1))).sar(shift.into());
                let logit = logit.min(V::splat(127)).max(V::splat(-128));
                total = total.add(logit.add(V::splat(128)).sigmoid());
            }
            total
        }
    }
}

/// `[pair][plane][column]`.
#[repr(C, align(64))]
struct Ring([[[u32; COLUMNS]; PLANES]; PAIRS]);

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::kernels::spatial_gate::{BAND_WEIGHTS, scratch_len};
    use crate::kernels::testing::{Stream, TestMap, in_bands};
    use proptest::prelude::*;
    extern crate std;
    use std::vec;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Strips, vectors and their tails.
        #[test]
        fn every_form_is_its_plain_twin_at_any_width(seed: u64, h in 1usize..12, band in 1usize..12, w in 1usize..300,
            quads in 1usize..18, odd in prop_oneof![3 => Just(0usize), 1 => Just(1)], gaps in (0usize..3, 0usize..9),
            zeros in [-128i32..=127, -128i32..=127], factor in 1e-9f64..1e-4, exponent in -12i32..6, relu: bool) {
            let mut stream = Stream(seed);
            let c = 4 * quads + odd;
            let input = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let weights = stream.weights(4 * BAND_WEIGHTS);
            let unit = 2f64.powi(exponent) / 1000.0;
            let bands = [0.3, 1.0, -1.0, 0.5].map(|f| GateBand::new(f, unit, 0.9, 1.3 * f.abs()).unwrap());
            let (scale, place) = (Multiplier::from_real(factor).unwrap(), Output::int8(zeros[1], relu));
            let empty = TestMap::filled(99i8, h, w, c, gaps.1);
            let layer = Int8Layer::new(zeros[0] as i8, &weights, &bands, c).unwrap();
            let (mut plain, mut scratch) = (empty.clone(), vec![7i16; scratch_len(w)]);
            layer.plain(input.map(), scale, place, &mut scratch, plain.map_mut()).unwrap();
            for level in levels() {
                let gate = Gate::new(level, &layer, c, scale, place);
                prop_assert_eq!(gate.is_some(), odd == 0 && c <= CHANNELS);
                if let Some(gate) = gate {
                    let mut found = empty.clone();
                    in_bands(&[&input], &mut found, band, |_| 0..h as isize, |maps, mut out| {
                        gate.run(&maps[0], &mut out).unwrap();
                    });
                    prop_assert!(found.data == plain.data, "{:?} differs", level);
                }
            }
        }
    }
}
