//! Seed affinity and its hard margin (METHOD §2, eqs 1 and 2).
//!
//! ```text
//! (1)  s_k(i) = ⟨F̂(i), F̂(p_k)⟩        (2)  a_k(i) = max(0, (s_k(i) − m) / (1 − m))
//! ```
//!
//! F̂ is F / √(‖F‖² + 10⁻¹²) per pixel, and F the projection of [`Features`], D channels.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::super::loss::{constant, indices};
use super::super::projection::Features;
use super::layout::Layout;
use crate::nn::fused::{self, Fused, View};
use crate::nn::real::Real;

/// Added to squared lengths: a feature of zeros (a pixel that ReLU switched off) then has affinity 0, not NaN.
const TINY: f64 = 1e-12;

/// Unit features F̂ `[N, D, M]` at the pixels `places[n]` (within image n; M each).
pub fn unit_features(features: &Features, places: &[Vec<u32>]) -> Result<Tensor> {
    let (n, c, _) = features.inputs.dims3()?;
    let count = places.first().map_or(0, Vec::len);
    let index: Vec<u32> = places.iter().flat_map(|places| (0..c).flat_map(move |_| places.iter().copied())).collect();
    let index = indices(index, &[n, c, count], &features.inputs)?;
    let picked = features.weight.broadcast_matmul(&features.inputs.gather(&index, 2)?)?;
    picked.broadcast_div(&(picked.sqr()?.sum_keepdim(1)? + TINY)?.sqrt()?)
}

/// a `[N, K, P]`: the affinity of every pixel with the unit features `anchors` `[N, D, K]` of its image.
///
/// The only dense step of the objective, so on the CPU it is one pass that never stores F, with a gradient that skips
/// the blocks of pixels where a is 0 (nearly all, once the features are trained); other devices compose it. A NaN
/// stays one.
pub fn affinity(features: &Features, anchors: &Tensor, m: f64) -> Result<Tensor> {
    let ((n, c, _), (d, wide), (of, deep, _)) = (features.inputs.dims3()?, features.weight.dims2()?, anchors.dims3()?);
    if (n, c, d) != (of, wide, deep) {
        bail!("affinity: anchors {:?} do not fit {features:?}", anchors.dims());
    }
    match features.inputs.device().is_cpu() {
        true => fused::apply(Affinity { m }, &[&features.inputs, &features.weight, anchors]),
        false => composed(features, anchors, m),
    }
}

fn composed(features: &Features, anchors: &Tensor, m: f64) -> Result<Tensor> {
    let f = features.weight.broadcast_matmul(&features.inputs)?;
    let length = (f.sqr()?.sum_keepdim(1)? + TINY)?.sqrt()?;
    let cosine = anchors.transpose(1, 2)?.contiguous()?.matmul(&f)?.broadcast_div(&length)?;
    cosine.affine(1.0 / (1.0 - m), -m / (1.0 - m))?.relu()
}

struct Affinity {
    m: f64,
}

/// Pixels that are worked on together: their features stay in the cache.
const BLOCK: usize = 256;

/// The sizes of one application.
#[derive(Clone, Copy)]
struct Sizes {
    /// Channels of the inputs.
    c: usize,
    /// Channels of F.
    d: usize,
    /// Anchors of an image.
    k: usize,
    /// Pixels of an image.
    p: usize,
}

impl Sizes {
    /// Of inputs `[N, C, P]`, weight `[D, C]` and anchors `[N, D, K]`.
    fn of<T>(inputs: &[View<T>]) -> Self {
        let (x, q) = (inputs[0].dims, inputs[2].dims);
        Self { c: x[1], d: q[1], k: q[2], p: x[2] }
    }
}

/// y += w·x.
fn add_scaled<T: Real>(y: &mut [T], x: &[T], w: T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += w * x;
    }
}

/// F `[D][block]` and 1/‖F‖ of the pixels `at..at + block` of an image `[C, P]`.
fn project<T: Real>(image: &[T], weight: &[T], sizes: Sizes, at: usize, f: &mut [T], inverse: &mut [T]) {
    let block = inverse.len();
    f.fill(T::zero());
    inverse.fill(T::from_f64(TINY));
    for (f, weight) in f.chunks_mut(block).zip(weight.chunks(sizes.c)) {
        for (x, &w) in image.chunks(sizes.p).zip(weight) {
            add_scaled(f, &x[at..at + block], w);
        }
        for (sum, &f) in inverse.iter_mut().zip(&*f) {
            *sum += f * f;
        }
    }
    inverse.iter_mut().for_each(|sum| *sum = T::from_f64(1.0 / sum.to_f64().sqrt()));
}

