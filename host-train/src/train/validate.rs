//! Validation during training: the averaged network on some whole images, scored at a range of thresholds.
//!
//! What is scored is METHOD §3 by `gsacp_core::metrics`; nothing is defined here. The best threshold is the one of the
//! highest mIoU among those whose false-alarm rate is within the run's limit.

use std::fmt;

use anyhow::Result;
use candle_core::Device;
use gsacp_core::detect::View;
use gsacp_core::metrics::{Margins, Totals, score};
use serde_json::{Value, json};

use crate::data::dataset::Dataset;
use crate::data::image::{GrayImage, Mask};
use crate::evaluate::{Buffers, LogitMap, Rates, Values, sweep, thin};
use crate::model::{Mode, ModelInfo, Msda, input_tensor};

/// Validation images in memory.
pub struct Validator {
    images: Vec<(GrayImage, Mask)>,
    info: ModelInfo,
    device: Device,
    fa_limit: f64,
}

/// What one validation found.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Thresholds in steps of 1/256.
    points: Vec<(i16, Totals)>,
    best: usize,
    margin: Option<f64>,
    /// False-alarm rate, in false pixels per million, that the best threshold must meet.
    fa_limit: f64,
}

impl Validator {
    /// Reads at most `limit` images (0: all), evenly spaced in the list, with their masks.
    pub fn new(dataset: &Dataset, limit: usize, fa_limit: f64, info: &ModelInfo, device: &Device) -> Result<Self> {
        let images = thin(&dataset.samples, limit)
            .iter()
            .map(|sample| {
                let image = sample.load_image()?;
                let mask = sample.load_mask(image.width, image.height, false)?;
                Ok((image, mask))
            })
            .collect::<Result<_>>()?;
        Ok(Self { images, info: info.clone(), device: device.clone(), fa_limit })
    }

    /// Runs `model` in evaluation mode on every image.
    pub fn evaluate(&self, model: &Msda) -> Result<Validation> {
        let mut points: Vec<(i16, Totals)> = sweep().map(|threshold| (threshold, Totals::default())).collect();
        let (mut buffers, mut margins) = (Buffers::default(), Margins::default());
        for (image, mask) in &self.images {
            let (width, height) = (image.width, image.height);
            let logits = model.forward(&input_tensor(&[image], &self.info, &self.device)?, Mode::Eval)?.logits;
            let values = Values::Float(logits.flatten_all()?.to_vec1()?);
            let map = LogitMap::cut(values, logits.dim(3)?, width, height)?;
            margins.add(&map.margin(mask)?);
            let steps = map.into_steps();
            let (map, truth) = (View::new(&steps, width, height)?, View::new(&mask.pixels, width, height)?);
            for (threshold, totals) in &mut points {
                totals.add(&score(&truth, &map, *threshold, &mut buffers.scratch(width, height))?);
            }
        }
        Ok(Validation::new(points, margins.margin(), self.fa_limit))
    }
}

impl Validation {
    fn new(points: Vec<(i16, Totals)>, margin: Option<f64>, fa_limit: f64) -> Self {
        let rank = |totals: &Totals| rank(totals, fa_limit);
        let best = (0..points.len()).max_by(|&a, &b| rank(&points[a].1).total_cmp(&rank(&points[b].1))).unwrap_or(0);
        Self { points, best, margin, fa_limit }
    }

    /// What runs are compared by: the mIoU at the best threshold; where no threshold meets the limit of Fa, the highest
    /// mIoU minus 1, so that any result that meets it is better.
    pub fn score(&self) -> f64 {
        rank(&self.points[self.best].1, self.fa_limit)
    }

    /// Mean probability on the targets minus mean probability of the hardest background: it erodes under drift.
    pub fn margin(&self) -> Option<f64> {
        self.margin
    }

    /// Area of the detections over area of their targets at logit 0, the same threshold in every epoch: it grows under
    /// drift.
    pub fn halo(&self) -> Option<f64> {
        self.points[self.at_zero()].1.area_ratio()
    }

    fn at_zero(&self) -> usize {
        self.points.iter().position(|(threshold, _)| *threshold == 0).unwrap_or(self.best)
    }

    /// The margin, and the rates at the best threshold and at logit 0.
    pub fn to_json(&self) -> Value {
        let zero = self.at_zero();
        let rates = |at: usize| {
            let (threshold, totals) = &self.points[at];
            json!({"threshold": f32::from(*threshold) / 256.0, "rates": Rates::of(totals, false)})
        };
        json!({"best": rates(self.best), "at_zero": rates(zero), "margin": self.margin})
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threshold, totals) = &self.points[self.best];
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        write!(
            f,
            "mIoU {:.4} nIoU {:.4} Pd {:.4} Fa {:.1} at logit > {}",
            number(totals.miou()),
            number(totals.niou(false)),
            number(totals.pd()),
            1e6 * number(totals.fa()),
            f32::from(*threshold) / 256.0
        )
    }
}

