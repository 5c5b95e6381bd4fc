//! A training set in memory: every image decoded once, at its file's depth, with its points and their priors.
//!
//! A batch is a pure function of (settings, seed, epoch, index): whoever computes it, in whatever order, gets the same bits.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use super::augment::{Augment, Window};
use super::dataset::{Dataset, Normalisation, Sample};
use super::image::{GrayImage, MAX_SIDE, MIN_SIDE, Mask, Moments, StoredImage};
use super::paste::{Canvas, Cutout};
use super::patch::{self, Patch};
use super::points::{self, Labels, Point, Source};
use super::progress::in_order;
use super::random::{permutation, stream};

/// One image with its labels.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name in the list.
    pub name: String,
    /// Its pixels.
    pub image: StoredImage,
    /// Its mask, where masks were asked for.
    pub mask: Option<Mask>,
    /// Its point labels.
    pub points: Vec<Point>,
    /// The prior of each point, in image coordinates; empty before any is [drawn](TrainSet::draw).
    pub patches: Vec<Patch>,
}

impl Item {
    /// Columns and rows.
    fn size(&self) -> [usize; 2] {
        [self.image.width, self.image.height]
    }

    /// An error where points and priors are not as many.
    fn check(&self) -> Result<()> {
        let (points, priors) = (self.points.len(), self.patches.len());
        ensure!(points == priors, "{} has {points} points and {priors} priors", self.name);
        Ok(())
    }

    /// Itself `scale` times as large. Each prior is that of the image's own size: redrawn on a larger image, whose edges are less
    /// steep, it comes out smaller (`prior_score --scale`).
    fn at_scale(&self, scale: f32) -> Result<Self> {
        if scale == 1.0 {
            return Ok(self.clone());
        }
        let size = scaled(self.size(), scale);
        let [width, height] = size;
        ensure!(
            size.iter().all(|side| (MIN_SIDE..=MAX_SIDE).contains(side)),
            "{} at scale {scale} is {width}×{height}, and images have {MIN_SIDE} to {MAX_SIDE} pixels a side",
            self.name
        );
        let image = self.image.resized(width, height);
        let mut labels = BTreeMap::<Point, Patch>::new();
        for (&point, patch) in self.points.iter().zip(&self.patches) {
            labels.entry(moved(point, self.size(), size)).or_insert_with(|| patch.resized(self.size(), size));
        }
        let (points, patches) = labels.into_iter().unzip();
        let mask = self.mask.as_ref().map(|mask| mask.resized(width, height));
        Ok(Self { name: self.name.clone(), image, mask, points, patches })
    }
}

/// Sides at a scale, rounded.
pub fn scaled(size: [usize; 2], scale: f32) -> [usize; 2] {
    size.map(|side| (side as f32 * scale).round() as usize)
}

/// The pixel that holds the middle of the pixel `point` when an image of one size takes the other.
fn moved(point: Point, from: [usize; 2], to: [usize; 2]) -> Point {
    let along = |at: u32, axis: usize| patch::moved(at.into(), from[axis], to[axis]) as u32;
    Point { x: along(point.x, 0), y: along(point.y, 1) }
}

/// What a training set reads besides the images.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Where the points come from.
    pub points: Source,
    /// Keep the masks, for full supervision.
    pub masks: bool,
    /// Resize masks whose size is not their image's, instead of an error.
    pub resize_mask: bool,
}

/// A training set in memory.
#[derive(Debug)]
pub struct TrainSet {
    /// The images in the list's order; at least one.
    pub items: Vec<Item>,
    /// Places that look like targets and are none: position of the image in `items`, and the place.
    pub clutter: Vec<(usize, Point)>,
}

/// A point label in a crop, with its prior.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// Column in the crop.
    pub x: u32,
    /// Row in the crop.
    pub y: u32,
    /// The prior in crop coordinates; empty if nothing but zeros lies in the crop.
    pub patch: Patch,
}

impl Seed {
    /// Itself (`x`, `y`) further on.
    pub fn shifted(&self, x: u32, y: u32) -> Self {
        Self { x: self.x + x, y: self.y + y, patch: self.patch.shifted(x as i32, y as i32) }
    }
}

