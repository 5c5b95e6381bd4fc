//! The operations of this module composed of candle's own, for devices other than the CPU.
//!
//! Several of candle's gradients are wrong or missing (max_pool2d, upsampling, odd sizes at stride 2) or slow (the input gradient of
//! conv2d on CUDA is a naive transposed convolution), so none of those is used: selections are gathers by a detached arg-max, which is
//! the first maximum, resampling is two matrix products, and the convolution brings its own backward pass (`attach`ed).

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::ops::sigmoid;

use super::upsample::source;

/// [`super::conv2d`]: candle's forward pass with the gradients of this module.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(groups);
    for (x, w) in x.chunk(groups, 1)?.iter().zip(w.chunk(groups, 0)?) {
        let (x, w) = (x.contiguous()?, w.contiguous()?);
        let padding = dilation * (w.dim(3)? - 1) / 2;
        let y = x.detach().conv2d(&w.detach(), padding, stride, dilation, 1)?;
        parts.push(x.apply_op3(&w, &y, ConvGradient { padding, stride, dilation })?);
    }
    let y = if groups == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 1)? };
    match b {
        Some(b) => y.broadcast_add(&b.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

/// Passes its third argument through and gives the first two the gradients of a convolution.
struct ConvGradient {
    padding: usize,
    stride: usize,
    dilation: usize,
}

impl ConvGradient {
    /// Spreads g to the input's resolution: zeros between the elements of a strided output.
    fn spread(&self, g: &Tensor, h: usize, w: usize) -> Result<Tensor> {
        let s = self.stride;
        if s == 1 {
            return Ok(g.clone());
        }
        let (n, c, oh, ow) = g.dims4()?;
        g.reshape((n, c, oh, 1, ow, 1))?
            .pad_with_zeros(3, 0, s - 1)?
            .pad_with_zeros(5, 0, s - 1)?
            .reshape((n, c, oh * s, ow * s))?
            .narrow(2, 0, h)?
            .narrow(3, 0, w)?
            .contiguous()
    }

    /// Convolution of the spread gradient with the kernel turned by 180° and its channel axes swapped.
    fn input_gradient(&self, w: &Tensor, g: &Tensor) -> Result<Tensor> {
        let turned = w.transpose(0, 1)?.contiguous()?.flip(&[2, 3])?.contiguous()?;
        g.conv2d(&turned, self.padding, 1, self.dilation, 1)
    }

    /// g · im2col(x)ᵀ, image by image, summed over the images.
    fn weight_gradient(&self, x: &Tensor, w: &Tensor, g: &Tensor) -> Result<Tensor> {
        let (n, ci, h, width) = x.dims4()?;
        let (co, _, k, _) = w.dims4()?;
        let p = self.padding;
        let padded = x.pad_with_zeros(2, p, p)?.pad_with_zeros(3, p, p)?;
        let mut columns = Vec::with_capacity(k * k);
        for tap in 0..k * k {
            let (u, v) = (tap / k * self.dilation, tap % k * self.dilation);
            columns.push(padded.narrow(2, u, h)?.narrow(3, v, width)?.reshape((n, ci, h * width))?);
        }
        let columns = Tensor::cat(&columns, 1)?.transpose(1, 2)?;
        let g = g.reshape((n, co, h * width))?;
        g.matmul(&columns.contiguous()?)?.sum(0)?.reshape((co, k, k, ci))?.permute((0, 3, 1, 2))?.contiguous()
    }
}

impl CustomOp3 for ConvGradient {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        y: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        y: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, w) = (x.detach(), w.detach());
        let spread = self.spread(&g.contiguous()?, x.dim(2)?, x.dim(3)?)?;
        Ok((Some(self.input_gradient(&w, &spread)?), Some(self.weight_gradient(&x, &w, &spread)?), None))
    }
}

/// [`super::batch_norm_train`] without the statistics' bookkeeping: the output, the mean and the biased variance `[C]`.
pub fn batch_norm_train(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    relu: bool,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centred = x.broadcast_sub(&mean)?;
    let var = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let scale = (&var + eps)?.sqrt()?.recip()?.mul(&per_channel(gamma)?)?;
    let y = centred.broadcast_mul(&scale)?.broadcast_add(&per_channel(beta)?)?;
    let y = if relu { y.relu()? } else { y };
    Ok((y, mean.flatten_all()?.detach(), var.flatten_all()?.detach()))
}

fn per_channel(t: &Tensor) -> Result<Tensor> {
    t.reshape((1, (), 1, 1))
}

