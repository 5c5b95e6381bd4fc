//! Inner loops for the DSP extension (SMLAD, SMMUL, SXTB16): Cortex-M4, M7, M33.
#![allow(unsafe_code)]

use super::micro::{Cells, Constants, Micro, Run, ordered};
use core::arch::{asm, naked_asm};

/// Four taps widened to 16 bits to a step, two output channels by two pixels at a time.
pub struct Dsp;

impl Micro for Dsp {
    type Tap = i16;
    const LANES: usize = 4;
    const GROUP: usize = 2;
    /// Doubleword loads want whole words.
    const COLUMN: usize = 4;
    /// As `sxtb16` leaves them: bytes 0 and 2, then 1 and 3.
    const ORDER: [usize; 4] = [0, 2, 1, 3];

    #[inline(never)]
    fn copy(cells: Cells, from: &[i8], to: &mut [i16]) {
        let Cells { from_step, to_step, at, channels, count } = cells;
        if !cells.fit(from.len(), to.len(), (at + channels).next_multiple_of(Self::COLUMN)) {
            return;
        }
        if !(channels | at).is_multiple_of(4) {
            for (j, c) in (0..count).flat_map(|j| (0..channels).map(move |c| (j, c))) {
                let tap = from.get(j * from_step + c);
                if let (Some(tap), Some(to)) = (tap, to.get_mut(j * to_step + ordered::<Self>(at + c))) {
                    *to = i16::from(*tap);
                }
            }
            return;
        }
        // Without gaps they are one stretch.
        let whole = (from_step, to_step) == (channels, channels);
        let (channels, count) = if whole { (channels * count, 1) } else { (channels, count) };
        let (mut from, mut to) = (from.as_ptr(), to.as_mut_ptr().wrapping_add(at));
        for _ in 0..count {
            for c in (0..channels).step_by(4) {
                // SAFETY: `fit` has checked that `count` stretches of `channels` elements, the steps apart, lie in both
                // slices, and `channels` is a multiple of four.
                unsafe { widen(from.wrapping_add(c).cast(), to.wrapping_add(c).cast()) }
            }
            (from, to) = (from.wrapping_add(from_step), to.wrapping_add(to_step));
        }
    }

    fn run(run: Run<i16>, out: &mut [i8]) {
        let aligned = (run.patches.as_ptr().addr() | run.weights.as_ptr().addr() | run.step * 2).is_multiple_of(4);
        if !(aligned && run.fits(out.len(), Self::LANES, Self::GROUP)) {
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
            let bytes = 2 * run.vectors * Self::LANES;
            let start = out.as_mut_ptr().wrapping_add(first * run.out_step);
            let [zero, low, _] = run.bounds;
            let Constants { bias: [first_bias, second_bias, ..], factor: [f, g, ..], shift: [s, t, ..] } =
                *run.constants;
            let mut arguments = Arguments {
                biases: [first_bias, second_bias, first_bias, second_bias],
                step: 2 * step,
                weights: run.weights.as_ptr(),
                bytes,
                patches: run.patches.as_ptr().wrapping_add(first * run.step),
                advance: (4 * step).wrapping_sub(bytes),
                out: start,
                out_step,
                out_end: start.wrapping_add(count.next_multiple_of(2) * out_step),
                factors: [f, g],
                shifts: [s, t],
                zero: zero.into(),
                low: u32::from_ne_bytes([low as u8; 4]),
            };
            // SAFETY: `fits` has checked that the patches of `count` pixels, `vectors` of two channels' weights and
            // `channels` bytes for each pixel lie in their slices; of an odd run, a pair that begins at most at the last
            // pixel but one, or with steps of zero a single pixel twice. Taps begin at whole words.
            unsafe {
                if run.channels == Self::GROUP { pairs_of_two(&mut arguments) } else { pairs_of_one(&mut arguments) }
            }
        }
    }
}

impl Dsp {
    /// The gate's dot products from the first patch on; how many were computed: pairs whose taps are there, or none.
    #[inline(never)]
    pub fn gate_dots(patches: &[i16], row: &[i16], sums: &mut [i32]) -> usize {
        const TAPS: usize = super::GATE_PATCH + 1;
        let there = patches.len().checked_sub(TAPS).map_or(0, |spare| spare / super::GATE_STEP + 1);
        let pairs = there.min(sums.len()) & !1;
        let aligned = (patches.as_ptr().addr() | row.as_ptr().addr()).is_multiple_of(4);
        if row.len() < TAPS || pairs == 0 || !aligned {
            return 0;
        }
        // SAFETY: `pairs` is even and above zero, that many patches of 50 taps are in `patches` and as many sums in `sums`,
        // `row` has 50 taps, and both begin at whole words.
        unsafe { pairs_of_patches(patches.as_ptr(), row.as_ptr(), sums.as_mut_ptr(), pairs) }
        pairs
    }
}

