//! LTD, local teacher decoupling (METHOD §2): PredMix. The averaged network's probability takes a share of the target,
//! in disks around the seeds, where a point does not say how far its target reaches.
//!
//! ```text
//! T̃(i) = (1 − β·1_D(i))·T(i) + β·1_D(i)·P_ema(i)        D = { i : ‖i − p_k‖ ≤ ρ for a seed k of the image }
//! ```
//!
//! T̃ is a constant of the step, as T is: the affinity's own pull on the target (eq. 8) is thinned by an answer that lags
//! behind. The cosine decay of λ_prop that goes with it is `prop_decay_from`.
//!
//! **Failure switch** `everywhere`: the teacher answers for every pixel, the background too, whose target is then β·P_ema
//! instead of 0: what the network once took for a target is taught to it again.

use serde::{Deserialize, Serialize};

use super::layout::Layout;

/// Where the teacher takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// In disks around the seeds.
    #[default]
    Disks,
    /// Everywhere: the failure of a global teacher.
    Everywhere,
}

/// 1_D for every pixel of [`Layout::near`], in its order.
pub fn region(layout: &Layout, radius: f64, region: Region) -> Vec<bool> {
    if region == Region::Everywhere {
        return vec![true; layout.near.len()];
    }
    let inside = |pixel: u32| {
        let image = pixel as usize / layout.pixels;
        let mut own = layout.anchors.iter().filter(|anchor| anchor.image == image);
        own.any(|anchor| layout.distance_squared(anchor, pixel) <= radius * radius)
    };
    layout.near.iter().map(|&pixel| inside(pixel)).collect()
}

/// T̃ of `target` T, where `inside` says so; `teacher` is P_ema at every pixel of the batch.
pub fn mix(target: &mut [f32], teacher: &[f32], inside: &[bool], layout: &Layout, beta: f64) {
    let beta = beta as f32;
    for ((t, &pixel), _) in target.iter_mut().zip(&layout.near).zip(inside).filter(|(_, inside)| **inside) {
        *t = (1.0 - beta) * *t + beta * teacher[pixel as usize];
    }
}

/// The targets β·P_ema of background `pixels` under a global teacher.
pub fn background_targets(teacher: &[f32], pixels: &[u32], beta: f64) -> Vec<f32> {
    pixels.iter().map(|&pixel| beta as f32 * teacher[pixel as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::target::tests::two_seeds;
    use super::*;

    /// Seeds at columns 0 and 2 of a 4×1 crop; all four pixels are near.
    const TEACHER: [f32; 4] = [0.9, 0.2, 0.5, 0.0];

    #[test]
    fn the_teacher_has_its_share_inside_the_disks_only() {
        let mut layout = two_seeds();
        // Without the second seed, the disk of radius 1 around column 0 holds columns 0 and 1.
        layout.anchors.pop();
        let inside = region(&layout, 1.0, Region::Disks);
        assert_eq!(inside, [true, true, false, false]);
        let mut target = [1.0, 0.4, 0.8, 0.1];
        mix(&mut target, &TEACHER, &inside, &layout, 0.25);
        // 0.75·1 + 0.25·0.9 and 0.75·0.4 + 0.25·0.2.
        for (value, expected) in target.iter().zip([0.975, 0.35, 0.8, 0.1]) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    #[test]
    fn a_radius_below_one_is_the_seed_and_a_disk_is_round() {
        assert_eq!(region(&two_seeds(), 0.5, Region::Disks), [true, false, true, false]);
        assert_eq!(region(&two_seeds(), 1.0, Region::Disks), [true; 4]);
    }

    #[test]
    fn a_global_teacher_answers_for_every_pixel() {
        let layout = two_seeds();
        assert_eq!(region(&layout, 0.0, Region::Everywhere), [true; 4]);
        assert_eq!(background_targets(&TEACHER, &[0, 2], 0.5), [0.45, 0.25]);
    }

    #[test]
    fn no_share_is_the_target_itself() {
        let (layout, mut target) = (two_seeds(), [1.0, 0.4, 0.8, 0.1]);
        mix(&mut target, &TEACHER, &[true; 4], &layout, 0.0);
        assert_eq!(target, [1.0, 0.4, 0.8, 0.1]);
    }
}
