//! ASG, adaptive support gate (METHOD §2): each seed's support is a mixture of candidate radii r_1 < … < r_M.
//!
//! ```text
//! h_m(i) = g(i)·exp(−‖i − p‖² / 2r_m²)                     the prior, narrowed to the candidate
//! q_m = 2 Σ h_m·(g·a) / (Σ h_m² + Σ (g·a)²)                quality: how like it is to what the affinity holds of the prior
//! c_m = Σ h_m·a / Σ h_m                                    reliability: how much of it the affinity vouches for
//! w_m ∝ exp(q_m/τ)·1[c_m > κ_m],  κ_m = κ·(m − 1)/(M − 1)  a wider support must be surer
//! g̃(i) = Σ_m w_m h_m(i)
//! ```
//!
//! g̃ takes the place of g in T, L_mass and L_prop. Where no candidate is reliable the narrowest is taken. `prior.sigma` is
//! the greatest reach: candidates narrow it. Which pixels are background and which are near is decided by g, so that the
//! gate cannot turn clutter into target; pixels that it takes away become near pixels whose target is small. The gate is a
//! constant of the step: no gradient flows through q, c and w.
//!
//! **Failure switch** `free`: κ_m = 0 for all m, the radius follows the affinity wherever that goes.

use serde::{Deserialize, Serialize};

use super::layout::{Anchor, Layout};

/// Candidate radii.
pub const CANDIDATES: usize = 3;

/// Whether supports are gated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// The prior as it was drawn.
    #[default]
    Off,
    /// Wider candidates need a higher reliability.
    Reliable,
    /// Quality alone: the failure of a free radius.
    Free,
}

/// Least factor of a candidate: beyond it a prior that lies far from its seed would vanish altogether.
const LEAST: f64 = 1e-9;

