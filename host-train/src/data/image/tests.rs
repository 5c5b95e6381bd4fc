//! Files are made with the image crate, or byte by byte, and read back.
use std::path::PathBuf;

use image::{ImageBuffer, Luma, Rgba};

use super::*;

/// A 9×11 ramp: odd sides, all values different.
fn ramp() -> image::GrayImage {
    ImageBuffer::from_fn(9, 11, |x, y| Luma([(y * 9 + x) as u8 * 2]))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn written(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn message(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

#[test]
fn every_lossless_kind_gives_the_same_pixels() {
    let image = DynamicImage::ImageLuma8(ramp());
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm] {
        let read = StoredImage::decode(&encoded(&image, format)).unwrap();
        assert_eq!((read.width, read.height), (9, 11), "{format:?}");
        assert_eq!(read.samples, Samples::Eight(ramp().into_raw()), "{format:?}");
        assert_eq!(read.value(3, 1), 24.0 / 255.0);
        assert_eq!(read.to_gray().value(3, 1), 24.0 / 255.0);
    }
}

#[test]
fn sixteen_bits_are_divided_by_65535() {
    let image: ImageBuffer<Luma<u16>, _> =
        ImageBuffer::from_fn(8, 8, |x, _| Luma([[0, 1, 40_000, 65_535][x as usize % 4]]));
    for format in [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::Pnm] {
        let read = StoredImage::decode(&encoded(&image.clone().into(), format)).unwrap().to_gray();
        assert_eq!(read.pixels[..4], [0.0, 1.0 / 65535.0, 40_000.0 / 65535.0, 1.0], "{format:?}");
    }
}

#[test]
fn colour_is_weighted_by_itu_601_and_alpha_is_ignored() {
    // 0.299·200 + 0.587·100 + 0.114·50 = 124.2; three equal channels stay what they are.
    let image = ImageBuffer::from_fn(8, 8, |x, _| if x == 0 { Rgba([200, 100, 50, 7]) } else { Rgba([77, 77, 77, 0]) });
    let read = StoredImage::decode(&encoded(&DynamicImage::ImageRgba8(image), ImageFormat::Png)).unwrap();
    assert_eq!(read.value(0, 0), 124.0 / 255.0);
    assert_eq!(read.value(1, 0), 77.0 / 255.0);
    let deep: ImageBuffer<Rgba<u16>, _> = ImageBuffer::from_pixel(8, 8, Rgba([60_000, 30_000, 10_000, 0]));
    let read = StoredImage::decode(&encoded(&deep.into(), ImageFormat::Png)).unwrap();
    // 17940 + 17610 + 1140 = 36690; the integer weights differ from 0.299, 0.587, 0.114 by less than 1e-5.
    assert_eq!(read.samples, Samples::Sixteen(vec![36_690; 64]));
}

/// An 8×8 BMP of 8 bits with a palette: index 0 is (0, 0, 0), 1 is (255, 255, 255), 2 is pure red.
fn palette_bmp() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"BM");
    for value in [14 + 40 + 3 * 4 + 64u32, 0, 14 + 40 + 3 * 4, 40, 8, 8] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(8u16.to_le_bytes());
    for value in [0u32, 64, 2835, 2835, 3, 3] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 0]);
    bytes.extend((0..64).map(|i| (i % 3) as u8));
    bytes
}

#[test]
fn a_palette_is_looked_up() {
    let read = StoredImage::decode(&palette_bmp()).unwrap();
    // Rows are stored bottom up: the top row begins with index 56 mod 3 = 2, red, 0.299·255 = 76.
    assert_eq!([read.value(0, 0), read.value(1, 0), read.value(2, 0)], [76.0 / 255.0, 0.0, 1.0]);
}

#[test]
fn a_jpeg_named_png_is_read_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let flat: image::GrayImage = ImageBuffer::from_pixel(16, 16, Luma([90]));
    let path = written(&folder, "frame.png", &encoded(&flat.into(), ImageFormat::Jpeg));
    let read = GrayImage::open(&path).unwrap();
    assert!(read.pixels.iter().all(|v| (v * 255.0 - 90.0).abs() <= 1.0));
}

#[test]
fn a_file_cut_short_anywhere_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let noisy: image::GrayImage = ImageBuffer::from_fn(40, 40, |x, y| Luma([(x * x * 7 + y * 13 + x * y) as u8]));
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm, ImageFormat::Jpeg] {
        let whole = encoded(&noisy.clone().into(), format);
        for kept in [0, 1, 7, 20, whole.len() / 3, whole.len() / 2, whole.len() * 9 / 10] {
            let path = written(&folder, "cut.img", &whole[..kept]);
            let error = GrayImage::open(&path).expect_err(&format!("{format:?} cut to {kept} of {}", whole.len()));
            assert!(message(&error).contains("cut.img"), "{error:#}");
        }
    }
}

#[test]
fn what_is_no_image_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let text = written(&folder, "notes.png", b"a frame that is text, whatever its name says");
    let error = message(&GrayImage::open(&text).unwrap_err());
    assert!(error.contains("notes.png") && error.contains("convert it"), "{error}");
    let error = message(&GrayImage::open(&folder.path().join("none.png")).unwrap_err());
    assert!(error.contains("none.png does not exist"), "{error}");
    let error = message(&GrayImage::open(folder.path()).unwrap_err());
    assert!(error.contains("is it a file"), "{error}");
}

