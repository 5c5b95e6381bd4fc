//! The local prior g_k of a point label (METHOD §2, eq. 3): where the target of one point probably is.
//!
//! From a whole grey image (values in [0, 1]) and one pixel to a [`Patch`] in [0, 1]: 1 at the seed, ½ on the
//! outline that the intensities draw, 0 far away. No network and no mask is asked.
//!
//! **Contrast form** (default). With d = distance to the seed and
//! u(i) = (I(i) − b(i)) / (I(seed) − b(seed)), cut at 1,
//!
//! ```text
//! g(i) = exp( −½ (d/σ)² ),  exp( −½ ((1−u)/κ)² )  multiplied, each exponent x² bent to h·(x²/h)^order, h = 2 ln 2
//! ```
//!
//! so that `order` 1 is METHOD's Gaussian and a higher order is flatter inside and steeper outside while either
//! factor still crosses ½ in the same place. What is measured to draw better masks than the plain form:
//! - the seed moves to the brightest pixel within `seed_shift`, since coarse points miss the peak;
//! - b is a plane (least squares over the window without its brightest tenth and its middle) plus a
//!   percentile of what remains, since horizons and cloud edges tilt the background;
//! - the window is set by the target: drawn once with `window`, then again with
//!   `window_base` + `window_per_radius` · r, r = √(area/π);
//! - where `sigma_per_radius` · r is more than σ, it takes σ's place, and mask and window are drawn again, up to three times: small
//!   targets need a short σ, which holds them together on warm ground, and large ones would be cut off by it;
//! - κ falls with the local noise-to-contrast ratio ν (median absolute deviation): κ − `kappa_noise` · min(ν, 0.4);
//! - κ rises with the contrast, by `kappa_contrast` · ln(contrast / 80 grey levels of 255), for of a dim target only the upper part shows, and
//!   with the steepness, by `kappa_steepness` · (steepness − 0.45 a pixel), the largest slope within the outline over the contrast, for
//!   a blur widens what lies below half the peak; both within −0.25 … 0.15 (tuned on `train_dev`'s masks, as the other numbers are: with κ = 0.6, 0.06 and 0.2 the centred
//!   outlines of `val_dev` have IoU 0.758 and nIoU 0.758 instead of 0.748 and 0.751; more in IRSTD-1K, NUAA and NUDT alike);
//! - with `centred`, for points that are centroids, the κ and the window are those whose outline has its centroid there
//!   (`centred.rs`);
//! - with `registered`, for the same, the image is moved first by what all points of its targets' kind lie beside them
//!   (`registration.rs`);
//! - only the 8-connected component of {g > `component_level`} that holds the seed is kept, and around it a
//!   one-pixel skirt, whose values are below the level.
//!
//! **Absolute form**, the paper's: exp(−‖i−p‖²/2σ²) · exp(−(I−I_p)²/2σ_I²), on the spot, every component, cut off
//! where it is below 0.01.
//!
//! `cargo run --release -p gsacp-train --example prior_score -- --data DIR` prints what the masks {g > ½} are worth.

mod background;
mod centred;
mod config;
mod registration;

use std::collections::VecDeque;

use anyhow::Result;

use self::background::{Background, percentile};
pub use self::config::{Form, Polarity, PriorConfig};
pub use self::registration::Steps;
use crate::data::image::GrayImage;
use crate::data::patch::Patch;
use crate::data::points::Point;
use crate::data::train_set::{Item, TrainSet};

