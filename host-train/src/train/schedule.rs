//! How long a run is and how its learning rate moves: a short linear warm-up, then half a cosine down to `final_lr`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Length, batch and learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Passes over the training images. Default 60, unless `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Optimiser steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Crops per step. Default 8.
    pub batch: usize,
    /// Highest learning rate. Default 2e-3.
    pub lr: f64,
    /// Learning rate of the last step. Default 2e-5.
    pub final_lr: f64,
    /// Steps of linear warm-up. Default 200, at most a tenth of the run.
    pub warmup_steps: u64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { epochs: None, steps: None, batch: 8, lr: 2e-3, final_lr: 2e-5, warmup_steps: 200 }
    }
}

/// The epochs of a run that names neither epochs nor steps.
pub const DEFAULT_EPOCHS: u32 = 60;

impl ScheduleConfig {
    /// Refuses impossible values, naming the key.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.epochs.is_none() || self.steps.is_none(),
            "schedule.epochs and schedule.steps exclude each other: give one"
        );
        ensure!(self.epochs != Some(0), "schedule.epochs must be at least 1");
        ensure!(self.steps != Some(0), "schedule.steps must be at least 1");
        ensure!((1..=4096).contains(&self.batch), "schedule.batch is {}, outside 1..=4096", self.batch);
        ensure!(self.lr > 0.0 && self.lr <= 1.0, "schedule.lr is {}, outside (0, 1]", self.lr);
        ensure!(
            (0.0..=self.lr).contains(&self.final_lr),
            "schedule.final_lr is {}, outside 0..=schedule.lr",
            self.final_lr
        );
        Ok(())
    }

    /// Steps of the whole run, for epochs of `per_epoch` steps.
    pub fn total_steps(&self, per_epoch: u64) -> u64 {
        self.steps.unwrap_or_else(|| u64::from(self.epochs.unwrap_or(DEFAULT_EPOCHS)) * per_epoch)
    }

    /// The learning rate of step `step` (0 for the first) in a run of `total`.
    pub fn lr_at(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps.min(total / 10);
        if step < warmup {
            return self.lr * (step + 1) as f64 / warmup as f64;
        }
        let span = total.saturating_sub(warmup + 1).max(1);
        let progress = ((step - warmup) as f64 / span as f64).min(1.0);
        self.final_lr + (self.lr - self.final_lr) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_linearly_then_falls_as_a_cosine() {
        let schedule = ScheduleConfig { lr: 1.0, final_lr: 0.0, warmup_steps: 4, ..Default::default() };
        let rates: Vec<f64> = (0..45).map(|step| schedule.lr_at(step, 45)).collect();
        assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!((rates[24] - 0.5).abs() < 1e-12, "half way down: {}", rates[24]);
        assert!(rates[44].abs() < 1e-12);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
    }

    #[test]
    fn a_run_of_one_step_has_the_full_rate() {
        assert_eq!(ScheduleConfig::default().lr_at(0, 1), 2e-3);
    }

    #[test]
    fn epochs_and_steps_together_are_refused() {
        let both = ScheduleConfig { epochs: Some(1), steps: Some(1), ..Default::default() };
        assert!(both.check().unwrap_err().to_string().contains("schedule.steps"));
        assert_eq!(ScheduleConfig { steps: Some(7), ..Default::default() }.total_steps(100), 7);
        assert_eq!(ScheduleConfig { epochs: Some(3), ..Default::default() }.total_steps(100), 300);
    }
}
