//! Maps as planes of quads: four neighbouring channels of a pixel in a 32-bit word, pixel after pixel.
//!
//! Bytes are kept as x + 128, which makes them unsigned; channels beyond the last are zero bytes. Sixteen pixels are
//! moved at a time; where they are no multiple of that, the last sixteen are moved once more.

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

/// The first pixels of vectors that cover `count`, which is at least one vector.
fn vectors(count: usize) -> impl Iterator<Item = usize> {
    (0..count).step_by(PIXELS).map(move |first| first.min(count - PIXELS))
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
        let (from, step, plane) = (row.from(first), step * shape.stride, self.plane);
        let there = count.checked_sub(1).is_some_and(|last| last * step + shape.channels <= from.len());
        if !there || start + count > plane || quads(shape.channels) * plane > self.words.len() {
            return;
        }
        // SAFETY: `count` pixels are in the row, and below the end of each plane, as checked.
        unsafe {
            let (from, to) = (from.as_ptr(), self.words.as_mut_ptr().add(start));
            match (shape.channels, step) {
                _ if count < PIXELS => split_few(from, step, shape.channels, count, to, plane),
                (4, 4) => split_fours(from, count, to),
                (8, 8) => split_eights(from, count, to, plane),
                _ => {
                    for channel in (0..shape.channels).step_by(16) {
                        let to = to.add(channel / 4 * plane);
                        split_sixteens(from.add(channel), step, (shape.channels - channel).min(16), count, to, plane);
                    }
                }
            }
        }
    }
}

/// Writes `count` pixels of `channels` channels from planes of quads, as they are, `plane` words apart, to pixels `step`
/// elements apart. `None`, and nothing written, where something is not there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn interleave(
    words: &[u32],
    plane: usize,
    channels: usize,
    count: usize,
    out: &mut [i8],
    step: usize,
) -> Option<()> {
    let end = count.checked_sub(1)? * step + channels;
    if count > plane || quads(channels) * plane > words.len() || end > out.len() || channels > step {
        return None;
    }
    // SAFETY: `count` words of every quad, and room for as many pixels, as checked.
    unsafe {
        let (from, out) = (words.as_ptr(), out.as_mut_ptr());
        match (channels, step) {
            (4, 4) if count >= PIXELS => join_fours(from, count, out),
            (8, 8) if count >= PIXELS => join_eights(from, plane, count, out),
            _ => {
                let whole = if count < PIXELS { 0 } else { channels / 16 * 16 };
                for channel in (0..whole).step_by(16) {
                    join_sixteens(from.add(channel / 4 * plane), plane, count, out.add(channel), step);
                }
                for channel in (whole..channels).step_by(4) {
                    let from = from.add(channel / 4 * plane);
                    join_few(from, (channels - channel).min(4), count, out.add(channel), step);
                }
            }
        }
    }
    Some(())
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<T>(from: *const T) -> __m512i {
    // SAFETY: the promise of the caller: 64 bytes may be read.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<T>(to: *mut T, v: __m512i) {
    // SAFETY: the promise of the caller: there is room for 64 bytes.
    unsafe { _mm512_storeu_si512(to.cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unsigned(bytes: __m512i) -> __m512i {
    _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN))
}

/// Four vectors of words, in lane l of the i-th the words 4l…4l + 3 of plane i, against four with lane l of the j-th the
/// words 4l + j of the four planes: either way.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// # Safety
/// As [`Planes::copy`] has checked, like its neighbours; `count` is at least [`PIXELS`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn split_fours(from: *const i8, count: usize, to: *mut u32) {
    for first in vectors(count) {
        // SAFETY: the promise of the caller.
        unsafe { store(to.add(first), unsigned(load(from.add(4 * first)))) }
    }
}

/// # Safety
/// See [`split_fours`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn split_eights(from: *const i8, count: usize, to: *mut u32, plane: usize) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    for first in vectors(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let (from, to) = (from.add(8 * first), to.add(first));
            let (low, high) = (unsigned(load(from)), unsigned(load(from.add(64))));
            store(to, _mm512_permutex2var_epi32(low, even, high));
            store(to.add(plane), _mm512_permutex2var_epi32(low, odd, high));
        }
    }
}

