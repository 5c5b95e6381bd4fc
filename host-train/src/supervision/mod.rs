//! What turns labels into a loss.
//!
//! [`Objective`] is what the trainer sees: a loss with named terms, and the variables that are trained beside the
//! network's. Which supervision it is, the configuration says: [`gsacp`] from single points, with the local
//! [`prior`] drawn once per image, [`full`] from the true masks, the upper bound, or [`distill`] from trained networks.

pub mod distill;
pub mod full;
pub mod gsacp;
pub mod loss;
pub mod prior;
pub mod projection;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use self::distill::DistillConfig;
use self::gsacp::{GsacpConfig, Moment};
use self::prior::PriorConfig;
use self::projection::Projection;
use crate::data::train_set::{Batch, TrainSet};
use crate::model::Outputs;

/// Where the loss comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Single points, masks drawn inside the batch.
    #[default]
    Gsacp,
    /// True masks.
    Full,
    /// The logits of trained networks.
    Distill,
}

/// The `[supervision]` section of a run's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisionConfig {
    /// `gsacp`, `full` or `distill`. Default `gsacp`.
    pub method: Method,
    /// The local prior of a point.
    pub prior: PriorConfig,
    /// The objective of GSACP.
    pub gsacp: GsacpConfig,
    /// Learning from other networks.
    pub distill: DistillConfig,
}

impl SupervisionConfig {
    /// An error that names the key when a number is out of range.
    pub fn validate(&self) -> Result<()> {
        self.prior.validate()?;
        self.gsacp.validate()?;
        self.distill.validate()
    }

    /// Whether training needs the true masks.
    pub fn needs_masks(&self) -> bool {
        self.method == Method::Full
    }

    /// Draws the priors of the points of `set`, where the method asks for any.
    pub fn draw_priors(&self, set: &mut TrainSet) -> Result<()> {
        match self.method {
            Method::Gsacp => prior::draw_set(set, &self.prior).map(drop),
            Method::Full | Method::Distill => Ok(()),
        }
    }
}

/// A loss with the terms it is made of.
#[derive(Clone, Debug)]
pub struct Value {
    /// The loss, a scalar with a gradient.
    pub loss: Tensor,
    terms: Vec<(&'static str, Tensor)>,
}

impl Value {
    /// A loss of 0 in the dtype and on the device of `like`.
    fn new(like: &Tensor) -> candle_core::Result<Self> {
        Ok(Self { loss: Tensor::zeros((), like.dtype(), like.device())?, terms: Vec::new() })
    }

    /// Adds `weight`·`term` to the loss; a term of weight 0 is only reported.
    fn add(&mut self, name: &'static str, weight: f64, term: Tensor) -> candle_core::Result<()> {
        if weight != 0.0 {
            self.loss = (&self.loss + (&term * weight)?)?;
        }
        self.terms.push((name, term.detach()));
        Ok(())
    }

    /// The loss and its unweighted terms, by name; the first is `loss`.
    pub fn terms(&self) -> Result<Vec<(&'static str, f64)>> {
        let scalar = |x: &Tensor| x.to_dtype(DType::F64)?.to_scalar::<f64>();
        let terms = self.terms.iter().map(|(name, term)| Ok((*name, scalar(term)?)));
        std::iter::once(Ok(("loss", scalar(&self.loss)?))).chain(terms).collect()
    }
}

/// A supervision with its variables.
#[derive(Clone, Debug)]
pub struct Objective {
    config: SupervisionConfig,
    projection: Option<Projection>,
    none: BTreeMap<String, Var>,
}

impl Objective {
    /// For a network of these widths; `seed` decides the initial weights of the projection.
    pub fn new(config: &SupervisionConfig, widths: [u16; 5], seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        let [w1, w2, ..] = widths.map(usize::from);
        let projection = match config.method {
            Method::Gsacp => Some(Projection::new(w1, w2, config.gsacp.channels, config.gsacp.features, seed, device)?),
            Method::Full | Method::Distill => None,
        };
        Ok(Self { config: config.clone(), projection, none: BTreeMap::new() })
    }

    /// What is trained beside the network, by name. Its gradient is missing in a batch without any seed.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        self.projection.as_ref().map_or(&self.none, Projection::vars)
    }

    /// Whether step `step` of `total` asks for the averaged network's probability.
    pub fn asks_teacher(&self, step: u64, total: u64) -> bool {
        self.projection.is_some() && self.config.gsacp.asks_teacher(fraction(step, total))
    }

