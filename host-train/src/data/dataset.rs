//! A data set in the SIRST3 layout: `images/`, `masks/` and lists of names in `img_idx/*.txt`.
//!
//! A list holds one name a line, with or without the file's ending; blank lines are skipped. A mask has the name of
//! its image, or that name and `_pixels0` (as SIRST publishes them). Masks may be missing: training from points
//! needs none; what needs them calls [`Dataset::require_masks`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use crc::{CRC_64_XZ, Crc};
use rayon::prelude::*;

use super::image::{EXTENSIONS, GrayImage, Mask, Moments, StoredImage};

const FINGERPRINT: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);
/// How many names an error lists before it only counts.
const NAMED: usize = 5;

/// One image of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name in the list, without an image file's ending.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The mask file, if there is one.
    pub mask: Option<PathBuf>,
}

impl Sample {
    /// Reads the image.
    pub fn load_image(&self) -> Result<GrayImage> {
        GrayImage::open(&self.image)
    }

    /// Reads the mask for an image of `width`×`height`; a mask of another size is an error unless `resize`.
    pub fn load_mask(&self, width: usize, height: usize, resize: bool) -> Result<Mask> {
        let path = self
            .mask
            .as_ref()
            .with_context(|| format!("{} has no mask: put one of the same name into masks/", self.image.display()))?;
        Mask::open_for(path, &self.image, width, height, resize)
    }
}

/// The images that a list names, in its order.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The folder that holds `images/`, `masks/` and `img_idx/`.
    pub root: PathBuf,
    /// The list file that was read.
    pub list: PathBuf,
    /// At least one sample; names are unique.
    pub samples: Vec<Sample>,
}

/// Mean and standard deviation of a training domain, on the grey scale [0, 1] (METHOD §1: one scalar each).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalisation {
    /// Mean grey value.
    pub mean: f32,
    /// Standard deviation, above 0.
    pub std: f32,
}

impl Dataset {
    /// Reads the list and finds every image. `list` is a file, or the name of one in `dir/img_idx/` with or without
    /// `.txt`. An empty list, a name listed twice or a name without an image is an error that names the first few.
    pub fn open(dir: &Path, list: &Path) -> Result<Self> {
        let (dataset, problems) = Self::scan(dir, list)?;
        ensure!(problems.is_empty(), "{}", summary(&dataset.list, &problems));
        Ok(dataset)
    }

    /// As [`Dataset::open`], but returns the samples that were found and one line for every problem of a name.
    /// Errors where there is nothing to work on: no folder, no list, an empty list.
    pub fn scan(dir: &Path, list: &Path) -> Result<(Self, Vec<String>)> {
        ensure!(dir.is_dir(), "{} is no folder: give the one that holds images/ and img_idx/", dir.display());
        let list = find_list(dir, list)?;
        let text = std::fs::read_to_string(&list)
            .with_context(|| format!("cannot read the list {}: is it a text file?", list.display()))?;
        let text = text.trim_start_matches('\u{feff}');
        let names: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        ensure!(!names.is_empty(), "the list {} names no image: write one name a line", list.display());

        let images = Folder::read(&dir.join("images"))?;
        let masks = match dir.join("masks") {
            folder if folder.is_dir() => Folder::read(&folder)?,
            _ => Folder::default(),
        };
        let mut seen = HashSet::new();
        let (mut samples, mut problems) = (Vec::with_capacity(names.len()), Vec::new());
        for line in names {
            let name = stem(line);
            if !seen.insert(name) {
                problems.push(format!("{name} is listed twice"));
                continue;
            }
            match images.find(name) {
                Found::One(image) => {
                    let mask = match masks.find(name) {
                        Found::None => masks.find(&format!("{name}_pixels0")),
                        found => found,
                    };
                    let mask = match mask {
                        Found::One(path) => Some(path),
                        Found::None => None,
                        Found::Several(files) => {
                            problems.push(format!("{name} has several masks: {files}"));
                            continue;
                        }
                    };
                    samples.push(Sample { name: name.to_owned(), image, mask });
                }
                Found::None => problems.push(format!(
                    "there is no image {} (.png, .jpg, .bmp, .tif or .pgm)",
                    images.path.join(name).display()
                )),
                Found::Several(files) => problems.push(format!("{name} has several images: {files}")),
            }
        }
        Ok((Self { root: dir.to_owned(), list, samples }, problems))
    }

