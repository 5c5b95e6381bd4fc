//! Inner loops of the float convolution and of the spatial gate, for AVX-512, for AVX2 with FMA, and over plain arrays for the tests.
//!
//! Every product is added by one fused multiply-add, and each output's products in one order whatever the vector type, so
//! a form gives the same bits on every processor that has it. `unsafe` is for loads and stores through pointers, whose
//! extents are checked where a loop is entered, and for entering functions compiled for instructions that the processor
//! was seen to have.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

/// What the loops are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    /// Plain arrays of up to this many lanes, 8 or 16, one library call for each product: the twin in the tests.
    #[cfg(test)]
    Model(usize),
}

cpufeatures::new!(avx512, "avx512f", "avx512vl");
cpufeatures::new!(avx2, "avx2", "fma");

impl Isa {
    /// The fastest that this processor has.
    pub fn detect() -> Option<Isa> {
        if avx512::get() {
            return Some(Isa::Avx512);
        } else if avx2::get() {
            return Some(Isa::Avx2);
        }
        None
    }

    /// Output pixels that [`Lanes`] computes together.
    pub fn pixels(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            #[cfg(test)]
            Isa::Model(lanes) => lanes,
        }
    }

    /// Output channels to a vector of [`Lanes`], of a layer with this many: 8 or 16.
    pub fn lanes(self, channels: usize) -> usize {
        if channels <= 8 || self.pixels() == 8 { 8 } else { 16 }
    }
}

/// One tap of the window, for one block of input channels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tap {
    /// Where the first pixel's block begins.
    pub at: usize,
    /// Channels of the block.
    pub channels: usize,
}

/// A row of output pixels of up to `lanes` channels, one channel to a lane.
#[derive(Debug, Clone, Copy)]
pub struct Lanes<'a> {
    /// 8 or 16: channels of a vector, and from one pixel to the next in `columns`.
    pub lanes: usize,
    /// Input pixels in blocks of `lanes` channels; whole vectors of pixels, the last ones of which may mean nothing.
    pub columns: &'a [f32],
    pub taps: &'a [Tap],
    /// `[tap][channel of the block][lane]`.
    pub weights: &'a [f32],
    pub bias: &'a [f32; 16],
    /// Lower bound of the output.
    pub low: f32,
    /// Output pixels.
    pub count: usize,
    /// Elements from one output pixel to the next.
    pub out_step: usize,
    /// Channels to write.
    pub channels: usize,
}

impl Lanes<'_> {
    fn fits(&self, pixels: usize, out: usize) -> bool {
        let Some(last) = self.count.checked_sub(1) else { return false };
        let columns = (last / pixels + 1) * pixels - 1;
        let end = |tap: &Tap| tap.at + columns * self.lanes + tap.channels;
        let taps: usize = self.taps.iter().map(|tap| tap.channels).sum();
        matches!(self.lanes, 8 | 16)
            && self.taps.iter().all(|tap| end(tap) <= self.columns.len())
            && taps * self.lanes <= self.weights.len()
            && (1..=self.lanes).contains(&self.channels)
            && last * self.out_step + self.channels <= out
    }

    /// The row; nothing where it does not fit.
    pub fn run(&self, isa: Isa, out: &mut [f32]) {
        if !self.fits(isa.pixels(), out.len()) {
            return;
        }
        // SAFETY: `detect` saw the instructions, or a test did; `fits` checked every extent.
        unsafe {
            match (isa, self.lanes) {
                (Isa::Avx512, 16) => lanes_avx512(self, out),
                (Isa::Avx512, _) => lanes_avx512_half(self, out),
                (Isa::Avx2, _) => lanes_avx2(self, out),
                #[cfg(test)]
                (Isa::Model(8), _) => lanes::<[f32; 8], 8>(self, out),
                #[cfg(test)]
                (Isa::Model(_), 16) => lanes::<[f32; 16], 16>(self, out),
                #[cfg(test)]
                (Isa::Model(_), _) => lanes::<[f32; 8], 16>(self, out),
            }
        }
    }
}

