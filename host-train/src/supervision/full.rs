//! Full supervision, the upper bound (METHOD §5): BCE + soft IoU against the true masks.
//!
//! Logits `[N, 1, H, W]`; BCE is the mean over all pixels, soft IoU the mean over the images.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::Value;
use super::loss::{bce, constant, sigmoid, soft_iou};
use crate::data::image::Mask;

/// The loss of `logits` `[N, 1, H, W]` against one mask per image, each H×W.
///
/// # Errors
/// When the masks are not one per image, or not of the logits' size.
pub fn evaluate(logits: &Tensor, masks: &[Mask]) -> Result<Value> {
    let (n, _, h, w) = logits.dims4()?;
    ensure!(masks.len() == n, "full supervision needs a mask for each of {n} crops and got {}", masks.len());
    for mask in masks {
        ensure!(mask.width == w && mask.height == h, "a {}×{} mask for {w}×{h} logits", mask.width, mask.height);
    }
    let truth: Vec<f32> = masks.iter().flat_map(|mask| mask.pixels.iter().map(|&pixel| f32::from(pixel))).collect();
    let logits = logits.reshape((n, h * w))?;
    let truth = constant(truth, &[n, h * w], &logits)?;

    let mut value = Value::new(&logits)?;
    value.add("bce", 1.0, bce(&logits, &truth)?.mean_all()?)?;
    value.add("soft_iou", 1.0, soft_iou(&sigmoid(&logits)?, &truth)?.mean_all()?)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::testing::{check_gradients, random};

    fn masks() -> Vec<Mask> {
        vec![Mask { width: 2, height: 2, pixels: vec![1, 0, 0, 0] }, Mask { width: 2, height: 2, pixels: vec![0; 4] }]
    }

    #[test]
    fn undecided_logits_cost_what_the_hand_says() {
        let logits = Tensor::zeros((2, 1, 2, 2), candle_core::DType::F64, &Device::Cpu).unwrap();
        let terms = evaluate(&logits, &masks()).unwrap().terms().unwrap();
        // p = ½ everywhere: BCE ln 2; soft IoU 1 − 1.5/3.5 and 1 − 1/3, averaged.
        let iou = ((1.0 - 1.5 / 3.5) + (1.0 - 1.0 / 3.0)) / 2.0;
        let expected = [("loss", 2f64.ln() + iou), ("bce", 2f64.ln()), ("soft_iou", iou)];
        for ((name, value), (expected_name, expected)) in terms.iter().zip(expected) {
            assert_eq!(*name, expected_name);
            assert!((value - expected).abs() < 1e-12, "{name} {value}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check_gradients(&[random(5, &[2, 1, 2, 2])], |x| Ok(evaluate(&x[0], &masks()).unwrap().loss));
    }

    #[test]
    fn masks_of_another_number_or_size_are_errors() {
        let logits = Tensor::zeros((2, 1, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(evaluate(&logits, &masks()[..1]).is_err());
        let wide = Mask { width: 4, height: 1, pixels: vec![0; 4] };
        assert!(evaluate(&logits, &[wide.clone(), wide]).is_err());
    }
}
