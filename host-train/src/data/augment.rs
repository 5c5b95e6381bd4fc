//! Seeded augmentation: a square crop, one of the eight flips and transposes, then tone and noise.
//!
//! Geometry is a [`Window`]: it maps pixels exactly (no interpolation), and the same window is applied to the image,
//! its mask, its points and its prior patches, so they cannot come apart.

use anyhow::{Result, ensure};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::image::{GrayImage, MAX_SIDE, Mask, StoredImage};
use super::patch::Patch;
use super::points::Point;
use super::random::{normal, spread};

/// What is drawn for every crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Side of the crop in pixels, a multiple of 16.
    pub crop: usize,
    /// Whether crops shrink to the smallest image of their batch (to a multiple of 16) instead of reaching over its edges: a
    /// large crop and batches of one then show whole frames, as the sensor does.
    pub shrink: bool,
    /// Whether an epoch's crops are put into batches by the least side of their images, so that `shrink` takes little away from any of them: for
    /// batches of several whole frames. The batches come in random order.
    pub alike: bool,
    /// Share of the crops that are placed around a random target, 0 to 1; the others are uniform over the image.
    pub target_share: f32,
    /// Share of the crops, of all, that are placed around clutter instead (`gsacp mine`), in whichever image it is: 0 to 1.
    pub clutter_share: f32,
    /// How far the target may lie from the middle of such a crop, per axis, as a share of the crop: 0 to 0.5.
    pub jitter: f32,
    /// Factors of the images' sides: every image takes part once at each of them, with its priors as they are at its own size. From 0.25
    /// to 4.
    pub scales: Vec<f32>,
    /// Draw one of the eight flips and transposes. Off where labels have a direction (`supervision.prior.registered`).
    pub flips: bool,
    /// Contrast about the crop's mean: a factor from 1 ± this, 0 to below 1.
    pub contrast: f32,
    /// Brightness: an offset from ± this, on the [0, 1] scale.
    pub brightness: f32,
    /// Most targets of other images that are pasted into a crop, 0 to 16: from none to so many, any number as often ([`super::paste`]).
    pub pasted: u8,
    /// Sensor noise: the deviation of Gaussian noise is drawn from 0 to this, on the [0, 1] scale; 0 for none.
    pub noise: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            crop: 128,
            shrink: false,
            alike: false,
            target_share: 0.6,
            clutter_share: 0.0,
            jitter: 0.35,
            scales: vec![1.0],
            flips: true,
            contrast: 0.2,
            brightness: 0.08,
            noise: 0.0,
            pasted: 0,
        }
    }
}

impl Augment {
    /// An error that names the first setting outside its range.
    pub fn validate(&self) -> Result<()> {
        let crop = self.crop;
        ensure!(
            crop > 0 && crop.is_multiple_of(16) && crop <= MAX_SIDE,
            "crop = {crop}: give a multiple of 16 from 16 to {MAX_SIDE}"
        );
        for (key, value, most) in [
            ("target_share", self.target_share, 1.0),
            ("clutter_share", self.clutter_share, 1.0),
            ("jitter", self.jitter, 0.5),
            ("contrast", self.contrast, 0.99),
            ("brightness", self.brightness, 1.0),
            ("noise", self.noise, 1.0),
        ] {
            ensure!((0.0..=most).contains(&value), "{key} = {value}: give a number from 0 to {most}");
        }
        ensure!(self.pasted <= 16, "pasted = {}: give 0 to 16 targets", self.pasted);
        let scales = &self.scales;
        ensure!(
            !scales.is_empty() && scales.iter().all(|scale| (0.25..=4.0).contains(scale)),
            "scales = {scales:?}: give at least one factor from 0.25 to 4, such as [0.8, 1.0, 1.3]"
        );
        Ok(())
    }

    /// The side of a batch's crops, of images whose least side is `least`.
    pub fn side(&self, least: usize) -> usize {
        if self.shrink { self.crop.min((least / 16 * 16).max(16)) } else { self.crop }
    }

    /// Draws the crop of an image of `width`×`height`, with probability `share` around one of `points`. An image smaller
    /// than the crop is placed at random inside it.
    pub fn window(&self, rng: &mut ChaCha8Rng, width: usize, height: usize, points: &[Point], share: f32) -> Window {
        // Always the same number of draws, whatever is chosen: settings then change only what they name.
        let near = rng.random::<f32>() < share;
        let chosen = rng.random::<f32>();
        let place = [rng.random::<f32>(), rng.random::<f32>()];
        let symmetry: u8 = rng.random_range(0..8);
        let target = match points.len() {
            count if near && count > 0 => Some(points[((chosen * count as f32) as usize).min(count - 1)]),
            _ => None,
        };
        let start = |side: usize, place: f32, target: Option<u32>| -> i32 {
            let slack = side as i32 - self.crop as i32;
            let (least, most) = (slack.min(0), slack.max(0));
            match target {
                None => least + ((place * (most - least + 1) as f32) as i32).min(most - least),
                Some(at) => {
                    let offset = (2.0 * place - 1.0) * self.jitter * self.crop as f32;
                    (at as i32 - self.crop as i32 / 2 + offset.round() as i32).clamp(least, most)
                }
            }
        };
        let (x0, y0) = (start(width, place[0], target.map(|p| p.x)), start(height, place[1], target.map(|p| p.y)));
        Window::turned(x0, y0, self.crop, if self.flips { symmetry } else { 0 })
    }