/// Crops of one step. All vectors have one entry per crop but `masks`, which is empty when no masks were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch within the epoch, from 0.
    pub index: usize,
    /// Position of each crop's image in [`TrainSet::items`].
    pub items: Vec<usize>,
    /// Name of each crop's image.
    pub names: Vec<String>,
    /// Where each crop was taken: cuts a label map of one's own in the same way.
    pub windows: Vec<Window>,
    /// The crops, square, values in [0, 1].
    pub images: Vec<GrayImage>,
    /// Their masks.
    pub masks: Vec<Mask>,
    /// The points inside each crop.
    pub seeds: Vec<Vec<Seed>>,
    /// Priors that reach into the crop though their point lies outside: no background, and no target either.
    pub cut_off: Vec<Vec<Patch>>,
}

/// What decides the batches, besides the set.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Seed of order, crops and augmentation.
    pub seed: u64,
    /// Crops per batch, at least 1.
    pub batch: usize,
    /// Crops and augmentation.
    pub augment: Augment,
}

impl TrainSet {
    /// Reads every image of `dataset`, its points and, where asked, its mask (all threads, with a progress display). The first error in list
    /// order stops.
    pub fn read(dataset: &Dataset, reading: &Reading) -> Result<Self> {
        let labels = match &reading.points {
            Source::File(path) => Some((points::read(path)?, path.as_path())),
            Source::Masks { .. } => None,
        };
        if labels.is_none() || reading.masks {
            dataset.require_masks()?;
        }
        let labels = labels.as_ref().map(|(labels, path)| (labels, *path));
        let read = |_: &mut (), sample: &Sample| read_item(sample, reading, labels);
        Self::new(in_order("reading images", &dataset.samples, || (), read)?)
    }

    /// Gives every point the prior that `prior` draws for it: one patch per point of an item, in image coordinates and in order (all threads, with a progress
    /// display of `what`).
    pub fn draw(&mut self, what: &str, prior: impl Fn(&Item) -> Vec<Patch> + Sync + Send) -> Result<()> {
        // An image without points is not looked at.
        let drawn = |_: &mut (), item: &Item| Ok(if item.points.is_empty() { Vec::new() } else { prior(item) });
        let patches = in_order(what, &self.items, || (), drawn)?;
        for (item, patches) in self.items.iter_mut().zip(patches) {
            item.patches = patches;
            item.check()?;
        }
        Ok(())
    }

    /// From images already in memory; an error if there is none or a patch is missing.
    pub fn new(items: Vec<Item>) -> Result<Self> {
        ensure!(!items.is_empty(), "a training set needs at least one image");
        for item in &items {
            item.check()?;
        }
        Ok(Self { items, clutter: Vec::new() })
    }

    /// Adds the clutter of the file `path`, in the form of a points file. Errors: a file without any, an image that the
    /// set does not have, a place outside its image.
    pub fn read_clutter(&mut self, path: &Path) -> Result<()> {
        let labels = points::read(path)?;
        let numbers: HashMap<&str, usize> =
            self.items.iter().enumerate().map(|(i, item)| (&item.name[..], i)).collect();
        let mut clutter = Vec::new();
        for name in labels.keys() {
            let &number = numbers.get(&name[..]).with_context(|| {
                format!("the clutter of {} is of the image {name}, which is not trained on", path.display())
            })?;
            let StoredImage { width, height, .. } = self.items[number].image;
            let places = points::points_of(&labels, path, name, width, height)?;
            clutter.extend(places.iter().map(|&place| (number, place)));
        }
        ensure!(!clutter.is_empty(), "{} holds no clutter: mine at a lower --logit", path.display());
        self.clutter = clutter;
        Ok(())
    }

