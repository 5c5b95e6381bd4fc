//! `gsacp calibrate`: the thresholds at which requested false-alarm rates are met, stored in the model.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use gsacp_core::image::MAX_POINTS;
use serde::Serialize;

use crate::data::dataset::Dataset;
use crate::evaluate::calibrate::CalibrationSet;
use crate::evaluate::detector::{can_store_points, store_points};
use crate::evaluate::{self, Detector, Engine};
use crate::quantize::OperatingPoint;

/// Options of `calibrate`.
#[derive(Args)]
pub struct Calibrate {
    /// The model to calibrate: a float or an int8 safetensors file. Its earlier operating points are replaced.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The folder that holds images/, masks/ and img_idx/.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A list of names: a file, or the name of one in img_idx/. Not the images that results are stated on.
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
    /// Requested false-alarm rates, fractions of the pixels; the first is the one that `detect` uses by default.
    #[arg(long, value_name = "F", num_args = 1.., required = true)]
    fa: Vec<f32>,
    /// What runs the network; int8 for an int8 model, candle for a float one, unless given.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Resize a mask whose size is not its image's (nearest neighbour) where that is an error otherwise.
    #[arg(long)]
    resize_mask: bool,
    /// Use only this many images, evenly spaced in the list.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: usize,
    /// Print the operating points as JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record {
    model: String,
    engine: Engine,
    list: String,
    images: usize,
    operating_points: Vec<OperatingPoint>,
}

impl Calibrate {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        ensure!(self.fa.len() <= MAX_POINTS, "a model holds at most {MAX_POINTS} operating points");
        let dataset = Dataset::open(&self.data, &self.list)?;
        dataset.require_masks()?;
        can_store_points(&self.model)?;
        let engine = self.engine.map_or_else(|| Engine::of_file(&self.model), Ok)?;
        let detector = Detector::load(&self.model, engine)?;
        let samples = evaluate::thin(&dataset.samples, self.limit);
        let mut set = CalibrationSet::new(&samples, self.resize_mask, |image| detector.logits(image))?;
        let operating_points: Vec<OperatingPoint> =
            set.operating_points(&self.fa)?.into_iter().map(OperatingPoint::from).collect();
        store_points(&self.model, &operating_points)?;
        if self.json {
            let record = Record {
                model: self.model.display().to_string(),
                engine,
                list: dataset.list.display().to_string(),
                images: samples.len(),
                operating_points,
            };
            println!("{}", serde_json::to_string_pretty(&record)?);
            return Ok(());
        }
        println!("{} on {} images of {}", self.model.display(), samples.len(), dataset.list.display());
        println!("{:>12} {:>9} {:>7} {:>10}", "requested Fa", "logit >", "Pd", "Fa");
        for p in operating_points {
            let pd = p.pd.map_or("–".into(), |pd| format!("{pd:.4}"));
            println!("{:>12.2e} {:>9.3} {pd:>7} {:>10.2e}", p.requested_fa, p.threshold, p.fa);
        }
        Ok(())
    }
}
