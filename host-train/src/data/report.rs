//! What a data set holds and what is wrong with it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use gsacp_core::metrics::{BIN_LABELS, bin_of};
use serde::Serialize;

use super::dataset::{Dataset, Normalisation, Sample};
use super::image::{Moments, Samples, StoredImage};
use super::points::{self, Labels};
use super::progress::in_order;
use super::targets;

/// The findings of `gsacp data check`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Images that could be read.
    pub images: usize,
    /// Images by `widthxheight`.
    pub sizes: BTreeMap<String, usize>,
    /// Images with 16 bits a pixel; the others have 8 or fewer.
    pub sixteen_bit: usize,
    /// Images without a mask file.
    pub without_mask: usize,
    /// Images whose mask has no target.
    pub without_target: usize,
    /// Targets (8-connected components of the masks).
    pub targets: usize,
    /// Number of images by targets in them.
    pub targets_per_image: BTreeMap<usize, usize>,
    /// Number of targets by size bin.
    pub target_sizes: BTreeMap<&'static str, usize>,
    /// Area of the smallest and the largest target, in pixels.
    pub target_area: Option<[u32; 2]>,
    /// Mean and deviation over all pixels, on the scale [0, 1].
    pub normalisation: Option<Normalisation>,
    /// Hash of all names and files, 16 hexadecimal digits; only where there are no problems.
    pub fingerprint: Option<String>,
    /// One line for every problem, each naming its file.
    pub problems: Vec<String>,
}

/// What was found in one image.
struct Finding {
    size: (usize, usize),
    sixteen_bit: bool,
    moments: Moments,
    /// Areas of the targets; none without a usable mask.
    areas: Option<Vec<u32>>,
    has_mask: bool,
    problems: Vec<String>,
}

/// Opens every image and mask of `list` and, where given, checks every entry of a points file. Errors only where
/// nothing can be checked at all; everything else is a line in [`Report::problems`].
pub fn check(dir: &Path, list: &Path, points: Option<&Path>, resize_mask: bool) -> Result<Report> {
    let (dataset, problems) = Dataset::scan(dir, list)?;
    let labels = points.map(|path| Ok::<_, anyhow::Error>((points::read(path)?, path))).transpose()?;
    let labels = labels.as_ref().map(|(labels, path)| (labels, *path));
    let examined = |_: &mut (), sample: &Sample| Ok(examine(sample, labels, resize_mask));
    let findings = in_order("checking images", &dataset.samples, || (), examined)?;
    let mut report = Report { problems, ..Report::default() };
    report.target_sizes = BIN_LABELS.iter().map(|&label| (label, 0)).collect();
    let mut moments = Moments::default();
    for finding in findings {
        match finding {
            Ok(finding) => {
                moments = moments.plus(finding.moments);
                report.add(finding);
            }
            Err(error) => report.problems.push(format!("{error:#}")),
        }
    }
    report.normalisation = Normalisation::of(moments).ok();
    if report.problems.is_empty() {
        report.fingerprint = Some(format!("{:016x}", dataset.fingerprint()?));
    }
    Ok(report)
}

fn examine(sample: &Sample, labels: Option<(&Labels, &Path)>, resize_mask: bool) -> Result<Finding> {
    let image = StoredImage::open(&sample.image)?;
    let (width, height) = (image.width, image.height);
    let mut finding = Finding {
        size: (width, height),
        sixteen_bit: matches!(image.samples, Samples::Sixteen(_)),
        moments: image.moments(),
        areas: None,
        has_mask: sample.mask.is_some(),
        problems: Vec::new(),
    };
    if finding.has_mask {
        match sample.load_mask(width, height, resize_mask) {
            Ok(mask) => finding.areas = Some(targets::of(&mask).iter().map(|target| target.area).collect()),
            Err(error) => finding.problems.push(format!("{error:#}")),
        }
    }
    if let Some((labels, path)) = labels
        && let Err(error) = points::points_of(labels, path, &sample.name, width, height)
    {
        finding.problems.push(format!("{error:#}"));
    }
    Ok(finding)
}

impl Report {
    fn add(&mut self, finding: Finding) {
        self.images += 1;
        *self.sizes.entry(format!("{}x{}", finding.size.0, finding.size.1)).or_default() += 1;
        self.sixteen_bit += usize::from(finding.sixteen_bit);
        self.without_mask += usize::from(!finding.has_mask);
        self.problems.extend(finding.problems);
        let Some(areas) = finding.areas else { return };
        self.without_target += usize::from(areas.is_empty());
        self.targets += areas.len();
        *self.targets_per_image.entry(areas.len()).or_default() += 1;
        for area in areas {
            if let Some(label) = BIN_LABELS.get(bin_of(area)) {
                *self.target_sizes.entry(label).or_default() += 1;
            }
            let [least, most] = self.target_area.unwrap_or([area, area]);
            self.target_area = Some([least.min(area), most.max(area)]);
        }
    }

