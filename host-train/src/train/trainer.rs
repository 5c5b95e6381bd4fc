//! One optimiser step, and the state that it moves.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

use super::checkpoint::{Checkpoint, Progress};
use super::config::RunConfig;
use super::optimizer::{AdamW, norm};
use super::parameters::ParameterSet;
use super::teachers::Teachers;
use crate::data::dataset::Normalisation;
use crate::data::image::GrayImage;
use crate::data::train_set::Batch;
use crate::model::{Mode, ModelInfo, Msda, StateDict, input_tensor};
use crate::quantize::groups;
use crate::quantize::range::Affine;
use crate::supervision::Objective;
use crate::supervision::loss::{host, sigmoid};

/// The network, what trains it, and how far it is.
pub struct Trainer {
    config: RunConfig,
    info: ModelInfo,
    device: Device,
    model: Msda,
    objective: Objective,
    teachers: Teachers,
    /// Weights of the network and of the training-only projection.
    weights: ParameterSet,
    /// Running statistics of the batch normalisations.
    buffers: ParameterSet,
    adam: AdamW,
    average: Vec<f32>,
    average_buffers: Vec<f32>,
    total: u64,
    /// How far the run is.
    pub progress: Progress,
}

/// What one step did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The loss and its terms, and the drift signals, by name; the first is the loss.
    pub terms: Vec<(&'static str, f64)>,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Seconds of its parts.
    pub times: StepTimes,
}

/// Seconds of a step's parts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Waiting for the loader.
    pub loader: f64,
    /// The network's forward pass.
    pub forward: f64,
    /// The loss.
    pub loss: f64,
    /// The backward pass of both.
    pub backward: f64,
    /// Gradient norm, AdamW, weight average.
    pub optimizer: f64,
}

impl StepTimes {
    /// The parts by name, in order.
    pub fn parts(&self) -> [(&'static str, f64); 5] {
        [
            ("loader", self.loader),
            ("forward", self.forward),
            ("loss", self.loss),
            ("backward", self.backward),
            ("optimizer", self.optimizer),
        ]
    }
}

impl Trainer {
    /// A fresh run of `total` steps on data with this fingerprint.
    pub fn new(
        config: RunConfig,
        normalisation: Normalisation,
        total: u64,
        data: String,
        code: String,
        device: &Device,
    ) -> Result<Self> {
        let widths = config.model.widths.channels();
        let info = ModelInfo {
            widths,
            input_channels: config.model.input_channels,
            mean: normalisation.mean,
            std: normalisation.std,
        };
        let graph = info.graph()?;
        let model = Msda::new(&graph, config.seed, device)?;
        let objective = Objective::new(&config.supervision, widths, config.seed, device)?;
        let learning = config.model.learning.names(&graph);
        let weights = ParameterSet::new(model.vars().iter().chain(objective.vars()))?
            .learning(|name| learning.contains(name) || !model.vars().contains_key(name));
        let buffers = ParameterSet::new(model.buffers())?;
        let progress = Progress {
            step: 0,
            config: config.to_toml()?,
            data,
            code,
            ranges: None,
            best: None,
            seconds: 0.0,
            sums: BTreeMap::new(),
        };
        let adam = AdamW::new(config.optimizer, weights.len());
        let (average, average_buffers) = (weights.values()?, buffers.values()?);
        let device = device.clone();
        Ok(Self {
            config,
            info,
            device,
            model,
            objective,
            teachers: Teachers::default(),
            weights,
            buffers,
            adam,
            average,
            average_buffers,
            total,
            progress,
        })
    }

    /// Starts from the weights of a trained model instead of random ones.
    pub fn initialise(&mut self, state: &StateDict) -> Result<()> {
        self.model.load(state)?;
        self.average = self.weights.values()?;
        self.average_buffers = self.buffers.values()?;
        Ok(())
    }

    /// From now on learns from these networks, where the method is `distill`. An error if they see other inputs.
    pub fn learn_from(&mut self, teachers: Teachers) -> Result<()> {
        teachers.check(&self.info)?;
        self.teachers = teachers;
        Ok(())
    }

