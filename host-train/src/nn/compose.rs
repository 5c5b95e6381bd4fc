//! The operations of this module composed of candle's own, for devices other than the CPU.
//!
//! Several of candle's gradients are wrong or missing (max_pool2d, upsampling, odd sizes at stride 2) or slow (the input gradient of
//! conv2d on CUDA is a naive transposed convolution), so none of those is used: selections are gathers by a detached arg-max, which is
//! the first maximum, resampling is two matrix products, and the convolution brings its own backward pass.
//!
//! On a GPU most of candle's kernels that are no plain pass over one stretch of memory compute an index for every element, im2col above
//! all; a convolution is therefore plain copies of long stretches and one matrix product (`Planes`).
//!
//! What was measured, in one run on an H100 (CUDA 13, TF32; one step of 8×256² from the loader to AdamW, norms frozen, 20 steps, the
//! mean of their parts): quarter 232 ms, half 280, full 411; PyTorch 2.11 eager with cuDNN and TF32, forward, backward and AdamW of the
//! same folded networks: 81, 71, 100. A straight line through these and a batch of one leaves some 160 ms that are the same for any width and
//! batch: launches, we believe, many of them the folding of some 200 norms and its gradient. The rest grows with the maps' bytes (full, 8 whole
//! frames: 0.82 s), and neither a third of the copies (a product for each row of the kernel, which sees the row's taps in place) nor cuDNN's forward
//! convolution (`candle-core/cudnn`; its gradients were apart from the CPU's by 0.13) nor keeping freed memory in CUDA's pool made it
//! visibly faster, the last three on other cards of the kind. To be looked at with a profiler: the sums
//! over planes (candle reads them element by element), and the weights' gradient, whose product is 16 × 144 over 66,000 pixels.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::ops::sigmoid;

use super::upsample::source;

/// [`super::conv2d`]: a matrix product of the weights and what their taps see, forward and in both gradients.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    stride: usize,
    dilation: usize,
    groups: usize,
    relu: bool,
) -> Result<Tensor> {
    let w = between_groups(w, groups)?;
    let (co, ci, k, _) = w.dims4()?;
    let w = w.permute((0, 2, 3, 1))?.reshape((co, k * k * ci))?;
    // The bias is the weight of a channel of ones.
    let w = match b {
        Some(b) => Tensor::cat(&[&w, &b.reshape((co, 1))?], 1)?,
        None => w,
    };
    let conv = ConvGradient { k, stride, dilation, bias: b.is_some(), relu };
    let y = conv.forward(&x.detach(), &w.detach())?;
    x.apply_op3(&w, &y, conv)
}