/// Rows of output pixels of up to four channels: a vector is four pixels (two in AVX2) of four channels each. A row of
/// input meets every output row it is part of while it is in a register.
#[derive(Debug, Clone, Copy)]
pub struct Quads<'a> {
    /// Taps along a side: 1, 3 or 5.
    pub kernel: usize,
    /// `[block of four channels][row][pixel][4]`.
    pub columns: &'a [f32],
    /// Input channels.
    pub inputs: usize,
    /// Elements of a block of channels, and of a row.
    pub block: usize,
    pub row: usize,
    /// Elements from one tap of a row to the next.
    pub tap: usize,
    /// `[channel of a block][block][kx][ky][4]`.
    pub weights: &'a [f32],
    pub bias: [f32; 4],
    pub low: f32,
    /// Output pixels of a row.
    pub count: usize,
    /// Output rows, at most [`ROWS`]; input rows are there for all of them.
    pub rows: usize,
    /// Elements from one output pixel, and one output row, to the next.
    pub out_step: usize,
    pub out_row: usize,
    pub channels: usize,
}

/// Output rows and pixels that [`Quads`] computes together.
pub const ROWS: usize = 4;
pub const QUAD_PIXELS: usize = 16;

impl Quads<'_> {
    fn fits(&self, out: usize) -> bool {
        let Some(last) = self.count.checked_sub(1) else { return false };
        let pixels = (last / QUAD_PIXELS + 1) * QUAD_PIXELS;
        let (blocks, reach) = (self.inputs.div_ceil(4), self.kernel.saturating_sub(1));
        let end = blocks.saturating_sub(1) * self.block + (ROWS - 1 + reach) * self.row + reach * self.tap + 4 * pixels;
        matches!(self.kernel, 1 | 3 | 5)
            && self.inputs > 0
            && end <= self.columns.len()
            && self.inputs * self.kernel * self.kernel * 4 <= self.weights.len()
            && (1..=4).contains(&self.channels)
            && (1..=ROWS).contains(&self.rows)
            && (self.rows - 1) * self.out_row + last * self.out_step + self.channels <= out
    }

    /// The rows; nothing where they do not fit.
    pub fn run(&self, isa: Isa, out: &mut [f32]) {
        if !self.fits(out.len()) {
            return;
        }
        // SAFETY: `detect` saw the instructions, or a test did; `fits` checked every extent.
        unsafe {
            match isa {
                Isa::Avx512 => quads_avx512(self, out),
                Isa::Avx2 => quads_avx2(self, out),
                #[cfg(test)]
                Isa::Model(_) => quads_of::<[f32; 16], 4>(self, out),
            }
        }
    }
}

/// Rows of logits of the spatial gate: the 7×7 convs of its eight statistics, a band to a lane.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// `[maximum, mean][row][pixel][band]`, from the first output's upper left tap on.
    pub planes: &'a [f32],
    /// Elements of a plane, and of a row.
    pub plane: usize,
    pub row: usize,
    /// `[maximum, mean][kx][ky][band]`.
    pub weights: &'a [[f32; 4]; 2 * GATE_KERNEL * GATE_KERNEL],
    pub bias: [f32; 4],
    /// Output pixels of a row; whole vectors are read and written.
    pub count: usize,
    /// Elements from one output row to the next.
    pub out_row: usize,
}

/// Side of the spatial gate's window.
pub const GATE_KERNEL: usize = 7;

impl Gate<'_> {
    fn fits(&self, out: usize) -> bool {
        let row = self.count.next_multiple_of(QUAD_PIXELS) * 4;
        let end = self.plane + (ROWS + GATE_KERNEL - 2) * self.row + (GATE_KERNEL - 1) * 4 + row;
        end <= self.planes.len() && (ROWS - 1) * self.out_row + row <= out
    }

    /// [`ROWS`] rows, `[pixel][band]`; nothing where they do not fit.
    pub fn run(&self, isa: Isa, out: &mut [f32]) {
        if !self.fits(out.len()) {
            return;
        }
        // SAFETY: `detect` saw the instructions, or a test did; `fits` checked every extent.
        unsafe {
            match isa {
                Isa::Avx512 => gate_avx512(self, out),
                Isa::Avx2 => gate_avx2(self, out),
                #[cfg(test)]
                Isa::Model(_) => gate::<[f32; 16], 4>(self, out),
            }
        }
    }
}

