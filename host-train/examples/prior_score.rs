//! What the local prior alone is worth as a mask: {g > ½} against the true masks, which are used only to score.
//!
//! ```text
//! cargo run --release -p gsacp-train --example prior_score -- --data ../shared/data/SIRST3 --list train_dev
//! ```
//!
//! Per form and kind of point: foreground IoU, mean IoU per image and predicted area / true area, over all images and
//! per source (by name: `Misc_*` NUAA, `XDU*` IRSTD-1K, the others NUDT), then recall (area ratio) by true size.
//! A target's own pixels are those of the mask inside its box.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use gsacp_train::data::dataset::Dataset;
use gsacp_train::data::patch::Patch;
use gsacp_train::data::points::{Kind, Source};
use gsacp_train::data::random::{permutation, stream};
use gsacp_train::data::targets;
use gsacp_train::data::train_set::{Item, Reading, TrainSet, scaled};
use gsacp_train::supervision::prior::{PriorConfig, draw_set};
use rayon::prelude::*;

/// Largest areas of the size bins, in pixels (METHOD §3).
const BINS: [u32; 4] = [10, 30, 80, u32::MAX];

#[derive(Parser)]
struct Arguments {
    /// Data set folder.
    #[arg(long)]
    data: PathBuf,
    /// List of images.
    #[arg(long, default_value = "train_dev")]
    list: PathBuf,
    /// How many images, drawn by the seed.
    #[arg(long, default_value_t = 400)]
    images: usize,
    /// Seed of the choice and of the coarse points.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Take the priors of the images' own size to this many times it, as `data.scales` does.
    #[arg(long, default_value_t = 1.0)]
    scale: f32,
    /// A TOML file with a prior of one's own to score too.
    #[arg(long)]
    prior: Option<PathBuf>,
}

/// Sums over images or targets.
#[derive(Clone, Copy, Default)]
struct Sums {
    hit: f64,
    predicted: f64,
    truth: f64,
    image_iou: f64,
    images: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.hit += other.hit;
        self.predicted += other.predicted;
        self.truth += other.truth;
        self.image_iou += other.image_iou;
        self.images += other.images;
    }

    fn line(&self) -> String {
        let iou = self.hit / (self.predicted + self.truth - self.hit);
        format!("{iou:.3}/{:.3} ×{:.2}", self.image_iou / self.images, self.predicted / self.truth)
    }
}

fn source(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("Misc") => "NUAA",
        _ if name.starts_with("XDU") => "IRSTD",
        _ => "NUDT",
    }
}

/// The pixels of {g > ½}: priors are 0 outside their image.
fn outline(patch: &Patch) -> impl Iterator<Item = (u32, u32)> {
    patch.mask().map(|(x, y)| (x as u32, y as u32))
}

fn score(item: &Item, scale: f32) -> Result<(Sums, [Sums; 4])> {
    let mask = item.mask.as_ref().context("read without its mask")?;
    let from = [mask.width, mask.height];
    let to = scaled(from, scale);
    let patches: Vec<Patch> = item.patches.iter().map(|patch| patch.resized(from, to)).collect();
    let mask = mask.resized(to[0], to[1]);

    let index = |x: u32, y: u32| y as usize * mask.width + x as usize;
    let mut bins = [Sums::default(); 4];
    for (target, patch) in targets::of(&mask).iter().zip(&patches) {
        let gsacp_core::detect::Component { left, right, top, bottom, .. } = *target;
        let own = |&(x, y): &(u32, u32)| {
            (left..=right).contains(&x) && (top..=bottom).contains(&y) && mask.pixels[index(x, y)] == 1
        };
        let (predicted, hit) = (outline(patch).count() as f64, outline(patch).filter(own).count() as f64);
        let bin = BINS.iter().position(|&most| target.area <= most).unwrap_or(3);
        bins[bin].add(&Sums { hit, predicted, truth: f64::from(target.area), image_iou: 0.0, images: 1.0 });
    }

    let mut drawn = vec![0u8; mask.pixels.len()];
    for (x, y) in patches.iter().flat_map(outline) {
        drawn[index(x, y)] = 1;
    }
    let count = |f: &dyn Fn(u8, u8) -> bool| drawn.iter().zip(&mask.pixels).filter(|(d, m)| f(**d, **m)).count() as f64;
    let (hit, predicted, truth) = (count(&|d, m| d & m == 1), count(&|d, _| d == 1), count(&|_, m| m == 1));
    let union = predicted + truth - hit;
    let (image_iou, images) = if union > 0.0 { (hit / union, 1.0) } else { (0.0, 0.0) };
    Ok((Sums { hit, predicted, truth, image_iou, images }, bins))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut dataset = Dataset::open(&arguments.data, &arguments.list)?;
    let mut order = permutation(&mut stream(arguments.seed, "prior score", 0, 0), dataset.samples.len());
    order.truncate(arguments.images);
    dataset.samples = order.into_iter().map(|i| dataset.samples[i].clone()).collect();
    let read = |kind| {
        let points = Source::Masks { kind, seed: arguments.seed };
        TrainSet::read(&dataset, &Reading { points, masks: true, resize_mask: false })
    };
    let mut sets = [("Centroid", read(Kind::Centroid)?), ("Coarse", read(Kind::Coarse)?)];

    let mut forms = vec![
        ("paper", PriorConfig::paper()),
        ("plain contrast", PriorConfig::plain_contrast()),
        ("default", PriorConfig::default()),
    ];
    if let Some(path) = &arguments.prior {
        forms.push(("own", toml::from_str(&std::fs::read_to_string(path)?)?));
    }
    println!("{} images of {}: IoU/nIoU ×area ratio", dataset.samples.len(), arguments.list.display());
    for (name, prior) in &forms {
        prior.validate()?;
        for (kind, set) in &mut sets {
            let steps = draw_set(set, prior)?;
            let scored = |item: &Item| Ok((source(&item.name), score(item, arguments.scale)?));
            let scores: Vec<_> = set.items.par_iter().map(scored).collect::<Result<_>>()?;
            let mut sums = BTreeMap::<&str, Sums>::new();
            let mut bins = [Sums::default(); 4];
            for (source, (image, by_size)) in &scores {
                for key in ["all", source] {
                    sums.entry(key).or_default().add(image);
                }
                bins.iter_mut().zip(by_size).for_each(|(bin, other)| bin.add(other));
            }
            let sums: Vec<_> = sums.iter().map(|(key, sum)| format!("{key} {}", sum.line())).collect();
            let bins: Vec<_> =
                bins.iter().map(|b| format!("{:.2} (×{:.2})", b.hit / b.truth, b.predicted / b.truth)).collect();
            println!("{name:14} {kind}: {} | recall by size {}", sums.join(", "), bins.join(", "));
            print!("{steps}");
        }
    }
    Ok(())
}
