//! State dicts on disk: safetensors files of f32 tensors by the reference's names, checked once when they are read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use gsacp_core::graph::{self, Graph};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::params;
use crate::data::files::write_atomic;

/// Named tensors with the file's string metadata.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    /// f32 tensors on the CPU (integer tensors of the reference, its batch counters, are left out).
    pub tensors: BTreeMap<String, Tensor>,
    /// Metadata; a model of this project carries [`ModelInfo`] here.
    pub metadata: BTreeMap<String, String>,
}

/// What a model file says of itself: which graph its weights belong to, and the training domain's normalisation.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelInfo {
    /// Widths w1…w5.
    pub widths: [u16; 5],
    /// Channels of the input.
    pub input_channels: u16,
    /// Mean of the training images' grey values, in [0, 1].
    pub mean: f32,
    /// Standard deviation of the training images' grey values.
    pub std: f32,
}

/// Metadata key of [`ModelInfo`].
const INFO_KEY: &str = "gsacp.model";
/// Metadata key that is there, with the value [`HALF`], where a file's tensors are float16.
const PRECISION_KEY: &str = "gsacp.precision";
const HALF: &str = "half";

impl ModelInfo {
    /// The network that the weights belong to.
    pub fn graph(&self) -> Result<Graph> {
        ensure!(matches!(self.input_channels, 1 | 3), "input_channels is {}, must be 1 or 3", self.input_channels);
        let [w1, w2, ..] = self.widths;
        ensure!(
            self.widths.iter().all(|w| (4..=256).contains(w) && w % 4 == 0) && w2 > 3 * self.input_channels,
            "widths {:?} are not multiples of 4 from 4 to 256 with w2 > 3·input_channels (w1 = {w1})",
            self.widths
        );
        ensure!(
            self.mean.is_finite() && self.std.is_finite() && self.std > 0.0,
            "normalisation mean {} and std {} must be finite, std positive",
            self.mean,
            self.std
        );
        Ok(graph::msda(self.widths, self.input_channels))
    }

    /// Whether both networks see an image as nearly the same numbers: in as many channels, with a mean and a deviation no more than
    /// a thousandth of the deviation apart. The scales that two runs see their images at move both by less.
    pub fn sees_like(&self, other: &ModelInfo) -> bool {
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-3 * self.std;
        self.input_channels == other.input_channels && near(self.mean, other.mean) && near(self.std, other.std)
    }

    /// Puts itself into metadata.
    pub fn write_to(&self, metadata: &mut BTreeMap<String, String>) {
        let text = serde_json::to_string(self).expect("plain numbers always serialise");
        metadata.insert(INFO_KEY.into(), text);
    }

    /// Reads itself from metadata.
    pub fn read_from(metadata: &BTreeMap<String, String>) -> Result<ModelInfo> {
        let text = metadata.get(INFO_KEY).with_context(|| {
            format!("no `{INFO_KEY}` in the file's metadata: not a model of gsacp (for a reference state dict use `gsacp import-reference`)")
        })?;
        serde_json::from_str(text).with_context(|| format!("metadata `{INFO_KEY}` cannot be read"))
    }
}

