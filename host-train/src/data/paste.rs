//! Targets of other images, pasted into a crop: what a target adds to its surroundings is taken out of its image together with its
//! prior, and added in another place.
//!
//! ```text
//! s(i) = max(0, I(i) − b) · min(1, 2 g(i))
//! ```
//!
//! g is the target's prior, which is ½ on its outline and fades to 0 around it, b the median of the pixels around it where g is 0. The prior is
//! relative to the target's own contrast, so that it draws the same outline wherever s is added, at any strength. Only places where
//! the target can be seen are taken: a point on what clutter hides would teach false alarms.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::augment::Window;
use super::image::{GrayImage, Mask};
use super::patch::Patch;
use super::synth::{LEAST_SIGNAL, surroundings};
use super::train_set::{Item, Seed};

/// Width of the frame around a prior in which the background's level is taken.
const FRAME: i32 = 3;
/// Least distance between the priors of a pasted target and of any other, in pixels.
const GAP: i32 = 4;
/// Least ratio of a pasted target's peak to the deviation of what surrounds it.
const LEAST_RATIO: f32 = 3.0;
/// Places that are tried for one target.
const TRIES: usize = 10;

/// A target without its surroundings, in a square.
#[derive(Clone, Debug, PartialEq)]
pub struct Cutout {
    /// Side of the square in pixels.
    size: usize,
    /// s, row-major.
    signal: Vec<f32>,
    /// The pixels of its mask, where masks are there.
    mask: Option<Mask>,
    /// Its point and prior in the square.
    seed: Seed,
}

/// What targets are pasted into. All of one square crop.
#[derive(Debug)]
pub struct Canvas<'a> {
    /// Its pixels.
    pub image: &'a mut GrayImage,
    /// Its mask, where masks are there.
    pub mask: Option<&'a mut Mask>,
    /// Its points.
    pub seeds: &'a mut Vec<Seed>,
    /// Priors of points outside it.
    pub cut_off: &'a [Patch],
}

impl Cutout {
    /// The target of the point number `index` of an image, turned by one of the eight symmetries; `None` where there is nothing to
    /// add: without a prior, no brighter than what is around it, or cut off by its image's edge.
    pub fn of(item: &Item, index: usize, symmetry: u8) -> Option<Self> {
        let (point, patch) = (item.points[index], &item.patches[index]);
        let inside =
            |start: i32, count: u32, side: usize| start > 0 && i64::from(start) + i64::from(count) < side as i64;
        if !inside(patch.x0, patch.width, item.image.width) || !inside(patch.y0, patch.height, item.image.height) {
            return None;
        }
        let size = patch.width.max(patch.height) as usize + 2 * FRAME as usize;
        let window = Window::turned(patch.x0 - FRAME, patch.y0 - FRAME, size, symmetry);
        let image = window.image(&item.image);
        let prior = window.patch(patch)?;
        let (x, y) = window.crop_pixel(point.x as i32, point.y as i32)?;
        let g: Vec<f32> = (0..size * size).map(|i| prior.value((i % size) as i32, (i / size) as i32)).collect();
        let mut around: Vec<f32> = image.pixels.iter().zip(&g).filter(|&(_, &g)| g == 0.0).map(|(&v, _)| v).collect();
        let middle = around.len() / 2;
        let level = *around.select_nth_unstable_by(middle, f32::total_cmp).1;
        let signal: Vec<f32> =
            image.pixels.iter().zip(&g).map(|(v, g)| (v - level).max(0.0) * (2.0 * g).min(1.0)).collect();
        let mask = item.mask.as_ref().map(|mask| {
            let mut mask = window.mask(mask);
            mask.pixels.iter_mut().zip(&g).for_each(|(pixel, &g)| *pixel &= u8::from(g > 0.0));
            mask
        });
        let seen = signal.iter().any(|&s| s > 0.0);
        seen.then_some(Self { size, signal, mask, seed: Seed { x, y, patch: prior } })
    }

