//! `gsacp eval`: a model on the images of a list, by METHOD §3.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::threshold::Threshold;
use super::words::print;
use crate::data::dataset::Dataset;
use crate::data::files::write_atomic;
use crate::evaluate::{self, Detector, Engine, Evaluation, Options, paper};

/// Options of `eval`.
#[derive(Args)]
pub struct Eval {
    /// The model: a float or an int8 safetensors file. Several give a table with a row for each.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
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
    /// Average the logits over the image and its three mirror images: fewer misses and false alarms at the same threshold, four times the
    /// work, and not what a board does.
    #[arg(long)]
    flips: bool,
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
    /// Print the rows of the method's paper below the models' own (SIRST3, its 1,079 test images).
    #[arg(long, conflicts_with_all = ["by_size", "by_source", "json"])]
    paper: bool,
    /// Print everything as JSON; false-alarm rates are fractions of the pixels there.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record {
    model: String,
    engine: Engine,
    flips: bool,
    list: String,
    #[serde(flatten)]
    evaluation: Evaluation,
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let dataset = Dataset::open(&self.data, &self.list)?;
        dataset.require_masks()?;
        let samples = evaluate::thin(&dataset.samples, self.limit);
        let single = self.model.len() == 1;
        ensure!(
            single || !(self.save_masks.is_some() || self.roc.is_some() || self.by_size || self.by_source),
            "--save-masks, --roc, --by-size and --by-source are for one model: give one --model"
        );
        let mut records = Vec::with_capacity(self.model.len());
        for model in &self.model {
            let engine = self.engine.map_or_else(|| Engine::of_file(model), Ok)?;
            let detector = Detector::load(model, engine)?.with_flips(self.flips);
            let options = Options {
                threshold: self.threshold.steps(&detector, 0)?,
                reference_niou: self.reference_niou,
                resize_mask: self.resize_mask,
                save_masks: self.save_masks.clone(),
            };
            let evaluation = evaluate::evaluate(&samples, &options, |image| detector.logits(image))?;
            let (model, list) = (model.display().to_string(), dataset.list.display().to_string());
            records.push(Record { model, engine, flips: self.flips, list, evaluation });
        }
        let first = &records[0];
        if let Some(path) = &self.roc {
            write_atomic(path, first.evaluation.roc_csv().as_bytes())?;
        }
        match (self.json, single && !self.paper) {
            (true, true) => print(&format!("{}\n", serde_json::to_string_pretty(first)?)),
            (true, false) => print(&format!("{}\n", serde_json::to_string_pretty(&records)?)),
            (false, true) => print(&format!("{}\n", first.evaluation.table(self.by_size, self.by_source))),
            (false, false) => print(&main_table(&records, self.paper)),
        }
    }
}

/// A row for each model and, where asked for, for each method of the paper.
fn main_table(records: &[Record], with_paper: bool) -> String {
    let mut text = String::from(paper::HEAD);
    for Record { model, engine, flips, evaluation: Evaluation { overall, threshold, .. }, .. } in records {
        let flips = if *flips { ", flips" } else { "" };
        let name = format!("{model} ({engine:?}, logit > {threshold}{flips})");
        let rates = [overall.miou, overall.niou, overall.pd, overall.fa.map(|fa| 1e6 * fa)];
        text += &paper::row(&name, rates);
    }
    if with_paper {
        paper::ROWS.iter().for_each(|(name, rates)| text += &paper::row(name, *rates));
    }
    text
}
