//! Post-training quantisation by the integer contract (DESIGN.md): ranges of least squared error over calibration
//! images, weights per channel, bias correction, and the file that holds the result.
//!
//! ```text
//! state dict ─ equalise ─ export::fold ─▶ float weights ─ observe ─▶ statistics of every map
//!                                                └──────── build ◀── groups: scale and zero point of every map
//!                                                            ▼
//!                                      QuantizedModel ─ file ─▶ model.int8.safetensors
//!                                                     └ image ─▶ model image ─▶ int8 engine, here and on the device
//! ```

mod build;
pub mod equalise;
pub mod file;
pub mod groups;
pub mod histogram;
pub mod host;
mod image;
pub mod observe;
pub mod range;
pub mod report;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod weights;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use crc::{CRC_32_ISO_HDLC, Crc};
use gsacp_core::graph::Graph;
use serde::{Deserialize, Serialize};

use crate::data::dataset::Dataset;
use crate::export;
use crate::model::{ModelInfo, StateDict};
pub use build::build;
use range::Affine;

/// A matrix of int8 rows: real = scale\[row\]·weight.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedMatrix {
    /// Rows one after the other, in [−127, 127].
    pub weight: Vec<i8>,
    /// One value above 0 for every row.
    pub scale: Vec<f32>,
}

/// A convolution; the rows of its matrix are the output channels, `[ky][kx][in]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedConv {
    /// Weights.
    pub matrix: QuantizedMatrix,
    /// In steps of input scale · weight scale, one for every output channel.
    pub bias: Vec<i32>,
}

/// One band of a spatial gate.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedGate {
    /// Two rows of 7×7: the kernel over the channels' maximum, then that over their mean.
    pub planes: QuantizedMatrix,
    /// Real bias of the gate's logit.
    pub bias: f32,
}

/// Integer weights of one node.
#[derive(Debug, Clone, PartialEq)]
pub enum QuantizedNode {
    /// The operation has no weights.
    None,
    /// See [`QuantizedConv`].
    Conv(QuantizedConv),
    /// Four bands in the order of [`gsacp_core::graph::BANDS`].
    Gate(Vec<QuantizedGate>),
    /// The two matrices of a channel gate.
    Squeeze {
        /// `[hidden][channels]`.
        reduce: QuantizedMatrix,
        /// `[channels][hidden]`.
        expand: QuantizedMatrix,
        /// Real value of one int16 step of the hidden layer, above 0.
        hidden_scale: f32,
    },
}

/// A threshold and what was measured with it, as the file spells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// False-alarm rate that was asked for, false pixels per pixel.
    pub requested_fa: f32,
    /// Logits above it are targets; a multiple of 1/256.
    pub threshold: f32,
    /// Measured probability of detection; none where the images had no targets.
    pub pd: Option<f32>,
    /// Measured false-alarm rate.
    pub fa: f32,
}

impl From<gsacp_core::threshold::OperatingPoint> for OperatingPoint {
    fn from(p: gsacp_core::threshold::OperatingPoint) -> Self {
        let pd = Some(p.pd).filter(|pd| !pd.is_nan());
        Self { requested_fa: p.requested_fa, threshold: f32::from(p.threshold) / LOGIT_STEPS, pd, fa: p.fa }
    }
}

impl From<OperatingPoint> for gsacp_core::threshold::OperatingPoint {
    fn from(p: OperatingPoint) -> Self {
        let threshold = (p.threshold * LOGIT_STEPS).round() as i16;
        Self { requested_fa: p.requested_fa, threshold, pd: p.pd.unwrap_or(f32::NAN), fa: p.fa }
    }
}

/// Steps of an int16 logit per unit.
const LOGIT_STEPS: f32 = 256.0;

/// How the maps' ranges are chosen: [`range`], and [`equalise`] for the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranges {
    /// Of least squared error over all values seen; the rarest may be clipped.
    LeastSquares,
    /// All values seen, after the units of every channel were chosen for like ranges.
    Equalised,
}

