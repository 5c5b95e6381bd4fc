//! `gsacp soup`: averages late checkpoints into one model.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::Args;
use serde_json::json;

use super::train::CropArgs;
use crate::data::dataset::Dataset;
use crate::model::{Msda, StateDict};
use crate::soup::choice::{Choice, Mode, choose};
use crate::soup::{Members, late_checkpoints, statistics};
use crate::train::setup::DataSource;
use crate::train::validate::{Validation, Validator};

/// Averages the weights of late checkpoints, all alike or chosen on a validation list.
///
/// Give the run folder of a training with checkpoint.keep_late, or the checkpoints themselves. Batch norm statistics are
/// measured anew on training crops, as the run of the first checkpoint draws them, unless that run had model.frozen_norms.
#[derive(Args, Debug)]
pub struct SoupArgs {
    /// Run folders, or checkpoints (epoch-0042.safetensors).
    #[arg(required = true, value_name = "RUN or FILE")]
    from: Vec<PathBuf>,
    /// How the checkpoints are weighed.
    #[arg(long, value_enum)]
    mode: Mode,
    #[command(flatten)]
    data: CropArgs,
    /// List of validation images, none of them a training image: the only images that choose. An equal soup needs none; with them it says what it is worth.
    #[arg(long, required_if_eq_any = [("mode", "greedy"), ("mode", "sweep")])]
    val_list: Option<PathBuf>,
    /// Use only this many validation images, evenly spaced in the list.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: usize,
    /// Most checkpoints of a greedy soup.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    most: usize,
    /// Intervals of a sweep.
    #[arg(long, value_name = "N", default_value_t = 5)]
    steps: usize,
    /// Training batches that statistics are measured on.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batches: usize,
    /// Write half precision: a file of half the size.
    #[arg(long)]
    half_precision: bool,
    /// The model to write.
    #[arg(long)]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl SoupArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        ensure!(self.most >= 1, "--most 0: give at least 1");
        ensure!((1..=1000).contains(&self.steps), "--steps {}: give 1 to 1000", self.steps);
        ensure!((1..=10_000).contains(&self.batches), "--batches {}: give 1 to 10000", self.batches);
        let mut paths = Vec::new();
        for path in &self.from {
            match path.is_dir() {
                true => paths.extend(late_checkpoints(path)?),
                false => paths.push(path.clone()),
            }
        }
        let members = Members::read(&paths)?;
        let source = self.data.source();
        let training = Dataset::open(&source.dir, &source.list)?;
        let fa_limit = members.config.evaluation.fa_limit;
        let validator = |list: &PathBuf| -> Result<Validator> {
            let validation = Dataset::open(&source.dir, list)?;
            validation.require_masks()?;
            check_held_out(&training, &validation)?;
            Validator::new(&validation, self.limit, fa_limit, &members.info, &Device::Cpu)
        };
        let validator = self.val_list.as_ref().map(validator).transpose()?;
        // Norms that training kept as they were stay so: nothing is measured for them.
        let batches = match members.config.model.frozen_norms {
            true => Vec::new(),
            false => self.batches_of(&members, &source, &training)?,
        };

        let cook = |shares: &[f64]| -> Result<(Msda, Option<Validation>)> {
            let model = members.mix(shares)?;
            if !batches.is_empty() {
                statistics::measure(&model, &batches)?;
            }
            let found = validator.as_ref().map(|v| v.evaluate(&model)).transpose()?;
            if let Some(found) = &found {
                eprintln!("{}: {found}", told(shares));
            }
            Ok((model, found))
        };
        let score = |shares: &[f64]| Ok(cook(shares)?.1.context("a choice needs --val-list")?.score());
        let Choice { shares, tried } = choose(self.mode, members.all.len(), self.most, self.steps, score)?;
        let (model, found) = cook(&shares)?;
        self.write(&members, model.state()?, &shares, batches.len(), found.as_ref())?;
        if self.json {
            let files: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let record = json!({"mode": self.mode, "files": files, "tried": tried, "shares": shares,
                "validation": found.map(|found| found.to_json())});
            println!("{}", serde_json::to_string_pretty(&record)?);
        } else {
            for (path, share) in paths.iter().zip(&shares).filter(|(_, share)| **share > 0.0) {
                println!("{share:.4}  {}", path.display());
            }
            if let Some(found) = found {
                println!("{found}");
            }
            println!("{}", self.out.display());
        }
        Ok(())
    }

    /// The crops that statistics are measured on.
    fn batches_of(&self, members: &Members, source: &DataSource, training: &Dataset) -> Result<Vec<Tensor>> {
        // Crops need the points and no prior.
        let set = source.read(&members.config, training, false, false)?;
        statistics::batches(&set, &members.config, self.batches, &members.info)
    }

    /// The first checkpoint's metadata stays, with what the soup is made of and the number of batches that were measured.
    fn write(
        &self,
        members: &Members,
        state: StateDict,
        shares: &[f64],
        batches: usize,
        found: Option<&Validation>,
    ) -> Result<()> {
        let mut state = StateDict { metadata: members.all[0].state.metadata.clone(), ..state };
        if self.half_precision {
            state.in_half_precision();
        }
        let parts: Vec<_> = members
            .all
            .iter()
            .zip(shares)
            .filter(|(_, share)| **share > 0.0)
            .map(|(member, share)| {
                let file = member.path.file_name().unwrap_or_default().to_string_lossy();
                json!({"file": file, "step": member.state.metadata.get("gsacp.step"), "share": share})
            })
            .collect();
        let record = json!({"mode": self.mode, "parts": parts, "batches": batches});
        state.metadata.insert("gsacp.soup".into(), record.to_string());
        match found {
            Some(found) => state.metadata.insert("gsacp.validation".into(), found.to_json().to_string()),
            None => state.metadata.remove("gsacp.validation"),
        };
        state.write(&self.out).context("cannot write the soup")
    }
}

/// A choice by images that were trained on would be none.
fn check_held_out(training: &Dataset, validation: &Dataset) -> Result<()> {
    let trained: HashSet<&str> = training.samples.iter().map(|sample| sample.name.as_str()).collect();
    let shared: Vec<&str> =
        validation.samples.iter().map(|sample| sample.name.as_str()).filter(|name| trained.contains(name)).collect();
    ensure!(
        shared.is_empty(),
        "{} of the validation images are training images, such as {}: choose on images that were held out",
        shared.len(),
        shared[0]
    );
    Ok(())
}

fn told(shares: &[f64]) -> String {
    shares.iter().map(|share| format!("{share:.3}")).collect::<Vec<_>>().join(" ")
}
