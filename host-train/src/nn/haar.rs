//! The two uses of the 2×2 Haar bands (METHOD.md §1): direction injection at stride 2, and the pooled responses of the spatial gate.
//!
//! For the window [[a, b], [c, d]]: LH ½(a+b−c−d), HL ½(a−b+c−d), HH ½(a−b−c+d), LL ½(a+b+c+d).

use std::sync::OnceLock;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::loops::{self, bands, spread};
use super::real::Real;

/// LH, HL, HH of `x` `[N, C, H, W]` at stride 2, [N, 3C, ⌊H/2⌋, ⌊W/2⌋]: all channels of LH, then of HL, then of HH.
///
/// # Errors
/// A height or width below 2.
pub fn haar_inject(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h < 2 || w < 2 {
        bail!("haar_inject: {h}×{w} is smaller than one 2×2 window");
    }
    if !x.device().is_cpu() {
        return compose::haar_inject(x);
    }
    fused::apply(HaarInject, &[x])
}

/// For each band LH, HL, HH, LL of `x` `[N, C, H, W]` at stride 1 (zeros above and to the left): the maximum over the channels, then their mean,
/// `[N, 8, H, W]`. The maximum's gradient goes to the first channel that attains it.
///
/// # Errors
/// An empty tensor, or more than 65,536 channels.
pub fn band_max_mean(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    if n * c * h * w == 0 || c > 1 << 16 {
        bail!("band_max_mean: cannot pool {:?}", x.dims());
    }
    if !x.device().is_cpu() {
        return compose::band_max_mean(x);
    }
    fused::apply(BandMaxMean::default(), &[x])
}

struct HaarInject;

impl Fused for HaarInject {
    fn name(&self) -> &'static str {
        "haar-inject"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [n, c, h, w] = inputs[0].nchw();
        let (oh, ow) = (h / 2, w / 2);
        let mut y = vec![T::zero(); n * 3 * c * oh * ow];
        y.par_chunks_mut(3 * c * oh * ow).zip(inputs[0].data.par_chunks(c * h * w)).for_each(|(y, x)| {
            for channel in 0..c {
                let x = &x[channel * h * w..][..h * w];
                for i in 0..oh {
                    let (top, bottom) = (&x[2 * i * w..][..w], &x[(2 * i + 1) * w..][..w]);
                    for j in 0..ow {
                        let band = bands(top[2 * j], top[2 * j + 1], bottom[2 * j], bottom[2 * j + 1]);
                        for (b, v) in band[..3].iter().enumerate() {
                            y[((b * c + channel) * oh + i) * ow + j] = *v;
                        }
                    }
                }
            }
        });
        (y, vec![n, 3 * c, oh, ow])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        if !wanted[0] {
            return vec![None];
        }
        let [_, c, h, w] = inputs[0].nchw();
        let (oh, ow) = (h / 2, w / 2);
        let mut dx = vec![T::zero(); inputs[0].data.len()];
        dx.par_chunks_mut(c * h * w).zip(g.par_chunks(3 * c * oh * ow)).for_each(|(dx, g)| {
            for channel in 0..c {
                let dx = &mut dx[channel * h * w..][..h * w];
                for (i, j) in (0..oh * ow).map(|at| (at / ow, at % ow)) {
                    let g = |b| g[((b * c + channel) * oh + i) * ow + j];
                    let [a, b, c, d] = spread(g(0), g(1), g(2), T::zero());
                    let at = 2 * i * w + 2 * j;
                    (dx[at], dx[at + 1], dx[at + w], dx[at + w + 1]) = (a, b, c, d);
                }
            }
        });
        vec![Some(dx)]
    }
}

#[derive(Default)]
struct BandMaxMean {
    /// Channel of the maximum, for each image row by row, `[H, 4, W]`.
    winners: OnceLock<Vec<u32>>,
}

/// `to` becomes row `i − 1` of the plane with a zero in front, and zero for `i` = 0: rows count from the one above the image.
fn framed<T: Real>(plane: &[T], i: usize, w: usize, to: &mut [T]) {
    match i {
        0 => to.fill(T::zero()),
        _ => to[1..].copy_from_slice(&plane[(i - 1) * w..][..w]),
    }
}

