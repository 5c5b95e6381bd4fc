//! HBC, hard-background contrast (METHOD §2): L_hbc = mean_n τ·softplus((⟨q, n⟩ − δ)/τ), negatives only.
//!
//! q are the seeds' unit features and n those of the hardest background pixels of every image of the batch, each q
//! against each n, so that a crop without a target gives negatives too.

use candle_core::{Result, Tensor};

use super::super::loss::{indices, softplus};
use super::background::hardest;
use super::layout::Layout;

/// The hardest background pixels of every image.
#[derive(Clone, Debug, PartialEq)]
pub struct Negatives {
    /// Their places within each image, the same number for every image: one with fewer repeats pixel 0.
    pub places: Vec<Vec<u32>>,
    /// Which of the places, counted through all images, are real.
    pub real: Vec<u32>,
}

/// The `count` hardest background pixels of every image, by the logits of the batch.
pub fn negatives(logits: &[f32], layout: &Layout, count: usize) -> Negatives {
    let mut negatives = Negatives { places: Vec::new(), real: Vec::new() };
    for image in 0..layout.images {
        let first = (image * layout.pixels) as u32;
        let own = (first..first + layout.pixels as u32).filter(|&pixel| layout.background[pixel as usize]);
        let mut places: Vec<u32> = hardest(logits, own, count).iter().map(|pixel| pixel - first).collect();
        negatives.real.extend((0..places.len()).map(|place| (image * count + place) as u32));
        places.resize(count, 0);
        negatives.places.push(places);
    }
    negatives
}

/// Of the unit features `anchors` `[N, D, K]` of the seeds (at least one) and `features` `[N, D, M]` of the negatives'
/// places, of which `real` (at least one) count.
pub fn contrast(
    anchors: &Tensor,
    features: &Tensor,
    real: &[u32],
    layout: &Layout,
    delta: f64,
    tau: f64,
) -> Result<Tensor> {
    let (q, n) = (seed_rows(anchors, layout)?, rows(features, real.to_vec())?);
    let cosine = q.matmul(&n.t()?)?;
    (softplus(&cosine.affine(1.0 / tau, -delta / tau)?)? * tau)?.mean_all()
}

/// The unit features of the seeds, of `anchors` `[N, D, K]`, as rows `[seeds, D]`.
pub(super) fn seed_rows(anchors: &Tensor, layout: &Layout) -> Result<Tensor> {
    let seeds = layout.anchors.iter().map(|anchor| (anchor.image * layout.slots + anchor.slot) as u32).collect();
    rows(anchors, seeds)
}

/// The chosen columns, counted through all images, of `x` `[N, D, M]`, as rows `[chosen, D]`.
fn rows(x: &Tensor, chosen: Vec<u32>) -> Result<Tensor> {
    let (n, d, m) = x.dims3()?;
    let count = chosen.len();
    x.transpose(1, 2)?.contiguous()?.reshape((n * m, d))?.index_select(&indices(chosen, &[count], x)?, 0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::target::tests::two_seeds;
    use super::*;
    use crate::nn::testing::{check_gradients, random};

    #[test]
    fn contrast_of_two_seeds_and_two_negatives_by_hand() {
        // Seeds (1, 0) and (0, 1); negatives (0.6, 0.8) and one that does not count.
        let anchors = Tensor::new(&[[[1.0f64, 0.0], [0.0, 1.0]]], &Device::Cpu).unwrap();
        let features = Tensor::new(&[[[0.6f64, 9.0], [0.8, 9.0]]], &Device::Cpu).unwrap();
        let value = contrast(&anchors, &features, &[0], &two_seeds(), 0.2, 0.1).unwrap().to_scalar::<f64>().unwrap();
        let expected = 0.1 * ((1.0 + 4f64.exp()).ln() + (1.0 + 6f64.exp()).ln()) / 2.0;
        assert!((value - expected).abs() < 1e-12);
    }

    #[test]
    fn every_image_gives_its_own_hardest_and_repeats_do_not_count() {
        let mut layout = two_seeds();
        layout.images = 2;
        layout.background = vec![false, true, true, true, false, false, true, false];
        let chosen = negatives(&[9.0, 1.0, 3.0, 2.0, 9.0, 9.0, 0.0, 9.0], &layout, 2);
        assert_eq!(chosen, Negatives { places: vec![vec![2, 3], vec![2, 0]], real: vec![0, 1, 2] });
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check_gradients(&[random(1, &[1, 3, 2]), random(2, &[1, 3, 4])], |x| {
            contrast(&x[0], &x[1], &[0, 1, 3], &two_seeds(), 0.2, 0.1)
        });
    }
}
