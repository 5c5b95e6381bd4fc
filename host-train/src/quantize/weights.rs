//! Weights of one channel to int8, and the proof that no accumulator overflows.

use anyhow::{Result, ensure};

/// Shares of the largest weight at which a channel may be clipped.
const CLIPS: [f32; 12] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.78, 0.74, 0.7, 0.65, 0.6];
/// Smallest step: a channel of zeros still needs one, and a factor must not underflow.
const LEAST_SCALE: f32 = 1e-12;
/// Largest bias, so that the zero point's share and the products fit beside it.
const BIAS_LIMIT: f64 = (1u64 << 29) as f64;

/// One output channel: `weight[i] ≈ scale·q[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Integers in [−127, 127].
    pub q: Vec<i8>,
    /// Real value of one step, above 0.
    pub scale: f32,
}

/// Quantises one channel symmetrically with the clip of least error, Σ importance·(w − scale·q)². `importance` repeats
/// over the weights (one value for every input channel: its mean square); `least_scale` bounds the scale from below.
pub fn quantise_channel(weight: &[f32], importance: &[f64], least_scale: f32) -> Channel {
    let largest = weight.iter().fold(0f32, |m, w| m.max(w.abs()));
    let round = |w: f32, scale: f32| (w / scale).round().clamp(-127.0, 127.0);
    let error = |scale: f32| -> f64 {
        let per_weight = weight.iter().zip(importance.iter().cycle());
        per_weight.map(|(&w, &i)| i * f64::from(w - scale * round(w, scale)).powi(2)).sum()
    };
    let scale = CLIPS
        .iter()
        .map(|clip| (clip * largest / 127.0).max(least_scale).max(LEAST_SCALE))
        .map(|scale| (error(scale), scale))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(LEAST_SCALE, |(_, scale)| scale);
    Channel { q: weight.iter().map(|&w| round(w, scale) as i8).collect(), scale }
}

/// The smallest weight scale at which `bias` stays below 2²⁹ steps of `input_scale`·scale.
pub fn least_weight_scale(bias: f64, input_scale: f64) -> f32 {
    (bias.abs() / (input_scale * BIAS_LIMIT)) as f32
}

/// Proves for one output channel that no order of additions can leave int32. The engine adds x·w over x in [−128, 127]
/// to bias − zero·Σw (`ConvChannel::folded`), so its sums stay within Σ|w|·128 + |bias − zero·Σw|.
/// `what` names the layer and channel.
///
pub fn prove_no_overflow(what: &str, weights: &[i8], bias: i32, zero_point: i8) -> Result<()> {
    let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
    let magnitude: i64 = weights.iter().map(|w| i64::from(w.unsigned_abs())).sum();
    let reach = 128 * magnitude + (i64::from(bias) - i64::from(zero_point) * sum).abs();
    ensure!(
        reach <= i64::from(i32::MAX),
        "{what}: its accumulator can reach {reach}, beyond int32: the layer has too many inputs or too large a bias"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_within_half_a_step() {
        let weight: Vec<f32> = (0..72).map(|i| (i as f32 * 1.7).sin()).collect();
        let c = quantise_channel(&weight, &[1.0], 0.0);
        let clipped = 127.0 * c.scale;
        for (&w, &q) in weight.iter().zip(&c.q) {
            let error = (w - c.scale * f32::from(q)).abs();
            assert!(error <= 0.5 * c.scale + 1e-6 || w.abs() > clipped, "{w} {q}");
        }
        assert!(c.q.iter().all(|&q| q >= -127));
    }

    /// The first input channel is a thousand times as strong: its weights decide the scale, the other's is clipped.
    #[test]
    fn the_clip_is_chosen_by_what_the_inputs_carry() {
        let mut weight: Vec<f32> = (0..40).map(|i| 0.01 * ((i * 7 % 13) as f32 - 6.0)).collect();
        weight[1] = 0.1;
        let plain = quantise_channel(&weight, &[1.0, 1.0], 0.0);
        let weighted = quantise_channel(&weight, &[1000.0, 1e-3], 0.0);
        assert!(weighted.scale < plain.scale, "{} {}", weighted.scale, plain.scale);
    }

    #[test]
    fn a_channel_of_zeros_is_quantised_to_zeros() {
        let c = quantise_channel(&[0.0; 9], &[1.0], 0.0);
        assert_eq!(c.q, [0; 9]);
        assert!(c.scale > 0.0);
    }

    /// With zero point −128 and positive weights: Σ|w|·128 + 128·Σw = 256·127·n; n = 66,052 leaves 1,023.
    #[test]
    fn the_overflow_proof_fails_exactly_beyond_int32() {
        let weights = vec![127i8; 66_052];
        let spare = i32::MAX - 256 * 127 * 66_052;
        assert!(prove_no_overflow("wide, channel 3", &weights, spare, -128).is_ok());
        let error = prove_no_overflow("wide, channel 3", &weights, spare + 1, -128).unwrap_err().to_string();
        assert!(error.contains("wide, channel 3") && error.contains("2147483648"), "{error}");
        // Without a zero point's share the same weights have room for a bias of half the range.
        assert!(prove_no_overflow("wide, channel 3", &weights, 1 << 30, 0).is_ok());
    }

    #[test]
    fn a_large_bias_raises_the_weight_scale_until_it_fits() {
        let least = least_weight_scale(1e6, 1e-4);
        let c = quantise_channel(&[1e-9, -1e-9], &[1.0], least);
        assert!(1e6 / (1e-4 * f64::from(c.scale)) <= 1.001 * BIAS_LIMIT);
    }
}
