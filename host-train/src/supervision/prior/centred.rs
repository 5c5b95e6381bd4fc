//! Which outline a centroid belongs to.
//!
//! A point that is its target's centroid says more than where the target is: the target lies evenly around it. Of
//! the outlines that the contrast form draws with other κ and other windows the one is taken for which
//!
//! ```text
//! miss + ½ px · |ln(area / own area)|
//! ```
//!
//! is least: how far its centroid misses the point's pixel, and how much larger or smaller it is than the outline that
//! would be drawn without asking. Where that one is centred already, as more than half are, it stays.
//!
//! On SIRST3's `train_dev`, 2,028 targets, the masks alone, IoU and mean over targets: 0.703 and 0.728 without,
//! 0.720 and 0.747 with it (`val_dev`: 0.722 and 0.734, 0.748 and 0.750), of 0.818 and 0.828 that the best of the
//! outlines would have. Costs for κ and for the window, alone or beside this one, and other shares of it give as
//! much or less (0.715 to 0.730, and 0.743 to 0.748; a script, some thousand settings).

use super::{Pen, PriorConfig, View, region};
use crate::data::patch::Patch;
use crate::data::points::Point;

/// κ' − κ, in steps of 1/40.
const KAPPA_STEPS: std::ops::RangeInclusive<i32> = -12..=8;
/// Windows' half-sides, in pixels, beside the one that was chosen without the centroid.
const WINDOWS: [i32; 8] = [7, 9, 11, 13, 16, 20, 26, 36];
/// What an area e times as large, or as small, is worth in pixels of the centroid.
const AREA_COST: f32 = 0.5;

/// Of the outlines that other windows and κ around `pen`'s draw the one that `centroid` fits best; `own`, which `pen` drew, where it is
/// as good as another.
pub(super) fn refined(own: Patch, pen: Pen, view: View, centroid: Point, config: &PriorConfig) -> Patch {
    let area = own.area() as f32;
    let mut best = (miss(&own, centroid), own);
    for half in std::iter::once(pen.half).chain(WINDOWS) {
        if best.0 == 0.0 {
            break;
        }
        let background = Pen { half, ..pen }.background(view, config);
        for step in KAPPA_STEPS {
            let patch = region(view, &Pen { kappa: pen.kappa + step as f32 / 40.0, ..pen }, &background, config);
            let cost = miss(&patch, centroid) + AREA_COST * (patch.area() as f32 / area).ln().abs();
            if cost < best.0 {
                best = (cost, patch);
            }
        }
    }
    best.1
}

/// How far the centroid of {g > ½} is from the pixel `point`, whose centroids are those of which it is the floor.
fn miss(patch: &Patch, point: Point) -> f32 {
    let [x, y] = patch.centroid();
    beside(x - f64::from(point.x)).hypot(beside(y - f64::from(point.y))) as f32
}

/// How far a coordinate that is `offset` more than a point's is from those of which the point is the floor.
pub(super) fn beside(offset: f64) -> f64 {
    (-offset).max(offset - 1.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_centroid_misses_a_pixel_by_its_distance_to_the_pixels_own_square() {
        // Columns 3, 4 and 5 of row 7: centroid (4, 7). The last value is no part of the mask.
        let patch = Patch { x0: 3, y0: 7, width: 4, height: 1, values: vec![1.0, 0.6, 0.9, 0.5] };
        for (x, y, far) in [(4, 7, 0.0), (3, 7, 0.0), (2, 7, 1.0), (7, 7, 3.0), (7, 11, 5.0), (4, 5, 1.0)] {
            assert_eq!(miss(&patch, Point { x, y }), far, "({x}, {y})");
        }
    }
}
