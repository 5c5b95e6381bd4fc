//! L_point: binary cross-entropy to 1 at the seeds only (METHOD §2).

use candle_core::{Result, Tensor};

use super::super::loss::{indices, softplus};
use super::layout::Layout;

/// Mean over the anchors of −log σ(z) at their pixels; `logits` `[N·P]`, at least one anchor.
pub fn point(logits: &Tensor, layout: &Layout) -> Result<Tensor> {
    let pixels: Vec<u32> = layout.anchors.iter().map(|anchor| anchor.pixel).collect();
    let count = pixels.len();
    softplus(&logits.index_select(&indices(pixels, &[count], logits)?, 0)?.neg()?)?.mean_all()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::target::tests::two_seeds;
    use super::*;

    #[test]
    fn only_the_seeds_count() {
        let value = |z: &[f64; 4]| {
            let logits = Tensor::new(z, &Device::Cpu).unwrap();
            point(&logits, &two_seeds()).unwrap().to_scalar::<f64>().unwrap()
        };
        // Seeds at pixels 0 and 2.
        let expected = (2f64.ln() + (1.0 + (-3f64).exp()).ln()) / 2.0;
        assert!((value(&[0.0, 9.0, 3.0, -9.0]) - expected).abs() < 1e-12);
        assert_eq!(value(&[0.0, 9.0, 3.0, -9.0]), value(&[0.0, -7.0, 3.0, 4.0]));
    }
}
