//! Products and sums of maps: the spatial gate, the channel scale of squeeze-and-excite, the residual sum.

use std::sync::OnceLock;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::loops;
use super::real::Real;

/// x · Σ_b σ(z_b) for `x` `[N, C, H, W]` and the bands' logits `z` `[N, B, H, W]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    let ((n, c, h, w), (zn, b, zh, zw)) = (x.dims4()?, z.dims4()?);
    if (n, h, w) != (zn, zh, zw) || n * c * h * w * b == 0 {
        bail!("gate: logits {:?} do not fit {:?}", z.dims(), x.dims());
    }
    if !x.device().is_cpu() {
        return compose::gate(x, z);
    }
    fused::apply(Gate::default(), &[x, z])
}

/// `x[n,c,·,·] · s[n,c]` for `x` `[N, C, H, W]` and `s` `[N, C]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn scale_channels(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    if s.rank() != 2 || x.rank() != 4 || x.dims()[..2] != *s.dims() || x.elem_count() == 0 {
        bail!("scale_channels: scales {:?} do not fit {:?}", s.dims(), x.dims());
    }
    if !x.device().is_cpu() {
        return compose::scale_channels(x, s);
    }
    fused::apply(ScaleChannels, &[x, s])
}

/// x + y, clipped at zero if `relu`.
///
/// # Errors
/// Shapes that differ.
pub fn add(x: &Tensor, y: &Tensor, relu: bool) -> Result<Tensor> {
    if x.dims() != y.dims() {
        bail!("add: shapes {:?} and {:?} differ", x.dims(), y.dims());
    }
    if !x.device().is_cpu() {
        return compose::add(x, y, relu);
    }
    fused::apply(Add { relu }, &[x, y])
}

#[derive(Default)]
struct Gate {
    /// σ(z), kept in f64's or f32's own bits: exponentials are the dear part.
    sigmoids: OnceLock<Box<dyn std::any::Any + Send + Sync>>,
}

impl Fused for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [_, c, h, w] = inputs[0].nchw();
        let (plane, bands) = (h * w, inputs[1].dims[1]);
        let mut sigmoids = inputs[1].data.to_vec();
        let mut y = vec![T::zero(); inputs[0].data.len()];
        y.par_chunks_mut(c * plane)
            .zip(sigmoids.par_chunks_mut(bands * plane))
            .zip(inputs[0].data.par_chunks(c * plane))
            .for_each_init(
                || vec![T::zero(); plane],
                |sum, ((y, sigmoids), x)| {
                    sum.fill(T::zero());
                    for band in sigmoids.chunks_mut(plane) {
                        loops::sigmoid(band);
                        loops::accumulate(sum, band);
                    }
                    for (y, x) in y.chunks_mut(plane).zip(x.chunks(plane)) {
                        loops::multiply(y, x, sum);
                    }
                },
            );
        // The object serves one application, so this is the first and only set.
        let _ = self.sigmoids.set(Box::new(sigmoids));
        (y, inputs[0].dims.to_vec())
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let Some(sigmoids) = self.sigmoids.get().and_then(|s| s.downcast_ref::<Vec<T>>()) else {
            return vec![None, None];
        };
        let [_, c, h, w] = inputs[0].nchw();
        let (plane, bands) = (h * w, inputs[1].dims[1]);
        let mut dx = vec![T::zero(); inputs[0].data.len()];
        let mut dz = vec![T::zero(); sigmoids.len()];
        dx.par_chunks_mut(c * plane)
            .zip(dz.par_chunks_mut(bands * plane))
            .zip(sigmoids.par_chunks(bands * plane))
            .zip(inputs[0].data.par_chunks(c * plane).zip(g.par_chunks(c * plane)))
            .for_each_init(
                || (vec![T::zero(); plane], vec![T::zero(); plane]),
                |(sum, product), (((dx, dz), sigmoids), (x, g))| {
                    sum.fill(T::zero());
                    product.fill(T::zero());
                    for band in sigmoids.chunks(plane) {
                        loops::accumulate(sum, band);
                    }
                    for ((dx, x), g) in dx.chunks_mut(plane).zip(x.chunks(plane)).zip(g.chunks(plane)) {
                        loops::multiply(dx, g, sum);
                        loops::accumulate_product(product, g, x);
                    }
                    for (dz, s) in dz.chunks_mut(plane).zip(sigmoids.chunks(plane)) {
                        loops::sigmoid_gradient(dz, s, product);
                    }
                },
            );
        vec![Some(dx), Some(dz)]
    }
}

struct ScaleChannels;

impl Fused for ScaleChannels {
    fn name(&self) -> &'static str {
        "scale-channels"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        (scaled(inputs[0].data, inputs[1].data), inputs[0].dims.to_vec())
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let [_, _, h, w] = inputs[0].nchw();
        let ds = inputs[0]
            .data
            .par_chunks(h * w)
            .zip(g.par_chunks(h * w))
            .map(|(x, g)| T::from_f64(loops::dot(x, g)))
            .collect();
        vec![Some(scaled(g, inputs[1].data)), Some(ds)]
    }
}

