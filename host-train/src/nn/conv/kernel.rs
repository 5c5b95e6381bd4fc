//! The two inner loops of the direct convolution, for AVX-512, AVX2 and any other processor.
//!
//! Pixels lie along the lanes of a vector. [`correlate`] keeps a tile of output channels × pixel vectors in registers and adds, tap by tap,
//! a broadcast weight times a shifted load of the source. [`accumulate`] keeps a tile of output channels × taps and adds, pixel vector by
//! pixel vector, gradient times shifted source. Every product is added by one fused multiply-add, in an order that does not depend on the
//! vector type, so [`correlate`] gives the same bits on every processor and [`accumulate`] on every processor of one vector length.
//!
//! The vector code is generic; `unsafe` is for loads and stores through pointers, whose bounds the two entry points check once per call,
//! and for entering functions compiled for the instructions that the processor was seen to have.
#![allow(unsafe_code)]

use std::sync::OnceLock;

/// Instruction set of the inner loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain arrays of this many lanes, 8 or 16: the twin that the tests hold the others to, and what processors other than x86-64 use.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code))]
    Portable(usize),
}

impl Isa {
    /// The fastest that this processor has; `None` where a fused multiply-add would be a library call.
    pub fn detect() -> Option<Isa> {
        static ISA: OnceLock<Option<Isa>> = OnceLock::new();
        *ISA.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            return if is_x86_feature_detected!("avx512f") {
                Some(Isa::Avx512)
            } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                Some(Isa::Avx2)
            } else {
                None
            };
            #[cfg(not(target_arch = "x86_64"))]
            cfg!(target_arch = "aarch64").then_some(Isa::Portable(8))
        })
    }

    /// Pixels in a vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            Isa::Portable(lanes) => lanes,
        }
    }
}

/// Output channels of a tile.
pub(super) const BLOCK: usize = 4;

/// Up to [`BLOCK`] output channels of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// First channel and their number.
    pub first: usize,
    pub count: usize,
    /// Offset of the group's first channel in the source.
    pub source: usize,
}

/// One vector of pixels: where its first tap reads the source, where its first output lies in a channel, how many outputs it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub source: usize,
    pub target: usize,
    pub count: usize,
}

/// out[o][target + l] = max(floor, bias[o] + Σ_t weight[o][t] · source[source + l·step + taps[t]]).
pub(super) struct Correlation<'a> {
    pub source: &'a [f32],
    pub taps: &'a [usize],
    pub blocks: &'a [Block],
    pub runs: &'a [Run],
    /// Source pixels from one output to the next.
    pub step: usize,
    /// Block after block, tap after tap, the weights of the block's channels.
    pub weights: &'a [f32],
    pub bias: Option<&'a [f32]>,
    /// Least output: 0 for a ReLU, −∞ without one. What is not a number stays so.
    pub floor: f32,
}

/// Computes `job` into one slice per output channel.
pub(super) fn correlate(isa: Isa, job: &Correlation, out: &mut [&mut [f32]]) {
    let reach = reach(isa, job.source, job.taps, job.blocks);
    assert!(job.runs.iter().all(|r| r.source <= reach && r.count >= 1 && (r.count - 1) * job.step < isa.lanes()));
    let end = job.runs.iter().map(|r| r.target + r.count).max().unwrap_or(0);
    assert!(out.iter().all(|o| o.len() >= end));
    assert!(job.blocks.iter().all(|b| (1..=BLOCK).contains(&b.count) && b.first + b.count <= out.len()));
    assert!(job.weights.len() >= job.blocks.iter().map(|b| b.count * job.taps.len()).sum());
    assert!(job.bias.is_none_or(|b| b.len() >= out.len()));
    // SAFETY: `detect` saw the instructions, or a test did; the bounds of all loads and stores were checked above.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::correlate_avx512(job, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::correlate_avx2(job, out),
            Isa::Portable(8) => correlate_runs::<[f32; 8]>(job, out),
            Isa::Portable(_) => correlate_runs::<[f32; 16]>(job, out),
        }
    }
}

/// sum[block][t][o] += Σ_runs gradient[o·plane + target + l] · source[source + l + taps[t]], lane by lane.
pub(super) struct Accumulation<'a> {
    pub source: &'a [f32],
    pub taps: &'a [usize],
    pub blocks: &'a [Block],
    /// Whole vectors: `count` is not read; where a vector overhangs a row the gradient is zero.
    pub runs: &'a [Run],
    pub gradient: &'a [f32],
    /// Distance of channels in `gradient`.
    pub plane: usize,
}

