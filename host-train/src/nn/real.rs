//! The two element types of the operations: f32, which is fast, and f64, which proves gradients.

use candle_core::WithDType;

use super::conv::{self, Shape};

/// f32 or f64.
pub(crate) trait Real: WithDType {
    /// e to the power of `self`; for f32 to two units in the last place, and within e^±87.
    fn exponential(self) -> Self;
    /// The nearest integer, ties to the even one.
    fn nearest(self) -> Self;
    /// y = conv(x) + b on the CPU, clipped at zero if `relu`; see [`super::conv`].
    fn conv_forward(shape: &Shape, x: &[Self], w: &[Self], b: Option<&[Self]>, relu: bool) -> Vec<Self>;
    /// The input's gradient of a convolution.
    fn conv_input_gradient(shape: &Shape, w: &[Self], g: &[Self]) -> Vec<Self>;
    /// The weights' gradient of a convolution.
    fn conv_weight_gradient(shape: &Shape, x: &[Self], g: &[Self]) -> Vec<Self>;
}

impl Real for f64 {
    fn exponential(self) -> f64 {
        self.exp()
    }
    fn nearest(self) -> f64 {
        self.round_ties_even()
    }
    fn conv_forward(s: &Shape, x: &[f64], w: &[f64], b: Option<&[f64]>, relu: bool) -> Vec<f64> {
        conv::naive::forward(s, x, w, b, relu)
    }
    fn conv_input_gradient(s: &Shape, w: &[f64], g: &[f64]) -> Vec<f64> {
        conv::naive::input_gradient(s, w, g)
    }
    fn conv_weight_gradient(s: &Shape, x: &[f64], g: &[f64]) -> Vec<f64> {
        conv::naive::weight_gradient(s, x, g)
    }
}

impl Real for f32 {
    /// e^x = 2^n · e^r with n = round(x / ln 2) and |r| ≤ ½ ln 2: Taylor's polynomial of degree 7 leaves 5e-9, and the arithmetic vectorises.
    #[inline(always)]
    fn exponential(self) -> f32 {
        // Adding 1.5·2²³ leaves the integer nearest to a small number in the low bits.
        const ROUND: f32 = 12_582_912.0;
        // ln 2 in two parts, the first exact in few bits, so that n·ln 2 loses nothing.
        const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let x = if self > 87.0 { 87.0 } else { self };
        let x = if x < -87.0 { -87.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN2[0]) - n * LN2[1];
        let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
        let e = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
        let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        e * f32::from_bits(exponent)
    }
    #[inline(always)]
    fn nearest(self) -> f32 {
        self.round_ties_even()
    }
    fn conv_forward(s: &Shape, x: &[f32], w: &[f32], b: Option<&[f32]>, relu: bool) -> Vec<f32> {
        conv::forward(s, x, w, b, relu)
    }
    fn conv_input_gradient(s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
        conv::input_gradient(s, w, g)
    }
    fn conv_weight_gradient(s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
        conv::weight_gradient(s, x, g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_two_units_in_the_last_place() {
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(x.exponential()) - exact).abs() / exact;
            assert!(error < 2.4e-7, "e^{x} is off by {error}");
        }
        assert_eq!(0f32.exponential(), 1.0);
        assert!(f32::NAN.exponential().is_nan());
    }
}
