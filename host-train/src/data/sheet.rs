//! Contact sheets: many images on one page, targets in boxes.

use super::image::{GrayImage, Mask};
use super::targets;

/// Colour of the boxes.
const BOX: [u8; 3] = [255, 64, 32];
/// Pixels of the sheet between a target and its box, and between two images.
const MARGIN: usize = 4;

/// RGB pixels of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major RGB bytes.
    pub pixels: Vec<u8>,
    columns: usize,
    cell: usize,
}

impl Sheet {
    /// A black page for `count` images, `columns` in a row, each in a square of `cell` pixels.
    pub fn new(count: usize, columns: usize, cell: usize) -> Self {
        let columns = columns.clamp(1, count.max(1));
        let side = |cells: usize| cells * (cell + MARGIN) - MARGIN;
        let (width, height) = (side(columns), side(count.div_ceil(columns).max(1)));
        Self { width, height, pixels: vec![0; width * height * 3], columns, cell }
    }

    /// Draws image `index`, scaled to fit its square, with a box around every target of `mask`.
    pub fn draw(&mut self, index: usize, image: &GrayImage, mask: Option<&Mask>) {
        let scale = self.cell as f64 / image.width.max(image.height) as f64;
        let scaled = |side: usize| ((side as f64 * scale).round() as usize).clamp(1, self.cell);
        let (width, height) = (scaled(image.width), scaled(image.height));
        let left = index % self.columns * (self.cell + MARGIN);
        let top = index / self.columns * (self.cell + MARGIN);
        // The source pixels of each pixel of the sheet: at least one, their mean where there are several.
        let span = |at: usize, to: usize, from: usize| at * from / to..((at + 1) * from / to).max(at * from / to + 1);
        for y in 0..height {
            for x in 0..width {
                let (mut sum, mut count) = (0.0, 0.0f32);
                for sy in span(y, height, image.height) {
                    for sx in span(x, width, image.width) {
                        sum += image.value(sx, sy);
                        count += 1.0;
                    }
                }
                let value = (sum / count * 255.0).round().clamp(0.0, 255.0) as u8;
                self.set(left + x, top + y, [value; 3]);
            }
        }
        for target in mask.map(targets::of).unwrap_or_default() {
            let low = |at: u32| ((f64::from(at) * scale) as usize).saturating_sub(MARGIN);
            let high = |at: u32, most: usize| ((f64::from(at + 1) * scale).ceil() as usize + MARGIN).min(most) - 1;
            let (x0, y0) = (low(target.left), low(target.top));
            let (x1, y1) = (high(target.right, width), high(target.bottom, height));
            for x in x0..=x1 {
                self.set(left + x, top + y0, BOX);
                self.set(left + x, top + y1, BOX);
            }
            for y in y0..=y1 {
                self.set(left + x0, top + y, BOX);
                self.set(left + x1, top + y, BOX);
            }
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_scaled_into_their_squares_and_targets_boxed() {
        let mut sheet = Sheet::new(3, 2, 40);
        assert_eq!((sheet.width, sheet.height), (84, 84));
        let image = GrayImage { width: 20, height: 10, pixels: vec![0.5; 200] };
        let mut mask = Mask::empty(20, 10);
        mask.pixels[5 * 20 + 10] = 1;
        sheet.draw(1, &image, Some(&mask));
        let at = |x: usize, y: usize| sheet.pixels[(y * 84 + x) * 3..][..3].to_vec();
        // Twice as large, in the second square, which begins at 44: the target covers 64..66, 10..12.
        assert_eq!((at(44, 0), at(83, 19)), (vec![128; 3], vec![128; 3]));
        assert_eq!((at(43, 0), at(44, 20)), (vec![0; 3], vec![0; 3]));
        assert_eq!(at(60, 6), BOX);
        assert_eq!(at(69, 15), BOX);
        assert_eq!(at(65, 11), vec![128; 3]);
    }
}
