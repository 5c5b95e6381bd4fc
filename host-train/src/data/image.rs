//! Grey images and masks from files of any common kind, and back to PNG.
//!
//! Read: PNG, JPEG, BMP, TIFF and PGM/PPM, told by their content, not their name; 1 to 16 bits a sample, palettes,
//! colour and alpha. Colour becomes grey by ITU-R 601 with the integer weights 19595, 38470, 7471 of 65536
//! (rounded; three equal channels keep their value exactly); alpha is ignored. 8-bit values are divided by 255,
//! 16-bit ones by 65535. Images are [`MIN_SIDE`] to [`MAX_SIDE`] pixels a side, checked before decoding.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, Primitive};

use super::files::write_atomic;
use super::patch::moved;

/// The largest width and height that is read.
pub const MAX_SIDE: usize = 8192;
/// The smallest width and height that is read: below it there is no background to see a target against.
pub const MIN_SIDE: usize = 8;
/// File name endings by which images are found in a folder (in any case); the content decides how they are read.
pub const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "pgm", "ppm", "pnm"];

/// Grey samples at the file's own depth.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// 8 bits: 0..=255 stands for [0, 1].
    Eight(Vec<u8>),
    /// 16 bits: 0..=65535 stands for [0, 1].
    Sixteen(Vec<u16>),
}

/// A grey image at the file's own depth: what a training set keeps in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major samples.
    pub samples: Samples,
}

/// A grey image, `f32` in [0, 1], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct GrayImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major pixels.
    pub pixels: Vec<f32>,
}

/// A binary mask, row-major, 0 or 1 per pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major pixels, 0 or 1.
    pub pixels: Vec<u8>,
}

impl StoredImage {
    /// Reads an image file. Errors name the file: missing, not an image, truncated, too small, too large.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| match path.exists() {
            true => format!("cannot read {}: is it a file, and may you read it?", path.display()),
            false => format!("{} does not exist: check the name and the folder", path.display()),
        })?;
        Self::decode(&bytes).with_context(|| format!("cannot use {} as an image", path.display()))
    }

    /// Reads an image from the bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.is_empty(), "the file is empty: copy it again");
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().context("its first bytes cannot be read")?;
        let Some(format) = reader.format() else {
            bail!("its content is no PNG, JPEG, BMP, TIFF or PGM: convert it to one of them");
        };
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE as u32);
        limits.max_image_height = Some(MAX_SIDE as u32);
        limits.max_alloc = Some(1 << 30);
        reader.limits(limits);
        let damaged = || {
            format!("the {format:?} data is damaged, cut short or of an unknown kind: copy or convert the file again")
        };
        let decoder = reader.into_decoder().map_err(too_large).with_context(damaged)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        ensure!(width.max(height) <= MAX_SIDE, size_limit(width, height));
        ensure!(
            width.min(height) >= MIN_SIDE,
            "it is {width}×{height} pixels, and an image needs at least {MIN_SIDE}×{MIN_SIDE}: use the original frame"
        );
        // The JPEG decoder fills what is missing with grey and says nothing.
        ensure!(
            format != ImageFormat::Jpeg || jpeg_is_complete(bytes),
            "the JPEG data is cut short: copy the file again"
        );
        let image = DynamicImage::from_decoder(decoder).map_err(too_large).with_context(damaged)?;
        Ok(Self { width, height, samples: grey_samples(image) })
    }

    /// All pixels as `f32` in [0, 1].
    pub fn to_gray(&self) -> GrayImage {
        let pixels = match &self.samples {
            Samples::Eight(v) => v.iter().map(|&s| f32::from(s) / 255.0).collect(),
            Samples::Sixteen(v) => v.iter().map(|&s| f32::from(s) / 65535.0).collect(),
        };
        GrayImage { width: self.width, height: self.height, pixels }
    }

    /// The pixel at (`x`, `y`), in [0, 1]; the coordinates must lie inside.
    pub fn value(&self, x: usize, y: usize) -> f32 {
        let index = y * self.width + x;
        match &self.samples {
            Samples::Eight(v) => f32::from(v[index]) / 255.0,
            Samples::Sixteen(v) => f32::from(v[index]) / 65535.0,
        }
    }

    /// The image at `width`×`height`, at the same depth, by Catmull and Rom's cubic (which averages where it shrinks).
    pub fn resized(&self, width: usize, height: usize) -> Self {
        fn cubic<P: Primitive + 'static>(image: &StoredImage, samples: &[P], width: usize, height: usize) -> Vec<P>
        where
            Luma<P>: image::Pixel<Subpixel = P>,
        {
            let from = ImageBuffer::<Luma<P>, &[P]>::from_raw(image.width as u32, image.height as u32, samples)
                .expect("an image has a sample for each of its pixels");
            resize(&from, width as u32, height as u32, FilterType::CatmullRom).into_raw()
        }
        let samples = match &self.samples {
            Samples::Eight(v) => Samples::Eight(cubic(self, v, width, height)),
            Samples::Sixteen(v) => Samples::Sixteen(cubic(self, v, width, height)),
        };
        Self { width, height, samples }
    }

    /// The image mirrored by columns, by rows, or both.
    pub fn mirrored(&self, columns: bool, rows: bool) -> Self {
        let samples = match &self.samples {
            Samples::Eight(v) => Samples::Eight(mirrored(v, self.width, columns, rows)),
            Samples::Sixteen(v) => Samples::Sixteen(mirrored(v, self.width, columns, rows)),
        };
        Self { samples, ..*self }
    }

    /// Number of pixels, sum and sum of squares of the samples on the 16-bit scale (8-bit samples × 257): exact.
    pub fn moments(&self) -> Moments {
        let mut moments = Moments { count: (self.width * self.height) as u64, ..Moments::default() };
        let mut add = |sample: u64| {
            moments.sum += sample;
            moments.squares += u128::from(sample * sample);
        };
        match &self.samples {
            Samples::Eight(v) => v.iter().for_each(|&s| add(u64::from(s) * 257)),
            Samples::Sixteen(v) => v.iter().for_each(|&s| add(u64::from(s))),
        }
        moments
    }
}