    /// From now on trains with every map rounded to these int8 steps and with the batch norms as they will be folded.
    /// An error if the pairs do not fit the network.
    pub fn round_maps(&mut self, pairs: Vec<Affine>) -> Result<()> {
        groups::check(&pairs, self.model.graph())?;
        self.model.round_maps(&pairs);
        self.progress.ranges = Some(pairs);
        Ok(())
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Values that are trained, the projection's among them.
    pub fn weight_count(&self) -> usize {
        self.weights.len()
    }

    /// The run's configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// What the model file will say of itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The network with its present weights.
    pub fn model(&self) -> &Msda {
        &self.model
    }

    /// Where the run is, from 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.progress.step as f64 / self.total as f64
    }

    /// Takes one step on `batch`. A loss term or a gradient that is not finite is an error that names it, the step and
    /// the images; the weights are then as they were.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport> {
        let step = self.progress.step;
        let mut times = StepTimes::default();
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();

        let images: Vec<&GrayImage> = batch.images.iter().collect();
        let input = input_tensor(&images, &self.info, &self.device)?;
        // Before the network's own pass: the averaged weights stand in the variables meanwhile.
        let teacher = match self.objective.asks_teacher(step, self.total) {
            true => Some(self.with_average(|model| probabilities(model, &input))?),
            false if self.teachers.is_empty() => None,
            false => Some(self.teachers.logits(&input, self.config.seed, step)?),
        };
        let frozen = self.config.model.frozen_norms || self.progress.ranges.is_some();
        let mode = if frozen { Mode::Eval } else { Mode::Train };
        let outputs = self.model.forward(&input, mode)?;
        times.forward = lap();
        let value = self.objective.evaluate(&outputs, batch, teacher.as_deref(), step, self.total)?;
        let terms = value.terms()?;
        times.loss = lap();
        for (name, term) in &terms {
            ensure!(term.is_finite(), "{}", not_finite(&format!("loss term {name} is {term}"), step, batch));
        }
        let store = value.loss.backward()?;
        let gradients = self.weights.gradients(&store)?;
        times.backward = lap();
        let gradient_norm = norm(&gradients);
        if !gradient_norm.is_finite() {
            let at = gradients.iter().position(|g| !g.is_finite()).map_or("their sum", |at| self.weights.name_at(at));
            bail!("{}", not_finite(&format!("the gradient of {at} is not finite (norm {gradient_norm})"), step, batch));
        }
        let lr = self.config.schedule.lr_at(step, self.total);
        let mut values = self.weights.values()?;
        self.adam.update(&self.weights, &mut values, &gradients, gradient_norm, lr)?;
        self.weights.store(&values)?;
        let buffers = self.buffers.values()?;
        self.config.ema.update(step, &mut self.average, &values);
        self.config.ema.update(step, &mut self.average_buffers, &buffers);
        self.progress.step += 1;
        times.optimizer = lap();
        Ok(StepReport { terms, gradient_norm, lr, times })
    }

    /// Runs `work` with the averaged weights in the network, then puts the present ones back.
    pub fn with_average<T>(&mut self, work: impl FnOnce(&Msda) -> Result<T>) -> Result<T> {
        let (weights, buffers) = (self.weights.values()?, self.buffers.values()?);
        self.weights.store(&self.average)?;
        self.buffers.store(&self.average_buffers)?;
        let result = work(&self.model);
        self.weights.store(&weights)?;
        self.buffers.store(&buffers)?;
        result
    }

    /// The averaged network by the reference's names, without the projection.
    pub fn averaged_state(&self) -> Result<StateDict> {
        let named =
            self.weights.named("", &self.average)?.into_iter().chain(self.buffers.named("", &self.average_buffers)?);
        let own = |name: &String| self.model.vars().contains_key(name) || self.model.buffers().contains_key(name);
        let mut state = StateDict { tensors: named.filter(|(name, _)| own(name)).collect(), ..Default::default() };
        self.info.write_to(&mut state.metadata);
        if let Some(pairs) = &self.progress.ranges {
            groups::write_to(pairs, &mut state.metadata);
        }
        Ok(state)
    }