/// exp(−½x²) is ½ at x² = 2 ln 2.
const HALF: f32 = 2.0 * std::f32::consts::LN_2;
/// Least contrast, two grey levels of 8 bits: a flat image has no outline to draw.
const LEAST_CONTRAST: f32 = 2.0 / 255.0;
/// Noise-to-contrast ratios above this say no more.
const MOST_NOISE: f32 = 0.4;
/// Passes in which a large target may grow, and the largest σ_s it may grow to, in pixels.
const MOST_GROWTH: usize = 3;
const MOST_SIGMA: f32 = 40.0;
/// What κ is right for as it stands: contrast in [0, 1], and largest slope over the contrast, per pixel.
const USUAL_CONTRAST: f32 = 80.0 / 255.0;
const USUAL_STEEPNESS: f32 = 0.45;
/// How much contrast and steepness may change κ.
const KAPPA_CHANGE: (f32, f32) = (-0.25, 0.15);
/// Values below this are dropped from a patch.
const LEAST_VALUE: f32 = 0.01;

/// Draws the prior of every point of `set` (all threads, with a progress display); with `registered` twice, for what the set's points lie
/// beside their targets, which is returned, is known only from all of them. `config` is [checked](PriorConfig::validate) where it is read.
pub fn draw_set(set: &mut TrainSet, config: &PriorConfig) -> Result<Steps> {
    // What points lie beside is asked of outlines that did not look at them.
    let first = PriorConfig { centred: config.centred && !config.registered, ..config.clone() };
    set.draw("drawing priors", |item: &Item| draw_all(&item.image.to_gray(), &item.points, &first))?;
    if !config.registered {
        return Ok(Steps::default());
    }
    let steps = Steps::of(set);
    set.draw("registering priors", |item| steps.redraw(item, config))?;
    Ok(steps)
}

/// The priors of the points of one image, in order; `registered`, which takes a whole set, has no effect.
pub fn draw_all(image: &GrayImage, points: &[Point], config: &PriorConfig) -> Vec<Patch> {
    points.iter().map(|&point| draw(image, point, config)).collect()
}

/// The prior of one point of `image`, in image coordinates. A point outside the image (which reading a points file
/// refuses) counts as the nearest pixel of the image. `config` is [checked](PriorConfig::validate) where it is read.
pub fn draw(image: &GrayImage, point: Point, config: &PriorConfig) -> Patch {
    let x = (point.x as usize).min(image.width - 1) as i32;
    let y = (point.y as usize).min(image.height - 1) as i32;
    let view = View { image, sign: 1.0 };
    match config.form {
        Form::Absolute => absolute(view, x, y, config),
        Form::Contrast => {
            let dark = config.polarity == Polarity::Either && is_dark(view, x, y, config);
            contrast(View { image, sign: if dark { -1.0 } else { 1.0 } }, x, y, config)
        }
    }
}

/// An image, or its negative.
#[derive(Clone, Copy)]
struct View<'a> {
    image: &'a GrayImage,
    sign: f32,
}

impl View<'_> {
    /// The value of a pixel of the image.
    fn at(&self, x: i32, y: i32) -> f32 {
        self.sign * self.image.pixels[y as usize * self.image.width + x as usize]
    }

    /// The pixels within `half` of (`x`, `y`) that are on the image: column, row, value.
    fn window(self, x: i32, y: i32, half: i32) -> impl Iterator<Item = (i32, i32, f32)> {
        let rows = (y - half).max(0)..=(y + half).min(self.image.height as i32 - 1);
        let columns = (x - half).max(0)..=(x + half).min(self.image.width as i32 - 1);
        rows.flat_map(move |v| columns.clone().map(move |u| (u, v, self.at(u, v))))
    }
}

fn is_dark(view: View, x: i32, y: i32, config: &PriorConfig) -> bool {
    let near: Vec<f32> = view.window(x, y, 1).map(|(_, _, value)| value).collect();
    let mut all: Vec<f32> = view.window(x, y, config.window as i32).map(|(_, _, value)| value).collect();
    near.iter().sum::<f32>() / (near.len() as f32) < percentile(&mut all, 0.5)
}

/// exp(−½x²), its exponent bent by `order` about the point where it is ½.
fn bell(x_squared: f32, order: i32) -> f32 {
    (-0.5 * HALF * (x_squared / HALF).powi(order)).exp()
}