/// Weights `[Co, Ci/groups, k, k]` as those of one group, `[Co, Ci, k, k]`: zeros for the channels of the other groups.
fn between_groups(w: &Tensor, groups: usize) -> Result<Tensor> {
    if groups == 1 {
        return Ok(w.clone());
    }
    let ci = w.dim(1)?;
    let parts = w.chunk(groups, 0)?.into_iter().enumerate();
    let parts = parts.map(|(group, part)| part.contiguous()?.pad_with_zeros(1, group * ci, (groups - 1 - group) * ci));
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

/// A map whose planes are padded with zeros on every side and lie end to end, so that what a tap of a kernel sees of all of them
/// is one stretch of memory: no index is computed for any pixel. A few zeros behind the last plane are what the last tap reads beyond it.
struct Planes {
    flat: Tensor,
    /// Images, channels, and height and width without the padding.
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    padding: usize,
}

impl Planes {
    fn new(x: &Tensor, padding: usize) -> Result<Self> {
        let (n, c, h, w) = x.dims4()?;
        let padded = x.contiguous()?.pad_with_zeros(3, padding, padding)?.pad_with_zeros(2, padding, padding)?;
        let tail = 2 * padding * (w + 2 * padding + 1);
        let flat = padded.flatten_all()?.pad_with_zeros(0, 0, tail)?;
        Ok(Self { flat, n, c, h, w, padding })
    }

    /// Pixels of a padded row.
    fn row(&self) -> usize {
        self.w + 2 * self.padding
    }

    /// Pixels of a padded plane.
    fn plane(&self) -> usize {
        (self.h + 2 * self.padding) * self.row()
    }

    /// The planes moved up by `down` rows and left by `across` columns, `[N, C, plane]`: at row i and column j stands what the padded map
    /// has at i + `down`, j + `across`, for every i and j of the map itself. What lies beyond these is of no use.
    fn moved(&self, down: usize, across: usize) -> Result<Tensor> {
        let (offset, length) = (down * self.row() + across, self.n * self.c * self.plane());
        self.flat.narrow(0, offset, length)?.reshape((self.n, self.c, self.plane()))
    }

    /// What the k² taps of a kernel see, tap by tap, with a plane of ones behind them if `ones`: `[N, k²·C (+ 1), plane]`.
    fn columns(&self, k: usize, dilation: usize, ones: bool) -> Result<Tensor> {
        let mut taps = Vec::with_capacity(k * k + 1);
        for tap in 0..k * k {
            taps.push(self.moved(tap / k * dilation, tap % k * dilation)?);
        }
        if ones {
            taps.push(Tensor::ones((self.n, 1, self.plane()), self.flat.dtype(), self.flat.device())?);
        }
        Tensor::cat(&taps, 1)
    }

    /// `[N, C′, plane]` without what is of no use: `[N, C′, H, W]`.
    fn cut(&self, y: &Tensor) -> Result<Tensor> {
        let c = y.dim(1)?;
        let rows = y.reshape((self.n * c, self.plane() / self.row(), self.row()))?;
        rows.narrow(1, 0, self.h)?.narrow(2, 0, self.w)?.contiguous()?.reshape((self.n, c, self.h, self.w))
    }
}

/// `w` `[A, B]` times `columns` `[N, B, P]`, image by image.
fn product(w: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let (rows, depth) = w.dims2()?;
    w.broadcast_as((columns.dim(0)?, rows, depth))?.matmul(columns)
}

/// Passes its third argument through and gives the first two the gradients of a convolution with weights `[Co, k²·Ci (+ 1)]`, tap by
/// tap, the bias behind them.
struct ConvGradient {
    k: usize,
    stride: usize,
    dilation: usize,
    bias: bool,
    relu: bool,
}

impl ConvGradient {
    fn planes(&self, x: &Tensor) -> Result<Planes> {
        Planes::new(x, self.dilation * (self.k - 1) / 2)
    }

    fn forward(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let planes = self.planes(x)?;
        let mut y = planes.cut(&product(w, &planes.columns(self.k, self.dilation, self.bias)?)?)?;
        if self.stride > 1 {
            for dim in [2, 3] {
                let kept: Vec<u32> = (0..y.dim(dim)? as u32).step_by(self.stride).collect();
                y = y.index_select(&Tensor::new(kept, y.device())?, dim)?;
            }
        }
        if self.relu { y.relu() } else { Ok(y) }
    }

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

    /// The convolution of g with the kernel turned by 180° and its channel axes swapped.
    fn input_gradient(&self, w: &Tensor, g: &Planes) -> Result<Tensor> {
        let (co, k2) = (w.dim(0)?, self.k * self.k);
        let depth = w.dim(1)? - usize::from(self.bias);
        let taps = w.narrow(1, 0, depth)?.reshape((co, k2, depth / k2))?;
        let turned = taps.permute((2, 1, 0))?.contiguous()?.flip(&[1])?.reshape((depth / k2, k2 * co))?;
        g.cut(&product(&turned, &g.columns(self.k, self.dilation, false)?)?)
    }

    /// g · columns(x)ᵀ, image by image, summed over the images. The zeros around g are what makes the useless part of the columns harmless.
    fn weight_gradient(&self, x: &Tensor, g: &Planes) -> Result<Tensor> {
        let columns = self.planes(x)?.columns(self.k, self.dilation, self.bias)?;
        g.moved(g.padding, g.padding)?.matmul(&columns.t()?)?.sum(0)
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
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, w) = (x.detach(), w.detach());
        // 1 where the ReLU let something through: what it gives is never negative.
        let g = if self.relu { (g * y.detach().sign()?)? } else { g.contiguous()? };
        let g = self.planes(&self.spread(&g, x.dim(2)?, x.dim(3)?)?)?;
        Ok((Some(self.input_gradient(&w, &g)?), Some(self.weight_gradient(&x, &g)?), None))
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
    down.broadcast_left(n * c)?.matmul(&rows)?.reshape((n, c, 2 * h, 2 * w))
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
