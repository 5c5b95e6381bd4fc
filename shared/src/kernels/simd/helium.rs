//! Inner loops for Helium (MVE, integer): Cortex-M52, M55, M85.
#![allow(unsafe_code)]

use super::micro::{Cells, Constants, Micro, Run};
use core::arch::naked_asm;

/// Sixteen int8 taps to a vector, four output channels by two pixels at a time.
pub struct Helium;

impl Micro for Helium {
    type Tap = i8;
    const LANES: usize = 16;
    const GROUP: usize = 4;
    const COLUMN: usize = 1;
    const ORDER: [usize; 4] = [0, 1, 2, 3];

    #[inline(never)]
    fn copy(cells: Cells, from: &[i8], to: &mut [i8]) {
        let Cells { from_step, to_step, at, channels, count } = cells;
        if !cells.fit(from.len(), to.len(), at + channels) {
            return;
        }
        // Without gaps they are one stretch.
        let whole = (from_step, to_step) == (channels, channels);
        let (channels, count) = if whole { (channels * count, 1) } else { (channels, count) };
        let to = to.as_mut_ptr().wrapping_add(at);
        // SAFETY: `fit` has checked that `count` stretches of `channels` bytes, the steps apart, lie in both slices, and
        // that `count` is not zero.
        unsafe { copy_stretches(from.as_ptr(), from_step, to, to_step, channels, count) }
    }

    fn run(run: Run<i8>, out: &mut [i8]) {
        if !run.fits(out.len(), Self::LANES, Self::GROUP) {
            return;
        }
        // Pairs of pixels; the last pair of an odd run computes its first pixel once more, a single pixel is both.
        let pairs = run.count & !1;
        let tail = run.count.saturating_sub(2);
        for (first, count, single) in [(0, pairs, false), (tail, run.count & 1, run.count == 1)] {
            if count == 0 {
                continue;
            }
            let (step, out_step) = if single { (0, 0) } else { (run.step, run.out_step) };
            let patch = run.vectors * Self::LANES;
            let start = out.as_mut_ptr().wrapping_add(first * run.out_step);
            let [zero, low, high] = run.bounds.map(i32::from);
            let mut arguments = Arguments {
                patches: run.patches.as_ptr().wrapping_add(first * run.step),
                step,
                vectors: run.vectors,
                weights: run.weights.as_ptr(),
                advance: (2 * step).wrapping_sub(patch),
                out: start,
                out_step,
                out_end: start.wrapping_add(count.next_multiple_of(2) * out_step),
                constants: *run.constants,
                zero,
                low,
                high,
                channels: run.channels,
            };
            // SAFETY: `fits` has checked that the patches of `count` pixels, `vectors` of four channels' weights and
            // `channels` bytes for each pixel lie in their slices; of an odd run, a pair that begins at most at the last
            // pixel but one, or with steps of zero a single pixel twice.
            unsafe {
                if run.channels == Self::GROUP { pairs_of_four(&mut arguments) } else { pairs_of_fewer(&mut arguments) }
            }
        }
    }
}

impl Helium {
    /// The gate's dot products from the first patch on; how many were computed: all whose taps are there, or none.
    #[inline(never)]
    pub fn gate_dots(patches: &[i16], row: &[i16], sums: &mut [i32]) -> usize {
        const TAPS: usize = super::GATE_PATCH.next_multiple_of(8);
        let there = patches.len().checked_sub(TAPS).map_or(0, |spare| spare / super::GATE_STEP + 1);
        if row.len() < TAPS || there < sums.len() || sums.is_empty() {
            return 0;
        }
        // SAFETY: `sums` is not empty, each of its patches has 56 taps in `patches`, and `row` has as many.
        unsafe { seven_vectors(patches.as_ptr(), row.as_ptr(), sums.as_mut_ptr(), sums.len()) }
        sums.len()
    }
}

/// The dot products of `count` patches of 7×8 taps, seven taps apart, with a row that stays in q1…q7.
#[unsafe(naked)]
unsafe extern "C" fn seven_vectors(patches: *const i16, row: *const i16, sums: *mut i32, count: usize) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, lr}}",
        "vpush {{d8-d15}}",
        "vldrh.u16 q1, [r1]",
        "vldrh.u16 q2, [r1, #16]",
        "vldrh.u16 q3, [r1, #32]",
        "vldrh.u16 q4, [r1, #48]",
        "vldrh.u16 q5, [r1, #64]",
        "vldrh.u16 q6, [r1, #80]",
        "vldrh.u16 q7, [r1, #96]",
        "dls lr, r3",
        "2:",
        "vldrh.u16 q0, [r0], #14",
        "vmladav.s16 r4, q0, q1",
        "vldrh.u16 q0, [r0, #2]",
        "vmladava.s16 r4, q0, q2",
        "vldrh.u16 q0, [r0, #18]",
        "vmladava.s16 r4, q0, q3",
        "vldrh.u16 q0, [r0, #34]",
        "vmladava.s16 r4, q0, q4",
        "vldrh.u16 q0, [r0, #50]",
        "vmladava.s16 r4, q0, q5",
        "vldrh.u16 q0, [r0, #66]",
        "vmladava.s16 r4, q0, q6",
        "vldrh.u16 q0, [r0, #82]",
        "vmladava.s16 r4, q0, q7",
        "str r4, [r2], #4",
        "le lr, 2b",
        "vpop {{d8-d15}}",
        "pop {{r4, pc}}",
    )
}

