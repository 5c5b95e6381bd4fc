//! AdamW (Loshchilov and Hutter 2019) with decoupled weight decay, over a [`ParameterSet`] as one flat vector.
//!
//! candle's own AdamW keeps its moments private, so a run could not be resumed from a checkpoint; here they are plain
//! vectors. One fused pass updates value and moments together.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::parameters::{Entry, ParameterSet};

/// The optimiser's constants. The learning rate comes from the schedule, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// Decay of the first moment, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay; not applied to biases and normalisations. Default 0.01.
    pub weight_decay: f64,
    /// The gradient is scaled down to this global Euclidean norm. Default 5.0.
    pub clip_norm: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 5.0 }
    }
}

/// Moments and step count.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamConfig,
    /// Steps taken.
    pub step: u64,
    /// First moments, flat.
    pub first: Vec<f32>,
    /// Second moments, flat.
    pub second: Vec<f32>,
}

impl AdamW {
    /// A fresh optimiser for `len` values.
    pub fn new(config: AdamConfig, len: usize) -> Self {
        Self { config, step: 0, first: vec![0.0; len], second: vec![0.0; len] }
    }

    /// One step with learning rate `lr`: clips `gradients` to the norm limit, then updates `values` and the moments.
    pub fn update(
        &mut self,
        set: &ParameterSet,
        values: &mut [f32],
        gradients: &[f32],
        norm: f64,
        lr: f64,
    ) -> Result<()> {
        ensure!(
            values.len() == self.first.len() && gradients.len() == self.first.len(),
            "the optimiser was made for {} values, not {}",
            self.first.len(),
            values.len()
        );
        self.step += 1;
        let AdamConfig { beta1, beta2, epsilon, weight_decay, clip_norm } = self.config;
        let t = self.step.min(i32::MAX as u64) as i32;
        let clip = if norm > clip_norm { clip_norm / norm } else { 1.0 };
        let rates = Rates {
            clip: clip as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            // 1 − β in f64 first: 1 − 0.999 in f32 is off by 5e-5 of itself.
            rest1: (1.0 - beta1) as f32,
            rest2: (1.0 - beta2) as f32,
            // lr·m̂ / (√v̂ + ε) with both bias corrections pulled out of the loop.
            step: (lr / (1.0 - beta1.powi(t))) as f32,
            root: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
            epsilon: epsilon as f32,
        };
        let keep = (1.0 - lr * weight_decay) as f32;
        for Entry { range, decays, .. } in set.entries().iter().filter(|entry| entry.learns) {
            let keep = if *decays { keep } else { 1.0 };
            let r = range.clone();
            rates.apply(
                keep,
                &mut values[r.clone()],
                &gradients[r.clone()],
                &mut self.first[r.clone()],
                &mut self.second[r],
            );
        }
        Ok(())
    }
}

struct Rates {
    clip: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    step: f32,
    root: f32,
    epsilon: f32,
}

impl Rates {
    fn apply(&self, keep: f32, values: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((value, gradient), (m, v)) in values.iter_mut().zip(gradients).zip(moments) {
            let g = gradient * self.clip;
            *m = self.beta1 * *m + self.rest1 * g;
            *v = self.beta2 * *v + self.rest2 * g * g;
            *value = *value * keep - self.step * *m / (v.sqrt() * self.root + self.epsilon);
        }
    }
}