fn rank(totals: &Totals, fa_limit: f64) -> f64 {
    let within = totals.fa().is_some_and(|fa| fa * 1e6 <= fa_limit);
    totals.miou().unwrap_or(0.0) - if within { 0.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Totals of one image of 1000 pixels: a target of 10 pixels of which `hit` are found, and `false_pixels` elsewhere.
    fn totals(hit: usize, false_pixels: usize) -> Totals {
        let truth: Vec<u8> = (0..1000).map(|i| u8::from(i < 10)).collect();
        let map: Vec<i16> =
            (0..1000).map(|i| if i < hit || (500..500 + false_pixels).contains(&i) { 256 } else { -256 }).collect();
        let mut buffers = Buffers::default();
        let (truth, map) = (View::new(&truth, 100, 10).unwrap(), View::new(&map, 100, 10).unwrap());
        let mut totals = Totals::default();
        totals.add(&score(&truth, &map, 0, &mut buffers.scratch(100, 10)).unwrap());
        totals
    }

    #[test]
    fn the_best_threshold_has_the_highest_miou_within_the_limit_of_fa() {
        // Fa 0.005, 0, 0; mIoU 10/15, 9/10, 6/10.
        let points = || vec![(0, totals(10, 5)), (256, totals(9, 0)), (512, totals(6, 0))];
        let validation = Validation::new(points(), Some(0.5), 40.0);
        assert_eq!(validation.best, 1);
        assert!((validation.score() - 0.9).abs() < 1e-12);
        assert_eq!(validation.to_json()["at_zero"]["rates"]["fa"], 0.005);
        assert_eq!(validation.to_json()["margin"], 0.5);
    }

    #[test]
    fn the_halo_is_that_of_logit_zero_whichever_threshold_is_best() {
        // Half of the target at logit 0; none of it, and no match, above.
        let validation =
            Validation::new(vec![(-256, totals(9, 0)), (0, totals(5, 0)), (256, totals(0, 0))], None, 40.0);
        assert_eq!((validation.best, validation.halo()), (0, Some(0.5)));
        assert_eq!(Validation::new(vec![(0, totals(0, 7))], None, 40.0).halo(), None);
    }

    #[test]
    fn a_validation_measures_the_margin_of_every_image() {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["images", "masks", "img_idx"] {
            std::fs::create_dir(folder.path().join(sub)).unwrap();
        }
        std::fs::write(folder.path().join("img_idx/all.txt"), "a\n").unwrap();
        let pixels: Vec<u8> = (0..1024).map(|i| u8::from(i == 500)).collect();
        for sub in ["images", "masks"] {
            let path = folder.path().join(sub).join("a.png");
            Mask { width: 32, height: 32, pixels: pixels.clone() }.save_png(&path).unwrap();
        }
        let dataset = Dataset::open(folder.path(), std::path::Path::new("all")).unwrap();
        let info = ModelInfo { widths: gsacp_core::graph::QUARTER, input_channels: 1, mean: 0.1, std: 0.2 };
        let model = Msda::new(&info.graph().unwrap(), 1, &Device::Cpu).unwrap();
        let found = Validator::new(&dataset, 0, 40.0, &info, &Device::Cpu).unwrap().evaluate(&model).unwrap();

        // Independently, from the logits: the probability of the target's pixel minus the highest far from it.
        let (image, _) = &Validator::new(&dataset, 0, 40.0, &info, &Device::Cpu).unwrap().images[0];
        let logits = model.forward(&input_tensor(&[image], &info, &Device::Cpu).unwrap(), Mode::Eval).unwrap().logits;
        let p: Vec<f64> = logits
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .map(|&z| 1.0 / (1.0 + f64::from(-z).exp()))
            .collect();
        let far = |i: usize| (i % 32).abs_diff(500 % 32) >= 3 || (i / 32).abs_diff(500 / 32) >= 3;
        let hardest = (0..1024).filter(|&i| far(i)).map(|i| p[i]).fold(0.0, f64::max);
        assert!((found.margin().unwrap() - (p[500] - hardest)).abs() < 1e-6, "{:?}", found.margin());
    }

    #[test]
    fn a_result_over_the_limit_ranks_below_any_within_it() {
        let over = Validation::new(vec![(0, totals(10, 1))], None, 40.0);
        let within = Validation::new(vec![(0, totals(6, 0))], None, 40.0);
        assert!(over.score() < 0.0 && within.score() > 0.0);
    }
}