/// Replaces the g of every support by the gated g̃, for `a` on the supports, `[S, L]` in row-major order, and returns the
/// mean over the seeds with a support of Σ w_m r_m; `None` without one.
pub fn gate(layout: &mut Layout, a: &[f32], gate: Gate, radii: [f64; CANDIDATES], kappa: f64, tau: f64) -> Option<f64> {
    let (reach, mut sum, mut count) = (layout.reach(), 0.0, 0usize);
    for row in 0..layout.anchors.len() {
        let anchor = &layout.anchors[row];
        if anchor.support.is_empty() {
            continue;
        }
        let distances: Vec<f64> = anchor.support.iter().map(|at| layout.distance_squared(anchor, at.pixel)).collect();
        let a = &a[row * reach..][..anchor.support.len()];
        let h = radii.map(|radius| candidate(anchor, &distances, radius));
        let kappa = if gate == Gate::Free { 0.0 } else { kappa };
        let w = weights(anchor, &h, a, kappa, tau);
        for (place, at) in layout.anchors[row].support.iter_mut().enumerate() {
            at.g = (0..CANDIDATES).map(|m| w[m] * h[m][place]).sum::<f64>() as f32;
        }
        sum += w.iter().zip(radii).map(|(w, r)| w * r).sum::<f64>();
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// h_m on the support.
fn candidate(anchor: &Anchor, distances: &[f64], radius: f64) -> Vec<f64> {
    let narrowed = |d: &f64| (-d / (2.0 * radius * radius)).exp().max(LEAST);
    anchor.support.iter().zip(distances).map(|(at, d)| f64::from(at.g) * narrowed(d)).collect()
}

fn weights(anchor: &Anchor, h: &[Vec<f64>; CANDIDATES], a: &[f32], kappa: f64, tau: f64) -> [f64; CANDIDATES] {
    let held: Vec<f64> = anchor.support.iter().zip(a).map(|(at, &a)| f64::from(at.g) * f64::from(a)).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let a: Vec<f64> = a.iter().map(|&a| f64::from(a)).collect();
    let mut w = [0.0; CANDIDATES];
    for (m, h) in h.iter().enumerate() {
        let quality = 2.0 * dot(h, &held) / (dot(h, h) + dot(&held, &held));
        let reliability = dot(h, &a) / h.iter().sum::<f64>();
        if reliability > kappa * m as f64 / (CANDIDATES - 1) as f64 {
            w[m] = (quality / tau).exp();
        }
    }
    let total: f64 = w.iter().sum();
    match total > 0.0 {
        true => w.map(|w| w / total),
        // Also where a is not finite; the terms that it enters report that.
        false => std::array::from_fn(|m| if m == 0 { 1.0 } else { 0.0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::tests::two_seeds;
    use super::*;

    const RADII: [f64; 3] = [1.0, 2.0, 4.0];

    /// The first seed alone: g = 1 at the seed and ½ beside it.
    fn one() -> Layout {
        let mut layout = two_seeds();
        layout.anchors.pop();
        layout
    }

    /// By hand for a = (1, x): h_m = (1, ½e_m), g·a = (1, ½x), with e_m = exp(−1/2r²).
    fn by_hand(x: f64, kappa: [f64; 3], tau: f64) -> [f64; 3] {
        let w = std::array::from_fn::<f64, 3, _>(|m| {
            let e = (-1.0 / (2.0 * RADII[m] * RADII[m])).exp();
            let quality = 2.0 * (1.0 + 0.25 * e * x) / ((1.0 + 0.25 * e * e) + (1.0 + 0.25 * x * x));
            let reliability = (1.0 + 0.5 * e * x) / (1.0 + 0.5 * e);
            if reliability > kappa[m] { (quality / tau).exp() } else { 0.0 }
        });
        let total: f64 = w.iter().sum();
        w.map(|w| w / total)
    }

    #[test]
    fn the_gate_of_one_seed_by_hand() {
        // x = 0.2: reliabilities 0.814, 0.755, 0.738; with κ = 1.5 the bounds are 0, 0.75, 1.5: two candidates pass.
        for (kind, x, kappa, bounds) in [
            (Gate::Reliable, 0.2, 1.5, [0.0, 0.75, 1.5]),
            (Gate::Reliable, 0.2, 0.5, [0.0, 0.25, 0.5]),
            (Gate::Free, 0.2, 1.5, [0.0, 0.0, 0.0]),
        ] {
            let mut layout = one();
            let radius = gate(&mut layout, &[1.0, x as f32], kind, RADII, kappa, 0.1).unwrap();
            let w = by_hand(x, bounds, 0.1);
            let expected: f64 = w.iter().zip(RADII).map(|(w, r)| w * r).sum();
            assert!((radius - expected).abs() < 1e-6, "{radius} {expected}");
            let edge: f64 = w.iter().zip(RADII).map(|(w, r)| w * 0.5 * (-1.0 / (2.0 * r * r)).exp()).sum();
            let g: Vec<f32> = layout.anchors[0].support.iter().map(|at| at.g).collect();
            assert!((f64::from(g[0]) - 1.0).abs() < 1e-6 && (f64::from(g[1]) - edge).abs() < 1e-6, "{g:?} {edge}");
        }
    }

    #[test]
    fn a_wide_affinity_widens_the_support_and_a_narrow_one_narrows_it() {
        let radius = |x: f32| gate(&mut one(), &[1.0, x], Gate::Reliable, RADII, 0.6, 0.02).unwrap();
        assert!(
            radius(1.0) > radius(0.6) && radius(0.6) > radius(0.0),
            "{} {} {}",
            radius(1.0),
            radius(0.6),
            radius(0.0)
        );
    }

    #[test]
    fn without_a_reliable_candidate_the_narrowest_is_taken() {
        let radius = gate(&mut one(), &[0.0, 0.0], Gate::Reliable, RADII, 0.6, 0.1);
        assert_eq!(radius, Some(1.0));
        assert_eq!(gate(&mut one(), &[f32::NAN, 0.0], Gate::Reliable, RADII, 0.6, 0.1), Some(1.0));
    }

    #[test]
    fn a_support_far_from_its_seed_keeps_a_weight() {
        let mut layout = one();
        layout.anchors[0].support.remove(0);
        gate(&mut layout, &[1.0], Gate::Reliable, [0.01, 0.02, 0.03], 0.6, 0.1).unwrap();
        assert!(layout.anchors[0].support[0].g > 0.0);
        layout.anchors[0].support.clear();
        assert_eq!(gate(&mut layout, &[], Gate::Reliable, RADII, 0.6, 0.1), None);
    }
}
