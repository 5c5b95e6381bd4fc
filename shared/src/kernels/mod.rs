//! The operations of [`crate::graph::Op`], one per file, each in its float32 and its int8 form.
//!
//! Maps are HWC ([`Map`], [`MapMut`]): a kernel reads and writes through pixel strides, so a concatenation is nothing
//! but members written side by side. A kernel checks its shapes once at its door ([`crate::Error`]) and cannot panic.
//! Int8 forms follow the integer contract ([`crate::quant`]): every sum is exact, every result is rounded once, so
//! all targets give the same bits whatever order their vector units add in.

pub mod add;
pub mod conv;
pub mod dot;
pub mod feature_map;
pub mod haar;
pub mod max_pool;
mod rescale;
pub mod sigmoid;
#[cfg(any(test, not(kernels = "portable")))]
mod simd;
pub mod spatial_gate;
pub mod squeeze_excite;
#[cfg(test)]
pub(crate) mod testing;
pub mod upsample2;

pub use feature_map::{Map, MapMut, Shape};
#[cfg(kernels = "vnni")]
pub use simd::x86::{Level, limit};
#[cfg(kernels = "vnni")]
use simd::x86::{level, widest};

/// Runs `work`, compiled for the widest vectors that the processor has where it is asked at run time.
#[cfg(not(kernels = "vnni"))]
#[inline(always)]
fn widest<R>(work: impl FnOnce() -> R) -> R {
    work()
}