/// What an outline is drawn with: its seed, the half-side of the window that is its background, the spreads of both factors.
#[derive(Clone, Copy)]
struct Pen {
    seed: (i32, i32),
    half: i32,
    sigma: f32,
    kappa: f32,
}

impl Pen {
    fn background(&self, view: View, config: &PriorConfig) -> Background {
        Background::around(view, self.seed.0, self.seed.1, self.half, config)
    }

    fn draw(&self, view: View, config: &PriorConfig) -> Patch {
        region(view, self, &self.background(view, config), config)
    }
}

fn contrast(view: View, x: i32, y: i32, config: &PriorConfig) -> Patch {
    let seed = brightest(view, x, y, config.seed_shift as i32);
    let mut pen = Pen { seed, half: config.window as i32, sigma: config.sigma, kappa: config.kappa };
    let mut patch = pen.draw(view, config);
    if config.window_per_radius > 0.0 {
        let window = |r: f32| (config.window_base + config.window_per_radius * r).round() as i32;
        pen.half = window(radius(&patch)).clamp(8, 24);
        patch = pen.draw(view, config);
        for _ in 0..MOST_GROWTH {
            let r = radius(&patch);
            let wider = (config.sigma_per_radius * r).min(MOST_SIGMA);
            if wider <= config.sigma {
                break;
            }
            (pen.half, pen.sigma) = (window(r).clamp(8, 36), wider);
            patch = pen.draw(view, config);
        }
    }
    if config.kappa_contrast != 0.0 || config.kappa_steepness != 0.0 {
        let contrast = pen.background(view, config).contrast(view, seed);
        let change = config.kappa_contrast * (contrast / USUAL_CONTRAST).ln()
            + config.kappa_steepness * (steepest(view, &patch) / contrast - USUAL_STEEPNESS);
        pen.kappa += change.clamp(KAPPA_CHANGE.0, KAPPA_CHANGE.1);
        patch = pen.draw(view, config);
    }
    if config.centred {
        patch = centred::refined(patch, pen, view, Point { x: x as u32, y: y as u32 }, config);
    }
    patch
}

/// The largest slope at a pixel of {g > ½}, by differences of its neighbours.
fn steepest(view: View, patch: &Patch) -> f32 {
    let slope = |(x, y): (i32, i32)| {
        let at = |right, down| view.window(x + right, y + down, 0).next().map_or(view.at(x, y), |(_, _, value)| value);
        ((at(1, 0) - at(-1, 0)) / 2.0).hypot((at(0, 1) - at(0, -1)) / 2.0)
    };
    patch.mask().map(slope).fold(0.0, f32::max)
}

/// The radius of a disk as large as {g > ½}.
fn radius(patch: &Patch) -> f32 {
    (patch.area() as f32 / std::f32::consts::PI).sqrt()
}

/// The brightest pixel within `shift`; of equal ones the nearest, then the first in raster order.
fn brightest(view: View, x: i32, y: i32, shift: i32) -> (i32, i32) {
    let distance = |u: i32, v: i32| (u - x).pow(2) + (v - y).pow(2);
    let mut best = (x, y, view.at(x, y));
    for (u, v, value) in view.window(x, y, shift) {
        if value > best.2 || (value == best.2 && distance(u, v) < distance(best.0, best.1)) {
            best = (u, v, value);
        }
    }
    (best.0, best.1)
}

/// g on the seed's component and its skirt, before `background`; κ is the pen's where there is no noise.
fn region(view: View, pen: &Pen, background: &Background, config: &PriorConfig) -> Patch {
    let &Pen { seed: (x, y), sigma, kappa, .. } = pen;
    let contrast = background.contrast(view, (x, y));
    let kappa = (kappa - config.kappa_noise * (background.noise / contrast).min(MOST_NOISE)).max(0.1);
    let reach = reach(sigma, config.distance_order);
    grow(view, x, y, reach, config.component_level, |u, v| {
        let (dx, dy) = ((u - x) as f32, (v - y) as f32);
        let level = background.level + background.slope.0 * dx + background.slope.1 * dy;
        let below = (1.0 - (view.at(u, v) - level) / contrast).max(0.0) / kappa;
        bell((dx * dx + dy * dy) / sigma.powi(2), config.distance_order) * bell(below * below, config.intensity_order)
    })
}