    /// Changes contrast and brightness and adds noise; values stay in [0, 1], as a sensor saturates.
    pub fn tone(&self, rng: &mut ChaCha8Rng, image: &mut GrayImage) {
        let gain = 1.0 + spread(rng, self.contrast);
        let offset = spread(rng, self.brightness);
        let deviation = rng.random::<f32>() * self.noise;
        let mean = image.pixels.iter().map(|&v| f64::from(v)).sum::<f64>() / image.pixels.len().max(1) as f64;
        let mean = mean as f32;
        for value in &mut image.pixels {
            let noise = if deviation > 0.0 { deviation * normal(rng) } else { 0.0 };
            *value = ((*value - mean) * gain + mean + offset + noise).clamp(0.0, 1.0);
        }
    }
}

/// A square of an image, flipped and transposed: crop pixel ↔ image pixel, exactly.
///
/// Image pixel → crop pixel: subtract (`x0`, `y0`), mirror the column if `flip_x` and the row if `flip_y`, then swap
/// the two if `transpose`. The square may reach over the image's edges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Image column of the square's left edge.
    pub x0: i32,
    /// Image row of its top edge.
    pub y0: i32,
    /// Side in pixels.
    pub size: usize,
    /// Mirror columns.
    pub flip_x: bool,
    /// Mirror rows.
    pub flip_y: bool,
    /// Swap columns and rows, after mirroring.
    pub transpose: bool,
}

impl Window {
    /// The square of `size` pixels a side from (`x0`, `y0`) on, in the flip or transpose number `symmetry`, 0 (none) to 7.
    pub fn turned(x0: i32, y0: i32, size: usize, symmetry: u8) -> Self {
        let [flip_x, flip_y, transpose] = [1, 2, 4].map(|bit| symmetry & bit != 0);
        Self { x0, y0, size, flip_x, flip_y, transpose }
    }

    /// The crop pixel that shows the image pixel (`x`, `y`), if it is inside the square.
    pub fn crop_pixel(&self, x: i32, y: i32) -> Option<(u32, u32)> {
        let (u, v) = self.forward(x, y);
        let inside = 0..self.size as i32;
        (inside.contains(&u) && inside.contains(&v)).then_some((u as u32, v as u32))
    }

    /// The image pixel that the crop pixel (`u`, `v`) shows; it may lie outside the image.
    pub fn image_pixel(&self, u: usize, v: usize) -> (i32, i32) {
        let (u, v) = if self.transpose { (v, u) } else { (u, v) };
        let (u, v) = (self.mirrored(u as i32, self.flip_x), self.mirrored(v as i32, self.flip_y));
        (u + self.x0, v + self.y0)
    }

    /// The crop of an image. Outside the image its nearest edge pixel is repeated (a reflection would show targets
    /// a second time, without their points).
    pub fn image(&self, image: &StoredImage) -> GrayImage {
        let (right, bottom) = (image.width as i32 - 1, image.height as i32 - 1);
        let at = |x: i32, y: i32| image.value(x.clamp(0, right) as usize, y.clamp(0, bottom) as usize);
        GrayImage { width: self.size, height: self.size, pixels: self.collect(at) }
    }

    /// The crop of a mask; 0 outside.
    pub fn mask(&self, mask: &Mask) -> Mask {
        let inside = |x: i32, y: i32| (0..mask.width as i32).contains(&x) && (0..mask.height as i32).contains(&y);
        let at = |x: i32, y: i32| if inside(x, y) { mask.pixels[y as usize * mask.width + x as usize] } else { 0 };
        Mask { width: self.size, height: self.size, pixels: self.collect(at) }
    }

