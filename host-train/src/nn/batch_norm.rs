//! Batch normalisation over N, H, W, with the ReLU that follows it fused in.
//!
//! Training: y = γ·(x − μ)/√(σ² + ε) + β with the batch's mean μ and biased variance σ². Two passes over the data forward (sums; output) and two
//! backward; sums are taken in f64, plane by plane, and added in the order of the images.
//!
//! With given statistics a normalisation is part of the convolution before it, and costs nothing ([`fold_batch_norm`]).

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::compose;
use super::fused::{self, Fused, View};
use super::loops;
use super::real::Real;

/// The ε of every batch norm, under the square root (METHOD §1).
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// Statistics of one batch, `[C]` each, of the input's type, without a gradient: what running estimates are fed with.
#[derive(Clone, Debug)]
pub struct BatchStats {
    /// Mean over N, H, W.
    pub mean: Tensor,
    /// Unbiased variance (divisor N·H·W − 1; biased if that is zero).
    pub var: Tensor,
}

/// Normalises `x` `[N, C, H, W]` by its own statistics, scales by `gamma` `[C]`, shifts by `beta` `[C]`, and clips at zero if `relu`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn batch_norm_train(x: &Tensor, gamma: &Tensor, beta: &Tensor, relu: bool) -> Result<(Tensor, BatchStats)> {
    let (n, c, h, w) = x.dims4()?;
    check(x, &[gamma, beta])?;
    let count = (n * h * w) as f64;
    let unbias = count / (count - 1.0).max(1.0);
    if !x.device().is_cpu() {
        let (y, mean, var) = compose::batch_norm_train(x, gamma, beta, relu, BATCH_NORM_EPS)?;
        return Ok((y, BatchStats { mean, var: (var * unbias)? }));
    }
    let moments = Arc::new(OnceLock::new());
    let y = fused::apply(Train { relu, moments: moments.clone() }, &[x, gamma, beta])?;
    let Some((mean, var)) = moments
        .get()
        .cloned()
        .map(|m: Vec<Moments>| -> (Vec<f64>, Vec<f64>) { m.iter().map(|m| (m.mean, m.var * unbias)).unzip() })
    else {
        bail!("batch_norm: the forward pass kept no statistics");
    };
    let tensor = |v: Vec<f64>| Tensor::from_vec(v, c, x.device())?.to_dtype(x.dtype());
    Ok((y, BatchStats { mean: tensor(mean)?, var: tensor(var)? }))
}

/// The weights `[Co, Ci, k, k]` and the bias `[Co]` of the convolution that does what one of `weight` and `bias` does and a normalisation by
/// given statistics `[Co]` behind it: w·s and β + (b − mean)·s with s = γ/√(var + ε).
/// What an engine gets is folded in double precision, and without gradients, by [`crate::export::fold`].
///
/// # Errors
/// Shapes or types that do not fit.
pub fn fold_batch_norm(
    (weight, bias): (&Tensor, Option<&Tensor>),
    (gamma, beta): (&Tensor, &Tensor),
    (mean, var): (&Tensor, &Tensor),
) -> Result<(Tensor, Tensor)> {
    let scale = (gamma / (var + BATCH_NORM_EPS)?.sqrt()?)?;
    let centred = match bias {
        Some(bias) => (bias - mean)?,
        None => mean.neg()?,
    };
    Ok((weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?, (beta + (centred * scale)?)?))
}

fn check(x: &Tensor, per_channel: &[&Tensor]) -> Result<()> {
    let c = x.dim(1)?;
    match per_channel.iter().find(|t| t.dims() != [c] || t.dtype() != x.dtype()) {
        Some(t) => bail!(
            "batch_norm: a parameter is {:?} {:?}, the input has {c} channels of {:?}",
            t.dims(),
            t.dtype(),
            x.dtype()
        ),
        None if x.elem_count() == 0 => bail!("batch_norm: empty input {:?}", x.dims()),
        None => Ok(()),
    }
}

#[derive(Clone, Copy, Debug)]
struct Moments {
    mean: f64,
    var: f64,
}

struct Train {
    relu: bool,
    moments: Arc<OnceLock<Vec<Moments>>>,
}

impl Train {
    fn scale_shift<T: Real>(m: &Moments, gamma: T, beta: T) -> (T, T) {
        let scale = gamma.to_f64() / (m.var + BATCH_NORM_EPS).sqrt();
        (T::from_f64(scale), T::from_f64(beta.to_f64() - m.mean * scale))
    }
}

