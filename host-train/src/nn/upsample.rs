//! Bilinear up-sampling by two with aligned corners: destination row d reads source position d·(n − 1)/(2n − 1).

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::loops;
use super::real::Real;

/// Doubles the height and width of `x` `[N, C, H, W]` by bilinear interpolation, corner pixels on corner pixels.
///
/// # Errors
/// An empty tensor, or one that is not of rank 4.
pub fn upsample2(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h * w == 0 {
        bail!("upsample2: empty input {:?}", x.dims());
    }
    if !x.device().is_cpu() {
        return compose::upsample2(x);
    }
    fused::apply(Upsample2, &[x])
}

/// Lower source index of destination `dst` for a source of `n`, and the share of the next one; exact but for one rounding of the share.
pub(super) fn source(dst: usize, n: usize) -> (usize, f64) {
    let (numerator, denominator) = (dst * (n - 1), 2 * n - 1);
    let low = (numerator / denominator).min(n - 1);
    (low, (numerator - low * denominator) as f64 / denominator as f64)
}

/// (lower index, upper index, share of the upper) for every destination.
fn table<T: Real>(n: usize) -> Vec<(usize, usize, T)> {
    (0..2 * n)
        .map(|dst| {
            let (low, share) = source(dst, n);
            (low, (low + 1).min(n - 1), T::from_f64(share))
        })
        .collect()
}

struct Upsample2;

impl Fused for Upsample2 {
    fn name(&self) -> &'static str {
        "upsample2"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [n, c, h, w] = inputs[0].nchw();
        let (down, across) = (table::<T>(h), table::<T>(w));
        let mut y = vec![T::zero(); n * c * 4 * h * w];
        y.par_chunks_mut(4 * h * w).zip(inputs[0].data.par_chunks(h * w)).for_each_init(
            || vec![T::zero(); w],
            |blend, (y, x)| {
                for (y, &(low, high, share)) in y.chunks_mut(2 * w).zip(&down) {
                    let (low, high) = (&x[low * w..][..w], &x[high * w..][..w]);
                    loops::blend(blend, low, high, share);
                    for (y, &(low, high, share)) in y.iter_mut().zip(&across) {
                        *y = blend[low] + (blend[high] - blend[low]) * share;
                    }
                }
            },
        );
        (y, vec![n, c, 2 * h, 2 * w])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let [_, _, h, w] = inputs[0].nchw();
        let (down, across) = (table::<T>(h), table::<T>(w));
        let mut dx = vec![T::zero(); inputs[0].data.len()];
        dx.par_chunks_mut(h * w).zip(g.par_chunks(4 * h * w)).for_each_init(
            || vec![T::zero(); w],
            |blend, (dx, g)| {
                for (g, &(low, high, share)) in g.chunks(2 * w).zip(&down) {
                    blend.fill(T::zero());
                    for (g, &(low, high, share)) in g.iter().zip(&across) {
                        let upper = *g * share;
                        blend[low] += *g - upper;
                        blend[high] += upper;
                    }
                    loops::accumulate_scaled(&mut dx[low * w..][..w], blend, T::one() - share);
                    loops::accumulate_scaled(&mut dx[high * w..][..w], blend, share);
                }
            },
        );
        vec![Some(dx)]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::testing::{check_gradients, check_same, check_single, random};

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for dims in [[1, 1, 1, 1], [2, 1, 1, 4], [1, 2, 3, 2], [1, 1, 5, 4]] {
            check_gradients(&[random(1, &dims)], |t| upsample2(&t[0]));
            check_same(&[random(1, &dims)], |t| upsample2(&t[0]), |t| compose::upsample2(&t[0]));
        }
    }

    #[test]
    fn corners_stay_and_two_pixels_become_thirds() {
        let x = Tensor::new(&[[[[0f64, 3.0]]]], &Device::Cpu).unwrap();
        let y = upsample2(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(y, [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn single_precision_agrees_with_double() {
        check_single(&[random(1, &[2, 3, 9, 17])], 2e-6, |t| upsample2(&t[0]));
    }
}
