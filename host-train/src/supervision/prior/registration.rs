//! Whether points lie beside their targets, all by the same step.
//!
//! A data set's masks, and with them the centroids that become its points, need not lie where the light does: an annotator's tool counts pixels
//! from their corner, or a blur moves what is rendered by half a pixel. One point says nothing about it, for it is the floor of a
//! centroid; many do. For the targets of one **kind** (frames of one size, outlines of one half octave of area) the step b is taken, along each axis, for which
//!
//! ```text
//! mean over targets of min( miss(outline's centroid + b, point), ½ px )
//! ```
//!
//! is least, where `miss` is how far a coordinate is from those whose floor the point is; of equal ones the shortest. Kinds of fewer than
//! [`LEAST_TARGETS`], and steps that mend less than [`LEAST_GAIN`] or might be chance, are left alone: any step up to a pixel fits targets of 3×3.
//! Priors are then drawn on the image moved by b, as its labels see it.
//!
//! On SIRST3's `train_dev`, 2,028 targets, this finds ⅜ to ½ px up and left for NUDT's targets of 16 to 45 px (their masks lie half a pixel up and left
//! of their light, which the masks say too), and 5/16 px to the right for IRSTD-1K's of 46 to 63 px. The outlines, [centred](super::centred) too, have IoU 0.732 and nIoU 0.763
//! instead of 0.723 and 0.752; NUDT's 0.724 and 0.807 instead of 0.702 and 0.779. `val_dev`'s 355 points are too few to find a step.
//!
//! A step has a direction, which a network can learn only from frames that are not mirrored: `data.flips` must be off.

use std::collections::BTreeMap;
use std::fmt;

use super::centred::beside;
use super::{PriorConfig, draw};
use crate::data::patch::Patch;
use crate::data::train_set::{Item, TrainSet};

/// Steps are multiples of one sixteenth of a pixel, to one pixel.
const STEPS: std::ops::RangeInclusive<i32> = -16..=16;
/// Targets of a kind below which it is left alone.
const LEAST_TARGETS: usize = 20;
/// A target that is missed by more says no more: some of a kind may have no step, or an outline that is none.
const MOST_MISS: f64 = 0.5;
/// Pixels, and standard errors, by which the mean miss must fall along an axis.
const LEAST_GAIN: f64 = 0.02;
const LEAST_ERRORS: f64 = 2.5;

/// Targets that are alike: columns and rows of their frames, and half octaves of their outlines' area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind([usize; 2], u32);

impl Kind {
    fn of(item: &Item, outline: &Patch) -> Self {
        // The floor of 2 log₂ of the area, in whole numbers.
        Self([item.image.width, item.image.height], (outline.area() as u64).pow(2).max(1).ilog2())
    }
}

/// The steps of the kinds that have one, in pixels to the right and down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps(BTreeMap<Kind, [f32; 2]>);

impl Steps {
    /// From a set's points and the outlines that were drawn for them without asking where their centroids are.
    pub(super) fn of(set: &TrainSet) -> Self {
        let mut kinds = BTreeMap::<Kind, [Vec<f64>; 2]>::new();
        for item in &set.items {
            for (point, outline) in item.points.iter().zip(&item.patches) {
                let [x, y] = outline.centroid();
                let offsets = kinds.entry(Kind::of(item, outline)).or_default();
                offsets[0].push(x - f64::from(point.x));
                offsets[1].push(y - f64::from(point.y));
            }
        }
        kinds.retain(|_, offsets| offsets[0].len() >= LEAST_TARGETS);
        let steps = kinds.into_iter().map(|(kind, offsets)| (kind, offsets.map(|offsets| step(&offsets))));
        Self(steps.filter(|(_, step)| *step != [0.0; 2]).collect())
    }

    /// The priors of an item's points, on its image as its labels see it.
    pub(super) fn redraw(&self, item: &Item, config: &PriorConfig) -> Vec<Patch> {
        let image = item.image.to_gray();
        let prior = |(&point, outline): (_, &Patch)| match self.0.get(&Kind::of(item, outline)) {
            Some(&[right, down]) => draw(&image.moved(right, down), point, config),
            None => draw(&image, point, config),
        };
        item.points.iter().zip(&item.patches).map(prior).collect()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (Kind([width, height], area), [right, down]) in &self.0 {
            let [from, to] = [*area, area + 1].map(|half_octaves| 2f64.powf(f64::from(half_octaves) / 2.0).ceil());
            writeln!(
                f,
                "{width}×{height}, {from} to {} px: points lie {right:+} px right, {down:+} px down",
                to - 1.0
            )?;
        }
        Ok(())
    }
}

