//! An image with its detections drawn in: enlarged so that a target of three pixels can be seen.

use std::path::Path;

use anyhow::Result;
use gsacp_core::detect::Detection;

use crate::data::image::{StoredImage, save_rgb_png};

/// The longer side is enlarged to about this many pixels, by a whole factor of at most [`MOST_ENLARGED`].
const SIDE: usize = 1024;
const MOST_ENLARGED: usize = 8;
/// Image pixels between a detection and the line around it.
const GAP: i64 = 2;
const LINE: [u8; 3] = [255, 64, 32];

/// Writes a PNG, atomically. Grey values are stretched so that the darkest and the brightest 0.1 % saturate.
pub fn save(path: &Path, image: &StoredImage, detections: &[Detection]) -> Result<()> {
    let (width, height) = (image.width, image.height);
    let factor = (SIDE / width.max(height)).clamp(1, MOST_ENLARGED);
    let grey = stretched(image);
    let (wide, high) = (width * factor, height * factor);
    let mut pixels = Vec::with_capacity(3 * wide * high);
    for y in 0..high {
        let row = &grey[y / factor * width..][..width];
        pixels.extend(row.iter().flat_map(|&g| std::iter::repeat_n(g, 3 * factor)));
    }
    for d in detections {
        draw_box(&mut pixels, (wide, high), factor, d);
    }
    save_rgb_png(path, wide, high, pixels)
}

fn draw_box(pixels: &mut [u8], (wide, high): (usize, usize), factor: usize, d: &Detection) {
    let scale = factor as i64;
    let thick = (scale / 3).max(1);
    let (left, top) = ((i64::from(d.left) - GAP) * scale, (i64::from(d.top) - GAP) * scale);
    let (right, bottom) = ((i64::from(d.right) + 1 + GAP) * scale, (i64::from(d.bottom) + 1 + GAP) * scale);
    for y in top.max(0)..bottom.min(high as i64) {
        for x in left.max(0)..right.min(wide as i64) {
            let inside = x >= left + thick && x < right - thick && y >= top + thick && y < bottom - thick;
            if !inside {
                let at = 3 * (y as usize * wide + x as usize);
                pixels[at..at + 3].copy_from_slice(&LINE);
            }
        }
    }
}

fn stretched(image: &StoredImage) -> Vec<u8> {
    let pixels = image.to_gray().pixels;
    let mut sorted = pixels.clone();
    sorted.sort_unstable_by(f32::total_cmp);
    let spare = sorted.len() / 1000;
    let (low, high) = (sorted[spare], sorted[sorted.len() - 1 - spare]);
    let range = (high - low).max(1e-6);
    pixels.iter().map(|v| (((v - low) / range).clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::Samples;

    #[test]
    fn the_box_surrounds_the_target_and_stays_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.png");
        let image =
            StoredImage { width: 64, height: 32, samples: Samples::Eight((0..64 * 32).map(|i| i as u8).collect()) };
        let corner = Detection {
            x: 0.0,
            y: 0.0,
            area: 1,
            left: 0,
            top: 0,
            right: 0,
            bottom: 0,
            first_x: 0,
            peak: 0.0,
            contrast: 0.0,
        };
        save(&path, &image, &[corner, Detection { left: 30, right: 32, top: 10, bottom: 10, ..corner }]).unwrap();
        let drawn = image::open(&path).unwrap().to_rgb8();
        assert_eq!(drawn.dimensions(), (512, 256));
        // Left line of the second box: columns 28·8 and 28·8 + 1, rows 8·8 to 13·8; its inside is grey.
        assert_eq!(drawn.get_pixel(28 * 8, 10 * 8).0, LINE);
        assert_eq!(drawn.get_pixel(33 * 8 + 15, 10 * 8).0, LINE);
        let [r, g, b] = drawn.get_pixel(31 * 8, 10 * 8).0;
        assert!(r == g && g == b);
        assert_eq!(drawn.pixels().filter(|p| p.0 == LINE).count(), 368 + (24 * 24 - 22 * 22));
    }
}