/// How the ranges were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// File name of the list of images.
    pub list: String,
    /// Images drawn from it.
    pub images: usize,
    /// Seed of the draw.
    pub seed: u64,
    /// How they were chosen; none where the float model was trained with them, or the file is from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
}

/// Everything about a quantised model but its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`file::FORMAT_VERSION`].
    pub format_version: u32,
    /// Graph and normalisation.
    pub model: ModelInfo,
    /// Thresholds found by `gsacp calibrate`; empty before.
    pub operating_points: Vec<OperatingPoint>,
    /// How the ranges were found.
    pub calibration: Calibration,
    /// CRC-32 (ISO-HDLC) of the float model's file.
    pub source_crc: u32,
}

impl Record {
    /// The network it speaks of; an error for impossible widths, normalisation or operating points.
    pub fn check(&self) -> Result<Graph> {
        for p in &self.operating_points {
            let rates = [p.requested_fa, p.pd.unwrap_or(0.0), p.fa];
            ensure!(
                (-128.0..128.0).contains(&p.threshold) && rates.iter().all(|v| (0.0..=1.0).contains(v)),
                "the operating point {p:?} is impossible: rates lie in [0, 1], thresholds from -128 to 128"
            );
        }
        self.model.graph()
    }
}

/// A quantised network.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedModel {
    /// What it is and where it comes from.
    pub record: Record,
    /// Scale (an f32 value) and zero point of every node's map.
    pub activations: Vec<Affine>,
    /// Weights of every node.
    pub nodes: Vec<QuantizedNode>,
}

impl QuantizedModel {
    /// The network.
    pub fn graph(&self) -> Result<Graph> {
        self.record.check()
    }
}

/// A trained float model.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its tensors.
    pub state: StateDict,
    /// Its graph and normalisation.
    pub info: ModelInfo,
    /// CRC-32 of its file.
    pub crc: u32,
    /// Scale and zero point of every map, where the network was trained to be rounded with them.
    pub ranges: Option<Vec<Affine>>,
}

impl Source {
    /// Reads a model file. Errors name the file, and the key where one is at fault.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let open = || -> Result<Self> {
            let state = StateDict::from_bytes(&bytes)?;
            let info = ModelInfo::read_from(&state.metadata)?;
            let ranges = groups::read_from(&state.metadata, &info.graph()?)?;
            Ok(Self { state, info, ranges, crc: Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&bytes) })
        };
        open().with_context(|| format!("{}: not a usable model", path.display()))
    }
}

/// Quantises a float model with `images` images of the data set, drawn by `seed`. Ranges that the model was trained with
/// are kept, in the units that it was trained in; others are chosen. Beside the result comes the float network whose int8
/// form it is: the source's, in the units that [`Ranges::Equalised`] gave it. The same arguments give the same model,
/// whatever the number of threads.
pub fn quantize(
    source: Source,
    dataset: &Dataset,
    images: usize,
    seed: u64,
    ranges: Ranges,
) -> Result<(StateDict, QuantizedModel)> {
    let graph = source.info.graph()?;
    let samples = observe::draw(dataset, images, seed);
    let seen = observe::Observations::of_images(&graph, &source.state, &source.info, &samples)?;
    let (state, seen) = match (ranges, &source.ranges) {
        (Ranges::Equalised, None) => {
            let doublings = equalise::doublings(&graph, &seen);
            (equalise::scaled(&graph, &source.state, &doublings)?, seen.in_units(&doublings))
        }
        _ => (source.state, seen),
    };
    let folded = export::fold(&state, &graph)?;
    let list = dataset.list.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let chosen = source.ranges.is_none().then_some(ranges);
    let record = Record {
        format_version: file::FORMAT_VERSION,
        model: source.info.clone(),
        operating_points: Vec::new(),
        calibration: Calibration { list, images: samples.len(), seed, ranges: chosen },
        source_crc: source.crc,
    };
    let choose = || groups::assign(&graph, &seen, groups::input_pair(source.info.mean, source.info.std), ranges);
    let activations = source.ranges.unwrap_or_else(choose);
    Ok((state, build(&graph, &folded, activations, &seen, record)?))
}
