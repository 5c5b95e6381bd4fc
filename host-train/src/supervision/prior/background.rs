//! What surrounds a target: a plane, a level, a noise.

use super::config::PriorConfig;
use super::{LEAST_CONTRAST, View};

/// Half-side of the square around the seed that the background plane does not see.
const CORE: i32 = 4;

/// Background around a seed: level and slopes at it, and the noise about them.
pub(super) struct Background {
    /// Grey value.
    pub level: f32,
    /// Rise per column and per row.
    pub slope: (f32, f32),
    /// Standard deviation.
    pub noise: f32,
}

impl Background {
    /// Of the window of half-side `half` around (`x`, `y`).
    pub fn around(view: View, x: i32, y: i32, half: i32, config: &PriorConfig) -> Self {
        let slope = if config.tilt { plane_slope(view, x, y, half) } else { (0.0, 0.0) };
        let mut rest: Vec<f32> = view
            .window(x, y, half)
            .map(|(u, v, value)| value - slope.0 * (u - x) as f32 - slope.1 * (v - y) as f32)
            .collect();
        let level = percentile(&mut rest, config.percentile);
        let median = percentile(&mut rest, 0.5);
        rest.iter_mut().for_each(|value| *value = (*value - median).abs());
        // 1.4826 times the median absolute deviation is the standard deviation of a normal distribution.
        Self { level, slope, noise: 1.4826 * percentile(&mut rest, 0.5) }
    }

    /// How much brighter the pixel `seed` is, at least [`LEAST_CONTRAST`].
    pub fn contrast(&self, view: View, seed: (i32, i32)) -> f32 {
        (view.at(seed.0, seed.1) - self.level).max(LEAST_CONTRAST)
    }
}

/// Slopes of the least-squares plane through the window, without its brightest tenth and the seed's core.
fn plane_slope(view: View, x: i32, y: i32, half: i32) -> (f32, f32) {
    let mut values: Vec<f32> = view.window(x, y, half).map(|(_, _, value)| value).collect();
    let most = percentile(&mut values, 0.9);
    // Sums of 1, dx, dy, dx², dy², dx·dy, I, dx·I, dy·I.
    let mut s = [0f64; 9];
    for (u, v, value) in view.window(x, y, half) {
        if value <= most && ((u - x).abs() > CORE || (v - y).abs() > CORE) {
            let (dx, dy, i) = (f64::from(u - x), f64::from(v - y), f64::from(value));
            for (sum, term) in s.iter_mut().zip([1.0, dx, dy, dx * dx, dy * dy, dx * dy, i, dx * i, dy * i]) {
                *sum += term;
            }
        }
    }
    if s[0] == 0.0 {
        return (0.0, 0.0);
    }
    let mean = s.map(|sum| sum / s[0]);
    let (xx, yy, xy) = (mean[3] - mean[1] * mean[1], mean[4] - mean[2] * mean[2], mean[5] - mean[1] * mean[2]);
    let (xi, yi) = (mean[7] - mean[1] * mean[6], mean[8] - mean[2] * mean[6]);
    let determinant = xx * yy - xy * xy;
    if determinant <= 1e-9 {
        return (0.0, 0.0);
    }
    (((xi * yy - yi * xy) / determinant) as f32, ((yi * xx - xi * xy) / determinant) as f32)
}

/// The value of which a share `q` of `values` (not empty) is below, by the nearest rank.
pub(super) fn percentile(values: &mut [f32], q: f32) -> f32 {
    let rank = ((values.len() - 1) as f32 * q).round() as usize;
    *values.select_nth_unstable_by(rank, f32::total_cmp).1
}
