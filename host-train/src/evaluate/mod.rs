//! Evaluation: a detector over the images of a list, scored by METHOD §3 as `gsacp_core::metrics` defines it.
//!
//! Thresholds live on the int16 grid of the logits (1/256 per step) for every engine, so that float and int8 answer the same
//! question. Images are scored in parallel and summed in the list's order: the result does not depend on threads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use gsacp_core::detect::View;
use gsacp_core::metrics::{Margin, Margins, Score, Totals, score};

use crate::data::dataset::Sample;
use crate::data::image::{Mask, StoredImage};
use crate::data::progress::in_order;

mod buffers;
pub mod calibrate;
pub mod clutter;
pub mod detector;
pub mod logits;
pub mod overlay;
pub mod paper;
pub mod report;

pub use buffers::Buffers;
pub use detector::{Detector, Engine};
pub use logits::{LogitMap, Values};
pub use report::{Best, Evaluation, Rates, RocPoint, SizeRates};

/// How to evaluate.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Logit threshold in steps of 1/256; logits above it are predictions.
    pub threshold: i16,
    /// Count images with neither truth nor prediction as 0 in nIoU, as the reference code does.
    pub reference_niou: bool,
    /// Resize a mask whose size is not its image's (nearest neighbour) where that is an error otherwise.
    pub resize_mask: bool,
    /// Write every prediction into this folder as a PNG of 0 and 255.
    pub save_masks: Option<PathBuf>,
}

/// The thresholds of the sweep, in steps: logits −8 to 8 by ¼.
pub fn sweep() -> impl Iterator<Item = i16> {
    (-32..=32).map(|quarter| quarter * 64)
}

/// A logit on the grid of thresholds: the largest step not above it, so that an int8 engine's logits compare alike.
pub fn to_steps(threshold: f32) -> i16 {
    (threshold * 256.0).floor() as i16
}

/// `limit` samples evenly spaced in the list (0: all), so that every source is among them.
pub fn thin(samples: &[Sample], limit: usize) -> Vec<Sample> {
    let count = samples.len();
    let taken = if limit == 0 { count } else { limit.min(count) };
    (0..taken).map(|i| samples[i * count / taken].clone()).collect()
}

/// The data set an image of SIRST3 comes from, told by its name.
pub fn source_of(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("Misc_") => "NUAA",
        _ if name.starts_with("XDU") => "IRSTD-1K",
        _ if name.len() == 6 && name.bytes().all(|b| b.is_ascii_digit()) => "NUDT",
        _ => "other",
    }
}

/// What one image contributes.
struct Scored {
    score: Score,
    sweep: Vec<Score>,
    margin: Margin,
}

/// Runs `logits` on every sample and scores the maps. Errors name the file.
pub fn evaluate(
    samples: &[Sample],
    options: &Options,
    logits: impl Fn(&StoredImage) -> Result<LogitMap> + Sync,
) -> Result<Evaluation> {
    if let Some(folder) = &options.save_masks {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let scored = for_each_sample(samples, "evaluating", options.resize_mask, &logits, |buffers, sample, map, mask| {
        let margin = map.margin(&mask)?;
        let (width, height) = (map.width, map.height);
        let steps = map.into_steps();
        let (truth, map) = (View::new(&mask.pixels, width, height)?, View::new(&steps, width, height)?);
        let mut at = |threshold| score(&truth, &map, threshold, &mut buffers.scratch(width, height));
        let sweep = sweep().map(&mut at).collect::<Result<_, _>>()?;
        let score = at(options.threshold)?;
        if let Some(folder) = &options.save_masks {
            logits::mask_of(&steps, width, height, options.threshold)
                .save_png(&folder.join(format!("{}.png", sample.name)))?;
        }
        Ok(Scored { score, sweep, margin })
    })?;
    Ok(summarise(samples, &scored, options))
}

/// Loads every sample with its mask, runs the detector and hands both to `finish`, in parallel, with a progress bar; the
/// results are in the samples' order.
fn for_each_sample<T: Send>(
    samples: &[Sample],
    what: &str,
    resize_mask: bool,
    logits: &(impl Fn(&StoredImage) -> Result<LogitMap> + Sync),
    finish: impl Fn(&mut Buffers, &Sample, LogitMap, Mask) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    in_order(what, samples, Buffers::default, |buffers, sample| {
        let image = StoredImage::open(&sample.image)?;
        let mask = sample.load_mask(image.width, image.height, resize_mask)?;
        logits(&image)
            .and_then(|map| finish(buffers, sample, map, mask))
            .with_context(|| format!("cannot evaluate {}", sample.image.display()))
    })
}

fn summarise(samples: &[Sample], scored: &[Scored], options: &Options) -> Evaluation {
    let (mut overall, mut margins) = (Totals::default(), Margins::default());
    let mut sources: BTreeMap<&'static str, Totals> = BTreeMap::new();
    let mut roc: Vec<(i16, Totals)> = sweep().map(|threshold| (threshold, Totals::default())).collect();
    for (sample, image) in samples.iter().zip(scored) {
        overall.add(&image.score);
        sources.entry(source_of(&sample.name)).or_default().add(&image.score);
        margins.add(&image.margin);
        for ((_, totals), score) in roc.iter_mut().zip(&image.sweep) {
            totals.add(score);
        }
    }
    let logit = |steps: i16| f32::from(steps) / 256.0;
    let with_miou = roc.iter().filter_map(|(threshold, totals)| Some((logit(*threshold), totals.miou()?)));
    let best = with_miou.reduce(|a, b| if b.1 > a.1 { b } else { a });
    Evaluation {
        threshold: logit(options.threshold),
        overall: Rates::of(&overall, options.reference_niou),
        best: best.map(|(threshold, miou)| Best { threshold, miou }),
        margin: margins.margin(),
        by_size: SizeRates::of(&overall),
        by_source: sources.iter().map(|(name, totals)| (*name, Rates::of(totals, options.reference_niou))).collect(),
        roc: roc.iter().map(|(threshold, totals)| RocPoint::of(logit(*threshold), totals)).collect(),
    }
}

#[cfg(test)]
mod tests;
