//! Sensor frames of 8, 14 or 16 bits → network input, for the float and the int8 engine; dead pixels.
//!
//! A frame is row-major bytes, two little-endian bytes per pixel over 8 bits. Its length and range are checked once, in
//! [`Frame::new`]. The network wants sides that are multiples of 16: outputs are padded right and below with what a
//! normalised 0 is (0 for float, the zero point for int8).
use crate::Error;

/// Bits per pixel of a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Depth {
    /// One byte, 0..=255.
    Eight,
    /// Two bytes, 0..=16,383.
    Fourteen,
    /// Two bytes, 0..=65,535.
    Sixteen,
}

impl Depth {
    /// The grey value of full scale.
    pub const fn max(self) -> u16 {
        match self {
            Depth::Eight => 255,
            Depth::Fourteen => 16_383,
            Depth::Sixteen => u16::MAX,
        }
    }

    /// Bytes per pixel.
    pub const fn bytes(self) -> usize {
        match self {
            Depth::Eight => 1,
            Depth::Fourteen | Depth::Sixteen => 2,
        }
    }
}

/// A side of the network's input for a side of the frame: the next multiple of 16.
pub const fn padded(side: usize) -> usize {
    side.next_multiple_of(16)
}

/// A checked frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    width: usize,
    height: usize,
    depth: Depth,
}

impl<'a> Frame<'a> {
    /// Checks the length of `bytes` against the size, and that no 14-bit pixel exceeds its range.
    ///
    /// # Errors
    /// [`Error::WrongLength`] (also for an empty frame), [`Error::PixelOutOfRange`].
    pub fn new(bytes: &'a [u8], width: usize, height: usize, depth: Depth) -> Result<Self, Error> {
        let expected = width.saturating_mul(height).saturating_mul(depth.bytes());
        if expected == 0 || bytes.len() != expected {
            return Err(Error::WrongLength { expected: expected.max(depth.bytes()), found: bytes.len() });
        }
        let frame = Self { bytes, width, height, depth };
        if depth == Depth::Fourteen
            && let Some(index) = (0..width * height).find(|&i| frame.at(i) > depth.max())
        {
            return Err(Error::PixelOutOfRange { index });
        }
        Ok(frame)
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bits per pixel.
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// Grey value of column `x`, row `y`; 0 outside the frame.
    pub fn grey(&self, x: usize, y: usize) -> u16 {
        if x < self.width && y < self.height { self.at(y * self.width + x) } else { 0 }
    }

    fn at(&self, index: usize) -> u16 {
        match self.depth {
            Depth::Eight => self.bytes.get(index).map_or(0, |&b| u16::from(b)),
            Depth::Fourteen | Depth::Sixteen => match self.bytes.get(2 * index..2 * index + 2) {
                Some(&[low, high]) => u16::from_le_bytes([low, high]),
                _ => 0,
            },
        }
    }

    /// Writes the float network's input, `padded(height)` rows of `padded(width)`.
    ///
    /// # Errors
    /// [`Error::WrongLength`] for an output of another size.
    pub fn normalise(&self, normalisation: Normalisation, out: &mut [f32]) -> Result<(), Error> {
        let full_scale = f32::from(self.depth.max());
        self.write(out, 0.0, |grey| normalisation.apply(f32::from(grey) / full_scale))
    }

    /// Writes the int8 network's input, `padded(height)` rows of `padded(width)`.
    ///
    /// # Errors
    /// [`Error::WrongLength`] for an output of another size.
    pub fn quantise(&self, quantiser: &Quantiser, out: &mut [i8]) -> Result<(), Error> {
        self.write(out, quantiser.zero_point, |grey| quantiser.apply(grey))
    }

    fn write<T: Copy>(&self, out: &mut [T], pad: T, value: impl Fn(u16) -> T) -> Result<(), Error> {
        let (width, height) = (padded(self.width), padded(self.height));
        if out.len() != width * height {
            return Err(Error::WrongLength { expected: width * height, found: out.len() });
        }
        out.fill(pad);
        for (y, row) in out.chunks_exact_mut(width.max(1)).take(self.height).enumerate() {
            for (x, place) in row.iter_mut().take(self.width).enumerate() {
                *place = value(self.at(y * self.width + x));
            }
        }
        Ok(())
    }
}

/// The training domain's normalisation of a grey value in [0, 1]: `(grey − mean)/std`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Normalisation {
    /// Mean grey value, as a fraction of full scale.
    pub mean: f32,
    /// Standard deviation, as a fraction of full scale; positive.
    pub std: f32,
}

