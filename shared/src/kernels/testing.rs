//! What the kernels' tests share: seeded maps with gaps between their pixels, and plain indexing.

extern crate std;

use super::{Map, MapMut, Shape};
use core::ops::Range;
use std::{vec, vec::Vec};
use zerocopy::{FromBytes, IntoBytes};

/// A small deterministic stream (splitmix64): tests draw a seed, and the seed draws the map.
pub struct Stream(pub u64);

impl Stream {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn i8s(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.next() as i8).collect()
    }

    /// Weights are symmetric: −128 does not occur.
    pub fn weights(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.next() as i8).max(-127)).collect()
    }

    /// Multiples of 1/64 in [−2, 2): sums of products of two are exact in f32 for short sums.
    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() as i8) as f32 / 64.0).collect()
    }
}

/// Working memory of a convolution, full of nonsense.
pub struct Scratch(Vec<u128>, usize);

impl Scratch {
    pub fn new(kernel: usize, channels: usize) -> Self {
        let len = super::conv::scratch_len(kernel, channels);
        Scratch(vec![0x5A3C_A5C3_7F80_1199; len.div_ceil(16)], len)
    }

    pub fn bytes(&mut self) -> &mut [i8] {
        let all = <[i8]>::mut_from_bytes(self.0.as_mut_bytes()).unwrap();
        &mut all[..self.1]
    }
}

/// A map in a buffer of its own, readable at any coordinate.
#[derive(Clone)]
pub struct TestMap<T> {
    pub data: Vec<T>,
    pub shape: Shape,
}

impl<T: Copy + PartialEq + core::fmt::Debug> TestMap<T> {
    /// A map whose pixels are `gap` elements further apart than its channels.
    pub fn new(data: impl FnOnce(usize) -> Vec<T>, height: usize, width: usize, channels: usize, gap: usize) -> Self {
        let shape = Shape { height, width, channels, stride: channels + gap };
        TestMap { data: data(height * width * (channels + gap)), shape }
    }

    pub fn filled(value: T, height: usize, width: usize, channels: usize, gap: usize) -> Self {
        Self::new(|n| vec![value; n], height, width, channels, gap)
    }

    pub fn map(&self) -> Map<'_, T> {
        Map::new(&self.data, self.shape).unwrap()
    }

    pub fn map_mut(&mut self) -> MapMut<'_, T> {
        MapMut::new(&mut self.data, self.shape).unwrap()
    }

    /// Rows of the map, as a strip's buffer would hold them.
    pub fn band(&self, rows: Range<usize>) -> Map<'_, T> {
        self.map().band(rows).unwrap()
    }

    /// As [`Self::band`], to write.
    pub fn band_mut(&mut self, rows: Range<usize>) -> MapMut<'_, T> {
        let start = rows.start * self.shape.width * self.shape.stride;
        MapMut::of_rows(&mut self.data[start..], self.shape, rows).unwrap()
    }

    /// The value at a coordinate, `outside` beyond the borders.
    pub fn at(&self, y: isize, x: isize, c: usize, outside: T) -> T {
        let (h, w) = (self.shape.height as isize, self.shape.width as isize);
        if (0..h).contains(&y) && (0..w).contains(&x) {
            self.data[(y * w + x) as usize * self.shape.stride + c]
        } else {
            outside
        }
    }

    /// Compares every value with `expected(y, x, channel)`, and every gap with `gap`.
    pub fn assert_is(&self, gap: T, expected: impl Fn(isize, isize, usize) -> T) {
        for (i, &found) in self.data.iter().enumerate() {
            let (p, c) = (i / self.shape.stride, i % self.shape.stride);
            let (y, x) = ((p / self.shape.width) as isize, (p % self.shape.width) as isize);
            let wanted = if c < self.shape.channels { expected(y, x, c) } else { gap };
            assert_eq!(found, wanted, "row {y}, column {x}, channel {c}");
        }
    }
}
