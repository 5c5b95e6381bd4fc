//! `model.int8.safetensors`: the quantised network with readable names, and everything a device needs to know of it.
//!
//! | tensor | type, shape | is |
//! |---|---|---|
//! | `activation.scale`, `activation.zero_point` | f32, i8, `[nodes]` | real = scale·(q − zero point), in graph order |
//! | `<conv>.weight` | i8 `[out, kernel, kernel, in]` | in [−127, 127] |
//! | `<conv>.weight_scale` | f32 `[out]` | real value of one weight step |
//! | `<conv>.bias` | i32 `[out]` | in steps of input scale · weight scale |
//! | `<gate>.<band>.weight`, `.weight_scale`, `.bias` | i8 `[2, 7, 7]`, f32 `[2]`, f32 `[1]` | planes of maximum and mean |
//! | `<squeeze>.reduce.weight`, `.weight_scale` | i8 `[hidden, channels]`, f32 `[hidden]` | |
//! | `<squeeze>.expand.weight`, `.weight_scale` | i8 `[channels, hidden]`, f32 `[channels]` | |
//! | `<squeeze>.hidden_scale` | f32 `[1]` | real value of one int16 step between the two |
//!
//! Multipliers and shifts are not stored: they follow from the scales (`image.rs` beside this file), so nothing in the file
//! can contradict something else in it. The metadata has one key, [`METADATA_KEY`], a JSON object.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gsacp_core::graph::{BANDS, Graph, Op};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{QuantizedConv, QuantizedGate, QuantizedMatrix, QuantizedModel, QuantizedNode, Record};
use crate::data::files::write_atomic;
use crate::quantize::range::Affine;

/// The metadata key that holds the [`Record`] as JSON.
pub const METADATA_KEY: &str = "gsacp.int8";
/// Version of this file format.
pub const FORMAT_VERSION: u32 = 1;
const ACTIVATION_SCALE: &str = "activation.scale";
const ACTIVATION_ZERO: &str = "activation.zero_point";

/// Values of one tensor in the file.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    I8(Vec<i8>),
    I32(Vec<i32>),
    F32(Vec<f32>),
}

impl Values {
    fn bytes(&self) -> (Dtype, Vec<u8>) {
        match self {
            Values::I8(v) => (Dtype::I8, v.iter().map(|&x| x as u8).collect()),
            Values::I32(v) => (Dtype::I32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        }
    }
}

impl QuantizedModel {
    /// Writes the file atomically. Equal models give equal bytes.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, &self.to_bytes()?)
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut list: BTreeMap<String, (Vec<usize>, Values)> = BTreeMap::new();
        let mut put = |name: String, shape: &[usize], values: Values| list.insert(name, (shape.to_vec(), values));
        let nodes = self.activations.len();
        let scales = self.activations.iter().map(|a| a.scale as f32).collect();
        put(ACTIVATION_SCALE.into(), &[nodes], Values::F32(scales));
        let zeros = self.activations.iter().map(|a| a.zero_point).collect();
        put(ACTIVATION_ZERO.into(), &[nodes], Values::I8(zeros));
        let graph = self.graph()?;
        for (node, weights) in graph.nodes().iter().zip(&self.nodes) {
            let (cin, cout) = (usize::from(graph.input_channels_of(node)), usize::from(node.channels));
            match (node.op, weights) {
                (Op::Conv(conv), QuantizedNode::Conv(q)) => {
                    let k = usize::from(conv.kernel);
                    put(format!("{}.weight", conv.path), &[cout, k, k, cin], Values::I8(q.matrix.weight.clone()));
                    put(format!("{}.weight_scale", conv.path), &[cout], Values::F32(q.matrix.scale.clone()));
                    put(format!("{}.bias", conv.path), &[cout], Values::I32(q.bias.clone()));
                }
                (Op::SpatialGate(path), QuantizedNode::Gate(bands)) => {
                    for (band, q) in BANDS.iter().zip(bands) {
                        put(format!("{path}.{band}.weight"), &[2, 7, 7], Values::I8(q.planes.weight.clone()));
                        put(format!("{path}.{band}.weight_scale"), &[2], Values::F32(q.planes.scale.clone()));
                        put(format!("{path}.{band}.bias"), &[1], Values::F32(vec![q.bias]));
                    }
                }
                (Op::SqueezeExcite { path, hidden }, QuantizedNode::Squeeze { reduce, expand, hidden_scale }) => {
                    let hidden = usize::from(hidden);
                    for (name, q, shape) in [("reduce", reduce, [hidden, cout]), ("expand", expand, [cout, hidden])] {
                        put(format!("{path}.{name}.weight"), &shape, Values::I8(q.weight.clone()));
                        put(format!("{path}.{name}.weight_scale"), &shape[..1], Values::F32(q.scale.clone()));
                    }
                    put(format!("{path}.hidden_scale"), &[1], Values::F32(vec![*hidden_scale]));
                }
                (_, QuantizedNode::None) => {}
                _ => bail!("{} has weights of another operation", node.label),
            }
        }
        let bytes: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = list
            .into_iter()
            .map(|(name, (shape, values))| {
                let (dtype, bytes) = values.bytes();
                (name, shape, dtype, bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, dtype, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>>>()?;
        let record = serde_json::to_string(&self.record).context("the model's record cannot be written as JSON")?;
        Ok(safetensors::serialize(views, Some(HashMap::from([(METADATA_KEY.to_owned(), record)])))?)
    }

    /// Reads and checks a file; an error names it and the key at fault.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_bytes(&bytes).with_context(|| format!("{}: not a usable int8 model", path.display()))
    }

    /// [`QuantizedModel::read`] on bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = "the file is damaged or cut short: write it again with `gsacp quantize`";
        let (_, header) = SafeTensors::read_metadata(bytes).context(damaged)?;
        let file = SafeTensors::deserialize(bytes).context(damaged)?;
        let text = header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)).with_context(|| {
            format!("no `{METADATA_KEY}` in the metadata: make an int8 model with `gsacp quantize`")
        })?;
        let record: Record =
            serde_json::from_str(text).with_context(|| format!("metadata `{METADATA_KEY}` cannot be read"))?;
        ensure!(
            record.format_version == FORMAT_VERSION,
            "format version {} is not {FORMAT_VERSION}: quantise the model again with this gsacp",
            record.format_version
        );
        let graph = record.check()?;
        let mut reader = Reader { file: &file, taken: 0 };
        let count = graph.nodes().len();
        let scales = reader.f32(ACTIVATION_SCALE, &[count])?;
        ensure_positive(ACTIVATION_SCALE, &scales)?;
        let zeros = reader.i8(ACTIVATION_ZERO, &[count])?;
        let activations = scales
            .iter()
            .zip(zeros)
            .map(|(&scale, zero_point)| Affine { scale: f64::from(scale), zero_point })
            .collect();
        let nodes = (0..count).map(|id| reader.node(&graph, id)).collect::<Result<Vec<_>>>()?;
        if reader.taken != file.len() {
            let known = Self { record: record.clone(), activations, nodes };
            let known = known.to_bytes()?;
            let known = SafeTensors::deserialize(&known)?;
            let stranger = file.names().into_iter().filter(|n| known.tensor(n).is_err()).min().unwrap_or("a tensor");
            bail!("{stranger} belongs to nothing in this network: was the file edited?");
        }
        Ok(Self { record, activations, nodes })
    }
}