/// Sixteen channels at most.
///
/// # Safety
/// See [`split_fours`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn split_sixteens(from: *const i8, step: usize, channels: usize, count: usize, to: *mut u32, plane: usize) {
    let there = ((1u32 << channels) - 1) as __mmask16;
    let flip = _mm512_broadcast_i32x4(_mm_maskz_set1_epi8(there, i8::MIN));
    for first in vectors(count) {
        // SAFETY: the promise of the caller; channels that are not there are not read.
        unsafe {
            let (from, to) = (from.add(first * step), to.add(first));
            let pixel = |i: usize| _mm_maskz_loadu_epi8(there, from.add(i * step));
            // In lane l pixel 4l + i.
            let every_fourth = |i: usize| {
                let v = _mm512_castsi128_si512(pixel(i));
                let v = _mm512_inserti32x4::<1>(v, pixel(i + 4));
                let v = _mm512_inserti32x4::<2>(v, pixel(i + 8));
                _mm512_xor_si512(_mm512_inserti32x4::<3>(v, pixel(i + 12)), flip)
            };
            let planes = turned([every_fourth(0), every_fourth(1), every_fourth(2), every_fourth(3)]);
            for (q, words) in planes.into_iter().enumerate() {
                if q < quads(channels) {
                    store(to.add(q * plane), words);
                }
            }
        }
    }
}

/// # Safety
/// See [`split_fours`], but for the count.
unsafe fn split_few(from: *const i8, step: usize, channels: usize, count: usize, to: *mut u32, plane: usize) {
    for i in 0..count {
        for q in 0..quads(channels) {
            let mut word = [0; 4];
            for (c, byte) in word.iter_mut().enumerate().take(channels - 4 * q) {
                // SAFETY: the promise of the caller.
                *byte = unsafe { from.add(i * step + 4 * q + c).read() } as u8 ^ 0x80;
            }
            // SAFETY: the promise of the caller.
            unsafe { to.add(q * plane + i).write(u32::from_ne_bytes(word)) }
        }
    }
}

/// # Safety
/// As [`interleave`] has checked, like its neighbours; `count` is at least [`PIXELS`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn join_fours(from: *const u32, count: usize, out: *mut i8) {
    for first in vectors(count) {
        // SAFETY: the promise of the caller.
        unsafe { store(out.add(4 * first), load(from.add(first))) }
    }
}

/// # Safety
/// See [`join_fours`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn join_eights(from: *const u32, plane: usize, count: usize, out: *mut i8) {
    let front = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
    for first in vectors(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let (a, b) = (load(from.add(first)), load(from.add(plane + first)));
            store(out.add(8 * first), _mm512_permutex2var_epi32(a, front, b));
            store(out.add(8 * first + 64), _mm512_permutex2var_epi32(a, back, b));
        }
    }
}

/// Sixteen channels.
///
/// # Safety
/// See [`join_fours`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn join_sixteens(from: *const u32, plane: usize, count: usize, out: *mut i8, step: usize) {
    for first in vectors(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let (from, out) = (from.add(first), out.add(first * step));
            let planes = [load(from), load(from.add(plane)), load(from.add(2 * plane)), load(from.add(3 * plane))];
            for (i, v) in turned(planes).into_iter().enumerate() {
                let out = out.add(i * step);
                _mm_storeu_si128(out.cast(), _mm512_castsi512_si128(v));
                _mm_storeu_si128(out.add(4 * step).cast(), _mm512_extracti32x4_epi32::<1>(v));
                _mm_storeu_si128(out.add(8 * step).cast(), _mm512_extracti32x4_epi32::<2>(v));
                _mm_storeu_si128(out.add(12 * step).cast(), _mm512_extracti32x4_epi32::<3>(v));
            }
        }
    }
}

/// Four channels at most.
///
/// # Safety
/// See [`join_fours`], but for the count.
#[inline(never)]
unsafe fn join_few(from: *const u32, channels: usize, count: usize, out: *mut i8, step: usize) {
    for i in 0..count {
        // SAFETY: the promise of the caller.
        unsafe {
            let (word, out) = (from.add(i).read(), out.add(i * step));
            if channels == 4 {
                out.cast::<u32>().write_unaligned(word);
            } else {
                for (c, &byte) in word.to_ne_bytes().iter().enumerate().take(channels) {
                    out.add(c).write(byte as i8);
                }
            }
        }
    }
}