impl Fused for Affinity {
    fn name(&self) -> &'static str {
        "affinity"
    }

    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>) {
        let (x, weight, q) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let sizes @ Sizes { c, d, k, p } = Sizes::of(inputs);
        let (m, scale) = (T::from_f64(self.m), T::from_f64(1.0 / (1.0 - self.m)));
        let mut a = vec![T::zero(); inputs[0].dims[0] * k * p];
        let images = x.par_chunks(c * p).zip(q.par_chunks(d * k));
        a.par_chunks_mut(k * p).zip(images).for_each(|(a, (image, q))| {
            let (mut f, mut inverse) = (vec![T::zero(); d * BLOCK], [T::zero(); BLOCK]);
            for at in (0..p).step_by(BLOCK) {
                let block = BLOCK.min(p - at);
                let (f, inverse) = (&mut f[..d * block], &mut inverse[..block]);
                project(image, weight, sizes, at, f, inverse);
                for (slot, a) in a.chunks_mut(p).enumerate() {
                    let a = &mut a[at..at + block];
                    for (f, q) in f.chunks(block).zip(q.chunks(k)) {
                        add_scaled(a, f, q[slot]);
                    }
                    for (a, &inverse) in a.iter_mut().zip(&*inverse) {
                        let s = *a * inverse;
                        *a = if s <= m { T::zero() } else { (s - m) * scale };
                    }
                }
            }
        });
        (a, vec![inputs[0].dims[0], k, p])
    }

    fn backward<T: Real>(&self, inputs: &[View<T>], a: &[T], g: &[T], _wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let (x, weight, q) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let sizes @ Sizes { c, d, k, p } = Sizes::of(inputs);
        let (m, scale) = (T::from_f64(self.m), T::from_f64(1.0 / (1.0 - self.m)));
        let mut dx = vec![T::zero(); x.len()];
        let mut dq = vec![T::zero(); q.len()];
        // One weight gradient per image, added up in order: the sum does not depend on who computes it.
        let mut dweights = vec![T::zero(); inputs[0].dims[0] * d * c];
        let images = x.par_chunks(c * p).zip(q.par_chunks(d * k)).zip(a.par_chunks(k * p).zip(g.par_chunks(k * p)));
        let gradients = dx.par_chunks_mut(c * p).zip(dq.par_chunks_mut(d * k)).zip(dweights.par_chunks_mut(d * c));
        gradients.zip(images).for_each(|(((dx, dq), dweight), ((image, q), (a, g)))| {
            let (mut f, mut df) = (vec![T::zero(); d * BLOCK], vec![T::zero(); d * BLOCK]);
            let (mut inverse, mut pull, mut step) = ([T::zero(); BLOCK], [T::zero(); BLOCK], [T::zero(); BLOCK]);
            for at in (0..p).step_by(BLOCK) {
                let block = BLOCK.min(p - at);
                let alive = |slot: usize| {
                    let part = slot * p + at..slot * p + at + block;
                    a[part.clone()].iter().zip(&g[part]).any(|(&a, &g)| a != T::zero() && g != T::zero())
                };
                if !(0..k).any(alive) {
                    continue;
                }
                let (f, df) = (&mut f[..d * block], &mut df[..d * block]);
                let (inverse, pull, step) = (&mut inverse[..block], &mut pull[..block], &mut step[..block]);
                project(image, weight, sizes, at, f, inverse);
                df.fill(T::zero());
                pull.fill(T::zero());
                // With s = ⟨q, F⟩/‖F‖: ds/dF = q/‖F‖ − s·F/‖F‖², of which `pull` gathers the second part, and ds/dq = F/‖F‖.
                for slot in (0..k).filter(|&slot| alive(slot)) {
                    let (a, g) = (&a[slot * p + at..][..block], &g[slot * p + at..][..block]);
                    for i in 0..block {
                        step[i] = if a[i] == T::zero() { T::zero() } else { g[i] * scale * inverse[i] };
                        pull[i] += step[i] * (a[i] / scale + m) * inverse[i];
                    }
                    for (depth, (df, f)) in df.chunks_mut(block).zip(f.chunks(block)).enumerate() {
                        add_scaled(df, step, q[depth * k + slot]);
                        dq[depth * k + slot] += dot(step, f);
                    }
                }
                for (depth, (df, f)) in df.chunks_mut(block).zip(f.chunks(block)).enumerate() {
                    for ((df, &f), &pull) in df.iter_mut().zip(f).zip(&*pull) {
                        *df -= pull * f;
                    }
                    for channel in 0..c {
                        let part = channel * p + at..channel * p + at + block;
                        add_scaled(&mut dx[part.clone()], df, weight[depth * c + channel]);
                        dweight[depth * c + channel] += dot(df, &image[part]);
                    }
                }
            }
        });
        let mut dweight = vec![T::zero(); d * c];
        for image in dweights.chunks(d * c) {
            add_scaled(&mut dweight, image, T::one());
        }
        vec![Some(dx), Some(dweight), Some(dq)]
    }
}

/// Σ a·b through sixteen running sums, so that it is vectorised.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.into_iter().fold(T::zero(), |sum, lane| sum + lane)
}

