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

    /// Whether no pixel has a value other than 0.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&v| v == 0.0)
    }
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
}
