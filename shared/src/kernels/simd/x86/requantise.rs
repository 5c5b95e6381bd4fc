//! Exact sums of sixteen pixels to int8: [`HighWord`] and [`crate::kernels::rescale::Int8Place`] over AVX-512.

use core::arch::x86_64::*;

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
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn apply(&self, sums: __m512i) -> __m512i {
        let factor = _mm512_set1_epi32(self.factor);
        // The upper words of the products, of odd lanes where they are and of even ones moved up.
        let even = _mm512_mul_epi32(sums, factor);
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(sums), factor);
        let high = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
        let shift = _mm_cvtsi64_si128(self.shift as i64);
        _mm512_sra_epi32(_mm512_add_epi32(high, _mm512_set1_epi32(self.half)), shift)
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

    /// Sixteen values, placed and clamped.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn bytes(&self, values: __m512i) -> __m128i {
        let placed = _mm512_add_epi32(values, _mm512_set1_epi32(self.zero.into()));
        _mm_max_epi8(_mm512_cvtsepi32_epi8(placed), _mm_set1_epi8(self.low))
    }

    /// Four channels of sixteen pixels, placed, clamped and brought together: the bytes of a pixel are neighbours.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn quad(&self, channels: [__m512i; 4]) -> __m512i {
        let turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_shuffle_epi8(self.together(channels), _mm512_broadcast_i32x4(turn))
    }

    /// Four times sixteen values, placed, clamped and brought together: in each lane those of the first, then of the
    /// second … vector's lane. Saturating to sixteen bits first changes nothing, since a zero point is far smaller.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn together(&self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        let zero = _mm512_set1_epi16(self.zero);
        let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
        _mm512_max_epi8(_mm512_packs_epi16(ab, cd), _mm512_set1_epi8(self.low))
    }
}
