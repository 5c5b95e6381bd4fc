//! The training-only projection of decoder features to the map in which affinities are measured.
//!
//! F = W·cat(d1, up-sampled d2): a 1×1 convolution to D channels, without bias (a bias is a direction that all pixels
//! share, which is what saturates a cosine). It is trained and checkpointed with the network and left behind at
//! deployment. F is never stored: the affinity computes it where it needs it.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};

use crate::data::random::{normal, stream};
use crate::nn;

/// Name under which the weight is optimised and saved.
pub const NAME: &str = "projection.weight";

/// A map to be projected: F = weight·inputs, pixel by pixel.
#[derive(Clone, Debug)]
pub struct Features {
    /// Decoder features `[N, C, P]`, P = H·W.
    pub inputs: Tensor,
    /// The projection `[D, C]`.
    pub weight: Tensor,
}

/// The weight `[D, w1 + w2]`.
#[derive(Clone, Debug)]
pub struct Projection {
    vars: BTreeMap<String, Var>,
}

impl Projection {
    /// Weights from N(0, 1/(w1 + w2)), a function of `seed`.
    pub fn new(w1: usize, w2: usize, channels: usize, seed: u64, device: &Device) -> Result<Self> {
        let width = w1 + w2;
        let deviation = 1.0 / (width as f32).sqrt();
        let mut rng = stream(seed, "projection", 0, 0);
        let values: Vec<f32> = (0..channels * width).map(|_| deviation * normal(&mut rng)).collect();
        let weight = Var::from_vec(values, (channels, width), device)?;
        Ok(Self { vars: BTreeMap::from([(NAME.to_string(), weight)]) })
    }

    /// The weight by its [name](NAME).
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The features of `d1` `[N, w1, H, W]` and `d2` `[N, w2, H/2, W/2]`.
    pub fn features(&self, d1: &Tensor, d2: &Tensor) -> Result<Features> {
        let inputs = Tensor::cat(&[d1, &nn::upsample2(d2)?], 1)?;
        Ok(Features { inputs: inputs.flatten_from(2)?, weight: self.vars[NAME].to_dtype(d1.dtype())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{difference, random};

    #[test]
    fn both_maps_meet_at_full_size() {
        let projection = Projection::new(2, 3, 4, 1, &Device::Cpu).unwrap();
        let (d1, d2) = (random(1, &[2, 2, 4, 4]), random(2, &[2, 3, 2, 2]));
        let features = projection.features(&d1, &d2).unwrap();
        assert_eq!((features.inputs.dims(), features.weight.dims()), (&[2, 5, 16][..], &[4, 5][..]));
        let channel =
            |x: &Tensor, c: usize| x.get(1).unwrap().get(c).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(channel(&features.inputs, 1), channel(&d1, 1));
        // Corners of an aligned up-sampling are the source's corners.
        let (up, down) = (channel(&features.inputs, 4), channel(&d2, 2));
        assert_eq!([up[0], up[3], up[12], up[15]], [down[0], down[1], down[2], down[3]]);
    }

    #[test]
    fn the_seed_decides_the_weight() {
        let weight = |seed| Projection::new(2, 3, 4, seed, &Device::Cpu).unwrap().vars()[NAME].as_tensor().clone();
        assert_eq!(difference(&weight(1), &weight(1)), 0.0);
        assert!(difference(&weight(1), &weight(2)) > 0.1);
    }
}
