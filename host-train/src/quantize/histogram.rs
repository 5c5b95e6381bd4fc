//! How often a map takes which values: counts in bins of one width over a symmetric range that doubles as needed.
//!
//! The half-range is a power of two, so widening merges neighbouring bins exactly and the counts do not depend on the
//! order of images or threads.

/// Bins from −2^exponent to 2^exponent.
const BINS: usize = 4096;
/// Smallest half-range, 2^−20: smaller values fall into the two bins at zero.
const LEAST_EXPONENT: i32 = -20;

/// Counts of the values of one map over any number of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    exponent: i32,
    /// Smallest value seen; +∞ before the first.
    pub min: f32,
    /// Largest value seen; −∞ before the first.
    pub max: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BINS], exponent: LEAST_EXPONENT, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts `values`. They must be finite.
    pub fn add(&mut self, values: impl Iterator<Item = f32> + Clone) {
        let (mut min, mut max) = (self.min, self.max);
        for v in values.clone() {
            min = min.min(v);
            max = max.max(v);
        }
        if min > max {
            return;
        }
        (self.min, self.max) = (min, max);
        let mut exponent = self.exponent;
        while 2f32.powi(exponent) <= max.max(-min) {
            exponent += 1;
        }
        self.widen(exponent);
        let per_unit = (BINS / 2) as f32 / 2f32.powi(self.exponent);
        for v in values {
            let bin = (v * per_unit).floor() as isize + (BINS / 2) as isize;
            self.counts[bin.clamp(0, BINS as isize - 1) as usize] += 1;
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        let mut other = other.clone();
        let exponent = self.exponent.max(other.exponent);
        self.widen(exponent);
        other.widen(exponent);
        self.counts.iter_mut().zip(&other.counts).for_each(|(c, o)| *c += o);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Number of values counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Middle and count of every bin that is not empty, from low to high. Bins at the ends are clipped to the values
    /// seen, so that zero stays zero for a map that is never negative.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = 2f64.powi(self.exponent) / (BINS / 2) as f64;
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(i, &count)| {
            let low = (i as f64 - (BINS / 2) as f64) * width;
            let (low, high) = (low.max(f64::from(self.min)), (low + width).min(f64::from(self.max)));
            (0.5 * (low + high), count)
        })
    }

    fn widen(&mut self, exponent: i32) {
        while self.exponent < exponent {
            let half = BINS / 2;
            let mut merged = vec![0; BINS];
            for (i, &count) in self.counts.iter().enumerate() {
                merged[(i + half) / 2] += count;
            }
            self.counts = merged;
            self.exponent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_do_not_depend_on_the_order_of_images() {
        let images: [&[f32]; 3] = [&[0.001, -0.002, 0.0], &[5.0, -3.0, 0.5], &[100.0, 0.25]];
        let of = |order: [usize; 3]| {
            let mut h = Histogram::default();
            order.iter().for_each(|&i| h.add(images[i].iter().copied()));
            h
        };
        let first = of([0, 1, 2]);
        assert_eq!(first, of([2, 1, 0]));
        let mut merged = of([1, 1, 2]);
        merged = {
            let mut h = Histogram::default();
            h.merge(&of([0, 2, 1]));
            h.merge(&merged);
            h
        };
        assert_eq!((merged.total(), merged.min, merged.max), (8 + 8, -3.0, 100.0));
    }

    #[test]
    fn every_bins_middle_is_within_half_a_bin_of_its_values() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 7.9).collect();
        let mut h = Histogram::default();
        h.add(values.iter().copied());
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        let spread = h.bins().flat_map(|(v, n)| std::iter::repeat_n(v, n as usize));
        // Half-range 8, 2048 bins a side.
        assert!(sorted.iter().zip(spread).all(|(&v, b)| (f64::from(v) - b).abs() <= 0.5 * 8.0 / 2048.0 + 1e-6));
    }

    #[test]
    fn a_map_of_zeros_has_one_bin_at_zero() {
        let mut h = Histogram::default();
        h.add([0.0f32; 5].into_iter());
        assert_eq!(h.bins().collect::<Vec<_>>(), [(0.0, 5)]);
    }
}
