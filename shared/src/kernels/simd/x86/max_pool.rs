//! Maxima over squares in long loops: the fast twin of [`crate::kernels::max_pool`].
//!
//! A stretch of `size` rows becomes one row of column maxima; then each element takes the maximum with its neighbour one,
//! two, four … pixels on, after which every `size`th pixel has that of its square.

use super::widest;
use crate::kernels::{Map, MapMut};

/// Elements of a stretch.
const ROOM: usize = 2048;

/// The rows that `output` holds of a map whose shapes have been checked; `None`, and nothing written, where a square's row has no room.
pub fn max_pool<T: Copy + PartialOrd>(size: usize, input: &Map<T>, output: &mut MapMut<T>) -> Option<()> {
    widest(
        #[inline(always)]
        || pool(size, input, output),
    )
}

#[inline(always)]
fn pool<T: Copy + PartialOrd>(size: usize, input: &Map<T>, output: &mut MapMut<T>) -> Option<()> {
    let (stride, channels, to) = (input.shape().stride, input.shape().channels, output.shape());
    let mut most = [*input.row(output.rows().start * size)?.from(0).first()?; ROOM];
    let mut next = most;
    let squares = ROOM / (size * stride);
    if squares == 0 {
        return None;
    }
    for y in output.rows() {
        for x in (0..to.width).step_by(squares) {
            let count = squares.min(to.width - x);
            let len = count * size * stride;
            let (most, next) = (most.get_mut(..len)?, next.get_mut(..len)?);
            for (dy, row) in (0..size).map(|dy| (dy, input.row(y * size + dy))) {
                // The gap after the last pixel may be missing.
                let row = row?.from(x * size);
                if dy == 0 {
                    most.iter_mut().zip(row).for_each(|(most, &v)| *most = v);
                } else {
                    most.iter_mut().zip(row).for_each(|(most, &v)| *most = if v > *most { v } else { *most });
                }
            }
            let mut apart = 1;
            while apart < size {
                let neighbours = most.get(apart * stride..)?;
                for ((next, &a), &b) in next.iter_mut().zip(most.iter()).zip(neighbours) {
                    *next = if b > a { b } else { a };
                }
                let kept = len - apart * stride;
                most.get_mut(..kept)?.iter_mut().zip(next.iter()).for_each(|(most, &v)| *most = v);
                apart *= 2;
            }
            for (out, square) in output.pixels_from_mut(y, x).zip(most.chunks(size * stride)).take(count) {
                out.iter_mut().zip(square.get(..channels)?).for_each(|(out, &v)| *out = v);
            }
        }
    }
    Some(())
}