/// Farthest distance at which the distance factor is still [`LEAST_VALUE`].
fn reach(sigma: f32, order: i32) -> i32 {
    let x_squared = HALF * (-LEAST_VALUE.ln() * 2.0 / HALF).powf(1.0 / order as f32);
    (sigma * x_squared.sqrt()).ceil() as i32
}

/// The component of {g > level} that holds the seed, plus the ring around it, as the smallest patch.
fn grow(view: View, x: i32, y: i32, reach: i32, level: f32, g: impl Fn(i32, i32) -> f32) -> Patch {
    let side = 2 * reach + 1;
    let index = |u: i32, v: i32| ((v - y + reach) * side + u - x + reach) as usize;
    let mut values = vec![0f32; (side * side) as usize];
    let mut seen = vec![false; values.len()];
    // The label says that this pixel is target, whatever its contrast.
    values[index(x, y)] = 1.0;
    seen[index(x, y)] = true;
    let mut front = VecDeque::from([(x, y)]);
    while let Some((cx, cy)) = front.pop_front() {
        for (u, v, _) in view.window(cx, cy, 1) {
            if (u - x).abs() > reach || (v - y).abs() > reach || seen[index(u, v)] {
                continue;
            }
            seen[index(u, v)] = true;
            let value = g(u, v);
            values[index(u, v)] = if value < LEAST_VALUE { 0.0 } else { value };
            if value > level {
                front.push_back((u, v));
            }
        }
    }
    cropped(Patch { x0: x - reach, y0: y - reach, width: side as u32, height: side as u32, values })
}

fn absolute(view: View, x: i32, y: i32, config: &PriorConfig) -> Patch {
    let reach = reach(config.sigma, 1);
    let side = 2 * reach + 1;
    let peak = view.at(x, y);
    let mut values = vec![0f32; (side * side) as usize];
    for (u, v, value) in view.window(x, y, reach) {
        let distance = ((u - x).pow(2) + (v - y).pow(2)) as f32 / config.sigma.powi(2);
        let difference = ((value - peak) / config.sigma_intensity).powi(2);
        let g = bell(distance, 1) * bell(difference, 1);
        if g >= LEAST_VALUE {
            values[((v - y + reach) * side + u - x + reach) as usize] = g;
        }
    }
    cropped(Patch { x0: x - reach, y0: y - reach, width: side as u32, height: side as u32, values })
}

/// The smallest rectangle that holds every value other than 0.
fn cropped(patch: Patch) -> Patch {
    let (width, height) = (patch.width as usize, patch.height as usize);
    let used = |c: usize, r: usize| patch.values[r * width + c] != 0.0;
    let rows: Vec<usize> = (0..height).filter(|&r| (0..width).any(|c| used(c, r))).collect();
    let columns: Vec<usize> = (0..width).filter(|&c| (0..height).any(|r| used(c, r))).collect();
    let (Some((&top, &bottom)), Some((&left, &right))) =
        (rows.first().zip(rows.last()), columns.first().zip(columns.last()))
    else {
        return Patch::default();
    };
    let values =
        (top..=bottom).flat_map(|r| patch.values[r * width + left..=r * width + right].iter().copied()).collect();
    Patch {
        x0: patch.x0 + left as i32,
        y0: patch.y0 + top as i32,
        width: (right - left + 1) as u32,
        height: (bottom - top + 1) as u32,
        values,
    }
}

#[cfg(test)]
mod tests;