    /// The part of a patch inside the square, in crop coordinates; `None` if nothing but zeros is left.
    pub fn patch(&self, patch: &Patch) -> Option<Patch> {
        let (x1, y1) = (patch.x0 + patch.width as i32, patch.y0 + patch.height as i32);
        let end = self.size as i32;
        let (left, right) = (patch.x0.max(self.x0), x1.min(self.x0 + end));
        let (top, bottom) = (patch.y0.max(self.y0), y1.min(self.y0 + end));
        if left >= right || top >= bottom {
            return None;
        }
        let (a, b) = (self.forward(left, top), self.forward(right - 1, bottom - 1));
        let (u0, v0) = (a.0.min(b.0), a.1.min(b.1));
        let (u1, v1) = (a.0.max(b.0), a.1.max(b.1));
        let mut values = Vec::with_capacity(((u1 - u0 + 1) * (v1 - v0 + 1)) as usize);
        for v in v0..=v1 {
            values.extend((u0..=u1).map(|u| {
                let (x, y) = self.image_pixel(u as usize, v as usize);
                patch.value(x, y)
            }));
        }
        let cut = Patch { x0: u0, y0: v0, width: (u1 - u0 + 1) as u32, height: (v1 - v0 + 1) as u32, values };
        (!cut.is_empty()).then_some(cut)
    }

    /// `size`² values in crop order, each taken by image coordinates.
    pub fn collect<T>(&self, mut at: impl FnMut(i32, i32) -> T) -> Vec<T> {
        let mut values = Vec::with_capacity(self.size * self.size);
        for v in 0..self.size {
            for u in 0..self.size {
                let (x, y) = self.image_pixel(u, v);
                values.push(at(x, y));
            }
        }
        values
    }

    fn forward(&self, x: i32, y: i32) -> (i32, i32) {
        let (u, v) = (self.mirrored(x - self.x0, self.flip_x), self.mirrored(y - self.y0, self.flip_y));
        if self.transpose { (v, u) } else { (u, v) }
    }

    fn mirrored(&self, at: i32, flip: bool) -> i32 {
        if flip { self.size as i32 - 1 - at } else { at }
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Samples;
    use super::super::random::stream;
    use super::*;

    /// Image of `width`×`height` whose pixel (x, y) is 10·y + x, of 255.
    fn numbered(width: usize, height: usize) -> StoredImage {
        let samples = (0..width * height).map(|i| (10 * (i / width) + i % width) as u8).collect();
        StoredImage { width, height, samples: Samples::Eight(samples) }
    }

    fn bytes(window: &Window, image: &StoredImage) -> Vec<u8> {
        window.image(image).to_bytes()
    }

    #[test]
    fn flips_and_transpose_are_those_worked_by_hand() {
        // The square at (1, 0) of side 2 holds 01 02 / 11 12.
        let image = numbered(4, 4);
        let base = Window { x0: 1, size: 2, ..Window::default() };
        assert_eq!(bytes(&base, &image), [1, 2, 11, 12]);
        assert_eq!(bytes(&Window { flip_x: true, ..base }, &image), [2, 1, 12, 11]);
        assert_eq!(bytes(&Window { flip_y: true, ..base }, &image), [11, 12, 1, 2]);
        assert_eq!(bytes(&Window { transpose: true, ..base }, &image), [1, 11, 2, 12]);
        // Mirrored columns, then swapped: a quarter turn.
        assert_eq!(bytes(&Window { flip_x: true, transpose: true, ..base }, &image), [2, 12, 1, 11]);
    }

    #[test]
    fn points_masks_and_patches_stay_on_their_pixels_under_all_eight() {
        let image = numbered(6, 6);
        let mut mask = Mask::empty(6, 6);
        mask.pixels[3 * 6 + 2] = 1;
        let patch = Patch { x0: 1, y0: 2, width: 3, height: 2, values: vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6] };
        for symmetry in 0..8u8 {
            let window = Window::turned(1, 1, 4, symmetry);
            let crop = bytes(&window, &image);
            let (u, v) = window.crop_pixel(2, 3).unwrap();
            assert_eq!(crop[v as usize * 4 + u as usize], 32, "{window:?}");
            let cut = window.mask(&mask);
            assert_eq!((cut.area(), cut.pixels[v as usize * 4 + u as usize]), (1, 1));
            let moved = window.patch(&patch).unwrap();
            assert_eq!(moved.values.len(), 6);
            for y in 0..6 {
                for x in 0..6 {
                    if let Some((u, v)) = window.crop_pixel(x, y) {
                        assert_eq!(window.image_pixel(u as usize, v as usize), (x, y));
                        assert_eq!(moved.value(u as i32, v as i32), patch.value(x, y), "{window:?} {x} {y}");
                    }
                }
            }
            assert_eq!(window.crop_pixel(0, 3), None);
            assert_eq!(window.crop_pixel(3, 5), None);
        }
    }

