//! Point labels: one pixel per target, made from masks or read from a file.
//!
//! From a mask, per 8-connected component (METHOD §3): *centroid* is the floor of the 0-based centroid; *coarse* is
//! the floor of the centroid plus N(0, ¼) (deviation ½) times half the bounding box per axis, redrawn until it falls
//! on the mask inside that box. A file is JSON: `{"name": [[x, y], …], …}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use crc::{CRC_64_XZ, Crc};
use gsacp_core::detect::Component;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::files::write_atomic;
use super::image::Mask;
use super::random::{normal, stream};
use super::targets;

/// A pixel: column and row, 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "[u32; 2]", into = "[u32; 2]")]
pub struct Point {
    /// Column.
    pub x: u32,
    /// Row.
    pub y: u32,
}

impl From<[u32; 2]> for Point {
    fn from([x, y]: [u32; 2]) -> Self {
        Self { x, y }
    }
}

impl From<Point> for [u32; 2] {
    fn from(point: Point) -> Self {
        [point.x, point.y]
    }
}

/// How a point is made from a target's mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The floor of the centroid.
    Centroid,
    /// A random pixel of the target near its centroid, as a hurried annotator clicks.
    Coarse,
}

/// Where the point labels of a training set come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Made from the masks; `seed` moves the coarse ones.
    Masks {
        /// Centroid or coarse.
        kind: Kind,
        /// Seed of the coarse points.
        seed: u64,
    },
    /// Read from a points file.
    File(PathBuf),
}

/// Points by image name.
pub type Labels = BTreeMap<String, Vec<Point>>;

/// The points of the targets of `mask`, in raster order of the targets. The image's `name` and `seed` decide the coarse
/// draws, so an image has the same points in every list.
pub fn from_mask(mask: &Mask, kind: Kind, seed: u64, name: &str) -> Vec<Point> {
    let name = Crc::<u64>::new(&CRC_64_XZ).checksum(name.as_bytes());
    let point = |index: usize, target: &Component| match kind {
        // A sum over an area in whole numbers: the floor is exact.
        Kind::Centroid => Point {
            x: (target.sum_x / u64::from(target.area)) as u32,
            y: (target.sum_y / u64::from(target.area)) as u32,
        },
        Kind::Coarse => coarse(mask, target, &mut stream(seed, "coarse point", name, index as u64)),
    };
    targets::of(mask).iter().enumerate().map(|(index, target)| point(index, target)).collect()
}

fn coarse(mask: &Mask, target: &Component, rng: &mut ChaCha8Rng) -> Point {
    let area = f64::from(target.area);
    let (x, y) = (target.sum_x as f64 / area, target.sum_y as f64 / area);
    let half_width = f64::from(target.right - target.left + 1) / 2.0;
    let half_height = f64::from(target.bottom - target.top + 1) / 2.0;
    for _ in 0..1000 {
        let x = (x + 0.5 * f64::from(normal(rng)) * half_width).floor();
        let y = (y + 0.5 * f64::from(normal(rng)) * half_height).floor();
        let inside = (f64::from(target.left)..=f64::from(target.right)).contains(&x)
            && (f64::from(target.top)..=f64::from(target.bottom)).contains(&y);
        if inside && mask.pixels[y as usize * mask.width + x as usize] != 0 {
            return Point { x: x as u32, y: y as u32 };
        }
    }
    // A wide thin ring, which the draws around its middle do not meet.
    Point { x: target.first_x, y: target.top }
}

/// Reads a points file; which images it must fit is checked by [`points_of`].
pub fn read(path: &Path) -> Result<Labels> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the points file {}: check the name", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "the points file {} is not of the form {{\"name\": [[x, y], …], …}} with whole x, y ≥ 0",
            path.display()
        )
    })
}

/// Writes a points file, atomically: one image a line.
pub fn write(path: &Path, labels: &Labels) -> Result<()> {
    let lines: Vec<String> = labels
        .iter()
        .map(|(name, points)| Ok(format!("{}: {}", serde_json::to_string(name)?, serde_json::to_string(points)?)))
        .collect::<Result<_>>()?;
    write_atomic(path, format!("{{\n{}\n}}\n", lines.join(",\n")).as_bytes())
}

