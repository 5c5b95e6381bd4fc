//! The state of a run in one safetensors file, written atomically.
//!
//! Tensors are named `weights.*`, `buffers.*` (running statistics of the batch normalisations), `average.*` and
//! `average_buffers.*` (the moving averages of both), `first.*` and `second.*` (the optimiser's moments). Those of the
//! training-only projection are among the weights. The metadata has one key, `gsacp.run`: [`Progress`] as TOML (a JSON
//! parser may lose the last bit of a number).
//! One key, because a safetensors header keeps several in no fixed order, and equal states should be equal bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::data::files::write_atomic;
use crate::quantize::range::Affine;

const KEY: &str = "gsacp.run";

/// Where a run stands, without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: u64,
    /// The resolved configuration with the seed, as TOML.
    pub config: String,
    /// Fingerprint of images, masks and point labels, hexadecimal.
    pub data: String,
    /// Version of the program and CRC-32 of its binary.
    pub code: String,
    /// Best validation score so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best: Option<f64>,
    /// Seconds spent in training, over all interruptions.
    pub seconds: f64,
    /// Sums of the loss terms over the steps of the epoch so far, so that an epoch's means survive an interruption.
    pub sums: BTreeMap<String, f64>,
    /// Scale and zero point of every map, where maps are rounded; of one run, so not searched again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ranges: Option<Vec<Affine>>,
}

/// A run's progress and tensors.
#[derive(Debug)]
pub struct Checkpoint {
    /// The metadata.
    pub progress: Progress,
    /// All tensors by name, on the CPU.
    pub tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// Writes the file, replacing an older one only when the new one is whole on the disk.
    pub fn save(&self, path: &Path) -> Result<()> {
        let metadata = HashMap::from([(KEY.to_string(), toml::to_string(&self.progress)?)]);
        let bytes =
            safetensors::serialize(self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), Some(metadata))?;
        write_atomic(path, &bytes)
    }

    /// Reads a file that [`save`](Self::save) wrote.
    pub fn load(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let bytes = std::fs::read(path)?;
            let (_, header) = SafeTensors::read_metadata(&bytes)?;
            let text = header.metadata().as_ref().and_then(|map| map.get(KEY));
            let text = text.with_context(|| format!("it has no {KEY}: is it a model and not a checkpoint?"))?;
            let progress = toml::from_str(text).with_context(|| format!("its {KEY} cannot be read"))?;
            Ok(Self { progress, tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)? })
        };
        read().with_context(|| format!("{} is no checkpoint of this program", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let progress = Progress {
            step: 12,
            config: "seed = 1\n".into(),
            data: "00ff".into(),
            code: "0.1.0".into(),
            ranges: Some(vec![Affine { scale: 0.1, zero_point: -128 }]),
            best: Some(0.1 + 0.2),
            seconds: 1.5,
            sums: BTreeMap::from([("point".into(), 1_565.299_337_466_475_3)]),
        };
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("weights.a".to_string(), tensor(&[1.0, f32::MIN_POSITIVE])),
            ("first.a".to_string(), tensor(&[0.1, -0.0])),
        ]);
        Checkpoint { progress, tensors }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        sample().save(&a).unwrap();
        let loaded = Checkpoint::load(&a).unwrap();
        assert_eq!(loaded.progress, sample().progress);
        loaded.save(&b).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn a_cut_file_and_a_model_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        sample().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(error.contains("last.safetensors is no checkpoint"), "{error}");
        }
        candle_core::safetensors::save(&sample().tensors, &path).unwrap();
        assert!(format!("{:#}", Checkpoint::load(&path).unwrap_err()).contains("gsacp.run"));
    }
}
