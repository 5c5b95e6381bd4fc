//! Maximum over squares of 2, 4, 8 or 16 pixels, stride the same. Exact in both forms: the scale does not change.

use super::{Map, MapMut};
use crate::Error;

/// `output` has 1/`size` of the input's height and width, which are multiples of `size`.
pub fn max_pool<T: Copy + PartialOrd>(size: usize, input: Map<T>, mut output: MapMut<T>) -> Result<(), Error> {
    let (from, to) = (input.shape(), output.shape());
    if !matches!(size, 2 | 4 | 8 | 16) {
        return Err(Error::Unsupported);
    }
    if from.height != size * to.height || from.width != size * to.width || from.channels != to.channels {
        return Err(Error::Shape);
    }
    #[cfg(kernels = "vnni")]
    if super::simd::x86::max_pool::max_pool(size, &input, &mut output).is_some() {
        return Ok(());
    }
    for y in output.rows() {
        for dy in 0..size {
            let row = input.row(y * size + dy).ok_or(Error::Shape)?;
            for (group, out) in row.groups(size).zip(output.pixels_from_mut(y, 0)) {
                for (dx, pixel) in group.enumerate() {
                    for (out, &value) in out.iter_mut().zip(pixel) {
                        if (dy == 0 && dx == 0) || value > *out {
                            *out = value;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stream, TestMap, in_bands};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_corner_of_the_square_counts() {
        for peak in 0..4 {
            let mut input = TestMap::filled(-5i8, 2, 2, 1, 0);
            input.data[peak] = 3;
            let mut out = TestMap::filled(100i8, 1, 1, 1, 0);
            max_pool(2, input.map(), out.map_mut()).unwrap();
            assert_eq!(out.data, [3]);
        }
    }

    #[test]
    fn a_size_that_the_network_has_not_is_an_error() {
        let input = TestMap::filled(0f32, 6, 6, 1, 0);
        assert_eq!(max_pool(3, input.map(), TestMap::filled(0f32, 2, 2, 1, 0).map_mut()), Err(Error::Unsupported));
        assert_eq!(max_pool(2, input.map(), TestMap::filled(0f32, 2, 3, 1, 0).map_mut()), Err(Error::Shape));
    }

    proptest! {
        #[test]
        fn the_maximum_of_each_square(seed: u64, log in 1u32..5, h in 1usize..4, band in 1usize..4, w in 1usize..24, c in 1usize..40,
            gaps in (0usize..3, 0usize..3)) {
            let size = 1usize << log;
            let input = TestMap::new(|n| Stream(seed).i8s(n), h * size, w * size, c, gaps.0);
            let mut out = TestMap::filled(99i8, h, w, c, gaps.1);
            let n = size as isize;
            in_bands(&[&input], &mut out, band, |rows| rows.start * n..rows.end * n, |maps, out| {
                max_pool(size, maps[0], out).unwrap();
            });
            out.assert_is(99, |y, x, channel| {
                (0..n * n).map(|i| input.at(y * n + i / n, x * n + i % n, channel, 0)).max().unwrap()
            });
        }
    }
}