/// The Euclidean norm of `values`, summed in f64 in an order that does not depend on the number of threads.
pub fn norm(values: &[f32]) -> f64 {
    let parts: Vec<f64> =
        values.par_chunks(1 << 16).map(|part| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect();
    parts.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor, Var};
    use candle_nn::Optimizer;

    use super::*;

    fn set(rank_two: &[f32]) -> (Var, ParameterSet) {
        let var = Var::from_tensor(&Tensor::from_slice(rank_two, (1, rank_two.len()), &Device::Cpu).unwrap()).unwrap();
        let set = ParameterSet::new(&BTreeMap::from([("w".to_string(), var.clone())])).unwrap();
        (var, set)
    }

    #[test]
    fn two_steps_are_those_worked_by_hand() {
        // g = 3 then 1, lr 0.1, decay 0.1, no clipping.
        // step 1: m 0.3, v 0.009; m̂ 3, v̂ 9; 2·0.99 − 0.1·3/3 = 1.88
        // step 2: m 0.37, v 0.009991; m̂ 0.37/0.19, v̂ 0.009991/0.001999; 1.88·0.99 − 0.1·1.947368/2.235618 = 1.774093
        let (_, set) = set(&[2.0]);
        let config = AdamConfig { weight_decay: 0.1, ..AdamConfig::default() };
        let mut adam = AdamW::new(config, 1);
        let mut values = set.values().unwrap();
        adam.update(&set, &mut values, &[3.0], 3.0, 0.1).unwrap();
        assert!((values[0] - 1.88).abs() < 1e-6, "{}", values[0]);
        adam.update(&set, &mut values, &[1.0], 1.0, 0.1).unwrap();
        assert!((values[0] - 1.774_093).abs() < 2e-6, "{}", values[0]);
        assert!((adam.first[0] - 0.37).abs() < 1e-6 && (adam.second[0] - 0.009_991).abs() < 1e-8);
    }

    #[test]
    fn it_walks_the_same_path_as_candles_adamw() {
        let start = [0.5, -1.5, 2.0, 0.1];
        let target = Tensor::new(&[[1f32, 2., -3., 0.]], &Device::Cpu).unwrap();
        let (ours, set) = set(&start);
        let theirs = Var::from_tensor(ours.as_tensor()).unwrap();
        let params = candle_nn::ParamsAdamW { lr: 0.05, weight_decay: 0.01, ..Default::default() };
        let mut reference = candle_nn::AdamW::new(vec![theirs.clone()], params).unwrap();
        let mut adam = AdamW::new(AdamConfig { clip_norm: f64::INFINITY, ..AdamConfig::default() }, 4);
        let loss = |var: &Var| var.sub(&target).unwrap().sqr().unwrap().sum_all().unwrap();
        for _ in 0..50 {
            let gradients = set.gradients(&loss(&ours).backward().unwrap()).unwrap();
            let mut values = set.values().unwrap();
            adam.update(&set, &mut values, &gradients, norm(&gradients), 0.05).unwrap();
            set.store(&values).unwrap();
            reference.backward_step(&loss(&theirs)).unwrap();
        }
        let (a, b) = (ours.to_vec2::<f32>().unwrap(), theirs.to_vec2::<f32>().unwrap());
        for (a, b) in a[0].iter().zip(&b[0]) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
        assert!((a[0][0] - start[0]).abs() > 0.1, "nothing moved");
    }

    #[test]
    fn a_gradient_over_the_norm_limit_is_scaled_to_it() {
        // Norm 50 against the limit 5: the moments see a tenth of the gradient.
        let (_, set) = set(&[0.0, 0.0]);
        let mut adam = AdamW::new(AdamConfig::default(), 2);
        let gradients = [30.0, 40.0];
        adam.update(&set, &mut [0.0, 0.0], &gradients, norm(&gradients), 1e-3).unwrap();
        assert!((adam.first[0] - 0.3).abs() < 1e-6 && (adam.first[1] - 0.4).abs() < 1e-6);
    }

    #[test]
    fn a_bias_is_not_decayed() {
        let var = Var::new(&[1f32], &Device::Cpu).unwrap();
        let set = ParameterSet::new(&BTreeMap::from([("bias".to_string(), var)])).unwrap();
        let mut adam = AdamW::new(AdamConfig { weight_decay: 0.5, ..AdamConfig::default() }, 1);
        let mut values = [1.0];
        adam.update(&set, &mut values, &[0.0], 0.0, 0.1).unwrap();
        assert_eq!(values, [1.0]);
    }

    #[test]
    fn the_norm_of_many_values_is_their_euclidean_norm() {
        let values = vec![0.5f32; 200_000];
        assert!((norm(&values) - (200_000f64 * 0.25).sqrt()).abs() < 1e-9);
        assert!(norm(&[1.0, f32::NAN]).is_nan());
    }
}
