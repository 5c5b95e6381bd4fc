//! Rounding of a map to int8 steps, for training that knows of it.
//!
//! ```text
//! y = Δ·clamp(round(x/Δ), −128 − z, 127 − z)        ∂y/∂x := 1 where x is not clipped, else 0
//! ```
//!
//! The gradient is the straight-through estimator: the true one is 0 almost everywhere.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::gate::CHUNK;
use super::loops;
use super::real::Real;

/// x to the nearest of the 256 values that int8 with this step and zero point can hold.
///
/// # Errors
/// A step that is not above 0.
pub fn round_to_steps(x: &Tensor, step: f64, zero_point: i8) -> Result<Tensor> {
    if step.is_nan() || step <= 0.0 {
        bail!("round_to_steps: a step of {step} is not above 0");
    }
    let [low, high] = [i8::MIN, i8::MAX].map(|end| f64::from(end) - f64::from(zero_point));
    if !x.device().is_cpu() {
        return compose::round_to_steps(x, step, low, high);
    }
    fused::apply(Round { step, low, high }, &[x])
}

struct Round {
    step: f64,
    low: f64,
    high: f64,
}

impl Fused for Round {
    fn name(&self) -> &'static str {
        "round-to-steps"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [step, low, high] = [self.step, self.low, self.high].map(T::from_f64);
        let mut y = vec![T::zero(); inputs[0].data.len()];
        y.par_chunks_mut(CHUNK).zip(inputs[0].data.par_chunks(CHUNK)).for_each(|(y, x)| {
            loops::round_to_steps(y, x, step, low, high);
        });
        (y, inputs[0].dims.to_vec())
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let [low, high] = [self.low, self.high].map(|end| T::from_f64(end * self.step));
        let mut d = vec![T::zero(); g.len()];
        d.par_chunks_mut(CHUNK).zip(inputs[0].data.par_chunks(CHUNK)).zip(g.par_chunks(CHUNK)).for_each(
            |((d, x), g)| {
                loops::where_within(d, x, g, low, high);
            },
        );
        vec![Some(d)]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::testing::{check_same, gradients, random};

    #[test]
    fn values_go_to_the_nearest_step_and_stop_at_the_ends() {
        // Step ½, zero point 100: 27 steps above zero, 228 below.
        let x = Tensor::new(&[0.0f64, 0.2, 0.3, -0.8, 13.4, 13.8, 99.0, -113.9, -200.0], &Device::Cpu).unwrap();
        for x in [x.to_dtype(DType::F32).unwrap(), x] {
            let y = round_to_steps(&x, 0.5, 100).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(y, [0.0, 0.0, 0.5, -1.0, 13.5, 13.5, 13.5, -114.0, -114.0]);
        }
    }

    #[test]
    fn the_gradient_passes_where_nothing_is_clipped() {
        let x = Tensor::new(&[0.3f64, 13.4, 13.8, -113.9, -114.2], &Device::Cpu).unwrap();
        let one = gradients(std::slice::from_ref(&x), |t| Ok(t[0].clone())).swap_remove(0).to_vec1::<f64>().unwrap();
        let found = gradients(&[x], |t| round_to_steps(&t[0], 0.5, 100)).swap_remove(0).to_vec1::<f64>().unwrap();
        assert_eq!(found, [one[0], one[1], 0.0, one[3], 0.0]);
    }

    #[test]
    fn the_composed_rounding_is_the_fused_one() {
        let x = (random(1, &[2, 3, 4, 5]) * 9.0).unwrap();
        check_same(&[x], |t| round_to_steps(&t[0], 0.05, -20), |t| compose::round_to_steps(&t[0], 0.05, -108.0, 147.0));
    }

    #[test]
    fn a_step_of_nothing_is_an_error() {
        let x = random(1, &[2]);
        assert!(round_to_steps(&x, 0.0, 0).is_err() && round_to_steps(&x, f64::NAN, 0).is_err());
    }
}