fn scaled<T: Real>(x: &[T], scales: &[T]) -> Vec<T> {
    let plane = x.len() / scales.len();
    let mut y = vec![T::zero(); x.len()];
    y.par_chunks_mut(plane).zip(x.par_chunks(plane)).zip(scales).for_each(|((y, x), s)| {
        loops::scale(y, x, *s);
    });
    y
}

struct Add {
    relu: bool,
}

/// Elements a thread takes at a time.
pub(super) const CHUNK: usize = 1 << 14;

impl Fused for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let (a, b) = (inputs[0].data, inputs[1].data);
        let mut y = vec![T::zero(); a.len()];
        y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((y, a), b)| {
            loops::add(y, a, b, self.relu);
        });
        (y, inputs[0].dims.to_vec())
    }

    fn backward<T: Real>(&self, _inputs: &[View<T>], y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        if !self.relu {
            return vec![Some(g.to_vec()), Some(g.to_vec())];
        }
        let (d, _) = through_relu(y, g, CHUNK);
        vec![Some(d.clone()), Some(d)]
    }
}

/// The gradient `g` of a ReLU's output `y` at its input, and its sum over every `chunk` elements, in f64.
pub(super) fn through_relu<T: Real>(y: &[T], g: &[T], chunk: usize) -> (Vec<T>, Vec<f64>) {
    let mut d = vec![T::zero(); g.len()];
    let parts = d.par_chunks_mut(chunk).zip(y.par_chunks(chunk)).zip(g.par_chunks(chunk));
    let sums = parts.map(|((d, y), g)| loops::where_positive(d, y, g)).collect();
    (d, sums)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::*;
    use crate::nn::testing::{check_gradients, check_same, check_single, difference, random};

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (x, z, s) = (random(1, &[2, 3, 4, 5]), random(2, &[2, 4, 4, 5]), random(3, &[2, 3]));
        let y = random(4, &[2, 3, 4, 5]);
        check_gradients(&[x.clone(), z.clone()], |t| gate(&t[0], &t[1]));
        check_gradients(&[x.clone(), s.clone()], |t| scale_channels(&t[0], &t[1]));
        check_same(&[x.clone(), z], |t| gate(&t[0], &t[1]), |t| compose::gate(&t[0], &t[1]));
        check_same(&[x.clone(), s], |t| scale_channels(&t[0], &t[1]), |t| compose::scale_channels(&t[0], &t[1]));
        for relu in [false, true] {
            check_gradients(&[x.clone(), y.clone()], |t| add(&t[0], &t[1], relu));
            check_same(&[x.clone(), y.clone()], |t| add(&t[0], &t[1], relu), |t| compose::add(&t[0], &t[1], relu));
        }
    }

    #[test]
    fn a_tensor_added_to_itself_gets_both_gradients() {
        check_gradients(&[random(1, &[1, 2, 3, 3])], |t| add(&t[0], &t[0], true));
    }

    #[test]
    fn gates_saturate_without_overflow() {
        let x = Tensor::ones((1, 1, 1, 4), DType::F32, &candle_core::Device::Cpu).unwrap();
        let z = Tensor::new(&[[[[-1e4f32, 1e4, 0.0, -80.0]]]], x.device()).unwrap();
        let y = gate(&x, &z).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y[0].abs() < 1e-30 && y[1] == 1.0 && y[2] == 0.5 && y[3] < 1e-30, "{y:?}");
    }

    #[test]
    fn the_single_precision_gate_agrees_with_double() {
        let (x, z) = (random(1, &[2, 3, 9, 17]), (random(2, &[2, 4, 9, 17]) * 12.0).unwrap());
        let single = gate(&x.to_dtype(DType::F32).unwrap(), &z.to_dtype(DType::F32).unwrap()).unwrap();
        assert!(difference(&single, &gate(&x, &z).unwrap()) < 2e-6);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = random(1, &[2, 3, 4, 5]);
        assert!(gate(&x, &random(2, &[2, 4, 5, 4])).is_err());
        assert!(scale_channels(&x, &random(2, &[2, 4])).is_err());
        assert!(add(&x, &random(2, &[2, 3, 5, 4]), true).is_err());
    }

    #[test]
    fn single_precision_agrees_with_double_in_every_gradient() {
        let (x, y) = (random(1, &[2, 3, 9, 17]), random(4, &[2, 3, 9, 17]));
        let (z, s) = ((random(2, &[2, 4, 9, 17]) * 8.0).unwrap(), random(3, &[2, 3]));
        check_single(&[x.clone(), z], 2e-6, |t| gate(&t[0], &t[1]));
        check_single(&[x.clone(), s], 2e-6, |t| scale_channels(&t[0], &t[1]));
        check_single(&[x, y], 2e-6, |t| add(&t[0], &t[1], true));
    }
}
