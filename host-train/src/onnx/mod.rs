//! A model as an ONNX file, so that another runtime can take it: float32, or int8 as quantise–dequantise pairs.
//!
//! The file is for frames of one size, because the channel gates' means and the aligned corners of the up-sampling
//! depend on it. Input `input` `[1, C, H, W]`: (grey − mean)/std, frames padded at the bottom and right to multiples of 16
//! with 0 after that. Output `logits` `[1, 1, H, W]`, f32. The file's metadata are those of the model's own file: mean, std,
//! widths, operating points.
//!
//! ```text
//! graph ─ walk ─▶ GraphProto        weights: batch norms folded (float), or the int8 model's integers and scales
//! ```

mod builder;
pub mod proto;
mod walk;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gsacp_core::graph::{Graph, SIZE_MULTIPLE};
use prost::Message;

use crate::evaluate::detector;
use crate::export;
use crate::model::{ModelInfo, StateDict};
use crate::quantize::QuantizedModel;
use crate::quantize::file::METADATA_KEY;
use crate::quantize::range::Affine;
use proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use weights::Weights;

/// Version of the operator set: the first with quantisation per channel.
pub const OPSET: i64 = 13;
/// Version of the file format that came with it.
const IR_VERSION: i64 = 7;

/// The model in a float or int8 safetensors file, for frames of `height`×`width`. Errors name the file; sizes that are no
/// multiples of 16 are refused.
pub fn of_file(path: &Path, height: usize, width: usize) -> Result<ModelProto> {
    let written = match detector::is_int8(path)? {
        true => QuantizedModel::read(path).and_then(|model| of_int8(&model, height, width)),
        false => StateDict::read(path).and_then(|state| of_float(&state, height, width)),
    };
    written.with_context(|| format!("cannot export {}", path.display()))
}

/// A float model, batch norms folded. Errors: weights that do not fit the graph, and as for [`of_file`].
pub fn of_float(state: &StateDict, height: usize, width: usize) -> Result<ModelProto> {
    let graph = ModelInfo::read_from(&state.metadata)?.graph()?;
    let weights = weights::of_float(&graph, &export::fold(state, &graph)?);
    wrap(&graph, &weights, None, [height, width], &state.metadata)
}

/// An int8 model: its integers, scales and zero points around operations on real numbers.
pub fn of_int8(model: &QuantizedModel, height: usize, width: usize) -> Result<ModelProto> {
    let graph = model.graph()?;
    let weights = weights::of_int8(&graph, model)?;
    let metadata = BTreeMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&model.record)?)]);
    wrap(&graph, &weights, Some(&model.activations), [height, width], &metadata)
}

impl ModelProto {
    /// Reads a file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes).context("no ONNX file, or one that is damaged")
    }

    /// The bytes of the file. Equal models give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

fn wrap(
    graph: &Graph,
    weights: &[Weights],
    maps: Option<&[Affine]>,
    size: [usize; 2],
    metadata: &BTreeMap<String, String>,
) -> Result<ModelProto> {
    let [height, width] = size;
    ensure!(
        size.iter().all(|&side| side > 0 && side.is_multiple_of(SIZE_MULTIPLE)),
        "{width}x{height} is no size for this network: width and height must be multiples of {SIZE_MULTIPLE}"
    );
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "gsacp".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: "Infrared small targets. input: (grey - mean)/std with grey in [0, 1]; a pixel is a target where \
                     its logit exceeds an operating point's threshold (both in the metadata)."
            .into(),
        graph: Some(walk::write(graph, weights, maps, height, width)?),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
    })
}
