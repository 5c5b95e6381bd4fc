//! The int8 kernels for the vector and DSP instructions of Arm microcontrollers and of x86-64.
//!
//! Each gives the bits of its plain twin in the operation's own file, which every other target runs, as does this one
//! where a layer is outside a fast kernel's range (a factor of a quarter and more, a patch that is too long) or the
//! processor lacks the instructions. The build script chooses by target (`cfg(kernels)`); the feature `scalar` turns
//! them all off.
//!
//! The float forms (`float`, `winograd`, `gate`, over the loops of `fma`; x86-64 only) round in another order than their
//! plain twins, and are held to the definition within a stated bound and to a model of plain arrays bit for bit.
//!
//! What depends on the core is a handful of inner loops in `helium`, `dsp` and `vnni`, behind safe functions that check
//! every extent; what walks a map is the same code for all, and is tested on the host over a plain model of those of Arm.

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
mod micro;
#[cfg(test)]
mod model;
#[cfg(kernels = "vnni")]
mod vnni;
#[cfg(any(test, kernels = "vnni"))]
mod winograd;

#[cfg(any(kernels = "helium", kernels = "dsp"))]
pub(super) use arm::*;
#[cfg(kernels = "vnni")]
pub(super) use x86::*;

/// The operations over an Arm core.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
mod arm {
    #[cfg(kernels = "dsp")]
    use super::dsp::Dsp as Core;
    #[cfg(kernels = "helium")]
    use super::helium::Helium as Core;
    use crate::Error;
    use crate::kernels::conv::Window;
    use crate::kernels::dot::dot_i16;
    use crate::kernels::{Map, MapMut};
    use crate::quant::{ConvChannel, Output};

    /// [`crate::kernels::dot::Tap::dots`] for the spatial gate: patches of 7×7 taps, seven apart.
    pub fn dots(patches: &[i16], step: usize, row: &[i16], sums: &mut [i32]) {
        let done = if step == super::GATE_STEP { Core::gate_dots(patches, row, sums) } else { 0 };
        for (i, sum) in sums.iter_mut().enumerate().skip(done) {
            if let Some(patch) = patches.get(i * step..i * step + row.len()) {
                *sum = dot_i16(patch, row);
            }
        }
    }

    /// See [`super::conv::convolve`].
    pub fn conv(
        window: Window,
        input: &Map<i8>,
        zero_in: i8,
        weights: &[i8],
        channels: &[ConvChannel],
        place: Output,
        output: &mut MapMut<i8>,
    ) -> Result<bool, Error> {
        super::conv::convolve::<Core>(window, input, zero_in, weights, channels, place, output)
    }
}

/// The operations over AVX-512 VNNI, where the processor has it.
#[cfg(kernels = "vnni")]
mod x86 {
    use super::conv::convolve;
    use super::vnni::{Vnni, is_there};
    use crate::Error;
    use crate::kernels::conv::Window;
    use crate::kernels::{Map, MapMut};
    use crate::quant::{ConvChannel, Output};

    pub use super::float::conv as conv_f32;
    pub use super::gate::gate as gate_f32;
    pub use super::vnni::dots;

    /// See [`super::conv::convolve`]; the narrowest vector that holds all channels.
    pub fn conv(
        window: Window,
        input: &Map<i8>,
        zero_in: i8,
        weights: &[i8],
        channels: &[ConvChannel],
        place: Output,
        output: &mut MapMut<i8>,
    ) -> Result<bool, Error> {
        let form = match channels.len() {
            _ if !is_there() => return Ok(false),
            ..=4 => convolve::<Vnni<4>>,
            5..=8 => convolve::<Vnni<8>>,
            _ => convolve::<Vnni<16>>,
        };
        form(window, input, zero_in, weights, channels, place, output)
    }
}

/// Taps from one patch of the spatial gate to the next.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
const GATE_STEP: usize = 7;
/// Taps of such a patch; the row that multiplies it has zeros beyond them.
#[cfg(any(kernels = "helium", kernels = "dsp"))]
const GATE_PATCH: usize = 49;
