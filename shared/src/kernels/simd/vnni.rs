//! Inner loops for x86-64 with AVX-512 VNNI.
//!
//! `vpdpbusd` multiplies four unsigned by four signed bytes into each 32-bit lane. A lane is an output channel, so that a
//! vector of weights holds four taps of all channels of a group, and an output pixel's four taps are one broadcast.
//! Activations are kept as x + 128, which makes them unsigned; 128·Σw is taken off the bias once for every run.
#![allow(unsafe_code)]

use core::arch::x86_64::*;
use core::sync::atomic::{AtomicU8, Ordering};

use super::micro::{Cells, Micro, Run};
use crate::kernels::dot::dot_i16;

/// Taps of a buffer: the gathered rows of a whole row of pixels, or the weights of a block of channels.
pub const ROOM: usize = 48 * 1024;
/// Output pixels computed together: enough that no product waits for the one before.
const PIXELS: usize = 8;

/// Four taps of `CHANNELS` output channels to a vector of 128, 256 or 512 bits: 4, 8 or 16 channels.
pub struct Vnni<const CHANNELS: usize>;

cpufeatures::new!(vectors, "avx512f", "avx512bw", "avx512vl");

/// Whether this processor, and its operating system, have what [`Vnni`] needs.
pub fn is_there() -> bool {
    // `cpufeatures` does not know VNNI. `cpuid` is slow in a virtual machine, so its answer is kept: 0 is not asked yet.
    static ANSWER: AtomicU8 = AtomicU8::new(0);
    match ANSWER.load(Ordering::Relaxed) {
        0 => {
            let found = vectors::get() && __cpuid_count(7, 0).ecx & 1 << 11 != 0;
            ANSWER.store(1 + u8::from(found), Ordering::Relaxed);
            found
        }
        answer => answer == 2,
    }
}

impl<const CHANNELS: usize> Micro for Vnni<CHANNELS> {
    type Tap = i8;
    const LANES: usize = 4;
    const GROUP: usize = CHANNELS;
    const COLUMN: usize = 1;
    const ORDER: [usize; 4] = [0, 1, 2, 3];

    /// The bytes of x + 128.
    fn copy(cells: Cells, from: &[i8], to: &mut [i8]) {
        let Cells { from_step, to_step, at, channels, count } = cells;
        if !cells.fit(from.len(), to.len(), at + channels) {
            return;
        }
        for i in 0..count {
            let (first, start) = (i * from_step, i * to_step + at);
            let (Some(from), Some(to)) = (from.get(first..first + channels), to.get_mut(start..start + channels))
            else {
                return;
            };
            let ((fours, rest), (to_fours, to_rest)) = (from.as_chunks::<4>(), to.as_chunks_mut::<4>());
            for (to, from) in to_fours.iter_mut().zip(fours) {
                *to = from.map(|x| x ^ i8::MIN);
            }
            for (to, from) in to_rest.iter_mut().zip(rest) {
                *to = from ^ i8::MIN;
            }
        }
    }

    fn run(run: Run<i8>, out: &mut [i8]) {
        if !is_there() || !run.fits(out.len(), Self::LANES, CHANNELS) {
            return;
        }
        // SAFETY: the processor has been asked, and `fits` has checked every extent.
        unsafe {
            match CHANNELS {
                16 => sixteen(&run, out),
                8 => eight(&run, out),
                4 => four(&run, out),
                _ => {}
            }
        }
    }
}

/// See [`crate::kernels::dot::Tap::dots`].
pub fn dots(patches: &[i16], step: usize, row: &[i16], sums: &mut [i32]) {
    if is_there() {
        // SAFETY: the processor has been asked.
        unsafe { wide_dots(patches, step, row, sums) }
    } else {
        plain_dots(patches, step, row, sums);
    }
}

/// # Safety
/// The processor has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn wide_dots(patches: &[i16], step: usize, row: &[i16], sums: &mut [i32]) {
    plain_dots(patches, step, row, sums);
}

#[inline(always)]
fn plain_dots(patches: &[i16], step: usize, row: &[i16], sums: &mut [i32]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        if let Some(patch) = patches.get(i * step..i * step + row.len()) {
            *sum = dot_i16(patch, row);
        }
    }
}

