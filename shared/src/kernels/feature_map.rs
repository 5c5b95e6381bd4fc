//! Views of feature maps: HWC, pixel p channel c at `data[p·stride + c]`.
//!
//! A view holds all rows of its map or a band of them that follow each other; rows keep the numbers that they have in
//! the whole map. A kernel computes the rows that its output holds.

use crate::Error;
use core::ops::Range;

/// Size and layout of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels of the map.
    pub channels: usize,
    /// Elements from one pixel to the next: more than `channels` where the map is a member of a concatenation.
    pub stride: usize,
}

impl Shape {
    /// A map that has its buffer to itself.
    pub const fn dense(height: usize, width: usize, channels: usize) -> Self {
        Shape { height, width, channels, stride: channels }
    }

    /// Pixels of the map.
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Elements from the first to the last, both included; `None` where the shape is not one.
    pub const fn extent(&self) -> Option<usize> {
        if self.height == 0 || self.width == 0 || self.channels == 0 || self.channels > self.stride {
            return None;
        }
        let Some(pixels) = self.height.checked_mul(self.width) else { return None };
        match (pixels - 1).checked_mul(self.stride) {
            Some(before_last) => before_last.checked_add(self.channels),
            None => None,
        }
    }

    /// As [`Self::extent`], of that many rows; zero rows have none.
    fn extent_of(&self, rows: usize) -> Option<usize> {
        if rows == 0 { Some(0) } else { Shape { height: rows, ..*self }.extent() }
    }

    /// Whether two maps have the same size and channels, whatever their strides.
    pub const fn same_size(&self, other: &Shape) -> bool {
        self.height == other.height && self.width == other.width && self.channels == other.channels
    }

    /// Elements of the `rows`. Errors: the shape is none, has not these rows, or takes more than `len` elements.
    fn check(&self, rows: &Range<usize>, len: usize) -> Result<usize, Error> {
        let count = rows.end.checked_sub(rows.start).filter(|_| rows.end <= self.height).ok_or(Error::Shape)?;
        self.extent().ok_or(Error::Shape)?;
        let extent = self.extent_of(count).ok_or(Error::Shape)?;
        if len < extent {
            return Err(Error::WrongLength { expected: extent, found: len });
        }
        Ok(extent)
    }
}

/// A map to read.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a, T> {
    data: &'a [T],
    shape: Shape,
    first: usize,
    end: usize,
}

impl<'a, T: Copy> Map<'a, T> {
    /// A map whose first pixel's first channel is `data[0]`. Errors: `data` shorter than the shape's extent.
    pub fn new(data: &'a [T], shape: Shape) -> Result<Self, Error> {
        Self::of_rows(data, shape, 0..shape.height)
    }

    /// These rows of a map, the first channel of the first of them at `data[0]`. Errors: as [`Self::new`], and rows that
    /// the shape has not.
    pub fn of_rows(data: &'a [T], shape: Shape, rows: Range<usize>) -> Result<Self, Error> {
        let extent = shape.check(&rows, data.len())?;
        Ok(Map { data: data.get(..extent).unwrap_or(data), shape, first: rows.start, end: rows.end })
    }

    /// Size and layout of the whole map.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The rows that the view holds.
    pub fn rows(&self) -> Range<usize> {
        self.first..self.end
    }

    /// Whether these are all rows of the map.
    pub fn is_whole(&self) -> bool {
        self.rows() == (0..self.shape.height)
    }

