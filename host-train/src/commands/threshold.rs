//! The two ways to say at which logit a pixel becomes a target's, for every command that needs one.

use anyhow::{Result, ensure};
use clap::Args;

use crate::evaluate::{self, Detector};

/// A threshold, given or calibrated.
#[derive(Args)]
pub struct Threshold {
    /// Logit above which a pixel is a target's, on the grid of 1/256 (0 is a probability of one half).
    #[arg(long, value_name = "T", allow_negative_numbers = true, conflicts_with = "fa")]
    threshold: Option<f32>,
    /// Use the threshold that `gsacp calibrate` stored in the model for this false-alarm rate, a fraction of the pixels (5e-6).
    #[arg(long, value_name = "F")]
    fa: Option<f32>,
}

impl Threshold {
    /// The threshold in steps of 1/256; `default` where neither way was taken.
    pub fn steps(&self, detector: &Detector, default: i16) -> Result<i16> {
        match (self.threshold, self.fa) {
            (Some(threshold), _) => {
                ensure!(threshold.abs() < 128.0, "a logit threshold lies between -128 and 128, not at {threshold}");
                Ok(evaluate::to_steps(threshold))
            }
            (None, Some(fa)) => Ok(evaluate::to_steps(detector.point(fa)?.threshold)),
            (None, None) => Ok(default),
        }
    }
}
