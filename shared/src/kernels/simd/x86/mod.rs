//! Kernels for x86-64.
//!
//! A lane is a pixel: a vector holds sixteen or eight pixels of a row, of each four neighbouring channels ([`quads`]). Then
//! no lane is idle, however few channels there are, and an output channel's factors are the same in every lane. Whatever
//! walks a map is written once, over a [`vector`](mod@vector) of either width.
#![allow(unsafe_code)]

pub mod add;
pub mod conv;
pub mod float;
pub mod gate;
pub mod max_pool;
mod quads;
mod requantise;
pub mod upsample2;
mod vector;

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
    /// AVX2, from which on there are fast forms.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Vnni,
}

/// What the kernels use, once it is known: 0 is not asked yet.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// What the kernels use: what this processor has, unless [`limit`] says less.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        0 => limit(Level::Vnni),
        3 => Level::Vnni,
        2 => Level::Avx2,
        _ => Level::Any,
    }
}

/// Keeps the int8 kernels of this process to `most`, or to what the processor has where that is less; returns which it is.
/// For tests and measurements: results are the same at every level.
pub fn limit(most: Level) -> Level {
    // `cpufeatures` does not know VNNI, and `cpuid` is slow in a virtual machine, so the answer is kept.
    let vnni = || avx512::get() && __cpuid_count(7, 0).ecx & 1 << 11 != 0;
    let found = if vnni() {
        Level::Vnni
    } else if avx2::get() {
        Level::Avx2
    } else {
        Level::Any
    };
    let level = found.min(most);
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
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

/// Every level with fast forms that this processor has.
#[cfg(test)]
fn levels() -> impl Iterator<Item = Level> {
    [Level::Avx2, Level::Vnni].into_iter().filter(|&at| at <= level())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::dot::Tap;

    #[test]
    fn every_compilation_gives_the_same_bits() {
        let taps: [i16; 64] = core::array::from_fn(|i| (i as i16).wrapping_mul(7919) >> 3);
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
