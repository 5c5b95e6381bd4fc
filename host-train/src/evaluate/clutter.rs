//! Places to train on more often. Where a detector is wrong, as far as points can tell: it fires and no point is near
//! (clutter), or it does not fire at a point (missed). And targets that are large, which few images have.

use anyhow::{Context, Result};
use gsacp_core::detect::Detection;

use super::{Buffers, Detector};
use crate::data::points::{Labels, Point};
use crate::data::progress::in_order;
use crate::data::train_set::{Item, TrainSet};

/// What is looked for; thresholds in steps of 1/256.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Logit above which a detection far from every point is clutter.
    pub clutter: i16,
    /// Pixels around a detection's box in which no point may lie.
    pub away: u32,
    /// Logit up to which a point is missed; None: missed points are not looked for.
    pub missed: Option<i16>,
    /// Pixels that a point's prior covers at least where its target is large; None: large targets are not looked for.
    pub large: Option<usize>,
}

/// How far from a point, in pixels along an axis, the detector may fire for it: targets are wider than a pixel, and a
/// coarse point is not their brightest one.
const REACH: u32 = 2;

/// The centroids of the detections in the images of `set` that are clutter by `search`, and the points that are missed or
/// of large targets; images without any are left out.
pub fn mine(detector: &Detector, set: &TrainSet, search: &Search) -> Result<Labels> {
    let one = |buffers: &mut Buffers, item: &Item| -> Result<(String, Vec<Point>)> {
        let mut places = || -> Result<Vec<Point>> {
            let map = detector.logits(&item.image)?;
            let found = map.detect(search.clutter, &item.image, buffers)?;
            let mut places = far(&found.list, &item.points, search.away);
            if let Some(threshold) = search.missed {
                let (width, height) = (map.width, map.height);
                places.extend(missed(&map.into_steps(), width, height, threshold, &item.points));
            }
            if let Some(least) = search.large {
                let labels = item.points.iter().zip(&item.patches);
                places.extend(labels.filter(|(_, prior)| prior.area() >= least).map(|(point, _)| *point));
            }
            places.sort_unstable();
            // A point can be both, and two blobs, one around the other, can have their centroids in one pixel.
            places.dedup();
            Ok(places)
        };
        let places = places().with_context(|| format!("cannot run on {}", item.name))?;
        Ok((item.name.clone(), places))
    };
    let all = in_order("mining", &set.items, Buffers::default, one)?;
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
    clutter.map(|d| Point { x: d.x as u32, y: d.y as u32 }).collect()
}

/// The points with no logit above `threshold` within [`REACH`].
fn missed(logits: &[i16], width: usize, height: usize, threshold: i16, points: &[Point]) -> Vec<Point> {
    let span =
        |at: u32, side: usize| at.saturating_sub(REACH) as usize..(at.saturating_add(REACH) as usize + 1).min(side);
    let fires = |p: &Point| span(p.y, height).any(|y| span(p.x, width).any(|x| logits[y * width + x] > threshold));
    points.iter().filter(|p| !fires(p)).copied().collect()
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
        assert_eq!(places(3), [(50, 60), (30, 10), (50, 60)]);
        assert_eq!(places(4), [(50, 60), (50, 60)]);
        assert_eq!(places(2), [(50, 60), (10, 10), (30, 10), (50, 60)]);
    }

    #[test]
    fn a_point_without_a_logit_above_the_threshold_two_pixels_around_is_missed() {
        // 8 × 4 with one pixel of 5 at (6, 1).
        let mut logits = [0i16; 32];
        logits[8 + 6] = 5;
        let points = [(7, 3), (4, 0), (3, 1), (6, 1)].map(|(x, y)| Point { x, y });
        let places = |t| missed(&logits, 8, 4, t, &points).into_iter().map(|p| (p.x, p.y)).collect::<Vec<_>>();
        assert_eq!(places(4), [(3, 1)]);
        assert_eq!(places(5), [(7, 3), (4, 0), (3, 1), (6, 1)]);
        assert_eq!(places(-1), []);
    }
}
