//! `gsacp data`: synthetic sets, checks, point labels and contact sheets.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use super::train::{ConfigArgs, CropArgs};
use super::words::size;
use crate::data::dataset::{Dataset, Sample};
use crate::data::files::write_atomic;
use crate::data::image::{GrayImage, Mask, save_rgb_png};
use crate::data::points::{self, Kind, Labels};
use crate::data::progress::in_order;
use crate::data::report;
use crate::data::sheet::Sheet;
use crate::data::synth::{self, Settings};
use crate::data::train_set::Batch;
use crate::evaluate::source_of;

/// Make, check and look at data sets.
#[derive(Subcommand)]
pub enum Data {
    /// Write a synthetic set of infrared scenes with targets, masks, lists and points.
    Synth(Synth),
    /// Open everything that a list names and report what is there and what is wrong.
    Check(Check),
    /// Make single-point labels from masks.
    Points(Points),
    /// Draw a contact sheet of a list's images with boxes around the targets.
    Preview(Preview),
    /// Draw the first crops that a configuration trains on, with boxes around what their priors take for targets.
    Crops(Crops),
    /// Write a list of each source's images and one without them, for zero-shot transfer.
    ///
    /// Train with `--list OUT/LIST.without-NUDT.txt` and evaluate with `--list OUT/LIST.NUDT.txt`: a model keeps the mean
    /// and std of the images it was trained on. The images of SIRST3 tell their source by their names.
    Sources(Sources),
}

/// A data set and one of its lists.
#[derive(Args)]
pub struct Selection {
    /// The folder that holds images/, masks/ and img_idx/.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A list of names: a file, or the name of one in img_idx/.
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
}

/// Options of `data synth`.
#[derive(Args)]
pub struct Synth {
    /// The folder to write; it must not exist yet, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of frames; every fifth goes into val.txt.
    #[arg(long, value_name = "N", default_value_t = 200)]
    count: usize,
    /// Seed of everything drawn.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Size of the frames.
    #[arg(long, value_name = "WxH", default_value = "256x256", value_parser = size)]
    size: (usize, usize),
    /// Least and greatest ratio of a target's peak to the deviation of its surroundings.
    #[arg(long, value_name = "LOW,HIGH", default_value = "5,14", value_parser = contrast)]
    contrast: [f32; 2],
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Options of `data check`.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    selection: Selection,
    /// Check this points file as well.
    #[arg(long, value_name = "FILE")]
    points: Option<PathBuf>,
    /// Accept masks of another size than their image (they are resized, nearest neighbour).
    #[arg(long)]
    resize_mask: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Options of `data points`.
#[derive(Args)]
pub struct Points {
    #[command(flatten)]
    selection: Selection,
    /// Floor of each target's centroid, or a random pixel of the target near it.
    #[arg(long, value_enum, default_value_t = Kind::Centroid)]
    kind: Kind,
    /// Seed of the coarse points.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// The points file to write (JSON).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Resize masks of another size than their image (nearest neighbour).
    #[arg(long)]
    resize_mask: bool,
}

/// Options of `data preview`.
#[derive(Args)]
pub struct Preview {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    page: Page,
}

/// Options of `data crops`.
#[derive(Args)]
pub struct Crops {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    data: CropArgs,
    #[command(flatten)]
    page: Page,
}

/// A contact sheet.
#[derive(Args)]
struct Page {
    /// The PNG to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of images; of a list, evenly spaced in it.
    #[arg(long, value_name = "N", default_value_t = 12)]
    count: usize,
    /// Images in a row.
    #[arg(long, value_name = "N", default_value_t = 4)]
    columns: usize,
    /// Side of the square for one image, in pixels.
    #[arg(long, value_name = "PX", default_value_t = 256)]
    cell: usize,
    /// No boxes.
    #[arg(long)]
    plain: bool,
}

/// Options of `data sources`.
#[derive(Args)]
pub struct Sources {
    #[command(flatten)]
    selection: Selection,
    /// The folder to write the lists into; it is made.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Data {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Synth(options) => options.run(),
            Self::Check(options) => options.run(),
            Self::Points(options) => options.run(),
            Self::Preview(options) => options.run(),
            Self::Crops(options) => options.run(),
            Self::Sources(options) => options.run(),
        }
    }
}

impl Selection {
    fn open(&self) -> Result<Dataset> {
        Dataset::open(&self.data, &self.list)
    }
}

impl Synth {
    fn run(self) -> Result<()> {
        let (width, height) = self.size;
        let settings = Settings { count: self.count, seed: self.seed, width, height, contrast: self.contrast };
        let written = synth::write(&self.out, &settings)?;
        if self.json {
            println!("{}", serde_json::to_string(&written)?);
        } else {
            println!(
                "{}: {} frames of {width}×{height} with {} targets; img_idx/train.txt has {}, val.txt {}; points.json has their centroids",
                self.out.display(),
                self.count,
                written.targets,
                written.train,
                written.val
            );
        }
        Ok(())
    }
}

impl Check {
    fn run(self) -> Result<()> {
        let Selection { data, list } = &self.selection;
        let report = report::check(data, list, self.points.as_deref(), self.resize_mask)?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("{}", report.text()),
        }
        match report.problems.len() {
            0 => Ok(()),
            1 => bail!("1 problem in {}: correct it, or leave that name out of the list", data.display()),
            several => {
                bail!("{several} problems in {}: correct them, or leave those names out of the list", data.display())
            }
        }
    }
}