impl Fused for Train {
    fn name(&self) -> &'static str {
        "batch-norm-train"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let [n, c, h, w] = inputs[0].nchw();
        let (x, gamma, beta) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let sums: Vec<(f64, f64)> = x.par_chunks(h * w).map(loops::sum_and_squares).collect();
        let count = (n * h * w) as f64;
        let moments: Vec<Moments> = totals(&sums, c)
            .into_iter()
            .map(|(sum, squares)| {
                let mean = sum / count;
                Moments { mean, var: (squares / count - mean * mean).max(0.0) }
            })
            .collect();
        let coefficients: Vec<(T, T)> =
            moments.iter().zip(gamma.iter().zip(beta)).map(|(m, (g, b))| Self::scale_shift(m, *g, *b)).collect();
        let y = affine(x, h * w, &coefficients, self.relu);
        // The object serves one application, so this is the first and only set.
        let _ = self.moments.set(moments);
        (y, inputs[0].dims.to_vec())
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], _y: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let Some(moments) = self.moments.get() else { return vec![None, None, None] };
        let [n, c, h, w] = inputs[0].nchw();
        let (x, gamma, beta) = (inputs[0].data, inputs[1].data, inputs[2].data);
        // A unit that the ReLU clipped passes nothing back; the output is recomputed, bit for bit, rather than read.
        let coefficients: Vec<(T, T)> =
            moments.iter().zip(gamma.iter().zip(beta)).map(|(m, (g, b))| Self::scale_shift(m, *g, *b)).collect();
        let relu = self.relu;
        let sums: Vec<(f64, f64)> = x
            .par_chunks(h * w)
            .zip(g.par_chunks(h * w))
            .enumerate()
            .map(|(i, (x, g))| {
                let (scale, shift) = coefficients[i % c];
                loops::masked_sums(x, g, scale, shift, T::from_f64(moments[i % c].mean), relu)
            })
            .collect();
        let totals = totals(&sums, c);
        let count = (n * h * w) as f64;
        // dx = γ/√(σ²+ε) · (g − mean(g) − x̂·mean(g·x̂)), written as g·a + x·b + k.
        let (mut d_gamma, mut d_beta, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (sum, centred)) in totals.into_iter().enumerate() {
            let inverse = 1.0 / (moments[i].var + BATCH_NORM_EPS).sqrt();
            let a = gamma[i].to_f64() * inverse;
            let b = -a * centred * inverse * inverse / count;
            let k = -a * sum / count - b * moments[i].mean;
            lines.push((T::from_f64(a), T::from_f64(b), T::from_f64(k)));
            d_gamma.push(T::from_f64(centred * inverse));
            d_beta.push(T::from_f64(sum));
        }
        let mut dx = vec![T::zero(); x.len()];
        dx.par_chunks_mut(h * w).zip(x.par_chunks(h * w)).zip(g.par_chunks(h * w)).enumerate().for_each(
            |(i, ((dx, x), g))| {
                let (scale, shift) = coefficients[i % c];
                loops::masked_line(dx, x, g, scale, shift, lines[i % c], relu);
            },
        );
        vec![Some(dx), Some(d_gamma), Some(d_beta)]
    }
}

/// Sums over the planes of each channel, in the order of the images.
fn totals(planes: &[(f64, f64)], channels: usize) -> Vec<(f64, f64)> {
    let mut totals = vec![(0.0, 0.0); channels];
    for (i, plane) in planes.iter().enumerate() {
        let total = &mut totals[i % channels];
        *total = (total.0 + plane.0, total.1 + plane.1);
    }
    totals
}

