//! `gsacp mine`: the clutter that a model takes for targets, the targets that it misses and the large ones, for training on.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::train::DataArgs;
use crate::data::dataset::Dataset;
use crate::data::points;
use crate::data::train_set::{Reading, TrainSet};
use crate::evaluate::{self, Detector, Engine, clutter};
use crate::supervision::prior::{PriorConfig, draw_set};

/// Finds where a model fires away from every point, with --missed the points where it does not fire, and with --large
/// those of large targets; writes the places for `gsacp train --clutter`.
///
/// Masks are not looked at, but to make the points where no points file is given. Train on with data.clutter_share
/// above 0: a share of the crops is then placed around such a place, and the hardest background and the dimmest targets
/// are met as often as they need to be instead of once in a while.
#[derive(Args)]
pub struct Mine {
    /// The model: a float or an int8 safetensors file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Logit above which the model fires: below 0 to meet the clutter that is nearly taken for a target too.
    #[arg(long, default_value_t = -1.0, allow_negative_numbers = true)]
    logit: f32,
    /// Pixels around a detection's box in which no point may lie.
    #[arg(long, value_name = "PX", default_value_t = 8)]
    away: u32,
    /// Look for missed points too: those with no logit above this within 2 pixels.
    #[arg(long, value_name = "LOGIT", allow_negative_numbers = true)]
    missed: Option<f32>,
    /// Look for large targets too, which few images have: points whose prior, as drawn by default, covers this many pixels.
    #[arg(long, value_name = "PX")]
    large: Option<usize>,
    /// The file to write, in the form of a points file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Mine {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let source = self.data.source();
        let detector = Detector::load(&self.model, Engine::of_file(&self.model)?)?;
        let reading = Reading { points: source.points.clone(), masks: false, resize_mask: false };
        let mut set = TrainSet::read(&Dataset::open(&source.dir, &source.list)?, &reading)?;
        if self.large.is_some() {
            draw_set(&mut set, &PriorConfig::default())?;
        }
        let search = clutter::Search {
            clutter: evaluate::to_steps(self.logit),
            away: self.away,
            missed: self.missed.map(evaluate::to_steps),
            large: self.large,
        };
        let found = clutter::mine(&detector, &set, &search)?;
        points::write(&self.out, &found)?;
        let places: usize = found.values().map(Vec::len).sum();
        println!("{places} places in {} of {} images: {}", found.len(), set.items.len(), self.out.display());
        Ok(())
    }
}