/// The points of the image `name` of `width`×`height` pixels out of the labels of `file`. A name that the file does
/// not have (an image without targets has an empty list) and a point outside the image are errors that name both.
pub fn points_of<'a>(labels: &'a Labels, file: &Path, name: &str, width: usize, height: usize) -> Result<&'a [Point]> {
    let Some(points) = labels.get(name) else {
        bail!("the points file {} has no entry {name}: add it ([] for an image without targets)", file.display());
    };
    for (index, point) in points.iter().enumerate() {
        ensure!(
            (point.x as usize) < width && (point.y as usize) < height,
            "the points file {} puts point {} of {name} at ({}, {}), outside its {width}×{height} image: correct it (x is the column, y the row, from 0)",
            file.display(),
            index + 1,
            point.x,
            point.y
        );
        ensure!(
            !points[..index].contains(point),
            "the points file {} has the point ({}, {}) of {name} twice: remove one",
            file.display(),
            point.x,
            point.y
        );
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let pixels = rows.iter().flat_map(|row| row.bytes().map(|b| u8::from(b == b'#'))).collect();
        Mask { width: rows[0].len(), height: rows.len(), pixels }
    }

    fn points(pairs: &[[u32; 2]]) -> Vec<Point> {
        pairs.iter().map(|&pair| pair.into()).collect()
    }

    #[test]
    fn a_centroid_point_is_the_floor_of_the_centroid() {
        // Columns 1, 2 → 1.5 → 1. The L: columns 5, 5, 6 → 5.33, rows 1, 2, 2 → 1.67.
        let mask = mask(&[".##.....", ".....#..", ".....##.", "........"]);
        assert_eq!(from_mask(&mask, Kind::Centroid, 0, "a"), points(&[[1, 0], [5, 1]]));
        assert!(from_mask(&Mask::empty(8, 8), Kind::Coarse, 0, "a").is_empty());
    }

    #[test]
    fn coarse_points_fall_on_their_target_and_follow_the_seed() {
        let mask = mask(&["####....", "####....", "####....", "####...#", "......#.", "........"]);
        let mut drawn = std::collections::HashSet::new();
        for seed in 0..200 {
            let found = from_mask(&mask, Kind::Coarse, seed, "a");
            assert_eq!(found, from_mask(&mask, Kind::Coarse, seed, "a"));
            assert!(found[0].x < 4 && found[0].y < 4, "{found:?}");
            assert!(points(&[[7, 3], [6, 4]]).contains(&found[1]), "{found:?}");
            drawn.insert(found[0]);
        }
        // ±2 px of half box times a deviation of ½: most of the square is met.
        assert!(drawn.len() > 8, "{}", drawn.len());
        assert_ne!(
            (0..20).map(|seed| from_mask(&mask, Kind::Coarse, seed, "a")).collect::<Vec<_>>(),
            (0..20).map(|seed| from_mask(&mask, Kind::Coarse, seed, "b")).collect::<Vec<_>>()
        );
    }

    #[test]
    fn coarse_points_have_a_deviation_of_a_quarter_of_the_box() {
        let full = Mask { width: 101, height: 101, pixels: vec![1; 101 * 101] };
        let offsets: Vec<f64> =
            (0..2000).map(|seed| f64::from(from_mask(&full, Kind::Coarse, seed, "a")[0].x) + 0.5 - 50.0).collect();
        let deviation = (offsets.iter().map(|v| v * v).sum::<f64>() / 2000.0).sqrt();
        // ½ · 101/2 = 25.25; cutting at two deviations (the box) leaves 0.8796 of it: 22.2.
        assert!((deviation - 22.2).abs() < 1.5, "{deviation}");
    }

    #[test]
    fn a_points_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.json");
        let labels = Labels::from([("b".into(), points(&[[3, 1], [0, 2]])), ("a\"1".into(), vec![])]);
        write(&path, &labels).unwrap();
        assert_eq!(read(&path).unwrap(), labels);
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"b\": [[3,1],[0,2]]"));
    }

    #[test]
    fn a_point_outside_its_image_names_file_image_and_point() {
        let labels = Labels::from([("a".into(), points(&[[3, 1], [8, 2]])), ("b".into(), points(&[[1, 1], [1, 1]]))]);
        let file = Path::new("clicks.json");
        assert_eq!(points_of(&labels, file, "a", 9, 3).unwrap(), points(&[[3, 1], [8, 2]]));
        for size in [(8, 3), (9, 2)] {
            let error = points_of(&labels, file, "a", size.0, size.1).unwrap_err().to_string();
            assert!(error.contains("clicks.json") && error.contains("point 2 of a at (8, 2)"), "{error}");
        }
        assert!(points_of(&labels, file, "b", 9, 9).unwrap_err().to_string().contains("twice"));
        assert!(points_of(&labels, file, "c", 9, 9).unwrap_err().to_string().contains("no entry c"));
    }

    #[test]
    fn a_damaged_points_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{\"a\": [[1, 2]", "{\"a\": [[1, -2]]}", "{\"a\": [[1.5, 2]]}", "[]"] {
            let path = folder.path().join("clicks.json");
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("clicks.json"), "{error}");
        }
        assert!(read(&folder.path().join("none.json")).unwrap_err().to_string().contains("none.json"));
    }
}
