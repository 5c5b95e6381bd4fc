//! The int8 kernels for the vector and DSP instructions of Arm and of x86-64, and the float ones of x86-64.
//!
//! Each int8 kernel gives the bits of its plain twin in the operation's own file, which every other target runs, as does
//! this one where a layer is outside a fast kernel's range (a factor of a quarter and more, a patch that is too long) or
//! the processor lacks the instructions. The build script chooses by target (`cfg(kernels)`); the feature `scalar` turns
//! them all off.
//!
//! The float forms (`x86::float`) round in another order than their plain twins, and are held to the definition within a
//! stated bound and to a model of plain arrays bit for bit.
//!
//! Of Arm, what depends on the core is a handful of inner loops in `helium`, `dsp` and `neon`, behind safe functions that
//! check every extent; what walks a map ([`conv`]) is the same code for all, and is tested on the host over a plain model
//! of them. What x86-64 does is in `x86`, over registers of either width, of which a test takes whichever the processor
//! has.

#[cfg(any(test, kernels = "helium", kernels = "dsp", kernels = "neon"))]
mod conv;
#[cfg(kernels = "dsp")]
mod dsp;
#[cfg(kernels = "helium")]
mod helium;
#[cfg(any(test, kernels = "helium", kernels = "dsp", kernels = "neon"))]
mod micro;
#[cfg(test)]
mod model;
#[cfg(kernels = "neon")]
mod neon;
#[cfg(kernels = "vnni")]
pub(super) mod x86;

#[cfg(kernels = "dsp")]
pub(super) use dsp::Dsp as Core;
#[cfg(kernels = "helium")]
pub(super) use helium::Helium as Core;
#[cfg(kernels = "neon")]
use neon::Neon as Core;
#[cfg(any(kernels = "helium", kernels = "dsp", kernels = "neon"))]
use {
    crate::Error,
    crate::kernels::conv::Window,
    crate::kernels::{Map, MapMut},
    crate::quant::{ConvChannel, Output},
    zerocopy::{FromBytes, IntoBytes},
};

/// Taps from one patch of the spatial gate to the next.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
pub(super) const GATE_STEP: usize = 7;
/// Taps of such a patch; the row that multiplies it has zeros beyond them.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
const GATE_PATCH: usize = 49;

/// See [`conv::convolve`]; a half of the working memory for each buffer.
#[cfg(any(kernels = "helium", kernels = "dsp", kernels = "neon"))]
#[expect(clippy::too_many_arguments, reason = "the parameters of one layer, as the model image holds them")]
pub(super) fn convolve(
    window: Window,
    input: &Map<i8>,
    zero_in: i8,
    weights: &[i8],
    channels: &[ConvChannel],
    place: Output,
    scratch: &mut [i8],
    output: &mut MapMut<i8>,
) -> Result<bool, Error> {
    type Tap = <Core as micro::Micro>::Tap;
    #[cfg(kernels = "neon")]
    if !neon::has_dot_product() {
        return Ok(false);
    }
    let taps = <[Tap]>::mut_from_bytes(scratch.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
    let buffers = taps.split_at_mut_checked(taps.len() / 2).ok_or(Error::Unsupported)?;
    conv::convolve::<Core>(window, input, zero_in, weights, channels, place, buffers, output)
}
