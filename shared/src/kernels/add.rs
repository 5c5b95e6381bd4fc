//! Sum of two maps of one shape, with or without ReLU.

use super::rescale::{Int8Place, Int8Sum};
use super::{Map, MapMut, widest};
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
    #[cfg_attr(not(kernels = "vnni"), expect(unused_mut))] mut output: MapMut<i8>,
) -> Result<(), Error> {
    let [a, b] = fitted(a, b, &output)?;
    #[cfg(kernels = "vnni")]
    if super::simd::x86::add::add(super::level(), [&a, &b], zeros, scale, place, &mut output).is_some() {
        return Ok(());
    }
    if let (Some(scale), Some(place)) = (Int8Sum::new(scale, zeros), Int8Place::new(place)) {
        return widest(
            #[inline(always)]
            || zip(a, b, output, |a, b| place.place(scale.apply(a, b))),
        );
    }
    let [zero_a, zero_b] = zeros;
    zip(a, b, output, |a, b| {
        let (a, b) = (i32::from(a).wrapping_sub(zero_a), i32::from(b).wrapping_sub(zero_b));
        i8::narrow(place.place(scale.apply(a, b)))
    })
}

/// The rows of both maps that `output` holds.
fn fitted<'a, T: Copy>(a: Map<'a, T>, b: Map<'a, T>, output: &MapMut<T>) -> Result<[Map<'a, T>; 2], Error> {
    let (shape, rows) = (output.shape(), output.rows());
    if !a.shape().same_size(&shape) || !b.shape().same_size(&shape) {
        return Err(Error::Shape);
    }
    Ok([a.band(rows.clone())?, b.band(rows)?])
}

#[cfg_attr(kernels = "vnni", inline(always))]
fn zip<T: Copy>(a: Map<T>, b: Map<T>, mut output: MapMut<T>, sum: impl Fn(T, T) -> T) -> Result<(), Error> {
    let [a, b] = fitted(a, b, &output)?;
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
        each(a, b, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap, in_bands};
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
        fn int8_is_the_exact_sum_rounded_once(seed: u64, h in 1usize..4, band in 1usize..4, w in 1usize..80, c in 1usize..20, gaps in (0usize..3, 0usize..3, 0usize..3), relu: bool,
            zeros in [-128i32..=127, -128i32..=127, -128i32..=127], exponents in [-30f64..14.0, -30f64..14.0]) {
            let mut stream = Stream(seed);
            let a = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.0);
            let b = TestMap::new(|n| stream.i8s(n), h, w, c, gaps.1);
            let mut out = TestMap::filled(99i8, h, w, c, gaps.2);
            let scale = MultiplierPair::from_reals(exponents[0].exp2(), exponents[1].exp2()).unwrap();
            let place = Output::int8(zeros[2], relu);
            in_bands(&[&a, &b], &mut out, band, |rows| rows.start - 1..rows.end, |maps, out| {
                add_int8(maps[0], maps[1], [zeros[0], zeros[1]], scale, place, out).unwrap();
            });
            out.assert_is(99, |y, x, c| {
                let term = |m: &TestMap<i8>, zero, factor| (i128::from(m.at(y, x, c, 0)) - i128::from(zero)) * i128::from(factor);
                let sum: i128 = term(&a, zeros[0], scale.first) + term(&b, zeros[1], scale.second);
                let value = i128::from(zeros[2]) + (2 * sum + (1 << scale.shift)).div_euclid(2 << scale.shift);
                value.clamp(if relu { i128::from(zeros[2]) } else { -128 }, 127) as i8
            });
        }
    }
}
