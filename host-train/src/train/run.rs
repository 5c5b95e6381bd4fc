//! A run from its folder: epochs, log, checkpoints, validation, interruption.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::interrupt;
use super::log::Log;
use super::progress::{Display, clock};
use super::trainer::{StepReport, StepTimes, Trainer};
use super::validate::{Validation, Validator};
use crate::data::files::write_atomic;
use crate::data::loader::Loader;
use crate::data::train_set::TrainSet;

/// The files of a run folder.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder, which [`run`] makes. A folder that holds a run is refused unless that run is to be resumed.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        let folder = Self(path.to_path_buf());
        let (holds_run, shown) = (folder.last().is_file(), path.display());
        ensure!(!resume || holds_run, "{shown} holds no last.safetensors to resume from: leave --resume out");
        ensure!(
            resume || !holds_run,
            "{shown} holds a run already: add --resume to continue it, or give another --out"
        );
        Ok(folder)
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The newest checkpoint.
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The averaged weights with the best validation score, a model file.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// The averaged weights after `epoch` epochs, a model file.
    pub fn late(&self, epoch: u64) -> PathBuf {
        self.0.join(format!("epoch-{epoch:04}.safetensors"))
    }

    /// The averaged weights at the end, a model file.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// One JSON object per epoch.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are taken and the model is written.
    Finished,
    /// The time given was up: the model so far is written, and the run can be resumed.
    TimeUp,
    /// Ctrl-C: the checkpoint is written.
    Interrupted,
}

/// Trains until the end, the time limit or Ctrl-C. `threads` loader threads; their number does not change a bit.
pub fn run(
    trainer: &mut Trainer,
    set: Arc<TrainSet>,
    threads: usize,
    validator: Option<&Validator>,
    folder: &RunFolder,
    limit: Option<Duration>,
) -> Result<Ending> {
    interrupt::install();
    std::fs::create_dir_all(&folder.0).with_context(|| format!("cannot make the run folder {}", folder.0.display()))?;
    write_atomic(&folder.config(), trainer.config().to_toml()?.as_bytes())?;
    let (total, batch) = (trainer.total(), trainer.config().schedule.batch);
    let per_epoch = set.batches_per_epoch(batch) as u64;
    let epochs = total.div_ceil(per_epoch);
    let plan = trainer.config().plan();
    let (epoch, index) = (trainer.progress.step / per_epoch, (trainer.progress.step % per_epoch) as usize);
    let mut batches = Loader::start_at(set, plan, epoch, index, epochs, threads)?;
    // The records of a finished run stay, also where its last epoch is not a whole one.
    let mut log = Log::open(&folder.log(), if trainer.progress.step == total { epochs } else { epoch })?;
    let mut display = Display::new(trainer.progress.step, total, batch);
    let mut means = EpochMeans { sums: std::mem::take(&mut trainer.progress.sums) };
    let save_every = Duration::from_secs_f64(60.0 * trainer.config().checkpoint.minutes);
    let (started, earlier, mut saved) = (Instant::now(), trainer.progress.seconds, Instant::now());
    let mut ending = Ending::Finished;

    while trainer.progress.step < total {
        let waiting = Instant::now();
        let batch = batches.next().context("the loader ended before the run")?;
        let waited = waiting.elapsed().as_secs_f64();
        let mut report = trainer.step(&batch)?;
        report.times.loader = waited;
        means.add(&report);
        let step = trainer.progress.step;
        let epoch = (step - 1) / per_epoch;
        trainer.progress.seconds = earlier + started.elapsed().as_secs_f64();
        display.step(step, epoch, epochs, &report.terms);

        let epoch_ends = step.is_multiple_of(per_epoch) || step == total;
        if epoch_ends {
            let record = finish_epoch(trainer, validator, folder, &means, &report, [epoch + 1, epochs], &display)?;
            log.append(&record)?;
            means.sums.clear();
            display.restart_clock();
        }
        if step < total {
            if interrupt::requested() {
                ending = Ending::Interrupted;
            } else if limit.is_some_and(|limit| started.elapsed() >= limit) {
                ending = Ending::TimeUp;
            }
        }
        if epoch_ends || ending != Ending::Finished || saved.elapsed() >= save_every {
            trainer.progress.sums = means.sums.clone();
            trainer.checkpoint()?.save(&folder.last())?;
            saved = Instant::now();
        }
        if ending != Ending::Finished {
            break;
        }
    }
    display.finish();
    if ending != Ending::Interrupted {
        write_model(trainer, &folder.model(), None)?;
    }
    Ok(ending)
}