/// [`super::max_pool`].
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (oh, ow) = (h / size, w / size);
    let windows = x
        .narrow(2, 0, oh * size)?
        .narrow(3, 0, ow * size)?
        .contiguous()?
        .reshape(&[n, c, oh, size, ow, size][..])?
        .permute(vec![0, 1, 2, 4, 3, 5])?
        .contiguous()?
        .reshape((n * c * oh * ow, size * size))?;
    first_maximum(&windows, 1)?.reshape((n, c, oh, ow))
}

/// Maximum over a dimension, which stays with size 1; the gradient goes to the first maximum only.
fn first_maximum(x: &Tensor, dim: usize) -> Result<Tensor> {
    let index = x.detach().argmax_keepdim(dim)?;
    x.gather(&index.contiguous()?, dim)
}

/// [`super::upsample2`]: U_h · X · U_wᵀ.
pub fn upsample2(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let down = interpolation_matrix(h, x)?;
    let across = interpolation_matrix(w, x)?.t()?.contiguous()?;
    let rows = x.contiguous()?.reshape((n * c * h, w))?.matmul(&across)?.reshape((n * c, h, 2 * w))?;
    down.broadcast_left(n * c)?.contiguous()?.matmul(&rows)?.reshape((n, c, 2 * h, 2 * w))
}

/// The [2n, n] matrix of the interpolation, in the type and on the device of `like`.
fn interpolation_matrix(n: usize, like: &Tensor) -> Result<Tensor> {
    let mut m = vec![0f64; 2 * n * n];
    for dst in 0..2 * n {
        let (low, fraction) = source(dst, n);
        m[dst * n + low] += 1.0 - fraction;
        m[dst * n + (low + 1).min(n - 1)] += fraction;
    }
    Tensor::from_vec(m, (2 * n, n), like.device())?.to_dtype(like.dtype())
}

/// The four Haar responses LH, HL, HH, LL from the four corners of a 2×2 window.
fn bands(a: &Tensor, b: &Tensor, c: &Tensor, d: &Tensor) -> Result<[Tensor; 4]> {
    let (sum_top, sum_bottom) = ((a + b)?, (c + d)?);
    let (diff_top, diff_bottom) = ((a - b)?, (c - d)?);
    Ok([
        ((&sum_top - &sum_bottom)? * 0.5)?,
        ((&diff_top + &diff_bottom)? * 0.5)?,
        ((&diff_top - &diff_bottom)? * 0.5)?,
        ((&sum_top + &sum_bottom)? * 0.5)?,
    ])
}

/// [`super::haar_inject`].
pub fn haar_inject(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (oh, ow) = (h / 2, w / 2);
    let cells = x.narrow(2, 0, oh * 2)?.narrow(3, 0, ow * 2)?.contiguous()?.reshape(&[n, c, oh, 2, ow, 2][..])?;
    let corner = |i, j| cells.narrow(3, i, 1)?.narrow(5, j, 1)?.contiguous()?.reshape((n, c, oh, ow));
    let [lh, hl, hh, _] = bands(&corner(0, 0)?, &corner(0, 1)?, &corner(1, 0)?, &corner(1, 1)?)?;
    Tensor::cat(&[lh, hl, hh], 1)
}

/// [`super::band_max_mean`].
pub fn band_max_mean(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let padded = x.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?;
    let corner = |i, j| padded.narrow(2, i, h)?.narrow(3, j, w)?.contiguous();
    let mut parts = Vec::with_capacity(8);
    for band in bands(&corner(0, 0)?, &corner(0, 1)?, &corner(1, 0)?, &corner(1, 1)?)? {
        parts.push(first_maximum(&band, 1)?);
        parts.push(band.mean_keepdim(1)?);
    }
    Tensor::cat(&parts, 1)
}

/// [`super::gate`].
pub fn gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&sigmoid(z)?.sum_keepdim(1)?)
}

/// [`super::scale_channels`].
pub fn scale_channels(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&s.unsqueeze(D::Minus1)?.unsqueeze(D::Minus1)?)
}

/// [`super::round_to_steps`]: what rounding adds to the clipped value is a constant to the gradient.
pub fn round_to_steps(x: &Tensor, step: f64, low: f64, high: f64) -> Result<Tensor> {
    let clipped = x.clamp(low * step, high * step)?;
    let rounded = ((clipped.detach() / step)?.round()? * step)?;
    &clipped + (rounded - clipped.detach())?
}

/// [`super::add`].
pub fn add(x: &Tensor, y: &Tensor, relu: bool) -> Result<Tensor> {
    let sum = (x + y)?;
    if relu { sum.relu() } else { Ok(sum) }
}
