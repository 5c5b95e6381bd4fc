//! The logistic function of the gates: exact for f32, a table of 256 for int8.

use crate::quant::{Output, Quantised};

/// Steps of a gate's logit per unit in the int8 engine: logits are int8 sixteenths.
pub const GATE_STEPS: i32 = 16;
/// Fraction bits of [`gate`].
pub const GATE_BITS: u32 = 15;

/// σ(x) = 1/(1 + e^−x), within 3·10^−7 of its value, relatively down to e^−87 and 0 below. Without a branch or a call, so
/// that a loop over it becomes vectors. e^−x is 2^n·e^r with |r| ≤ ½·ln 2 and a polynomial in r; not a number stays so.
#[inline(always)]
pub fn sigmoid_f32(x: f32) -> f32 {
    // 2^23 + 2^22: a sum with it is rounded to a whole number, which its low bits then hold.
    const WHOLE: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first has so few bits that n times it is exact.
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    let x = if x < -88.0 { -88.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = WHOLE - x * core::f32::consts::LOG2_E;
    let n = shifted - WHOLE;
    let r = -x - n * LN_2[0] - n * LN_2[1];
    let tail = 0.5 + r * (0.166_666_66 + r * (0.041_666_65 + r * (0.008_333_6 + r * 0.001_392_5)));
    let power = 1.0 + (r + r * r * tail);
    1.0 / (1.0 + f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23)))
}

/// σ of a logit in sixteenths (saturated to int8), in Q0.15.
#[inline]
pub fn gate(logit: i64) -> i32 {
    gate_int8(i8::narrow(Output::int8(0, false).place(logit)))
}

/// [`gate`] of a logit that is saturated already.
#[inline]
pub fn gate_int8(logit: i8) -> i32 {
    i32::from(*TABLE.get(usize::from(logit as u8 ^ 0x80)).unwrap_or(&0))
}

/// round(2^15·σ(i/16)) for i = −128…127.
#[rustfmt::skip]
pub(super) const TABLE: [u16; 256] = [
    11, 12, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 25, 26, 28,
    30, 32, 34, 36, 38, 41, 43, 46, 49, 52, 56, 59, 63, 67, 72, 76,
    81, 86, 92, 98, 104, 111, 118, 125, 133, 142, 151, 161, 171, 182, 194, 206,
    219, 233, 248, 264, 281, 299, 318, 338, 360, 383, 407, 433, 461, 490, 521, 554,
    589, 627, 666, 708, 753, 800, 851, 904, 961, 1021, 1084, 1152, 1223, 1299, 1379, 1464,
    1554, 1649, 1750, 1856, 1969, 2088, 2213, 2346, 2486, 2633, 2789, 2952, 3124, 3306, 3496, 3696,
    3906, 4126, 4357, 4599, 4851, 5115, 5391, 5678, 5978, 6289, 6613, 6949, 7297, 7658, 8031, 8416,
    8813, 9221, 9641, 10072, 10513, 10964, 11424, 11894, 12371, 12856, 13348, 13845, 14347, 14852, 15361, 15872,
    16384, 16896, 17407, 17916, 18421, 18923, 19420, 19912, 20397, 20874, 21344, 21804, 22255, 22696, 23127, 23547,
    23955, 24352, 24737, 25110, 25471, 25819, 26155, 26479, 26790, 27090, 27377, 27653, 27917, 28169, 28411, 28642,
    28862, 29072, 29272, 29462, 29644, 29816, 29979, 30135, 30282, 30422, 30555, 30680, 30799, 30912, 31018, 31119,
    31214, 31304, 31389, 31469, 31545, 31616, 31684, 31747, 31807, 31864, 31917, 31968, 32015, 32060, 32102, 32141,
    32179, 32214, 32247, 32278, 32307, 32335, 32361, 32385, 32408, 32430, 32450, 32469, 32487, 32504, 32520, 32535,
    32549, 32562, 32574, 32586, 32597, 32607, 32617, 32626, 32635, 32643, 32650, 32657, 32664, 32670, 32676, 32682,
    32687, 32692, 32696, 32701, 32705, 32709, 32712, 32716, 32719, 32722, 32725, 32727, 32730, 32732, 32734, 32736,
    32738, 32740, 32742, 32743, 32745, 32746, 32747, 32749, 32750, 32751, 32752, 32753, 32754, 32755, 32756, 32756,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_logistic_function_to_half_a_step() {
        for i in -128i32..128 {
            let exact = 32768.0 / (1.0 + (-f64::from(i) / 16.0).exp());
            assert!((f64::from(gate(i.into())) - exact).abs() <= 0.5, "{i}");
        }
    }

    #[test]
    fn logits_beyond_eight_saturate() {
        assert_eq!(gate(i64::MIN), 11);
        assert_eq!(gate(-129), 11);
        assert_eq!(gate(128), 32_756);
        assert_eq!(gate(i64::MAX), 32_756);
    }

    #[test]
    fn the_float_form_is_close_everywhere() {
        for i in -110_000..=110_000 {
            let x = i as f32 / 1000.0;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(sigmoid_f32(x)) - exact).abs();
            assert!(error <= 3e-7 * exact || (x < -87.0 && error < 1e-37), "{x}: {error}");
        }
    }

    #[test]
    fn the_float_form_survives_any_logit() {
        assert_eq!(sigmoid_f32(0.0), 0.5);
        assert_eq!(sigmoid_f32(f32::INFINITY), 1.0);
        assert!(sigmoid_f32(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid_f32(f32::NAN).is_nan());
    }
}
