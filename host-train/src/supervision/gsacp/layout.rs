//! What the seeds and priors of a batch say about its pixels, on the host.
//!
//! Pixels are counted through the batch: image·H·W + row·W + column, as in flattened logits `[N, 1, H, W]`.

use crate::data::patch::Patch;
use crate::data::train_set::Seed;

/// One pixel under a seed's prior.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Support {
    /// The pixel.
    pub pixel: u32,
    /// g_k there, above 0.
    pub g: f32,
}

/// One seed that takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct Anchor {
    /// Its image.
    pub image: usize,
    /// Its place among the seeds of its image.
    pub slot: usize,
    /// Its pixel.
    pub pixel: u32,
    /// The pixels where its prior is above 0, in order; empty when the prior lies outside the crop.
    pub support: Vec<Support>,
}

/// The seeds of a batch and which pixels are background.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Images.
    pub images: usize,
    /// Pixels of one image.
    pub pixels: usize,
    /// Columns of one image.
    pub width: usize,
    /// Most seeds of one image.
    pub slots: usize,
    /// The seeds, by image, then as given.
    pub anchors: Vec<Anchor>,
    /// For every pixel of the batch, whether no prior reaches the floor there and no seed stands on it.
    pub background: Vec<bool>,
    /// Pixels where the prior of an anchor reaches the floor, in order.
    pub near: Vec<u32>,
}

impl Layout {
    /// Of crops of `width`×`height`. Only the first `most` seeds of a crop become anchors; the others, and the priors
    /// in `cut_off` (whose points lie outside their crop), are neither background nor target.
    pub fn new(
        (width, height): (usize, usize),
        seeds: &[Vec<Seed>],
        cut_off: &[Vec<Patch>],
        floor: f32,
        most: usize,
    ) -> Self {
        let pixels = width * height;
        let mut layout = Self {
            images: seeds.len(),
            pixels,
            width,
            slots: seeds.iter().map(|seeds| seeds.len().min(most)).max().unwrap_or(0),
            anchors: Vec::new(),
            background: vec![true; pixels * seeds.len()],
            near: Vec::new(),
        };
        let mut near = vec![false; layout.background.len()];
        for (image, seeds) in seeds.iter().enumerate() {
            for (slot, seed) in seeds.iter().enumerate() {
                let support = support(&seed.patch, image, width, height);
                let pixel = (image * pixels + seed.y as usize * width + seed.x as usize) as u32;
                layout.background[pixel as usize] = false;
                for at in support.iter().filter(|at| at.g >= floor) {
                    layout.background[at.pixel as usize] = false;
                    near[at.pixel as usize] |= slot < most;
                }
                if slot < most {
                    layout.anchors.push(Anchor { image, slot, pixel, support });
                }
            }
            for patch in cut_off.get(image).into_iter().flatten() {
                for at in support(patch, image, width, height).iter().filter(|at| at.g >= floor) {
                    layout.background[at.pixel as usize] = false;
                }
            }
        }
        layout.near = (0..near.len() as u32).filter(|&pixel| near[pixel as usize]).collect();
        layout
    }

    /// The longest support; 0 without anchors.
    pub fn reach(&self) -> usize {
        self.anchors.iter().map(|anchor| anchor.support.len()).max().unwrap_or(0)
    }

    /// ‖i − p‖² between a pixel of the anchor's image and its seed.
    pub fn distance_squared(&self, anchor: &Anchor, pixel: u32) -> f64 {
        let place = |pixel: u32| {
            let within = pixel as usize - anchor.image * self.pixels;
            ((within % self.width) as f64, (within / self.width) as f64)
        };
        let ((x, y), (sx, sy)) = (place(pixel), place(anchor.pixel));
        (x - sx).powi(2) + (y - sy).powi(2)
    }

    /// Flat index of (anchor, pixel) in a map `[N, slots, H·W]`.
    pub fn index(&self, anchor: &Anchor, pixel: u32) -> u32 {
        let within = pixel as usize - anchor.image * self.pixels;
        ((anchor.image * self.slots + anchor.slot) * self.pixels + within) as u32
    }
}

/// The pixels of a patch that lie on the crop and are above 0.
fn support(patch: &Patch, image: usize, width: usize, height: usize) -> Vec<Support> {
    let rows = patch.y0.max(0)..(patch.y0 + patch.height as i32).min(height as i32);
    let columns = patch.x0.max(0)..(patch.x0 + patch.width as i32).min(width as i32);
    rows.flat_map(|y| columns.clone().map(move |x| (x, y)))
        .map(|(x, y)| Support {
            pixel: (image * width * height + y as usize * width + x as usize) as u32,
            g: patch.value(x, y),
        })
        .filter(|at| at.g > 0.0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(x: u32, y: u32, patch: Patch) -> Seed {
        Seed { x, y, patch }
    }

    fn patch(x0: i32, y0: i32, width: u32, values: &[f32]) -> Patch {
        Patch { x0, y0, width, height: values.len() as u32 / width, values: values.to_vec() }
    }

    #[test]
    fn pixels_are_counted_through_the_batch_and_cut_at_the_crop() {
        let seeds = vec![vec![], vec![seed(2, 0, patch(1, -1, 2, &[0.9, 0.9, 0.02, 1.0]))]];
        let layout = Layout::new((3, 2), &seeds, &[], 0.05, 4);
        assert_eq!((layout.images, layout.pixels, layout.slots), (2, 6, 1));
        let anchor = &layout.anchors[0];
        assert_eq!((anchor.image, anchor.slot, anchor.pixel), (1, 0, 8));
        assert_eq!(anchor.support, [Support { pixel: 7, g: 0.02 }, Support { pixel: 8, g: 1.0 }]);
        // Below the floor is background; the seed is not.
        assert_eq!(layout.near, [8]);
        assert!((0..12).all(|pixel| layout.background[pixel] == (pixel != 8)));
        assert_eq!(layout.index(anchor, 8), 8);
        // The seed is column 2 of row 0 in image 1, pixel 10 column 1 of row 1.
        assert_eq!([layout.distance_squared(anchor, 8), layout.distance_squared(anchor, 10)], [0.0, 2.0]);
    }

    #[test]
    fn what_takes_no_part_is_neither_background_nor_target() {
        let seeds = vec![vec![seed(0, 0, patch(0, 0, 1, &[1.0])), seed(3, 0, patch(3, 0, 1, &[1.0]))]];
        let cut_off = vec![vec![patch(2, 1, 3, &[0.5, 0.04, 0.9])]];
        let layout = Layout::new((4, 2), &seeds, &cut_off, 0.05, 1);
        assert_eq!((layout.anchors.len(), layout.slots), (1, 1));
        assert_eq!(layout.near, [0]);
        assert_eq!(layout.background, [false, true, true, false, true, true, false, true]);
    }

    #[test]
    fn a_seed_without_a_prior_in_the_crop_still_is_no_background() {
        let layout = Layout::new((2, 2), &[vec![seed(1, 1, Patch::default())]], &[vec![]], 0.05, 4);
        assert_eq!(layout.background, [true, true, true, false]);
        assert!(layout.anchors[0].support.is_empty() && layout.near.is_empty());
    }
}