/// A row of the spatial gate's statistics: maximum and mean over the channels of the four Haar bands of each pixel and its
/// left, upper and upper left neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Statistics<'a> {
    /// The row above and the row, `[block of four channels][pixel][4]`, from the first pixel's left neighbour on.
    pub rows: [&'a [f32]; 2],
    /// Elements of a block of channels, and their number.
    pub block: usize,
    pub blocks: usize,
    /// Pixels: whole vectors.
    pub count: usize,
}

impl Statistics<'_> {
    /// `[pixel][band]` each; nothing where they do not fit.
    pub fn run(&self, isa: Isa, maxima: &mut [f32], means: &mut [f32]) {
        let end = self.blocks.saturating_sub(1) * self.block + 4 * (self.count + 1);
        let fits = self.count.is_multiple_of(4) && maxima.len().min(means.len()) >= 4 * self.count;
        if !fits || self.rows.iter().any(|row| row.len() < end) {
            return;
        }
        // SAFETY: `detect` saw the instructions, or a test did; every extent has been checked.
        unsafe {
            match isa {
                Isa::Avx512 => statistics_avx512(self, maxima, means),
                Isa::Avx2 => statistics_avx2(self, maxima, means),
                #[cfg(test)]
                Isa::Model(_) => statistics::<[f32; 16]>(self, maxima, means),
            }
        }
    }
}

#[inline(always)]
unsafe fn statistics<V: Vector>(run: &Statistics, maxima: &mut [f32], means: &mut [f32]) {
    let half = 0.5 / (4 * run.blocks) as f32;
    for first in (0..run.count).step_by(V::LANES / 4) {
        // SAFETY: `run` saw whole vectors of pixels, and the pixel before them, in every block of both rows.
        unsafe {
            let (mut max, mut sum) = ([V::splat(f32::NEG_INFINITY); 4], [V::splat(0.0); 4]);
            for block in 0..run.blocks {
                let at = block * run.block + 4 * first;
                let (above, here) = (run.rows[0].as_ptr().add(at), run.rows[1].as_ptr().add(at));
                let (a, b, c, d) = (V::load(above), V::load(above.add(4)), V::load(here), V::load(here.add(4)));
                let (top, bottom, fall, rise) = (a.add(b), c.add(d), a.sub(b), c.sub(d));
                let bands = [top.sub(bottom), fall.add(rise), fall.sub(rise), top.add(bottom)];
                for (i, band) in bands.into_iter().enumerate() {
                    max[i] = max[i].at_least(band);
                    sum[i] = sum[i].add(band);
                }
            }
            let (mut maximum, mut mean) = (V::splat(0.0), V::splat(0.0));
            for (i, (max, sum)) in max.into_iter().zip(sum).enumerate() {
                let max = max.at_least(max.spread::<NEIGHBOURS>());
                let sum = sum.add(sum.spread::<NEIGHBOURS>());
                // The lane of the band takes it.
                let mut of_max = [0.0; 4];
                let mut of_sum = [0.0; 4];
                (of_max[i], of_sum[i]) = (0.5, half);
                maximum = maximum.fma(max.at_least(max.spread::<HALVES>()), V::load_four(of_max.as_ptr()));
                mean = mean.fma(sum.add(sum.spread::<HALVES>()), V::load_four(of_sum.as_ptr()));
            }
            maximum.store(V::LANES, maxima.as_mut_ptr().add(4 * first));
            mean.store(V::LANES, means.as_mut_ptr().add(4 * first));
        }
    }
}

