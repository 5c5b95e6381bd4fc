//! Inner loops for the dot product of AArch64's NEON (FEAT_DotProd): Cortex-A55, A76 and newer, Neoverse, Apple.
//!
//! A vector of weights holds four taps of each of four output channels. `sdot` multiplies it by four taps of one pixel,
//! a lane of a vector of activations: the four sums of the pixel are one register, nothing is added across lanes, and
//! patches are padded to four taps only.
#![allow(unsafe_code)]

use super::micro::{Cells, Micro, Run};
use core::arch::{aarch64::*, asm};

/// Four int8 taps to a step, four output channels by up to eight pixels at a time.
pub struct Neon;

/// Whether the processor has the dot product: known beforehand where every processor of the target has it (Apple),
/// asked of Linux, and taken for absent elsewhere. `cpufeatures` does not know it.
pub fn has_dot_product() -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: reads what the kernel has told this process at its start.
    let asked = unsafe { libc::getauxval(libc::AT_HWCAP) } & libc::HWCAP_ASIMDDP != 0;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let asked = false;
    cfg!(target_feature = "dotprod") || asked
}

impl Micro for Neon {
    type Tap = i8;
    const LANES: usize = 4;
    const GROUP: usize = 4;
    const COLUMN: usize = 1;
    const ORDER: [usize; 4] = [0, 1, 2, 3];

    fn copy(cells: Cells, from: &[i8], to: &mut [i8]) {
        let Cells { from_step, to_step, at, channels, count } = cells;
        if !cells.fit(from.len(), to.len(), at + channels) {
            return;
        }
        // Without gaps they are one stretch.
        let whole = (from_step, to_step) == (channels, channels);
        let (channels, count) = if whole { (channels * count, 1) } else { (channels, count) };
        let (from, to) = ((from.as_ptr(), from_step), (to.as_mut_ptr().wrapping_add(at), to_step));
        // SAFETY: `fit` has checked that `count` stretches of `channels` bytes, the steps apart, lie in both slices.
        unsafe {
            match channels {
                4 => copy_stretches::<4>(from, to, 4, count),
                8 => copy_stretches::<8>(from, to, 8, count),
                16 => copy_stretches::<16>(from, to, 16, count),
                _ => copy_stretches::<0>(from, to, channels, count),
            }
        }
    }

    fn run(run: Run<i8>, out: &mut [i8]) {
        if !(has_dot_product() && run.fits(out.len(), Self::LANES, Self::GROUP)) {
            return;
        }
        let mut done = 0;
        while done < run.count {
            // The last pixels of a run that are fewer than four are computed with some before them once more.
            let (first, pixels) = match run.count - done {
                8.. => (done, 8),
                4.. => (done, 4),
                _ if run.count >= 4 => (run.count - 4, 4),
                _ => (done, 1),
            };
            let out = out.as_mut_ptr().wrapping_add(first * run.out_step);
            // SAFETY: the processor has been asked; `fits` has checked that the patches of `count` pixels, `vectors` of four
            // channels' weights and `channels` bytes for each pixel lie in their slices, and `first + pixels` are at most
            // `count`.
            unsafe {
                match pixels {
                    8 => tile::<8>(&run, first, out),
                    4 => tile::<4>(&run, first, out),
                    _ => tile::<1>(&run, first, out),
                }
            }
            done = first + pixels;
        }
    }
}

/// Copies `count` stretches of `len` bytes, known beforehand where `LEN` is not zero.
///
/// # Safety
/// The stretches, the steps apart, may be read and written, and do not overlap.
#[inline(always)]
unsafe fn copy_stretches<const LEN: usize>(
    (from, from_step): (*const i8, usize),
    (to, to_step): (*mut i8, usize),
    len: usize,
    count: usize,
) {
    let len = if LEN == 0 { len } else { LEN };
    for i in 0..count {
        // SAFETY: the promise of the caller.
        unsafe { from.add(i * from_step).copy_to_nonoverlapping(to.add(i * to_step), len) }
    }
}

