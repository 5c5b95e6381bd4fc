//! The exponential moving average of the weights that is evaluated and shipped.
//!
//! The decay warms up as (1 + t)/(10 + t), so that the initial weights do not linger. The running statistics of the
//! batch normalisations are averaged in the same way as the weights: they follow the weights of the moment, and the
//! averaged weights lag behind those by the same time constant.

use serde::{Deserialize, Serialize};

/// How weights are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// Share of the old average that stays at each step, in [0, 1). Default 0.999.
    pub decay: f64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}

impl EmaConfig {
    /// The decay of step `step` (0 for the first).
    pub fn decay_at(&self, step: u64) -> f64 {
        let t = step as f64;
        self.decay.min((1.0 + t) / (10.0 + t))
    }

    /// Moves `average` towards `values`, as step `step` does.
    pub fn update(&self, step: u64, average: &mut [f32], values: &[f32]) {
        let share = (1.0 - self.decay_at(step)) as f32;
        for (average, value) in average.iter_mut().zip(values) {
            *average += share * (value - *average);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_warms_up_and_stops_at_its_limit() {
        let ema = EmaConfig { decay: 0.9 };
        assert_eq!(ema.decay_at(0), 0.1);
        assert_eq!(ema.decay_at(10), 11.0 / 20.0);
        assert_eq!(ema.decay_at(1000), 0.9);
    }

    #[test]
    fn two_updates_are_those_worked_by_hand() {
        // decay 0.1 then 2/11: 10 → 1 + 0.1·9 = 1.9 → 4 + 2/11·(1.9 − 4) = 3.618182
        let ema = EmaConfig::default();
        let mut average = [10.0];
        ema.update(0, &mut average, &[1.0]);
        assert!((average[0] - 1.9).abs() < 1e-6);
        ema.update(1, &mut average, &[4.0]);
        assert!((average[0] - 3.618_182).abs() < 1e-5);
    }
}