    /// Some of the rows that the view holds. Errors: it does not hold them.
    pub fn band(&self, rows: Range<usize>) -> Result<Map<'a, T>, Error> {
        let above = rows.start.checked_sub(self.first).filter(|_| rows.end <= self.end).ok_or(Error::Shape)?;
        let start = above * self.shape.width * self.shape.stride;
        Self::of_rows(self.data.get(start..).unwrap_or_default(), self.shape, rows)
    }

    /// The channels of every pixel that the view holds, row by row.
    pub fn pixels(&self) -> Chunks<'a, T> {
        pixels(self.data, self.shape)
    }

    /// All elements that the view holds, where no gaps lie between the pixels.
    pub fn dense(&self) -> Option<&'a [T]> {
        (self.shape.stride == self.shape.channels).then_some(self.data)
    }

    /// The pixels that the view holds as a map of one row: they are equally far apart across the ends of rows, too.
    pub fn flattened(&self) -> Map<'a, T> {
        Map { data: self.data, shape: flattened(self.shape, self.rows()), first: 0, end: 1 }
    }

    /// The elements from the first channel of the pixel (`y`, `x`) on; none outside the view.
    pub fn from(&self, y: usize, x: usize) -> &'a [T] {
        let Some(above) = y.checked_sub(self.first) else { return &[] };
        let start = (above * self.shape.width + x).saturating_mul(self.shape.stride);
        self.data.get(start..).unwrap_or_default()
    }

    /// Row `y`; `None` outside what the view holds.
    pub fn row(&self, y: usize) -> Option<Row<'a, T>> {
        let len = self.shape.width * self.shape.stride;
        let start = y.checked_sub(self.first)?.checked_mul(len)?;
        let rest = if y < self.end { self.data.get(start..)? } else { return None };
        Some(Row { data: rest.get(..len).unwrap_or(rest), shape: self.shape })
    }
}

/// One row of a map.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a, T> {
    data: &'a [T],
    shape: Shape,
}

impl<'a, T: Copy> Row<'a, T> {
    /// Size and layout of the row's map.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The channels of pixel `x`; `None` outside the row, so that a wrapped negative column is outside.
    #[inline(always)]
    pub fn pixel(&self, x: usize) -> Option<&'a [T]> {
        if x >= self.shape.width {
            return None;
        }
        let start = x * self.shape.stride;
        self.data.get(start..start + self.shape.channels)
    }

    /// The channels of every pixel.
    pub fn pixels(&self) -> Chunks<'a, T> {
        pixels(self.data, self.shape)
    }

    /// The elements from the first channel of pixel `x` to the end of the row; none outside it.
    pub fn from(&self, x: usize) -> &'a [T] {
        x.checked_mul(self.shape.stride).and_then(|start| self.data.get(start..)).unwrap_or_default()
    }

    /// The channels of the `size` pixels of every group of `size` neighbours.
    pub fn groups(&self, size: usize) -> impl Iterator<Item = Chunks<'a, T>> + use<'a, T> {
        let shape = self.shape;
        // Without the gap after a row's last pixel, so that the last group is whole.
        let len = (shape.stride * size).saturating_sub(shape.stride - shape.channels);
        let groups = Chunks { rest: self.data, len, step: (shape.stride * size).max(1) };
        groups.map(move |group| pixels(group, shape))
    }
}

/// The first `len` elements of every `step`. Slices' own chunks divide by the step when they are zipped, and a step that
/// the compiler cannot see to be above zero would leave a reachable panic.
#[derive(Debug, Clone)]
pub struct Chunks<'a, T> {
    rest: &'a [T],
    len: usize,
    step: usize,
}

/// The whole chunks of `len` elements.
pub(crate) fn chunks<T>(slice: &[T], len: usize) -> Chunks<'_, T> {
    Chunks { rest: slice, len, step: len.max(1) }
}

impl<'a, T> Iterator for Chunks<'a, T> {
    type Item = &'a [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a [T]> {
        if self.rest.is_empty() {
            return None;
        }
        let chunk = self.rest.get(..self.len)?;
        // The last chunk may end before the gap that follows it.
        self.rest = self.rest.get(self.step..).unwrap_or_default();
        Some(chunk)
    }
}

/// As [`Chunks`], to write.
#[derive(Debug)]
pub struct ChunksMut<'a, T> {
    rest: &'a mut [T],
    len: usize,
    step: usize,
}

/// The whole chunks of `len` elements.
pub(crate) fn chunks_mut<T>(slice: &mut [T], len: usize) -> ChunksMut<'_, T> {
    ChunksMut { rest: slice, len, step: len.max(1) }
}