/// Adds `job` to `sums`, which has a vector per weight, in the order of [`Correlation::weights`].
pub(super) fn accumulate(isa: Isa, job: &Accumulation, sums: &mut [f32]) {
    let reach = reach(isa, job.source, job.taps, job.blocks);
    assert!(job.runs.iter().all(|r| r.source <= reach));
    let channels = job.blocks.iter().map(|b| b.first + b.count).max().unwrap_or(0);
    let end = job.runs.iter().map(|r| r.target + isa.lanes()).max().unwrap_or(0);
    assert!(channels == 0 || (channels - 1) * job.plane + end <= job.gradient.len());
    assert!(job.blocks.iter().all(|b| (1..=BLOCK).contains(&b.count)));
    assert!(sums.len() >= job.blocks.iter().map(|b| b.count * job.taps.len() * isa.lanes()).sum());
    // SAFETY: as in `correlate`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::accumulate_avx512(job, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::accumulate_avx2(job, sums),
            Isa::Portable(8) => accumulate_runs::<[f32; 8]>(job, sums),
            Isa::Portable(_) => accumulate_runs::<[f32; 16]>(job, sums),
        }
    }
}

/// The sum of every vector in `sums`, halves first.
pub(super) fn reduce(isa: Isa, sums: &[f32], out: &mut [f32]) {
    assert!(sums.len() >= out.len() * isa.lanes());
    // SAFETY: as in `correlate`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::reduce_avx512(sums, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::reduce_avx2(sums, out),
            Isa::Portable(8) => reduce_all::<[f32; 8]>(sums, out),
            Isa::Portable(_) => reduce_all::<[f32; 16]>(sums, out),
        }
    }
}

/// The highest source index a run may have so that every tap of every block loads a whole vector inside the source.
fn reach(isa: Isa, source: &[f32], taps: &[usize], blocks: &[Block]) -> usize {
    let farthest = taps.iter().max().unwrap_or(&0) + blocks.iter().map(|b| b.source).max().unwrap_or(0);
    match source.len().checked_sub(farthest + isa.lanes()) {
        Some(reach) => reach,
        None => panic!("a source of {} elements is shorter than one window of {farthest}", source.len()),
    }
}

/// A vector of f32. Loads and stores are of `LANES` elements at any alignment.
trait Vector: Copy {
    const LANES: usize;
    /// Registers there are: bounds the tiles.
    const REGISTERS: usize;
    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// self + a·b with one rounding.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `floor` where that is greater, else self.
    unsafe fn at_least(self, floor: Self) -> Self;
    /// Sum of the lanes: upper half onto lower half until one is left.
    unsafe fn sum(self) -> f32;
}

/// Runs handled together, so that a stretch of source stays in the first cache for all blocks.
const STRETCH: usize = 8;

