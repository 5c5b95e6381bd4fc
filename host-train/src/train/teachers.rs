//! The networks whose logits a run learns ([`distill`](crate::supervision::distill)).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rand::RngExt;

use crate::data::random;
use crate::model::{Mode, ModelInfo, Msda, StateDict};
use crate::supervision::loss::host;

/// Trained networks of any widths; none where a run learns from labels.
#[derive(Default)]
pub struct Teachers(Vec<(PathBuf, ModelInfo, Msda)>);

impl Teachers {
    /// Of model files. An error for one that is no float model names it.
    pub fn load(paths: &[PathBuf], device: &Device) -> Result<Self> {
        let load = |path: &PathBuf| -> Result<_> {
            let state = StateDict::read(path)?;
            let info = ModelInfo::read_from(&state.metadata)?;
            let model = Msda::from_state(&info.graph()?, &state, device)?;
            Ok((path.clone(), info, model))
        };
        let named = |path: &PathBuf| load(path).with_context(|| format!("{} cannot teach", path.display()));
        Ok(Self(paths.iter().map(named).collect::<Result<_>>()?))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error that names a teacher which sees other inputs than a network of `own` kind does.
    pub fn check(&self, own: &ModelInfo) -> Result<()> {
        let input =
            |info: &ModelInfo| format!("{} channel(s) of (grey − {})/{}", info.input_channels, info.mean, info.std);
        for (path, info, _) in &self.0 {
            let (theirs, ours) = (input(info), input(own));
            ensure!(
                info.sees_like(own),
                "{} cannot teach: it sees {theirs}, and this run {ours}; teachers are trained on the same list of images",
                path.display()
            );
        }
        Ok(())
    }

    /// The mean of the teachers' logits at every pixel of `input` `[N, C, H, W]`, on the host. Each looks at one of the four
    /// mirror images, drawn afresh at every step: what is learnt over a run is the mean over all of them.
    pub fn logits(&self, input: &Tensor, seed: u64, step: u64) -> Result<Vec<f32>> {
        let mut sum = vec![0f32; input.elem_count() / input.dim(1)?];
        for (index, (_, _, model)) in self.0.iter().enumerate() {
            let mut rng = random::stream(seed, "teacher's view", step, index as u64);
            let sides: Vec<usize> = [2, 3].into_iter().filter(|_| rng.random()).collect();
            let logits = model.forward(&input.flip(&sides)?, Mode::Eval)?.logits.detach().flip(&sides)?;
            sum.iter_mut().zip(host(&logits)?).for_each(|(sum, logit)| *sum += logit);
        }
        let count = self.0.len() as f32;
        Ok(sum.into_iter().map(|sum| sum / count).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gsacp_core::graph::QUARTER;

    use super::*;
    use crate::data::image::mirrored;

    const INFO: ModelInfo = ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.3, std: 0.1 };

    /// A file of random weights.
    fn teacher(folder: &Path, seed: u64) -> PathBuf {
        let model = Msda::new(&INFO.graph().unwrap(), seed, &Device::Cpu).unwrap();
        let mut state = model.state().unwrap();
        INFO.write_to(&mut state.metadata);
        let path = folder.join(format!("{seed}.safetensors"));
        state.write(&path).unwrap();
        path
    }

    fn input() -> Vec<f32> {
        (0..16 * 32).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn tensor(pixels: Vec<f32>) -> Tensor {
        Tensor::from_vec(pixels, (1, 1, 16, 32), &Device::Cpu).unwrap()
    }

    /// A teacher's logits of the four mirror images, mirrored back.
    fn views(path: &Path) -> [Vec<f32>; 4] {
        let state = StateDict::read(path).unwrap();
        let model = Msda::from_state(&INFO.graph().unwrap(), &state, &Device::Cpu).unwrap();
        [(false, false), (true, false), (false, true), (true, true)].map(|(columns, rows)| {
            let seen = tensor(mirrored(&input(), 32, columns, rows));
            mirrored(&host(&model.forward(&seen, Mode::Eval).unwrap().logits).unwrap(), 32, columns, rows)
        })
    }

    #[test]
    fn every_mirror_image_is_looked_at_and_mirrored_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = teacher(folder.path(), 3);
        let views = views(&path);
        let teachers = Teachers::load(&[path], &Device::Cpu).unwrap();
        let seen = |step| {
            let logits = teachers.logits(&tensor(input()), 1, step).unwrap();
            views.iter().position(|view| *view == logits).expect("a mirror image")
        };
        let seen: Vec<usize> = (0..24).map(seen).collect();
        assert!((0..4).all(|view| seen.contains(&view)), "{seen:?}");
    }

    #[test]
    fn several_teachers_give_their_mean() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [3, 4].map(|seed| teacher(folder.path(), seed));
        let [first, second] = [0, 1].map(|i| views(&paths[i]));
        let teachers = Teachers::load(&paths, &Device::Cpu).unwrap();
        let logits = teachers.logits(&tensor(input()), 1, 0).unwrap();
        let is_mean = |a: &[f32], b: &[f32]| {
            logits
                .iter()
                .zip(a.iter().zip(b))
                .all(|(mean, (a, b))| (mean - (a + b) / 2.0).abs() < 1e-5 * a.abs().max(1.0))
        };
        assert!(first.iter().any(|a| second.iter().any(|b| is_mean(a, b))));
    }

    #[test]
    fn a_teacher_of_other_inputs_and_a_file_that_is_no_model_are_errors_that_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let teachers = Teachers::load(&[teacher(folder.path(), 3)], &Device::Cpu).unwrap();
        teachers.check(&INFO).unwrap();
        teachers.check(&ModelInfo { widths: gsacp_core::graph::HALF, mean: 0.30001, ..INFO }).unwrap();
        let error = teachers.check(&ModelInfo { mean: 0.4, ..INFO }).unwrap_err().to_string();
        assert!(error.contains("3.safetensors") && error.contains("0.4"), "{error}");
        let error = format!("{:#}", Teachers::load(&["absent.safetensors".into()], &Device::Cpu).err().unwrap());
        assert!(error.contains("absent.safetensors cannot teach"), "{error}");
    }
}