    /// The loss of a batch, `step` of `total` steps into the run; `teacher` is, at every pixel, the averaged network's probability
    /// where it was [asked for](Self::asks_teacher), or the mean logit of the networks that are learnt from.
    pub fn evaluate(
        &self,
        outputs: &Outputs,
        batch: &Batch,
        teacher: Option<&[f32]>,
        step: u64,
        total: u64,
    ) -> Result<Value> {
        let Some(projection) = &self.projection else {
            if self.config.method == Method::Full {
                return full::evaluate(&outputs.logits, &batch.masks);
            }
            let teacher = teacher.context("supervision.method = \"distill\" has no network to learn from")?;
            return distill::evaluate(&outputs.logits, teacher, &self.config.distill);
        };
        let features = projection.features(outputs)?;
        let fraction = fraction(step, total);
        let moment = Moment { seeds: &batch.seeds, cut_off: &batch.cut_off, teacher, fraction };
        gsacp::evaluate(&outputs.logits, &features, moment, &self.config.gsacp)
    }
}

fn fraction(step: u64, total: u64) -> f64 {
    step as f64 / total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::patch::Patch;
    use crate::data::train_set::Seed;
    use crate::nn::testing::{difference, random};

    fn outputs() -> Outputs {
        let f32 = |seed, dims: &[usize]| random(seed, dims).to_dtype(DType::F32).unwrap();
        let (logits, d1, d2) = (f32(1, &[2, 1, 16, 16]), f32(2, &[2, 4, 16, 16]), f32(3, &[2, 8, 8, 8]));
        Outputs { logits, d1, d2, o1: f32(4, &[2, 4, 16, 16]) }
    }

    fn batch() -> Batch {
        let patch = Patch { x0: 4, y0: 6, width: 3, height: 1, values: vec![0.7, 1.0, 0.4] };
        let mask = crate::data::image::Mask { width: 16, height: 16, pixels: vec![0; 256] };
        Batch {
            epoch: 0,
            index: 0,
            items: vec![0, 1],
            names: vec!["a".into(), "b".into()],
            windows: Vec::new(),
            images: Vec::new(),
            masks: vec![mask; 2],
            seeds: vec![vec![Seed { x: 5, y: 6, patch }], vec![]],
            cut_off: vec![vec![]; 2],
        }
    }

    const WIDTHS: [u16; 5] = [4, 8, 16, 16, 16];

    #[test]
    fn gsacp_trains_its_projection_and_full_supervision_has_none() {
        let objective = Objective::new(&SupervisionConfig::default(), WIDTHS, 1, &Device::Cpu).unwrap();
        assert_eq!(objective.vars().keys().collect::<Vec<_>>(), [projection::NAME]);
        let value = objective.evaluate(&outputs(), &batch(), None, 0, 10).unwrap();
        let store = value.loss.backward().unwrap();
        for (name, var) in objective.vars() {
            let gradient = store.get(var).unwrap();
            assert!(difference(gradient, &gradient.zeros_like().unwrap()) > 0.0, "{name}");
        }
        let config = SupervisionConfig { method: Method::Full, ..SupervisionConfig::default() };
        let objective = Objective::new(&config, WIDTHS, 1, &Device::Cpu).unwrap();
        assert!(objective.vars().is_empty() && config.needs_masks());
        assert!(objective.evaluate(&outputs(), &batch(), None, 0, 10).unwrap().terms().unwrap()[0].1.is_finite());
    }

    #[test]
    fn a_batch_gives_the_same_bits_again() {
        let objective = Objective::new(&SupervisionConfig::default(), WIDTHS, 1, &Device::Cpu).unwrap();
        let terms = || objective.evaluate(&outputs(), &batch(), None, 3, 10).unwrap().terms().unwrap();
        assert_eq!(terms(), terms());
    }

    #[test]
    fn the_configuration_survives_toml_and_refuses_unknown_keys() {
        let config: SupervisionConfig =
            toml::from_str("method = \"gsacp\"\n[prior]\nform = \"absolute\"\n[gsacp]\nlambda_hbc = 0").unwrap();
        assert_eq!((config.prior.form, config.gsacp.lambda_hbc), (prior::Form::Absolute, 0.0));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<SupervisionConfig>(&text).unwrap(), config);
        assert!(toml::from_str::<SupervisionConfig>("[gsacp]\nlambda_hcb = 1").is_err());
        let bad: SupervisionConfig = toml::from_str("[gsacp]\nchannels = 0").unwrap();
        assert!(bad.validate().unwrap_err().to_string().contains("gsacp.channels"));
    }
}
