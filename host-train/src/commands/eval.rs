//! `gsacp eval`: a model on the images of a list, by METHOD §3.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::threshold::Threshold;
use crate::data::dataset::Dataset;
use crate::data::files::write_atomic;
use crate::evaluate::{self, Detector, Engine, Evaluation, Options};

/// Options of `eval`.
#[derive(Args)]
pub struct Eval {
    /// The model: a float or an int8 safetensors file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The folder that holds images/, masks/ and img_idx/.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A list of names: a file, or the name of one in img_idx/.
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
    /// What runs the network; int8 for an int8 model, candle for a float one, unless given.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    #[command(flatten)]
    threshold: Threshold,
    /// Write every prediction into this folder as a PNG of 0 and 255.
    #[arg(long, value_name = "DIR")]
    save_masks: Option<PathBuf>,
    /// Write the sweep over thresholds as CSV.
    #[arg(long, value_name = "FILE")]
    roc: Option<PathBuf>,
    /// Show the rates by the size of the targets.
    #[arg(long)]
    by_size: bool,
    /// Show the rates by the data set that an image comes from (told by its name).
    #[arg(long)]
    by_source: bool,
    /// Resize a mask whose size is not its image's (nearest neighbour) where that is an error otherwise.
    #[arg(long)]
    resize_mask: bool,
    /// Count images with neither targets nor predictions as 0 in nIoU, as the reference code does.
    #[arg(long)]
    reference_niou: bool,
    /// Use only this many images, evenly spaced in the list.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: usize,
    /// Print everything as JSON; false-alarm rates are fractions of the pixels there.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record<'a> {
    model: String,
    engine: Engine,
    list: String,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let dataset = Dataset::open(&self.data, &self.list)?;
        dataset.require_masks()?;
        let engine = self.engine.map_or_else(|| Engine::of_file(&self.model), Ok)?;
        let detector = Detector::load(&self.model, engine)?;
        let options = Options {
            threshold: self.threshold.steps(&detector, 0)?,
            reference_niou: self.reference_niou,
            resize_mask: self.resize_mask,
            save_masks: self.save_masks,
        };
        let samples = evaluate::thin(&dataset.samples, self.limit);
        let evaluation = evaluate::evaluate(&samples, &options, |image| detector.logits(image))?;
        if let Some(path) = &self.roc {
            write_atomic(path, evaluation.roc_csv().as_bytes())?;
        }
        if self.json {
            let record = Record {
                model: self.model.display().to_string(),
                engine,
                list: dataset.list.display().to_string(),
                evaluation: &evaluation,
            };
            println!("{}", serde_json::to_string_pretty(&record)?);
        } else {
            println!("{}", evaluation.table(self.by_size, self.by_source));
        }
        Ok(())
    }
}
