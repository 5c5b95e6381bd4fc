//! What the kernels' tests share: seeded maps with gaps between their pixels, and plain indexing.

extern crate std;

use super::conv::Window;
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

    /// In [−1, 1), with all bits of an f32's significand.
    #[cfg(kernels = "vnni")]
    pub fn reals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() as i32) as f32 / (1u32 << 31) as f32).collect()
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

/// Runs a kernel for one band of `out`'s rows after the other, `height` rows in each, on views of no rows but those that
/// it computes and those that `reads` says it needs for them; these may reach beyond the map.
pub fn in_bands<S, O>(
    inputs: &[&TestMap<S>],
    out: &mut TestMap<O>,
    height: usize,
    reads: impl Fn(Range<isize>) -> Range<isize>,
    mut run: impl FnMut(&[Map<S>], MapMut<O>),
) where
    S: Copy + PartialEq + core::fmt::Debug,
    O: Copy,
{
    let (shape, row) = (out.shape, out.shape.width * out.shape.stride);
    for (i, data) in out.data.chunks_mut(height * row).enumerate() {
        let rows = i * height..(i * height + height).min(shape.height);
        let read = reads(rows.start as isize..rows.end as isize);
        let views: Vec<Map<S>> = inputs
            .iter()
            .map(|map| {
                let clamp = |y: isize| y.clamp(0, map.shape.height as isize) as usize;
                map.map().band(clamp(read.start)..clamp(read.end)).unwrap()
            })
            .collect();
        run(&views, MapMut::of_rows(data, shape, rows).unwrap());
    }
}

/// What a convolution reads, for [`in_bands`].
pub fn conv_reads(window: Window) -> impl Fn(Range<isize>) -> Range<isize> {
    let [reach, stride] = [(window.kernel - 1) / 2 * window.dilation, window.stride].map(|n| n as isize);
    move |rows| rows.start * stride - reach..(rows.end - 1) * stride + reach + 1
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