impl Fused for BandMaxMean {
    fn name(&self) -> &'static str {
        "band-max-mean"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [n, c, h, w] = inputs[0].nchw();
        let plane = h * w;
        let mut y = vec![T::zero(); n * 8 * plane];
        let mut winners = vec![0u32; n * 4 * plane];
        let share = T::one() / T::from_f64(c as f64);
        y.par_chunks_mut(8 * plane)
            .zip(winners.par_chunks_mut(4 * plane))
            .zip(inputs[0].data.par_chunks(c * plane))
            .for_each(|((y, winners), x)| {
                // The bands are linear: the mean over the channels is taken of the image.
                let mut sum = x[..plane].to_vec();
                for x in x.chunks(plane).skip(1) {
                    loops::accumulate(&mut sum, x);
                }
                let (mut above, mut row) = (vec![T::zero(); w + 1], vec![T::zero(); w + 1]);
                let mut four = vec![T::zero(); 4 * w];
                for (i, winners) in winners.chunks_mut(4 * w).enumerate() {
                    let mut put = |four: &[T], which: usize| {
                        for (b, line) in four.chunks(w).enumerate() {
                            y[(2 * b + which) * plane + i * w..][..w].copy_from_slice(line);
                        }
                    };
                    for (channel, x) in x.chunks(plane).enumerate() {
                        framed(x, i, w, &mut above);
                        framed(x, i + 1, w, &mut row);
                        match channel {
                            0 => loops::band_row(&mut four, &above, &row, T::one()),
                            _ => loops::band_row_max(&mut four, winners, &above, &row, channel as u32),
                        }
                    }
                    put(&four, 0);
                    framed(&sum, i, w, &mut above);
                    framed(&sum, i + 1, w, &mut row);
                    loops::band_row(&mut four, &above, &row, share);
                    put(&four, 1);
                }
            });
        // The object serves one application, so this is the first and only set.
        let _ = self.winners.set(winners);
        (y, vec![n, 8, h, w])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let Some(winners) = self.winners.get() else { return vec![None] };
        let [_, c, h, w] = inputs[0].nchw();
        let plane = h * w;
        let share = T::one() / T::from_f64(c as f64);
        let mut dx = vec![T::zero(); inputs[0].data.len()];
        dx.par_chunks_mut(c * plane).zip(g.par_chunks(8 * plane)).zip(winners.par_chunks(4 * plane)).for_each(
            |((dx, g), winners)| {
                let (mut max, mut mean) = (vec![T::zero(); 4 * w], vec![T::zero(); 4 * w]);
                let mut corners = vec![T::zero(); 4 * w];
                for (i, winners) in winners.chunks(4 * w).enumerate() {
                    for b in 0..4 {
                        max[b * w..][..w].copy_from_slice(&g[2 * b * plane + i * w..][..w]);
                        loops::scale(&mut mean[b * w..][..w], &g[(2 * b + 1) * plane + i * w..][..w], share);
                    }
                    for (channel, dx) in dx.chunks_mut(plane).enumerate() {
                        loops::band_row_gradient(&mut corners, winners, &max, &mean, channel as u32);
                        // The window at j covers columns j − 1 (a, c) and j (b, d) of rows i − 1 and i.
                        if i > 0 {
                            loops::gather_row(&mut dx[(i - 1) * w..][..w], &corners[w..2 * w], &corners[..w]);
                        }
                        loops::gather_row(&mut dx[i * w..][..w], &corners[3 * w..], &corners[2 * w..3 * w]);
                    }
                }
            },
        );
        vec![Some(dx)]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::nn::testing::{check_gradients, check_same, check_single, random};

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for dims in [[2, 2, 4, 6], [1, 3, 5, 7], [1, 1, 2, 2]] {
            check_gradients(&[random(1, &dims)], |t| haar_inject(&t[0]));
            check_gradients(&[random(1, &dims)], |t| band_max_mean(&t[0]));
        }
    }

    #[test]
    fn the_composed_bands_are_the_fused_ones() {
        for dims in [[2, 2, 4, 6], [1, 3, 5, 7]] {
            check_same(&[random(1, &dims)], |t| haar_inject(&t[0]), |t| compose::haar_inject(&t[0]));
            check_same(&[random(1, &dims)], |t| band_max_mean(&t[0]), |t| compose::band_max_mean(&t[0]));
        }
    }

    #[test]
    fn injection_orders_bands_before_channels() {
        // Channel 0 [[1, 2], [3, 5]]: LH ½(1+2−3−5), HL ½(1−2+3−5), HH ½(1−2−3+5); channel 1 is constant.
        let x = Tensor::new(&[[[[1f64, 2.0], [3.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]]]], &Device::Cpu).unwrap();
        let y = haar_inject(&x).unwrap();
        assert_eq!(y.dims(), [1, 6, 1, 1]);
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap(), [-2.5, 0.0, -1.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn pooled_bands_see_zeros_above_and_to_the_left() {
        // One pixel: windows [[0, 0], [0, x]] give LH −½x, HL −½x, HH ½x, LL ½x for x = 2 and x = −6.
        let x = Tensor::new(&[[[[2f64]], [[-6.0]]]], &Device::Cpu).unwrap();
        let y = band_max_mean(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(y, [3.0, 1.0, 3.0, 1.0, 1.0, -1.0, 1.0, -1.0]);
    }

    #[test]
    fn single_precision_agrees_with_double() {
        for dims in [[2, 4, 20, 37], [1, 1, 3, 16], [2, 5, 9, 1]] {
            check_single(&[random(1, &dims)], 2e-6, |t| band_max_mean(&t[0]));
        }
        check_single(&[random(1, &[2, 3, 20, 37])], 2e-6, |t| haar_inject(&t[0]));
    }
}