/// a under the priors: `[S, L]` for S anchors and the longest support L, of `a` `[N, K, P]`, beside the constant g of
/// the same shape, which is 0 where a support is shorter.
pub fn on_supports(a: &Tensor, layout: &Layout) -> Result<(Tensor, Tensor)> {
    let (count, reach) = (layout.anchors.len(), layout.reach());
    let mut index = vec![0u32; count * reach];
    for (row, anchor) in layout.anchors.iter().enumerate() {
        for (column, at) in anchor.support.iter().enumerate() {
            index[row * reach + column] = layout.index(anchor, at.pixel);
        }
    }
    let index = indices(index, &[count * reach], a)?;
    let on = a.flatten_all()?.index_select(&index, 0)?.reshape((count, reach))?;
    Ok((on, prior_on_supports(layout, a)?))
}

/// g under the priors, as [`on_supports`] has it, in the dtype and on the device of `like`.
pub fn prior_on_supports(layout: &Layout, like: &Tensor) -> Result<Tensor> {
    let (count, reach) = (layout.anchors.len(), layout.reach());
    let mut g = vec![0f32; count * reach];
    for (row, anchor) in layout.anchors.iter().enumerate() {
        for (column, at) in anchor.support.iter().enumerate() {
            g[row * reach + column] = at.g;
        }
    }
    constant(g, &[count, reach], like)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::testing::{check_gradients, check_same, random};

    /// Features that are not projected.
    fn plain(inputs: Tensor) -> Features {
        let channels = inputs.dim(1).unwrap();
        Features { weight: Tensor::eye(channels, inputs.dtype(), &Device::Cpu).unwrap(), inputs }
    }

    fn values(a: &Tensor) -> Vec<f64> {
        a.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn affinity_of_four_pixels_by_hand() {
        // Pixels (3, 4), (4, 3), (−3, −4), (0, 0); the anchor is pixel 0, whose unit feature is (0.6, 0.8).
        let features = plain(Tensor::new(&[[[3.0f64, 4.0, -3.0, 0.0], [4.0, 3.0, -4.0, 0.0]]], &Device::Cpu).unwrap());
        let anchors = unit_features(&features, &[vec![0]]).unwrap();
        // Cosines 1, 0.96, −1, 0.
        let a = affinity(&features, &anchors, 0.6).unwrap();
        for (value, expected) in values(&a).iter().zip([1.0, 0.9, 0.0, 0.0]) {
            assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        }
    }

    #[test]
    fn the_weight_projects_before_lengths_are_taken() {
        // W = (1 −1): F = −1, 1, 0 and the anchor is pixel 1, so that signs alone remain.
        let features = Features {
            inputs: Tensor::new(&[[[3.0f64, 4.0, 5.0], [4.0, 3.0, 5.0]]], &Device::Cpu).unwrap(),
            weight: Tensor::new(&[[1.0f64, -1.0]], &Device::Cpu).unwrap(),
        };
        let a = affinity(&features, &unit_features(&features, &[vec![1]]).unwrap(), -0.5).unwrap();
        for (value, expected) in values(&a).iter().zip([0.0, 1.0, 1.0 / 3.0]) {
            assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        }
    }

    #[test]
    fn every_image_has_anchors_of_its_own() {
        let features = plain(random(1, &[2, 3, 5]));
        let a = affinity(&features, &unit_features(&features, &[vec![4, 1], vec![0, 2]]).unwrap(), 0.0).unwrap();
        // a is 1 where an anchor meets itself: (image, slot, pixel) → (image·2 + slot)·5 + pixel.
        for at in [4, 5 + 1, 10, 15 + 2] {
            assert!((values(&a)[at] - 1.0).abs() < 1e-9);
        }
        assert!(values(&a).iter().all(|a| (0.0..1.0 + 1e-9).contains(a)));
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check_gradients(&[random(3, &[2, 3, 6]), random(4, &[2, 3])], |x| {
            let features = Features { inputs: x[0].clone(), weight: x[1].clone() };
            affinity(&features, &unit_features(&features, &[vec![1, 1], vec![0, 5]])?, 0.1)
        });
    }

    #[test]
    fn one_pass_is_the_composed_form_across_blocks() {
        let inputs = [random(1, &[2, 5, 2 * BLOCK + 7]), random(3, &[3, 5]), random(2, &[2, 3, 4])];
        let features = |x: &[Tensor]| Features { inputs: x[0].clone(), weight: x[1].clone() };
        check_same(&inputs, |x| affinity(&features(x), &x[2], 0.3), |x| composed(&features(x), &x[2], 0.3));
    }

    #[test]
    fn a_nan_stays_one() {
        let features = plain(Tensor::new(&[[[f64::NAN, 1.0]]], &Device::Cpu).unwrap());
        let a = affinity(&features, &Tensor::ones((1, 1, 1), DType::F64, &Device::Cpu).unwrap(), 0.5).unwrap();
        assert!(values(&a)[0].is_nan() && values(&a)[1] > 0.99);
    }
}
