//! Calibration: operating points measured on a list of images, for any engine.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use gsacp_core::detect::View;
use gsacp_core::metrics::{Totals, score};
use gsacp_core::threshold::{Measured, OperatingPoint, lowest_meeting};
use rayon::prelude::*;

use super::{Buffers, LogitMap, for_each_sample};
use crate::data::dataset::Sample;
use crate::data::image::{Mask, StoredImage};
use crate::data::progress::Progress;

/// The logit maps of a calibration set, kept on the int16 grid, with their masks.
pub struct CalibrationSet {
    maps: Vec<(Vec<i16>, Mask)>,
    measured: HashMap<i16, Measured>,
}

impl CalibrationSet {
    /// Runs the detector on every sample: 3 bytes a pixel stay in memory.
    pub fn new(
        samples: &[Sample],
        resize_mask: bool,
        logits: impl Fn(&StoredImage) -> Result<LogitMap> + Sync,
    ) -> Result<Self> {
        let maps = for_each_sample(samples, "running the detector", resize_mask, &logits, |_, _, map, mask| {
            Ok((map.into_steps(), mask))
        })?;
        Ok(Self { maps, measured: HashMap::new() })
    }

    /// Pd and Fa at a threshold of the grid.
    pub fn measure(&mut self, threshold: i16) -> Result<Measured> {
        if let Some(known) = self.measured.get(&threshold) {
            return Ok(*known);
        }
        let scores = self
            .maps
            .par_iter()
            .map_init(Buffers::default, |buffers, (steps, mask)| {
                let (width, height) = (mask.width, mask.height);
                let (truth, map) = (View::new(&mask.pixels, width, height)?, View::new(steps, width, height)?);
                score(&truth, &map, threshold, &mut buffers.scratch(width, height))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut totals = Totals::default();
        scores.iter().for_each(|score| totals.add(score));
        let (Some(pd), Some(fa)) = (totals.pd(), totals.fa()) else {
            anyhow::bail!("the calibration images have no targets, so Pd cannot be measured: give a list that has some")
        };
        let measured = Measured { pd: pd as f32, fa: fa as f32 };
        self.measured.insert(threshold, measured);
        Ok(measured)
    }

    /// The operating point for each requested false-alarm rate (a fraction of pixels: 5e-6 is "5" in the tables).
    pub fn operating_points(&mut self, requested: &[f32]) -> Result<Vec<OperatingPoint>> {
        for fa in requested {
            ensure!(
                (0.0..=1.0).contains(fa),
                "a false-alarm rate is a fraction of the pixels, not {fa}: 5e-6 is usual"
            );
        }
        let values = || self.maps.iter().flat_map(|(steps, _)| steps.iter().copied());
        let (lowest, highest) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
        let progress = Progress::new("searching thresholds", requested.len());
        requested
            .iter()
            .map(|&fa| {
                let point = lowest_meeting(fa, lowest, highest, |threshold| self.measure(threshold));
                progress.step();
                point
            })
            .collect()
    }
}
