//! A rectangle of values in image coordinates, 0 everywhere else.

/// Values of a rectangle whose top left pixel is (`x0`, `y0`) of an image or crop; the value of every other
/// pixel is 0. The rectangle may reach over the image's edges. `values` is row-major, `width`·`height` long.
///
/// One patch holds the local prior g_k of one point (METHOD §2, eq. 3): computed once on the whole image, then
/// cropped and flipped with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Column of the leftmost value.
    pub x0: i32,
    /// Row of the topmost value.
    pub y0: i32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Row-major values.
    pub values: Vec<f32>,
}

impl Patch {
    /// The value at (`x`, `y`); 0 outside the rectangle.
    pub fn value(&self, x: i32, y: i32) -> f32 {
        let (column, row) = (i64::from(x) - i64::from(self.x0), i64::from(y) - i64::from(self.y0));
        let inside = (0..i64::from(self.width)).contains(&column) && (0..i64::from(self.height)).contains(&row);
        if inside { self.values[row as usize * self.width as usize + column as usize] } else { 0.0 }
    }

    /// The same patch after its image of columns and rows `from` has been resized to `to`: interpolated between the middles of pixels,
    /// 0 outside the image, where it has no value other than 0. The pixel that holds the middle of the first largest value has that value, so that what is
    /// narrower than a new pixel is not lost.
    pub fn resized(&self, from: [usize; 2], to: [usize; 2]) -> Self {
        let axis = |start: i32, count: u32, from: usize, to: usize| {
            let scale = to as f32 / from as f32;
            let first = ((start as f32 - 0.5) * scale).floor().max(0.0) as i32;
            let end = ((start as f32 + count as f32 + 0.5) * scale).ceil().min(to as f32) as i32;
            let source = move |at: i32| {
                let middle = ((at as f32 + 0.5) / scale - 0.5).clamp(0.0, (from - 1) as f32);
                (middle as i32, middle.fract())
            };
            (first, (first..end).map(source).collect::<Vec<_>>())
        };
        let (x0, columns) = axis(self.x0, self.width, from[0], to[0]);
        let (y0, rows) = axis(self.y0, self.height, from[1], to[1]);
        let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
        let mut values = Vec::with_capacity(columns.len() * rows.len());
        for &(y, below) in &rows {
            values.extend(columns.iter().map(|&(x, right)| {
                let along = |y| mix(self.value(x, y), self.value(x + 1, y), right);
                mix(along(y), along(y + 1), below)
            }));
        }
        let peak = (0..self.values.len()).max_by(|&a, &b| self.values[a].total_cmp(&self.values[b]).then(b.cmp(&a)));
        if let Some(peak) = peak {
            let [right, down] = [peak % self.width as usize, peak / self.width as usize];
            let column = moved(i64::from(self.x0) + right as i64, from[0], to[0]) - i64::from(x0);
            let row = moved(i64::from(self.y0) + down as i64, from[1], to[1]) - i64::from(y0);
            if (0..columns.len() as i64).contains(&column) && (0..rows.len() as i64).contains(&row) {
                values[row as usize * columns.len() + column as usize] = self.values[peak];
            }
        }
        Self { x0, y0, width: columns.len() as u32, height: rows.len() as u32, values }
    }

    /// The same values from (`x`, `y`) further on.
    pub fn shifted(&self, x: i32, y: i32) -> Self {
        Self { x0: self.x0 + x, y0: self.y0 + y, ..self.clone() }
    }

    /// Whether fewer than `gap` pixels lie between the two rectangles, along both axes; never where one is empty.
    pub fn is_near(&self, other: &Self, gap: i32) -> bool {
        let near = |a: i32, a_count: u32, b: i32, b_count: u32| {
            a < b + b_count as i32 + gap && b < a + a_count as i32 + gap && a_count > 0 && b_count > 0
        };
        near(self.x0, self.width, other.x0, other.width) && near(self.y0, self.height, other.y0, other.height)
    }

    /// The pixels above ½, in raster order: the mask that a prior draws.
    pub fn mask(&self) -> impl Iterator<Item = (i32, i32)> {
        let at = |i: usize| (self.x0 + (i % self.width as usize) as i32, self.y0 + (i / self.width as usize) as i32);
        self.values.iter().enumerate().filter(|&(_, &g)| g > 0.5).map(move |(i, _)| at(i))
    }

