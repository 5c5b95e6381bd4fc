//! The numbers of the prior.

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Which intensity factor r_k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Relative to the target's own contrast.
    #[default]
    Contrast,
    /// The paper's absolute intensity difference.
    Absolute,
}

/// Which targets the contrast form looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Polarity {
    /// Brighter than the background: infrared targets are.
    #[default]
    Bright,
    /// Either: darker when the 3×3 mean at the point is below the window's median.
    Either,
}

/// Numbers of the prior; lengths in pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorConfig {
    /// Which intensity factor.
    pub form: Form,
    /// Which targets (contrast form).
    pub polarity: Polarity,
    /// σ_s, spread of the distance factor.
    pub sigma: f32,
    /// σ_s per equivalent radius of a mask so large that this is more than `sigma`; 0: never more.
    pub sigma_per_radius: f32,
    /// Order of the distance factor; 1 is a Gaussian.
    pub distance_order: i32,
    /// κ, spread of the intensity factor as a share of the contrast.
    pub kappa: f32,
    /// How much κ falls per unit of noise-to-contrast ratio.
    pub kappa_noise: f32,
    /// How much κ rises where a target's contrast is e times 80 grey levels of 255.
    pub kappa_contrast: f32,
    /// How much κ rises per unit of steepness, the largest slope over the contrast, above 0.45 a pixel.
    pub kappa_steepness: f32,
    /// Order of the intensity factor; 1 is a Gaussian.
    pub intensity_order: i32,
    /// Half-side of the background window (15: 31×31).
    pub window: u32,
    /// Constant part of the second window's half-side.
    pub window_base: f32,
    /// Second window's half-side per equivalent radius of the first mask; 0 keeps the first window.
    pub window_per_radius: f32,
    /// Percentile (0..1) of the window that is taken as background.
    pub percentile: f32,
    /// Whether the background may tilt.
    pub tilt: bool,
    /// How far (Chebyshev) the seed may move to a brighter pixel.
    pub seed_shift: u32,
    /// Whether points are centroids, so that the outline that lies evenly around its point is the one to take (contrast form).
    pub centred: bool,
    /// Whether points are centroids that may lie beside their targets, all of a kind by the same step, which is found and taken off
    /// (contrast form; not together with `data.flips`).
    pub registered: bool,
    /// Level of g whose seed component is kept, in (0, 1).
    pub component_level: f32,
    /// σ_I of the absolute form, grey scale [0, 1].
    pub sigma_intensity: f32,
}

impl Default for PriorConfig {
    fn default() -> Self {
        Self {
            form: Form::Contrast,
            polarity: Polarity::Bright,
            sigma: 14.0,
            sigma_per_radius: 0.0,
            distance_order: 2,
            kappa: 0.617,
            kappa_noise: 0.21,
            kappa_contrast: 0.0,
            kappa_steepness: 0.0,
            intensity_order: 2,
            window: 15,
            window_base: 6.0,
            window_per_radius: 2.0,
            percentile: 0.65,
            tilt: true,
            seed_shift: 2,
            centred: false,
            registered: false,
            component_level: 0.5,
            sigma_intensity: 0.1,
        }
    }
}

impl PriorConfig {
    /// METHOD's first contrast-relative form: Gaussian factors, constant background, one window.
    pub fn plain_contrast() -> Self {
        Self {
            sigma: 12.0,
            distance_order: 1,
            kappa: 0.6,
            kappa_noise: 0.0,
            intensity_order: 1,
            window_per_radius: 0.0,
            tilt: false,
            component_level: 0.3,
            ..Self::default()
        }
    }

    /// The paper's absolute-difference form.
    pub fn paper() -> Self {
        Self { form: Form::Absolute, sigma: 6.0, sigma_intensity: 0.1, ..Self::default() }
    }

    /// The key, if there is one, that takes points for centroids.
    pub fn needs_centroids(&self) -> Option<&'static str> {
        [("centred", self.centred), ("registered", self.registered)]
            .into_iter()
            .find(|(_, asked)| *asked)
            .map(|(key, _)| key)
    }

    /// An error that names the key when a number is out of range.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [("sigma", self.sigma), ("kappa", self.kappa), ("sigma_intensity", self.sigma_intensity)] {
            ensure!(value.is_finite() && value > 0.0, "prior.{key} = {value}: give a number above 0");
        }
        ensure!(self.sigma <= 64.0, "prior.sigma = {}: more than 64 px is no local prior", self.sigma);
        for (key, order) in [("distance_order", self.distance_order), ("intensity_order", self.intensity_order)] {
            ensure!((1..=8).contains(&order), "prior.{key} = {order}: give 1 (a Gaussian) to 8");
        }
        ensure!(
            (0.0..=1.0).contains(&self.percentile),
            "prior.percentile = {}: give a share from 0 to 1",
            self.percentile
        );
        ensure!(
            self.component_level > 0.0 && self.component_level < 1.0,
            "prior.component_level = {}: give a level between 0 and 1",
            self.component_level
        );
        if let (Form::Absolute, Some(key)) = (self.form, self.needs_centroids()) {
            bail!("prior.{key} = true looks at outlines of the contrast form: the absolute one draws none");
        }
        ensure!((1..=64).contains(&self.window), "prior.window = {}: give 1 to 64 px", self.window);
        ensure!(self.seed_shift <= 8, "prior.seed_shift = {}: give 0 to 8 px", self.seed_shift);
        for (key, value) in [
            ("window_base", self.window_base),
            ("window_per_radius", self.window_per_radius),
            ("sigma_per_radius", self.sigma_per_radius),
            ("kappa_noise", self.kappa_noise),
            ("kappa_contrast", self.kappa_contrast),
            ("kappa_steepness", self.kappa_steepness),
        ] {
            ensure!((0.0..=64.0).contains(&value), "prior.{key} = {value}: give a number from 0 to 64");
        }
        Ok(())
    }
}
