//! Scale and zero point of a map: the pair of least squared error over its histogram.
//!
//! real = scale·(q − zero point), q in [−128, 127]. A map that is never negative gets zero point −128, so that all 256
//! steps serve it and ReLU is the clamp itself. Otherwise both ends of the range are searched: narrowing it clips rare
//! values and makes every other one finer. Real zero is always a step of its own (padding must be exact).

use super::histogram::Histogram;

/// Smallest step: a map that is zero throughout still needs one.
const LEAST_SCALE: f64 = 1e-8;
/// Shares of the full range that are tried in the first, coarse search: 1, 1 − 1/32, … 1/32.
const SHARES: usize = 32;

/// Scale and zero point of an int8 map.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Affine {
    /// Real value of one step, above 0.
    pub scale: f64,
    /// The integer that stands for real zero.
    pub zero_point: i8,
}

impl Affine {
    /// The steps that cover [`low`, `high`] (widened to hold zero) as well as 255 steps can.
    pub fn covering(low: f64, high: f64) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        // An f32 value, as files and engines hold it.
        let scale = f64::from(((high - low) / 255.0).max(LEAST_SCALE) as f32);
        let zero_point = (-128.0 - low / scale).round().clamp(-128.0, 127.0) as i8;
        Self { scale, zero_point }
    }

    /// The nearest step to `value`, saturated.
    pub fn quantise(self, value: f64) -> i8 {
        ((value / self.scale).round() + f64::from(self.zero_point)).clamp(-128.0, 127.0) as i8
    }

    /// The real value of a step.
    pub fn real(self, q: i8) -> f64 {
        self.scale * f64::from(i32::from(q) - i32::from(self.zero_point))
    }

    /// Sum of squared errors over a histogram. A bin that is wider than a step adds its own spread to every candidate
    /// alike, so only the middles count.
    pub fn squared_error(self, histogram: &Histogram) -> f64 {
        histogram.bins().map(|(v, count)| (self.real(self.quantise(v)) - v).powi(2) * count as f64).sum()
    }

    /// The parameters of least squared error over the histogram.
    pub fn search(histogram: &Histogram) -> Self {
        let bins: Vec<(f64, f64)> = histogram.bins().map(|(v, count)| (v, count as f64)).collect();
        let (low, high) = (f64::from(histogram.min).min(0.0), f64::from(histogram.max).max(0.0));
        if bins.is_empty() || high - low <= 255.0 * LEAST_SCALE {
            return Self::covering(low.max(-LEAST_SCALE), high.min(LEAST_SCALE));
        }
        let error = |a: Self| bins.iter().map(|&(v, n)| (a.real(a.quantise(v)) - v).powi(2) * n).sum::<f64>();
        let best_of = |candidates: &mut dyn Iterator<Item = (f64, f64)>| {
            candidates
                .map(|(l, h)| (error(Self::covering(l * low, h * high)), l, h))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map_or((1.0, 1.0), |(_, l, h)| (l, h))
        };
        let step = 1.0 / SHARES as f64;
        let share = |i: usize| 1.0 - i as f64 * step;
        // Both ends together, then each end alone, then both in steps of an eighth around the best.
        let (mut l, mut h) = best_of(&mut (0..SHARES).map(|i| (share(i), share(i))));
        let ends = |both: bool| if both { 0..SHARES } else { 0..1 };
        for _ in 0..2 {
            h = best_of(&mut ends(high > 0.0).map(|i| (l, share(i)))).1;
            l = best_of(&mut ends(low < 0.0).map(|i| (share(i), h))).0;
        }
        let fine = |x: f64| (-8..=8).map(move |k| (x + f64::from(k) * step / 8.0).clamp(step / 8.0, 1.0));
        let fine_low: Vec<f64> = if low < 0.0 { fine(l).collect() } else { vec![1.0] };
        let fine_high: Vec<f64> = if high > 0.0 { fine(h).collect() } else { vec![1.0] };
        (l, h) = best_of(&mut fine_low.iter().flat_map(|&l| fine_high.iter().map(move |&h| (l, h))));
        Self::covering(l * low, h * high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut h = Histogram::default();
        h.add(values.iter().copied());
        h
    }

    #[test]
    fn real_zero_is_a_step_of_its_own() {
        for (low, high) in [(0.0, 5.0), (-3.0, 0.0), (-1.0, 2.0), (-0.001, 100.0)] {
            let a = Affine::covering(low, high);
            assert_eq!(a.real(a.quantise(0.0)), 0.0);
        }
    }

    #[test]
    fn a_map_that_is_never_negative_has_zero_point_minus_128() {
        let values: Vec<f32> = (0..500).map(|i| i as f32 * 0.01).collect();
        assert_eq!(Affine::search(&histogram(&values)).zero_point, -128);
    }

    #[test]
    fn a_uniform_map_is_covered_whole() {
        let values: Vec<f32> = (0..=4000).map(|i| i as f32 / 1000.0 - 1.0).collect();
        let a = Affine::search(&histogram(&values));
        assert!((a.scale - 4.0 / 255.0).abs() < 0.02 * 4.0 / 255.0, "{a:?}");
        assert!((a.real(-128) + 1.0).abs() < 0.05 && (a.real(127) - 3.0).abs() < 0.05, "{a:?}");
    }

    /// 10,000 values in [0, 1) and one at 30: covering it would make the step 30 times coarser.
    #[test]
    fn a_rare_outlier_is_clipped_when_that_lowers_the_error() {
        let mut values: Vec<f32> = (0..1_000_000).map(|i| i as f32 / 1e6).collect();
        values.push(10.0);
        let h = histogram(&values);
        let found = Affine::search(&h);
        let covering = Affine::covering(0.0, 10.0);
        assert!(found.real(127) < 8.0, "{found:?}");
        assert!(found.squared_error(&h) < 0.9 * covering.squared_error(&h));
    }

    #[test]
    fn a_map_of_zeros_has_a_scale_above_zero() {
        let a = Affine::search(&histogram(&[0.0; 8]));
        assert!(a.scale > 0.0 && a.real(a.quantise(0.0)) == 0.0);
        assert!(Affine::search(&Histogram::default()).scale > 0.0);
    }
}
