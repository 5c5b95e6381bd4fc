//! Random fields with a power-law spectrum: what clouds, sea and ground clutter look like in the infrared.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A field of `width`×`height` values with mean 0 and deviation 1 whose amplitude spectrum falls as 1/f^`slope`, with
/// random phases. `stretch` > 1 makes structures that many times wider than high (waves); `slope` 1 is the rough 1/f
/// clutter of ground, 1.5 to 2 that of clouds. Structures larger than `largest` pixels are left out.
///
/// The field is cut from a periodic square, a power of two a side, larger than the field by at least an eighth.
pub fn field(width: usize, height: usize, slope: f32, stretch: f32, largest: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let longer = width.max(height).max(8);
    let side = (longer + longer / 8).next_power_of_two();
    let half = side as f32 / 2.0;
    let frequency = |index: usize| if index as f32 > half { index as f32 - side as f32 } else { index as f32 };
    let lowest = side as f32 / largest;
    let mut spectrum: Vec<Complex> = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            // The same draw for every frequency, used or not, keeps scenes comparable between settings.
            let angle = rng.random::<f32>() * std::f32::consts::TAU;
            let f = (frequency(column) * stretch).hypot(frequency(row));
            let amplitude = if f < lowest || f == 0.0 { 0.0 } else { f.powf(-slope) };
            spectrum.push([amplitude * angle.cos(), amplitude * angle.sin()]);
        }
    }
    // Rows, then columns by way of a transpose. The real part of a field with free phases has the same spectrum.
    for _ in 0..2 {
        spectrum.chunks_exact_mut(side).for_each(transform);
        transpose(&mut spectrum, side);
    }
    let mut values: Vec<f32> = Vec::with_capacity(width * height);
    for row in spectrum.chunks_exact(side).take(height) {
        values.extend(row[..width].iter().map(|c| c[0]));
    }
    standardise(&mut values);
    values
}

/// Shifts and scales to mean 0 and deviation 1 (a constant becomes 0).
pub fn standardise(values: &mut [f32]) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let scale = if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 };
    values.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * scale) as f32);
}

/// Real and imaginary part.
type Complex = [f32; 2];

/// In-place Fourier transform X[k] = Σ x[n]·e^(−2πi·kn/N) of a power of two values (Cooley and Tukey, radix 2).
fn transform(values: &mut [Complex]) {
    let count = values.len();
    let bits = count.trailing_zeros();
    for index in 0..count {
        let mirrored = index.reverse_bits() >> (usize::BITS - bits.max(1));
        if bits > 0 && index < mirrored {
            values.swap(index, mirrored);
        }
    }
    let mut length = 2;
    while length <= count {
        let turns: Vec<Complex> = (0..length / 2)
            .map(|k| {
                let (sine, cosine) = (-std::f64::consts::TAU * k as f64 / length as f64).sin_cos();
                [cosine as f32, sine as f32]
            })
            .collect();
        for block in values.chunks_exact_mut(length) {
            let (low, high) = block.split_at_mut(length / 2);
            for ((a, b), [re, im]) in low.iter_mut().zip(high).zip(&turns) {
                let turned = [b[0] * re - b[1] * im, b[0] * im + b[1] * re];
                *b = [a[0] - turned[0], a[1] - turned[1]];
                *a = [a[0] + turned[0], a[1] + turned[1]];
            }
        }
        length *= 2;
    }
}

fn transpose(values: &mut [Complex], side: usize) {
    for row in 0..side {
        for column in row + 1..side {
            values.swap(row * side + column, column * side + row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::stream;
    use super::*;

    #[test]
    fn the_transform_is_the_sum_of_its_definition() {
        let mut rng = stream(1, "test", 0, 0);
        for count in [1, 2, 8, 64] {
            let values: Vec<Complex> = (0..count).map(|_| [rng.random(), rng.random()]).collect();
            let mut fast = values.clone();
            transform(&mut fast);
            for (k, found) in fast.iter().enumerate() {
                let mut sum = [0.0f64; 2];
                for (n, value) in values.iter().enumerate() {
                    let (sine, cosine) = (-std::f64::consts::TAU * (k * n) as f64 / count as f64).sin_cos();
                    let [re, im] = value.map(f64::from);
                    sum = [sum[0] + re * cosine - im * sine, sum[1] + re * sine + im * cosine];
                }
                assert!((sum[0] - f64::from(found[0])).abs() < 1e-4 && (sum[1] - f64::from(found[1])).abs() < 1e-4);
            }
        }
    }

    /// Mean power of the differences over `step` pixels along a row and along a column.
    fn structure(values: &[f32], side: usize, step: usize) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for y in 0..side - step {
            for x in 0..side - step {
                let here = values[y * side + x];
                sums[0] += f64::from(values[y * side + x + step] - here).powi(2);
                sums[1] += f64::from(values[(y + step) * side + x] - here).powi(2);
            }
        }
        sums
    }

    #[test]
    fn the_power_of_differences_grows_with_distance_as_the_slope_says() {
        // Amplitude 1/f^s in the plane: D(r) ~ r^(2s − 2) for 1 < s < 2. For s = 1.5 doubling r doubles D.
        let mut ratios = [0.0; 2];
        for index in 0..8 {
            let values = field(256, 256, 1.5, 1.0, 1e9, &mut stream(4, "test", 0, index));
            let (near, far) = (structure(&values, 256, 4), structure(&values, 256, 8));
            ratios[0] += far[0] / near[0] / 8.0;
            ratios[1] += far[1] / near[1] / 8.0;
        }
        assert!(ratios.iter().all(|r| (1.7..2.2).contains(r)), "{ratios:?}");
    }

    #[test]
    fn stretched_fields_change_more_slowly_along_rows() {
        let values = field(128, 128, 1.5, 4.0, 1e9, &mut stream(4, "test", 0, 0));
        let [along, across] = structure(&values, 128, 2);
        assert!(across > 2.0 * along, "{along} {across}");
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-3);
    }
}
