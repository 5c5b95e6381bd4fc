//! Late-stage flatness (METHOD §2): one model from the weights of several late checkpoints of a run.
//!
//! ```text
//! θ = Σ_j w_j θ_j,  Σ_j w_j = 1
//! ```
//!
//! in f64. Batch norm statistics do not average so: those of θ are measured anew on training crops ([`statistics`]), unless
//! the training kept them as they were (`model.frozen_norms`). Which w, [`choice`] says, by the score of a validation list alone.

pub mod choice;
pub mod statistics;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use gsacp_core::graph::Graph;

use crate::model::{ModelInfo, Msda, StateDict};
use crate::quantize::groups;
use crate::train::config::RunConfig;

/// One checkpoint.
#[derive(Debug)]
pub struct Member {
    /// Its file.
    pub path: PathBuf,
    /// Its tensors.
    pub state: StateDict,
}

/// Checkpoints of one graph.
#[derive(Debug)]
pub struct Members {
    /// At least one.
    pub all: Vec<Member>,
    /// What every one says of itself.
    pub info: ModelInfo,
    /// The graph of all.
    pub graph: Graph,
    /// The configuration that the first was trained with.
    pub config: RunConfig,
}

impl Members {
    /// Reads the files. One of another graph or training domain than the first's is an error that names both.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let read = |path: &PathBuf| -> Result<(Member, ModelInfo)> {
            let state = StateDict::read(path)?;
            let of = || format!("{} cannot be averaged", path.display());
            let info = ModelInfo::read_from(&state.metadata).with_context(of)?;
            let graph = info.graph().with_context(of)?;
            state.check(&graph).with_context(of)?;
            if groups::read_from(&state.metadata, &graph).with_context(of)?.is_some() {
                bail!(
                    "{} cannot be averaged: it was trained with quantisation.aware; make the soup before that stage",
                    path.display()
                );
            }
            Ok((Member { path: path.clone(), state }, info))
        };
        let Some((first, rest)) = paths.split_first() else { bail!("a soup needs at least one checkpoint") };
        let (first, info) = read(first)?;
        let text = first.state.metadata.get("gsacp.config");
        let text = text.with_context(|| {
            format!("{} has no gsacp.config: give checkpoints that `gsacp train` wrote", first.path.display())
        })?;
        let config = RunConfig::parse(text).with_context(|| format!("gsacp.config of {}", first.path.display()))?;
        let (graph, mut all) = (info.graph()?, vec![first]);
        for path in rest {
            ensure!(all.iter().all(|member| member.path != *path), "{} is given twice", path.display());
            let (member, other) = read(path)?;
            ensure!(
                other.widths == info.widths && other.sees_like(&info),
                "{} and {} cannot be averaged: {} and {}",
                all[0].path.display(),
                path.display(),
                told(&info),
                told(&other)
            );
            all.push(member);
        }
        Ok(Self { all, info, graph, config })
    }

    /// The network of shares `shares`, one for each member; its statistics are averaged like its weights.
    pub fn mix(&self, shares: &[f64]) -> Result<Msda> {
        ensure!(shares.len() == self.all.len(), "{} shares for {} checkpoints", shares.len(), self.all.len());
        let model = Msda::from_state(&self.graph, &self.all[0].state, &Device::Cpu)?;
        for (name, var) in model.vars().iter().chain(model.buffers()) {
            let mut sum = vec![0f64; var.elem_count()];
            for (member, &share) in self.all.iter().zip(shares).filter(|(_, share)| **share != 0.0) {
                let values = member.state.tensors[name].flatten_all()?.to_vec1::<f32>()?;
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * f64::from(value));
            }
            let values: Vec<f32> = sum.into_iter().map(|sum| sum as f32).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(model)
    }
}

fn told(info: &ModelInfo) -> String {
    let ModelInfo { widths, input_channels, mean, std } = info;
    format!("widths {widths:?}, {input_channels} input channels, normalisation {mean} ± {std}")
}

/// The late checkpoints of a run folder (`epoch-*.safetensors`), oldest first.
pub fn late_checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("epoch-") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    ensure!(
        !found.is_empty(),
        "{} holds no epoch-*.safetensors: train with checkpoint.keep_late above 0",
        folder.display()
    );
    found.sort();
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests {
    use gsacp_core::graph::{HALF, QUARTER};

    use super::*;

    /// A checkpoint of the network with these widths and seed.
    pub fn checkpoint(folder: &Path, name: &str, widths: [u16; 5], seed: u64) -> PathBuf {
        let info = ModelInfo { widths, input_channels: 1, mean: 0.4, std: 0.2 };
        let mut state = Msda::new(&info.graph().unwrap(), seed, &Device::Cpu).unwrap().state().unwrap();
        info.write_to(&mut state.metadata);
        state.metadata.insert("gsacp.config".into(), RunConfig::default().to_toml().unwrap());
        let path = folder.join(name);
        state.write(&path).unwrap();
        path
    }

    #[test]
    fn a_mixture_is_the_weighted_sum_of_every_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [1, 2, 3].map(|seed| checkpoint(folder.path(), &format!("{seed}"), QUARTER, seed));
        let members = Members::read(&paths).unwrap();
        let mixed = members.mix(&[0.25, 0.0, 0.75]).unwrap();
        for name in ["layer.0.weight", "stage.layer1.0.weight"] {
            let of = |state: &StateDict| state.tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (a, b) = (of(&members.all[0].state), of(&members.all[2].state));
            let values = mixed.vars()[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for ((value, a), b) in values.iter().zip(a).zip(b) {
                assert!((value - (0.25 * a + 0.75 * b)).abs() < 1e-6, "{name}");
            }
        }
        assert!(members.mix(&[1.0]).is_err());
    }

    #[test]
    fn checkpoints_that_do_not_belong_together_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (checkpoint(folder.path(), "a", QUARTER, 1), checkpoint(folder.path(), "b", HALF, 1));
        let refusal = |paths: &[PathBuf]| format!("{:#}", Members::read(paths).unwrap_err());
        let error = refusal(&[a.clone(), b]);
        assert!(error.contains("/a and ") && error.contains("/b cannot") && error.contains("[8, 16, 32"), "{error}");
        assert!(refusal(&[a.clone(), a.clone()]).contains("given twice"));
        // Of runs at other scales, whose mean is nearly the same; and of other images.
        for (mean, fits) in [(0.4001, true), (0.41, false)] {
            let (mut state, path) = (StateDict::read(&a).unwrap(), folder.path().join(format!("{mean}")));
            ModelInfo { widths: QUARTER, input_channels: 1, mean, std: 0.2 }.write_to(&mut state.metadata);
            state.write(&path).unwrap();
            assert_eq!(Members::read(&[a.clone(), path]).is_ok(), fits, "{mean}");
        }
        assert!(refusal(&[]).contains("at least one"));
        let mut bare = StateDict::read(&a).unwrap();
        bare.metadata.remove("gsacp.config");
        bare.write(&folder.path().join("c")).unwrap();
        assert!(refusal(&[folder.path().join("c")]).contains("gsacp.config"));
    }

    #[test]
    fn a_run_folder_gives_its_late_checkpoints_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert!(late_checkpoints(folder.path()).unwrap_err().to_string().contains("checkpoint.keep_late"));
        for name in ["epoch-0010.safetensors", "epoch-0009.safetensors", "best.safetensors", "log.jsonl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = late_checkpoints(folder.path()).unwrap();
        assert_eq!(found, ["epoch-0009.safetensors", "epoch-0010.safetensors"].map(|name| folder.path().join(name)));
    }
}