/// Validates where it is due, keeps the best and the late weights, and returns the epoch's record.
fn finish_epoch(
    trainer: &mut Trainer,
    validator: Option<&Validator>,
    folder: &RunFolder,
    means: &EpochMeans,
    last: &StepReport,
    [finished, epochs]: [u64; 2],
    display: &Display,
) -> Result<Value> {
    let every = u64::from(trainer.config().evaluation.every);
    let due = every > 0 && (finished.is_multiple_of(every) || finished == epochs);
    let validation = match validator.filter(|_| due) {
        Some(validator) => Some(trainer.with_average(|model| validator.evaluate(model))?),
        None => None,
    };
    let mut best = false;
    if let Some(validation) = &validation {
        let score = validation.score();
        best = trainer.progress.best.is_none_or(|old| score > old);
        if best {
            trainer.progress.best = Some(score);
            write_model(trainer, &folder.best(), Some(validation))?;
        }
    }
    if finished + u64::from(trainer.config().checkpoint.keep_late) > epochs {
        write_model(trainer, &folder.late(finished), validation.as_ref())?;
    }
    let speed = display.images_per_second();
    display.line(&format!(
        "epoch {finished}/{epochs} · {}{}",
        means.text(),
        validation.as_ref().map_or(String::new(), |v| format!(" · {v}{}", if best { " (best)" } else { "" }))
    ));
    Ok(json!({
        "epoch": finished - 1,
        "step": trainer.progress.step,
        "lr": last.lr,
        "terms": means.means("term."),
        "images_per_second": (speed * 100.0).round() / 100.0,
        "seconds": trainer.progress.seconds.round(),
        "step_seconds": means.times(),
        "peak_memory_mb": peak_memory_mb(),
        "margin": validation.as_ref().and_then(Validation::margin),
        "halo": validation.as_ref().and_then(Validation::halo),
        "validation": validation.as_ref().map(Validation::to_json),
    }))
}

/// Writes the averaged weights as a model, with the configuration and what was measured.
fn write_model(trainer: &Trainer, path: &Path, validation: Option<&Validation>) -> Result<()> {
    let mut state = trainer.averaged_state()?;
    if trainer.config().checkpoint.half_precision {
        state.in_half_precision();
    }
    state.metadata.insert("gsacp.config".into(), trainer.progress.config.clone());
    state.metadata.insert("gsacp.code".into(), trainer.progress.code.clone());
    state.metadata.insert("gsacp.data".into(), trainer.progress.data.clone());
    state.metadata.insert("gsacp.step".into(), trainer.progress.step.to_string());
    if let Some(validation) = validation {
        state.metadata.insert("gsacp.validation".into(), validation.to_json().to_string());
    }
    state.write(path)
}

/// Sums over the steps of an epoch, in a form that a checkpoint keeps: `term.*` and `seconds.*`, and for each the
/// `steps.*` that had it (a batch without any target has no term about targets).
struct EpochMeans {
    sums: BTreeMap<String, f64>,
}

impl EpochMeans {
    fn add(&mut self, report: &StepReport) {
        let terms = report.terms.iter().copied().chain([("gradient_norm", report.gradient_norm)]);
        let named = terms.map(|(name, value)| (format!("term.{name}"), value));
        let parts = report.times.parts().map(|(name, seconds)| (format!("seconds.{name}"), seconds));
        for (name, value) in named.chain(parts) {
            *self.sums.entry(format!("steps.{name}")).or_default() += 1.0;
            *self.sums.entry(name).or_default() += value;
        }
    }

    /// Means of the sums whose name starts with `prefix`, by the rest of the name.
    fn means(&self, prefix: &str) -> BTreeMap<&str, f64> {
        let mean = |(name, sum): (&String, &f64)| sum / self.sums[&format!("steps.{name}")];
        let all = self.sums.iter().filter(|(name, _)| name.starts_with(prefix));
        all.map(|entry| (&entry.0[prefix.len()..], mean(entry))).collect()
    }