    /// An error that names the first few samples without a mask, if there are any.
    pub fn require_masks(&self) -> Result<()> {
        let missing: Vec<String> = self
            .samples
            .iter()
            .filter(|sample| sample.mask.is_none())
            .map(|sample| format!("{} has no mask in {}", sample.name, self.root.join("masks").display()))
            .collect();
        ensure!(missing.is_empty(), "{}", summary(&self.list, &missing));
        Ok(())
    }

    /// A 64-bit hash of the names and of every byte of the image and mask files, in list order: equal fingerprints
    /// mean the same data. Reads all files.
    pub fn fingerprint(&self) -> Result<u64> {
        let hash = |path: &Path| -> Result<[u64; 2]> {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok([bytes.len() as u64, FINGERPRINT.checksum(&bytes)])
        };
        let parts: Vec<[u64; 4]> = self
            .samples
            .par_iter()
            .map(|sample| {
                let [length, image] = hash(&sample.image)?;
                let [mask_length, mask] = sample.mask.as_deref().map_or(Ok([0, 0]), hash)?;
                Ok([length, image, mask_length, mask])
            })
            .collect::<Result<_>>()?;
        let mut digest = FINGERPRINT.digest();
        for (sample, parts) in self.samples.iter().zip(parts) {
            digest.update(&(sample.name.len() as u64).to_le_bytes());
            digest.update(sample.name.as_bytes());
            parts.iter().for_each(|part| digest.update(&part.to_le_bytes()));
        }
        Ok(digest.finalize())
    }

    /// Mean and deviation over all pixels of all images, one image in memory per thread. The sums are exact, so the
    /// result does not depend on order or threads.
    pub fn normalisation(&self) -> Result<Normalisation> {
        let moments = self
            .samples
            .par_iter()
            .map(|sample| StoredImage::open(&sample.image).map(|image| image.moments()))
            .try_reduce(Moments::default, |a, b| Ok(a.plus(b)))?;
        Normalisation::of(moments)
            .with_context(|| format!("the images of {} cannot be normalised", self.list.display()))
    }
}

impl Normalisation {
    /// From the sums over the training images; an error if all pixels are equal.
    pub fn of(moments: Moments) -> Result<Self> {
        let (mean, std) = moments.mean_and_std();
        ensure!(std > 1e-6, "all pixels have the same value: these are not infrared frames");
        Ok(Self { mean: mean as f32, std: std as f32 })
    }
}

/// The first few problems and how many there are.
fn summary(list: &Path, problems: &[String]) -> String {
    let shown = problems.iter().take(NAMED).map(|p| format!("\n  {p}")).collect::<String>();
    let more = match problems.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let names = if problems.len() == 1 { "1 name" } else { &format!("{} names", problems.len()) };
    format!(
        "the list {} has {names} that cannot be used:{shown}{more}\ncorrect the list or the folder (`gsacp data check` lists everything)",
        list.display()
    )
}

fn find_list(dir: &Path, list: &Path) -> Result<PathBuf> {
    let index = dir.join("img_idx");
    let with_ending = PathBuf::from(format!("{}.txt", list.display()));
    let candidates = [list.to_owned(), index.join(list), index.join(with_ending), dir.join(list)];
    if let Some(found) = candidates.into_iter().find(|path| path.is_file()) {
        return Ok(found);
    }
    let mut known: Vec<String> = std::fs::read_dir(&index)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    known.sort();
    match known.is_empty() {
        true => bail!("there is no list {}, and none in {}", list.display(), index.display()),
        false => bail!("there is no list {}; {} holds {}", list.display(), index.display(), known.join(", ")),
    }
}

/// The name without an image file's ending (a name may contain other dots).
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, ending)) if is_image_ending(ending) => stem,
        _ => name,
    }
}

