//! L_prop (METHOD §2, eq. 6): mean_k [ 1 − Σ_i g_k a_k / Σ_i g_k ], how much of its prior a seed's affinity misses.
//!
//! The second drift signal: near 0 says that the affinity is 1 on the whole prior, and together with a large
//! background mass that it is 1 everywhere.

use candle_core::{Result, Tensor};

use super::super::loss::constant;
use super::layout::Layout;

/// Over the anchors whose prior lies in the crop, of a on the supports `[S, L]`; None if there is none.
pub fn propagation(on: &Tensor, layout: &Layout) -> Result<Option<Tensor>> {
    let reach = layout.reach();
    let mut weight = vec![0f32; layout.anchors.len() * reach];
    let mut counted = 0usize;
    for (row, anchor) in layout.anchors.iter().enumerate() {
        let sum: f32 = anchor.support.iter().map(|at| at.g).sum();
        for (column, at) in anchor.support.iter().enumerate() {
            weight[row * reach + column] = at.g / sum;
        }
        counted += usize::from(!anchor.support.is_empty());
    }
    if counted == 0 {
        return Ok(None);
    }
    let weight = constant(weight, &[layout.anchors.len(), reach], on)?;
    (on * weight)?.sum_all()?.affine(-1.0 / counted as f64, 1.0).map(Some)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::target::tests::two_seeds;
    use super::*;

    #[test]
    fn propagation_of_two_seeds_by_hand() {
        let on = Tensor::new(&[[1.0f64, 0.5, 0.0], [0.5, 1.0, 0.0]], &Device::Cpu).unwrap();
        // (1·1 + 0.5·0.5)/1.5 and (0.8·0.5 + 1·1 + 0)/2.05.
        let expected = 1.0 - (1.25 / 1.5 + 1.4 / 2.05) / 2.0;
        let value = propagation(&on, &two_seeds()).unwrap().unwrap().to_scalar::<f64>().unwrap();
        assert!((value - expected).abs() < 1e-6, "{value} {expected}");
    }

    #[test]
    fn a_seed_whose_prior_is_outside_the_crop_does_not_count() {
        let on = Tensor::new(&[[1.0f64, 0.5, 0.0], [0.5, 1.0, 0.0]], &Device::Cpu).unwrap();
        let mut layout = two_seeds();
        layout.anchors[0].support.clear();
        let value = propagation(&on, &layout).unwrap().unwrap().to_scalar::<f64>().unwrap();
        assert!((value - (1.0 - 1.4 / 2.05)).abs() < 1e-6);
        layout.anchors[1].support.clear();
        let none = Tensor::zeros((2, 0), candle_core::DType::F64, &Device::Cpu).unwrap();
        assert!(propagation(&none, &layout).unwrap().is_none());
    }
}
