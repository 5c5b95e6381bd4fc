//! The logit map of one image, whichever engine made it.

use anyhow::{Result, ensure};
use gsacp_core::detect::{self, Detections, View};
use gsacp_core::frame::{Depth, Frame};
use gsacp_core::metrics::{self, Margin};

use super::Buffers;
use crate::data::image::{Mask, Samples, StoredImage, mirrored};

/// Detections that one image can have before the weakest are dropped, and the drop reported.
pub const MOST_DETECTIONS: usize = 1024;

/// Logit values, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// From candle or the float engine.
    Float(Vec<f32>),
    /// From the int8 engine, 1/256 per step.
    Steps(Vec<i16>),
}

/// The logit map of an image, without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitMap {
    /// Columns of the image.
    pub width: usize,
    /// Rows of the image.
    pub height: usize,
    /// `width·height` logits.
    pub values: Values,
}

impl LogitMap {
    /// Cuts the map of an image out of a network's padded output of rows `stride` long.
    /// A float logit that is not finite is an error: the weights or the image are broken.
    pub fn cut(values: Values, stride: usize, width: usize, height: usize) -> Result<Self> {
        let values = match values {
            Values::Float(v) => {
                let v = crop(&v, stride, width, height)?;
                ensure!(
                    v.iter().all(|logit| logit.is_finite()),
                    "the network gives logits that are not finite: are the weights those of this network?"
                );
                Values::Float(v)
            }
            Values::Steps(v) => Values::Steps(crop(&v, stride, width, height)?),
        };
        Ok(Self { width, height, values })
    }

    /// The map mirrored by columns, by rows, or both.
    pub fn mirrored(&self, columns: bool, rows: bool) -> Self {
        let values = match &self.values {
            Values::Float(v) => Values::Float(mirrored(v, self.width, columns, rows)),
            Values::Steps(v) => Values::Steps(mirrored(v, self.width, columns, rows)),
        };
        Self { values, ..*self }
    }

    /// The mean of maps of one image, at least one; exact where they are of steps.
    pub fn mean(maps: &[Self]) -> Self {
        let Self { width, height, .. } = maps[0];
        let mut sum = vec![0f32; width * height];
        for map in maps {
            match &map.values {
                Values::Float(v) => sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += v),
                Values::Steps(v) => sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += f32::from(*v) / 256.0),
            }
        }
        sum.iter_mut().for_each(|sum| *sum /= maps.len() as f32);
        Self { width, height, values: Values::Float(sum) }
    }

    /// The map on the int16 grid such that every comparison `logit > threshold` with a threshold of the grid has the same
    /// outcome: v·256 > t for an integer t exactly where ⌈v·256⌉ > t.
    pub fn into_steps(self) -> Vec<i16> {
        match self.values {
            Values::Float(v) => v.into_iter().map(|v| (v * 256.0).ceil() as i16).collect(),
            Values::Steps(v) => v,
        }
    }

    /// Everything over `threshold` (in steps of 1/256), measured on the image.
    pub fn detect(
        &self,
        threshold: i16,
        image: &StoredImage,
        buffers: &mut Buffers,
    ) -> Result<Detections<MOST_DETECTIONS>> {
        let (width, height) = (self.width, self.height);
        let bytes;
        let (bytes, depth) = match &image.samples {
            Samples::Eight(v) => (&v[..], Depth::Eight),
            Samples::Sixteen(v) => {
                bytes = v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
                (&bytes[..], Depth::Sixteen)
            }
        };
        let frame = Frame::new(bytes, image.width, image.height, depth)?;
        let workspace = &mut buffers.workspace(width);
        Ok(match &self.values {
            Values::Float(v) => {
                detect::find(&View::new(v, width, height)?, f32::from(threshold) / 256.0, &frame, workspace)?
            }
            Values::Steps(v) => detect::find(&View::new(v, width, height)?, threshold, &frame, workspace)?,
        })
    }

    /// The margin's terms of this image.
    pub fn margin(&self, truth: &Mask) -> Result<Margin> {
        let truth = View::new(&truth.pixels, truth.width, truth.height)?;
        Ok(match &self.values {
            Values::Float(v) => metrics::margin(&truth, &View::new(v, self.width, self.height)?)?,
            Values::Steps(v) => metrics::margin(&truth, &View::new(v, self.width, self.height)?)?,
        })
    }
}

/// Sixteen-bit map over a threshold → mask.
pub fn mask_of(steps: &[i16], width: usize, height: usize, threshold: i16) -> Mask {
    Mask { width, height, pixels: steps.iter().map(|&v| u8::from(v > threshold)).collect() }
}

fn crop<T: Copy>(values: &[T], stride: usize, width: usize, height: usize) -> Result<Vec<T>> {
    let view = View::cropped(values, stride, width, height)?;
    Ok((0..height).flat_map(|y| view.row(y).iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_logits_on_the_grid_answer_every_threshold_alike() {
        let floats = [-3.0, -0.0039, 0.0, 0.0001, 0.0039062, 0.00390625, 0.0039063, 1.9999, 127.9, 200.0, -200.0f32];
        let map = LogitMap { width: floats.len(), height: 1, values: Values::Float(floats.to_vec()) };
        for (float, step) in floats.into_iter().zip(map.into_steps()) {
            for threshold in [-768, -2, -1, 0, 1, 2, 511, 512, 32766, 32767] {
                let exact = float > f32::from(threshold) / 256.0;
                // Above the grid's end only the very last threshold can differ, which then predicts nothing.
                assert_eq!(step > threshold, exact && threshold < 32767, "{float} > {threshold}/256");
            }
        }
    }

    #[test]
    fn the_mean_of_steps_is_exact_between_them() {
        let map = |values| LogitMap { width: 2, height: 1, values };
        let (steps, floats) = (map(Values::Steps(vec![1, -3])), map(Values::Float(vec![0.5, 2.0])));
        assert_eq!(
            LogitMap::mean(&[steps.clone(), steps.mirrored(true, false)]).values,
            Values::Float(vec![-1.0 / 256.0; 2])
        );
        assert_eq!(LogitMap::mean(&[floats.clone(), floats.mirrored(false, true)]), floats);
        assert_eq!(LogitMap::mean(&[floats, map(Values::Steps(vec![0, 256]))]).values, Values::Float(vec![0.25, 1.5]));
    }

    #[test]
    fn padding_is_cut_off_and_broken_logits_are_an_error() {
        let map = LogitMap::cut(Values::Steps((0..12).collect()), 4, 3, 2).unwrap();
        assert_eq!(map.values, Values::Steps(vec![0, 1, 2, 4, 5, 6]));
        assert!(LogitMap::cut(Values::Float(vec![f32::NAN]), 1, 1, 1).is_err());
        assert!(LogitMap::cut(Values::Float(vec![1.0, f32::NAN]), 2, 1, 1).is_ok(), "padding does not count");
    }
}