    /// Adds the target to `canvas` at a random place and from half to all of its strength. Whether a place was found where it stands out,
    /// does not saturate and is apart from every other target.
    pub fn paste(&self, rng: &mut ChaCha8Rng, canvas: &mut Canvas) -> bool {
        let gain = 0.5 + 0.5 * rng.random::<f32>();
        let places: Vec<[f32; 2]> = (0..TRIES).map(|_| [rng.random(), rng.random()]).collect();
        let side = canvas.image.width;
        let Some(slack) = side.checked_sub(self.size) else { return false };
        let peak = gain * self.signal.iter().copied().fold(0.0, f32::max);
        for place in places {
            let [x0, y0] = place.map(|share| ((share * (slack + 1) as f32) as usize).min(slack));
            let seed = self.seed.shifted(x0 as u32, y0 as u32);
            let (level, deviation) = surroundings(&canvas.image.pixels, side, side, (seed.x as f32, seed.y as f32));
            let stands_out = peak >= (LEAST_RATIO * deviation).max(LEAST_SIGNAL) && level + peak <= 1.0;
            let others = canvas.seeds.iter().map(|other| &other.patch).chain(canvas.cut_off);
            if !stands_out || others.into_iter().any(|other| other.is_near(&seed.patch, GAP)) {
                continue;
            }
            for (i, signal) in self.signal.iter().enumerate() {
                let at = (y0 + i / self.size) * side + x0 + i % self.size;
                canvas.image.pixels[at] = (canvas.image.pixels[at] + gain * signal).min(1.0);
                if let (Some(canvas), Some(mask)) = (&mut canvas.mask, &self.mask) {
                    canvas.pixels[at] |= mask.pixels[i];
                }
            }
            canvas.seeds.push(seed);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::{Samples, StoredImage};
    use super::super::points::Point;
    use super::super::random::stream;
    use super::*;

    /// 20×16 at level 51 of 255 with a target of two pixels, 153 and 102, and a skirt pixel of 71 beside it; a second bright pixel is another's.
    fn item() -> Item {
        let mut samples = vec![51u8; 20 * 16];
        for (x, y, value) in [(9, 7, 153), (10, 7, 102), (11, 7, 71), (12, 9, 250)] {
            samples[y * 20 + x] = value;
        }
        let patch = Patch { x0: 8, y0: 7, width: 4, height: 1, values: vec![0.3, 1.0, 0.75, 0.25] };
        let mut mask = Mask::empty(20, 16);
        for (x, y) in [(9, 7), (10, 7), (12, 9)] {
            mask.pixels[y * 20 + x] = 1;
        }
        Item {
            name: "n".into(),
            image: StoredImage { width: 20, height: 16, samples: Samples::Eight(samples) },
            mask: Some(mask),
            points: vec![Point { x: 10, y: 7 }],
            patches: vec![patch],
        }
    }

    #[test]
    fn what_a_target_adds_is_that_worked_by_hand_under_all_eight() {
        for symmetry in 0..8 {
            let cutout = Cutout::of(&item(), 0, symmetry).unwrap();
            let size = cutout.size as i32;
            assert_eq!(size, 10);
            // (153 − 51)/255, (102 − 51)/255, half of (71 − 51)/255 at g = ¼; the other target is not taken along.
            for (g, signal, masked) in [(1.0, 0.4, 1), (0.75, 0.2, 1), (0.25, 10.0 / 255.0, 0), (0.3, 0.0, 0)] {
                let at = (0..size * size).find(|i| cutout.seed.patch.value(i % size, i / size) == g).unwrap() as usize;
                assert!((cutout.signal[at] - signal).abs() < 1e-6, "{symmetry} {g}");
                assert_eq!(cutout.mask.as_ref().unwrap().pixels[at], masked);
            }
            assert!((cutout.signal.iter().sum::<f32>() - 0.6 - 10.0 / 255.0).abs() < 1e-6);
            assert_eq!(cutout.mask.as_ref().unwrap().area(), 2);
            let seed = cutout.seed;
            assert_eq!(seed.patch.value(seed.x as i32, seed.y as i32), 0.75);
        }
    }

    #[test]
    fn a_point_without_a_prior_without_light_or_at_the_edge_gives_nothing() {
        let item = item();
        let shifted = |x, y| Item { patches: vec![item.patches[0].shifted(x, y)], ..item.clone() };
        for (x, y, lifted) in
            [(-7, -6, true), (-8, 0, false), (0, -7, false), (7, 7, true), (8, 0, false), (0, 8, false)]
        {
            let mut moved = shifted(x, y);
            moved.points[0] = Point { x: (10 + x) as u32, y: (7 + y) as u32 };
            moved.image.samples =
                Samples::Eight((0..320).map(|i| if i == (7 + y) * 20 + 10 + x { 153 } else { 51 }).collect());
            assert_eq!(Cutout::of(&moved, 0, 0).is_some(), lifted, "{x} {y}");
        }
        assert_eq!(Cutout::of(&Item { patches: vec![Patch::default()], ..item.clone() }, 0, 0), None);
        let dark = StoredImage { samples: Samples::Eight(vec![51; 320]), ..item.image };
        assert_eq!(Cutout::of(&Item { image: dark, ..item }, 0, 0), None);
    }

    /// Pastes onto a flat crop of a level and a side, with a prior at its left edge: the crop, its points and its mask.
    fn onto(level: f32, side: usize, seed: u64) -> (GrayImage, Vec<Seed>, Mask, bool) {
        let mut image = GrayImage { width: side, height: side, pixels: vec![level; side * side] };
        let (mut mask, mut seeds) = (Mask::empty(side, side), Vec::new());
        let cut_off = [Patch { x0: -2, y0: 0, width: 3, height: side as u32, values: vec![0.1; 3 * side] }];
        let mut canvas = Canvas { image: &mut image, mask: Some(&mut mask), seeds: &mut seeds, cut_off: &cut_off };
        let pasted = Cutout::of(&item(), 0, 0).unwrap().paste(&mut stream(seed, "test", 0, 0), &mut canvas);
        (image, seeds, mask, pasted)
    }

    #[test]
    fn it_is_added_where_its_point_and_prior_say_and_apart_from_others() {
        let mut places = std::collections::HashSet::new();
        for seed in 0..50 {
            let (image, seeds, mask, pasted) = onto(0.3, 32, seed);
            assert!(pasted);
            let [Seed { x, y, ref patch }] = seeds[..] else { panic!("one point") };
            let at = |x: u32| (y * 32 + x) as usize;
            let gain = (image.pixels[at(x - 1)] - 0.3) / 0.4;
            assert!((0.4999..1.0001).contains(&gain), "{gain}");
            assert!((image.pixels[at(x)] - 0.3 - gain * 0.2).abs() < 1e-6);
            assert_eq!((patch.value(x as i32 - 1, y as i32), patch.value(x as i32, y as i32)), (1.0, 0.75));
            assert_eq!(image.pixels.iter().filter(|&&v| v != 0.3).count(), 3);
            assert_eq!((mask.area(), mask.pixels[at(x)]), (2, 1));
            assert!(patch.x0 > GAP, "{patch:?}");
            places.insert((x, y));
        }
        assert!(places.len() > 30);
    }

    #[test]
    fn where_it_saturates_drowns_or_does_not_fit_it_is_left_out() {
        assert!(!onto(0.9, 32, 1).3, "saturates");
        assert!(!onto(0.3, 9, 1).3, "does not fit");
        // Priors stand on columns up to 0, the target's own begins 3 px into its square: the gap leaves no room.
        assert!(!onto(0.3, 11, 1).3, "too near");
        let mut image = GrayImage { width: 32, height: 32, pixels: (0..1024).map(|i| (i % 3) as f32 * 0.2).collect() };
        let before = image.clone();
        let mut seeds = Vec::new();
        let mut canvas = Canvas { image: &mut image, mask: None, seeds: &mut seeds, cut_off: &[] };
        // The deviation of 0, 0.2, 0.4 is 0.163.
        assert!(!Cutout::of(&item(), 0, 0).unwrap().paste(&mut stream(1, "test", 0, 0), &mut canvas));
        assert_eq!((image, seeds.len()), (before, 0));
    }
}
