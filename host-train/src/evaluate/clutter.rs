//! Clutter: where a detector fires and no point is near.

use anyhow::{Context, Result};
use gsacp_core::detect::Detection;
use rayon::prelude::*;

use super::{Buffers, Detector};
use crate::data::points::{Labels, Point};
use crate::data::progress::Progress;
use crate::data::train_set::{Item, TrainSet};

/// The centroids of the detections in the images of `set` above `threshold` (in steps of 1/256) whose boxes, widened by
/// `away` pixels, hold no point; images without any are left out.
pub fn mine(detector: &Detector, set: &TrainSet, threshold: i16, away: u32) -> Result<Labels> {
    let progress = Progress::new("mining", set.items.len());
    let one = |buffers: &mut Buffers, item: &Item| -> Result<(String, Vec<Point>)> {
        let found = detector.logits(&item.image).and_then(|map| map.detect(threshold, &item.image, buffers));
        let found = found.with_context(|| format!("cannot run on {}", item.name))?;
        progress.step();
        Ok((item.name.clone(), far(&found.list, &item.points, away)))
    };
    let all = set.items.par_iter().map_init(Buffers::default, one).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|(_, places)| !places.is_empty()).collect())
}

fn far(found: &[Detection], points: &[Point], away: u32) -> Vec<Point> {
    let near = |d: &Detection, p: &Point| {
        let within = |at: u32, low: u16, high: u16| {
            (u32::from(low).saturating_sub(away)..=u32::from(high).saturating_add(away)).contains(&at)
        };
        within(p.x, d.left, d.right) && within(p.y, d.top, d.bottom)
    };
    let clutter = found.iter().filter(|d| !points.iter().any(|p| near(d, p)));
    let mut places: Vec<Point> = clutter.map(|d| Point { x: d.x as u32, y: d.y as u32 }).collect();
    places.sort_unstable();
    // Two blobs, one around the other, can have their centroids in one pixel.
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_point_near_its_box_is_clutter() {
        let at = |x: f32, y: f32, [left, top, right, bottom]: [u16; 4]| Detection {
            x,
            y,
            left,
            top,
            right,
            bottom,
            area: 1,
            first_x: left,
            peak: 0.0,
            contrast: 0.0,
        };
        let found = [
            at(50.5, 60.9, [50, 60, 51, 61]),
            at(10.2, 10.0, [9, 9, 12, 11]),
            at(30.0, 10.0, [30, 10, 30, 10]),
            at(50.1, 60.0, [40, 50, 60, 70]),
        ];
        // The first point is 3 px right of the second detection's box, the other 4 px left of the third's.
        let points = [Point { x: 15, y: 10 }, Point { x: 26, y: 10 }];
        let places = |away| far(&found, &points, away).into_iter().map(|p| (p.x, p.y)).collect::<Vec<_>>();
        assert_eq!(places(3), [(30, 10), (50, 60)]);
        assert_eq!(places(4), [(50, 60)]);
        assert_eq!(places(2), [(10, 10), (30, 10), (50, 60)]);
    }
}