    /// Every image once at each of `scales`, factors of its sides, with its points, priors, mask and clutter; points that
    /// fall into one pixel become one, the first with its prior. Errors: a side too small or too large.
    pub fn at_scales(self, scales: &[f32]) -> Result<Self> {
        if scales == [1.0] {
            return Ok(self);
        }
        let place = |image: usize, scale: usize| image * scales.len() + scale;
        let clutter = self.clutter.iter().flat_map(|(image, at)| {
            let size = self.items[*image].size();
            scales.iter().enumerate().map(move |(k, &scale)| (place(*image, k), moved(*at, size, scaled(size, scale))))
        });
        let clutter = clutter.collect();
        let copies =
            |_: &mut (), item: &Item| scales.iter().map(|&scale| item.at_scale(scale)).collect::<Result<Vec<_>>>();
        let items = in_order("resizing images", &self.items, || (), copies)?;
        Ok(Self { clutter, ..Self::new(items.into_iter().flatten().collect())? })
    }

    /// Mean and deviation over all pixels, as [`Dataset::normalisation`].
    pub fn normalisation(&self) -> Result<Normalisation> {
        let moments = self.items.iter().map(|item| item.image.moments()).fold(Moments::default(), Moments::plus);
        Normalisation::of(moments)
    }

    /// Whole batches in an epoch. What is left over is left out (a small batch has poor batch statistics) and comes up
    /// in another epoch's order; a set smaller than a batch gives one smaller batch.
    pub fn batches_per_epoch(&self, batch: usize) -> usize {
        (self.items.len() / batch.max(1)).max(1)
    }

    /// The batch `index` of `epoch`.
    pub fn batch(&self, plan: &Plan, epoch: u64, index: usize) -> Batch {
        let chosen = self.turns(plan, epoch, index);
        let mut batch = Batch {
            epoch,
            index,
            items: Vec::new(),
            names: Vec::new(),
            windows: Vec::new(),
            images: Vec::new(),
            masks: Vec::new(),
            seeds: Vec::new(),
            cut_off: Vec::new(),
        };
        let least = chosen.iter().map(|turn| self.least_side(turn)).min().unwrap_or(0);
        let augment = Augment { crop: plan.augment.side(least), ..plan.augment.clone() };
        for Turn { number, image: turn, clutter } in chosen {
            let item = &self.items[turn];
            let (width, height) = (item.image.width, item.image.height);
            let mut rng = stream(plan.seed, "crop", epoch, number);
            let window = match clutter {
                Some(place) => augment.window(&mut rng, width, height, &[place], 1.0),
                None => augment.window(&mut rng, width, height, &item.points, augment.target_share),
            };
            let mut image = window.image(&item.image);
            let mut mask = item.mask.as_ref().map(|mask| window.mask(mask));
            let (mut seeds, mut cut_off) = (Vec::new(), Vec::new());
            for (point, patch) in item.points.iter().zip(&item.patches) {
                let patch = window.patch(patch);
                match window.crop_pixel(point.x as i32, point.y as i32) {
                    Some((x, y)) => seeds.push(Seed { x, y, patch: patch.unwrap_or_default() }),
                    None => cut_off.extend(patch),
                }
            }
            let mut canvas = Canvas { image: &mut image, mask: mask.as_mut(), seeds: &mut seeds, cut_off: &cut_off };
            self.paste(plan, epoch, number, &mut canvas);
            augment.tone(&mut rng, &mut image);
            batch.items.push(turn);
            batch.names.push(item.name.clone());
            batch.windows.push(window);
            batch.images.push(image);
            batch.masks.extend(mask);
            batch.seeds.push(seeds);
            batch.cut_off.push(cut_off);
        }
        batch
    }

    /// The crops of the batch `index` of an epoch.
    fn turns(&self, plan: &Plan, epoch: u64, index: usize) -> Vec<Turn> {
        let order = permutation(&mut stream(plan.seed, "order", epoch, 0), self.items.len());
        let turn = |(number, image): (usize, usize)| {
            let number = number as u64;
            let (image, clutter) = match self.clutter_at(plan, epoch, number) {
                Some((image, place)) => (image, Some(place)),
                None => (image, None),
            };
            Turn { number, image, clutter }
        };
        let turns = order.into_iter().enumerate();
        if !plan.augment.alike {
            return turns.skip(index * plan.batch).take(plan.batch).map(turn).collect();
        }
        // The same crops as otherwise: what is left over must not be the largest.
        let batches = self.batches_per_epoch(plan.batch);
        let mut sorted: Vec<Turn> = turns.take(batches * plan.batch).map(turn).collect();
        sorted.sort_by_key(|turn| self.least_side(turn));
        let group = permutation(&mut stream(plan.seed, "batches", epoch, 0), batches)[index];
        sorted.into_iter().skip(group * plan.batch).take(plan.batch).collect()
    }

