//! `gsacp train`: from images and points to `model.safetensors`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::words::quoted;
use crate::data::dataset::Dataset;
use crate::data::points::{Kind, Source};
use crate::train::config::{EvaluationConfig, RunConfig};
use crate::train::device::DeviceKind;
use crate::train::progress::clock;
use crate::train::run::{self, Ending, RunFolder};
use crate::train::setup::{DataSource, begin};
use crate::train::validate::Validator;

/// Seed of coarse points made from masks: fixed, so that every run and every list sees the same clicks.
pub const POINT_SEED: u64 = 0;

/// Trains the detector from single points.
#[derive(Args, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    data: CropArgs,
    /// List of validation images, which need masks; without one nothing is validated.
    #[arg(long)]
    val_list: Option<PathBuf>,
    /// Run folder: configuration, log, checkpoints and the model.
    #[arg(long)]
    out: PathBuf,
    /// Continue the run in the run folder from its last checkpoint.
    #[arg(long)]
    resume: bool,
    /// Start from the weights of this model.
    #[arg(long, conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Trained float models whose logits are learnt, by supervision.method="distill", in place of labels: by their mean, over
    /// the four mirror images.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    teacher: Vec<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: DeviceKind,
    /// Stop after this many minutes, keeping the model so far; --resume continues.
    #[arg(long)]
    max_minutes: Option<f64>,
}

/// What a run computes, besides its data.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// Configuration (TOML); without one, or without a key, the defaults. A resumed run uses its own by default.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Change a key of the configuration, such as schedule.epochs=20; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Which images and points are trained on.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// Data-set folder with images/, masks/ and img_idx/.
    #[arg(long)]
    data: PathBuf,
    /// List of training images: a file, or the name of one in img_idx/.
    #[arg(long, default_value = "train")]
    list: PathBuf,
    /// Points file; without one the points are made from the masks.
    #[arg(long)]
    points: Option<PathBuf>,
    /// How points are made from the masks.
    #[arg(long, value_enum, default_value = "centroid", conflicts_with = "points")]
    point_kind: Kind,
}

/// Which crops are trained on.
#[derive(Args, Debug)]
pub struct CropArgs {
    /// Images and points.
    #[command(flatten)]
    pub images: DataArgs,
    /// Clutter that `gsacp mine` found; data.clutter_share of the crops are placed around it.
    #[arg(long, value_name = "FILE")]
    clutter: Option<PathBuf>,
}

impl ConfigArgs {
    /// The configuration that was asked for, of the file `own` where none was named.
    pub fn load(&self, own: Option<&Path>) -> Result<RunConfig> {
        RunConfig::load(self.config.as_deref().or(own), &self.set)
    }
}

impl CropArgs {
    /// The source that was asked for.
    pub fn source(&self) -> DataSource {
        DataSource { clutter: self.clutter.clone(), ..self.images.source() }
    }
}

impl DataArgs {
    /// The source that was asked for.
    pub fn source(&self) -> DataSource {
        let points = match &self.points {
            Some(path) => Source::File(path.clone()),
            None => Source::Masks { kind: self.point_kind, seed: POINT_SEED },
        };
        DataSource { dir: self.data.clone(), list: self.list.clone(), points, clutter: None, teachers: Vec::new() }
    }
}

impl TrainArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let limit = minutes(self.max_minutes)?;
        let device = self.device.open()?;
        let folder = RunFolder::open(&self.out, self.resume)?;
        let own = self.resume.then(|| folder.config());
        let config = self.config.load(own.as_deref())?;
        let validation = match &self.val_list {
            Some(list) => Some(Dataset::open(&self.data.images.data, list)?),
            None => None,
        };
        let source = DataSource { teachers: self.teacher.clone(), ..self.data.source() };
        let (mut trainer, set) = begin(config, &source, &folder, self.resume, self.init.as_deref(), &device)?;
        let validator = match validation {
            Some(dataset) => {
                let EvaluationConfig { limit, fa_limit, .. } = trainer.config().evaluation;
                Some(Validator::new(&dataset, limit, fa_limit, trainer.info(), &device)?)
            }
            None => None,
        };
        eprintln!(
            "{} images, {} points; {} weights; {} steps of {} crops",
            set.items.len(),
            set.items.iter().map(|item| item.points.len()).sum::<usize>(),
            trainer.weight_count(),
            trainer.total(),
            trainer.config().schedule.batch
        );
        let ending = run::run(&mut trainer, set, self.device.loader_threads(), validator.as_ref(), &folder, limit)?;
        let time = clock(trainer.progress.seconds);
        match ending {
            Ending::Finished => eprintln!("finished after {time}: {}", folder.model().display()),
            Ending::TimeUp => {
                eprintln!(
                    "time is up after step {} of {}: {}",
                    trainer.progress.step,
                    trainer.total(),
                    folder.model().display()
                );
                eprintln!("to continue: {}", self.resume_command());
            }
            Ending::Interrupted => {
                eprintln!("saved after step {} of {}", trainer.progress.step, trainer.total());
                eprintln!("to continue: {}", self.resume_command());
            }
        }
        Ok(())
    }

    /// The command line that continues this run.
    fn resume_command(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut arguments = std::env::args();
        while let Some(word) = arguments.next() {
            match word.as_str() {
                "--resume" => {}
                "--init" => drop(arguments.next()),
                _ if word.starts_with("--init=") => {}
                _ => words.push(word),
            }
        }
        words.push("--resume".into());
        quoted(words)
    }
}

/// The time limit of `--max-minutes`.
pub fn minutes(given: Option<f64>) -> Result<Option<Duration>> {
    let Some(minutes) = given else { return Ok(None) };
    ensure!(minutes > 0.0 && minutes < 1e6, "--max-minutes {minutes}: give a positive number of minutes");
    Ok(Some(Duration::from_secs_f64(60.0 * minutes)))
}
