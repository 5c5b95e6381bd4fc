//! Distillation (arXiv 1503.02531): the network learns to give the logits that others give. No label takes part.
//!
//! ```text
//! L = T²/|A| · Σ_{i∈A} [ H(σ(t_i/T), σ(z_i/T)) − H(σ(t_i/T), σ(t_i/T)) ]      A = { i : max(z_i, t_i) > a }
//! ```
//!
//! with z the network's logits, t the teachers' mean, H the cross-entropy of two outcomes, T the `temperature` and a the
//! `floor`: where both are sure of background nothing is to be learnt, and nearly every pixel of a frame is there. The mean
//! over A is taken image by image, over no fewer than 64 pixels. T = 1 learns probabilities; a large T learns logits,
//! as L then comes to Σ (z − t)²/8|A|. L ≥ 0, and 0 where z = t.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::Value;
use super::loss::{bce, constant, host, sigmoid};

/// An image counts as having at least so many pixels in A.
const LEAST: usize = 64;

/// Numbers of the distillation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// T. Default 2.
    pub temperature: f64,
    /// a, a logit. Default −4, near which networks leave sure background.
    pub floor: f32,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self { temperature: 2.0, floor: -4.0 }
    }
}

impl DistillConfig {
    /// An error that names the key when a number is out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { temperature, floor } = *self;
        ensure!((0.1..=100.0).contains(&temperature), "distill.temperature = {temperature}: give 0.1 to 100");
        ensure!((-100.0..=100.0).contains(&floor), "distill.floor = {floor}: give a logit from −100 to 100");
        Ok(())
    }
}

/// The loss of `logits` `[N, 1, H, W]` against the teachers' at every pixel. Terms: `distill`, L itself, and `disagreement`, the
/// mean of |σ(z) − σ(t)| over A.
///
/// # Errors
/// When the teachers' logits are not as many.
pub fn evaluate(logits: &Tensor, teacher: &[f32], config: &DistillConfig) -> Result<Value> {
    let (images, pixels) = (logits.dim(0)?, logits.elem_count() / logits.dim(0)?);
    ensure!(teacher.len() == images * pixels, "{} logits of teachers for {images}×{pixels}", teacher.len());
    let own = host(logits)?;
    let asked = |i: usize| own[i].max(teacher[i]) > config.floor;
    let mut share = vec![0f32; own.len()];
    for image in 0..images {
        let range = image * pixels..(image + 1) * pixels;
        let count = range.clone().filter(|&i| asked(i)).count().max(LEAST);
        range.filter(|&i| asked(i)).for_each(|i| share[i] = 1.0 / (images * count) as f32);
    }
    let logits = logits.reshape((images, pixels))?;
    let as_wide = |values: Vec<f32>| constant(values, &[images, pixels], &logits);
    let (share, taught) = (as_wide(share)?, as_wide(teacher.to_vec())?);
    let t = (&taught / config.temperature)?;
    let z = (&logits / config.temperature)?;
    let answer = sigmoid(&t)?;
    let entropy = bce(&t, &answer)?;
    let mean = |x: &Tensor| (x * &share)?.sum_all();
    let mut value = Value::new(&logits)?;
    let loss = mean(&(bce(&z, &answer)? - entropy)?)? * config.temperature.powi(2);
    value.add("distill", 1.0, loss?)?;
    let difference = (sigmoid(&logits.detach())? - sigmoid(&taught)?)?;
    value.add("disagreement", 0.0, mean(&difference.abs()?)?)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::testing::{check_gradients, random};

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_slice(values, (1, 1, 1, values.len()), &Device::Cpu).unwrap()
    }

    #[test]
    fn two_pixels_by_hand() {
        // At T = 2: the first teacher says σ(1) where the network says ½; the second pixel is background to both, and the
        // third to the teacher alone: σ(−4) where the network says ½. Each counts 1/64.
        let config = DistillConfig { temperature: 2.0, floor: -6.0 };
        let terms = evaluate(&tensor(&[0.0, -7.0, 0.0]), &[2.0, -9.0, -8.0], &config).unwrap().terms().unwrap();
        let kl = |p: f64| p * (p / 0.5).ln() + (1.0 - p) * ((1.0 - p) / 0.5).ln();
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        let expected = 4.0 / 64.0 * (kl(sigma(1.0)) + kl(sigma(-4.0)));
        assert!((terms[0].1 - expected).abs() < 1e-7, "{} {expected}", terms[0].1);
        let difference = (sigma(2.0) - 0.5 + 0.5 - sigma(-8.0)) / 64.0;
        assert!(terms[2].0 == "disagreement" && (terms[2].1 - difference).abs() < 1e-7, "{terms:?}");
    }

    #[test]
    fn every_image_counts_the_same_however_much_of_it_is_asked_about() {
        let (quiet, loud) = (vec![-9.0f32; 200], vec![1.0f32; 200]);
        let teacher: Vec<f32> = quiet.iter().chain(&loud).copied().collect();
        let z = Tensor::zeros((2, 1, 10, 20), DType::F64, &Device::Cpu).unwrap();
        let of = |z: &Tensor, t: &[f32]| evaluate(z, t, &DistillConfig::default()).unwrap().terms().unwrap()[0].1;
        let one = |t: &[f32]| of(&Tensor::zeros((1, 1, 10, 20), DType::F64, &Device::Cpu).unwrap(), t);
        assert!((of(&z, &teacher) - (one(&quiet) + one(&loud)) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_the_teachers_say_costs_nothing() {
        let own = [3.0, -2.5, 0.25, -5.0];
        let value = evaluate(&tensor(&own), &own.map(|z| z as f32), &DistillConfig::default()).unwrap();
        assert!(value.terms().unwrap().iter().all(|(_, term)| term.abs() < 1e-12));
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let teacher = [1.0, -0.5, 0.25, -5.0, 7.0, 0.0];
        check_gradients(&[random(5, &[1, 1, 2, 3])], |x| {
            Ok(evaluate(&x[0], &teacher, &DistillConfig::default()).unwrap().loss)
        });
    }

    #[test]
    fn another_number_of_logits_is_an_error() {
        assert!(evaluate(&tensor(&[0.0, 1.0]), &[0.0], &DistillConfig::default()).is_err());
    }
}
