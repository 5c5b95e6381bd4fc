//! From paths and options to a trainer that is ready to step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use crc::{CRC_32_ISO_HDLC, CRC_64_XZ, Crc};

use super::config::{QuantisationConfig, RunConfig};
use super::run::{self, RunFolder};
use super::teachers::Teachers;
use super::trainer::Trainer;
use crate::data::dataset::Dataset;
use crate::data::points::{Kind, Point, Source};
use crate::data::train_set::{Reading, TrainSet};
use crate::model::StateDict;
use crate::quantize::observe::{self, Observations};
use crate::quantize::{Ranges, groups};
use crate::supervision::Method;

/// The training data of a run.
#[derive(Clone, Debug)]
pub struct DataSource {
    /// The data-set folder.
    pub dir: PathBuf,
    /// A list file, or the name of one in `img_idx/`.
    pub list: PathBuf,
    /// Where the point labels come from.
    pub points: Source,
    /// A file of clutter, from `gsacp mine`.
    pub clutter: Option<PathBuf>,
    /// Models whose logits are learnt.
    pub teachers: Vec<PathBuf>,
}

impl DataSource {
    /// What a run with `config` draws its crops from: the images of `dataset` with their points, where asked the priors around these and
    /// their masks, the clutter, all of it at every scale. Errors: coarse points where priors take them for centroids, clutter
    /// that no crop would show, crops without clutter, and what [`TrainSet`]'s own steps refuse.
    pub fn read(&self, config: &RunConfig, dataset: &Dataset, masks: bool, priors: bool) -> Result<TrainSet> {
        if let (Source::Masks { kind: Kind::Coarse, .. }, Some(key)) =
            (&self.points, config.supervision.prior.needs_centroids())
        {
            bail!("supervision.prior.{key} takes points for centroids, and coarse ones are not: leave one of them out");
        }
        let reading = Reading { points: self.points.clone(), masks, resize_mask: false };
        let mut set = TrainSet::read(dataset, &reading)?;
        if priors {
            config.supervision.draw_priors(&mut set)?;
        }
        let share = config.data.clutter_share;
        match &self.clutter {
            Some(path) => {
                ensure!(share > 0.0, "data.clutter_share is 0, so --clutter {} would not be seen", path.display());
                set.read_clutter(path)?;
            }
            None => ensure!(
                share == 0.0,
                "data.clutter_share is {share}: make clutter by `gsacp mine`, give it by --clutter"
            ),
        }
        set.at_scales(&config.data.scales)
    }
}

/// Reads the data, with the priors of its points, and builds the trainer.
pub fn prepare(config: RunConfig, source: &DataSource, device: &Device) -> Result<(Trainer, Arc<TrainSet>)> {
    let learns = config.supervision.method == Method::Distill;
    ensure!(learns || source.teachers.is_empty(), "--teacher is for supervision.method = \"distill\"");
    ensure!(
        !(learns && source.teachers.is_empty()),
        "supervision.method = \"distill\" learns from trained networks: give them by --teacher"
    );
    let teachers = Teachers::load(&source.teachers, device)?;
    let dataset = Dataset::open(&source.dir, &source.list)?;
    let set = source.read(&config, &dataset, config.supervision.needs_masks(), true)?;
    let fingerprint = fingerprint(&dataset, &set, &source.teachers)?;
    let total = config.schedule.total_steps(set.batches_per_epoch(config.schedule.batch) as u64);
    let mut trainer = Trainer::new(config, set.normalisation()?, total, fingerprint, code_version(), device)?;
    trainer.learn_from(teachers)?;
    Ok((trainer, Arc::new(set)))
}

/// A trainer at the first step of a new run, from the weights of `init` where given, or at that of the folder's last
/// checkpoint.
pub fn begin(
    config: RunConfig,
    source: &DataSource,
    folder: &RunFolder,
    resume: bool,
    init: Option<&Path>,
    device: &Device,
) -> Result<(Trainer, Arc<TrainSet>)> {
    if let (false, None, Some(reason)) = (resume, init, config.needs_model()) {
        bail!("{reason}: give it with --init");
    }
    let (mut trainer, set) = prepare(config, source, device)?;
    if resume {
        run::resume(&mut trainer, folder)?;
        return Ok((trainer, set));
    }
    if let Some(path) = init {
        initialise(&mut trainer, path)?;
    }
    if trainer.config().quantisation.aware {
        round_maps(&mut trainer, source)?;
    }
    Ok((trainer, set))
}

/// Starts `trainer` from the weights of the model file `path`.
fn initialise(trainer: &mut Trainer, path: &Path) -> Result<()> {
    let state = StateDict::read(path)?;
    trainer.initialise(&state).with_context(|| format!("cannot start from {}", path.display()))
}

/// Chooses the ranges of the maps over training images, with the present weights, and rounds to them from now on.
fn round_maps(trainer: &mut Trainer, source: &DataSource) -> Result<()> {
    let QuantisationConfig { images, seed, .. } = trainer.config().quantisation;
    let samples = observe::draw(&Dataset::open(&source.dir, &source.list)?, images, seed);
    let (model, info) = (trainer.model(), trainer.info());
    let seen = Observations::of_images(model.graph(), &model.state()?, info, &samples)?;
    let pairs = groups::assign(model.graph(), &seen, groups::input_pair(info.mean, info.std), Ranges::LeastSquares);
    trainer.round_maps(pairs)
}

/// Files, point labels, clutter and teachers, hexadecimal: equal means the same training data.
fn fingerprint(dataset: &Dataset, set: &TrainSet, teachers: &[PathBuf]) -> Result<String> {
    let crc = Crc::<u64>::new(&CRC_64_XZ);
    let mut digest = crc.digest();
    let bytes = |at: &Point| (u64::from(at.y) << 32 | u64::from(at.x)).to_le_bytes();
    for item in &set.items {
        digest.update(&(item.points.len() as u64).to_le_bytes());
        item.points.iter().for_each(|point| digest.update(&bytes(point)));
    }
    for (image, place) in &set.clutter {
        digest.update(&(*image as u64).to_le_bytes());
        digest.update(&bytes(place));
    }
    for path in teachers {
        digest.update(&std::fs::read(path).with_context(|| format!("cannot read the teacher {}", path.display()))?);
    }
    Ok(format!("{:016x}-{:016x}", dataset.fingerprint()?, digest.finalize()))
}

/// The program's version and the CRC-32 of its binary, which changes with every change of the code.
pub fn code_version() -> String {
    let binary = std::env::current_exe().and_then(std::fs::read);
    let crc = binary
        .map_or("unknown".to_string(), |bytes| format!("{:08x}", Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&bytes)));
    format!("{} (binary {crc})", env!("CARGO_PKG_VERSION"))
}
