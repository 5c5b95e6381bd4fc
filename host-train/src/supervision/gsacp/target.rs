//! The training target drawn inside the batch (METHOD §2, eq. 4): T(i) = max_k a_k(i)·g_k(i), sharpened about ½.
//!
//! ```text
//! S_n(T) = Tⁿ / (Tⁿ + (1 − T)ⁿ)
//! ```
//!
//! keeps 0, ½ and 1. Order 1 is eq. 4 itself; towards infinity it is the mask {T > ½}. A soft target makes logits that
//! are near 0 all over a small target, so that a threshold above 0 shrinks the mask; a sharp one makes steep edges.
//!
//! T is a constant of the step: no gradient flows through it (eq. 8's drift has one path, that of L_prop).

use candle_core::{Result, Tensor};

use super::super::loss::host;
use super::layout::Layout;

/// S_n(T) at every pixel of [`Layout::near`], in its order, of a under the supports `[S, L]`; `order` is n.
pub fn target(on_supports: &Tensor, layout: &Layout, order: f64) -> Result<Vec<f32>> {
    let a = host(on_supports)?;
    let reach = layout.reach();
    let mut map = vec![0f32; layout.background.len()];
    for (row, anchor) in layout.anchors.iter().enumerate() {
        for (column, at) in anchor.support.iter().enumerate() {
            let t = &mut map[at.pixel as usize];
            // `f32::max` would hide a NaN.
            let value = a[row * reach + column] * at.g;
            if value > *t || value.is_nan() {
                *t = value;
            }
        }
    }
    Ok(layout.near.iter().map(|&pixel| sharpen(map[pixel as usize], order)).collect())
}

fn sharpen(t: f32, order: f64) -> f32 {
    if order == 1.0 {
        return t;
    }
    let (yes, no) = (f64::from(t).powf(order), f64::from(1.0 - t).powf(order));
    (yes / (yes + no)) as f32
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::Device;

    use super::*;
    use crate::data::patch::Patch;
    use crate::data::train_set::Seed;

    /// Two seeds, at columns 0 and 2 of a 4×1 crop; their priors overlap on column 1.
    pub fn two_seeds() -> Layout {
        let seed = |x: u32, x0: i32, values: &[f32]| Seed {
            x,
            y: 0,
            patch: Patch { x0, y0: 0, width: values.len() as u32, height: 1, values: values.to_vec() },
        };
        Layout::new((4, 1), &[vec![seed(0, 0, &[1.0, 0.5]), seed(2, 1, &[0.8, 1.0, 0.25])]], &[], 0.05, 4)
    }

    #[test]
    fn where_priors_overlap_the_larger_product_wins() {
        let a = Tensor::new(&[[1.0f64, 0.9, 0.0], [0.5, 1.0, 0.4]], &Device::Cpu).unwrap();
        // Pixel 0: 1·1; pixel 1: max(0.9·0.5, 0.5·0.8); pixel 2: 1·1; pixel 3: 0.4·0.25.
        let t = target(&a, &two_seeds(), 1.0).unwrap();
        for (value, expected) in t.iter().zip([1.0, 0.45, 1.0, 0.1]) {
            assert!((value - expected).abs() < 1e-6);
        }
        assert_eq!(t.len(), 4);
    }

    #[test]
    fn sharpening_keeps_the_half_and_the_ends() {
        // n = 2: 0.8² / (0.8² + 0.2²) = 0.64/0.68.
        for (t, order, expected) in
            [(0.0, 3.0, 0.0), (0.5, 7.0, 0.5), (1.0, 2.0, 1.0), (0.8, 2.0, 0.941_176_5), (0.2, 2.0, 0.058_823_5)]
        {
            assert!((sharpen(t, order) - expected).abs() < 1e-6, "{t} to the {order}");
        }
    }

    #[test]
    fn a_nan_affinity_is_not_hidden() {
        let a = Tensor::new(&[[f64::NAN, 0.9, 0.0], [0.5, 1.0, 0.4]], &Device::Cpu).unwrap();
        for order in [1.0, 4.0] {
            assert!(target(&a, &two_seeds(), order).unwrap()[0].is_nan());
        }
    }
}