impl Normalisation {
    /// Normalises one grey value of [0, 1].
    pub fn apply(self, grey: f32) -> f32 {
        (grey - self.mean) / self.std
    }
}

/// Grey value → int8 input in integer arithmetic: `sat8((grey·m + b) >> 32)`, which is
/// `round(((grey/max − mean)/std)/scale) + zero_point`, halves up, with m and b rounded to 2⁻³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiser {
    multiplier: i64,
    offset: i64,
    zero_point: i8,
}

impl Quantiser {
    /// The quantiser of a sensor's depth for an input tensor of `scale` per step around `zero_point`.
    ///
    /// # Errors
    /// [`Error::Normalisation`] where a value is not finite, std or scale is not positive, or a step is too fine or coarse to represent.
    pub fn new(depth: Depth, normalisation: Normalisation, scale: f32, zero_point: i8) -> Result<Self, Error> {
        let (mean, std) = (f64::from(normalisation.mean), f64::from(normalisation.std));
        // Doubles are IEEE on host and sensor (in software there), and this runs once: the same bits on both.
        let per_unit = ONE / (std * f64::from(scale));
        let multiplier = libm::round(per_unit / f64::from(depth.max()));
        let offset = libm::round(ONE * (f64::from(zero_point) + 0.5) - mean * per_unit);
        let sound = std > 0.0 && scale > 0.0 && (1.0..LIMIT).contains(&multiplier) && offset.abs() < LIMIT;
        if !sound {
            return Err(Error::Normalisation);
        }
        Ok(Self { multiplier: multiplier as i64, offset: offset as i64, zero_point })
    }

    /// Quantises one grey value.
    pub fn apply(&self, grey: u16) -> i8 {
        let q = (i64::from(grey) * self.multiplier + self.offset) >> 32;
        q.clamp(i64::from(i8::MIN), i64::from(i8::MAX)) as i8
    }

    /// All 256 values of an 8-bit sensor: `table[grey]`.
    pub fn table(&self) -> [i8; 256] {
        core::array::from_fn(|grey| self.apply(grey as u16))
    }
}

/// 2³², the fixed point of [`Quantiser`].
const ONE: f64 = 4_294_967_296.0;
/// 2⁴⁵: 65,535 times this still fits an i64 with the offset added.
const LIMIT: f64 = 35_184_372_088_832.0;

/// A pixel's place: column, row, 0-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Pixel {
    /// Column.
    pub x: u16,
    /// Row.
    pub y: u16,
}

/// Replaces each dead pixel by the median of its valid neighbours (of up to 8: inside the frame and not dead; the lower of
/// two middle ones). Returns how many have no valid neighbour and stay as they are. `bytes` is a frame as in [`Frame::new`].
///
/// # Errors
/// As [`Frame::new`] for the length; [`Error::DeadPixel`] where the list leaves the frame or is not in raster order without
/// repetition. Nothing is changed then.
pub fn repair(bytes: &mut [u8], width: usize, height: usize, depth: Depth, dead: &[Pixel]) -> Result<usize, Error> {
    let expected = width.saturating_mul(height).saturating_mul(depth.bytes());
    if expected == 0 || bytes.len() != expected {
        return Err(Error::WrongLength { expected: expected.max(depth.bytes()), found: bytes.len() });
    }
    let outside = |p: &Pixel| usize::from(p.x) >= width || usize::from(p.y) >= height;
    let mut last = None;
    for (index, pixel) in dead.iter().enumerate() {
        if outside(pixel) || last >= Some((pixel.y, pixel.x)) {
            return Err(Error::DeadPixel { index });
        }
        last = Some((pixel.y, pixel.x));
    }
    let mut alone = 0;
    for pixel in dead {
        let frame = Frame { bytes, width, height, depth };
        match median_around(&frame, *pixel, dead) {
            Some(median) => {
                let index = usize::from(pixel.y) * width + usize::from(pixel.x);
                let size = depth.bytes();
                for (place, byte) in bytes.iter_mut().skip(index * size).take(size).zip(median.to_le_bytes()) {
                    *place = byte;
                }
            }
            None => alone += 1,
        }
    }
    Ok(alone)
}

