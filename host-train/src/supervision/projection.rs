//! The training-only projection of decoder features to the map in which affinities are measured.
//!
//! F = W·cat(d1, up-sampled d2): a 1×1 convolution to D channels, without bias (a bias is a direction that all pixels
//! share, which is what saturates a cosine). It is trained and checkpointed with the network and left behind at
//! deployment. F is never stored: the affinity computes it where it needs it.
//!
//! **Failure switch** [`Fusion::Shallow`]: the encoder's first map joins the two, so that affinity can follow brightness and
//! texture without having learned what a target is (METHOD §2).

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::data::random::{normal, stream};
use crate::model::Outputs;
use crate::nn;

/// Name under which the weight is optimised and saved.
pub const NAME: &str = "projection.weight";

/// The maps that are projected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// d1 and up-sampled d2.
    #[default]
    Decoder,
    /// These and o1, the encoder's map at full size.
    Shallow,
}

/// A map to be projected: F = weight·inputs, pixel by pixel.
#[derive(Clone, Debug)]
pub struct Features {
    /// Decoder features `[N, C, P]`, P = H·W.
    pub inputs: Tensor,
    /// The projection `[D, C]`.
    pub weight: Tensor,
}

/// The weight `[D, w1 + w2]`, or `[D, w1 + w2 + w1]` with the shallow map.
#[derive(Clone, Debug)]
pub struct Projection {
    vars: BTreeMap<String, Var>,
    fusion: Fusion,
}

impl Projection {
    /// Weights from N(0, 1/(input channels)), a function of `seed`.
    pub fn new(w1: usize, w2: usize, channels: usize, fusion: Fusion, seed: u64, device: &Device) -> Result<Self> {
        let width = w1 + w2 + if fusion == Fusion::Shallow { w1 } else { 0 };
        let deviation = 1.0 / (width as f32).sqrt();
        let mut rng = stream(seed, "projection", 0, 0);
        let values: Vec<f32> = (0..channels * width).map(|_| deviation * normal(&mut rng)).collect();
        let weight = Var::from_vec(values, (channels, width), device)?;
        Ok(Self { vars: BTreeMap::from([(NAME.to_string(), weight)]), fusion })
    }

    /// The weight by its [name](NAME).
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The features of a forward pass.
    pub fn features(&self, outputs: &Outputs) -> Result<Features> {
        let (d1, d2) = (&outputs.d1, &nn::upsample2(&outputs.d2)?);
        let inputs = match self.fusion {
            Fusion::Decoder => Tensor::cat(&[d1, d2], 1)?,
            Fusion::Shallow => Tensor::cat(&[d1, d2, &outputs.o1], 1)?,
        };
        Ok(Features { inputs: inputs.flatten_from(2)?, weight: self.vars[NAME].to_dtype(d1.dtype())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{difference, random};

    #[test]
    fn both_maps_meet_at_full_size() {
        let projection = Projection::new(2, 3, 4, Fusion::Decoder, 1, &Device::Cpu).unwrap();
        let (d1, d2, o1) = (random(1, &[2, 2, 4, 4]), random(2, &[2, 3, 2, 2]), random(3, &[2, 2, 4, 4]));
        let outputs = Outputs { logits: d1.clone(), d1: d1.clone(), d2: d2.clone(), o1: o1.clone() };
        let features = projection.features(&outputs).unwrap();
        assert_eq!((features.inputs.dims(), features.weight.dims()), (&[2, 5, 16][..], &[4, 5][..]));
        let channel =
            |x: &Tensor, c: usize| x.get(1).unwrap().get(c).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(channel(&features.inputs, 1), channel(&d1, 1));
        // Corners of an aligned up-sampling are the source's corners.
        let (up, down) = (channel(&features.inputs, 4), channel(&d2, 2));
        assert_eq!([up[0], up[3], up[12], up[15]], [down[0], down[1], down[2], down[3]]);
        let shallow = Projection::new(2, 3, 4, Fusion::Shallow, 1, &Device::Cpu).unwrap().features(&outputs).unwrap();
        assert_eq!((shallow.inputs.dims(), shallow.weight.dims()), (&[2, 7, 16][..], &[4, 7][..]));
        assert_eq!(channel(&shallow.inputs, 6), channel(&o1, 1));
    }

    #[test]
    fn the_seed_decides_the_weight() {
        let weight = |seed| {
            Projection::new(2, 3, 4, Fusion::Decoder, seed, &Device::Cpu).unwrap().vars()[NAME].as_tensor().clone()
        };
        assert_eq!(difference(&weight(1), &weight(1)), 0.0);
        assert!(difference(&weight(1), &weight(2)) > 0.1);
    }
}
