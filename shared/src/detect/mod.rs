//! Logit map → detections: threshold, 8-connected components, one record per component.
//!
//! A pixel is set where its logit is strictly greater than the threshold (a NaN never is). Detections are listed in raster
//! order of their first pixel. Every sum is an integer and becomes a float by one conversion and one division, so host and
//! sensor give the same bits for the same logits.
use crate::{Error, frame::Frame};

mod components;
pub use components::{Component, Labeller, Run, Slot, Workspace, runs};

/// A value of a logit map: f32 from candle and the float engine, i16 in steps of 1/256 from the int8 engine.
pub trait Logit: Copy + PartialOrd {
    /// The logit as a float; exact for both kinds, and monotone.
    fn to_f32(self) -> f32;

    /// The value to compare with for a threshold of `steps`/256; exact for both kinds.
    fn from_steps(steps: i16) -> Self;
}

impl Logit for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn from_steps(steps: i16) -> Self {
        f32::from(steps) / 256.0
    }
}

impl Logit for i16 {
    fn to_f32(self) -> f32 {
        f32::from(self) / 256.0
    }

    fn from_steps(steps: i16) -> Self {
        steps
    }
}

/// A map in row-major order, `width`×`height` pixels of rows `stride` apart: a padded map is read without its padding.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    pixels: &'a [T],
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a, T> View<'a, T> {
    /// Largest number of pixels in a map (2³⁰): keeps the exact sums of detection and matching inside their integers.
    pub const MAX_PIXELS: usize = 1 << 30;

    /// A map without padding.
    ///
    /// # Errors
    /// [`Error::WrongLength`] where the slice is not `width·height` long, [`Error::Capacity`] over [`Self::MAX_PIXELS`].
    pub fn new(pixels: &'a [T], width: usize, height: usize) -> Result<Self, Error> {
        let expected = width.saturating_mul(height);
        if pixels.len() != expected {
            return Err(Error::WrongLength { expected, found: pixels.len() });
        }
        Self::cropped(pixels, width, width, height)
    }

    /// The upper left `width`×`height` of a map whose rows are `stride` long; what lies beyond is not read.
    ///
    /// # Errors
    /// [`Error::WrongLength`] where rows are shorter than `width` or the slice holds fewer rows; [`Error::Capacity`] over
    /// [`Self::MAX_PIXELS`].
    pub fn cropped(pixels: &'a [T], stride: usize, width: usize, height: usize) -> Result<Self, Error> {
        let expected = stride.saturating_mul(height);
        if expected > Self::MAX_PIXELS {
            return Err(Error::Capacity { needed: expected, available: Self::MAX_PIXELS });
        }
        if stride < width || pixels.len() < expected {
            return Err(Error::WrongLength { expected, found: pixels.len() });
        }
        Ok(Self { pixels, stride, width, height })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Row `y`; empty where there is none.
    pub fn row(&self, y: usize) -> &'a [T] {
        let start = y.saturating_mul(self.stride);
        if y >= self.height {
            return &[];
        }
        self.pixels.get(start..start + self.width).unwrap_or(&[])
    }
}

/// One detected target. The same bits on host and sensor.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Detection {
    /// Column of the centroid (0-based pixel centres).
    pub x: f32,
    /// Row of the centroid.
    pub y: f32,
    /// Pixels.
    pub area: u32,
    /// Leftmost column of the box.
    pub left: u16,
    /// First row of the box.
    pub top: u16,
    /// Rightmost column of the box, inclusive.
    pub right: u16,
    /// Last row of the box, inclusive.
    pub bottom: u16,
    /// Column of the first pixel in raster order (its row is `top`): the key by which detections are listed.
    pub first_x: u16,
    /// Highest logit.
    pub peak: f32,
    /// Brightest pixel of the box minus the mean of the ring [`RING`] px wide around it, as a fraction of full scale:
    /// in [−1, 1]; 0 where the box leaves no ring.
    pub contrast: f32,
}

/// Width in px of the ring of background around a box that contrast is measured against.
pub const RING: usize = 4;

/// The detections of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Detections<const N: usize> {
    /// In raster order of the first pixel.
    pub list: heapless::Vec<Detection, N>,
    /// Components that found no place: a full list keeps the highest peaks (of equal ones the earlier in raster order).
    pub dropped: u32,
}

