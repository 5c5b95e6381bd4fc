//! A **failure switch**: attraction to a positive prototype, beside the negatives-only contrast of HBC.
//!
//! ```text
//! L_proto = 1 − (1/K) Σ_k ⟨q_k, p̂⟩ = 1 − ‖(1/K) Σ_k q_k‖,    p̂ = Σ_k q_k / ‖Σ_k q_k‖
//! ```
//!
//! q_k are the unit features of the batch's seeds. All targets are pulled into one direction, and whatever looks a little
//! like any target follows: the background affinity grows.

use candle_core::{Result, Tensor};

use super::hbc::seed_rows;
use super::layout::Layout;

/// Added under the root, whose slope is infinite at 0.
const TINY: f64 = 1e-12;

/// Of the unit features `anchors` `[N, D, K]` of the seeds, at least one.
pub fn attraction(anchors: &Tensor, layout: &Layout) -> Result<Tensor> {
    let mean = seed_rows(anchors, layout)?.mean(0)?;
    (mean.sqr()?.sum_all()? + TINY)?.sqrt()?.affine(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::target::tests::two_seeds;
    use super::*;
    use crate::nn::testing::{check_gradients, random};

    #[test]
    fn two_seeds_at_right_angles_lack_what_the_hand_says() {
        let value = |features: [[f64; 2]; 2]| {
            let anchors = Tensor::new(&[features], &Device::Cpu).unwrap();
            attraction(&anchors, &two_seeds()).unwrap().to_scalar::<f64>().unwrap()
        };
        // Mean (½, ½), length √½.
        assert!((value([[1.0, 0.0], [0.0, 1.0]]) - (1.0 - 0.5f64.sqrt())).abs() < 1e-9);
        assert!(value([[0.6, 0.6], [0.8, 0.8]]).abs() < 1e-9, "one direction needs no pull");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check_gradients(&[random(1, &[1, 3, 2])], |x| attraction(&x[0], &two_seeds()));
    }
}
