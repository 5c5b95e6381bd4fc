//! Pieces that the loss terms share, stable at any finite logit and differentiable everywhere.

use candle_core::{Result, Tensor};

/// log(1 + eˣ), element by element, as x/2 + |x|/2 + log(1 + e^−|x|): no overflow, and the gradient is σ(x), at 0 too.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    let magnitude = x.abs()?;
    let rest = (magnitude.neg()?.exp()? + 1.0)?.log()?;
    ((x + &magnitude)? * 0.5)? + rest
}

/// Binary cross-entropy of the probability σ(`logits`) with `targets` in [0, 1], element by element.
pub fn bce(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    softplus(logits)? - (logits * targets)?
}

/// σ(x), from operations whose gradients are right.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::sigmoid(x)
}

/// 1 − (Σpt + 1) / (Σp + Σt − Σpt + 1) per row of `p` and `t` `[R, M]`, as `[R]`. The ones keep a row without any
/// target from rewarding tiny probabilities without end.
pub fn soft_iou(p: &Tensor, t: &Tensor) -> Result<Tensor> {
    let overlap = (p * t)?.sum(1)?;
    let union = ((p.sum(1)? + t.sum(1)?)? - &overlap)?;
    ((overlap + 1.0)? / (union + 1.0)?)?.affine(-1.0, 1.0)
}

/// A constant tensor in the dtype and on the device of `like`.
pub fn constant(values: Vec<f32>, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
}

/// A constant index tensor on the device of `like`.
pub fn indices(values: Vec<u32>, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, shape, like.device())
}

/// The values of a tensor, in row-major order, on the host.
pub fn host(x: &Tensor) -> Result<Vec<f32>> {
    x.detach().flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::testing::{check_gradients, random};

    fn vector(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn bce_is_the_negative_logarithm_of_the_probability_given_to_the_truth() {
        let value = bce(&vector(&[0.0, 2.0, -3.0]), &vector(&[1.0, 0.0, 0.25])).unwrap().to_vec1::<f64>().unwrap();
        let p: f64 = 1.0 / (1.0 + 3f64.exp());
        let expected = [2f64.ln(), -(1.0 - 1.0 / (1.0 + (-2f64).exp())).ln(), -0.25 * p.ln() - 0.75 * (1.0 - p).ln()];
        for (value, expected) in value.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-12, "{value} {expected}");
        }
    }

    #[test]
    fn bce_stays_finite_and_linear_at_huge_logits() {
        let logits = Tensor::new(&[1e4f32, -1e4, 1e4, -1e4], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[1f32, 0.0, 0.0, 1.0], &Device::Cpu).unwrap();
        assert_eq!(bce(&logits, &targets).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1e4, 1e4]);
    }

    #[test]
    fn the_gradient_of_bce_is_probability_minus_target_even_at_logit_zero() {
        let logits = Var::new(&[0f64, 1.5], &Device::Cpu).unwrap();
        let loss = bce(&logits, &vector(&[0.0, 1.0])).unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap().get(&logits).unwrap().to_vec1::<f64>().unwrap();
        assert!((gradient[0] - 0.5).abs() < 1e-12);
        assert!((gradient[1] - (1.0 / (1.0 + (-1.5f64).exp()) - 1.0)).abs() < 1e-12);
    }

    #[test]
    fn soft_iou_of_two_rows_by_hand() {
        let p = Tensor::new(&[[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        // Overlap 1.5, union 1.5 + 2 − 1.5 = 2: 1 − 2.5/3; nothing and nothing: 0.
        let value = soft_iou(&p, &t).unwrap().to_vec1::<f64>().unwrap();
        assert!((value[0] - 0.5 / 3.0).abs() < 1e-12 && value[1].abs() < 1e-12);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let t = (random(7, &[2, 5]) * 0.5).unwrap().affine(1.0, 0.5).unwrap();
        check_gradients(&[random(3, &[2, 5])], |x| bce(&x[0], &t));
        check_gradients(&[random(4, &[2, 5])], |x| soft_iou(&sigmoid(&x[0])?, &t));
    }
}
