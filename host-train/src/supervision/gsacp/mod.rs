//! GSACP-Base: masks from points, drawn inside the batch (METHOD §2, eqs 1–6).
//!
//! ```text
//! (5)  L = λ_point L_point + λ_bg L_bg + λ_mass L_mass + λ_con L_con + λ_prop L_prop (+ λ_hbc L_hbc)
//! ```
//!
//! One file per term. The affinity is dense, `[N, K, H·W]`, only where L_mass needs it to be; every other term picks the
//! few pixels that it is about. A crop without seeds has L_bg alone, and gives negatives to the others' L_hbc.
//!
//! Drift signals (METHOD: plot them in every run): `background_affinity` is L_mass and `prior_missed` is L_prop, both
//! unweighted and present when their weights are 0. An affinity that has saturated shows the first large and the
//! second near 0.

pub mod affinity;
pub mod background;
pub mod consistency;
pub mod hbc;
pub mod layout;
pub mod mass;
pub mod point;
pub mod propagation;
pub mod target;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use self::layout::Layout;
use super::Value;
use super::loss::host;
use super::projection::Features;
use crate::data::patch::Patch;
use crate::data::train_set::Seed;

/// Numbers of the objective. The defaults are those of METHOD's second trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GsacpConfig {
    /// D, channels of the projected feature map. Default 16.
    pub channels: usize,
    /// m of eq. 2, below 1. Default 0.6.
    pub margin: f64,
    /// n of the target's sharpening ([`target`]); 1 is eq. 4 as it stands. Default 1.
    pub target_order: f64,
    /// Where a prior counts as near: g at least this. Default 0.05.
    pub floor: f32,
    /// Seeds of a crop that take part; the priors of the others are neither background nor target. Default 16.
    pub most_seeds: usize,
    /// Weight of L_point. Default 0.2.
    pub lambda_point: f64,
    /// Weight of L_bg. Default 1.
    pub lambda_bg: f64,
    /// The hardest share of the background that L_bg averages. Default 0.005.
    pub hard_share: f64,
    /// Weight of L_mass. Default 0.3.
    pub lambda_mass: f64,
    /// Weight of the cross-entropy of L_con. Default 1.
    pub lambda_con: f64,
    /// Weight of the soft IoU of L_con. Default 1.
    pub lambda_iou: f64,
    /// Weight of L_prop. Default 0.5.
    pub lambda_prop: f64,
    /// Share of the run after which λ_prop falls to 0 by a cosine (the decay of LTD); 1: never. Default 1.
    pub prop_decay_from: f64,
    /// Weight of L_hbc; 0 leaves it out. Default 0.5.
    pub lambda_hbc: f64,
    /// δ of L_hbc. Default 0.2.
    pub hbc_delta: f64,
    /// τ of L_hbc. Default 0.1.
    pub hbc_tau: f64,
    /// Negatives of a batch, shared evenly by its images. Default 128.
    pub hbc_negatives: usize,
}

impl Default for GsacpConfig {
    fn default() -> Self {
        Self {
            channels: 16,
            margin: 0.6,
            target_order: 1.0,
            floor: 0.05,
            most_seeds: 16,
            lambda_point: 0.2,
            lambda_bg: 1.0,
            hard_share: 0.005,
            lambda_mass: 0.3,
            lambda_con: 1.0,
            lambda_iou: 1.0,
            lambda_prop: 0.5,
            prop_decay_from: 1.0,
            lambda_hbc: 0.5,
            hbc_delta: 0.2,
            hbc_tau: 0.1,
            hbc_negatives: 128,
        }
    }
}

impl GsacpConfig {
    /// An error that names the key when a number is out of range.
    pub fn validate(&self) -> Result<()> {
        let lambdas = [
            ("lambda_point", self.lambda_point),
            ("lambda_bg", self.lambda_bg),
            ("lambda_mass", self.lambda_mass),
            ("lambda_con", self.lambda_con),
            ("lambda_iou", self.lambda_iou),
            ("lambda_prop", self.lambda_prop),
            ("lambda_hbc", self.lambda_hbc),
        ];
        for (key, value) in lambdas {
            ensure!(value.is_finite() && value >= 0.0, "gsacp.{key} = {value}: give 0 or more");
        }
        ensure!((1..=256).contains(&self.channels), "gsacp.channels = {}: give 1 to 256", self.channels);
        ensure!((-1.0..1.0).contains(&self.margin), "gsacp.margin = {}: give −1 to below 1", self.margin);
        let order = self.target_order;
        ensure!((0.1..=100.0).contains(&order), "gsacp.target_order = {order}: give 0.1 to 100");
        ensure!(self.floor > 0.0 && self.floor < 0.5, "gsacp.floor = {}: give a value between 0 and ½", self.floor);
        ensure!((1..=256).contains(&self.most_seeds), "gsacp.most_seeds = {}: give 1 to 256", self.most_seeds);
        for (key, share) in [("hard_share", self.hard_share), ("prop_decay_from", self.prop_decay_from)] {
            ensure!((0.0..=1.0).contains(&share), "gsacp.{key} = {share}: give a share from 0 to 1");
        }
        ensure!((-1.0..=1.0).contains(&self.hbc_delta), "gsacp.hbc_delta = {}: give −1 to 1", self.hbc_delta);
        ensure!(self.hbc_tau > 0.0 && self.hbc_tau <= 10.0, "gsacp.hbc_tau = {}: give above 0 to 10", self.hbc_tau);
        ensure!(
            (1..=65536).contains(&self.hbc_negatives),
            "gsacp.hbc_negatives = {}: give 1 to 65536",
            self.hbc_negatives
        );
        Ok(())
    }

