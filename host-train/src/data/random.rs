//! Seeded random streams that need no state: a stream is a function of what it is for.
//!
//! Nothing carries a generator from one batch to the next, so a run that is interrupted and resumed, or
//! that uses another number of threads, draws exactly the same numbers.

use crc::{CRC_64_XZ, Crc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const NAME_HASH: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// The stream for (`seed`, `purpose`, `epoch`, `index`); the four together are the generator's 256-bit key.
pub fn stream(seed: u64, purpose: &str, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    let purpose = NAME_HASH.checksum(purpose.as_bytes());
    for (part, value) in key.chunks_exact_mut(8).zip([seed, purpose, epoch, index]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A number from N(0, 1), by Box and Muller.
pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // 1 − u lies in (0, 1], so the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let angle = std::f64::consts::TAU * rng.random::<f64>();
    (radius * angle.cos()) as f32
}

/// A number from [−`half_width`, `half_width`); 0 when `half_width` is 0 or less.
pub fn spread(rng: &mut ChaCha8Rng, half_width: f32) -> f32 {
    (2.0 * rng.random::<f32>() - 1.0) * half_width.max(0.0)
}

/// A permutation of 0..`length`, by Fisher and Yates.
pub fn permutation(rng: &mut ChaCha8Rng, length: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        order.swap(last, rng.random_range(0..=last));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_gives_another_stream() {
        let first = |mut rng: ChaCha8Rng| rng.random::<u64>();
        let base = first(stream(1, "crop", 2, 3));
        assert_eq!(base, first(stream(1, "crop", 2, 3)));
        for other in
            [stream(0, "crop", 2, 3), stream(1, "noise", 2, 3), stream(1, "crop", 3, 3), stream(1, "crop", 2, 2)]
        {
            assert_ne!(base, first(other));
        }
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = stream(5, "test", 0, 0);
        let draws: Vec<f64> = (0..40_000).map(|_| f64::from(normal(&mut rng))).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|v| v * v).sum::<f64>() / draws.len() as f64;
        // Five standard errors: 5/√40000 and 5·√(2/40000).
        assert!(mean.abs() < 0.025, "{mean}");
        assert!((variance - 1.0).abs() < 0.036, "{variance}");
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = permutation(&mut stream(9, "test", 0, 0), 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