/// A vector of f32. Loads and stores are at any alignment.
pub(super) trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Four values, over and over.
    unsafe fn load_four(from: *const f32) -> Self;
    /// Channel `I` of every four, four times; [`ALL`]: as it is; [`NEIGHBOURS`], [`HALVES`]: exchanged.
    unsafe fn spread<const I: i32>(self) -> Self;
    /// self + a·b, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// The larger one; `low` where self is not a number.
    unsafe fn at_least(self, low: Self) -> Self;
    /// The first `count` lanes, at least one.
    unsafe fn store(self, count: usize, to: *mut f32);
}

#[inline(always)]
unsafe fn lanes<V: Vector, const P: usize>(run: &Lanes, out: &mut [f32]) {
    for first in (0..run.count).step_by(P) {
        // SAFETY: `fits` saw `V::LANES` bias values, weights for all taps, whole vectors of pixels, and room in `out`.
        unsafe {
            let mut sums = [V::load(run.bias.as_ptr()); P];
            let mut weights = run.weights.as_ptr();
            let pixel = run.columns.as_ptr().add(first * V::LANES);
            for tap in run.taps {
                let from = pixel.add(tap.at);
                for channel in 0..tap.channels {
                    let weight = V::load(weights);
                    weights = weights.add(V::LANES);
                    let from = from.add(channel);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.fma(weight, V::splat(*from.add(p * V::LANES)));
                    }
                }
            }
            let low = V::splat(run.low);
            let out = out.as_mut_ptr().add(first * run.out_step);
            for (p, sum) in sums.into_iter().enumerate().take(run.count - first) {
                sum.at_least(low).store(run.channels, out.add(p * run.out_step));
            }
        }
    }
}

#[inline(always)]
unsafe fn quads_of<V: Vector, const G: usize>(run: &Quads, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe {
        match run.kernel {
            1 => quads::<V, 1, G>(run, out),
            3 => quads::<V, 3, G>(run, out),
            _ => quads::<V, 5, G>(run, out),
        }
    }
}

/// `G` vectors of pixels a step.
#[inline(always)]
unsafe fn quads<V: Vector, const K: usize, const G: usize>(run: &Quads, out: &mut [f32]) {
    for first in (0..run.count).step_by(G * V::LANES / 4) {
        // SAFETY: `fits` saw the weights of all taps, rows for `ROWS` output rows, whole vectors of pixels, and the room.
        unsafe {
            let mut sums = [[V::load_four(run.bias.as_ptr()); G]; ROWS];
            let mut weights = run.weights.as_ptr();
            // Channel by channel of all blocks: were a vector's four channels used together, the compiler would keep the
            // vectors of all rows, and has not the registers for it.
            macro_rules! channels {
                ($($i:literal)*) => {$(
                    for block in 0..(run.inputs + 3 - $i) / 4 {
                        for kx in 0..K {
                            let from = run.columns.as_ptr().add(block * run.block + kx * run.tap + 4 * first);
                            channel::<V, K, G, $i>(from, run.row, weights, &mut sums);
                            weights = weights.add(4 * K);
                        }
                    }
                )*};
            }
            channels!(0 1 2 3);
            let low = V::splat(run.low);
            let out = out.as_mut_ptr();
            for (y, sums) in sums.into_iter().enumerate().take(run.rows) {
                for (g, sum) in sums.into_iter().enumerate() {
                    let x = first + g * V::LANES / 4;
                    if x >= run.count {
                        break;
                    }
                    let to = out.add(y * run.out_row + x * run.out_step);
                    put(sum.at_least(low), run, run.count - x, to);
                }
            }
        }
    }
}