/// `P` pixels from pixel `first` on, the first of them to `out`.
///
/// # Safety
/// The patches of the pixels and the weights are there, and `out` has room for `channels` bytes at every step.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const P: usize>(run: &Run<i8>, first: usize, out: *mut i8) {
    let patches = run.patches.as_ptr().wrapping_add(first * run.step);
    let weights = run.weights.as_ptr();
    // SAFETY: the promise of the caller; four steps of a patch and of the weights are read only where they are left.
    let sums = unsafe {
        let mut sums = [vld1q_s32(run.constants.bias.as_ptr()); P];
        let mut v = 0;
        while v + 4 <= run.vectors {
            let weights = vld1q_s8_x4(weights.add(16 * v));
            for (p, sum) in sums.iter_mut().enumerate() {
                let taps = vld1q_s8(patches.add(p * run.step + 4 * v));
                *sum = sdot::<0>(*sum, weights.0, taps);
                *sum = sdot::<1>(*sum, weights.1, taps);
                *sum = sdot::<2>(*sum, weights.2, taps);
                *sum = sdot::<3>(*sum, weights.3, taps);
            }
            v += 4;
        }
        while v < run.vectors {
            let weights = vld1q_s8(weights.add(16 * v));
            for (p, sum) in sums.iter_mut().enumerate() {
                let taps = patches.add(p * run.step + 4 * v).cast::<i32>().read_unaligned();
                *sum = sdot::<0>(*sum, weights, vreinterpretq_s8_s32(vdupq_n_s32(taps)));
            }
            v += 1;
        }
        sums
    };
    for p in (0..P).step_by(4) {
        let words = requantise(run, core::array::from_fn(|i| sums[(p + i).min(P - 1)]));
        for (i, word) in words.into_iter().enumerate().take(P - p) {
            let out = out.wrapping_add((p + i) * run.out_step);
            // SAFETY: the promise of the caller; there are four channels at most.
            unsafe {
                let [a, b, c, _] = word.to_ne_bytes();
                match run.channels {
                    4 => out.cast::<u32>().write_unaligned(word),
                    3 => out.cast::<[u8; 3]>().write([a, b, c]),
                    2 => out.cast::<[u8; 2]>().write([a, b]),
                    _ => out.cast::<u8>().write(a),
                }
            }
        }
    }
}

/// Adds to each sum the products of four weights with the four taps in a lane. The intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(mut sums: int32x4_t, weights: int8x16_t, taps: int8x16_t) -> int32x4_t {
    // SAFETY: touches its registers only.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]",
            inout(vreg) sums, in(vreg) weights, in(vreg) taps, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The sums of four pixels rescaled, placed and clamped, a word for each. `sqdmulh` leaves ⌊sum·factor/2^31⌋, one bit more than the high
/// word; a 16-bit value that is saturated is beyond the clamp's range, wherever the zero point is.
#[inline]
#[target_feature(enable = "neon")]
fn requantise(run: &Run<i8>, sums: [int32x4_t; 4]) -> [u32; 4] {
    let constants = run.constants;
    // SAFETY: four values each.
    let (factor, shift) = unsafe { (vld1q_s32(constants.factor.as_ptr()), vld1q_s32(constants.shift.as_ptr())) };
    let shift = vsubq_s32(vdupq_n_s32(-1), shift);
    let [zero, low, high] = run.bounds;
    let [a, b, c, d] = sums.map(|sums| vrshlq_s32(vqdmulhq_s32(sums, factor), shift));
    let place = |a, b| vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), vdupq_n_s16(zero.into()));
    let values = vqmovn_high_s16(vqmovn_s16(place(a, b)), place(c, d));
    let words = vreinterpretq_u32_s8(vminq_s8(vmaxq_s8(values, vdupq_n_s8(low)), vdupq_n_s8(high)));
    [vgetq_lane_u32::<0>(words), vgetq_lane_u32::<1>(words), vgetq_lane_u32::<2>(words), vgetq_lane_u32::<3>(words)]
}

#[cfg(test)]
mod tests {
    use super::super::micro::Constants;
    use super::super::model::NeonModel;
    use super::*;
    use crate::kernels::testing::Stream;
    use proptest::prelude::*;
    extern crate std;
    use std::vec;

    #[test]
    fn the_processor_is_asked_as_std_asks_it() {
        assert_eq!(has_dot_product(), std::arch::is_aarch64_feature_detected!("dotprod"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Tails of runs, of patches and of groups; sums and factors up to the ends of their ranges.
        #[test]
        fn the_inner_loop_gives_the_models_bytes(seed: u64, count in 1usize..30, vectors in 1usize..40, step in 0usize..200,
            channels in 1usize..=4, gap in 0usize..9, shifts: [bool; 2]) {
            let mut stream = Stream(seed);
            let patches = stream.i8s((count - 1) * step + 4 * vectors);
            let weights = stream.weights(16 * vectors);
            let mut draw = |drop: bool| core::array::from_fn(|_| stream.next() as u32 >> if drop { stream.next() % 24 } else { 0 });
            let (bias, factor): ([u32; 4], [u32; 4]) = (draw(shifts[0]), draw(shifts[1]));
            let constants = Constants {
                bias: bias.map(|bias| bias as i32 >> 1),
                factor: factor.map(|factor| (factor >> 1) as i32),
                shift: core::array::from_fn(|_| 1 + (stream.next() % 30) as i32),
            };
            let mut bounds = [stream.next() as i8, stream.next() as i8, stream.next() as i8];
            bounds[1..].sort_unstable();
            let run = Run { patches: &patches, step, vectors, weights: &weights, constants: &constants, bounds, count,
                out_step: channels + gap, channels };
            let mut found = vec![99; (count - 1) * run.out_step + channels];
            let mut model = found.clone();
            Neon::run(run, &mut found);
            NeonModel::run(run, &mut model);
            if has_dot_product() {
                prop_assert_eq!(found, model);
            } else {
                prop_assert!(found.iter().all(|&value| value == 99));
            }
        }
    }
}
