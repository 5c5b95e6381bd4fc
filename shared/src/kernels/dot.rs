//! Dot products over contiguous taps, written so that LLVM turns them into the target's multiply-accumulate.
//!
//! Integer sums are exact in any order, so each target takes the form that its vector unit likes best and all give
//! the same bits: Helium multiplies bytes directly (`vmladava.s8`), x86 and AArch64 sixteen-bit pairs (`pmaddwd`,
//! `smlal`), for which the taps are widened once while they are gathered.

/// An operand of [`Tap::dot`].
pub trait Tap: Copy {
    /// Type of the sum.
    type Sum: Copy + Default;
    /// The tap that adds nothing.
    const ZERO: Self;
    /// Patches are padded with [`Self::ZERO`] weights to a multiple of this many taps, so that no remainder is left.
    const LANES: usize;
    /// Σ a·b over the shorter length, which is a multiple of [`Self::LANES`].
    fn dot(a: &[Self], b: &[Self]) -> Self::Sum;
    /// The dot products of `row` with the patches that begin at every `step`th tap of `patches`, one for each of `sums`.
    /// A patch that is not there leaves its sum alone.
    #[inline(always)]
    fn dots(patches: &[Self], step: usize, row: &[Self], sums: &mut [Self::Sum]) {
        dots_from(0, patches, step, row, sums);
    }
}

/// [`Tap::dots`] but for the first `done` sums, which are there.
#[inline(always)]
fn dots_from<T: Tap>(done: usize, patches: &[T], step: usize, row: &[T], sums: &mut [T::Sum]) {
    for (i, sum) in sums.iter_mut().enumerate().skip(done) {
        let start = i * step;
        if let Some(patch) = patches.get(start..start + row.len()) {
            *sum = T::dot(patch, row);
        }
    }
}

impl Tap for i8 {
    type Sum = i32;
    const ZERO: i8 = 0;
    /// Helium predicates the tail.
    const LANES: usize = 1;
    /// Not inlined: on its own LLVM makes it a tail-predicated loop (`dlstp`, `letp`), inside the loops over pixels not.
    #[inline(never)]
    fn dot(a: &[i8], b: &[i8]) -> i32 {
        a.iter().zip(b).fold(0i32, |sum, (&x, &y)| sum.wrapping_add(i32::from(x) * i32::from(y)))
    }
}

impl Tap for i16 {
    type Sum = i32;
    const ZERO: i16 = 0;
    const LANES: usize = 16;
    /// Sixteen partial sums, in which LLVM sees full `pmaddwd`s; lengths are multiples of sixteen.
    #[inline(always)]
    fn dot(a: &[i16], b: &[i16]) -> i32 {
        let mut sums = [0i32; 16];
        for (x, y) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
            for (sum, (&x, &y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *sum = sum.wrapping_add(i32::from(x) * i32::from(y));
            }
        }
        sums.iter().fold(0, |total, &sum| total.wrapping_add(sum))
    }

    #[cfg(any(kernels = "helium", kernels = "dsp"))]
    fn dots(patches: &[i16], step: usize, row: &[i16], sums: &mut [i32]) {
        use super::simd::{Core, GATE_STEP};
        let done = if step == GATE_STEP { Core::gate_dots(patches, row, sums) } else { 0 };
        dots_from(done, patches, step, row, sums);
    }
}

impl Tap for f32 {
    type Sum = f32;
    const ZERO: f32 = 0.0;
    const LANES: usize = 8;
    /// Eight partial sums, since LLVM may not reorder a float sum by itself; lengths are multiples of eight.
    #[inline(always)]
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0; 8];
        for (x, y) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
            for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *sum += x * y;
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        // Halves onto halves, as vectors add.
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// What int8 maps and weights are widened to on this target.
#[cfg(target_arch = "arm")]
pub type Int8Tap = i8;
/// What int8 maps and weights are widened to on this target.
#[cfg(not(target_arch = "arm"))]
pub type Int8Tap = i16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn dots_are_dot_products_step_by_step(patches in proptest::collection::vec(any::<i16>(), 150), step in 0usize..9) {
            let row: Vec<i16> = patches.iter().rev().take(64).map(|x| x >> 9).collect();
            let mut sums = [7; 9];
            i16::dots(&patches, step, &row, &mut sums);
            for (i, sum) in sums.into_iter().enumerate() {
                let exact: i64 = patches[i * step..].iter().zip(&row).map(|(&x, &y)| i64::from(x) * i64::from(y)).sum();
                prop_assert_eq!(i64::from(sum), exact);
            }
        }

        #[test]
        fn bytes_and_widened_bytes_give_the_same_exact_sum(pairs in proptest::collection::vec(any::<(i8, i8)>(), 0..200)) {
            let (a, b): (Vec<i8>, Vec<i8>) = pairs.iter().copied().unzip();
            let wide = |v: &[i8]| v.iter().map(|&x| i16::from(x)).collect::<Vec<_>>();
            let whole = |v: &[i8]| v.iter().copied().chain([0; 15]).take(v.len().next_multiple_of(16)).collect::<Vec<_>>();
            let exact: i64 = pairs.iter().map(|&(x, y)| i64::from(x) * i64::from(y)).sum();
            prop_assert_eq!(i64::from(i8::dot(&whole(&a), &whole(&b))), exact);
            prop_assert_eq!(i64::from(i16::dot(&wide(&whole(&a)), &wide(&whole(&b)))), exact);
        }
    }
}
