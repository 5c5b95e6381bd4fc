//! Convolution with "same" padding.
//!
//! y[n,o,i,j] = b[o] + Σ_{c,u,v} w[o,c,u,v] · x[n, c, i·s + u·d − p, j·s + v·d − p], p = d·(k−1)/2, zero outside; k odd,
//! so a stride of 1 keeps the size and a stride of s gives ⌈size/s⌉. With groups, output channel o sees the input channels of its own
//! group only. A ReLU may follow in the same pass. On the CPU f64 is computed by [`naive`], f32 by [`direct`].

mod direct;
mod kernel;
pub(super) mod naive;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::gate::through_relu;
use super::loops;
use super::real::Real;
pub(super) use kernel::Isa;

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Images.
    pub n: usize,
    /// Input channels.
    pub ci: usize,
    /// Output channels.
    pub co: usize,
    /// Input height and width.
    pub h: usize,
    pub w: usize,
    /// Kernel size (odd), stride, dilation, groups.
    pub k: usize,
    pub stride: usize,
    pub dilation: usize,
    pub groups: usize,
}

impl Shape {
    /// Zeros added on every side.
    pub fn padding(&self) -> usize {
        self.dilation * (self.k - 1) / 2
    }
    /// Output height.
    pub fn oh(&self) -> usize {
        self.h.div_ceil(self.stride)
    }
    /// Output width.
    pub fn ow(&self) -> usize {
        self.w.div_ceil(self.stride)
    }
    /// Multiply-accumulates of the forward pass.
    #[cfg(test)]
    pub fn macs(&self) -> usize {
        self.n * self.oh() * self.ow() * self.co * self.ci / self.groups * self.k * self.k
    }
}

/// Convolves `x` `[N, Ci, H, W]` with `w` `[Co, Ci/groups, k, k]`, k odd, padding dilation·(k−1)/2, adds `b` `[Co]`, and clips at zero
/// if `relu`.
///
/// # Errors
/// Shapes that do not fit each other, an even kernel, a zero stride or dilation.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    stride: usize,
    dilation: usize,
    groups: usize,
    relu: bool,
) -> Result<Tensor> {
    let shape = checked_shape(x, w, b, stride, dilation, groups)?;
    if !x.device().is_cpu() {
        return compose::conv2d(x, w, b, stride, dilation, groups, relu);
    }
    match b {
        Some(b) => fused::apply(Conv { shape, relu }, &[x, w, b]),
        None => fused::apply(Conv { shape, relu }, &[x, w]),
    }
}

fn checked_shape(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Shape> {
    let (n, ci, h, width) = x.dims4()?;
    let (co, ci_group, k, k2) = w.dims4()?;
    if k != k2 || k % 2 == 0 || stride == 0 || dilation == 0 || groups == 0 {
        bail!(
            "conv2d: kernel {k}×{k2} must be square and odd, stride {stride}, dilation {dilation}, groups {groups} at least 1"
        );
    }
    if ci != ci_group * groups || co % groups != 0 {
        bail!("conv2d: weights {:?} in {groups} groups do not fit an input of {ci} channels", w.dims());
    }
    if n * ci * h * width * co == 0 {
        bail!("conv2d: empty tensor: input {:?}, weights {:?}", x.dims(), w.dims());
    }
    if b.is_some_and(|b| b.dims() != [co]) {
        bail!("conv2d: bias must have {co} elements");
    }
    if w.dtype() != x.dtype() || b.is_some_and(|b| b.dtype() != x.dtype()) {
        bail!("conv2d: input, weights and bias must be of one type");
    }
    Ok(Shape { n, ci, co, h, w: width, k, stride, dilation, groups })
}

struct Conv {
    shape: Shape,
    relu: bool,
}

impl Fused for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let s = &self.shape;
        let y = T::conv_forward(s, inputs[0].data, inputs[1].data, inputs.get(2).map(|b| b.data), self.relu);
        (y, vec![s.n, s.co, s.oh(), s.ow()])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], y: &[T], g: &[T], wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let s = &self.shape;
        let plane = s.oh() * s.ow();
        let passed = self.relu.then(|| through_relu(y, g, plane));
        let g = passed.as_ref().map_or(g, |(g, _)| g);
        let x = wanted[0].then(|| T::conv_input_gradient(s, inputs[1].data, g));
        let w = wanted[1].then(|| T::conv_weight_gradient(s, inputs[0].data, g));
        let b = (wanted.len() == 3 && wanted[2]).then(|| match &passed {
            Some((_, sums)) => bias_gradient(s, sums),
            None => bias_gradient(s, &g.par_chunks(plane).map(loops::sum).collect::<Vec<_>>()),
        });
        vec![x, w, b]
    }
}

/// Sum of the gradient over images and pixels, from its sums over each plane.
fn bias_gradient<T: Real>(s: &Shape, planes: &[f64]) -> Vec<T> {
    let mut sums = vec![0f64; s.co];
    for (i, sum) in planes.iter().enumerate() {
        sums[i % s.co] += sum;
    }
    sums.into_iter().map(T::from_f64).collect()
}

/// [`Fused::forward`] in single precision.
pub(super) fn forward(s: &Shape, x: &[f32], w: &[f32], b: Option<&[f32]>, relu: bool) -> Vec<f32> {
    match Isa::detect() {
        Some(isa) => direct::forward(isa, s, x, w, b, relu),
        None => naive::forward(s, x, w, b, relu),
    }
}

/// ∂L/∂x in single precision.
pub(super) fn input_gradient(s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    match Isa::detect() {
        Some(isa) => direct::input_gradient(isa, s, w, g),
        None => naive::input_gradient(s, w, g),
    }
}

/// ∂L/∂w in single precision.
pub(super) fn weight_gradient(s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    match Isa::detect() {
        Some(isa) => direct::weight_gradient(isa, s, x, g),
        None => naive::weight_gradient(s, x, g),
    }
}