/// `G` vectors of pixels a step.
#[inline(always)]
unsafe fn gate<V: Vector, const G: usize>(run: &Gate, out: &mut [f32]) {
    for first in (0..run.count).step_by(G * V::LANES / 4) {
        // SAFETY: `fits` saw whole vectors of pixels in all rows of both planes, and of the output.
        unsafe {
            let mut sums = [[V::load_four(run.bias.as_ptr()); G]; ROWS];
            let mut weights = run.weights.as_ptr().cast::<f32>();
            for plane in 0..2 {
                for kx in 0..GATE_KERNEL {
                    let from = run.planes.as_ptr().add(plane * run.plane + 4 * (kx + first));
                    channel::<V, GATE_KERNEL, G, ALL>(from, run.row, weights, &mut sums);
                    weights = weights.add(4 * GATE_KERNEL);
                }
            }
            for (y, sums) in sums.into_iter().enumerate() {
                for (g, sum) in sums.into_iter().enumerate() {
                    sum.store(V::LANES, out.as_mut_ptr().add(y * run.out_row + 4 * first + g * V::LANES));
                }
            }
        }
    }
}

/// In place of a channel: each lane its own.
const ALL: i32 = 4;
/// In place of a channel: of every four lanes the first two and the last two exchanged, or the two halves.
const NEIGHBOURS: i32 = 5;
const HALVES: i32 = 6;

/// Adds channel `I` of a block at one kx: for each input row the output rows it belongs to.
#[inline(always)]
unsafe fn channel<V: Vector, const K: usize, const G: usize, const I: i32>(
    from: *const f32,
    row: usize,
    weights: *const f32,
    sums: &mut [[V; G]; ROWS],
) {
    // SAFETY: forwarded from `quads`.
    unsafe {
        let mut taps = [V::splat(0.0); K];
        for (ky, tap) in taps.iter_mut().enumerate() {
            *tap = V::load_four(weights.add(4 * ky));
        }
        macro_rules! row {
            ($($r:literal)*) => {$(
                if $r < ROWS + K - 1 {
                    let from = from.add($r * row);
                    for g in 0..G {
                        let x = V::load(from.add(g * V::LANES)).spread::<I>();
                        for ky in 0..K {
                            if let Some(y) = usize::checked_sub($r, ky) && y < ROWS {
                                sums[y][g] = sums[y][g].fma(taps[ky], x);
                            }
                        }
                    }
                }
            )*};
        }
        row!(0 1 2 3 4 5 6 7 8 9);
    }
}

/// Writes a vector of pixels, of which `count` are wanted.
#[inline(always)]
unsafe fn put<V: Vector>(sum: V, run: &Quads, count: usize, to: *mut f32) {
    // SAFETY: forwarded from `quads`; a vector has at most 16 lanes.
    unsafe {
        if run.channels == 4 && run.out_step == 4 {
            sum.store((4 * count).min(V::LANES), to);
            return;
        }
        let mut values = [0.0f32; 16];
        sum.store(V::LANES, values.as_mut_ptr());
        for (p, pixel) in values.as_chunks::<4>().0.iter().enumerate().take((V::LANES / 4).min(count)) {
            let to = to.add(p * run.out_step);
            if run.channels == 4 {
                to.cast::<[f32; 4]>().write_unaligned(*pixel);
            } else {
                to.copy_from_nonoverlapping(pixel.as_ptr(), run.channels);
            }
        }
    }
}

/// [`Vector`] over registers: the instructions that differ in their width alone, and loads of four and stores as they come.
macro_rules! registers {
    ($vector:ty, $lanes:literal, $set1:ident $loadu:ident $permute:ident $fmadd:ident $add:ident $sub:ident $max:ident,
     $($own:item)*) => {
        impl Vector for $vector {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: callers run where the instructions are. So for its neighbours.
                unsafe { $set1(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: callers have a vector's values there.
                unsafe { $loadu(from) }
            }
            #[inline(always)]
            unsafe fn spread<const I: i32>(self) -> Self {
                // SAFETY: as `splat`.
                unsafe {
                    match I {
                        0 => $permute::<0x00>(self),
                        1 => $permute::<0x55>(self),
                        2 => $permute::<0xAA>(self),
                        3 => $permute::<0xFF>(self),
                        NEIGHBOURS => $permute::<0xB1>(self),
                        HALVES => $permute::<0x4E>(self),
                        _ => self,
                    }
                }
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $fmadd(a, b, self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $sub(self, other) }
            }
            #[inline(always)]
            unsafe fn at_least(self, low: Self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $max(self, low) }
            }
            $($own)*
        }
    };
}