    /// Pastes targets of other images into the crop `number` of an epoch, as many as are drawn and find a place.
    fn paste(&self, plan: &Plan, epoch: u64, number: u64, canvas: &mut Canvas) {
        let mut rng = stream(plan.seed, "paste", epoch, number);
        for _ in 0..rng.random_range(0..=plan.augment.pasted) {
            let item = &self.items[rng.random_range(0..self.items.len())];
            let (chosen, symmetry) = (rng.random::<u64>(), rng.random_range(0..8u8));
            let symmetry = if plan.augment.flips { symmetry } else { 0 };
            let index = chosen.checked_rem(item.points.len() as u64);
            if let Some(cutout) = index.and_then(|index| Cutout::of(item, index as usize, symmetry)) {
                cutout.paste(&mut rng, canvas);
            }
        }
    }

    fn least_side(&self, turn: &Turn) -> usize {
        let [width, height] = self.items[turn.image].size();
        width.min(height)
    }

    /// The clutter that the crop `number` of an epoch is placed around, where it is.
    fn clutter_at(&self, plan: &Plan, epoch: u64, number: u64) -> Option<(usize, Point)> {
        let mut rng = stream(plan.seed, "clutter", epoch, number);
        let due = !self.clutter.is_empty() && rng.random::<f32>() < plan.augment.clutter_share;
        due.then(|| self.clutter[rng.random_range(0..self.clutter.len())])
    }
}

/// One crop of an epoch.
struct Turn {
    /// Its number in the epoch: what is drawn for it depends on this.
    number: u64,
    /// Position of its image in [`TrainSet::items`].
    image: usize,
    /// The clutter that it is placed around.
    clutter: Option<Point>,
}

fn read_item(sample: &Sample, reading: &Reading, labels: Option<(&Labels, &Path)>) -> Result<Item> {
    let image = StoredImage::open(&sample.image)?;
    let mask = match labels.is_none() || reading.masks {
        true => Some(sample.load_mask(image.width, image.height, reading.resize_mask)?),
        false => None,
    };
    let points = match (&reading.points, labels, &mask) {
        (Source::Masks { kind, seed }, _, Some(mask)) => points::from_mask(mask, *kind, *seed, &sample.name),
        (_, Some((labels, path)), _) => {
            points::points_of(labels, path, &sample.name, image.width, image.height)?.to_vec()
        }
        _ => None.context("no point labels")?,
    };
    let patches = vec![Patch::default(); points.len()];
    Ok(Item { name: sample.name.clone(), image, mask: mask.filter(|_| reading.masks), points, patches })
}

#[cfg(test)]
mod tests {
    use super::super::image::Samples;
    use super::*;

    /// Ten images of 32×32 with a lone bright pixel each, its point, and a 3×3 prior around it.
    fn lone_pixels() -> TrainSet {
        let items = (0..10u32).map(|i| {
            let point = Point { x: 3 * i, y: 31 - 2 * i };
            let mut samples = vec![0u16; 32 * 32];
            samples[(point.y * 32 + point.x) as usize] = 65535;
            let patch = Patch {
                x0: point.x as i32 - 1,
                y0: point.y as i32 - 1,
                width: 3,
                height: 3,
                values: vec![0.1, 0.2, 0.3, 0.4, 1.0, 0.6, 0.7, 0.8, 0.9],
            };
            let image = StoredImage { width: 32, height: 32, samples: Samples::Sixteen(samples.clone()) };
            let mask = Mask { width: 32, height: 32, pixels: samples.iter().map(|&s| u8::from(s > 0)).collect() };
            Item { name: format!("n{i}"), image, mask: Some(mask), points: vec![point], patches: vec![patch] }
        });
        TrainSet::new(items.collect()).unwrap()
    }

