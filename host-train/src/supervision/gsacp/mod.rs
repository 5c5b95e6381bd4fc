//! GSACP-Base: masks from points, drawn inside the batch (METHOD §2, eqs 1–6).
//!
//! ```text
//! (5)  L = λ_point L_point + λ_bg L_bg + λ_mass L_mass + λ_con L_con + λ_prop L_prop (+ λ_hbc L_hbc)
//! ```
//!
//! One file per term. The affinity is dense, `[N, K, H·W]`, only where L_mass needs it to be; every other term picks the
//! few pixels that it is about. A crop without seeds has L_bg alone, and gives negatives to the others' L_hbc.
//!
//! Switches of single mechanisms, off by default: [`ltd`] and the decay of λ_prop, [`asg`]. The failures that METHOD §2
//! maps, off by default too: a global teacher ([`ltd`]), a free radius ([`asg`]), a positive [`prototype`], shallow
//! `features`, `detach_features` (eq. 8 without its second path, and without those of the other affinity terms) and a small
//! `margin`.
//!
//! Drift signals (METHOD: plot them in every run): `background_affinity` is L_mass and `prior_missed` is L_prop, both
//! unweighted and present when their weights are 0. An affinity that has saturated shows the first large and the
//! second near 0.

pub mod affinity;
pub mod asg;
pub mod background;
pub mod consistency;
pub mod hbc;
pub mod layout;
pub mod ltd;
pub mod mass;
pub mod point;
pub mod propagation;
pub mod prototype;
pub mod target;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use self::asg::Gate;
use self::layout::Layout;
use self::ltd::Region;
use super::Value;
use super::loss::host;
use super::projection::{Features, Fusion};
use crate::data::patch::Patch;
use crate::data::train_set::Seed;

/// Numbers of the objective. The defaults are those of METHOD's second trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GsacpConfig {
    /// D, channels of the projected feature map. Default 16.
    pub channels: usize,
    /// Which maps F is projected from. Default `decoder`; `shallow` adds the encoder's first map, a failure.
    pub features: Fusion,
    /// Cuts the gradient from the affinity to the network; the projection alone learns from it. A failure. Default false.
    pub detach_features: bool,
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
    /// β of LTD, the averaged network's share of the target; 0 leaves it out. Default 0.
    pub ltd_beta: f64,
    /// Share of the run after which the averaged network takes part. Default 0.5.
    pub ltd_from: f64,
    /// Radius of LTD's disks, in pixels. Default 6.
    pub ltd_radius: f64,
    /// `disks`, or `everywhere`, a failure. Default `disks`.
    pub ltd_region: Region,
    /// ASG: `off`, `reliable`, or `free`, a failure. Default `off`.
    pub asg_gate: Gate,
    /// Candidate radii of ASG, rising, in pixels. Default 4, 8, 16.
    pub asg_radii: [f64; asg::CANDIDATES],
    /// κ of ASG: the reliability that the widest candidate needs. Default 0.6.
    pub asg_kappa: f64,
    /// τ of ASG. Default 0.1.
    pub asg_tau: f64,
    /// Weight of the attraction to a positive prototype, a failure; 0 leaves it out. Default 0.
    pub lambda_proto: f64,
}