    /// Mean seconds of the parts of a step, to a tenth of a millisecond.
    fn times(&self) -> BTreeMap<&str, f64> {
        self.means("seconds.").into_iter().map(|(name, mean)| (name, (mean * 1e4).round() / 1e4)).collect()
    }

    fn text(&self) -> String {
        self.means("term.").iter().map(|(name, mean)| format!("{name} {mean:.4}")).collect::<Vec<_>>().join(" ")
    }
}

/// The highest resident memory of this process so far, in MB; `None` where the system does not tell.
pub fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Loads the run's last checkpoint into `trainer` and says where it continues.
pub fn resume(trainer: &mut Trainer, folder: &RunFolder) -> Result<()> {
    let checkpoint = Checkpoint::load(&folder.last())?;
    if checkpoint.progress.code != trainer.progress.code {
        eprintln!(
            "note: the checkpoint is of {}, this is {}: the run continues, but not bit for bit",
            checkpoint.progress.code, trainer.progress.code
        );
    }
    trainer.restore(checkpoint).with_context(|| format!("cannot resume from {}", folder.last().display()))?;
    let so_far = clock(trainer.progress.seconds);
    eprintln!("resuming after step {} of {} ({so_far} so far)", trainer.progress.step, trainer.total());
    Ok(())
}