    fn plan(batch: usize) -> Plan {
        let augment = Augment { crop: 16, target_share: 0.5, contrast: 0.0, brightness: 0.0, ..Augment::default() };
        Plan { seed: 7, batch, augment }
    }

    #[test]
    fn image_mask_point_and_prior_show_the_same_pixel_in_every_crop() {
        let (set, plan) = (lone_pixels(), plan(5));
        let (mut inside, mut outside) = (0, 0);
        for epoch in 0..40 {
            for index in 0..2 {
                let batch = set.batch(&plan, epoch, index);
                for crop in 0..5 {
                    let bright: Vec<usize> = (0..256).filter(|&i| batch.images[crop].pixels[i] == 1.0).collect();
                    let masked: Vec<usize> = (0..256).filter(|&i| batch.masks[crop].pixels[i] == 1).collect();
                    let seeds: Vec<usize> = batch.seeds[crop].iter().map(|s| (s.y * 16 + s.x) as usize).collect();
                    assert_eq!(bright, seeds, "no target without its point, no point without its target");
                    assert_eq!(masked, seeds);
                    for seed in &batch.seeds[crop] {
                        assert_eq!(seed.patch.value(seed.x as i32, seed.y as i32), 1.0);
                        inside += 1;
                    }
                    for patch in &batch.cut_off[crop] {
                        assert!(batch.seeds[crop].is_empty() && patch.values.iter().all(|&v| v < 1.0));
                        outside += 1;
                    }
                }
            }
        }
        assert!(inside > 200 && outside > 5, "{inside} {outside}");
    }

    #[test]
    fn pasted_targets_come_with_their_points_priors_and_masks_and_change_nothing_else() {
        let (set, plain) = (lone_pixels(), plan(5));
        let mut plan = plain.clone();
        plan.augment.pasted = 3;
        let mut pasted = [0; 5];
        for epoch in 0..40 {
            let (batch, before) = (set.batch(&plan, epoch, 0), set.batch(&plain, epoch, 0));
            assert_eq!((&batch.windows, &batch.cut_off), (&before.windows, &before.cut_off));
            for crop in 0..5 {
                let (seeds, own) = (&batch.seeds[crop], &before.seeds[crop]);
                assert_eq!(seeds[..own.len()], own[..]);
                pasted[seeds.len() - own.len()] += 1;
                let places = |found: &dyn Fn(usize) -> bool| (0..256).filter(|&i| found(i)).collect::<Vec<_>>();
                let mut points: Vec<usize> = seeds.iter().map(|s| (s.y * 16 + s.x) as usize).collect();
                points.sort_unstable();
                assert_eq!(places(&|i| batch.images[crop].pixels[i] > 0.4), points);
                assert_eq!(places(&|i| batch.masks[crop].pixels[i] == 1), points);
                assert!(seeds.iter().all(|seed| seed.patch.value(seed.x as i32, seed.y as i32) == 1.0));
            }
        }
        // None to three are asked for, each number in 50 crops of 200; 16 px have room for one, seldom for two.
        assert!(pasted[0] > 50 && pasted[1] > 60 && pasted[2] > 5 && pasted[3..] == [0, 0], "{pasted:?}");
    }