/// The step that brings `offsets`, coordinates of centroids less those of their points, nearest to [0, 1).
fn step(offsets: &[f64]) -> f32 {
    let misses = |step: i32| offsets.iter().map(move |offset| beside(offset + f64::from(step) / 16.0).min(MOST_MISS));
    let count = offsets.len() as f64;
    // A thousandth of a pixel is no reason to go farther.
    let rank = |step: &i32| ((misses(*step).sum::<f64>() / count * 1000.0).round() as i64, step.abs());
    let best = STEPS.min_by_key(rank).unwrap_or(0);
    let gains: Vec<f64> = misses(0).zip(misses(best)).map(|(still, moved)| still - moved).collect();
    let gain = gains.iter().sum::<f64>() / count;
    let error = (gains.iter().map(|g| (g - gain).powi(2)).sum::<f64>() / count / count).sqrt();
    if gain >= LEAST_GAIN && gain >= LEAST_ERRORS * error { best as f32 / 16.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::draw_set;
    use super::*;
    use crate::data::image::{Samples, StoredImage};
    use crate::data::points::Point;

    #[test]
    fn a_step_brings_most_centroids_over_their_points_or_there_is_none() {
        // Centroids that lie evenly in their points' pixels, to the next one's edge, once as much has been taken off them.
        let evenly = |from: f64| (0..48).map(|i| from + f64::from(i % 16) / 16.0).collect::<Vec<_>>();
        assert_eq!(step(&evenly(0.5)), -0.4375);
        assert_eq!(step(&evenly(-0.25)), 0.25);
        // So few may lie there by chance: 0.039 px, and their standard error is half of it.
        assert_eq!(step(&evenly(-0.25)[..16]), 0.0);
        // A third of them have none, and a few were not outlined at all.
        let mixed = [evenly(0.5), evenly(0.5), evenly(0.0), vec![7.0, -9.0, 5.0]].concat();
        assert!((-0.5..=-0.25).contains(&step(&mixed)), "{}", step(&mixed));
        // 3×3 pixels around their points' middles: whatever moves them by less than a pixel fits.
        assert_eq!(step(&[0.0; 30]), 0.0);
        // An eighth of a pixel: the mean miss is (1 + 2)/16²= 0.012 px, too little to tell.
        assert_eq!(step(&evenly(0.125)), 0.0);
    }

    /// Round hills on frames of 40×40 whose points are the floor of their middles less half a pixel, all of one size and contrast.
    fn hills(count: u32) -> TrainSet {
        let items = (0..count).map(|i| {
            // All quarters of a pixel, along both axes.
            let (x, y) = (20.0 + f64::from(i % 4) / 4.0, 18.0 + f64::from(i / 4 % 4) / 4.0);
            let hill = |i: u32| {
                let apart = (f64::from(i % 40) - x).powi(2) + (f64::from(i / 40) - y).powi(2);
                (10_000.0 + 20_000.0 * (-apart / 8.0).exp()) as u16
            };
            let image = StoredImage { width: 40, height: 40, samples: Samples::Sixteen((0..1600).map(hill).collect()) };
            let points = vec![Point { x: (x - 0.5).floor() as u32, y: (y - 0.5).floor() as u32 }];
            Item { name: format!("n{i}"), image, mask: None, points, patches: vec![Patch::default()] }
        });
        TrainSet::new(items.collect()).unwrap()
    }

    #[test]
    fn priors_are_moved_by_what_points_lie_beside_the_light() {
        let config = PriorConfig { registered: true, ..PriorConfig::default() };
        let mut set = hills(96);
        let steps = draw_set(&mut set, &config).unwrap();
        assert!(steps.0.values().all(|step| step.iter().all(|along| (-0.625..=-0.25).contains(along))), "{steps}");
        assert!(!steps.0.is_empty());
        let mut apart = 0.0;
        for (i, item) in set.items.iter().enumerate() {
            let [x, y] = item.patches[0].centroid();
            let (true_x, true_y) = (19.5 + (i % 4) as f64 / 4.0, 17.5 + (i / 4 % 4) as f64 / 4.0);
            apart += (x - true_x).hypot(y - true_y) / 96.0;
        }
        assert!(apart < 0.3, "{apart} px, and 0.7 px where nothing is moved");

        // Too few to tell: as if it had not been asked for.
        let (mut few, mut plain) = (hills(10), hills(10));
        assert_eq!(draw_set(&mut few, &config).unwrap(), Steps::default());
        draw_set(&mut plain, &PriorConfig::default()).unwrap();
        for (few, plain) in few.items.iter().zip(&plain.items) {
            assert_eq!(few.patches, plain.patches);
        }
    }
}
