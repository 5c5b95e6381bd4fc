//! Sum of two maps of one shape, with or without ReLU.

use super::rescale::{Int8Place, Int8Sum};
use super::{Map, MapMut};
use crate::Error;
use crate::quant::{MultiplierPair, Output, Quantised};

/// out = a + b, clamped at zero where `relu` is set.
pub fn add_f32(a: Map<f32>, b: Map<f32>, relu: bool, output: MapMut<f32>) -> Result<(), Error> {
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    zip(a, b, output, |a, b| (a + b).max(low))
}

/// The sum rescaled to the output and rounded once: `scale` is (scale_a/scale_out, scale_b/scale_out), `zeros` are the
/// zero points of a and b.
pub fn add_int8(
    a: Map<i8>,
    b: Map<i8>,
    zeros: [i32; 2],
    scale: MultiplierPair,
    place: Output,
    output: MapMut<i8>,
) -> Result<(), Error> {
    if let (Some(scale), Some(place)) = (Int8Sum::new(scale, zeros), Int8Place::new(place)) {
        return zip(a, b, output, |a, b| place.place(scale.apply(a, b)));
    }
    let [zero_a, zero_b] = zeros;
    zip(a, b, output, |a, b| {
        let (a, b) = (i32::from(a).wrapping_sub(zero_a), i32::from(b).wrapping_sub(zero_b));
        i8::narrow(place.place(scale.apply(a, b)))
    })
}

fn zip<T: Copy>(a: Map<T>, b: Map<T>, mut output: MapMut<T>, sum: impl Fn(T, T) -> T) -> Result<(), Error> {
    if !a.shape().same_size(&output.shape()) || !b.shape().same_size(&output.shape()) {
        return Err(Error::Shape);
    }
    let each = |a: &[T], b: &[T], out: &mut [T]| {
        for ((&a, &b), out) in a.iter().zip(b).zip(out) {
            *out = sum(a, b);
        }
    };
    if let (Some(a), Some(b), Some(out)) = (a.dense(), b.dense(), output.dense_mut()) {
        each(a, b, out);
        return Ok(());
    }
    for ((a, b), out) in a.pixels().zip(b.pixels()).zip(output.pixels_mut()) {
        // Channels come in fours but in the narrowest maps.
        let ((a, a_rest), (b, b_rest), (out, out_rest)) =
            (a.as_chunks::<4>(), b.as_chunks::<4>(), out.as_chunks_mut::<4>());
        for ((a, b), out) in a.iter().zip(b).zip(out) {
            *out = [sum(a[0], b[0]), sum(a[1], b[1]), sum(a[2], b[2]), sum(a[3], b[3])];
        }
        each(a_rest, b_rest, out_rest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_of_another_size_are_an_error() {
        let (a, b) = (TestMap::filled(1f32, 2, 2, 1, 0), TestMap::filled(1f32, 2, 3, 1, 0));
        let mut out = TestMap::filled(0f32, 2, 2, 1, 0);
        assert_eq!(add_f32(a.map(), b.map(), false, out.map_mut()), Err(Error::Shape));
        add_f32(a.map(), a.map(), false, out.map_mut()).unwrap();
        assert_eq!(out.data, [2.0; 4]);
    }

    proptest! {
        #[test]
        fn float_is_the_sum(seed: u64, gaps in (0usize..3, 0usize..3, 0usize..3), relu: bool) {
            let mut stream = Stream(seed);
            let a = TestMap::new(|n| stream.f32s(n), 3, 4, 5, gaps.0);
            let b = TestMap::new(|n| stream.f32s(n), 3, 4, 5, gaps.1);
            let mut out = TestMap::filled(99f32, 3, 4, 5, gaps.2);
            add_f32(a.map(), b.map(), relu, out.map_mut()).unwrap();
            out.assert_is(99.0, |y, x, c| {
                let sum = a.at(y, x, c, 0.0) + b.at(y, x, c, 0.0);
                if relu && sum < 0.0 { 0.0 } else { sum }
            });
        }

        #[test]
        fn int8_is_the_exact_sum_rounded_once(seed: u64, gaps in (0usize..3, 0usize..3, 0usize..3), relu: bool,
            zeros in [-128i32..=127, -128i32..=127, -128i32..=127], factors in [1e-4f64..4.0, 1e-4f64..4.0]) {
            let mut stream = Stream(seed);
            let a = TestMap::new(|n| stream.i8s(n), 3, 4, 5, gaps.0);
            let b = TestMap::new(|n| stream.i8s(n), 3, 4, 5, gaps.1);
            let mut out = TestMap::filled(99i8, 3, 4, 5, gaps.2);
            let scale = MultiplierPair::from_reals(factors[0], factors[1]).unwrap();
            add_int8(a.map(), b.map(), [zeros[0], zeros[1]], scale, Output::int8(zeros[2], relu), out.map_mut()).unwrap();
            out.assert_is(99, |y, x, c| {
                let term = |m: &TestMap<i8>, zero, factor| (i128::from(m.at(y, x, c, 0)) - i128::from(zero)) * i128::from(factor);
                let sum: i128 = term(&a, zeros[0], scale.first) + term(&b, zeros[1], scale.second);
                let value = i128::from(zeros[2]) + (2 * sum + (1 << scale.shift)).div_euclid(2 << scale.shift);
                value.clamp(if relu { i128::from(zeros[2]) } else { -128 }, 127) as i8
            });
        }
    }
}
