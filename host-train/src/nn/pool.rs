//! Maximum pooling with windows that do not overlap.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::real::Real;

/// The maximum of every `size`×`size` window of `x` `[N, C, H, W]`, giving [N, C, ⌊H/size⌋, ⌊W/size⌋]; rows and columns left over are not seen.
/// The gradient goes to the first maximum of a window in raster order.
///
/// # Errors
/// A size of zero or above H or W.
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if size == 0 || size > h || size > w {
        bail!("max_pool: a window of {size} does not fit {h}×{w}");
    }
    if !x.device().is_cpu() {
        return compose::max_pool(x, size);
    }
    fused::apply(MaxPool(size), &[x])
}

/// The larger of two; the first if they compare as nothing.
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

struct MaxPool(usize);

impl Fused for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [n, c, h, w] = inputs[0].nchw();
        let size = self.0;
        let (oh, ow) = (h / size, w / size);
        let mut y = vec![T::zero(); n * c * oh * ow];
        y.par_chunks_mut(oh * ow).zip(inputs[0].data.par_chunks(h * w)).for_each(|(y, x)| {
            for (i, y) in y.chunks_mut(ow).enumerate() {
                for r in 0..size {
                    let row = &x[(i * size + r) * w..][..ow * size];
                    for (y, window) in y.iter_mut().zip(row.chunks_exact(size)) {
                        let best = window[1..].iter().fold(window[0], |best, v| larger(best, *v));
                        *y = if r == 0 { best } else { larger(*y, best) };
                    }
                }
            }
        });
        (y, vec![n, c, oh, ow])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let [_, _, h, w] = inputs[0].nchw();
        let size = self.0;
        let (oh, ow) = (h / size, w / size);
        let mut dx = vec![T::zero(); inputs[0].data.len()];
        dx.par_chunks_mut(h * w)
            .zip(inputs[0].data.par_chunks(h * w))
            .zip(y.par_chunks(oh * ow).zip(g.par_chunks(oh * ow)))
            .for_each(|((dx, x), (y, g))| {
                for (i, (y, g)) in y.iter().zip(g).enumerate() {
                    let corner = i / ow * size * w + i % ow * size;
                    // A NaN maximum equals nothing and sends its gradient nowhere.
                    let first = (0..size * size).map(|t| corner + t / size * w + t % size).find(|&at| x[at] == *y);
                    if let Some(at) = first {
                        dx[at] = *g;
                    }
                }
            });
        vec![Some(dx)]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::testing::{check_gradients, check_same, gradients, random};

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (dims, size) in [([2, 3, 4, 6], 2), ([1, 2, 8, 8], 4), ([1, 2, 7, 5], 2), ([1, 1, 3, 3], 3)] {
            check_gradients(&[random(1, &dims)], |t| max_pool(&t[0], size));
            check_same(&[random(1, &dims)], |t| max_pool(&t[0], size), |t| compose::max_pool(&t[0], size));
        }
    }

    #[test]
    fn the_gradient_of_a_tie_goes_to_the_first_maximum() {
        let x = Tensor::new(&[[[[1f64, 3.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]]]], &Device::Cpu).unwrap();
        for pool in [max_pool, compose::max_pool] {
            assert_eq!(pool(&x, 2).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap(), [3.0, 0.0]);
            let g = gradients(std::slice::from_ref(&x), |t| pool(&t[0], 2))
                .remove(0)
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap();
            let reached: Vec<usize> = (0..8).filter(|&i| g[i] != 0.0).collect();
            assert_eq!(reached, [1, 2]);
        }
    }

    #[test]
    fn a_window_that_does_not_fit_is_an_error() {
        let x = random(1, &[1, 1, 4, 6]);
        assert!(max_pool(&x, 0).is_err() && max_pool(&x, 5).is_err());
    }
}