/// Finds the components of `map` over `threshold` and measures them on `frame`, the image the map was computed from.
///
/// # Errors
/// [`Error::WrongLength`] where the frame's size is not the map's or a side is over 65,535, [`Error::Capacity`] where the
/// workspace is too small for the width.
pub fn find<L: Logit, const N: usize>(
    map: &View<'_, L>,
    threshold: L,
    frame: &Frame<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<Detections<N>, Error> {
    let mut found = Detections::EMPTY;
    find_into(map, threshold, frame, workspace, &mut found)?;
    Ok(found)
}

/// As [`find`], into a list that the caller holds; what was in it is gone, also where an error is returned.
pub fn find_into<L: Logit, const N: usize>(
    map: &View<'_, L>,
    threshold: L,
    frame: &Frame<'_>,
    workspace: &mut Workspace<'_>,
    found: &mut Detections<N>,
) -> Result<(), Error> {
    found.list.clear();
    found.dropped = 0;
    for (expected, found) in [(map.width, frame.width()), (map.height, frame.height())] {
        if expected != found || expected > usize::from(u16::MAX) {
            return Err(Error::WrongLength { expected, found });
        }
    }
    components(map, threshold, workspace, |component| found.insert(component))?;
    for detection in &mut found.list {
        detection.contrast = contrast(frame, detection);
    }
    Ok(())
}

/// Hands every component of `map` over `threshold` to `closed`, in the order in which they end (not raster order).
///
/// # Errors
/// [`Error::Capacity`] where the workspace is too small for the width.
pub fn components<L: Logit>(
    map: &View<'_, L>,
    threshold: L,
    workspace: &mut Workspace<'_>,
    mut closed: impl FnMut(&Component),
) -> Result<(), Error> {
    let mut labeller = Labeller::new(map.width, workspace)?;
    for y in 0..map.height {
        let row = map.row(y);
        for (start, end) in runs(row, |v| v > threshold) {
            labeller.run(start as u32, end as u32, peak(row.get(start..end).unwrap_or(&[])), 0);
        }
        labeller.end_row(&mut closed);
    }
    labeller.finish(closed)
}

/// The largest logit of a run.
fn peak<L: Logit>(run: &[L]) -> f32 {
    run.iter().fold(f32::NEG_INFINITY, |peak, v| if v.to_f32() > peak { v.to_f32() } else { peak })
}

impl<const N: usize> Detections<N> {
    /// None.
    pub const EMPTY: Self = Detections { list: heapless::Vec::new(), dropped: 0 };

    fn insert(&mut self, component: &Component) {
        let detection = Detection {
            x: component.sum_x as f32 / component.area as f32,
            y: component.sum_y as f32 / component.area as f32,
            area: component.area,
            left: component.left as u16,
            top: component.top as u16,
            right: component.right as u16,
            bottom: component.bottom as u16,
            first_x: component.first_x as u16,
            peak: component.peak,
            contrast: 0.0,
        };
        if self.list.is_full() {
            self.dropped += 1;
            let weakest = self.list.iter().enumerate().reduce(|a, b| if stronger(a.1, b.1) { b } else { a });
            let Some((index, weakest)) = weakest else { return };
            if stronger(weakest, &detection) {
                return;
            }
            // Close the gap from the right, so that the order of the others stays.
            for gap in index.. {
                let Some([removed, next]) = self.list.get_mut(gap..gap.saturating_add(2)) else { break };
                core::mem::swap(removed, next);
            }
            self.list.pop();
        }
        if self.list.push(detection).is_err() {
            return;
        }
        // Components arrive nearly in order: move the new one forward past those that begin after it.
        let mut place = self.list.len() - 1;
        while let Some([before, new]) = place.checked_sub(1).and_then(|i| self.list.get_mut(i..=place)) {
            if (before.top, before.first_x) <= (new.top, new.first_x) {
                break;
            }
            core::mem::swap(before, new);
            place -= 1;
        }
    }
}

/// Whether `a` is kept before `b` when the list is full: a total order, so the order of arrival does not matter.
fn stronger(a: &Detection, b: &Detection) -> bool {
    a.peak > b.peak || (a.peak == b.peak && (a.top, a.first_x) < (b.top, b.first_x))
}

fn contrast(frame: &Frame<'_>, detection: &Detection) -> f32 {
    let (left, right) = (usize::from(detection.left), usize::from(detection.right));
    let (top, bottom) = (usize::from(detection.top), usize::from(detection.bottom));
    let (mut peak, mut sum, mut count) = (0u16, 0u64, 0u64);
    for y in top.saturating_sub(RING)..(bottom + RING + 1).min(frame.height()) {
        for x in left.saturating_sub(RING)..(right + RING + 1).min(frame.width()) {
            let grey = frame.grey(x, y);
            if (left..=right).contains(&x) && (top..=bottom).contains(&y) {
                peak = peak.max(grey);
            } else {
                sum += u64::from(grey);
                count += 1;
            }
        }
    }
    if count == 0 {
        return 0.0;
    }
    let difference = i64::from(peak) * count as i64 - sum as i64;
    difference as f32 / (count * u64::from(frame.depth().max())) as f32
}

#[cfg(test)]
mod tests;
