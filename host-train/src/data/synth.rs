//! Synthetic infrared scenes with targets, so that nothing has to be downloaded to train, test and demonstrate.
//!
//! A scene is sky with clouds, sea under a horizon, or hills under sky; its clutter has power-law spectra
//! ([`field`]). Targets of 1 to 80 px are small discs and ellipses seen through a point-spread function, at
//! a set ratio of their peak to the clutter around them. Then the sensor: noise, column stripes, dead pixels (the same
//! ones in every frame of a set). A pixel belongs to a target's mask where its signal is at least half of its peak.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::files::write_atomic;
use super::image::{GrayImage, MAX_SIDE, Mask};
use super::points::{self, Kind, Labels};
use super::progress::in_order;
use super::random::{normal, stream};
use super::spectrum::{field, standardise};

/// Smallest side of a synthetic frame.
pub const MIN_FRAME: usize = 64;
/// Largest target, in mask pixels.
const MAX_AREA: f32 = 80.0;

/// Least peak of a target: fainter ones drown in the rounding to 8 bits.
pub(super) const LEAST_SIGNAL: f32 = 0.06;

/// What a synthetic set is.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Frames.
    pub count: usize,
    /// Frame `i` depends on the seed, `i` and the other settings, not on the count.
    pub seed: u64,
    /// Columns, at least [`MIN_FRAME`].
    pub width: usize,
    /// Rows, at least [`MIN_FRAME`].
    pub height: usize,
    /// Least and greatest ratio of a target's peak to the deviation of what surrounds it (clutter and noise).
    pub contrast: [f32; 2],
}

/// A frame with its truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The frame.
    pub image: GrayImage,
    /// Its targets.
    pub mask: Mask,
}

/// How many frames and targets were written.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Written {
    /// Frames in `train.txt`.
    pub train: usize,
    /// Frames in `val.txt`: every fifth.
    pub val: usize,
    /// Targets in all frames.
    pub targets: usize,
}

impl Settings {
    /// An error that names the first setting outside its range.
    pub fn validate(&self) -> Result<()> {
        let [low, high] = self.contrast;
        ensure!(self.count >= 5, "count {}: ask for at least 5 frames, every fifth is for validation", self.count);
        ensure!(
            (MIN_FRAME..=MAX_SIDE).contains(&self.width) && (MIN_FRAME..=MAX_SIDE).contains(&self.height),
            "size {}x{}: a frame has {MIN_FRAME} to {MAX_SIDE} pixels a side",
            self.width,
            self.height
        );
        ensure!(
            low > 0.0 && low <= high && high <= 100.0,
            "contrast {low},{high}: give two ratios above 0, smaller first"
        );
        Ok(())
    }
}

/// Writes a synthetic set in the SIRST3 layout with `points.json` (centroids), `img_idx/train.txt` and `val.txt`.
/// `out` must not exist or be empty; it appears whole or not at all.
pub fn write(out: &Path, settings: &Settings) -> Result<Written> {
    settings.validate()?;
    let taken = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file();
    ensure!(!taken, "{} exists and is not empty: give another folder, or remove it first", out.display());
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let cannot = || format!("cannot write the set {}", out.display());
    std::fs::create_dir_all(parent).with_context(cannot)?;
    let folder = tempfile::Builder::new().prefix(".synth-").tempdir_in(parent).with_context(cannot)?;
    for part in ["images", "masks", "img_idx"] {
        std::fs::create_dir(folder.path().join(part)).with_context(cannot)?;
    }
    let scenes: Vec<usize> = (0..settings.count).collect();
    let labels = in_order(
        "drawing scenes",
        &scenes,
        || (),
        |(), &index| {
            let name = name(index);
            let scene = scene(settings, index);
            scene.image.save_png(&folder.path().join(format!("images/{name}.png")))?;
            scene.mask.save_png(&folder.path().join(format!("masks/{name}.png")))?;
            Ok((name.clone(), points::from_mask(&scene.mask, Kind::Centroid, settings.seed, &name)))
        },
    )?;
    let labels: Labels = labels.into_iter().collect();
    points::write(&folder.path().join("points.json"), &labels)?;
    let (val, train): (Vec<usize>, Vec<usize>) = (0..settings.count).partition(|index| index % 5 == 4);
    for (list, indices) in [("train", &train), ("val", &val)] {
        let lines: String = indices.iter().map(|&index| name(index) + "\n").collect();
        write_atomic(&folder.path().join(format!("img_idx/{list}.txt")), lines.as_bytes())?;
    }
    publish(folder, out).with_context(cannot)?;
    Ok(Written { train: train.len(), val: val.len(), targets: labels.values().map(Vec::len).sum() })
}