#[inline(always)]
unsafe fn correlate_runs<V: Vector>(job: &Correlation, out: &mut [&mut [f32]]) {
    for runs in job.runs.chunks(STRETCH) {
        let mut weights = job.weights;
        for block in job.blocks {
            let (mine, rest) = weights.split_at(block.count * job.taps.len());
            weights = rest;
            // SAFETY: forwarded from `correlate`.
            unsafe {
                match (block.count, V::REGISTERS) {
                    (1, 32) => correlate_tiles::<V, 1, 8>(job, block, runs, mine, out),
                    (2, 32) => correlate_tiles::<V, 2, 8>(job, block, runs, mine, out),
                    (3, 32) => correlate_tiles::<V, 3, 4>(job, block, runs, mine, out),
                    (_, 32) => correlate_tiles::<V, 4, 4>(job, block, runs, mine, out),
                    (1, _) => correlate_tiles::<V, 1, 4>(job, block, runs, mine, out),
                    (2, _) => correlate_tiles::<V, 2, 4>(job, block, runs, mine, out),
                    (3, _) => correlate_tiles::<V, 3, 2>(job, block, runs, mine, out),
                    (_, _) => correlate_tiles::<V, 4, 2>(job, block, runs, mine, out),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn correlate_tiles<V: Vector, const CO: usize, const P: usize>(
    job: &Correlation,
    block: &Block,
    runs: &[Run],
    weights: &[f32],
    out: &mut [&mut [f32]],
) {
    for runs in runs.chunks(P) {
        // A tile that is short of runs computes its last one again.
        let run = |p: usize| runs[p.min(runs.len() - 1)];
        // SAFETY: `correlate` checked that source + tap + block.source leaves a vector inside the source, that there are `CO` weights a tap,
        // and that every channel's slice holds target + count.
        unsafe {
            let source: [*const f32; P] =
                std::array::from_fn(|p| job.source.as_ptr().add(block.source + run(p).source));
            let mut tile: [[V; P]; CO] =
                std::array::from_fn(|c| [V::splat(job.bias.map_or(0.0, |b| b[block.first + c])); P]);
            let mut weight = weights.as_ptr();
            for &tap in job.taps {
                let x: [V; P] = std::array::from_fn(|p| V::load(source[p].add(tap)));
                for (c, row) in tile.iter_mut().enumerate() {
                    let w = V::splat(*weight.add(c));
                    for (sum, x) in row.iter_mut().zip(x) {
                        *sum = sum.fma(w, x);
                    }
                }
                weight = weight.add(CO);
            }
            for (c, row) in tile.into_iter().enumerate() {
                let channel = out[block.first + c].as_mut_ptr();
                for (p, sum) in row.into_iter().enumerate() {
                    let Run { target, count, .. } = run(p);
                    let sum = sum.at_least(V::splat(job.floor));
                    if count == V::LANES {
                        sum.store(channel.add(target));
                    } else {
                        let mut lanes = [0f32; 16];
                        sum.store(lanes.as_mut_ptr());
                        for l in 0..count {
                            *channel.add(target + l) = lanes[l * job.step];
                        }
                    }
                }
            }
        }
    }
}

/// Runs after which the next tile gets its turn: their gradients, [`BLOCK`] channels of them, stay in the first cache.
const PASS: usize = 64;

#[inline(always)]
unsafe fn accumulate_runs<V: Vector>(job: &Accumulation, sums: &mut [f32]) {
    for runs in job.runs.chunks(PASS) {
        let mut at = 0;
        for block in job.blocks {
            let width = match (V::REGISTERS, block.count) {
                (32, _) | (_, 1) => 6,
                (_, 2) => 4,
                _ => 2,
            };
            for taps in job.taps.chunks(width) {
                let size = taps.len() * block.count * V::LANES;
                // SAFETY: forwarded from `accumulate`; `at` stays below one vector per weight.
                unsafe { accumulate_tile_of::<V>(job, block, runs, taps, &mut sums[at..at + size]) };
                at += size;
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate_tile_of<V: Vector>(
    job: &Accumulation,
    block: &Block,
    runs: &[Run],
    taps: &[usize],
    sums: &mut [f32],
) {
    macro_rules! tiles {
        ($($channels:literal: $($taps:literal)*;)*) => {
            match (block.count, taps.len()) {
                $($(($channels, $taps) => accumulate_tile::<V, $channels, $taps>(job, block, runs, taps, sums),)*)*
                other => unreachable!("no tile of {other:?}"),
            }
        };
    }
    // SAFETY: forwarded from `accumulate`.
    unsafe {
        tiles! { 1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3 4 5 6; 4: 1 2 3 4 5 6; }
    }
}

#[inline(always)]
unsafe fn accumulate_tile<V: Vector, const CO: usize, const T: usize>(
    job: &Accumulation,
    block: &Block,
    runs: &[Run],
    taps: &[usize],
    sums: &mut [f32],
) {
    // SAFETY: `accumulate` checked that every run leaves a vector inside the source and inside every channel of the gradient; `sums` has
    // CO·T vectors and `taps` has T elements.
    unsafe {
        let stored = sums.as_mut_ptr();
        let mut tile: [[V; CO]; T] =
            std::array::from_fn(|t| std::array::from_fn(|c| V::load(stored.add((t * CO + c) * V::LANES))));
        let source: [*const f32; T] = std::array::from_fn(|t| job.source.as_ptr().add(block.source + taps[t]));
        let gradient: [*const f32; CO] =
            std::array::from_fn(|c| job.gradient.as_ptr().add((block.first + c) * job.plane));
        for run in runs {
            let g: [V; CO] = std::array::from_fn(|c| V::load(gradient[c].add(run.target)));
            for (row, source) in tile.iter_mut().zip(source) {
                let x = V::load(source.add(run.source));
                for (sum, g) in row.iter_mut().zip(g) {
                    *sum = sum.fma(g, x);
                }
            }
        }
        for (t, row) in tile.into_iter().enumerate() {
            for (c, sum) in row.into_iter().enumerate() {
                sum.store(stored.add((t * CO + c) * V::LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn reduce_all<V: Vector>(sums: &[f32], out: &mut [f32]) {
    for (out, sum) in out.iter_mut().zip(sums.chunks_exact(V::LANES)) {
        // SAFETY: the chunk has LANES elements.
        *out = unsafe { V::load(sum.as_ptr()).sum() };
    }
}

impl<const L: usize> Vector for [f32; L] {
    const LANES: usize = L;
    const REGISTERS: usize = 32;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        [v; L]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives LANES readable elements.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives LANES writable elements.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|l| a[l].mul_add(b[l], self[l]))
    }
    #[inline(always)]
    unsafe fn at_least(self, floor: Self) -> Self {
        std::array::from_fn(|l| if floor[l] > self[l] { floor[l] } else { self[l] })
    }
    #[inline(always)]
    unsafe fn sum(mut self) -> f32 {
        let mut half = L / 2;
        while half > 0 {
            for l in 0..half {
                self[l] += self[l + half];
            }
            half /= 2;
        }
        self[0]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Accumulation, Correlation, Vector, accumulate_runs, correlate_runs, reduce_all};

    macro_rules! entry {
        ($($name:ident = $body:ident::<$vector:ty>, $features:literal, ($($arg:ident: $type:ty),*);)*) => {$(
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name($($arg: $type),*) {
                // SAFETY: the caller keeps the contract of the generic body; the instructions are enabled here.
                unsafe { $body::<$vector>($($arg),*) }
            }
        )*};
    }

    entry! {
        correlate_avx512 = correlate_runs::<__m512>, "avx512f,avx2,fma", (job: &Correlation, out: &mut [&mut [f32]]);
        correlate_avx2 = correlate_runs::<__m256>, "avx2,fma", (job: &Correlation, out: &mut [&mut [f32]]);
        accumulate_avx512 = accumulate_runs::<__m512>, "avx512f,avx2,fma", (job: &Accumulation, sums: &mut [f32]);
        accumulate_avx2 = accumulate_runs::<__m256>, "avx2,fma", (job: &Accumulation, sums: &mut [f32]);
        reduce_avx512 = reduce_all::<__m512>, "avx512f,avx2,fma", (sums: &[f32], out: &mut [f32]);
        reduce_avx2 = reduce_all::<__m256>, "avx2,fma", (sums: &[f32], out: &mut [f32]);
    }

    // SAFETY of all blocks below: the functions are inlined into the entries above, which enable the instructions; pointers are the
    // caller's promise (see `Vector`).
    impl Vector for __m512 {
        const LANES: usize = 16;
        const REGISTERS: usize = 32;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm512_set1_ps(v) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }
        #[inline(always)]
        unsafe fn at_least(self, floor: Self) -> Self {
            // SAFETY: see above. Of a NaN and a number the instruction gives the second.
            unsafe { _mm512_max_ps(floor, self) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(self), 1));
                _mm256_add_ps(_mm512_castps512_ps256(self), upper).sum()
            }
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        const REGISTERS: usize = 16;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_set1_ps(v) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }
        #[inline(always)]
        unsafe fn at_least(self, floor: Self) -> Self {
            // SAFETY: see above. Of a NaN and a number the instruction gives the second.
            unsafe { _mm256_max_ps(floor, self) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let half = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps(self, 1));
                let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set of this processor with its portable twin of the same length.
    fn pairs() -> Vec<(Isa, Isa)> {
        let mut pairs = vec![(Isa::Portable(16), Isa::Portable(16))];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                pairs.push((Isa::Avx512, Isa::Portable(16)));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                pairs.push((Isa::Avx2, Isa::Portable(8)));
            }
        }
        pairs
    }

    /// Values without a pattern: the fractional parts of multiples of the golden ratio.
    fn values(n: usize, from: usize) -> Vec<f32> {
        (from..from + n).map(|i| (i as f64 * 0.618_033_988_749_894_9).fract() as f32 - 0.5).collect()
    }

    const TAPS: [usize; 11] = [0, 1, 2, 40, 41, 42, 80, 81, 300, 301, 302];

    fn blocks() -> Vec<Block> {
        [4, 3, 2, 1, 4]
            .iter()
            .enumerate()
            .map(|(i, &count)| Block { first: 4 * i, count, source: 500 * (i % 2) })
            .collect()
    }

    /// Rows of 37 outputs in channels of 4 × 37.
    fn runs(lanes: usize, step: usize) -> Vec<Run> {
        let per = lanes / step;
        let starts = (0..37).step_by(per);
        (0..4)
            .flat_map(|row| starts.clone().map(move |x| (row, x)))
            .map(|(row, x)| Run { source: row * 40 + x * step, target: row * 37 + x, count: per.min(37 - x) })
            .collect()
    }

    #[test]
    fn outputs_have_the_same_bits_in_every_instruction_set() {
        let (source, bias) = (values(1200, 0), values(20, 7));
        let weights = values(14 * TAPS.len(), 90);
        let blocks = blocks();
        for (step, floor) in [(1, f32::NEG_INFINITY), (2, f32::NEG_INFINITY), (1, 0.0), (2, 0.0)] {
            let run = |isa: Isa| {
                let mut out = vec![vec![0f32; 4 * 37]; 20];
                let mut slices: Vec<&mut [f32]> = out.iter_mut().map(|o| &mut o[..]).collect();
                let runs = runs(isa.lanes(), step);
                let job = Correlation {
                    source: &source,
                    taps: &TAPS,
                    blocks: &blocks,
                    runs: &runs,
                    step,
                    weights: &weights,
                    bias: Some(&bias),
                    floor,
                };
                correlate(isa, &job, &mut slices);
                out
            };
            // By definition, channel 5 (second block, second channel), row 2, column 36.
            let expected = (0..11).fold(bias[5], |sum, t| {
                weights[4 * 11 + t * 3 + 1].mul_add(source[500 + 2 * 40 + 36 * step + TAPS[t]], sum)
            });
            let first = run(Isa::Portable(16));
            assert_eq!(first[5][2 * 37 + 36], expected.max(floor));
            assert_eq!(first.iter().flatten().any(|&v| v < 0.0), floor < 0.0);
            for (isa, _) in pairs() {
                assert_eq!(run(isa), first, "{isa:?}");
            }
        }
    }

    #[test]
    fn weight_sums_have_the_same_bits_as_their_portable_twin() {
        let (source, gradient) = (values(1200, 0), values(20 * 200, 31));
        let blocks = blocks();
        for (isa, twin) in pairs() {
            let run = |isa: Isa| {
                let mut runs = runs(isa.lanes(), 1);
                runs.retain(|r| r.count == isa.lanes());
                let mut sums = vec![0f32; 14 * TAPS.len() * isa.lanes()];
                let job = Accumulation {
                    source: &source,
                    taps: &TAPS,
                    blocks: &blocks,
                    runs: &runs,
                    gradient: &gradient,
                    plane: 200,
                };
                accumulate(isa, &job, &mut sums);
                accumulate(isa, &job, &mut sums);
                let mut out = vec![0f32; 14 * TAPS.len()];
                reduce(isa, &sums, &mut out);
                // Weight of block 1, tap 4, channel 2 by definition, in double precision.
                let exact: f64 = runs
                    .iter()
                    .flat_map(|r| (0..isa.lanes()).map(move |l| (r.source + l, r.target + l)))
                    .map(|(s, t)| 2.0 * source[500 + s + TAPS[4]] as f64 * gradient[6 * 200 + t] as f64)
                    .sum();
                assert!((out[4 * 11 + 4 * 3 + 2] as f64 - exact).abs() < 1e-5);
                out
            };
            assert_eq!(run(isa), run(twin), "{isa:?}");
        }
    }

    #[test]
    #[should_panic(expected = "shorter than one window")]
    fn a_source_too_short_is_refused() {
        let job = Correlation {
            source: &[0.0; 20],
            taps: &[0, 30],
            blocks: &blocks(),
            runs: &[],
            step: 1,
            weights: &[],
            bias: None,
            floor: 0.0,
        };
        correlate(Isa::Portable(8), &job, &mut []);
    }
}