    #[test]
    fn its_share_of_the_crops_shows_clutter_whichever_image_s_turn_it_is() {
        let mut set = lone_pixels();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clutter.json");
        std::fs::write(&path, r#"{"n2": [[20, 9]], "n7": [[1, 30], [30, 1]]}"#).unwrap();
        set.read_clutter(&path).unwrap();
        let mut plan = plan(5);
        plan.augment.clutter_share = 0.5;
        plan.augment.target_share = 0.0;
        let (mut shown, mut images) = (0, [0; 10]);
        for epoch in 0..200 {
            let batch = set.batch(&plan, epoch, 1);
            for (&item, window) in batch.items.iter().zip(&batch.windows) {
                images[item] += 1;
                shown += usize::from(set.clutter.iter().any(|(image, place)| {
                    *image == item && window.crop_pixel(place.x as i32, place.y as i32).is_some()
                }));
            }
        }
        // Half of 1,000 crops, a third of them in n2 and the rest in n7, besides every image's turn.
        assert!((450..650).contains(&shown), "{shown}");
        assert!((180..260).contains(&images[2]) && (330..440).contains(&images[7]), "{images:?}");
        assert!((30..75).contains(&images[0]), "{images:?}");
    }

    #[test]
    fn at_other_scales_image_mask_points_prior_and_clutter_stay_on_one_another() {
        // 8 × 8 blocks of 4 px, one of them bright; a dim one is clutter. At half the size a block has 2 px, at twice 8.
        let block = |x: usize, y: usize| match (x / 4, y / 4) {
            (5, 2) => 255u8,
            (1, 6) => 128,
            _ => 0,
        };
        let samples: Vec<u8> = (0..32 * 32).map(|i| block(i % 32, i / 32)).collect();
        let mask = Mask { width: 32, height: 32, pixels: samples.iter().map(|&s| u8::from(s == 255)).collect() };
        let image = StoredImage { width: 32, height: 32, samples: Samples::Eight(samples) };
        // Both points of the bright block fall into one pixel at half the size.
        let points = vec![Point { x: 20, y: 9 }, Point { x: 21, y: 8 }];
        let patch = Patch { x0: 20, y0: 8, width: 4, height: 4, values: vec![0.75; 16] };
        let patches = vec![patch, Patch::default()];
        let item = Item { name: "n".into(), image, mask: Some(mask), points, patches };
        let mut set = TrainSet::new(vec![item]).unwrap();
        set.clutter = vec![(0, Point { x: 6, y: 25 })];
        let set = set.at_scales(&[0.5, 1.0, 2.0]).unwrap();
        assert_eq!(set.items.iter().map(|item| item.size()).collect::<Vec<_>>(), [[16; 2], [32; 2], [64; 2]]);
        let points: Vec<Vec<[u32; 2]>> =
            set.items.iter().map(|item| item.points.iter().map(|p| [p.x, p.y]).collect()).collect();
        assert_eq!(points, [vec![[10, 4]], vec![[20, 9], [21, 8]], vec![[41, 19], [43, 17]]]);
        assert_eq!(set.items.iter().map(|item| item.mask.as_ref().unwrap().area()).collect::<Vec<_>>(), [4, 16, 64]);
        assert_eq!(
            set.clutter.iter().map(|(i, p)| (*i, p.x, p.y)).collect::<Vec<_>>(),
            [(0, 3, 12), (1, 6, 25), (2, 13, 51)]
        );
        for (item, side) in set.items.iter().zip([2.0f32, 4.0, 8.0]) {
            // In the middle of a block its value stays; the cubic rings at its edge, and what shrinks is smoothed, by less than a seventh of the step.
            let at = |x: f32, y: f32| item.image.value((x * side) as usize, (y * side) as usize);
            assert!(at(5.5, 2.5) > 0.85 && (0.4..0.6).contains(&at(1.5, 6.5)) && at(3.5, 3.5) < 0.05, "{side}");
            let mask = item.mask.as_ref().unwrap();
            assert!(item.points.iter().all(|p| mask.pixels[p.y as usize * mask.width + p.x as usize] == 1));
        }
        for (item, side) in set.items.iter().zip([2usize, 4, 8]) {
            // The prior covers the mask, fades beyond, and is its point's: the first of two that have become one.
            let (mask, patch) = (item.mask.as_ref().unwrap(), &item.patches[0]);
            let inside: Vec<u8> = (0..(8 * side).pow(2))
                .map(|i| u8::from(patch.value((i % (8 * side)) as i32, (i / (8 * side)) as i32) >= 0.375))
                .collect();
            assert_eq!(inside, mask.pixels, "{side}");
        }
        let error = lone_pixels().at_scales(&[0.1]).unwrap_err().to_string();
        assert!(error.contains("n0") && error.contains("3×3"), "{error}");
    }

    #[test]
    fn clutter_of_an_unknown_image_or_outside_it_or_none_at_all_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clutter.json");
        for (text, said) in [
            (r#"{"other": [[1, 1]]}"#, "other"),
            (r#"{"n1": [[32, 1]]}"#, "(32, 1)"),
            (r#"{"n1": []}"#, "no clutter"),
            ("{}", "no clutter"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", lone_pixels().read_clutter(&path).unwrap_err());
            assert!(error.contains(said) && error.contains("clutter.json"), "{error}");
        }
    }

    #[test]
    fn batches_of_alike_images_hold_the_same_crops_and_hardly_shrink_them() {
        let sides = [64, 32, 48, 64, 32, 48, 64, 64];
        let items = sides.iter().enumerate().map(|(n, &side)| Item {
            name: format!("n{n}"),
            image: StoredImage {
                width: side,
                height: side + 16,
                samples: Samples::Eight(vec![n as u8; side * (side + 16)]),
            },
            mask: None,
            points: Vec::new(),
            patches: Vec::new(),
        });
        let set = TrainSet::new(items.collect()).unwrap();
        let mut plan = plan(2);
        (plan.augment.crop, plan.augment.shrink, plan.augment.alike) = (64, true, true);
        let mut orders = Vec::new();
        for epoch in 0..4 {
            let batches: Vec<Batch> = (0..4).map(|index| set.batch(&plan, epoch, index)).collect();
            for batch in &batches {
                let [a, b] = batch.items[..] else { panic!("two crops") };
                assert_eq!((sides[a], sides[b]), (batch.images[0].width, batch.images[1].width));
            }
            let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.items.clone()).collect();
            orders.push(seen.clone());
            seen.sort_unstable();
            assert_eq!(seen, (0..8).collect::<Vec<_>>(), "every image once");
        }
        let sorted = |order: &[usize]| order.iter().map(|&item| sides[item]).is_sorted();
        assert!(orders.iter().any(|order| !sorted(order)) && orders[0] != orders[1], "{orders:?}");
        // What is left over of an epoch is not always the largest.
        plan.batch = 3;
        let left = |epoch| (0..8).find(|item| (0..2).all(|index| !set.batch(&plan, epoch, index).items.contains(item)));
        assert!((0..8).filter_map(left).any(|item| sides[item] < 64));
    }

    #[test]
    fn crops_that_shrink_are_as_large_as_the_smallest_image_of_their_batch_allows() {
        let image = |side: usize| StoredImage { width: side, height: 50, samples: Samples::Eight(vec![7; side * 50]) };
        let item =
            |side| Item { name: format!("{side}"), image: image(side), mask: None, points: vec![], patches: vec![] };
        let set = TrainSet::new(vec![item(40), item(90)]).unwrap();
        let mut plan = plan(1);
        (plan.augment.crop, plan.augment.shrink) = (64, true);
        for index in 0..2 {
            let batch = set.batch(&plan, 0, index);
            let side = if batch.names[0] == "40" { 32 } else { 48 };
            assert_eq!((batch.images[0].width, batch.images[0].height, batch.windows[0].size), (side, side, side));
        }
        plan.batch = 2;
        assert!(set.batch(&plan, 0, 0).images.iter().all(|image| image.width == 32));
    }

    #[test]
    fn an_epoch_holds_every_image_once_in_another_order() {
        let (set, plan) = (lone_pixels(), plan(5));
        let epoch = |epoch| [set.batch(&plan, epoch, 0).names, set.batch(&plan, epoch, 1).names].concat();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut names in [first, second] {
            names.sort();
            assert_eq!(names, (0..10).map(|i| format!("n{i}")).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_does_not_fill_a_batch_is_left_out_and_a_small_set_gives_one_batch() {
        let set = lone_pixels();
        assert_eq!([1, 3, 4, 10, 11].map(|size| set.batches_per_epoch(size)), [10, 3, 2, 1, 1]);
        assert_eq!(set.batch(&plan(16), 0, 0).images.len(), 10);
    }
}