/// Reads tensors by name and counts them.
struct Reader<'a, 'b> {
    file: &'a SafeTensors<'b>,
    taken: usize,
}

impl<'b> Reader<'_, 'b> {
    fn raw(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'b [u8]> {
        let view = self.file.tensor(name).ok().with_context(|| format!("{name} is missing"))?;
        ensure!(view.dtype() == dtype, "{name} holds {:?}, not {dtype:?}", view.dtype());
        ensure!(view.shape() == shape, "{name} has shape {:?}, not {shape:?}", view.shape());
        self.taken += 1;
        Ok(view.data())
    }

    fn i8(&mut self, name: &str, shape: &[usize]) -> Result<Vec<i8>> {
        Ok(self.raw(name, Dtype::I8, shape)?.iter().map(|&b| b as i8).collect())
    }

    fn i32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<i32>> {
        let bytes = self.raw(name, Dtype::I32, shape)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect())
    }

    fn f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let bytes = self.raw(name, Dtype::F32, shape)?;
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => bail!("{name} holds {} (element {at})", values[at]),
        }
    }

    /// `<name>.weight` of this shape and its scales, one for every first index.
    fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<QuantizedMatrix> {
        let (key, scale_key) = (format!("{name}.weight"), format!("{name}.weight_scale"));
        let weight = self.i8(&key, shape)?;
        ensure!(!weight.contains(&-128), "{key} holds −128: weights are symmetric, from −127 to 127");
        let scale = self.f32(&scale_key, &shape[..1])?;
        ensure_positive(&scale_key, &scale)?;
        Ok(QuantizedMatrix { weight, scale })
    }

    fn node(&mut self, graph: &Graph, id: usize) -> Result<QuantizedNode> {
        let node = &graph.nodes()[id];
        let (cin, cout) = (usize::from(graph.input_channels_of(node)), usize::from(node.channels));
        Ok(match node.op {
            Op::Conv(conv) => {
                let k = usize::from(conv.kernel);
                let matrix = self.matrix(&conv.path.to_string(), &[cout, k, k, cin])?;
                let bias = self.i32(&format!("{}.bias", conv.path), &[cout])?;
                QuantizedNode::Conv(QuantizedConv { matrix, bias })
            }
            Op::SpatialGate(path) => {
                let mut bands = Vec::with_capacity(BANDS.len());
                for band in BANDS {
                    let planes = self.matrix(&format!("{path}.{band}"), &[2, 7, 7])?;
                    bands.push(QuantizedGate { planes, bias: self.f32(&format!("{path}.{band}.bias"), &[1])?[0] });
                }
                QuantizedNode::Gate(bands)
            }
            Op::SqueezeExcite { path, hidden } => {
                let hidden = usize::from(hidden);
                let key = format!("{path}.hidden_scale");
                let hidden_scale = self.f32(&key, &[1])?[0];
                ensure_positive(&key, &[hidden_scale])?;
                QuantizedNode::Squeeze {
                    reduce: self.matrix(&format!("{path}.reduce"), &[hidden, cout])?,
                    expand: self.matrix(&format!("{path}.expand"), &[cout, hidden])?,
                    hidden_scale,
                }
            }
            _ => QuantizedNode::None,
        })
    }
}