/// Gives the finished folder its name and ordinary permissions.
fn publish(folder: tempfile::TempDir, out: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    }
    if out.is_dir() {
        std::fs::remove_dir(out)?;
    }
    std::fs::rename(folder.path(), out)?;
    // The folder has moved: there is nothing left to remove.
    let _ = folder.keep();
    Ok(())
}

fn name(index: usize) -> String {
    format!("synth_{index:05}")
}

/// Draws frame `index` of a set.
pub fn scene(settings: &Settings, index: usize) -> Scene {
    let (width, height) = (settings.width, settings.height);
    let rng = &mut stream(settings.seed, "synthetic scene", 0, index as u64);
    let mut pixels = match rng.random_range(0..3u8) {
        0 => sky(rng, width, height),
        1 => sea(rng, width, height),
        _ => hills(rng, width, height),
    };
    expose(rng, &mut pixels);
    let noise = between(rng, 0.004, 0.014);
    let mask = add_targets(rng, settings, &mut pixels, noise);
    sense(rng, settings, &mut pixels, noise);
    Scene { image: GrayImage { width, height, pixels }, mask }
}

fn between(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// 0 below `low`, 1 above `high`, smooth between.
fn smoothstep(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Sky, warmer towards the horizon, with broken cloud: soft bodies with rough edges.
fn sky(rng: &mut ChaCha8Rng, width: usize, height: usize) -> Vec<f32> {
    let body = field(
        width,
        height,
        between(rng, 1.7, 2.1),
        between(rng, 1.0, 2.0),
        between(rng, 0.5, 1.2) * width as f32,
        rng,
    );
    let detail = field(width, height, 1.3, 1.2, 64.0, rng);
    let (zenith, warming) = (between(rng, 0.12, 0.35), between(rng, 0.02, 0.2));
    let (cover, softness, brightness) = (between(rng, -0.6, 1.2), between(rng, 0.5, 1.6), between(rng, 0.08, 0.35));
    let roughness = between(rng, 0.02, 0.09);
    let mut pixels = Vec::with_capacity(width * height);
    for (index, (&body, &detail)) in body.iter().zip(&detail).enumerate() {
        let down = (index / width) as f32 / height as f32;
        let cloud = smoothstep(cover - softness, cover + softness, body + 0.25 * detail);
        // Clouds are rough where they are thick and brightest at their upper part.
        pixels.push(zenith + warming * down + cloud * (brightness * (1.0 - 0.4 * down) + roughness * detail));
    }
    pixels
}

/// A sea whose waves shrink towards the horizon, with glints, under a quiet sky.
fn sea(rng: &mut ChaCha8Rng, width: usize, height: usize) -> Vec<f32> {
    let mut pixels = sky(rng, width, height);
    let quiet = between(rng, 0.15, 0.6);
    let horizon = between(rng, 0.1, 0.6) * height as f32;
    let tilt = between(rng, -0.03, 0.03);
    let swell = field(width, height, 1.1, between(rng, 3.0, 5.0), 48.0, rng);
    let ripple = field(width, height, 0.8, 2.0, 12.0, rng);
    let level = between(rng, 0.15, 0.4);
    let (strength, glint) = (between(rng, 0.02, 0.06), between(rng, 0.0, 0.1));
    let air = pixels.iter().sum::<f32>() / pixels.len() as f32;
    for y in 0..height {
        for x in 0..width {
            let pixel = &mut pixels[y * width + x];
            let depth = y as f32 - (horizon + tilt * (x as f32 - width as f32 / 2.0));
            *pixel = air + quiet * (*pixel - air);
            if depth <= 0.0 {
                continue;
            }
            // Rows near the horizon look further away: the same wave takes fewer of them.
            let near = (depth / (height as f32 - horizon).max(1.0)).clamp(0.0, 1.0);
            let row = ((0.25 * height as f32) * (1.0 + 8.0 * near).ln()) as usize % height;
            let wave = 0.7 * swell[row * width + x] + 0.5 * ripple[y * width + x];
            let size = 0.35 + 0.65 * near;
            let water = level + strength * size * wave + glint * size * (wave - 1.6).max(0.0);
            // A band of haze hides the edge.
            *pixel += (water - *pixel) * smoothstep(0.0, 2.5, depth);
        }
    }
    pixels
}

/// One to three ridges of rough ground, nearer ones lower, warmer and rougher, under sky.
fn hills(rng: &mut ChaCha8Rng, width: usize, height: usize) -> Vec<f32> {
    let mut pixels = sky(rng, width, height);
    let ridges = rng.random_range(1..=3u8);
    let mut top = between(rng, 0.15, 0.5) * height as f32;
    for ridge in 0..ridges {
        let outline = outline(width, between(rng, 0.02, 0.1) * height as f32, rng);
        let rough = field(width, height, between(rng, 0.9, 1.3), 1.5, 96.0, rng);
        let patches = field(width, height, 1.6, 1.5, 160.0, rng);
        let (level, clutter) = (between(rng, 0.2, 0.5), between(rng, 0.015, 0.04) * (1.0 + 0.4 * f32::from(ridge)));
        let contrast = between(rng, 0.0, 0.1);
        for y in 0..height {
            for (x, rise) in outline.iter().enumerate() {
                let depth = y as f32 - top - rise;
                if depth > -1.0 {
                    let at = y * width + x;
                    // Fields and bare ground: patches with distinct edges.
                    let ground = level + clutter * rough[at] + contrast * smoothstep(-0.2, 0.2, patches[at] - 0.5);
                    pixels[at] += (ground - pixels[at]) * smoothstep(-1.0, 0.6, depth);
                }
            }
        }
        top += between(rng, 0.1, 0.3) * height as f32;
    }
    pixels
}

/// A line of hills: cosines whose height falls as 1/f^1.4.
fn outline(width: usize, height: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut line = vec![0.0f32; width];
    for octave in 1..=24u8 {
        let f = f32::from(octave) * between(rng, 0.7, 1.3);
        let phase = between(rng, 0.0, std::f32::consts::TAU);
        for (x, value) in line.iter_mut().enumerate() {
            *value += (std::f32::consts::TAU * f * x as f32 / width as f32 + phase).cos() / f.powf(1.4);
        }
    }
    standardise(&mut line);
    line.iter_mut().for_each(|v| *v *= height);
    line
}

/// The camera's gain and offset, which follow the scene: levels and contrasts differ from frame to frame.
fn expose(rng: &mut ChaCha8Rng, pixels: &mut [f32]) {
    let (gain, level) = (between(rng, 0.8, 1.7), between(rng, 0.22, 0.5));
    let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
    pixels.iter_mut().for_each(|v| *v = ((*v - mean) * gain + level).clamp(0.01, 0.97));
}

/// Adds zero to six targets, apart from each other, and returns their mask.
fn add_targets(rng: &mut ChaCha8Rng, settings: &Settings, pixels: &mut [f32], noise: f32) -> Mask {
    let (width, height) = (settings.width, settings.height);
    let mut mask = Mask::empty(width, height);
    let count = match rng.random::<f32>() {
        p if p < 0.04 => 0,
        p if p < 0.55 => 1,
        p if p < 0.80 => 2,
        _ => rng.random_range(3..=6),
    };
    let mut placed: Vec<(f32, f32)> = Vec::new();
    // A crowded small frame may hold fewer than were drawn.
    for _ in 0..20 * count {
        if placed.len() == count {
            break;
        }
        let centre = (between(rng, 4.0, width as f32 - 5.0), between(rng, 4.0, height as f32 - 5.0));
        let profile = Profile::draw(rng, centre);
        let ratio = between(rng, settings.contrast[0], settings.contrast[1]);
        if placed.iter().any(|&(x, y)| (x - centre.0).hypot(y - centre.1) < 24.0) {
            continue;
        }
        let signal = profile.pixels(width, height);
        let peak = signal.iter().map(|s| s.1).fold(0.0, f32::max);
        let body: Vec<usize> = signal.iter().filter(|s| s.1 >= 0.5 * peak).map(|s| s.0).collect();
        if body.is_empty() || body.len() as f32 > MAX_AREA {
            continue;
        }
        let (level, deviation) = surroundings(pixels, width, height, centre);
        let wanted = (ratio * deviation.hypot(noise)).max(LEAST_SIGNAL);
        // Where too little room is left below saturation the target would be invisible: place it elsewhere.
        if level + wanted > 0.98 {
            continue;
        }
        for (at, value) in signal {
            pixels[at] += wanted * value / peak;
        }
        body.into_iter().for_each(|at| mask.pixels[at] = 1);
        placed.push(centre);
    }
    mask
}

/// Mean and deviation of the 21×21 pixels around a place.
pub(super) fn surroundings(pixels: &[f32], width: usize, height: usize, centre: (f32, f32)) -> (f32, f32) {
    let span = |at: f32, side: usize| (at as usize).saturating_sub(10)..(at as usize + 11).min(side);
    let values: Vec<f32> = span(centre.1, height)
        .flat_map(|y| span(centre.0, width).map(move |x| y * width + x))
        .map(|at| pixels[at])
        .collect();
    let count = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / count;
    (mean, variance.sqrt())
}

/// An ellipse seen through a point-spread function.
struct Profile {
    centre: (f32, f32),
    /// Half axes in pixels.
    axes: (f32, f32),
    /// Sine and cosine of the first axis' direction.
    turn: (f32, f32),
    /// Deviation of the point-spread function in pixels.
    blur: f32,
}

impl Profile {
    fn draw(rng: &mut ChaCha8Rng, centre: (f32, f32)) -> Self {
        // As many targets of 1 to 4 px as of 4 to 20.
        let area = MAX_AREA.powf(rng.random::<f32>());
        let aspect = 2.2f32.powf(rng.random::<f32>());
        let radius = (area / std::f32::consts::PI).sqrt();
        Self {
            centre,
            axes: (radius * aspect.sqrt(), radius / aspect.sqrt()),
            turn: between(rng, 0.0, std::f32::consts::PI).sin_cos(),
            blur: between(rng, 0.5, 0.9),
        }
    }

    /// The pixels that it touches, as (index, signal in 0 to 1).
    fn pixels(&self, width: usize, height: usize) -> Vec<(usize, f32)> {
        let reach = self.axes.0 + 4.0 * self.blur + 1.0;
        let span = |at: f32, side: usize| (at - reach).max(0.0) as usize..((at + reach) as usize + 1).min(side);
        let mean_axis = (self.axes.0 * self.axes.1).sqrt();
        let mut found = Vec::new();
        for y in span(self.centre.1, height) {
            for x in span(self.centre.0, width) {
                let (dx, dy) = (x as f32 - self.centre.0, y as f32 - self.centre.1);
                let (sine, cosine) = self.turn;
                let (along, across) = (dx * cosine + dy * sine, dy * cosine - dx * sine);
                // Distance outside the rim, then the blurred step 1/(1 + e^(1.702 d/σ)) ≈ the normal distribution's.
                let beyond = ((along / self.axes.0).hypot(across / self.axes.1) - 1.0) * mean_axis;
                let signal = 1.0 / (1.0 + (1.702 * beyond / self.blur).exp());
                if signal > 0.01 {
                    found.push((y * width + x, signal));
                }
            }
        }
        found
    }
}

/// Sensor noise, column stripes and dead pixels; saturates at 0 and 1.
fn sense(rng: &mut ChaCha8Rng, settings: &Settings, pixels: &mut [f32], noise: f32) {
    let stripes = between(rng, 0.0, 0.004);
    let columns: Vec<f32> = (0..settings.width).map(|_| stripes * normal(rng)).collect();
    for row in pixels.chunks_exact_mut(settings.width) {
        for (pixel, stripe) in row.iter_mut().zip(&columns) {
            *pixel = (*pixel + stripe + noise * normal(rng)).clamp(0.0, 1.0);
        }
    }
    // One sensor for the whole set: about one pixel in 16,000 is dead, one in three of those stuck bright.
    let mut sensor = stream(settings.seed, "dead pixels", 0, 0);
    for _ in 0..pixels.len().div_ceil(16_000) {
        let at = sensor.random_range(0..pixels.len());
        pixels[at] = if sensor.random_range(0..3u8) == 0 { 1.0 } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Dataset;
    use super::super::targets;
    use super::*;

    fn settings() -> Settings {
        Settings { count: 40, seed: 11, width: 128, height: 96, contrast: [4.0, 10.0] }
    }

    #[test]
    fn a_scene_follows_its_seed_and_index_alone() {
        let first = scene(&settings(), 3);
        assert_eq!(first, scene(&Settings { count: 7, ..settings() }, 3));
        assert_ne!(first.image, scene(&settings(), 4).image);
        assert_ne!(first.image, scene(&Settings { seed: 12, ..settings() }, 3).image);
    }

    #[test]
    fn targets_are_one_to_eighty_pixels_and_brighter_than_their_surroundings() {
        let (mut areas, mut empty) = (Vec::new(), 0);
        for index in 0..120 {
            let Scene { image, mask } = scene(&settings(), index);
            assert!(image.pixels.iter().all(|v| (0.0..=1.0).contains(v)));
            let found = targets::of(&mask);
            empty += u32::from(found.is_empty());
            for target in found {
                areas.push(target.area);
                let mean = |set: u8, margin: i64| {
                    let inside = |at: i64, low: u32, high: u32| {
                        (i64::from(low) - margin..=i64::from(high) + margin).contains(&at)
                    };
                    let values: Vec<f32> = (0..image.pixels.len())
                        .filter(|&i| {
                            inside((i % 128) as i64, target.left, target.right)
                                && inside((i / 128) as i64, target.top, target.bottom)
                        })
                        .filter(|&i| mask.pixels[i] == set)
                        .map(|i| image.pixels[i])
                        .collect();
                    values.iter().sum::<f32>() / values.len() as f32
                };
                assert!(mean(1, 0) > mean(0, 6), "frame {index}: {target:?}");
            }
        }
        assert!(areas.iter().all(|area| (1..=80).contains(area)));
        let small = areas.iter().filter(|&&area| area <= 10).count();
        assert!(
            areas.len() > 120 && small * 3 > areas.len() && small * 5 < areas.len() * 4,
            "{small} of {}",
            areas.len()
        );
        assert!((1..15).contains(&empty), "{empty}");
    }

    #[test]
    fn a_written_set_opens_and_its_points_fit() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/synth");
        let written = write(&out, &Settings { count: 10, ..settings() }).unwrap();
        assert_eq!((written.train, written.val), (8, 2));
        let labels = points::read(&out.join("points.json")).unwrap();
        let mut targets = 0;
        for list in ["train", "val"] {
            let dataset = Dataset::open(&out, Path::new(list)).unwrap();
            dataset.require_masks().unwrap();
            for sample in &dataset.samples {
                let mask = sample.load_mask(128, 96, false).unwrap();
                let expected = points::from_mask(&mask, Kind::Centroid, 0, &sample.name);
                assert_eq!(points::points_of(&labels, &out, &sample.name, 128, 96).unwrap(), expected);
                targets += expected.len();
            }
        }
        assert_eq!(targets, written.targets);
        let error = write(&out, &settings()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn settings_outside_their_range_are_errors() {
        for wrong in [
            Settings { count: 4, ..settings() },
            Settings { width: 63, ..settings() },
            Settings { height: 9000, ..settings() },
            Settings { contrast: [5.0, 4.0], ..settings() },
            Settings { contrast: [f32::NAN, 4.0], ..settings() },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