impl<'a, T> Iterator for ChunksMut<'a, T> {
    type Item = &'a mut [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a mut [T]> {
        let rest = core::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let step = self.step.min(rest.len());
        let (chunk, rest) = rest.split_at_mut_checked(step)?;
        self.rest = rest;
        chunk.get_mut(..self.len)
    }
}

fn flattened(shape: Shape, rows: Range<usize>) -> Shape {
    Shape { height: 1, width: rows.len() * shape.width, ..shape }
}

fn pixels<T>(data: &[T], shape: Shape) -> Chunks<'_, T> {
    Chunks { rest: data, len: shape.channels, step: shape.stride.max(1) }
}

/// A map to write.
#[derive(Debug)]
pub struct MapMut<'a, T> {
    data: &'a mut [T],
    shape: Shape,
    first: usize,
    end: usize,
}

impl<'a, T: Copy> MapMut<'a, T> {
    /// A map whose first pixel's first channel is `data[0]`. Errors: `data` shorter than the shape's extent.
    pub fn new(data: &'a mut [T], shape: Shape) -> Result<Self, Error> {
        Self::of_rows(data, shape, 0..shape.height)
    }

    /// As [`Map::of_rows`].
    pub fn of_rows(data: &'a mut [T], shape: Shape, rows: Range<usize>) -> Result<Self, Error> {
        let extent = shape.check(&rows, data.len())?;
        Ok(MapMut { data: data.get_mut(..extent).ok_or(Error::Shape)?, shape, first: rows.start, end: rows.end })
    }

    /// Size and layout of the whole map.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The rows that the view holds: those that a kernel computes.
    pub fn rows(&self) -> Range<usize> {
        self.first..self.end
    }

    /// All elements that the view holds, where no gaps lie between the pixels.
    pub fn dense_mut(&mut self) -> Option<&mut [T]> {
        if self.shape.stride == self.shape.channels { Some(self.data) } else { None }
    }

    /// As [`Map::flattened`].
    pub fn flattened(&mut self) -> MapMut<'_, T> {
        MapMut { shape: flattened(self.shape, self.rows()), data: self.data, first: 0, end: 1 }
    }

    /// The same view, to write through for a while.
    pub fn reborrow(&mut self) -> MapMut<'_, T> {
        MapMut { data: self.data, shape: self.shape, first: self.first, end: self.end }
    }

    /// The rows above `row`, and those from it on. Errors: it lies outside what the view holds.
    pub fn split(self, row: usize) -> Result<(MapMut<'a, T>, MapMut<'a, T>), Error> {
        let MapMut { data, shape, first, end } = self;
        let above = row.checked_sub(first).filter(|_| row <= end).ok_or(Error::Shape)?;
        // The last row ends before the gap that would follow its last pixel.
        let start = (above * shape.width * shape.stride).min(data.len());
        let (upper, lower) = data.split_at_mut_checked(start).ok_or(Error::Shape)?;
        Ok((Self::of_rows(upper, shape, first..row)?, Self::of_rows(lower, shape, row..end)?))
    }

    /// The same view, to read.
    pub fn as_map(&self) -> Map<'_, T> {
        Map { data: self.data, shape: self.shape, first: self.first, end: self.end }
    }

    /// The channels of every pixel that the view holds, row by row.
    pub fn pixels_mut(&mut self) -> ChunksMut<'_, T> {
        pixels_mut(self.data, self.shape)
    }

    /// The channels of the pixels from (`y`, `x`) on, through the end of the view; none outside it.
    pub fn pixels_from_mut(&mut self, y: usize, x: usize) -> ChunksMut<'_, T> {
        let shape = self.shape;
        pixels_mut(self.from_mut(y, x), shape)
    }

    /// The elements from the first channel of the pixel (`y`, `x`) on; none outside the view.
    pub fn from_mut(&mut self, y: usize, x: usize) -> &mut [T] {
        let Some(above) = y.checked_sub(self.first) else { return &mut [] };
        let start = (above * self.shape.width + x).saturating_mul(self.shape.stride);
        self.data.get_mut(start..).unwrap_or_default()
    }
}