    /// The whole state.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut tensors = HashMap::new();
        for (prefix, set, flat) in [
            ("weights.", &self.weights, &self.weights.values()?),
            ("buffers.", &self.buffers, &self.buffers.values()?),
            ("average.", &self.weights, &self.average),
            ("average_buffers.", &self.buffers, &self.average_buffers),
            ("first.", &self.weights, &self.adam.first),
            ("second.", &self.weights, &self.adam.second),
        ] {
            tensors.extend(set.named(prefix, flat)?);
        }
        Ok(Checkpoint { progress: self.progress.clone(), tensors })
    }

    /// Continues from a checkpoint of the same configuration and data; a difference is an error that names it.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let Checkpoint { progress, tensors } = checkpoint;
        let theirs = RunConfig::parse(&progress.config).context("the checkpoint's configuration")?;
        let changed = theirs.differences(&self.config)?;
        ensure!(
            changed.is_empty(),
            "the configuration has changed since the checkpoint: {}; put the old values back, or start a new run folder",
            changed.join(", ")
        );
        ensure!(
            progress.data == self.progress.data,
            "the data has changed since the checkpoint (fingerprint {} was {}): use the same list, images and points, or start a new run folder",
            self.progress.data,
            progress.data
        );
        self.weights.store(&self.weights.collect("weights.", &tensors)?)?;
        self.buffers.store(&self.buffers.collect("buffers.", &tensors)?)?;
        self.average = self.weights.collect("average.", &tensors)?;
        self.average_buffers = self.buffers.collect("average_buffers.", &tensors)?;
        self.adam.first = self.weights.collect("first.", &tensors)?;
        self.adam.second = self.weights.collect("second.", &tensors)?;
        self.adam.step = progress.step;
        if let Some(pairs) = progress.ranges.clone() {
            self.round_maps(pairs).context("the checkpoint's ranges")?;
        }
        self.progress = Progress { code: self.progress.code.clone(), ..progress };
        Ok(())
    }
}

/// P at every pixel of a batch, without a gradient.
fn probabilities(model: &Msda, input: &Tensor) -> Result<Vec<f32>> {
    let logits = model.forward(input, Mode::Eval)?.logits.detach();
    Ok(host(&sigmoid(&logits)?)?)
}