    /// λ_prop when `fraction` (0 to 1) of the run is done.
    pub fn lambda_prop_at(&self, fraction: f64) -> f64 {
        if fraction <= self.prop_decay_from || self.prop_decay_from >= 1.0 {
            return self.lambda_prop;
        }
        let done = ((fraction - self.prop_decay_from) / (1.0 - self.prop_decay_from)).min(1.0);
        self.lambda_prop * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// The objective (5) of `logits` `[N, 1, H, W]` and `features` of the same pixels, for the seeds inside each of
/// the N crops and the priors that reach into it from outside, when `fraction` of the run is done.
///
/// # Errors
/// When shapes and labels do not fit each other.
pub fn evaluate(
    logits: &Tensor,
    features: &Features,
    seeds: &[Vec<Seed>],
    cut_off: &[Vec<Patch>],
    config: &GsacpConfig,
    fraction: f64,
) -> Result<Value> {
    let (n, _, h, w) = logits.dims4()?;
    ensure!(seeds.len() == n, "{} crops have seeds and {n} have logits", seeds.len());
    let strays = seeds.iter().flatten().filter(|seed| seed.x as usize >= w || seed.y as usize >= h).count();
    ensure!(strays == 0, "{strays} seeds are outside their {w}×{h} crop");
    let layout = Layout::new((w, h), seeds, cut_off, config.floor, config.most_seeds);
    let logits = logits.flatten_all()?;
    let seen = host(&logits)?;

    let mut value = Value::new(&logits)?;
    let hard = background::hard_background(&seen, &layout, config.hard_share);
    if !hard.is_empty() {
        value.add("background", config.lambda_bg, background::background(&logits, hard)?)?;
    }
    if layout.anchors.is_empty() {
        return Ok(value);
    }
    value.add("point", config.lambda_point, point::point(&logits, &layout)?)?;

    // One gather for seeds and negatives: its gradient is a scatter into the whole map.
    let negatives = hbc::negatives(&seen, &layout, config.hbc_negatives.div_ceil(n).min(layout.pixels));
    let mut places = vec![vec![0u32; layout.slots]; n];
    for anchor in &layout.anchors {
        places[anchor.image][anchor.slot] = anchor.pixel - (anchor.image * layout.pixels) as u32;
    }
    let contrasts = config.lambda_hbc > 0.0 && !negatives.real.is_empty();
    if contrasts {
        places.iter_mut().zip(&negatives.places).for_each(|(places, negatives)| places.extend(negatives));
    }
    let units = affinity::unit_features(features, &places)?;
    let anchors = units.narrow(2, 0, layout.slots)?;
    let a = affinity::affinity(features, &anchors.contiguous()?, config.margin)?;
    let (on, g) = affinity::on_supports(&a, &layout)?;

    let target = target::target(&on, &layout, config.target_order)?;
    if let Some((cross, overlap)) = consistency::consistency(&logits, &target, &layout)? {
        value.add("consistency", config.lambda_con, cross)?;
        value.add("overlap", config.lambda_iou, overlap)?;
    }
    value.add("background_affinity", config.lambda_mass, mass::mass(&a, &on, &g, &layout)?)?;
    if let Some(missed) = propagation::propagation(&on, &layout)? {
        value.add("prior_missed", config.lambda_prop_at(fraction), missed)?;
    }
    if contrasts {
        let far = units.narrow(2, layout.slots, units.dim(2)? - layout.slots)?;
        let term = hbc::contrast(&anchors, &far, &negatives.real, &layout, config.hbc_delta, config.hbc_tau)?;
        value.add("contrast", config.lambda_hbc, term)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