    #[test]
    fn a_patch_is_cut_at_the_crop_and_dropped_outside() {
        let patch = Patch { x0: -1, y0: 0, width: 3, height: 1, values: vec![0.1, 0.2, 0.3] };
        let window = Window { x0: 0, y0: 0, size: 2, ..Window::default() };
        let cut = window.patch(&patch).unwrap();
        assert_eq!(cut, Patch { x0: 0, y0: 0, width: 2, height: 1, values: vec![0.2, 0.3] });
        assert_eq!(Window { x0: 2, ..window }.patch(&patch), None);
        let zeros = Patch { values: vec![0.1, 0.0, 0.0], ..patch };
        assert_eq!(window.patch(&zeros), None);
    }

    #[test]
    fn an_image_smaller_than_the_crop_is_continued_by_its_edge() {
        let image = numbered(2, 2);
        let window = Window { x0: -1, y0: 0, size: 4, ..Window::default() };
        assert_eq!(bytes(&window, &image), [0, 0, 1, 1, 10, 10, 11, 11, 10, 10, 11, 11, 10, 10, 11, 11]);
        let full = Mask { width: 2, height: 2, pixels: vec![1; 4] };
        assert_eq!(window.mask(&full).area(), 4);
    }

    #[test]
    fn crops_shrink_to_the_least_side_only_where_they_are_asked_to() {
        let augment = Augment { crop: 64, ..Augment::default() };
        assert_eq!([9, 40, 64, 70].map(|least| augment.side(least)), [64; 4]);
        let augment = Augment { shrink: true, ..augment };
        assert_eq!([9, 40, 64, 70].map(|least| augment.side(least)), [16, 32, 64, 64]);
    }

    #[test]
    fn crops_stay_inside_the_image_and_reach_every_place() {
        let augment = Augment { crop: 16, target_share: 0.0, ..Augment::default() };
        let mut rng = stream(1, "test", 0, 0);
        let mut starts = std::collections::HashSet::new();
        for _ in 0..400 {
            let window = augment.window(&mut rng, 20, 10, &[], augment.target_share);
            assert!((0..=4).contains(&window.x0) && (-6..=0).contains(&window.y0), "{window:?}");
            starts.insert((window.x0, window.y0));
        }
        assert_eq!(starts.len(), 5 * 7);
    }

    #[test]
    fn a_crop_near_a_target_holds_it() {
        let augment = Augment { crop: 32, target_share: 1.0, jitter: 0.45, ..Augment::default() };
        let points = [Point { x: 0, y: 0 }, Point { x: 99, y: 40 }, Point { x: 50, y: 79 }];
        let mut rng = stream(2, "test", 0, 0);
        let mut held = [0; 3];
        for _ in 0..300 {
            let window = augment.window(&mut rng, 100, 80, &points, augment.target_share);
            for (count, point) in held.iter_mut().zip(points) {
                *count += u32::from(window.crop_pixel(point.x as i32, point.y as i32).is_some());
            }
        }
        assert_eq!(held.iter().sum::<u32>(), 300, "one target each, as they are further apart than a crop");
        assert!(held.iter().all(|&count| count > 60), "{held:?}");
    }

    #[test]
    fn tone_is_contrast_about_the_mean_then_brightness() {
        let mut image = GrayImage { width: 2, height: 1, pixels: vec![0.4, 0.6] };
        let augment = Augment { contrast: 0.2, brightness: 0.08, ..Augment::default() };
        augment.tone(&mut stream(3, "test", 0, 0), &mut image);
        let (gain, offset) =
            ((image.pixels[1] - image.pixels[0]) / 0.2, (image.pixels[0] + image.pixels[1]) / 2.0 - 0.5);
        assert!((0.8..1.2).contains(&gain) && (gain - 1.0).abs() > 1e-3, "{gain}");
        assert!((-0.08..0.08).contains(&offset) && offset.abs() > 1e-4, "{offset}");

        let none = Augment { contrast: 0.0, brightness: 0.0, ..augment };
        let mut same = GrayImage { width: 2, height: 1, pixels: vec![0.25, 0.75] };
        none.tone(&mut stream(3, "test", 0, 0), &mut same);
        assert_eq!(same.pixels, [0.25, 0.75]);
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        Augment::default().validate().unwrap();
        for (augment, key) in [
            (Augment { crop: 100, ..Augment::default() }, "crop"),
            (Augment { crop: 0, ..Augment::default() }, "crop"),
            (Augment { target_share: 1.5, ..Augment::default() }, "target_share"),
            (Augment { noise: f32::NAN, ..Augment::default() }, "noise"),
            (Augment { pasted: 17, ..Augment::default() }, "pasted"),
            (Augment { scales: vec![], ..Augment::default() }, "scales"),
            (Augment { scales: vec![1.0, 0.2], ..Augment::default() }, "scales"),
        ] {
            assert!(augment.validate().unwrap_err().to_string().starts_with(key));
        }
    }
}