/// Copies `count` stretches of `len` bytes; a count of zero is not allowed. One predicated vector does for up to sixteen.
#[unsafe(naked)]
unsafe extern "C" fn copy_stretches(
    from: *const i8,
    from_step: usize,
    to: *mut i8,
    to_step: usize,
    len: usize,
    count: usize,
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r7, r8, lr}}",
        "ldrd r4, r5, [sp, #24]",
        "cmp r4, #16",
        "bhi 3f",
        "vctp.8 r4",
        "dls lr, r5",
        "2:",
        "vpstt",
        "vldrbt.u8 q0, [r0]",
        "vstrbt.8 q0, [r2]",
        "add r0, r1",
        "add r2, r3",
        "le lr, 2b",
        "pop {{r4-r7, r8, pc}}",
        "3:",
        "mov r6, r0",
        "mov r7, r2",
        "dlstp.8 lr, r4",
        "4:",
        "vldrb.u8 q0, [r6], #16",
        "vstrb.8 q0, [r7], #16",
        "letp lr, 4b",
        "add r0, r1",
        "add r2, r3",
        "subs r5, #1",
        "bne 3b",
        "pop {{r4-r7, r8, pc}}",
    )
}

/// What the assembly reads, at the offsets that it names.
#[repr(C)]
struct Arguments {
    patches: *const i8,
    step: usize,
    vectors: usize,
    weights: *const i8,
    advance: usize,
    out: *mut i8,
    out_step: usize,
    out_end: *mut i8,
    constants: Constants,
    zero: i32,
    low: i32,
    high: i32,
    channels: usize,
}

/// Pairs of output pixels by four channels. The eight sums live in the even registers, where `vmladava` adds to them:
/// r0, r2, r4, r6 the first pixel's, r8, r10, r12, r14 the second's. q3…q7 hold zero, low, high, factors, shifts.
macro_rules! pairs {
    ($name:ident, $store:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(arguments: *mut Arguments) {
            naked_asm!(
                ".cpu cortex-m55",
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "mov r9, r0",
                "vldrw.u32 q6, [r9, #48]",
                "vldrw.u32 q7, [r9, #64]",
                "vneg.s32 q7, q7",
                "ldr r1, [r9, #80]",
                "vdup.32 q3, r1",
                "ldr r1, [r9, #84]",
                "vdup.32 q4, r1",
                "ldr r1, [r9, #88]",
                "vdup.32 q5, r1",
                "ldr r1, [r9, #92]",
                "vctp.32 r1",
                "ldr r1, [r9]",
                "ldr r7, [r9, #20]",
                "2:",
                "ldrd r3, r11, [r9, #4]",
                "add r3, r1",
                "ldr r5, [r9, #12]",
                "ldrd r0, r2, [r9, #32]",
                "ldrd r4, r6, [r9, #40]",
                "ldrd r8, r10, [r9, #32]",
                "ldrd r12, lr, [r9, #40]",
                "3:",
                "vldrb.u8 q0, [r1], #16",
                "vldrb.u8 q1, [r3], #16",
                "vldrb.u8 q2, [r5], #16",
                "vmladava.s8 r0, q0, q2",
                "vmladava.s8 r8, q1, q2",
                "vldrb.u8 q2, [r5], #16",
                "vmladava.s8 r2, q0, q2",
                "vmladava.s8 r10, q1, q2",
                "vldrb.u8 q2, [r5], #16",
                "vmladava.s8 r4, q0, q2",
                "vmladava.s8 r12, q1, q2",
                "vldrb.u8 q2, [r5], #16",
                "vmladava.s8 r6, q0, q2",
                "vmladava.s8 lr, q1, q2",
                "subs r11, #1",
                "bne 3b",
                "vmov q0[2], q0[0], r0, r4",
                "vmov q0[3], q0[1], r2, r6",
                "vmov q1[2], q1[0], r8, r12",
                "vmov q1[3], q1[1], r10, lr",
                "vmulh.s32 q0, q0, q6",
                "vmulh.s32 q1, q1, q6",
                "vrshl.s32 q0, q0, q7",
                "vrshl.s32 q1, q1, q7",
                "vadd.i32 q0, q0, q3",
                "vadd.i32 q1, q1, q3",
                "vmax.s32 q0, q0, q4",
                "vmax.s32 q1, q1, q4",
                "vmin.s32 q0, q0, q5",
                "vmin.s32 q1, q1, q5",
                "ldr r3, [r9, #16]",
                "ldrd r5, r11, [r9, #24]",
                "add r1, r3",
                $store,
                "cmp r7, r11",
                "bne 2b",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

pairs!(pairs_of_four, "vstrb.32 q0, [r7]\n add r7, r5\n vstrb.32 q1, [r7]\n add r7, r5");
pairs!(pairs_of_fewer, "vpst\n vstrbt.32 q0, [r7]\n add r7, r5\n vpst\n vstrbt.32 q1, [r7]\n add r7, r5");
