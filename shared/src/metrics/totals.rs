//! Sums over a set of images, and the rates they give.
use super::{BINS, Score};

/// Names of the size bins.
pub const BIN_LABELS: [&str; BINS] = ["0-10", "11-30", "31-80", "81+"];

/// What the targets of one range of sizes contribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Truth components.
    pub targets: u64,
    /// Of those, matched.
    pub matched: u64,
    /// Predicted pixels inside the targets.
    pub intersection: u64,
    /// Target pixels and the pixels of their matches outside any target.
    pub union: u64,
    /// Pixels of the matched targets.
    pub matched_target_area: u64,
    /// Pixels of their matches.
    pub matched_area: u64,
}

impl Bin {
    /// Intersection over union; none without targets.
    pub fn iou(&self) -> Option<f64> {
        ratio(self.intersection, self.union)
    }

    /// Matched targets / targets; none without targets.
    pub fn pd(&self) -> Option<f64> {
        ratio(self.matched, self.targets)
    }

    /// Area of the matches / area of the targets they match; none without a match.
    pub fn area_ratio(&self) -> Option<f64> {
        ratio(self.matched_area, self.matched_target_area)
    }

    fn add(&mut self, other: &Bin) {
        self.targets += other.targets;
        self.matched += other.matched;
        self.intersection += other.intersection;
        self.union += other.union;
        self.matched_target_area += other.matched_target_area;
        self.matched_area += other.matched_area;
    }
}

/// Sums over images. Rates are `None` where their denominator is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Images added.
    pub images: u64,
    /// Of those, images with neither truth nor prediction (U = 0), left out of nIoU.
    pub empty: u64,
    /// The integer sums.
    pub sum: Score,
    /// Σ I/U over the images that are not empty.
    iou_sum: f64,
}

impl Totals {
    /// Adds one image. The order matters only to the last bit of nIoU.
    pub fn add(&mut self, score: &Score) {
        self.images += 1;
        match ratio(score.intersection, score.union) {
            Some(iou) => self.iou_sum += iou,
            None => self.empty += 1,
        }
        let sum = &mut self.sum;
        sum.pixels += score.pixels;
        sum.intersection += score.intersection;
        sum.union += score.union;
        sum.targets += score.targets;
        sum.matched += score.matched;
        sum.found += score.found;
        sum.predicted_area += score.predicted_area;
        sum.matched_area += score.matched_area;
        for (bin, other) in sum.bins.iter_mut().zip(&score.bins) {
            bin.add(other);
        }
    }

    /// ΣI/ΣU.
    pub fn miou(&self) -> Option<f64> {
        ratio(self.sum.intersection, self.sum.union)
    }

    /// Mean I/U over the images with U > 0; with `reference_niou` the empty ones count as 0, as in the reference code.
    pub fn niou(&self, reference_niou: bool) -> Option<f64> {
        let images = if reference_niou { self.images } else { self.images - self.empty };
        (images > 0).then(|| self.iou_sum / images as f64)
    }

    /// Probability of detection: matched / truth components.
    pub fn pd(&self) -> Option<f64> {
        ratio(self.sum.matched, self.sum.targets)
    }

    /// False-alarm rate as a fraction of all pixels (tables print it ×1e6).
    pub fn fa(&self) -> Option<f64> {
        ratio(self.sum.false_pixels(), self.sum.pixels)
    }

    /// Area of the matches / area of the targets they match, over all sizes: above 1 the detections have a halo. None
    /// without a match.
    pub fn area_ratio(&self) -> Option<f64> {
        let sum = |area: fn(&Bin) -> u64| self.sum.bins.iter().map(area).sum();
        ratio(sum(|bin| bin.matched_area), sum(|bin| bin.matched_target_area))
    }

    /// Unmatched predicted components per image.
    pub fn false_alarms_per_frame(&self) -> Option<f64> {
        ratio(self.sum.false_alarms(), self.images)
    }
}

fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}