fn not_finite(what: &str, step: u64, batch: &Batch) -> String {
    format!(
        "{what} at step {step}, images {}; the last good checkpoint is kept. Lower schedule.lr or look at these images",
        batch.names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::Mask;
    use crate::data::patch::Patch;
    use crate::data::train_set::Seed;

    /// One 32×32 crop with a bright 3×3 target and its prior.
    fn batch() -> Batch {
        let on = |i: usize| (i % 32).abs_diff(12) <= 1 && (i / 32).abs_diff(20) <= 1;
        let pixels = (0..1024).map(|i| if on(i) { 0.9 } else { 0.2 + (i * 13 % 37) as f32 / 200.0 }).collect();
        let patch = Patch { x0: 11, y0: 19, width: 3, height: 3, values: vec![1.0; 9] };
        Batch {
            epoch: 0,
            index: 0,
            items: vec![0],
            names: vec!["frame".into()],
            windows: Vec::new(),
            images: vec![GrayImage { width: 32, height: 32, pixels }],
            masks: vec![Mask { width: 32, height: 32, pixels: (0..1024).map(|i| u8::from(on(i))).collect() }],
            seeds: vec![vec![Seed { x: 12, y: 20, patch }]],
            cut_off: vec![vec![]],
        }
    }

    fn trainer(overrides: &[&str]) -> Trainer {
        trainer_on(&Device::Cpu, overrides)
    }

    fn trainer_on(device: &Device, overrides: &[&str]) -> Trainer {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = RunConfig::load(None, &overrides).unwrap();
        let normalisation = Normalisation { mean: 0.3, std: 0.1 };
        Trainer::new(config, normalisation, 30, "data".into(), "test".into(), device).unwrap()
    }

    #[test]
    fn the_loss_reaches_every_weight_of_network_and_projection() {
        let trainer = trainer(&[]);
        let batch = batch();
        let input = input_tensor(&[&batch.images[0]], &trainer.info, &Device::Cpu).unwrap();
        let outputs = trainer.model.forward(&input, Mode::Train).unwrap();
        let store = trainer.objective.evaluate(&outputs, &batch, None, 0, 1).unwrap().loss.backward().unwrap();
        for entry in trainer.weights.entries() {
            assert!(store.get(&entry.var).is_some(), "{} has no gradient", entry.name);
        }
        assert_eq!(trainer.weight_count(), 306_263 + 16 * (4 + 8), "quarter and the projection of 16 channels");
    }

    #[test]
    #[cfg(feature = "cuda")]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_gpu_gives_the_loss_and_the_gradients_of_the_cpu() {
        let gpu = Device::new_cuda(0).unwrap();
        let batch = batch();
        for (mode, settings) in [
            (Mode::Train, vec![]),
            (Mode::Eval, vec!["model.widths=half", "supervision.gsacp.asg_gate=reliable"]),
            (Mode::Train, vec!["supervision.method=full"]),
        ] {
            let of = |device: &Device| {
                let trainer = trainer_on(device, &settings);
                let input = input_tensor(&[&batch.images[0]], &trainer.info, device).unwrap();
                let outputs = trainer.model.forward(&input, mode).unwrap();
                let value = trainer.objective.evaluate(&outputs, &batch, None, 0, 1).unwrap();
                let gradients = trainer.weights.gradients(&value.loss.backward().unwrap()).unwrap();
                (value.terms().unwrap(), gradients, trainer.buffers.values().unwrap())
            };
            let (ours, theirs) = (of(&Device::Cpu), of(&gpu));
            let apart = |a: &[f32], b: &[f32]| {
                let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
                squares.sum::<f64>().sqrt() / norm(b)
            };
            let (gradients, buffers) = (apart(&theirs.1, &ours.1), apart(&theirs.2, &ours.2));
            println!(
                "{mode:?} {settings:?}: gradients apart by {gradients:.1e}, statistics by {buffers:.1e} of their norm"
            );
            for ((name, here), (_, there)) in ours.0.iter().zip(&theirs.0) {
                println!("  {name}: CPU {here:.7}, GPU {there:.7}");
                assert!((here - there).abs() < 1e-4 * (1.0 + here.abs()), "{name}: {here} and {there}");
            }
            assert!(gradients < 1e-3 && buffers < 1e-4, "{gradients} {buffers}");
        }
    }

    #[test]
    fn a_run_that_rounds_its_maps_learns_and_its_ranges_survive() {
        let mut one = trainer(&["supervision.method=full", "schedule.lr=0.002"]);
        (0..20).for_each(|_| drop(one.step(&batch()).unwrap()));
        let pairs = vec![Affine { scale: 0.05, zero_point: 0 }; one.model.graph().nodes().len()];
        assert!(one.round_maps(pairs[1..].to_vec()).is_err());
        one.round_maps(pairs.clone()).unwrap();
        let statistics = one.buffers.values().unwrap();
        let losses: Vec<f64> = (0..20).map(|_| one.step(&batch()).unwrap().terms[0].1).collect();
        assert!(losses[19] < losses[0], "{losses:?}");
        assert_eq!(one.buffers.values().unwrap(), statistics, "batch norms keep what will be folded");

        let metadata = one.averaged_state().unwrap().metadata;
        assert_eq!(groups::read_from(&metadata, one.model.graph()).unwrap(), Some(pairs));
        let mut two = trainer(&["supervision.method=full", "schedule.lr=0.002"]);
        two.progress.data = one.progress.data.clone();
        two.restore(one.checkpoint().unwrap()).unwrap();
        assert_eq!(two.step(&batch()).unwrap().terms, one.step(&batch()).unwrap().terms);
    }

    #[test]
    fn frozen_norms_keep_their_statistics_and_learn_all_the_same() {
        for frozen in [false, true] {
            let mut trainer = trainer(&[&format!("model.frozen_norms={frozen}")]);
            let state = |t: &Trainer| (t.buffers.values().unwrap(), t.weights.values().unwrap());
            let before = state(&trainer);
            trainer.step(&batch()).unwrap();
            let after = state(&trainer);
            assert_eq!(before.0 == after.0, frozen);
            assert_ne!(before.1, after.1);
        }
    }

    #[test]
    fn where_gates_learn_the_rest_of_the_network_stays_and_the_projection_learns() {
        let mut trainer = trainer(&["model.learning=gates", "model.frozen_norms=true", "optimizer.weight_decay=1.0"]);
        let before = trainer.weights.values().unwrap();
        (0..2).for_each(|_| drop(trainer.step(&batch()).unwrap()));
        let after = trainer.weights.values().unwrap();
        for entry in trainer.weights.entries() {
            let moved = before[entry.range.clone()] != after[entry.range.clone()];
            let own = trainer.model.vars().contains_key(&entry.name);
            // A bias may have no gradient to speak of, a kernel decays in any case.
            let learns = !own || entry.name.contains("_reduce.conv.");
            assert!(if learns && entry.decays { moved } else { learns || !moved }, "{}", entry.name);
        }
        let gates = trainer.weights.entries().iter().filter(|entry| entry.learns && entry.name.contains("_reduce."));
        assert_eq!(
            gates.map(|entry| entry.range.len()).sum::<usize>(),
            10 * 4 * (2 * 49 + 1),
            "ten gates of four bands"
        );
    }

    #[test]
    fn the_teacher_takes_part_from_its_share_of_the_run_and_leaves_the_weights_alone() {
        let (mut with, mut without) = (trainer(&["supervision.gsacp.ltd_beta=0.5"]), trainer(&[]));
        // ltd_from is ½ of 30 steps.
        for step in 0..16 {
            let (a, b) = (with.step(&batch()).unwrap().terms, without.step(&batch()).unwrap().terms);
            assert_eq!(a == b, step < 15, "step {step}");
        }
        let state = with.weights.values().unwrap();
        let input = input_tensor(&[&batch().images[0]], &with.info, &Device::Cpu).unwrap();
        let p = with.with_average(|model| probabilities(model, &input)).unwrap();
        assert!(p.len() == 1024 && p.iter().all(|p| (0.0..=1.0).contains(p)));
        assert_eq!(with.weights.values().unwrap(), state);
    }

    #[test]
    fn a_network_comes_to_give_the_logits_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = trainer(&["seed=9", "schedule.lr=0.005"]);
        (0..30).for_each(|_| drop(other.step(&batch()).unwrap()));
        let path = folder.path().join("other.safetensors");
        other.averaged_state().unwrap().write(&path).unwrap();
        let mut own = trainer(&["supervision.method=distill", "schedule.lr=0.005"]);
        let error = own.step(&batch()).unwrap_err().to_string();
        assert!(error.contains("no network to learn from"), "{error}");
        own.learn_from(Teachers::load(&[path], &Device::Cpu).unwrap()).unwrap();
        assert_eq!(own.weight_count(), 306_263, "no projection");
        let losses: Vec<f64> = (0..30).map(|_| own.step(&batch()).unwrap().terms[0].1).collect();
        assert!(losses[29] < 0.3 * losses[0], "{losses:?}");
    }

    #[test]
    fn every_switch_trains() {
        for switch in [
            "asg_gate=reliable",
            "asg_gate=free",
            "features=shallow",
            "detach_features=true",
            "lambda_proto=0.5",
            "ltd_region=everywhere",
        ] {
            let mut trainer = trainer(&[
                &format!("supervision.gsacp.{switch}"),
                "supervision.gsacp.ltd_beta=0.5",
                "schedule.lr=0.005",
            ]);
            let losses: Vec<f64> = (0..20).map(|_| trainer.step(&batch()).unwrap().terms[0].1).collect();
            assert!(losses[14] < 0.7 * losses[0], "{switch}: {losses:?}");
        }
    }

    #[test]
    fn steps_on_one_crop_learn_it() {
        for method in ["gsacp", "full"] {
            let mut trainer = trainer(&[&format!("supervision.method={method}"), "schedule.lr=0.005"]);
            let losses: Vec<f64> = (0..30).map(|_| trainer.step(&batch()).unwrap().terms[0].1).collect();
            assert!(losses[29] < 0.5 * losses[0], "{method}: {losses:?}");
        }
    }
}