/// The run for vectors of one width. A pixel beyond the last one is the last one once more.
macro_rules! run {
    ($name:ident, $channels:literal, $load:ident, $set8:ident, $set32:ident, $products:ident, $zero:ident, $add:ident,
     $sub:ident, $multiply:ident, $up:ident, $blend:ident, $odd:literal, $left:ident, $right:ident, $max:ident,
     $min:ident, $store:ident) => {
        /// # Safety
        /// The processor has AVX-512 F, BW, VL and VNNI; `run` fits `out` and has at most as many channels as lanes.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        unsafe fn $name(run: &Run<i8>, out: &mut [i8]) {
            let [weights, patches] = [run.weights.as_ptr(), run.patches.as_ptr()];
            let out = out.as_mut_ptr();
            let mask = ((1u32 << run.channels) - 1) as _;
            let [zero, low, high] = run.bounds.map(|bound| $set32(bound.into()));
            // SAFETY: `Constants` holds $channels values and more; a vector of weights is 4·$channels bytes, of which
            // the run has `vectors`; patches have 4·`vectors` bytes at every pixel below `count`, where `out` has room.
            unsafe {
                let factor = $load(run.constants.factor.as_ptr().cast());
                let shift = $load(run.constants.shift.as_ptr().cast());
                let mut surplus = $zero();
                for v in 0..run.vectors {
                    let weights = $load(weights.add(v * 4 * $channels).cast());
                    surplus = $products(surplus, $set8(i8::MIN), weights);
                }
                let start = $sub($load(run.constants.bias.as_ptr().cast()), surplus);
                let half = $left($set32(1), $sub(shift, $set32(1)));
                for first in (0..run.count).step_by(PIXELS) {
                    let mut sums = [start; PIXELS];
                    let at: [usize; PIXELS] = core::array::from_fn(|i| (first + i).min(run.count - 1));
                    let from = at.map(|pixel| patches.add(pixel * run.step));
                    for v in 0..run.vectors {
                        let weights = $load(weights.add(v * 4 * $channels).cast());
                        for (sum, from) in sums.iter_mut().zip(from) {
                            let taps = from.add(4 * v).cast::<i32>().read_unaligned();
                            *sum = $products(*sum, $set32(taps), weights);
                        }
                    }
                    for (sum, pixel) in sums.into_iter().zip(at) {
                        // The upper words of the products, of even lanes moved down and of odd ones where they are.
                        let even = $up::<32>($multiply(sum, factor));
                        let odd = $multiply($up::<32>(sum), $up::<32>(factor));
                        let value = $right($add($blend($odd, even, odd), half), shift);
                        let placed = $min($max($add(value, zero), low), high);
                        $store(out.add(pixel * run.out_step).cast(), mask, placed);
                    }
                }
            }
        }
    };
}

run!(
    sixteen,
    16,
    _mm512_loadu_si512,
    _mm512_set1_epi8,
    _mm512_set1_epi32,
    _mm512_dpbusd_epi32,
    _mm512_setzero_si512,
    _mm512_add_epi32,
    _mm512_sub_epi32,
    _mm512_mul_epi32,
    _mm512_srli_epi64,
    _mm512_mask_blend_epi32,
    0xAAAA,
    _mm512_sllv_epi32,
    _mm512_srav_epi32,
    _mm512_max_epi32,
    _mm512_min_epi32,
    _mm512_mask_cvtepi32_storeu_epi8
);
run!(
    eight,
    8,
    _mm256_loadu_si256,
    _mm256_set1_epi8,
    _mm256_set1_epi32,
    _mm256_dpbusd_epi32,
    _mm256_setzero_si256,
    _mm256_add_epi32,
    _mm256_sub_epi32,
    _mm256_mul_epi32,
    _mm256_srli_epi64,
    _mm256_mask_blend_epi32,
    0xAA,
    _mm256_sllv_epi32,
    _mm256_srav_epi32,
    _mm256_max_epi32,
    _mm256_min_epi32,
    _mm256_mask_cvtepi32_storeu_epi8
);
run!(
    four,
    4,
    _mm_loadu_si128,
    _mm_set1_epi8,
    _mm_set1_epi32,
    _mm_dpbusd_epi32,
    _mm_setzero_si128,
    _mm_add_epi32,
    _mm_sub_epi32,
    _mm_mul_epi32,
    _mm_srli_epi64,
    _mm_mask_blend_epi32,
    0xA,
    _mm_sllv_epi32,
    _mm_srav_epi32,
    _mm_max_epi32,
    _mm_min_epi32,
    _mm_mask_cvtepi32_storeu_epi8
);
