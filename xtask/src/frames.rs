//! Real images as the sensor's frames: bytes of grey, cut around their first target or resized; and reels of them.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use gsacp_edge::packet::{HEADER_BYTES, Header};
use gsacp_edge::reel::{REEL_HEADER_BYTES, Reel, Wanted};
use image::GrayImage;
use image::imageops::{FilterType, crop_imm, replace, resize};

use crate::board::{FrameSize, SMALL};
use crate::repository::{gsacp, real_images, run, scratch};

/// How an image of another size becomes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fit {
    /// Cut around the first target of its mask (its middle without one); a smaller image is set on black.
    Crop,
    /// Resized, bilinear.
    Resize,
}

/// Which images a command takes as frames.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Folder with images/, masks/ and img_idx/; without it the real images where there are any, else synthetic ones.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// List of names: a file, or the name of one in img_idx/; default val_dev.txt or val.txt, whichever is there.
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// Frames at most.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub limit: usize,
    /// How an image of another size becomes a frame.
    #[arg(long, value_enum, default_value_t = Fit::Crop)]
    pub fit: Fit,
    /// Width and height of the frames, and so which of the firmwares runs: 160x128 or 640x512.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::board::parse_size, default_value_t = SMALL)]
    pub size: FrameSize,
}

impl Selection {
    /// The default images: at most `limit` frames, cut.
    pub fn default_images(limit: usize) -> Self {
        Self { data: None, list: None, limit, fit: Fit::Crop, size: SMALL }
    }

    /// Loads the frames, and says where from.
    pub fn load(&self) -> Result<Vec<Frame>> {
        let most = (self.size.reel_bytes() - REEL_HEADER_BYTES) / (HEADER_BYTES + self.size.pixels());
        ensure!(self.limit > 0 && self.limit <= most, "--limit {}: give 1 to {most}", self.limit);
        let data = match &self.data {
            Some(path) => path.clone(),
            None => match real_images()? {
                Some(path) => path,
                None => synthetic(self.size)?,
            },
        };
        let list = match &self.list {
            Some(list) => list.clone(),
            None => ["val_dev.txt", "val.txt"]
                .into_iter()
                .map(PathBuf::from)
                .find(|list| data.join("img_idx").join(list).is_file())
                .with_context(|| format!("{}/img_idx has no val_dev.txt or val.txt: name a --list", data.display()))?,
        };
        let frames = from_list(&data, &list, self.limit, self.fit, self.size)?;
        println!("{} frames of {} from {} ({})", frames.len(), self.size, data.display(), list.display());
        Ok(frames)
    }
}

/// Seeded scenes of the frame's size, made once.
pub fn synthetic(size: FrameSize) -> Result<PathBuf> {
    let folder = scratch("xtask")?.join(format!("synth-{size}"));
    if !folder.join("img_idx/val.txt").is_file() {
        let mut command = Command::new(gsacp()?);
        command
            .args(["data", "synth", "--count", "100", "--seed", "1", "--size", &size.to_string(), "--out"])
            .arg(&folder);
        run(&mut command)?;
    }
    Ok(folder)
}

/// A frame and where it came from.
pub struct Frame {
    /// The image's name in its list.
    pub name: String,
    /// Width and height.
    pub size: FrameSize,
    /// A byte each, row by row.
    pub pixels: Vec<u8>,
}

/// The size that all of `frames` have.
pub fn common_size(frames: &[Frame]) -> Result<FrameSize> {
    let size = frames.first().context("no frame")?.size;
    ensure!(frames.iter().all(|frame| frame.size == size), "frames of several sizes");
    Ok(size)
}

/// The first `limit` images of a list in the SIRST3 layout (`images/`, `masks/`, one name a line).
pub fn from_list(data: &Path, list: &Path, limit: usize, fit: Fit, size: FrameSize) -> Result<Vec<Frame>> {
    let listed = [data.join("img_idx").join(list), data.join(list), list.to_path_buf()];
    let list = listed.iter().find(|p| p.is_file()).with_context(|| {
        format!("no list {}: give a file of {} or a path", list.display(), data.join("img_idx").display())
    })?;
    let names = std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let names: Vec<&str> = names.lines().map(str::trim).filter(|n| !n.is_empty()).take(limit).collect();
    ensure!(!names.is_empty(), "{} names no image", list.display());
    names.into_iter().map(|name| load(data, name, fit, size)).collect()
}