impl Points {
    fn run(self) -> Result<()> {
        let dataset = self.selection.open()?;
        dataset.require_masks()?;
        let labels = in_order(
            "reading masks",
            &dataset.samples,
            || (),
            |(), sample| {
                let image = sample.load_image()?;
                let mask = sample.load_mask(image.width, image.height, self.resize_mask)?;
                Ok((sample.name.clone(), points::from_mask(&mask, self.kind, self.seed, &sample.name)))
            },
        )?;
        let labels: Labels = labels.into_iter().collect();
        points::write(&self.out, &labels)?;
        let count: usize = labels.values().map(Vec::len).sum();
        println!("{}: {count} points of {} images", self.out.display(), labels.len());
        Ok(())
    }
}

impl Preview {
    fn run(self) -> Result<()> {
        self.page.check()?;
        let dataset = self.selection.open()?;
        let count = self.page.count.min(dataset.samples.len());
        let images = (0..count).map(|index| {
            let sample = &dataset.samples[index * dataset.samples.len() / count];
            let image = sample.load_image()?;
            let mask = match self.page.plain || sample.mask.is_none() {
                true => None,
                false => Some(sample.load_mask(image.width, image.height, true)?),
            };
            Ok((sample.name.clone(), image, mask))
        });
        self.page.draw(count, images)
    }
}

impl Crops {
    fn run(self) -> Result<()> {
        self.page.check()?;
        let config = self.config.load(None)?;
        let source = self.data.source();
        let dataset = Dataset::open(&source.dir, &source.list)?;
        let set = source.read(&config, &dataset, false, true)?;
        let (plan, batches) = (config.plan(), set.batches_per_epoch(config.schedule.batch));
        let crops = (0..).flat_map(|batch| {
            let Batch { names, images, seeds, .. } = set.batch(&plan, (batch / batches) as u64, batch % batches);
            names.into_iter().zip(images).zip(seeds)
        });
        let images = crops.map(|((name, image), seeds)| {
            let mut mask = Mask::empty(image.width, image.height);
            for (i, pixel) in mask.pixels.iter_mut().enumerate() {
                let (x, y) = ((i % image.width) as i32, (i / image.width) as i32);
                *pixel = seeds.iter().any(|seed| seed.patch.value(x, y) > 0.5).into();
            }
            Ok((name, image, (!self.page.plain).then_some(mask)))
        });
        self.page.draw(self.page.count, images)
    }
}

impl Page {
    fn check(&self) -> Result<()> {
        ensure!((1..=400).contains(&self.count), "--count {}: give 1 to 400", self.count);
        ensure!((16..=1024).contains(&self.cell), "--cell {}: give 16 to 1024 pixels", self.cell);
        Ok(())
    }

    /// Draws the first `count` images, whose names it prints, with boxes around their masks' targets, and writes the sheet.
    fn draw(
        &self,
        count: usize,
        images: impl Iterator<Item = Result<(String, GrayImage, Option<Mask>)>>,
    ) -> Result<()> {
        let mut sheet = Sheet::new(count, self.columns, self.cell);
        for (index, drawn) in images.take(count).enumerate() {
            let (name, image, mask) = drawn?;
            sheet.draw(index, &image, mask.as_ref());
            println!("{} {name}", index + 1);
        }
        save_rgb_png(&self.out, sheet.width, sheet.height, sheet.pixels)
    }
}

impl Sources {
    fn run(self) -> Result<()> {
        let dataset = self.selection.open()?;
        let lists = by_source(&dataset.samples)
            .with_context(|| format!("the list {} cannot be split", dataset.list.display()))?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        let stem = dataset.list.file_stem().unwrap_or_default().to_string_lossy();
        for (name, names) in lists {
            let path = self.out.join(format!("{stem}.{name}.txt"));
            write_atomic(&path, (names.join("\n") + "\n").as_bytes())?;
            println!("{}: {} images", path.display(), names.len());
        }
        Ok(())
    }
}

/// For every source its name with the names of its images, and `without-` it with all others.
fn by_source(samples: &[Sample]) -> Result<Vec<(String, Vec<&str>)>> {
    let sources: BTreeSet<&str> = samples.iter().map(|sample| source_of(&sample.name)).collect();
    ensure!(sources.len() > 1, "all its images are of one source ({})", sources.iter().next().unwrap_or(&"none"));
    let those = |source: &str, inside: bool| {
        let names = samples.iter().map(|sample| sample.name.as_str());
        names.filter(|name| (source_of(name) == source) == inside).collect()
    };
    let pair = |source: &&str| {
        [(source.to_string(), those(source, true)), (format!("without-{source}"), those(source, false))]
    };
    Ok(sources.iter().flat_map(pair).collect())
}

fn contrast(text: &str) -> Result<[f32; 2], String> {
    let parsed = text.split_once(',').and_then(|(l, h)| Some([l.trim().parse().ok()?, h.trim().parse().ok()?]));
    parsed.ok_or_else(|| format!("{text} is no range: write it as 4,10"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(names: &[&str]) -> Vec<Sample> {
        let sample = |name: &&str| Sample { name: name.to_string(), image: PathBuf::new(), mask: None };
        names.iter().map(sample).collect()
    }

    #[test]
    fn a_source_and_its_complement_are_the_list() {
        let list = samples(&["Misc_1", "000002", "XDU3", "000004"]);
        let lists = by_source(&list).unwrap();
        let names: Vec<&str> = lists.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["IRSTD-1K", "without-IRSTD-1K", "NUAA", "without-NUAA", "NUDT", "without-NUDT"]);
        assert_eq!(lists[4].1, ["000002", "000004"]);
        assert_eq!(lists[5].1, ["Misc_1", "XDU3"]);
    }

    #[test]
    fn a_list_of_one_source_is_an_error() {
        assert!(by_source(&samples(&["000001", "000002"])).unwrap_err().to_string().contains("NUDT"));
    }
}