/// The dot products of an even number of patches of 50 taps, seven taps apart, with a row. The second patch of a pair
/// begins inside a word, which `ldr` may read and `ldrd` may not.
#[unsafe(naked)]
unsafe extern "C" fn pairs_of_patches(patches: *const i16, row: *const i16, sums: *mut i32, count: usize) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "2:",
        "ldr r6, [r0, #96]",
        "ldr r8, [r0, #110]",
        "ldr r10, [r1, #96]",
        "smuad r4, r6, r10",
        "smuad r5, r8, r10",
        ".irp at, 0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88",
        "ldrd r6, r7, [r0, #\\at]",
        "ldr r8, [r0, #\\at + 14]",
        "ldr r9, [r0, #\\at + 18]",
        "ldrd r10, r11, [r1, #\\at]",
        "smlad r4, r6, r10, r4",
        "smlad r5, r8, r10, r5",
        "smlad r4, r7, r11, r4",
        "smlad r5, r9, r11, r5",
        ".endr",
        "adds r0, #28",
        "strd r4, r5, [r2], #8",
        "subs r3, #2",
        "bne 2b",
        "pop {{r4-r11, pc}}",
    )
}

/// Four bytes as four 16-bit taps, in the order of [`Dsp::ORDER`].
///
/// # Safety
/// `from` may be read, and `to` is a whole word's address and may be written.
#[inline(always)]
unsafe fn widen(from: *const u32, to: *mut [u32; 2]) {
    let (even, odd): (u32, u32);
    // SAFETY: the promise of the caller; the instructions touch their registers only.
    unsafe {
        let bytes = from.read_unaligned();
        asm!("sxtb16 {}, {}", out(reg) even, in(reg) bytes, options(pure, nomem, nostack, preserves_flags));
        asm!("sxtb16 {}, {}, ror #8", out(reg) odd, in(reg) bytes, options(pure, nomem, nostack, preserves_flags));
        to.write([even, odd]);
    }
}

/// What the assembly reads, at the offsets that it names.
#[repr(C)]
struct Arguments {
    /// Of both pixels: up to `bytes`, these are loaded in one instruction.
    biases: [i32; 4],
    /// Bytes.
    step: usize,
    weights: *const i16,
    bytes: usize,
    patches: *const i16,
    advance: usize,
    out: *mut i8,
    out_step: usize,
    out_end: *mut i8,
    factors: [i32; 2],
    shifts: [i32; 2],
    zero: i32,
    /// In each byte.
    low: u32,
}

/// Pairs of output pixels by two channels: r0, r1 the first pixel's sums, r2, r3 the second's; r4, r5 walk their taps,
/// r6 the weights. `asrs` leaves the bit that it drops last in the carry, so `adc` rounds and adds the zero point; the
/// lower clamp is `sel` over the four packed bytes.
macro_rules! pairs {
    ($name:ident, $store:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(arguments: *mut Arguments) {
            naked_asm!(
                "push {{r0, r4-r11, lr}}",
                "ldr r4, [r0, #28]",
                "2:",
                "ldr r12, [sp]",
                "ldm r12, {{r0-r3, r5, r6, lr}}",
                "add r5, r4",
                "add lr, r4",
                "3:",
                "ldrd r7, r8, [r4], #8",
                "ldrd r9, r10, [r5], #8",
                "ldrd r11, r12, [r6], #8",
                "smlad r0, r7, r11, r0",
                "smlad r2, r9, r11, r2",
                "smlad r0, r8, r12, r0",
                "smlad r2, r10, r12, r2",
                "ldrd r11, r12, [r6], #8",
                "smlad r1, r7, r11, r1",
                "smlad r3, r9, r11, r3",
                "smlad r1, r8, r12, r1",
                "smlad r3, r10, r12, r3",
                "cmp r4, lr",
                "bne 3b",
                "ldr r12, [sp]",
                "ldrd r7, r8, [r12, #48]",
                "ldrd r9, r10, [r12, #56]",
                "ldrd r11, lr, [r12, #64]",
                "smmul r0, r0, r7",
                "smmul r2, r2, r7",
                "smmul r1, r1, r8",
                "smmul r3, r3, r8",
                "asrs r0, r0, r9",
                "adc r0, r0, r11",
                "asrs r1, r1, r10",
                "adc r1, r1, r11",
                "asrs r2, r2, r9",
                "adc r2, r2, r11",
                "asrs r3, r3, r10",
                "adc r3, r3, r11",
                "ssat r0, #8, r0",
                "ssat r1, #8, r1",
                "ssat r2, #8, r2",
                "ssat r3, #8, r3",
                "bfi r0, r1, #8, #8",
                "bfi r2, r3, #8, #8",
                "pkhbt r0, r0, r2, lsl #16",
                "ssub8 r1, r0, lr",
                "sel r0, r0, lr",
                "ldrd r1, r2, [r12, #32]",
                "ldrd r3, r5, [r12, #40]",
                "add r4, r1",
                $store,
                "add r2, r2, r3, lsl #1",
                "str r2, [r12, #36]",
                "cmp r2, r5",
                "bne 2b",
                "pop {{r0, r4-r11, pc}}",
            )
        }
    };
}

pairs!(pairs_of_two, "strh r0, [r2]\n lsrs r0, r0, #16\n strh r0, [r2, r3]");
pairs!(pairs_of_one, "strb r0, [r2]\n lsrs r0, r0, #16\n strb r0, [r2, r3]");
