//! Maps as planes of quads: four neighbouring channels of a pixel in a 32-bit word, pixel after pixel.
//!
//! Bytes are kept as x + 128, which makes them unsigned; channels beyond the last are zero bytes. A vector of pixels is
//! moved at a time; where they are no multiple of that, the last vector is moved once more.

use core::arch::x86_64::_mm_storeu_si128;

use super::vector::Vector;
use crate::kernels::feature_map::Row;

/// Pixels of the widest vector, a multiple of every other one's.
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
#[inline(always)]
fn vectors<V: Vector>(count: usize) -> impl Iterator<Item = usize> {
    (0..count).step_by(V::PIXELS).map(move |first| first.min(count - V::PIXELS))
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
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    pub unsafe fn copy<V: Vector>(&mut self, row: &Row<i8>, first: usize, step: usize, start: usize, count: usize) {
        let shape = row.shape();
        let (from, step, plane) = (row.from(first), step * shape.stride, self.plane);
        let there = count.checked_sub(1).is_some_and(|last| last * step + shape.channels <= from.len());
        if !there || start + count > plane || quads(shape.channels) * plane > self.words.len() {
            return;
        }
        let whole = count >= V::PIXELS && (V::ANY_CHANNELS || shape.channels.is_multiple_of(4));
        // SAFETY: `count` pixels are in the row, and below the end of each plane, as checked; the promise of the caller.
        unsafe {
            let (from, to) = (from.as_ptr(), self.words.as_mut_ptr().add(start));
            match (shape.channels, step) {
                _ if !whole => split_few(from, step, shape.channels, count, to, plane),
                (4, 4) => V::run(
                    #[inline(always)]
                    move || split_fours::<V>(from, count, to),
                ),
                (8, 8) => V::run(
                    #[inline(always)]
                    move || split_eights::<V>(from, count, to, plane),
                ),
                _ => {
                    for channel in (0..shape.channels).step_by(16) {
                        let (from, to) = (from.add(channel), to.add(channel / 4 * plane));
                        let channels = (shape.channels - channel).min(16);
                        V::run(
                            #[inline(always)]
                            move || split_sixteens::<V>(from, step, channels, count, to, plane),
                        );
                    }
                }
            }
        }
    }
}