/// y = x·scale + shift by channel, clipped at zero if `relu`.
fn affine<T: Real>(x: &[T], plane: usize, coefficients: &[(T, T)], relu: bool) -> Vec<T> {
    let mut y = vec![T::zero(); x.len()];
    y.par_chunks_mut(plane).zip(x.par_chunks(plane)).enumerate().for_each(|(i, (y, x))| {
        let (scale, shift) = coefficients[i % coefficients.len()];
        loops::affine(y, x, scale, shift, relu);
    });
    y
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::conv2d;
    use crate::nn::testing::{check_gradients, check_same, check_single, difference, random};

    fn inputs() -> Vec<Tensor> {
        vec![random(1, &[2, 3, 5, 3]), random(2, &[3]), random(3, &[3])]
    }

    #[test]
    fn training_gradients_are_those_of_finite_differences() {
        for relu in [false, true] {
            check_gradients(&inputs(), |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], relu)?.0));
        }
    }

    #[test]
    fn a_folded_normalisation_is_the_one_behind_the_convolution_and_so_are_its_gradients() {
        let shapes: [&[usize]; 5] = [&[2, 2, 5, 4], &[3, 2, 3, 3], &[3], &[3], &[3]];
        let tensors: Vec<Tensor> = shapes.iter().enumerate().map(|(i, dims)| random(i as u64, dims)).collect();
        let (mean, var) = (random(7, &[3]), (random(8, &[3]).abs().unwrap() + 0.5).unwrap());
        for relu in [false, true] {
            for biased in [false, true] {
                let folded = |t: &[Tensor]| {
                    let (w, b) = fold_batch_norm((&t[1], t.get(4)), (&t[2], &t[3]), (&mean, &var))?;
                    conv2d(&t[0], &w, Some(&b), 1, 1, 1, relu)
                };
                let plain = |t: &[Tensor]| {
                    let y = conv2d(&t[0], &t[1], t.get(4), 1, 1, 1, false)?;
                    let channels = |t: &Tensor| t.reshape((1, 3, 1, 1));
                    let y = y.broadcast_sub(&channels(&mean)?)?;
                    let y = y.broadcast_div(&channels(&(&var + BATCH_NORM_EPS)?.sqrt()?)?)?;
                    let y = y.broadcast_mul(&channels(&t[2])?)?.broadcast_add(&channels(&t[3])?)?;
                    if relu { y.relu() } else { Ok(y) }
                };
                let used = &tensors[..if biased { 5 } else { 4 }];
                check_same(used, folded, plain);
                check_gradients(used, folded);
            }
        }
    }

    #[test]
    fn the_composed_normalisation_is_the_fused_one() {
        for relu in [false, true] {
            check_same(
                &inputs(),
                |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], relu)?.0),
                |t| Ok(compose::batch_norm_train(&t[0], &t[1], &t[2], relu, BATCH_NORM_EPS)?.0),
            );
        }
    }

    #[test]
    fn the_statistics_are_the_mean_and_the_unbiased_variance() {
        // Channel 0 holds 1..4: mean 2.5, variance 5/3. Channel 1 is constant.
        let x = Tensor::new(&[[[[1f64, 2.0]], [[7.0, 7.0]]], [[[3.0, 4.0]], [[7.0, 7.0]]]], &Device::Cpu).unwrap();
        let (ones, zeros) =
            (Tensor::ones(2, DType::F64, &Device::Cpu).unwrap(), Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap());
        let (y, stats) = batch_norm_train(&x, &ones, &zeros, false).unwrap();
        assert_eq!(stats.mean.to_vec1::<f64>().unwrap(), [2.5, 7.0]);
        let var = stats.var.to_vec1::<f64>().unwrap();
        assert!((var[0] - 5.0 / 3.0).abs() < 1e-12 && var[1] == 0.0);
        // (1 − 2.5)/√(1.25 + 1e-5)
        let first = y.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
        assert!((first + 1.341_635).abs() < 1e-6, "{first}");
    }

    #[test]
    fn single_precision_agrees_with_double_on_a_large_offset() {
        let x = random(1, &[4, 5, 33, 31]).affine(0.1, 20.0).unwrap().to_dtype(DType::F32).unwrap();
        let (gamma, beta) =
            (random(2, &[5]).to_dtype(DType::F32).unwrap(), random(3, &[5]).to_dtype(DType::F32).unwrap());
        let (y, stats) = batch_norm_train(&x, &gamma, &beta, true).unwrap();
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let (exact, of) = batch_norm_train(&double(&x), &double(&gamma), &double(&beta), true).unwrap();
        // The shift −mean·scale is rounded to f32 near 20/0.06.
        assert!(difference(&y, &exact) < 1e-4, "{}", difference(&y, &exact));
        assert!(difference(&stats.mean, &of.mean) < 1e-5 && difference(&stats.var, &of.var) < 1e-8);
    }

    #[test]
    fn parameters_of_another_length_are_errors() {
        let t = inputs();
        assert!(batch_norm_train(&t[0], &random(2, &[4]), &t[2], false).is_err());
        let w = random(4, &[3, 2, 3, 3]);
        assert!(fold_batch_norm((&w, None), (&t[1], &t[2]), (&t[1], &random(2, &[4]))).is_err());
        assert!(fold_batch_norm((&random(4, &[4, 2, 3, 3]), None), (&t[1], &t[2]), (&t[1], &t[2])).is_err());
    }

    #[test]
    fn single_precision_agrees_with_double_in_every_gradient() {
        // No value lies so near the ReLU's corner that the two types disagree about its side.
        let t = [random(7, &[2, 3, 19, 23]), random(2, &[3]), random(3, &[3])];
        for relu in [false, true] {
            check_single(&t, 1e-5, |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], relu)?.0));
        }
    }
}
