//! `gsacp detect`: the detections of single images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use gsacp_core::detect::Detection;
use serde::Serialize;

use super::threshold::Threshold;
use crate::data::image::StoredImage;
use crate::data::progress::in_order;
use crate::evaluate::{self, Buffers, Detector, Engine, overlay};

/// The model that the project comes with, seen from its folder.
const DEFAULT_MODEL: &str = "models/quarter/model.int8.safetensors";

/// Options of `detect`.
#[derive(Args)]
pub struct Detect {
    /// Images: PNG, JPEG, BMP, TIFF or PGM, of any bit depth.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// The model: a float or an int8 safetensors file, or a model image.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_MODEL)]
    model: PathBuf,
    /// What runs the network; int8 for an int8 model, candle for a float one, unless given.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    #[command(flatten)]
    threshold: Threshold,
    /// Average the logits over the image and its three mirror images: fewer misses and false alarms at the same threshold, four times the
    /// work, and not what a board does.
    #[arg(long)]
    flips: bool,
    /// Write each image, enlarged, with boxes around the detections, into this folder.
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// Print the detections as JSON.
    #[arg(long)]
    json: bool,
}

/// The detections of one image, as `--json` prints them.
#[derive(Serialize)]
struct Found {
    image: String,
    width: usize,
    height: usize,
    threshold: f32,
    detections: Vec<Target>,
    /// Weakest detections left out because there were too many.
    dropped: u32,
}

/// One detection; coordinates are 0-based pixels, the box is inclusive.
#[derive(Serialize)]
struct Target {
    x: f32,
    y: f32,
    area: u32,
    left: u16,
    top: u16,
    right: u16,
    bottom: u16,
    /// Highest logit.
    peak: f32,
    /// Its probability.
    probability: f32,
    /// Brightest pixel of the box minus the mean around it, as a fraction of full scale.
    contrast: f32,
}

impl From<&Detection> for Target {
    fn from(d: &Detection) -> Self {
        let Detection { x, y, area, left, top, right, bottom, peak, contrast, .. } = *d;
        let probability = 1.0 / (1.0 + (-peak).exp());
        Self { x, y, area, left, top, right, bottom, peak, probability, contrast }
    }
}

impl Detect {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let overlays = self.overlay.as_deref().map(|folder| overlay_paths(folder, &self.images)).transpose()?;
        let engine = self.engine.map_or_else(|| Engine::of_file(&self.model), Ok).with_context(no_model)?;
        let detector = Detector::load(&self.model, engine)?.with_flips(self.flips);
        let calibrated = detector.points().first().map_or(0, |point| evaluate::to_steps(point.threshold));
        let threshold = self.threshold.steps(&detector, calibrated)?;
        let images: Vec<_> = self.images.iter().enumerate().collect();
        let one = |buffers: &mut Buffers, &(index, path): &(usize, &PathBuf)| -> Result<Found> {
            let image = StoredImage::open(path)?;
            let map = detector.logits(&image).with_context(|| format!("cannot run on {}", path.display()))?;
            let found = map.detect(threshold, &image, buffers)?;
            if let Some(overlays) = &overlays {
                overlay::save(&overlays[index], &image, &found.list)?;
            }
            Ok(Found {
                image: path.display().to_string(),
                width: image.width,
                height: image.height,
                threshold: f32::from(threshold) / 256.0,
                detections: found.list.iter().map(Target::from).collect(),
                dropped: found.dropped,
            })
        };
        let all = in_order("detecting", &images, Buffers::default, one)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            all.iter().for_each(print);
        }
        Ok(())
    }
}

fn no_model() -> String {
    format!("no model to detect with: give one by --model, or run where {DEFAULT_MODEL} is")
}

fn print(found: &Found) {
    let count = found.detections.len();
    println!("{}: {count} detection{} at logit > {}", found.image, if count == 1 { "" } else { "s" }, found.threshold);
    if count > 0 {
        println!("{:>9} {:>9} {:>6} {:>17} {:>7} {:>8}", "x", "y", "area", "box", "peak", "contrast");
    }
    for d in &found.detections {
        let place = format!("{},{}–{},{}", d.left, d.top, d.right, d.bottom);
        println!("{:>9.2} {:>9.2} {:>6} {place:>17} {:>7.2} {:>8.3}", d.x, d.y, d.area, d.peak, d.contrast);
    }
    if found.dropped > 0 {
        println!("and {} weaker ones: raise the threshold", found.dropped);
    }
}

/// Where each image's overlay goes: its own name in `folder`, which is made. Two images of one name are an error.
fn overlay_paths(folder: &Path, images: &[PathBuf]) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut owners: HashMap<PathBuf, &PathBuf> = HashMap::new();
    images
        .iter()
        .map(|image| {
            let stem = image.file_stem().with_context(|| format!("{} is no image file", image.display()))?;
            let path = folder.join(format!("{}.png", stem.to_string_lossy()));
            ensure!(
                !images.contains(&path),
                "the overlay would replace the image {}: give another folder",
                path.display()
            );
            if let Some(other) = owners.insert(path.clone(), image) {
                anyhow::bail!(
                    "{} and {} would both be drawn to {}: run them apart",
                    other.display(),
                    image.display(),
                    path.display()
                );
            }
            Ok(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_never_replaces_an_image_or_another_overlay() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_owned();
        let paths = overlay_paths(&out, &["a/1.png".into(), "a/2.bmp".into()]).unwrap();
        assert_eq!(paths, [out.join("1.png"), out.join("2.png")]);
        assert!(overlay_paths(&out, &["a/1.png".into(), "b/1.bmp".into()]).is_err());
        assert!(overlay_paths(&out, &[out.join("1.png")]).is_err());
    }
}