fn ensure_positive(name: &str, scales: &[f32]) -> Result<()> {
    match scales.iter().position(|s| *s <= 0.0) {
        None => Ok(()),
        Some(at) => bail!("{name} holds {} (element {at}): a scale is above 0", scales[at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{build, testing};
    use gsacp_core::graph::{QUARTER, msda};

    fn model() -> QuantizedModel {
        let graph = msda(QUARTER, 1);
        let folded = crate::export::fold(&testing::state(&graph, 1), &graph).unwrap();
        let (seen, record) = (testing::invented_maps(&graph), testing::record(&graph));
        build(&graph, &folded, testing::ranges(&graph, &seen), &seen, record).unwrap()
    }

    /// The file with one tensor replaced (or added, or, with `None`, left out).
    fn with(name: &str, tensor: Option<(Dtype, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
        let bytes = model().to_bytes().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut views: Vec<(String, TensorView)> = file.tensors().into_iter().filter(|(n, _)| n != name).collect();
        if let Some((dtype, shape, data)) = &tensor {
            views.push((name.into(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        }
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone();
        safetensors::serialize(views, metadata).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again_and_equal_models_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.int8.safetensors");
        let model = model();
        model.write(&path).unwrap();
        assert_eq!(QuantizedModel::read(&path).unwrap(), model);
        assert_eq!(std::fs::read(&path).unwrap(), model.to_bytes().unwrap());
    }

    #[test]
    fn missing_extra_misshapen_and_impossible_tensors_are_named() {
        let f32s = |v: f32, n: usize| v.to_le_bytes().repeat(n);
        let cases = [
            ("layer.0.bias", None, "layer.0.bias is missing"),
            ("surprise", Some((Dtype::I8, vec![1], vec![0])), "surprise belongs to nothing"),
            ("layer.2.weight", Some((Dtype::I8, vec![4], vec![0; 4])), "layer.2.weight has shape [4]"),
            ("layer.2.bias", Some((Dtype::F32, vec![1], f32s(1.0, 1))), "layer.2.bias holds F32"),
            ("layer.0.weight_scale", Some((Dtype::F32, vec![4], f32s(f32::NAN, 4))), "layer.0.weight_scale holds NaN"),
            ("layer.0.weight_scale", Some((Dtype::F32, vec![4], f32s(0.0, 4))), "layer.0.weight_scale holds 0"),
            ("layer.2.weight", Some((Dtype::I8, vec![1, 1, 1, 4], vec![128; 4])), "layer.2.weight holds −128"),
        ];
        for (name, tensor, said) in cases {
            let error = QuantizedModel::from_bytes(&with(name, tensor)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_file_cut_short_or_of_another_kind_is_an_error() {
        let bytes = model().to_bytes().unwrap();
        for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(QuantizedModel::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let float = safetensors::serialize(Vec::<(String, TensorView)>::new(), None).unwrap();
        let error = QuantizedModel::from_bytes(&float).unwrap_err().to_string();
        assert!(error.contains("gsacp quantize"), "{error}");
    }

    #[test]
    fn other_versions_and_impossible_records_are_refused() {
        type Spoil = fn(&mut Record);
        let spoil: [(Spoil, &str); 3] = [
            (|r| r.format_version = 2, "format version 2"),
            (|r| r.model.std = -1.0, "std"),
            (|r| r.operating_points[0].fa = 7.0, "operating point"),
        ];
        for (spoil, said) in spoil {
            let good = model();
            let mut record = good.record.clone();
            spoil(&mut record);
            let bytes = good.to_bytes().unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let metadata = HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&record).unwrap())]);
            let bytes = safetensors::serialize(file.tensors(), Some(metadata)).unwrap();
            let error = format!("{:#}", QuantizedModel::from_bytes(&bytes).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