/// Exact sums over pixels on the 16-bit scale, from which mean and deviation follow in any order of images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Pixels.
    pub count: u64,
    /// Sum of the samples.
    pub sum: u64,
    /// Sum of their squares.
    pub squares: u128,
}

impl Moments {
    /// The sums over both sets of pixels.
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum + other.sum, squares: self.squares + other.squares }
    }

    /// Mean and standard deviation (over all pixels, not n − 1) on the [0, 1] scale.
    pub fn mean_and_std(self) -> (f64, f64) {
        let n = self.count.max(1) as f64;
        let mean = self.sum as f64 / n;
        let variance = (self.squares as f64 / n - mean * mean).max(0.0);
        (mean / 65535.0, variance.sqrt() / 65535.0)
    }
}

impl GrayImage {
    /// The image moved to the right and down by parts of a pixel, by Catmull and Rom's cubic; its edges are continued.
    pub fn moved(&self, right: f32, down: f32) -> Self {
        let (width, height) = (self.width as i32, self.height as i32);
        let taps = |step: f32| {
            // Pixel i shows what lies at i − step: between i + first and the next, at `t` from the former.
            let first = (-step).floor();
            let t = -step - first;
            let weights = [
                ((2.0 - t) * t - 1.0) * t / 2.0,
                ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
                ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
                (t - 1.0) * t * t / 2.0,
            ];
            [-1, 0, 1, 2].map(|tap| first as i32 + tap).into_iter().zip(weights).collect::<Vec<_>>()
        };
        let (across, along) = (taps(right), taps(down));
        let at =
            |pixels: &[f32], x: i32, y: i32| pixels[(y.clamp(0, height - 1) * width + x.clamp(0, width - 1)) as usize];
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let rows =
            places().map(|(x, y)| across.iter().map(|(tap, weight)| weight * at(&self.pixels, x + tap, y)).sum());
        let rows: Vec<f32> = rows.collect();
        let pixels = places().map(|(x, y)| along.iter().map(|(tap, weight)| weight * at(&rows, x, y + tap)).sum());
        let pixels = pixels.collect();
        Self { pixels, ..*self }
    }

    /// Reads an image file as [`StoredImage::open`] does.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(StoredImage::open(path)?.to_gray())
    }

    /// The pixel at (`x`, `y`); the coordinates must lie inside.
    pub fn value(&self, x: usize, y: usize) -> f32 {
        self.pixels[y * self.width + x]
    }

    /// Values as 8-bit samples: clamped to [0, 1], × 255, rounded.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.pixels.iter().map(|&v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
    }

    /// Writes an 8-bit grey PNG, atomically.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        save_grey_png(path, self.width, self.height, self.to_bytes())
    }
}