    /// Column and row of the mask's centroid; not a number where there is no mask.
    pub fn centroid(&self) -> [f64; 2] {
        let (mut sum, mut count) = ([0f64; 2], 0.0);
        for (x, y) in self.mask() {
            sum = [sum[0] + f64::from(x), sum[1] + f64::from(y)];
            count += 1.0;
        }
        sum.map(|sum| sum / count)
    }

    /// Number of pixels of the mask.
    pub fn area(&self) -> usize {
        self.mask().count()
    }

    /// Whether no pixel has a value other than 0.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&v| v == 0.0)
    }
}

/// The pixel of `to` in a row that holds the middle of the pixel `at` of `from` in it.
pub(super) fn moved(at: i64, from: usize, to: usize) -> i64 {
    (2 * at + 1) * to as i64 / (2 * from as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_zero_outside_its_rectangle() {
        let patch = Patch { x0: -1, y0: 2, width: 2, height: 1, values: vec![0.25, 0.5] };
        assert_eq!(patch.value(-1, 2), 0.25);
        assert_eq!(patch.value(0, 2), 0.5);
        for (x, y) in [(-2, 2), (1, 2), (0, 1), (0, 3), (i32::MIN, i32::MAX)] {
            assert_eq!(patch.value(x, y), 0.0);
        }
        assert!(!patch.is_empty());
        assert!(Patch::default().is_empty());
    }

    #[test]
    fn rectangles_are_near_where_fewer_pixels_than_the_gap_lie_between_them_along_both_axes() {
        let patch = |x0, y0, width: u32, height: u32| Patch {
            x0,
            y0,
            width,
            height,
            values: vec![1.0; (width * height) as usize],
        };
        let own = patch(4, 4, 2, 3);
        for (other, near) in [
            (patch(5, 5, 1, 1), true),
            (patch(8, 4, 1, 1), true),
            (patch(9, 4, 1, 1), false),
            (patch(4, 9, 1, 1), true),
            (patch(4, 10, 1, 1), false),
            (patch(0, 0, 1, 1), false),
            (patch(-9, -9, 40, 40), true),
            (Patch::default(), false),
        ] {
            assert_eq!((own.is_near(&other, 3), other.is_near(&own, 3)), (near, near), "{other:?}");
        }
        assert_eq!(own.shifted(-5, 2).value(-1, 6), 1.0);
    }

    #[test]
    fn a_patch_grows_with_its_image_by_interpolation_and_ends_at_its_edges() {
        // Columns 1 and 2 of the only row of an image of 4×1, made 8×2: the middle of column u lies at u/2 − ¼ of the old ones.
        let patch = Patch { x0: 1, y0: 0, width: 2, height: 1, values: vec![1.0, 0.5] }.resized([4, 1], [8, 2]);
        let row = |y| (0..8).map(|x| patch.value(x, y)).collect::<Vec<_>>();
        assert_eq!(row(0), [0.0, 0.25, 0.75, 0.875, 0.625, 0.375, 0.125, 0.0]);
        // The pixel that holds the middle of column 1, and of the row, by the rule of points and masks.
        assert_eq!(row(1), [0.0, 0.25, 0.75, 1.0, 0.625, 0.375, 0.125, 0.0]);
        // At the image's edge there is nothing to fade into.
        let corner = Patch { x0: 3, y0: 0, width: 1, height: 1, values: vec![0.5] }.resized([4, 1], [8, 2]);
        assert_eq!(
            (corner.value(7, 0), corner.value(7, 1), corner.value(8, 1), corner.value(6, 0)),
            (0.5, 0.5, 0.0, 0.375)
        );
    }

    #[test]
    fn one_pixel_outlives_an_image_made_smaller_and_nothing_comes_of_nothing() {
        // At 3/8 the pixel (5, 3) is narrower than (2, 1), whose middle is at (6⅙, 3½) of the old ones.
        let small = Patch { x0: 5, y0: 3, width: 1, height: 1, values: vec![0.9] }.resized([8, 8], [3, 3]);
        let values: Vec<f32> = (0..9).map(|i| small.value(i % 3, i / 3)).collect();
        assert_eq!(values, [0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0]);
        for patch in [Patch::default(), Patch { x0: -3, y0: 7, width: 2, height: 2, values: vec![0.0; 4] }] {
            assert!(patch.resized([8, 8], [12, 5]).is_empty());
        }
    }
}