impl Default for GsacpConfig {
    fn default() -> Self {
        Self {
            channels: 16,
            features: Fusion::Decoder,
            detach_features: false,
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
            ltd_beta: 0.0,
            ltd_from: 0.5,
            ltd_radius: 6.0,
            ltd_region: Region::Disks,
            asg_gate: Gate::Off,
            asg_radii: [4.0, 8.0, 16.0],
            asg_kappa: 0.6,
            asg_tau: 0.1,
            lambda_proto: 0.0,
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
            ("lambda_proto", self.lambda_proto),
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
        for (key, share) in [
            ("hard_share", self.hard_share),
            ("prop_decay_from", self.prop_decay_from),
            ("ltd_beta", self.ltd_beta),
            ("ltd_from", self.ltd_from),
            ("asg_kappa", self.asg_kappa),
        ] {
            ensure!((0.0..=1.0).contains(&share), "gsacp.{key} = {share}: give a share from 0 to 1");
        }
        ensure!((-1.0..=1.0).contains(&self.hbc_delta), "gsacp.hbc_delta = {}: give −1 to 1", self.hbc_delta);
        for (key, tau) in [("hbc_tau", self.hbc_tau), ("asg_tau", self.asg_tau)] {
            ensure!(tau > 0.0 && tau <= 10.0, "gsacp.{key} = {tau}: give above 0 to 10");
        }
        ensure!((0.0..=64.0).contains(&self.ltd_radius), "gsacp.ltd_radius = {}: give 0 to 64 px", self.ltd_radius);
        let radii = self.asg_radii;
        ensure!(
            radii.is_sorted() && radii.iter().all(|radius| (0.5..=64.0).contains(radius)),
            "gsacp.asg_radii = {radii:?}: give rising radii of ½ to 64 px"
        );
        ensure!(
            (1..=65536).contains(&self.hbc_negatives),
            "gsacp.hbc_negatives = {}: give 1 to 65536",
            self.hbc_negatives
        );
        Ok(())
    }

    /// Whether the averaged network's probability is asked for when `fraction` (0 to 1) of the run is done.
    pub fn asks_teacher(&self, fraction: f64) -> bool {
        self.ltd_beta > 0.0 && fraction >= self.ltd_from
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

/// The labels of a batch, and how far the run is.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The seeds inside each crop.
    pub seeds: &'a [Vec<Seed>],
    /// The priors that reach into each crop from outside.
    pub cut_off: &'a [Vec<Patch>],
    /// P_ema at every pixel of the batch, where [`GsacpConfig::asks_teacher`].
    pub teacher: Option<&'a [f32]>,
    /// Share of the run that is done.
    pub fraction: f64,
}

/// The objective (5) of `logits` `[N, 1, H, W]` and `features` of the same pixels.
///
/// # Errors
/// When shapes and labels do not fit each other.
pub fn evaluate(logits: &Tensor, features: &Features, moment: Moment, config: &GsacpConfig) -> Result<Value> {
    let Moment { seeds, cut_off, teacher, fraction } = moment;
    let (n, _, h, w) = logits.dims4()?;
    ensure!(seeds.len() == n, "{} crops have seeds and {n} have logits", seeds.len());
    let strays = seeds.iter().flatten().filter(|seed| seed.x as usize >= w || seed.y as usize >= h).count();
    ensure!(strays == 0, "{strays} seeds are outside their {w}×{h} crop");
    let pixels = teacher.map_or(n * h * w, <[f32]>::len);
    ensure!(pixels == n * h * w, "the teacher has {pixels} pixels and the batch {}", n * h * w);
    let detached = Features { inputs: features.inputs.detach(), weight: features.weight.clone() };
    let features = if config.detach_features { &detached } else { features };
    let mut layout = Layout::new((w, h), seeds, cut_off, config.floor, config.most_seeds);
    let logits = logits.flatten_all()?;
    let seen = host(&logits)?;

    let mut value = Value::new(&logits)?;
    let hard = background::hard_background(&seen, &layout, config.hard_share);
    if !hard.is_empty() {
        let term = match teacher.filter(|_| config.ltd_region == Region::Everywhere) {
            Some(teacher) => {
                let targets = ltd::background_targets(teacher, &hard, config.ltd_beta);
                background::answered(&logits, hard, targets)?
            }
            None => background::background(&logits, hard)?,
        };
        value.add("background", config.lambda_bg, term)?;
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
    let (on, mut g) = affinity::on_supports(&a, &layout)?;
    if config.asg_gate != Gate::Off {
        let seen = host(&on)?;
        let GsacpConfig { asg_gate, asg_radii, asg_kappa, asg_tau, .. } = *config;
        if let Some(radius) = asg::gate(&mut layout, &seen, asg_gate, asg_radii, asg_kappa, asg_tau) {
            value.add("support_radius", 0.0, Tensor::new(radius, logits.device())?)?;
        }
        g = affinity::prior_on_supports(&layout, &a)?;
    }

    let mut target = target::target(&on, &layout, config.target_order)?;
    if let Some(teacher) = teacher {
        let inside = ltd::region(&layout, config.ltd_radius, config.ltd_region);
        ltd::mix(&mut target, teacher, &inside, &layout, config.ltd_beta);
    }
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
    if config.lambda_proto > 0.0 {
        value.add("prototype", config.lambda_proto, prototype::attraction(&anchors, &layout)?)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