/// Writes `count` pixels of `channels` channels from planes of quads, as they are, `plane` words apart, to pixels `step`
/// elements apart. `None`, and nothing written, where something is not there.
///
/// # Safety
/// The processor has the vector's instructions.
pub unsafe fn interleave<V: Vector>(
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
    // SAFETY: `count` words of every quad, and room for as many pixels, as checked; the promise of the caller.
    unsafe {
        let (from, out) = (words.as_ptr(), out.as_mut_ptr());
        match (channels, step) {
            (4, 4) if count >= V::PIXELS => V::run(
                #[inline(always)]
                move || join_fours::<V>(from, count, out),
            ),
            (8, 8) if count >= V::PIXELS => V::run(
                #[inline(always)]
                move || join_eights::<V>(from, plane, count, out),
            ),
            _ => {
                let whole = if count < V::PIXELS { 0 } else { channels / 16 * 16 };
                for channel in (0..whole).step_by(16) {
                    let (from, out) = (from.add(channel / 4 * plane), out.add(channel));
                    V::run(
                        #[inline(always)]
                        move || join_sixteens::<V>(from, plane, count, out, step),
                    );
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

#[inline(always)]
unsafe fn unsigned<V: Vector>(bytes: V) -> V {
    // SAFETY: the promise of the caller.
    unsafe { bytes.xor(V::splat8(i8::MIN)) }
}

/// Four vectors of words, in 128-bit part l of the i-th the words 4l…4l + 3 of plane i, against four with part l of the
/// j-th the words 4l + j of the four planes: either way.
#[inline(always)]
unsafe fn turned<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
    // SAFETY: the promise of the caller.
    unsafe {
        let (ab, cd) = (a.low32(b), c.low32(d));
        let (ab_high, cd_high) = (a.high32(b), c.high32(d));
        [ab.low64(cd), ab.high64(cd), ab_high.low64(cd_high), ab_high.high64(cd_high)]
    }
}

/// # Safety
/// As [`Planes::copy`] has checked, like its neighbours; `count` is at least a vector's.
#[inline(always)]
unsafe fn split_fours<V: Vector>(from: *const i8, count: usize, to: *mut u32) {
    for first in vectors::<V>(count) {
        // SAFETY: the promise of the caller.
        unsafe { unsigned(V::load(from.add(4 * first))).store(to.add(first)) }
    }
}

/// # Safety
/// See [`split_fours`].
#[inline(always)]
unsafe fn split_eights<V: Vector>(from: *const i8, count: usize, to: *mut u32, plane: usize) {
    for first in vectors::<V>(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let (from, to) = (from.add(8 * first), to.add(first));
            let low = unsigned(V::load(from));
            let [even, odd] = low.unzip(unsigned(V::load(from.add(4 * V::PIXELS))));
            even.store(to);
            odd.store(to.add(plane));
        }
    }
}

/// Sixteen channels at most.
///
/// # Safety
/// See [`split_fours`]; where not [`Vector::ANY_CHANNELS`], channels are a multiple of four.
#[inline(always)]
unsafe fn split_sixteens<V: Vector>(
    from: *const i8,
    step: usize,
    channels: usize,
    count: usize,
    to: *mut u32,
    plane: usize,
) {
    // SAFETY: the promise of the caller; channels that are not there are not read.
    unsafe {
        let signs = V::pixel([i8::MIN; 16].as_ptr(), channels);
        let flip = V::repeat(signs);
        for first in vectors::<V>(count) {
            let (from, to) = (from.add(first * step), to.add(first));
            // In part l pixel 4l + i.
            let every_fourth = |i: usize| {
                let pixels = V::of_fours(
                    #[inline(always)]
                    |l| V::pixel(from.add((4 * l + i) * step), channels),
                );
                pixels.xor(flip)
            };
            let planes = turned([every_fourth(0), every_fourth(1), every_fourth(2), every_fourth(3)]);
            for (q, words) in planes.into_iter().enumerate() {
                if q < quads(channels) {
                    words.store(to.add(q * plane));
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
/// As [`interleave`] has checked, like its neighbours; `count` is at least a vector's.
#[inline(always)]
unsafe fn join_fours<V: Vector>(from: *const u32, count: usize, out: *mut i8) {
    for first in vectors::<V>(count) {
        // SAFETY: the promise of the caller.
        unsafe { V::load(from.add(first)).store(out.add(4 * first)) }
    }
}

/// # Safety
/// See [`join_fours`].
#[inline(always)]
unsafe fn join_eights<V: Vector>(from: *const u32, plane: usize, count: usize, out: *mut i8) {
    for first in vectors::<V>(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let [front, back] = V::load(from.add(first)).zip(V::load(from.add(plane + first)));
            front.store(out.add(8 * first));
            back.store(out.add(8 * first + 4 * V::PIXELS));
        }
    }
}

/// Sixteen channels.
///
/// # Safety
/// See [`join_fours`].
#[inline(always)]
unsafe fn join_sixteens<V: Vector>(from: *const u32, plane: usize, count: usize, out: *mut i8, step: usize) {
    for first in vectors::<V>(count) {
        // SAFETY: the promise of the caller.
        unsafe {
            let (from, out) = (from.add(first), out.add(first * step));
            let planes =
                [V::load(from), V::load(from.add(plane)), V::load(from.add(2 * plane)), V::load(from.add(3 * plane))];
            for (i, v) in turned(planes).into_iter().enumerate() {
                v.each_four(
                    #[inline(always)]
                    |l, pixel| _mm_storeu_si128(out.add((4 * l + i) * step).cast(), pixel),
                );
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
