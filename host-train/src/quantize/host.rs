//! The int8 engine on the host: the same image, the same engine and the same frame quantiser as on the device.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use gsacp_core::engine::{Int8Engine, View};
use gsacp_core::frame::{Depth, Frame, Quantiser};
use gsacp_core::graph::{Graph, Node};
use gsacp_core::image::{MAGIC, ModelImage};
use gsacp_core::plan::{Element, Plan, plan, plan_apart};
use gsacp_core::threshold::OperatingPoint;
use zerocopy::{FromBytes, IntoBytes};

use super::QuantizedModel;
use crate::data::image::{Samples, StoredImage};
use crate::model::ModelInfo;

/// A model image, ready to run on frames of any size.
pub struct Int8Network {
    graph: Graph,
    info: ModelInfo,
    /// The image's bytes, aligned to 16.
    words: Vec<u128>,
}

impl Int8Network {
    /// From the bytes of a model image, which are checked as the device checks them.
    pub fn from_image(bytes: &[u8]) -> Result<Self> {
        let mut words = vec![0u128; bytes.len().div_ceil(size_of::<u128>())];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        let parsed = ModelImage::parse(&words.as_bytes()[..bytes.len()])?;
        let ((widths, input_channels), normalisation) = (parsed.network(), parsed.normalisation());
        let info = ModelInfo { widths, input_channels, mean: normalisation.mean, std: normalisation.std };
        let graph = info.graph()?;
        parsed.for_graph(&graph)?;
        Ok(Self { graph, info, words })
    }

    /// From a quantised model, through its image.
    pub fn from_model(model: &QuantizedModel) -> Result<Self> {
        Self::from_image(&model.to_image()?)
    }

    /// Opens a model image or a `model.int8.safetensors`, told apart by their first bytes. Errors name the file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let network = match bytes.starts_with(&MAGIC) {
            true => Self::from_image(&bytes),
            false => QuantizedModel::from_bytes(&bytes).and_then(|model| Self::from_model(&model)),
        };
        network.with_context(|| format!("{}: not a usable int8 model", path.display()))
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Widths, channels and normalisation.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The image.
    pub fn image(&self) -> Result<ModelImage<'_>> {
        Ok(ModelImage::parse(self.words.as_bytes())?)
    }

    /// The thresholds stored in the image.
    pub fn operating_points(&self) -> Result<Vec<OperatingPoint>> {
        Ok(self.image()?.points().collect())
    }

    /// The network's input: HWC, padded at the bottom and right to multiples of 16, quantised as the device does it.
    pub fn quantise(&self, image: &StoredImage) -> Result<Vec<i8>> {
        let wide: Vec<u8>;
        let (bytes, depth) = match &image.samples {
            Samples::Eight(samples) => (samples.as_slice(), Depth::Eight),
            Samples::Sixteen(samples) => {
                wide = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
                (wide.as_slice(), Depth::Sixteen)
            }
        };
        let parsed = self.image()?;
        let input = parsed.input();
        let quantiser = Quantiser::new(depth, parsed.normalisation(), input.scale, input.zero as i8)?;
        let mut grey = vec![0; padded(image.width) * padded(image.height)];
        Frame::new(bytes, image.width, image.height, depth)?.quantise(&quantiser, &mut grey)?;
        let channels = usize::from(self.info.input_channels);
        Ok(grey.iter().flat_map(|&q| std::iter::repeat_n(q, channels)).collect())
    }

    /// The logit map of an image in steps of 1/256, row by row, without the padding.
    pub fn logits(&self, image: &StoredImage) -> Result<Vec<i16>> {
        let (width, height) = (padded(image.width), padded(image.height));
        let logits =
            self.run_in(plan(&self.graph, height, width, Element::Int8)?, &self.quantise(image)?, |_, _, _| {})?;
        Ok(logits.chunks_exact(width).take(image.height).flat_map(|row| row[..image.width].iter().copied()).collect())
    }

    /// Runs the network on a quantised frame of `width`×`height` pixels (multiples of 16); `tap` sees every map whole.
    pub fn run(
        &self,
        input: &[i8],
        width: usize,
        height: usize,
        tap: impl FnMut(usize, &Node, View),
    ) -> Result<Vec<i16>> {
        self.run_in(plan_apart(&self.graph, height, width, Element::Int8)?, input, tap)
    }

    fn run_in(&self, plan: Plan, input: &[i8], tap: impl FnMut(usize, &Node, View)) -> Result<Vec<i16>> {
        let mut arena = vec![0u128; plan.arena_len.div_ceil(size_of::<u128>())];
        let arena = <[i8]>::mut_from_bytes(arena.as_mut_bytes()).ok().context("bytes have no alignment")?;
        ensure!(
            input.len() == plan.width * plan.height * usize::from(self.info.input_channels),
            "a frame of another size"
        );
        let mut engine = Int8Engine::new(&self.graph, &plan, self.image()?, arena)?.on_two_threads();
        Ok(engine.run_with(input, tap)?.to_vec())
    }
}

fn padded(side: usize) -> usize {
    side.next_multiple_of(gsacp_core::graph::SIZE_MULTIPLE)
}