impl Mask {
    /// A mask without targets.
    pub fn empty(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; width * height] }
    }

    /// Reads a mask file: 1 where the grey value is above 127 of 255. Reads the kinds that images have.
    pub fn open(path: &Path) -> Result<Self> {
        let StoredImage { width, height, samples } = StoredImage::open(path)?;
        let pixels = match samples {
            Samples::Eight(v) => v.iter().map(|&s| u8::from(s > 127)).collect(),
            Samples::Sixteen(v) => v.iter().map(|&s| u8::from(s > 127 * 257)).collect(),
        };
        Ok(Self { width, height, pixels })
    }

    /// Reads the mask of an image of `width`×`height` pixels. A mask of another size is an error that names both
    /// files, unless `resize` asks for nearest-neighbour resizing.
    pub fn open_for(path: &Path, image: &Path, width: usize, height: usize, resize: bool) -> Result<Self> {
        let mask = Self::open(path)?;
        if (mask.width, mask.height) == (width, height) {
            return Ok(mask);
        }
        ensure!(
            resize,
            "the mask {} is {}×{} but its image {} is {width}×{height}: give the right mask, or ask for --resize-mask",
            path.display(),
            mask.width,
            mask.height,
            image.display()
        );
        Ok(mask.resized(width, height))
    }

    /// Nearest neighbour: pixel x takes source column ⌊(x + ½)·source width/width⌋, rows likewise.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let source = |at: usize, from: usize, to: usize| moved(at as i64, to, from) as usize;
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            let row = source(y, self.height, height) * self.width;
            pixels.extend((0..width).map(|x| self.pixels[row + source(x, self.width, width)]));
        }
        Self { width, height, pixels }
    }

    /// Number of target pixels.
    pub fn area(&self) -> usize {
        self.pixels.iter().filter(|&&p| p != 0).count()
    }

    /// Writes an 8-bit grey PNG of 0 and 255, atomically.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let bytes = self.pixels.iter().map(|&p| if p == 0 { 0 } else { 255 }).collect();
        save_grey_png(path, self.width, self.height, bytes)
    }
}

/// A row-major map, `width` wide, mirrored by columns, by rows, or both.
pub fn mirrored<T: Copy>(values: &[T], width: usize, columns: bool, rows: bool) -> Vec<T> {
    let mut values = values.to_vec();
    // Reversing everything mirrors both.
    if rows {
        values.reverse();
    }
    if columns != rows {
        values.chunks_mut(width).for_each(<[T]>::reverse);
    }
    values
}

/// Writes row-major 8-bit RGB pixels as a PNG, atomically.
pub fn save_rgb_png(path: &Path, width: usize, height: usize, pixels: Vec<u8>) -> Result<()> {
    let image = image::RgbImage::from_raw(width as u32, height as u32, pixels);
    save_png(path, image.map(DynamicImage::ImageRgb8))
}

fn save_grey_png(path: &Path, width: usize, height: usize, pixels: Vec<u8>) -> Result<()> {
    let image = image::GrayImage::from_raw(width as u32, height as u32, pixels);
    save_png(path, image.map(DynamicImage::ImageLuma8))
}

fn save_png(path: &Path, image: Option<DynamicImage>) -> Result<()> {
    let image = image.with_context(|| format!("{}: fewer pixels than width × height", path.display()))?;
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).with_context(|| format!("cannot encode {}", path.display()))?;
    write_atomic(path, bytes.get_ref())
}

fn size_limit(width: usize, height: usize) -> String {
    format!("it is {width}×{height} pixels and the limit is {MAX_SIDE}×{MAX_SIDE}: cut it into tiles or scale it down")
}

/// Says the limit in place of the decoder's own words.
fn too_large(error: image::ImageError) -> anyhow::Error {
    match error {
        image::ImageError::Limits(_) => {
            anyhow::anyhow!(
                "it is larger than the limit of {MAX_SIDE}×{MAX_SIDE} pixels: cut it into tiles or scale it down"
            )
        }
        other => other.into(),
    }
}

/// Whether the last scan is ended by an end-of-image marker (inside a scan no other 0xFF byte pair can look like one).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut pairs = bytes.windows(2).rev();
    pairs.find_map(|pair| match pair {
        [0xFF, 0xD9] => Some(true),
        [0xFF, 0xDA] => Some(false),
        _ => None,
    }) == Some(true)
}

fn grey_samples(image: DynamicImage) -> Samples {
    fn luma8(p: &[u8]) -> u8 {
        ((19595 * u32::from(p[0]) + 38470 * u32::from(p[1]) + 7471 * u32::from(p[2]) + 32768) >> 16) as u8
    }
    fn luma16(p: &[u16]) -> u16 {
        ((19595 * u64::from(p[0]) + 38470 * u64::from(p[1]) + 7471 * u64::from(p[2]) + 32768) >> 16) as u16
    }
    match image {
        DynamicImage::ImageLuma8(v) => Samples::Eight(v.into_raw()),
        DynamicImage::ImageLumaA8(v) => Samples::Eight(v.as_raw().chunks_exact(2).map(|p| p[0]).collect()),
        DynamicImage::ImageRgb8(v) => Samples::Eight(v.as_raw().chunks_exact(3).map(luma8).collect()),
        DynamicImage::ImageRgba8(v) => Samples::Eight(v.as_raw().chunks_exact(4).map(luma8).collect()),
        DynamicImage::ImageLuma16(v) => Samples::Sixteen(v.into_raw()),
        DynamicImage::ImageLumaA16(v) => Samples::Sixteen(v.as_raw().chunks_exact(2).map(|p| p[0]).collect()),
        DynamicImage::ImageRgba16(v) => Samples::Sixteen(v.as_raw().chunks_exact(4).map(luma16).collect()),
        other => Samples::Sixteen(other.into_rgb16().as_raw().chunks_exact(3).map(luma16).collect()),
    }
}

#[cfg(test)]
mod tests;