fn pixels_mut<T>(data: &mut [T], shape: Shape) -> ChunksMut<'_, T> {
    ChunksMut { rest: data, len: shape.channels, step: shape.stride.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_concatenation_shows_its_own_channels_only() {
        // 1×3 pixels of 4 channels; the member is channels 1 and 2.
        let buffer = [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23];
        let shape = Shape { height: 1, width: 3, channels: 2, stride: 4 };
        let map = Map::new(&buffer[1..], shape).unwrap();
        assert!(map.pixels().eq([[1, 2], [11, 12], [21, 22]]));
        let row = map.row(0).unwrap();
        assert_eq!(row.pixel(2), Some(&[21, 22][..]));
        assert_eq!(row.pixel(3), None);
        assert_eq!(row.pixel(usize::MAX), None);
        assert!(map.row(1).is_none());
    }

    #[test]
    fn a_buffer_that_ends_with_the_last_pixels_channels_is_long_enough() {
        let shape = Shape { height: 2, width: 2, channels: 1, stride: 3 };
        assert!(Map::new(&[0u8; 10], shape).is_ok());
        assert_eq!(Map::new(&[0u8; 9], shape).err(), Some(Error::WrongLength { expected: 10, found: 9 }));
    }

    #[test]
    fn a_band_has_the_numbers_of_its_rows_in_the_whole_map() {
        // Five rows of two pixels; the view holds rows 1 to 3.
        let shape = Shape::dense(5, 2, 1);
        let buffer = [10, 11, 20, 21, 30, 31];
        let map = Map::of_rows(&buffer, shape, 1..4).unwrap();
        assert!(map.row(0).is_none() && map.row(4).is_none());
        assert_eq!(map.row(2).unwrap().pixel(1), Some(&[21][..]));
        assert!(map.band(2..4).unwrap().pixels().eq([[20], [21], [30], [31]]));
        assert!(map.band(2..2).unwrap().pixels().next().is_none());
        assert!(map.band(0..2).is_err() && map.band(3..5).is_err());
        assert_eq!(map.flattened().shape(), Shape::dense(1, 6, 1));
        let mut buffer = [0; 6];
        let mut map = MapMut::of_rows(&mut buffer, shape, 1..4).unwrap();
        map.from_mut(3, 1)[0] = 9;
        assert!(map.from_mut(0, 1).is_empty() && map.from_mut(4, 0).is_empty());
        assert_eq!(buffer, [0, 0, 0, 0, 0, 9]);
        assert!(MapMut::of_rows(&mut buffer, shape, 1..4).unwrap().split(0).is_err());
        assert!(MapMut::of_rows(&mut buffer, shape, 1..4).unwrap().split(5).is_err());
        assert_eq!(Map::of_rows(&buffer, shape, 3..6).err(), Some(Error::Shape));
        assert!(matches!(Map::of_rows(&buffer, shape, 0..4).err(), Some(Error::WrongLength { .. })));
    }

    #[test]
    fn both_parts_of_a_split_view_hold_their_own_rows() {
        // Rows 2 to 4 of five; a pixel has a gap of one element, and the buffer ends before the last one.
        let shape = Shape { height: 5, width: 2, channels: 1, stride: 2 };
        for row in 2..=5 {
            let mut buffer = [0; 11];
            let (mut upper, mut lower) = MapMut::of_rows(&mut buffer, shape, 2..5).unwrap().split(row).unwrap();
            assert_eq!((upper.rows(), lower.rows()), (2..row, row..5));
            upper.pixels_mut().for_each(|pixel| pixel[0] = 1);
            lower.pixels_mut().for_each(|pixel| pixel[0] = 2);
            let of = |y: usize| if y < row { 1 } else { 2 };
            assert_eq!(buffer, [of(2), 0, of(2), 0, of(3), 0, of(3), 0, of(4), 0, of(4)]);
        }
    }

    #[test]
    fn a_shape_without_pixels_or_wider_than_its_stride_is_refused() {
        for shape in
            [Shape::dense(0, 4, 1), Shape::dense(4, 4, 0), Shape { height: 1, width: 1, channels: 3, stride: 2 }]
        {
            assert_eq!(Map::new(&[0u8; 64], shape).err(), Some(Error::Shape));
        }
    }
}
