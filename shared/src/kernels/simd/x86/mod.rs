//! Kernels for x86-64.
//!
//! A lane is a pixel: a vector holds sixteen pixels of a row, of each four neighbouring channels ([`quads`]). Then no
//! lane is idle, however few channels there are, an output channel's factors are the same in every lane, and the weights
//! are used where they lie.
#![allow(unsafe_code)]

pub mod add;
pub mod conv;
pub mod float;
pub mod gate;
pub mod max_pool;
mod quads;
mod requantise;
pub mod upsample2;

use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU8, Ordering};

cpufeatures::new!(avx512, "avx512f", "avx512bw", "avx512vl");
cpufeatures::new!(avx2, "avx2");

/// What a processor, and its operating system, have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// SSE2.
    Any = 1,
    /// AVX2.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Vnni,
}

/// What this processor has.
pub fn level() -> Level {
    // `cpufeatures` does not know VNNI. `cpuid` is slow in a virtual machine, so its answer is kept: 0 is not asked yet.
    static ANSWER: AtomicU8 = AtomicU8::new(0);
    match ANSWER.load(Ordering::Relaxed) {
        0 => {
            let vnni = || avx512::get() && __cpuid_count(7, 0).ecx & 1 << 11 != 0;
            let found = if vnni() {
                Level::Vnni
            } else if avx2::get() {
                Level::Avx2
            } else {
                Level::Any
            };
            ANSWER.store(found as u8, Ordering::Relaxed);
            found
        }
        3 => Level::Vnni,
        2 => Level::Avx2,
        _ => Level::Any,
    }
}

/// Runs `work`, compiled once more for the widest vectors that the processor has: the same code, and the same bits. It
/// and all that it calls must be `#[inline(always)]`.
#[inline(always)]
pub fn widest<R>(work: impl FnOnce() -> R) -> R {
    match level() {
        // SAFETY: the processor has been asked.
        Level::Vnni => unsafe { over_512_bits(work) },
        // SAFETY: the processor has been asked.
        Level::Avx2 => unsafe { over_256_bits(work) },
        Level::Any => work(),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn over_512_bits<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[target_feature(enable = "avx2")]
fn over_256_bits<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::dot::Tap;

    #[test]
    fn every_compilation_gives_the_same_bits() {
        let taps: [i16; 64] = core::array::from_fn(|i| (i as i16 * 7919) >> 3);
        let dots = || {
            let mut sums = [0; 6];
            i16::dots(&taps, 5, taps.first_chunk::<32>().unwrap(), &mut sums);
            sums
        };
        let plain = dots();
        assert_eq!(widest(dots), plain);
        if level() >= Level::Avx2 {
            // SAFETY: the processor has been asked.
            assert_eq!(unsafe { over_256_bits(dots) }, plain);
        }
    }
}