fn load(data: &Path, name: &str, fit: Fit, size: FrameSize) -> Result<Frame> {
    let name = Path::new(name).file_stem().map_or(name.to_owned(), |s| s.to_string_lossy().into_owned());
    let image = open(&find(&data.join("images"), &name)?)?;
    let (width, height) = (u32::from(size.width), u32::from(size.height));
    let frame = match fit {
        _ if image.dimensions() == (width, height) => image,
        Fit::Resize => resize(&image, width, height, FilterType::Triangle),
        Fit::Crop => {
            let target = find(&data.join("masks"), &name).ok().map(|path| open(&path)).transpose()?;
            let target = target.and_then(|mask| first_target(&mask)).unwrap_or((image.width() / 2, image.height() / 2));
            crop_around(&image, target, width, height)
        }
    };
    Ok(Frame { name, size, pixels: frame.into_raw() })
}

fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let endings = ["png", "bmp", "jpg", "jpeg", "tif", "tiff", "pgm"];
    let candidates = endings.iter().flat_map(|e| [format!("{name}.{e}"), format!("{name}_pixels0.{e}")]);
    candidates
        .map(|file| folder.join(file))
        .find(|path| path.is_file())
        .with_context(|| format!("{} holds no image {name}", folder.display()))
}

fn open(path: &Path) -> Result<GrayImage> {
    let reader = image::ImageReader::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let image =
        reader.with_guessed_format()?.decode().with_context(|| format!("{} is not an image", path.display()))?;
    Ok(image.into_luma8())
}

/// First pixel in raster order over 127.
fn first_target(mask: &GrayImage) -> Option<(u32, u32)> {
    mask.enumerate_pixels().find(|(_, _, p)| p.0[0] > 127).map(|(x, y, _)| (x, y))
}

fn crop_around(image: &GrayImage, (x, y): (u32, u32), width: u32, height: u32) -> GrayImage {
    let start = |centre: u32, side: u32, whole: u32| centre.saturating_sub(side / 2).min(whole.saturating_sub(side));
    let left = start(x, width, image.width());
    let top = start(y, height, image.height());
    let cut = crop_imm(image, left, top, width.min(image.width()), height.min(image.height())).to_image();
    let mut frame = GrayImage::new(width, height);
    replace(&mut frame, &cut, 0, 0);
    frame
}

/// The bytes of a reel; a frame's sequence number is its place.
pub fn reel(frames: &[Frame], wanted: Wanted) -> Vec<u8> {
    let mut bytes = Reel::header(frames.len() as u32, wanted).to_vec();
    for (sequence, frame) in frames.iter().enumerate() {
        bytes.extend(Header::describe(sequence as u16, frame.size.width, frame.size.height, &frame.pixels).encode());
        bytes.extend(&frame.pixels);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    fn ramp(width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| Luma([(x + 3 * y) as u8]))
    }

    #[test]
    fn a_crop_holds_its_target_also_at_the_border() {
        let image = ramp(400, 300);
        for (x, y) in [(0, 0), (399, 299), (200, 150), (399, 0)] {
            let frame = crop_around(&image, (x, y), 160, 128);
            assert_eq!(frame.dimensions(), (160, 128));
            let (left, top) = (x.saturating_sub(80).min(240), y.saturating_sub(64).min(172));
            assert_eq!(frame.get_pixel(x - left, y - top), image.get_pixel(x, y));
        }
    }

    #[test]
    fn a_small_image_is_set_on_black() {
        let frame = crop_around(&ramp(100, 50), (50, 25), 160, 128);
        assert_eq!(frame.get_pixel(99, 49), &Luma([(99 + 3 * 49) as u8]));
        assert_eq!((frame.get_pixel(100, 0).0, frame.get_pixel(0, 50).0), ([0], [0]));
    }

    #[test]
    fn the_first_target_is_the_first_pixel_over_127_in_raster_order() {
        let mut mask = GrayImage::new(8, 8);
        mask.put_pixel(1, 5, Luma([255]));
        mask.put_pixel(6, 2, Luma([255]));
        mask.put_pixel(0, 0, Luma([127]));
        assert_eq!(first_target(&mask), Some((6, 2)));
        assert_eq!(first_target(&GrayImage::new(3, 3)), None);
    }
}
