//! Scores of a detector: mIoU, nIoU, Pd, Fa and what users ask for beside them. One definition for host and device.
//!
//! [`score`] looks at one image and gives a [`Score`] of exact integers; [`Totals`] adds them up, so images can be scored in
//! any order or in parallel and folded in the list's order to the same bits. [`Margins`] does the same for probabilities.
//!
//! Definitions (8-connected components throughout; prediction = logit > threshold, strict; truth = mask pixel > 0):
//! - mIoU = ΣI/ΣU of the foreground over all images; nIoU = mean of I/U over images with U > 0, the others are counted.
//! - Match: for each truth component in raster order, the first unused predicted component, in raster order, whose centroid
//!   is less than [`MATCH_DISTANCE`] px away. The comparison is exact, in integers.
//! - Pd = matched / truth components. Fa = (predicted area − matched area) / all pixels.
//! - A size bin holds the truth components of that area: its IoU is Σ|T∩P| / Σ(|T| + |M∖truth|), where P is the whole
//!   prediction and M the component matched to T (none: empty), so other targets never count against it; its area ratio is
//!   Σ|M| / Σ|T| over the matched ones.
use crate::{
    Error,
    detect::{Component, Labeller, Logit, View, Workspace, runs},
};

mod margin;
mod matching;
mod totals;

pub use margin::{Margin, Margins, margin};
pub use totals::{BIN_LABELS, Bin, Totals};

/// Centroids nearer than this many pixels match; exactly this far is no match.
pub const MATCH_DISTANCE: u32 = 3;

/// Number of size bins.
pub const BINS: usize = 4;

/// The size bin of a target's area in pixels: 0–10, 11–30, 31–80, 81 and more.
pub const fn bin_of(area: u32) -> usize {
    match area {
        0..=10 => 0,
        11..=30 => 1,
        31..=80 => 2,
        _ => 3,
    }
}

/// A component as matching sees it. Storage for [`Scratch`].
#[derive(Debug, Clone, Copy)]
pub struct Blob {
    component: Component,
    used: bool,
}

impl Blob {
    /// What a scratch is filled with before use.
    pub const EMPTY: Blob = Blob {
        component: Component {
            area: 0,
            overlap: 0,
            sum_x: 0,
            sum_y: 0,
            first_x: 0,
            left: 0,
            top: 0,
            right: 0,
            bottom: 0,
            peak: 0.0,
        },
        used: false,
    };

    /// Blobs that no map of this size can exceed: one in every 2×2 block.
    pub const fn most_for(width: usize, height: usize) -> usize {
        width.div_ceil(2) * height.div_ceil(2)
    }
}

/// The caller's buffers for scoring; contents need no resetting between images.
pub struct Scratch<'a> {
    /// For labelling the truth.
    pub truth: Workspace<'a>,
    /// For labelling the prediction.
    pub prediction: Workspace<'a>,
    /// For the components of the truth; [`Blob::most_for`] always suffices.
    pub targets: &'a mut [Blob],
    /// For the components of the prediction; [`Blob::most_for`] always suffices.
    pub found: &'a mut [Blob],
}

/// What one image contributes, in exact integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Score {
    /// Pixels of the image.
    pub pixels: u64,
    /// Pixels set in both.
    pub intersection: u64,
    /// Pixels set in either.
    pub union: u64,
    /// Truth components.
    pub targets: u64,
    /// Truth components with a match.
    pub matched: u64,
    /// Predicted components.
    pub found: u64,
    /// Pixels of all predicted components.
    pub predicted_area: u64,
    /// Pixels of the matched predicted components.
    pub matched_area: u64,
    /// By area of the truth component.
    pub bins: [Bin; BINS],
}

impl Score {
    /// Predicted pixels that belong to no match: the numerator of Fa.
    pub fn false_pixels(&self) -> u64 {
        self.predicted_area - self.matched_area
    }

    /// Predicted components without a match.
    pub fn false_alarms(&self) -> u64 {
        self.found - self.matched
    }
}

/// Scores `map > threshold` against `truth > 0`.
///
/// # Errors
/// [`Error::WrongLength`] where the sizes differ, [`Error::Capacity`] where a buffer of the scratch is too small.
pub fn score<L: Logit>(
    truth: &View<'_, u8>,
    map: &View<'_, L>,
    threshold: L,
    scratch: &mut Scratch<'_>,
) -> Result<Score, Error> {
    same_size(truth, map)?;
    let (width, height) = (map.width(), map.height());
    let mut score = Score { pixels: width as u64 * height as u64, ..Score::default() };
    let mut targets = Blobs { places: scratch.targets, len: 0 };
    let mut found = Blobs { places: scratch.found, len: 0 };
    let mut truth_labels = Labeller::new(width, &mut scratch.truth)?;
    let mut found_labels = Labeller::new(width, &mut scratch.prediction)?;
    for y in 0..height {
        let (truth_row, row) = (truth.row(y), map.row(y));
        for (start, end) in runs(truth_row, |t| t > 0) {
            let hit = row.get(start..end).unwrap_or(&[]).iter().filter(|&&v| v > threshold).count();
            score.intersection += hit as u64;
            score.union += (end - start) as u64;
            truth_labels.run(start as u32, end as u32, 1.0, hit as u32);
        }
        for (start, end) in runs(row, |v| v > threshold) {
            let hit = truth_row.get(start..end).unwrap_or(&[]).iter().filter(|&&t| t > 0).count();
            score.union += (end - start - hit) as u64;
            found_labels.run(start as u32, end as u32, 1.0, hit as u32);
        }
        truth_labels.end_row(|c| targets.insert(c));
        found_labels.end_row(|c| found.insert(c));
    }
    truth_labels.finish(|c| targets.insert(c))?;
    found_labels.finish(|c| found.insert(c))?;
    matching::count(targets.list()?, found.list()?, &mut score);
    Ok(score)
}

pub(crate) fn same_size<A, B>(a: &View<'_, A>, b: &View<'_, B>) -> Result<(), Error> {
    for (expected, found) in [(a.width(), b.width()), (a.height(), b.height())] {
        if expected != found {
            return Err(Error::WrongLength { expected, found });
        }
    }
    Ok(())
}

/// Blobs in raster order, in a caller's slice; `len` counts on past its end so that an overflow is known.
struct Blobs<'a> {
    places: &'a mut [Blob],
    len: usize,
}

impl<'a> Blobs<'a> {
    fn insert(&mut self, component: &Component) {
        if let Some(place) = self.places.get_mut(self.len) {
            *place = Blob { component: *component, used: false };
            // Components close nearly in order: move the new one forward past those that begin after it.
            let mut index = self.len;
            while let Some([before, new]) = index.checked_sub(1).and_then(|i| self.places.get_mut(i..=index)) {
                if before.component.raster_key() <= new.component.raster_key() {
                    break;
                }
                core::mem::swap(before, new);
                index -= 1;
            }
        }
        self.len += 1;
    }

    fn list(self) -> Result<&'a mut [Blob], Error> {
        let available = self.places.len();
        self.places.get_mut(..self.len).ok_or(Error::Capacity { needed: self.len, available })
    }
}

#[cfg(test)]
mod tests;
