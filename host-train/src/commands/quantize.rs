//! `gsacp quantize`: a float model to int8 by calibration images, with a table of where precision is lost.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::data::dataset::Dataset;
use crate::quantize::{self, Ranges, report};

/// Quantise a trained model to int8.
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The trained model (safetensors with batch norms in it).
    #[arg(long)]
    model: PathBuf,
    /// The data set's folder: images/ and img_idx/. No masks are read.
    #[arg(long)]
    data: PathBuf,
    /// List of images to calibrate with: those the model was trained on.
    #[arg(long)]
    list: PathBuf,
    /// Images drawn from the list.
    #[arg(long, default_value_t = 64)]
    images: usize,
    /// Seed of the draw.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How the maps' ranges are chosen. Try both and score both: which is better differs from network to network.
    #[arg(long, value_enum, default_value = "least-squares")]
    ranges: Ranges,
    /// Images over which the loss of every layer is measured; 0 leaves the table out.
    #[arg(long, default_value_t = 8)]
    compare: usize,
    /// Where the int8 model goes.
    #[arg(long)]
    out: PathBuf,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

impl QuantizeArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let dataset = Dataset::open(&self.data, &self.list)?;
        let source = quantize::Source::open(&self.model)?;
        let (float, model) = quantize::quantize(source, &dataset, self.images, self.seed, self.ranges)?;
        let report = match self.compare {
            0 => None,
            // Other images than those that chose the ranges, where the list has more.
            count => {
                let samples = quantize::observe::draw(&dataset, count, self.seed.wrapping_add(1));
                Some(report::compare(&model, &float, &samples)?)
            }
        };
        model.write(&self.out)?;
        match (report, self.json) {
            (Some(report), true) => println!("{}", serde_json::to_string(&report)?),
            (Some(report), false) => println!("{report}"),
            (None, _) => {}
        }
        if !self.json {
            println!("wrote {}; next: gsacp calibrate, gsacp pack", self.out.display());
        }
        Ok(())
    }
}
