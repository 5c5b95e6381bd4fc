//! Margin: mean probability on the targets minus mean probability on the hardest background.
//!
//! The hardest background of an image is its most probable pixel that is at least [`MATCH_DISTANCE`](super::MATCH_DISTANCE)
//! px (in x or in y) from every target pixel: nearer pixels are the target's rim, not background.
use super::{MATCH_DISTANCE, same_size};
use crate::{
    Error,
    detect::{Logit, View},
};

/// What one image contributes to the margin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Margin {
    /// Sum of the probabilities of the target pixels.
    pub target_sum: f64,
    /// Target pixels.
    pub target_pixels: u64,
    /// Probability of the hardest background pixel; none where targets reach everywhere.
    pub hardest: Option<f64>,
}

/// Sums over images.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Margins {
    target_sum: f64,
    target_pixels: u64,
    hardest_sum: f64,
    backgrounds: u64,
}

impl Margins {
    /// Adds one image.
    pub fn add(&mut self, margin: &Margin) {
        self.target_sum += margin.target_sum;
        self.target_pixels += margin.target_pixels;
        if let Some(hardest) = margin.hardest {
            self.hardest_sum += hardest;
            self.backgrounds += 1;
        }
    }

    /// Mean over target pixels minus mean over images of the hardest background; in [−1, 1]. None without either.
    pub fn margin(&self) -> Option<f64> {
        (self.target_pixels > 0 && self.backgrounds > 0)
            .then(|| self.target_sum / self.target_pixels as f64 - self.hardest_sum / self.backgrounds as f64)
    }
}

/// The margin's terms of one image (`truth > 0` is target).
///
/// # Errors
/// [`Error::WrongLength`] where the sizes differ.
pub fn margin<L: Logit>(truth: &View<'_, u8>, map: &View<'_, L>) -> Result<Margin, Error> {
    same_size(truth, map)?;
    let mut margin = Margin::default();
    let mut hardest: Option<L> = None;
    for y in 0..map.height() {
        for (x, (&target, &logit)) in truth.row(y).iter().zip(map.row(y)).enumerate() {
            if target > 0 {
                margin.target_pixels += 1;
                margin.target_sum += sigmoid(logit);
            } else if hardest.is_none_or(|h| logit > h) && is_background(truth, x, y) {
                hardest = Some(logit);
            }
        }
    }
    margin.hardest = hardest.map(sigmoid);
    Ok(margin)
}

fn is_background(truth: &View<'_, u8>, x: usize, y: usize) -> bool {
    let reach = MATCH_DISTANCE as usize - 1;
    let columns = x.saturating_sub(reach)..(x + reach + 1).min(truth.width());
    (y.saturating_sub(reach)..=y + reach).all(|y| {
        let row = truth.row(y);
        row.get(columns.clone()).unwrap_or(&[]).iter().all(|&t| t == 0)
    })
}

fn sigmoid<L: Logit>(logit: L) -> f64 {
    1.0 / (1.0 + libm::exp(-f64::from(logit.to_f32())))
}