fn is_image_ending(ending: &str) -> bool {
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

/// The image files of a folder by name without ending.
#[derive(Default)]
struct Folder {
    path: PathBuf,
    files: HashMap<String, Vec<PathBuf>>,
}

enum Found {
    None,
    One(PathBuf),
    Several(String),
}

impl Folder {
    fn read(path: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(path).with_context(|| {
            format!("cannot read the folder {}: a data set holds images/ and img_idx/", path.display())
        })?;
        let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
        for entry in entries {
            let file = entry.with_context(|| format!("cannot read the folder {}", path.display()))?.path();
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            let name = stem(name);
            if file.extension().and_then(|e| e.to_str()).is_some_and(is_image_ending) {
                files.entry(name.to_owned()).or_default().push(file.clone());
            }
        }
        files.values_mut().for_each(|found| found.sort());
        Ok(Self { path: path.to_owned(), files })
    }

    fn find(&self, name: &str) -> Found {
        match self.files.get(name).map(Vec::as_slice) {
            None | Some([]) => Found::None,
            Some([one]) => Found::One(one.clone()),
            Some(several) => {
                Found::Several(several.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of 8×8, `a` black with a mask and `b` white without, and the list `all.txt` with `lines`.
    fn folder(lines: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for part in ["images", "masks", "img_idx"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        let flat = |value| GrayImage { width: 8, height: 8, pixels: vec![value; 64] };
        flat(0.0).save_png(&folder.path().join("images/a.png")).unwrap();
        flat(1.0).save_png(&folder.path().join("images/b.png")).unwrap();
        Mask::empty(8, 8).save_png(&folder.path().join("masks/a.png")).unwrap();
        std::fs::write(folder.path().join("img_idx/all.txt"), lines).unwrap();
        folder
    }

    fn names(dataset: &Dataset) -> Vec<&str> {
        dataset.samples.iter().map(|sample| sample.name.as_str()).collect()
    }

    fn refusal(lines: &str) -> String {
        format!("{:#}", Dataset::open(folder(lines).path(), Path::new("all")).unwrap_err())
    }

    #[test]
    fn a_list_is_read_in_its_order_with_or_without_endings() {
        let folder = folder("\u{feff}b\r\n\r\n  a.png \r\n");
        for list in [Path::new("all"), Path::new("all.txt"), &folder.path().join("img_idx/all.txt")] {
            let dataset = Dataset::open(folder.path(), list).unwrap();
            assert_eq!(names(&dataset), ["b", "a"]);
        }
    }

    #[test]
    fn missing_images_are_named_and_counted() {
        let error = refusal("a\nx1\nx2\nx3\nx4\nx5\nx6\nx7\n");
        assert!(error.contains("7 names") && error.contains("x5") && !error.contains("x6"), "{error}");
        assert!(error.contains("and 2 more") && error.contains("all.txt"), "{error}");
    }

    #[test]
    fn empty_lists_and_names_listed_twice_are_errors() {
        assert!(refusal("\n \n").contains("names no image"));
        assert!(refusal("a\nb\na.png\n").contains("a is listed twice"));
    }

    #[test]
    fn an_unknown_list_is_an_error_that_names_the_known_ones() {
        let error = Dataset::open(folder("a").path(), Path::new("train.txt")).unwrap_err().to_string();
        assert!(error.contains("train.txt") && error.contains("all.txt"), "{error}");
    }

    #[test]
    fn two_files_of_one_name_are_an_error_that_names_both() {
        let folder = folder("a");
        std::fs::copy(folder.path().join("images/a.png"), folder.path().join("images/a.BMP")).unwrap();
        let error = Dataset::open(folder.path(), Path::new("all")).unwrap_err().to_string();
        assert!(error.contains("a.BMP") && error.contains("a.png"), "{error}");
    }

    #[test]
    fn masks_are_asked_for_only_where_they_are_needed() {
        let folder = folder("a\nb");
        let dataset = Dataset::open(folder.path(), Path::new("all")).unwrap();
        let error = dataset.require_masks().unwrap_err().to_string();
        assert!(error.contains("1 name") && error.contains("b has no mask"), "{error}");
        assert!(dataset.samples[1].load_mask(8, 8, false).is_err());
        std::fs::copy(folder.path().join("masks/a.png"), folder.path().join("masks/b_pixels0.png")).unwrap();
        Dataset::open(folder.path(), Path::new("all")).unwrap().require_masks().unwrap();
    }

    #[test]
    fn the_fingerprint_sees_every_byte_and_the_order() {
        let folder = folder("a\nb");
        let print = || Dataset::open(folder.path(), Path::new("all")).unwrap().fingerprint().unwrap();
        let first = print();
        assert_eq!(first, print());
        Mask { width: 8, height: 8, pixels: vec![1; 64] }.save_png(&folder.path().join("masks/a.png")).unwrap();
        let other_mask = print();
        assert_ne!(first, other_mask);
        std::fs::write(folder.path().join("img_idx/all.txt"), "b\na").unwrap();
        assert_ne!(other_mask, print());
    }

    #[test]
    fn normalisation_is_over_all_pixels() {
        let folder = folder("a\nb");
        let dataset = Dataset::open(folder.path(), Path::new("all")).unwrap();
        assert_eq!(dataset.normalisation().unwrap(), Normalisation { mean: 0.5, std: 0.5 });
        let flat = Dataset { samples: dataset.samples[..1].to_vec(), ..dataset };
        assert!(format!("{:#}", flat.normalisation().unwrap_err()).contains("same value"));
    }
}
