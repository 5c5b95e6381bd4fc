//! L_bg: on-line hard example mining (METHOD §2): binary cross-entropy to 0 on the most confident background pixels.
//!
//! Background is where no prior reaches the floor ([`Layout::background`]). Which pixels are hard is decided on the
//! host from detached logits: sorting on a GPU fails beyond a row length, and the choice has no gradient.

use candle_core::{Result, Tensor};

use super::super::loss::{bce, constant, indices, softplus};
use super::layout::Layout;

/// The `count` candidates with the highest logits, in increasing order of index; of equal logits the first. All, if
/// there are fewer. A NaN is the highest logit of all, so that it reaches the loss and is named.
pub fn hardest(logits: &[f32], candidates: impl Iterator<Item = u32>, count: usize) -> Vec<u32> {
    let mut chosen: Vec<u32> = candidates.collect();
    let rank = |&pixel: &u32| {
        let z = logits[pixel as usize];
        (if z.is_nan() { f32::INFINITY } else { z }, pixel)
    };
    if count == 0 {
        return Vec::new();
    }
    if count < chosen.len() {
        chosen.select_nth_unstable_by(count - 1, |a, b| {
            let ((za, a), (zb, b)) = (rank(a), rank(b));
            zb.total_cmp(&za).then(a.cmp(&b))
        });
        chosen.truncate(count);
    }
    chosen.sort_unstable();
    chosen
}

/// The hardest `share` of the batch's background pixels, at least one if there is any.
pub fn hard_background(logits: &[f32], layout: &Layout, share: f64) -> Vec<u32> {
    let candidates = || (0..logits.len() as u32).filter(|&pixel| layout.background[pixel as usize]);
    let count = (share * candidates().count() as f64).ceil() as usize;
    hardest(logits, candidates(), count)
}

/// Mean of −log(1 − σ(z)) over `pixels` (at least one) of `logits` `[N·P]`.
pub fn background(logits: &Tensor, pixels: Vec<u32>) -> Result<Tensor> {
    let count = pixels.len();
    softplus(&logits.index_select(&indices(pixels, &[count], logits)?, 0)?)?.mean_all()
}

/// Mean of the cross-entropy of σ(z) with `targets` over `pixels`: what a global teacher makes of L_bg ([`super::ltd`]).
pub fn answered(logits: &Tensor, pixels: Vec<u32>, targets: Vec<f32>) -> Result<Tensor> {
    let count = pixels.len();
    let targets = constant(targets, &[count], logits)?;
    bce(&logits.index_select(&indices(pixels, &[count], logits)?, 0)?, &targets)?.mean_all()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::target::tests::two_seeds;
    use super::*;

    #[test]
    fn the_hardest_are_the_highest_and_the_first_of_equals() {
        let logits = [1.0, 3.0, -1.0, 3.0, 3.0, 2.0];
        assert_eq!(hardest(&logits, 0..6, 2), [1, 3]);
        assert_eq!(hardest(&logits, [5, 2, 0].into_iter(), 2), [0, 5]);
        assert_eq!(hardest(&logits, 0..3, 9), [0, 1, 2]);
        assert!(hardest(&logits, 0..6, 0).is_empty());
    }

    #[test]
    fn a_share_is_rounded_up_and_priors_are_left_out() {
        let mut layout = two_seeds();
        layout.background = vec![true, true, false, true];
        assert_eq!(hard_background(&[0.0, 1.0, 9.0, 2.0], &layout, 0.34), [1, 3]);
        assert_eq!(hard_background(&[0.0, 1.0, 9.0, 2.0], &layout, 1e-9), [3]);
        layout.background = vec![false; 4];
        assert!(hard_background(&[0.0; 4], &layout, 0.5).is_empty());
    }

    #[test]
    fn a_nan_logit_is_among_the_hardest() {
        assert_eq!(hardest(&[0.0, f32::NAN, 5.0], 0..3, 1), [1]);
    }

    #[test]
    fn the_cost_is_that_of_a_wrong_yes() {
        let logits = Tensor::new(&[0.0f64, 5.0, 3f64.ln()], &Device::Cpu).unwrap();
        // −ln(1 − ½) and −ln(1 − ¾).
        let value = background(&logits, vec![0, 2]).unwrap().to_scalar::<f64>().unwrap();
        assert!((value - (2f64.ln() + 4f64.ln()) / 2.0).abs() < 1e-12);
        // With half a yes as the answer at the second: −½ ln ¾ − ½ ln ¼.
        let value = answered(&logits, vec![0, 2], vec![0.0, 0.5]).unwrap().to_scalar::<f64>().unwrap();
        assert!((value - (2f64.ln() - 0.5 * (0.75f64 * 0.25).ln()) / 2.0).abs() < 1e-12);
    }
}