#[test]
fn a_one_pixel_image_is_an_error() {
    let tiny: image::GrayImage = ImageBuffer::from_pixel(1, 1, Luma([9]));
    let error = message(&StoredImage::decode(&encoded(&tiny.into(), ImageFormat::Png)).unwrap_err());
    assert!(error.contains("1×1"), "{error}");
}

#[test]
fn an_image_over_the_limit_is_refused_before_it_is_decoded() {
    for (width, height) in [(8193, 16), (16, 8193), (100_000, 100_000)] {
        // Only a header: were the pixels decoded, the message would be of missing data.
        let bytes = format!("P5\n{width} {height}\n255\n").into_bytes();
        let error = message(&StoredImage::decode(&bytes).unwrap_err());
        assert!(error.contains("8192×8192"), "{error}");
    }
}

#[test]
fn masks_are_one_above_127() {
    let folder = tempfile::tempdir().unwrap();
    let values = [0, 127, 128, 255];
    let eight: image::GrayImage = ImageBuffer::from_fn(8, 8, |x, _| Luma([values[x as usize % 4]]));
    let sixteen: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(8, 8, |x, _| Luma([[0, 127 * 257, 127 * 257 + 1, 65535][x as usize % 4]]));
    for image in [DynamicImage::from(eight), sixteen.into()] {
        let path = written(&folder, "mask.png", &encoded(&image, ImageFormat::Png));
        assert_eq!(Mask::open(&path).unwrap().pixels[..4], [0, 0, 1, 1]);
    }
}

#[test]
fn a_mask_of_another_size_is_an_error_unless_resizing_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut mask = Mask::empty(8, 8);
    mask.pixels[8 + 2] = 1;
    let path = folder.path().join("mask.png");
    mask.save_png(&path).unwrap();
    assert_eq!(Mask::open(&path).unwrap(), mask);
    let image = Path::new("frame.png");
    let error = message(&Mask::open_for(&path, image, 16, 8, false).unwrap_err());
    assert!(error.contains("mask.png") && error.contains("frame.png") && error.contains("--resize-mask"), "{error}");
    let wide = Mask::open_for(&path, image, 16, 8, true).unwrap();
    assert_eq!(wide.area(), 2);
    assert_eq!((wide.pixels[16 + 4], wide.pixels[16 + 5]), (1, 1));
    // Halving: column x takes source column ⌊2x + 1⌋, so column 2 of the source is lost and column 3 kept.
    assert_eq!(mask.resized(4, 8).area(), 0);
}

#[test]
fn moments_are_exact_and_agree_between_depths() {
    let eight = StoredImage { width: 2, height: 1, samples: Samples::Eight(vec![0, 255]) };
    let sixteen = StoredImage { width: 2, height: 1, samples: Samples::Sixteen(vec![0, 65535]) };
    assert_eq!(eight.moments(), sixteen.moments());
    assert_eq!(eight.moments().plus(sixteen.moments()).mean_and_std(), (0.5, 0.5));
}

#[test]
fn mirror_images_are_those_worked_by_hand() {
    let image = StoredImage { width: 3, height: 2, samples: Samples::Sixteen(vec![1, 2, 3, 4, 5, 6]) };
    for (columns, rows, expected) in [
        (false, false, [1, 2, 3, 4, 5, 6]),
        (true, false, [3, 2, 1, 6, 5, 4]),
        (false, true, [4, 5, 6, 1, 2, 3]),
        (true, true, [6, 5, 4, 3, 2, 1]),
    ] {
        let samples = Samples::Sixteen(expected.to_vec());
        assert_eq!(image.mirrored(columns, rows), StoredImage { samples, ..image });
    }
}

#[test]
fn an_image_is_moved_by_parts_of_a_pixel() {
    // A plane: a cubic that goes through its points keeps it, away from the edges, which are continued.
    let plane = |right: f32, down: f32| {
        (0..48).map(|i| (i % 8) as f32 - right + 10.0 * ((i / 8) as f32 - down)).collect::<Vec<_>>()
    };
    let image = GrayImage { width: 8, height: 6, pixels: plane(0.0, 0.0) };
    assert_eq!(image.moved(0.0, 0.0), image);
    for (right, down) in [(0.5, -0.25), (-0.4375, 1.0), (-1.0, -0.875)] {
        let (moved, expected) = (image.moved(right, down), plane(right, down));
        for i in (0..48).filter(|i| (3..5).contains(&(i % 8)) && (2..4).contains(&(i / 8))) {
            assert!((moved.pixels[i] - expected[i]).abs() < 1e-4, "{right} {down}: pixel {i}");
        }
    }
    assert_eq!(image.moved(1.0, 0.0).pixels[..8], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    // Half a pixel of a lone one: −1/16, 9/16, 9/16, −1/16.
    let lone = GrayImage { width: 8, height: 1, pixels: vec![0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0] };
    assert_eq!(lone.moved(0.5, 0.0).pixels, [0.0, 0.0, -0.0625, 0.5625, 0.5625, -0.0625, 0.0, 0.0]);
}
