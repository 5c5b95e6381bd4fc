//! The int8 engine as the loop's [`Network`], and a look at its layers for benches.
use gsacp_core::detect::View as LogitMap;
use gsacp_core::engine::int8::{Int8Engine, View};
use gsacp_core::frame::{Depth, Frame, Quantiser, padded};
use gsacp_core::image::ModelImage;
use zerocopy::IntoBytes;

use crate::{Fault, Network};

/// The engine, fed with 8-bit frames. `tap` sees every layer's number and map as soon as it is computed.
pub struct EngineNetwork<'a, F> {
    engine: Int8Engine<'a>,
    quantiser: Quantiser,
    tap: F,
}

impl<'a, F: FnMut(u16, View<'_>)> EngineNetwork<'a, F> {
    /// Takes the normalisation and the input's quantisation from the engine's image. Errors: a scale that is too fine.
    pub fn new(engine: Int8Engine<'a>, tap: F) -> Result<Self, Fault> {
        let (normalisation, input) = (engine.image().normalisation(), engine.image().input());
        let zero = input.zero.clamp(i8::MIN.into(), i8::MAX.into()) as i8;
        let quantiser = Quantiser::new(Depth::Eight, normalisation, input.scale, zero)?;
        Ok(Self { engine, quantiser, tap })
    }
}

impl<F: FnMut(u16, View<'_>)> Network for EngineNetwork<'_, F> {
    fn logits(&mut self, frame: &Frame<'_>) -> Result<LogitMap<'_, i16>, Fault> {
        frame.quantise(&self.quantiser, self.engine.input_mut()?)?;
        let tap = &mut self.tap;
        let map = self.engine.run_in_place_with(|id, _, view| tap(id as u16, view))?;
        Ok(LogitMap::cropped(map, padded(frame.width()), frame.width(), frame.height())?)
    }
}

/// The logit threshold of an image's first operating point; 0, a probability of one half, where it has none.
pub fn threshold(image: &ModelImage<'_>) -> i16 {
    image.points().next().map_or(0, |point| point.threshold)
}

/// Hands out the bytes of a layer's map in order: row by row, all channels of a pixel together, without the gaps that a
/// shared buffer leaves; the logit map little-endian.
pub fn layer_bytes(view: View<'_>, mut bytes: impl FnMut(&[u8])) {
    match view {
        View::Int8(map) => map.pixels().for_each(|pixel| bytes(pixel.as_bytes())),
        View::Logits(map) => bytes(map.as_bytes()),
    }
}
