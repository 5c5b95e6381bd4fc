//! Exact sums of a vector of pixels to int8: [`HighWord`] and [`crate::kernels::rescale::Int8Place`].

use core::arch::x86_64::_mm_setr_epi8;

use super::vector::Vector;
use crate::kernels::rescale::HighWord;
use crate::quant::Output;

/// A [`HighWord`] in every lane, for sums that have been shifted as it says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Factor {
    factor: i32,
    half: i32,
    shift: u64,
}

impl Factor {
    /// Shifts are 1…30.
    pub fn new(high: HighWord) -> Self {
        let half = 1i32.wrapping_shl(high.shift.wrapping_sub(1));
        Factor { factor: high.factor, half, shift: high.shift.into() }
    }

    /// [`HighWord::apply`], but for its first shift.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    pub unsafe fn apply<V: Vector>(&self, sums: V) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let factor = V::splat(self.factor);
            let high = V::upper(sums.products(factor), sums.odd().products(factor));
            high.add(V::splat(self.half)).sar(self.shift)
        }
    }
}

/// Zero point and lower clamp of an int8 map; the upper one is 127.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    zero: i16,
    low: i8,
}

impl Place {
    /// `None` where the output is another one.
    pub fn new(place: Output) -> Option<Self> {
        let [zero, low, high] = place.int8_bounds()?;
        (high == i8::MAX).then_some(Place { zero: zero.into(), low })
    }

    /// Values, placed and clamped.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    pub unsafe fn words<V: Vector>(&self, values: V) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let placed = values.add(V::splat(self.zero.into()));
            placed.max(V::splat(self.low.into())).min(V::splat(i8::MAX.into()))
        }
    }

    /// Four channels of a vector of pixels, placed, clamped and brought together: the bytes of a pixel are neighbours.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    pub unsafe fn quad<V: Vector>(&self, channels: [V; 4]) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            self.together(channels).shuffle8(V::repeat(turn))
        }
    }

    /// Four vectors of values, placed, clamped and brought together: in each 128 bits those of the first, then of the
    /// second … vector's. Saturating to sixteen bits first changes nothing, since a zero point is far smaller.
    ///
    /// # Safety
    /// See [`Vector`].
    #[inline(always)]
    pub unsafe fn together<V: Vector>(&self, [a, b, c, d]: [V; 4]) -> V {
        // SAFETY: the promise of the caller.
        unsafe {
            let zero = V::splat16(self.zero);
            let (ab, cd) = (a.pack32(b).adds16(zero), c.pack32(d).adds16(zero));
            ab.pack16(cd).max8(V::splat8(self.low))
        }
    }
}