impl StateDict {
    /// Reads a safetensors file. Errors name the file; a tensor that is not f32, f16 or bf16 (64-bit counters apart) or
    /// holds a value that is not finite is an error naming its key.
    pub fn read(path: &Path) -> Result<StateDict> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        StateDict::from_bytes(&bytes).with_context(|| format!("{}: not a usable safetensors file", path.display()))
    }

    /// [`StateDict::read`] on bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<StateDict> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).context("the header is damaged or the file is cut short")?;
        let file = SafeTensors::deserialize(bytes).context("the file is damaged or cut short")?;
        let mut state = StateDict::default();
        if let Some(metadata) = header.metadata() {
            state.metadata = metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        }
        for (name, view) in file.tensors() {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::I64 if params::is_unused_by_the_reference(&name) => continue,
                other => bail!("tensor {name} is {other:?}; f32, f16 or bf16 is expected"),
            };
            let tensor =
                Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?;
            let bad = tensor.flatten_all()?.to_vec1::<f32>()?.iter().position(|v| !v.is_finite());
            if let Some(index) = bad {
                bail!("tensor {name} holds a value that is not finite (element {index})");
            }
            state.tensors.insert(name, tensor);
        }
        Ok(state)
    }

    /// From now on [`write`](Self::write) rounds every value to half precision: a file of half the size. A command that
    /// reads the file and writes it again keeps it so.
    pub fn in_half_precision(&mut self) {
        self.metadata.insert(PRECISION_KEY.into(), HALF.into());
    }

    /// Writes the file atomically, in float32 or as [`in_half_precision`](Self::in_half_precision) said. A value that half
    /// precision cannot hold is an error that names its tensor.
    pub fn write(&self, path: &Path) -> Result<()> {
        let half = self.metadata.get(PRECISION_KEY).is_some_and(|precision| precision == HALF);
        let dtype = if half { DType::F16 } else { DType::F32 };
        let written = |(name, tensor): (&String, &Tensor)| -> Result<(String, Tensor)> {
            let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(dtype)?;
            if half {
                let largest = tensor.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
                ensure!(largest.is_finite(), "{name} is too large for half precision");
            }
            Ok((name.clone(), tensor))
        };
        let tensors = self.tensors.iter().map(written).collect::<Result<Vec<_>>>()?;
        let metadata = self.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        write_atomic(path, &safetensors::serialize(tensors, Some(metadata))?)
    }

    /// Checks that the dict holds exactly the graph's tensors (beside what only the reference carries).
    /// The error lists the first missing, misshapen and unknown keys.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        let table = params::of_graph(graph);
        let mut faults = Vec::new();
        for p in &table {
            match self.tensors.get(&p.name) {
                None => faults.push(format!("{} is missing", p.name)),
                Some(t) if t.dims() != p.shape => {
                    faults.push(format!("{} has shape {:?}, not {:?}", p.name, t.dims(), p.shape));
                }
                Some(_) => {}
            }
        }
        let known: std::collections::BTreeSet<&str> = table.iter().map(|p| p.name.as_str()).collect();
        for name in self.tensors.keys() {
            if !known.contains(name.as_str()) && !params::is_unused_by_the_reference(name) {
                faults.push(format!("{name} is unknown to this graph"));
            }
        }
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(5);
            faults.truncate(5);
            let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
            bail!("the weights do not fit the graph {:?}: {}{tail}", graph.widths, faults.join("; "));
        }
        Ok(())
    }

    /// The graph that a dict by the reference's names belongs to, read off its tensors' shapes.
    pub fn infer_graph(&self) -> Result<Graph> {
        let dims = |name: &str| {
            self.tensors.get(name).map(|t| t.dims().to_vec()).with_context(|| format!("{name} is missing"))
        };
        let first = dims("stage.layer1.0.weight")?;
        let mut widths = [0u16; 5];
        for (i, w) in widths.iter_mut().enumerate() {
            *w = u16::try_from(dims(&format!("stage.resnet{}_2.branch0.0.conv.weight", i + 1))?[0])?;
        }
        let input_channels = u16::try_from(*first.get(1).context("stage.layer1.0.weight is not a conv's")?)?;
        let graph = ModelInfo { widths, input_channels, mean: 0.0, std: 1.0 }.graph()?;
        self.check(&graph)?;
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{QUARTER, msda};

    fn random_state() -> StateDict {
        let mut state = StateDict::default();
        for p in params::of_graph(&msda(QUARTER, 1)) {
            state.tensors.insert(p.name, Tensor::ones(p.shape, DType::F32, &Device::Cpu).unwrap());
        }
        ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.4, std: 0.2 }.write_to(&mut state.metadata);
        state
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let state = random_state();
        state.write(&path).unwrap();
        let again = StateDict::read(&path).unwrap();
        assert_eq!(again.metadata, state.metadata);
        assert_eq!(ModelInfo::read_from(&again.metadata).unwrap().widths, QUARTER);
        assert_eq!(again.tensors.len(), state.tensors.len());
        again.check(&again.infer_graph().unwrap()).unwrap();
    }

    #[test]
    fn half_precision_stays_through_reading_and_writing_and_what_it_cannot_hold_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let [single, half, again] = ["a", "b", "c"].map(|name| folder.path().join(name));
        let mut state = random_state();
        // 1 + 2⁻¹⁰ is the next float16 after 1; a quarter of that step is rounded away.
        let value = |t: &StateDict| t.tensors["layer.2.bias"].to_vec1::<f32>().unwrap()[0];
        state.tensors.insert("layer.2.bias".into(), Tensor::new(&[1.0 + 1.25 / 1024f32], &Device::Cpu).unwrap());
        state.write(&single).unwrap();
        state.in_half_precision();
        state.write(&half).unwrap();
        let read = StateDict::read(&half).unwrap();
        assert_eq!((value(&state), value(&read)), (1.0 + 1.25 / 1024.0, 1.0 + 1.0 / 1024.0));
        read.write(&again).unwrap();
        let [single, half, again] = [single, half, again].map(|path| std::fs::metadata(path).unwrap().len());
        assert!(half == again && half * 10 < single * 6, "{single}, {half}, {again}");
        state.tensors.insert("layer.2.bias".into(), Tensor::new(&[7e4f32], &Device::Cpu).unwrap());
        let error = state.write(&folder.path().join("d")).unwrap_err().to_string();
        assert!(error.contains("layer.2.bias is too large"), "{error}");
    }

    #[test]
    fn missing_extra_and_misshapen_tensors_are_named() {
        let graph = msda(QUARTER, 1);
        type Spoil = fn(&mut StateDict);
        let cases: [(&str, Spoil); 3] = [
            ("layer.0.bias is missing", |s| drop(s.tensors.remove("layer.0.bias"))),
            ("surprise is unknown", |s| {
                let t = s.tensors["layer.0.bias"].clone();
                s.tensors.insert("surprise".into(), t);
            }),
            ("layer.2.weight has shape [4]", |s| {
                let t = s.tensors["layer.0.bias"].clone();
                s.tensors.insert("layer.2.weight".into(), t);
            }),
        ];
        for (said, spoil) in cases {
            let mut state = random_state();
            spoil(&mut state);
            let error = state.check(&graph).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_and_a_file_cut_short_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut state = random_state();
        state.tensors.insert("layer.2.bias".into(), Tensor::new(&[f32::NAN], &Device::Cpu).unwrap());
        state.write(&path).unwrap();
        assert!(format!("{:#}", StateDict::read(&path).unwrap_err()).contains("layer.2.bias"));
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, 100, whole.len() - 1] {
            assert!(StateDict::from_bytes(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn impossible_model_infos_are_refused() {
        let good = ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.4, std: 0.2 };
        assert!(good.graph().is_ok());
        for bad in [
            ModelInfo { input_channels: 2, ..good.clone() },
            ModelInfo { widths: [4, 8, 16, 16, 0], ..good.clone() },
            ModelInfo { widths: [4, 8, 16, 16, 17], ..good.clone() },
            ModelInfo { input_channels: 3, ..good.clone() },
            ModelInfo { std: 0.0, ..good.clone() },
            ModelInfo { mean: f32::NAN, ..good.clone() },
        ] {
            assert!(bad.graph().is_err(), "{bad:?}");
        }
    }
}