fn median_around(frame: &Frame<'_>, pixel: Pixel, dead: &[Pixel]) -> Option<u16> {
    let mut values = [u16::MAX; 8];
    let mut count = 0;
    let around = |centre: u16| [centre.checked_sub(1), Some(centre), centre.checked_add(1)].into_iter().flatten();
    for y in around(pixel.y) {
        for x in around(pixel.x) {
            let inside = usize::from(x) < frame.width && usize::from(y) < frame.height;
            if inside && dead.binary_search_by_key(&(y, x), |p| (p.y, p.x)).is_err() {
                // Insertion into the sorted values; the largest falls out only of a full list, and there are 8 places.
                let mut value = frame.grey(usize::from(x), usize::from(y));
                for place in &mut values {
                    if value < *place {
                        core::mem::swap(place, &mut value);
                    }
                }
                count += 1usize;
            }
        }
    }
    values.get(count.checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NORM: Normalisation = Normalisation { mean: 0.4, std: 0.2 };

    #[test]
    fn a_frame_of_another_length_is_refused() {
        assert_eq!(Frame::new(&[0; 5], 2, 3, Depth::Eight).unwrap_err(), Error::WrongLength { expected: 6, found: 5 });
        assert!(Frame::new(&[0; 6], 2, 3, Depth::Sixteen).is_err());
        assert!(Frame::new(&[], 0, 3, Depth::Eight).is_err());
        assert!(Frame::new(&[0; 12], 2, 3, Depth::Fourteen).is_ok());
        assert!(Frame::new(&[], usize::MAX, usize::MAX, Depth::Sixteen).is_err());
    }

    #[test]
    fn fifteen_bits_are_no_fourteen_bit_pixel() {
        let bytes = [0xff, 0x3f, 0x00, 0x40];
        assert_eq!(Frame::new(&bytes, 2, 1, Depth::Fourteen).unwrap_err(), Error::PixelOutOfRange { index: 1 });
        assert_eq!(Frame::new(&bytes, 2, 1, Depth::Sixteen).unwrap().grey(1, 0), 0x4000);
    }

    #[test]
    fn full_scale_is_one_at_every_depth_and_padding_is_zero() {
        for (depth, bytes) in
            [(Depth::Eight, &[255u8][..]), (Depth::Fourteen, &[0xff, 0x3f]), (Depth::Sixteen, &[0xff, 0xff])]
        {
            let mut out = [9.0; 256];
            Frame::new(bytes, 1, 1, depth).unwrap().normalise(NORM, &mut out).unwrap();
            assert_eq!(out[0], (1.0 - 0.4) / 0.2);
            assert!(out[1..].iter().all(|&v| v == 0.0));
        }
        let frame = Frame::new(&[0; 17], 17, 1, Depth::Eight).unwrap();
        assert_eq!(frame.normalise(NORM, &mut [0.0; 256]), Err(Error::WrongLength { expected: 512, found: 256 }));
    }

    #[test]
    fn an_impossible_normalisation_is_refused() {
        for (std, scale) in [(0.0, 0.1), (-1.0, 0.1), (f32::NAN, 0.1), (0.1, 0.0), (0.1, f32::INFINITY), (1e-30, 1e-9)]
        {
            let n = Normalisation { mean: 0.4, std };
            assert_eq!(Quantiser::new(Depth::Eight, n, scale, 0), Err(Error::Normalisation), "{std} {scale}");
        }
        assert!(Quantiser::new(Depth::Eight, Normalisation { mean: f32::NAN, std: 0.1 }, 0.1, 0).is_err());
    }

    #[test]
    fn a_dead_pixel_takes_the_median_of_its_valid_neighbours() {
        // 3×3, centre dead: neighbours 1..8, lower middle of 8 values is the 4th.
        let mut bytes = [8, 1, 7, 2, 255, 3, 6, 4, 5];
        assert_eq!(repair(&mut bytes, 3, 3, Depth::Eight, &[Pixel { x: 1, y: 1 }]), Ok(0));
        assert_eq!(bytes, [8, 1, 7, 2, 4, 3, 6, 4, 5]);
        // A corner with a dead neighbour: left are (1,0) = 10 and (1,1) = 30 for the corner, lower one 10.
        let mut bytes = [200, 10, 0, 201, 30, 0];
        let dead = [Pixel { x: 0, y: 0 }, Pixel { x: 0, y: 1 }];
        assert_eq!(repair(&mut bytes, 3, 2, Depth::Eight, &dead), Ok(0));
        assert_eq!(bytes, [10, 10, 0, 10, 30, 0]);
        // 16 bits, little-endian, saturated neighbours.
        let mut bytes = [0, 0, 0xff, 0xff];
        assert_eq!(repair(&mut bytes, 2, 1, Depth::Sixteen, &[Pixel { x: 0, y: 0 }]), Ok(0));
        assert_eq!(bytes, [0xff; 4]);
    }

    #[test]
    fn a_dead_pixel_without_valid_neighbours_is_counted() {
        let mut bytes = [1, 2];
        let dead = [Pixel { x: 0, y: 0 }, Pixel { x: 1, y: 0 }];
        assert_eq!(repair(&mut bytes, 2, 1, Depth::Eight, &dead), Ok(2));
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    fn a_dead_pixel_outside_or_out_of_order_is_refused() {
        let p = |x, y| Pixel { x, y };
        for (list, index) in
            [(&[p(2, 0)][..], 0), (&[p(0, 0), p(0, 2)], 1), (&[p(1, 0), p(0, 0)], 1), (&[p(0, 0); 2], 1)]
        {
            assert_eq!(repair(&mut [0; 4], 2, 2, Depth::Eight, list), Err(Error::DeadPixel { index }));
        }
    }

    proptest! {
        /// Against the formula in doubles: equal, but for values within 1e-6 of a half, which either side may take.
        #[test]
        fn the_integer_quantiser_is_the_formula(
            mean in 0.0f32..1.0, std in 0.02f32..0.5, scale in 0.005f32..0.2, zero_point: i8, fraction in 0.0f64..=1.0,
            depth in prop_oneof![Just(Depth::Eight), Just(Depth::Fourteen), Just(Depth::Sixteen)],
        ) {
            let n = Normalisation { mean, std };
            let quantiser = Quantiser::new(depth, n, scale, zero_point).unwrap();
            let grey = (fraction * f64::from(depth.max())) as u16;
            let exact = (f64::from(grey) / f64::from(depth.max()) - f64::from(mean)) / f64::from(std) / f64::from(scale);
            let q = f64::from(quantiser.apply(grey));
            let near_half = (exact - exact.floor() - 0.5).abs() < 1e-5;
            let expected = ((exact + 0.5).floor() + f64::from(zero_point)).clamp(-128.0, 127.0);
            prop_assert!(q == expected || near_half, "{q} {expected}");
        }
    }

    #[test]
    fn quantised_padding_is_the_zero_point() {
        let quantiser = Quantiser::new(Depth::Eight, NORM, 0.05, -7).unwrap();
        let mut out = [0; 256];
        Frame::new(&[102, 0], 2, 1, Depth::Eight).unwrap().quantise(&quantiser, &mut out).unwrap();
        // 102/255 = 0.4, the mean: exactly the zero point. 0 is −2 standard deviations: −40 steps.
        assert_eq!(out[..3], [-7, -47, -7]);
        assert!(out[2..].iter().all(|&q| q == -7));
        assert_eq!(quantiser.table()[102], -7);
    }
}
