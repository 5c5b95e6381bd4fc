//! The matching rule, and what it adds to a score.
use super::{Blob, MATCH_DISTANCE, Score, bin_of};
use crate::detect::Component;

/// Matches `targets` to `found` (both in raster order) and fills the component counts of `score`.
pub(super) fn count(targets: &[Blob], found: &mut [Blob], score: &mut Score) {
    score.targets = targets.len() as u64;
    score.found = found.len() as u64;
    score.predicted_area = found.iter().map(|b| u64::from(b.component.area)).sum();
    for target in targets {
        let target = &target.component;
        let area = u64::from(target.area);
        let hit = found.iter_mut().find(|b| !b.used && near(target, &b.component));
        let Some(bin) = score.bins.get_mut(bin_of(target.area)) else { continue };
        bin.targets += 1;
        bin.intersection += u64::from(target.overlap);
        bin.union += area;
        if let Some(blob) = hit {
            blob.used = true;
            let matched = u64::from(blob.component.area);
            score.matched += 1;
            score.matched_area += matched;
            bin.matched += 1;
            bin.union += matched - u64::from(blob.component.overlap);
            bin.matched_target_area += area;
            bin.matched_area += matched;
        }
    }
}

/// Whether the centroids are less than [`MATCH_DISTANCE`] apart, exactly: |s_a/n_a − s_b/n_b| < d, times n_a·n_b.
fn near(a: &Component, b: &Component) -> bool {
    let (na, nb) = (i128::from(a.area), i128::from(b.area));
    let reach = i128::from(MATCH_DISTANCE) * na * nb;
    let apart = |sa: u64, sb: u64| (i128::from(sa) * nb - i128::from(sb) * na).abs();
    let (dx, dy) = (apart(a.sum_x, b.sum_x), apart(a.sum_y, b.sum_y));
    // A component has at most 2³⁰ pixels, so reach < 2⁶² and after the first test no square overflows.
    dx < reach && dy < reach && dx * dx + dy * dy < reach * reach
}
