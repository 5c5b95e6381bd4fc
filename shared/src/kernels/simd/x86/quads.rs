//! Maps as planes of quads: four neighbouring channels of a pixel in a 32-bit word, pixel after pixel.
//!
//! Bytes are kept as x + 128, which makes them unsigned; channels beyond the last are zero bytes.

use core::arch::x86_64::*;

use crate::kernels::feature_map::Row;

/// Pixels of a vector.
pub const PIXELS: usize = 16;

/// The planes of one row.
pub struct Planes<'a> {
    /// The words of all quads.
    pub words: &'a mut [u32],
    /// Words from one quad's first pixel to the next quad's.
    pub plane: usize,
}

/// Channels in quads.
pub const fn quads(channels: usize) -> usize {
    channels.div_ceil(4)
}

/// The words of a pixel all of whose channels are `value`: of whole quads, and of the last one.
pub fn constant(value: i8, channels: usize) -> [u32; 2] {
    let whole = u32::from_ne_bytes([value as u8 ^ 0x80; 4]);
    let rest = channels % 4;
    [whole, if rest == 0 { whole } else { whole & ((1 << (8 * rest)) - 1) }]
}

impl Planes<'_> {
    /// Fills pixels `start`…`end` of every quad with what [`constant`] gives.
    pub fn fill(&mut self, start: usize, end: usize, [whole, last]: [u32; 2]) {
        let mut planes = self.words.chunks_mut(self.plane.max(1)).peekable();
        while let Some(plane) = planes.next() {
            let value = if planes.peek().is_some() { whole } else { last };
            plane.get_mut(start..end).unwrap_or_default().fill(value);
        }
    }

    /// Puts `count` pixels, every `step`th of `row` from pixel `first` on, into the planes from their pixel `start` on.
    /// Nothing where they are not all there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn copy(&mut self, row: &Row<i8>, first: usize, step: usize, start: usize, count: usize) {
        let shape = row.shape();
        let (from, step) = (row.from(first), step * shape.stride);
        let quads = quads(shape.channels);
        let there = count.checked_sub(1).is_some_and(|last| last * step + shape.channels <= from.len());
        if !there || start + count > self.plane || quads * self.plane > self.words.len() {
            return;
        }
        for done in (0..count).step_by(PIXELS) {
            let lanes = (count - done).min(PIXELS);
            // SAFETY: pixels `done`…`done + lanes` of `count` are in the row and below the end of a plane, as checked.
            unsafe {
                let from = from.as_ptr().add(done * step);
                let to = self.words.as_mut_ptr().add(start + done);
                match (shape.channels, step) {
                    (4, 4) => dense_quads(from, to, lanes),
                    (8, 8) => dense_pairs(from, to, self.plane, lanes),
                    _ => {
                        for channel in (0..shape.channels).step_by(16) {
                            let channels = (shape.channels - channel).min(16);
                            let to = to.add(channel / 4 * self.plane);
                            turned(from.add(channel), step, channels, to, self.plane, lanes);
                        }
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unsigned(bytes: __m512i) -> __m512i {
    _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN))
}

/// Of the first `lanes` of sixteen.
fn mask(lanes: usize) -> __mmask16 {
    (u32::MAX >> (32 - lanes.clamp(1, PIXELS))) as __mmask16
}

/// # Safety
/// `from` has 4·`lanes` bytes and `to` room for as many words; `lanes` is 1…16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn dense_quads(from: *const i8, to: *mut u32, lanes: usize) {
    // SAFETY: the promise of the caller; what the mask leaves out is neither read nor written.
    unsafe {
        let words = _mm512_maskz_loadu_epi32(mask(lanes), from.cast());
        _mm512_mask_storeu_epi32(to.cast(), mask(lanes), unsigned(words));
    }
}

/// # Safety
/// `from` has 8·`lanes` bytes and `to`, as well as `plane` words later, room for `lanes` words; `lanes` is 1…16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn dense_pairs(from: *const i8, to: *mut u32, plane: usize, lanes: usize) {
    let words = 2 * lanes;
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    // SAFETY: the promise of the caller; what the masks leave out is neither read nor written.
    unsafe {
        let low = unsigned(_mm512_maskz_loadu_epi32(mask(words), from.cast()));
        let upper = if words > PIXELS { mask(words - PIXELS) } else { 0 };
        let high = unsigned(_mm512_maskz_loadu_epi32(upper, from.wrapping_add(64).cast()));
        _mm512_mask_storeu_epi32(to.cast(), mask(lanes), _mm512_permutex2var_epi32(low, even, high));
        _mm512_mask_storeu_epi32(to.add(plane).cast(), mask(lanes), _mm512_permutex2var_epi32(low, odd, high));
    }
}

/// Sixteen channels at most of sixteen pixels at most.
///
/// # Safety
/// `from` has `channels` bytes at every `step`th of `lanes` places, and each of as many quads of `to`, `plane` words
/// apart, has room for `lanes` words; `lanes` and `channels` are 1…16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn turned(from: *const i8, step: usize, channels: usize, to: *mut u32, plane: usize, lanes: usize) {
    let there = mask(channels);
    let flip = _mm512_broadcast_i32x4(_mm_maskz_set1_epi8(there, i8::MIN));
    // SAFETY: the promise of the caller; what the masks leave out is neither read nor written, and a pixel beyond the
    // last one is the last one once more.
    unsafe {
        let pixel = |i: usize| _mm_maskz_loadu_epi8(there, from.add(i.min(lanes - 1) * step));
        // Pixels i, i + 4, i + 8, i + 12.
        let every_fourth = |i: usize| {
            let v = _mm512_castsi128_si512(pixel(i));
            let v = _mm512_inserti32x4::<1>(v, pixel(i + 4));
            let v = _mm512_inserti32x4::<2>(v, pixel(i + 8));
            _mm512_xor_si512(_mm512_inserti32x4::<3>(v, pixel(i + 12)), flip)
        };
        let (a, b, c, d) = (every_fourth(0), every_fourth(1), every_fourth(2), every_fourth(3));
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        let turned = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
        for (q, words) in turned.into_iter().enumerate().take(quads(channels)) {
            _mm512_mask_storeu_epi32(to.add(q * plane).cast(), mask(lanes), words);
        }
    }
}
