//! The convolution as its definition, one tap at a time over rows: the f64 path and the standard the fast path is held to.

use std::ops::Range;

use rayon::prelude::*;

use super::Shape;
use crate::nn::real::Real;

/// The part of an output row that tap `v` of a kernel row reaches inside the image: outputs `from..to`, the first of which reads input
/// column `from·stride + offset`.
struct Span {
    from: usize,
    to: usize,
    first: usize,
}

fn span(s: &Shape, v: usize, outputs: usize, inputs: usize) -> Span {
    let (shift, padding) = (v * s.dilation, s.padding());
    let from = padding.saturating_sub(shift).div_ceil(s.stride).min(outputs);
    // Output j reads column j·stride + shift − padding, which must be below `inputs`.
    let to = (inputs + padding).saturating_sub(shift).div_ceil(s.stride).clamp(from, outputs);
    Span { from, to, first: (from * s.stride + shift).saturating_sub(padding) }
}

/// Calls `f(weight index in the filter, outputs, first input)` for every run of outputs in a row that one tap feeds from one input row;
/// output indices are inside a plane, input indices inside the planes of the group.
fn rows(s: &Shape, mut f: impl FnMut(usize, Range<usize>, usize)) {
    let (oh, ow) = (s.oh(), s.ow());
    for c in 0..s.ci / s.groups {
        for u in 0..s.k {
            let vertical = span(s, u, oh, s.h);
            for v in 0..s.k {
                let across = span(s, v, ow, s.w);
                if across.from == across.to {
                    continue;
                }
                for i in vertical.from..vertical.to {
                    let row = vertical.first + (i - vertical.from) * s.stride;
                    let input = (c * s.h + row) * s.w + across.first;
                    f((c * s.k + u) * s.k + v, i * ow + across.from..i * ow + across.to, input);
                }
            }
        }
    }
}

/// y = conv(x) + b, clipped at zero if `relu`.
pub(in crate::nn) fn forward<T: Real>(s: &Shape, x: &[T], w: &[T], b: Option<&[T]>, relu: bool) -> Vec<T> {
    let (group_in, group_out) = (s.ci / s.groups, s.co / s.groups);
    let filter = group_in * s.k * s.k;
    let mut y = vec![T::zero(); s.n * s.co * s.oh() * s.ow()];
    y.par_chunks_mut(s.oh() * s.ow()).enumerate().for_each(|(index, plane)| {
        let (n, o) = (index / s.co, index % s.co);
        let x = &x[(n * s.ci + o / group_out * group_in) * s.h * s.w..];
        let w = &w[o * filter..][..filter];
        if let Some(b) = b {
            plane.fill(b[o]);
        }
        rows(s, |tap, out, input| {
            for (y, x) in plane[out].iter_mut().zip(x[input..].iter().step_by(s.stride)) {
                *y += w[tap] * *x;
            }
        });
        if relu {
            plane.iter_mut().filter(|y| **y < T::zero()).for_each(|y| *y = T::zero());
        }
    });
    y
}

/// ∂L/∂x from g = ∂L/∂y.
pub(in crate::nn) fn input_gradient<T: Real>(s: &Shape, w: &[T], g: &[T]) -> Vec<T> {
    let (group_in, group_out) = (s.ci / s.groups, s.co / s.groups);
    let (filter, plane) = (group_in * s.k * s.k, s.oh() * s.ow());
    let mut dx = vec![T::zero(); s.n * s.ci * s.h * s.w];
    dx.par_chunks_mut(group_in * s.h * s.w).enumerate().for_each(|(index, dx)| {
        let (n, group) = (index / s.groups, index % s.groups);
        for o in group * group_out..(group + 1) * group_out {
            let g = &g[(n * s.co + o) * plane..][..plane];
            let w = &w[o * filter..][..filter];
            rows(s, |tap, out, input| {
                for (g, dx) in g[out].iter().zip(dx[input..].iter_mut().step_by(s.stride)) {
                    *dx += w[tap] * *g;
                }
            });
        }
    });
    dx
}

/// ∂L/∂w from g = ∂L/∂y.
pub(in crate::nn) fn weight_gradient<T: Real>(s: &Shape, x: &[T], g: &[T]) -> Vec<T> {
    let (group_in, group_out) = (s.ci / s.groups, s.co / s.groups);
    let (filter, plane) = (group_in * s.k * s.k, s.oh() * s.ow());
    let mut dw = vec![T::zero(); s.co * filter];
    dw.par_chunks_mut(filter).enumerate().for_each(|(o, dw)| {
        for n in 0..s.n {
            let x = &x[(n * s.ci + o / group_out * group_in) * s.h * s.w..];
            let g = &g[(n * s.co + o) * plane..][..plane];
            rows(s, |tap, out, input| {
                let mut sum = T::zero();
                for (g, x) in g[out].iter().zip(x[input..].iter().step_by(s.stride)) {
                    sum += *g * *x;
                }
                dw[tap] += sum;
            });
        }
    });
    dw
}
