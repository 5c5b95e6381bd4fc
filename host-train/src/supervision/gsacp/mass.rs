//! L_mass: the mean affinity outside the prior (METHOD §2), which keeps the affinity compact.
//!
//! It is also the first drift signal: an affinity that has saturated is near 1 everywhere and so is this.

use candle_core::{Result, Tensor};

use super::super::loss::constant;
use super::layout::Layout;

/// Mean over the anchors and all pixels of their image of a_k(i)·(1 − g_k(i)), for `a` `[N, K, P]`, of which a slot
/// without a seed is left out, and a and g on the supports `[S, L]`. At least one anchor.
pub fn mass(a: &Tensor, on: &Tensor, g: &Tensor, layout: &Layout) -> Result<Tensor> {
    let mut weight = vec![0f32; layout.images * layout.slots];
    for anchor in &layout.anchors {
        weight[anchor.image * layout.slots + anchor.slot] = 1.0;
    }
    let weight = constant(weight, &[layout.images * layout.slots], a)?;
    let everywhere = (a.sum(2)?.flatten_all()? * weight)?.sum_all()?;
    // Σ a(1−g) = Σ a − Σ a·g, and g is 0 but on the supports.
    let inside = (on * g)?.sum_all()?;
    (everywhere - inside)? / (layout.anchors.len() * layout.pixels) as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::affinity::on_supports;
    use super::super::target::tests::two_seeds;
    use super::*;

    #[test]
    fn mass_of_two_seeds_by_hand() {
        let a = Tensor::new(&[[[1.0f64, 0.5, 0.25, 0.0], [0.0, 0.5, 1.0, 1.0]]], &Device::Cpu).unwrap();
        let layout = two_seeds();
        let (on, g) = on_supports(&a, &layout).unwrap();
        // First seed: 0 + 0.5·0.5 + 0.25 + 0; second: 0 + 0.5·0.2 + 0 + 1·0.75; over 2 seeds × 4 pixels.
        let value = mass(&a, &on, &g, &layout).unwrap().to_scalar::<f64>().unwrap();
        assert!((value - (0.5 + 0.85) / 8.0).abs() < 1e-7, "{value}");
    }

    #[test]
    fn a_slot_without_a_seed_has_no_mass() {
        let mut layout = two_seeds();
        layout.anchors.pop();
        let a = Tensor::new(&[[[0.0f64, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]], &Device::Cpu).unwrap();
        let (on, g) = on_supports(&a, &layout).unwrap();
        assert_eq!(mass(&a, &on, &g, &layout).unwrap().to_scalar::<f64>().unwrap(), 0.25);
    }
}
