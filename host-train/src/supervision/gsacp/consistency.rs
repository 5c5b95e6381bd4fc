//! L_con: the probability follows the target near the seeds (METHOD §2): BCE and soft IoU between P and the constant T,
//! where a prior reaches the floor. The sum over everything else is L_bg's.

use candle_core::{Result, Tensor};

use super::super::loss::{bce, constant, indices, sigmoid, soft_iou};
use super::layout::Layout;

/// BCE, the mean over [`Layout::near`], and soft IoU, the mean over the images that have such pixels; `target` is T there
/// and `logits` `[N·P]`. None without such pixels.
pub fn consistency(logits: &Tensor, target: &[f32], layout: &Layout) -> Result<Option<(Tensor, Tensor)>> {
    let count = layout.near.len();
    if count == 0 {
        return Ok(None);
    }
    let near = logits.index_select(&indices(layout.near.clone(), &[count], logits)?, 0)?;
    let cross = bce(&near, &constant(target.to_vec(), &[count], logits)?)?.mean_all()?;

    // One row per image, filled up with pixels of probability and target 0.
    let image_of = |place: &usize| layout.near[*place] as usize / layout.pixels;
    let places: Vec<usize> = (0..count).collect();
    let rows: Vec<&[usize]> = places.chunk_by(|a, b| image_of(a) == image_of(b)).collect();
    let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let (mut index, mut real, mut t) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        for place in 0..width {
            let at = row.get(place);
            index.push(at.map_or(0, |&at| at as u32));
            real.push(if at.is_some() { 1f32 } else { 0.0 });
            t.push(at.map_or(0.0, |&at| target[at]));
        }
    }
    let shape = [rows.len(), width];
    let p = sigmoid(&near)?.index_select(&indices(index, &[rows.len() * width], logits)?, 0)?.reshape(&shape)?;
    let p = (p * constant(real, &shape, logits)?)?;
    let overlap = soft_iou(&p, &constant(t, &shape, logits)?)?.mean_all()?;
    Ok(Some((cross, overlap)))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::layout::Layout;
    use super::*;
    use crate::nn::testing::{check_gradients, random};

    /// Three pixels near in image 0, none in image 1, one in image 2; four pixels an image.
    fn layout() -> Layout {
        Layout {
            images: 3,
            pixels: 4,
            width: 4,
            slots: 1,
            anchors: Vec::new(),
            background: vec![true; 12],
            near: vec![0, 1, 3, 10],
        }
    }

    #[test]
    fn images_count_alike_in_soft_iou_and_pixels_in_bce() {
        let logits = Tensor::zeros(12, candle_core::DType::F64, &Device::Cpu).unwrap();
        let (cross, overlap) = consistency(&logits, &[1.0, 0.5, 0.0, 1.0], &layout()).unwrap().unwrap();
        assert!((cross.to_scalar::<f64>().unwrap() - 2f64.ln()).abs() < 1e-12);
        // Image 0: overlap 0.75, union 1.5 + 1.5 − 0.75; image 2: overlap 0.5, union 1.
        let expected = ((1.0 - 1.75 / 3.25) + (1.0 - 1.5 / 2.0)) / 2.0;
        assert!((overlap.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for which in 0..2 {
            check_gradients(&[random(2, &[12])], |x| {
                let (cross, overlap) = consistency(&x[0], &[1.0, 0.5, 0.0, 1.0], &layout())?.unwrap();
                Ok([cross, overlap][which].clone())
            });
        }
    }

    #[test]
    fn nothing_near_is_no_term() {
        let logits = Tensor::zeros(12, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(consistency(&logits, &[], &Layout { near: Vec::new(), ..layout() }).unwrap().is_none());
    }
}
