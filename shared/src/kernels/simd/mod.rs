//! The int8 kernels for the vector and DSP instructions of Arm microcontrollers and of x86-64.
//!
//! Each gives the bits of its plain twin in the operation's own file, which every other target runs, as does this one
//! where a layer is outside a fast kernel's range (a factor of a quarter and more, a patch that is too long) or the
//! processor lacks the instructions. The build script chooses by target (`cfg(kernels)`); the feature `scalar` turns
//! them all off.
//!
//! Of Arm, what depends on the core is a handful of inner loops in `helium` and `dsp`, behind safe functions that check
//! every extent; what walks a map ([`conv`]) is the same code for both, and is tested on the host over a plain model of
//! them. What x86-64 does is in `x86`.

#[cfg(any(test, kernels = "helium", kernels = "dsp"))]
mod conv;
#[cfg(kernels = "dsp")]
mod dsp;
#[cfg(any(test, kernels = "vnni"))]
mod float;
#[cfg(any(test, kernels = "vnni"))]
mod fma;
#[cfg(any(test, kernels = "vnni"))]
mod gate;
#[cfg(kernels = "helium")]
mod helium;
#[cfg(any(test, kernels = "helium", kernels = "dsp"))]
mod micro;
#[cfg(test)]
mod model;
#[cfg(any(test, kernels = "vnni"))]
mod winograd;
#[cfg(kernels = "vnni")]
pub(super) mod x86;

#[cfg(kernels = "vnni")]
pub(super) use float::conv as conv_f32;
#[cfg(kernels = "vnni")]
pub(super) use gate::gate as gate_f32;
#[cfg(any(kernels = "helium", kernels = "dsp"))]
pub(super) use conv::convolve;
#[cfg(kernels = "dsp")]
pub(super) use dsp::Dsp as Core;
#[cfg(kernels = "helium")]
pub(super) use helium::Helium as Core;

/// Taps from one patch of the spatial gate to the next.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
pub(super) const GATE_STEP: usize = 7;
/// Taps of such a patch; the row that multiplies it has zeros beyond them.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
const GATE_PATCH: usize = 49;