registers! {
    __m512, 16, _mm512_set1_ps _mm512_loadu_ps _mm512_permute_ps _mm512_fmadd_ps _mm512_add_ps _mm512_sub_ps _mm512_max_ps,
    #[inline(always)]
    unsafe fn load_four(from: *const f32) -> Self {
        // SAFETY: callers have four values there.
        unsafe { _mm512_broadcast_f32x4(_mm_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, count: usize, to: *mut f32) {
        // SAFETY: callers have room for `count` values, which is 1 to 16.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as __mmask16, self) }
    }
}

registers! {
    __m256, 8, _mm256_set1_ps _mm256_loadu_ps _mm256_permute_ps _mm256_fmadd_ps _mm256_add_ps _mm256_sub_ps _mm256_max_ps,
    #[inline(always)]
    unsafe fn load_four(from: *const f32) -> Self {
        // SAFETY: callers have four values there. `_mm256_broadcast_ps` takes a reference, which must be aligned as a register is.
        unsafe {
            let four = _mm_loadu_ps(from);
            _mm256_set_m128(four, four)
        }
    }
    #[inline(always)]
    unsafe fn store(self, count: usize, to: *mut f32) {
        // SAFETY: callers have room for `count` values, which is 1 to 8.
        unsafe {
            if count == 8 {
                _mm256_storeu_ps(to, self);
            } else {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes), self);
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512 F and VL; `run` fits `out`. So for its neighbours.
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn lanes_avx512(run: &Lanes, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { lanes::<__m512, 16>(run, out) }
}

#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn lanes_avx512_half(run: &Lanes, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { lanes::<__m256, 16>(run, out) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn lanes_avx2(run: &Lanes, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { lanes::<__m256, 8>(run, out) }
}

#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn quads_avx512(run: &Quads, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { quads_of::<__m512, 4>(run, out) }
}

#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn gate_avx512(run: &Gate, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { gate::<__m512, 4>(run, out) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn gate_avx2(run: &Gate, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { gate::<__m256, 2>(run, out) }
}

#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn statistics_avx512(run: &Statistics, maxima: &mut [f32], means: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { statistics::<__m512>(run, maxima, means) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn statistics_avx2(run: &Statistics, maxima: &mut [f32], means: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { statistics::<__m256>(run, maxima, means) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn quads_avx2(run: &Quads, out: &mut [f32]) {
    // SAFETY: forwarded.
    unsafe { quads_of::<__m256, 2>(run, out) }
}

#[cfg(test)]
impl<const N: usize> Vector for [f32; N] {
    const LANES: usize = N;
    unsafe fn splat(value: f32) -> Self {
        [value; N]
    }
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: callers have N values there.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    unsafe fn load_four(from: *const f32) -> Self {
        // SAFETY: callers have four values there.
        core::array::from_fn(|i| unsafe { *from.add(i % 4) })
    }
    unsafe fn spread<const I: i32>(self) -> Self {
        core::array::from_fn(|i| match I {
            ALL => self[i],
            NEIGHBOURS => self[i ^ 1],
            HALVES => self[i ^ 2],
            _ => self[i / 4 * 4 + I as usize],
        })
    }
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        core::array::from_fn(|i| libm::fmaf(a[i], b[i], self[i]))
    }
    unsafe fn add(self, other: Self) -> Self {
        core::array::from_fn(|i| self[i] + other[i])
    }
    unsafe fn sub(self, other: Self) -> Self {
        core::array::from_fn(|i| self[i] - other[i])
    }
    unsafe fn at_least(self, low: Self) -> Self {
        core::array::from_fn(|i| if self[i] > low[i] { self[i] } else { low[i] })
    }
    unsafe fn store(self, count: usize, to: *mut f32) {
        // SAFETY: callers have room for `count` values.
        unsafe { to.copy_from_nonoverlapping(self.as_ptr(), count) }
    }
}