/// The median of every part of the steps, in seconds.
pub fn median_times(reports: &[StepTimes]) -> StepTimes {
    let median = |of: fn(&StepTimes) -> f64| {
        let mut values: Vec<f64> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    StepTimes {
        loader: median(|t| t.loader),
        forward: median(|t| t.forward),
        loss: median(|t| t.loss),
        backward: median(|t| t.backward),
        optimizer: median(|t| t.optimizer),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::data::image::{Mask, Samples, StoredImage};
    use crate::data::patch::Patch;
    use crate::data::points::Point;
    use crate::data::train_set::Item;
    use crate::train::config::RunConfig;

    /// Five noisy 24×24 images with one bright 3×3 target each.
    fn set() -> Arc<TrainSet> {
        let item = |n: usize| {
            let (cx, cy) = (5 + 3 * n, 18 - 3 * n);
            let on = |i: usize| (i % 24).abs_diff(cx) <= 1 && (i / 24).abs_diff(cy) <= 1;
            let samples = (0..576).map(|i| if on(i) { 220 } else { 60 + (i * (7 + n) % 31) as u8 }).collect();
            let values = vec![1.0; 9];
            Item {
                name: format!("frame-{n}"),
                image: StoredImage { width: 24, height: 24, samples: Samples::Eight(samples) },
                mask: Some(Mask { width: 24, height: 24, pixels: (0..576).map(|i| u8::from(on(i))).collect() }),
                points: vec![Point { x: cx as u32, y: cy as u32 }],
                patches: vec![Patch { x0: cx as i32 - 1, y0: cy as i32 - 1, width: 3, height: 3, values }],
            }
        };
        Arc::new(TrainSet::new((0..5).map(item).collect()).unwrap())
    }

    /// Six steps of two crops: three epochs of two steps.
    fn trainer(overrides: &[&str]) -> Trainer {
        let mut all = vec!["data.crop=16", "schedule.steps=6", "schedule.batch=2", "seed=5", "checkpoint.keep_late=1"];
        all.extend(overrides);
        let all: Vec<String> = all.into_iter().map(String::from).collect();
        let config = RunConfig::load(None, &all).unwrap();
        let normalisation = set().normalisation().unwrap();
        Trainer::new(config, normalisation, 6, "data".into(), "test".into(), &Device::Cpu).unwrap()
    }

    fn bytes(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let file = std::fs::read(path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
    }

    #[test]
    fn an_interrupted_run_gives_the_same_bytes_as_one_that_was_not() {
        let parent = tempfile::tempdir().unwrap();
        let straight = RunFolder::open(&parent.path().join("straight"), false).unwrap();
        let ending = run(&mut trainer(&[]), set(), 1, None, &straight, None).unwrap();
        assert_eq!(ending, Ending::Finished);

        // No time at all: stops after every single step, also in the middle of an epoch.
        let path = parent.path().join("interrupted");
        let mut endings = Vec::new();
        for start in 0..6 {
            let folder = RunFolder::open(&path, start > 0).unwrap();
            let mut trainer = trainer(&[]);
            if start > 0 {
                resume(&mut trainer, &folder).unwrap();
            }
            endings.push(run(&mut trainer, set(), 2, None, &folder, Some(Duration::ZERO)).unwrap());
        }
        assert_eq!(endings[..5], [Ending::TimeUp; 5]);
        assert_eq!(endings[5], Ending::Finished);

        let interrupted = RunFolder::open(&path, true).unwrap();
        for (a, b) in [
            (straight.last(), interrupted.last()),
            (straight.model(), interrupted.model()),
            (straight.late(3), interrupted.late(3)),
        ] {
            let (a, b) = (bytes(&a), bytes(&b));
            assert!(a.len() > 400 && a.keys().eq(b.keys()));
            assert!(a.iter().all(|(name, data)| b[name] == *data), "a tensor differs");
        }
        let log = |folder: &RunFolder| -> Vec<Value> {
            let text = std::fs::read_to_string(folder.log()).unwrap();
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["terms"].clone()).collect()
        };
        assert_eq!(log(&straight).len(), 3);
        assert_eq!(log(&straight), log(&interrupted), "an epoch's means survive an interruption");
    }

    #[test]
    fn the_averaged_weights_are_what_the_model_file_holds() {
        let mut trainer = trainer(&["ema.decay=0.5"]);
        let parent = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(&parent.path().join("run"), false).unwrap();
        run(&mut trainer, set(), 1, None, &folder, None).unwrap();
        let (state, model) = (bytes(&folder.last()), bytes(&folder.model()));
        let name = "layer.0.weight";
        assert_eq!(model[name], state[&format!("average.{name}")]);
        assert_ne!(model[name], state[&format!("weights.{name}")]);
        let statistics = "stage.layer1.1.running_mean";
        assert_eq!(model[statistics], state[&format!("average_buffers.{statistics}")]);
        assert!(crate::model::StateDict::read(&folder.model()).unwrap().infer_graph().is_ok());
    }

    #[test]
    fn changed_settings_and_changed_data_are_not_resumed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let folder = RunFolder::open(&path, false).unwrap();
        run(&mut trainer(&[]), set(), 1, None, &folder, Some(Duration::ZERO)).unwrap();
        assert!(RunFolder::open(&path, false).unwrap_err().to_string().contains("add --resume"));

        let error = format!("{:#}", resume(&mut trainer(&["optimizer.beta1=0.8"]), &folder).unwrap_err());
        assert!(error.contains("last.safetensors") && error.contains("optimizer.beta1 (0.9 → 0.8)"), "{error}");
        let mut other = trainer(&[]);
        other.progress.data = "other".into();
        let error = format!("{:#}", resume(&mut other, &folder).unwrap_err());
        assert!(error.contains("fingerprint other was data"), "{error}");

        let empty = parent.path().join("empty");
        assert!(RunFolder::open(&empty, true).unwrap_err().to_string().contains("no last.safetensors"));
        assert!(!empty.exists());
    }

    #[test]
    fn what_is_not_finite_stops_the_run_and_names_term_step_and_images() {
        let mut trainer = trainer(&[]);
        let mut batch = set().batch(&trainer.config().plan(), 0, 0);
        trainer.model().vars()["layer.2.bias"].set(&Tensor::new(&[f32::NAN], &Device::Cpu).unwrap()).unwrap();
        let error = trainer.step(&batch).unwrap_err().to_string();
        assert!(error.contains("loss term") && error.contains("step 0"), "{error}");
        assert!(batch.names.iter().all(|name| error.contains(name)), "{error}");
        assert_eq!(trainer.progress.step, 0);

        let mut trainer = self::trainer(&[]);
        batch.images[1].pixels[7] = f32::NAN;
        let error = trainer.step(&batch).unwrap_err().to_string();
        assert!(error.contains("not finite") || error.contains("NaN"), "{error}");
        assert!(error.contains(&batch.names[1]), "{error}");
    }
}