    /// The findings as text, the five commonest image sizes only, every problem in full.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{} images, {} of them 16-bit", self.images, self.sixteen_bit)];
        let mut sizes: Vec<(&String, &usize)> = self.sizes.iter().collect();
        sizes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let shown: Vec<String> = sizes.iter().take(5).map(|(size, count)| format!("{size} ({count})")).collect();
        let more = sizes.len().saturating_sub(5);
        lines.push(format!(
            "sizes: {}{}",
            shown.join(", "),
            if more > 0 { format!(", {more} others") } else { String::new() }
        ));
        if let Some(Normalisation { mean, std }) = self.normalisation {
            lines.push(format!("grey values: mean {mean:.4}, deviation {std:.4} of full scale"));
        }
        let [least, most] = self.target_area.unwrap_or_default();
        lines.push(format!(
            "{} targets of {least} to {most} px; {} images have none",
            self.targets, self.without_target
        ));
        let bins: Vec<String> = self.target_sizes.iter().map(|(bin, count)| format!("{bin} px: {count}")).collect();
        lines.push(format!("target sizes: {}", bins.join(", ")));
        let per_image: Vec<String> =
            self.targets_per_image.iter().map(|(count, images)| format!("{count}: {images}")).collect();
        lines.push(format!("images by number of targets: {}", per_image.join(", ")));
        if self.without_mask > 0 {
            lines.push(format!("{} images have no mask (training from a points file needs none)", self.without_mask));
        }
        match &self.fingerprint {
            Some(fingerprint) => lines.push(format!("no problems; fingerprint {fingerprint}")),
            None => {
                lines.push(format!("{} problems:", self.problems.len()));
                lines.extend(self.problems.iter().map(|problem| format!("  {problem}")));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::{GrayImage, Mask};
    use super::*;

    #[test]
    fn a_check_finds_every_problem_and_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for part in ["images", "masks", "img_idx"] {
            std::fs::create_dir(at(part)).unwrap();
        }
        let image = GrayImage { width: 16, height: 8, pixels: (0..128).map(|i| i as f32 / 127.0).collect() };
        let mut mask = Mask::empty(16, 8);
        (0..12).for_each(|i| mask.pixels[i] = 1);
        mask.pixels[3 * 16 + 3] = 1;
        for name in ["good", "small_mask", "cut", "far_point"] {
            image.save_png(&at(&format!("images/{name}.png"))).unwrap();
            mask.save_png(&at(&format!("masks/{name}.png"))).unwrap();
        }
        Mask::empty(8, 8).save_png(&at("masks/small_mask.png")).unwrap();
        let whole = std::fs::read(at("images/cut.png")).unwrap();
        std::fs::write(at("images/cut.png"), &whole[..whole.len() / 2]).unwrap();
        std::fs::write(at("img_idx/all.txt"), "good\nsmall_mask\ncut\nfar_point\nmissing\n").unwrap();
        std::fs::write(at("points.json"), r#"{"good": [[3, 3]], "small_mask": [], "cut": [], "far_point": [[16, 0]]}"#)
            .unwrap();

        let report = check(folder.path(), Path::new("all"), Some(&at("points.json")), false).unwrap();
        assert_eq!(report.images, 3);
        for name in ["missing.png", "small_mask.png", "cut.png", "far_point"] {
            let stem = name.trim_end_matches(".png");
            assert_eq!(
                report.problems.iter().filter(|p| p.contains(stem)).count(),
                1,
                "{name}: {:#?}",
                report.problems
            );
        }
        assert_eq!(report.problems.len(), 4);
        assert_eq!((report.targets, report.target_area), (4, Some([1, 12])));
        assert_eq!((report.target_sizes["0-10"], report.target_sizes["11-30"]), (2, 2));
        assert!(report.fingerprint.is_none() && report.text().contains("4 problems"));

        std::fs::write(at("img_idx/one.txt"), "good\n").unwrap();
        let report = check(folder.path(), Path::new("one"), Some(&at("points.json")), false).unwrap();
        assert!(report.problems.is_empty() && report.fingerprint.is_some());
        assert!(report.text().contains("2 targets of 1 to 12 px"), "{}", report.text());
    }
}
