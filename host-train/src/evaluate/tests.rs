//! Evaluation of detectors whose output is known.

use std::path::Path;

use super::calibrate::CalibrationSet;
use super::*;
use crate::data::dataset::Dataset;
use crate::data::image::{GrayImage, Samples};

const SIDE: usize = 32;

/// A set whose images are their own masks: image k has a square target of 2×2 at (4 + k, 5), brightness 200.
fn set(folder: &Path, names: &[&str]) -> Dataset {
    for sub in ["images", "masks", "img_idx"] {
        std::fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for (k, name) in names.iter().enumerate() {
        let mut image = GrayImage { width: SIDE, height: SIDE, pixels: vec![0.0; SIDE * SIDE] };
        let mut mask = Mask::empty(SIDE, SIDE);
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            image.pixels[(5 + dy) * SIDE + 4 + k + dx] = 200.0 / 255.0;
            mask.pixels[(5 + dy) * SIDE + 4 + k + dx] = 1;
        }
        image.save_png(&folder.join(format!("images/{name}.png"))).unwrap();
        mask.save_png(&folder.join(format!("masks/{name}.png"))).unwrap();
    }
    std::fs::write(folder.join("img_idx/all.txt"), names.join("\n")).unwrap();
    Dataset::open(folder, Path::new("all")).unwrap()
}

/// A detector that reads the target off the image: logit +4 on it, −4 elsewhere; one false pixel of logit 2 at (25, 25).
fn oracle(image: &StoredImage) -> Result<LogitMap> {
    let Samples::Eight(v) = &image.samples else { unreachable!("the set has 8 bits") };
    let mut logits: Vec<f32> = v.iter().map(|&v| if v > 100 { 4.0 } else { -4.0 }).collect();
    logits[25 * SIDE + 25] = 2.0;
    LogitMap::cut(Values::Float(logits), SIDE, SIDE, SIDE)
}

const NAMES: [&str; 4] = ["Misc_1", "000001", "XDU7", "cloud"];

#[test]
fn a_known_detector_gets_its_known_rates() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES);
    let e = evaluate(&set.samples, &Options::default(), oracle).unwrap();
    assert_eq!((e.overall.images, e.overall.targets, e.overall.pd), (4, 4, Some(1.0)));
    assert_eq!((e.overall.miou, e.overall.niou), (Some(0.8), Some(0.8)));
    assert_eq!((e.overall.fa, e.overall.false_alarms_per_frame), (Some(1.0 / 1024.0), Some(1.0)));
    assert_eq!(e.best, Some(Best { threshold: 2.0, miou: 1.0 }));
    assert_eq!(e.by_source.keys().copied().collect::<Vec<_>>(), ["IRSTD-1K", "NUAA", "NUDT", "other"]);
    assert_eq!((e.by_size[0].targets, e.by_size[0].iou, e.by_size[0].area_ratio), (4, Some(1.0), Some(1.0)));
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    assert!((e.margin.unwrap() - (sigmoid(4.0) - sigmoid(2.0))).abs() < 1e-6);
    let options = Options { threshold: 2 * 256, ..Options::default() };
    let above = evaluate(&set.samples, &options, oracle).unwrap();
    assert_eq!((above.overall.miou, above.overall.fa), (Some(1.0), Some(0.0)), "the threshold itself is background");
}

#[test]
fn the_roc_table_has_a_line_for_every_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES[..1]);
    let csv = evaluate(&set.samples, &Options::default(), oracle).unwrap().roc_csv();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "threshold,pd,fa,miou,false_alarms_per_frame");
    assert_eq!(lines.len(), 66);
    assert_eq!(lines[33], "0,1e0,9.765625e-4,8e-1,1e0");
    assert_eq!(lines[65], "8,0e0,0e0,0e0,0e0");
}

#[test]
fn saved_masks_are_the_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES[..2]);
    let out = folder.path().join("new/folder");
    let options = Options { save_masks: Some(out.clone()), threshold: 512, ..Options::default() };
    evaluate(&set.samples, &options, oracle).unwrap();
    let saved = Mask::open(&out.join("000001.png")).unwrap();
    assert_eq!(saved, Mask::open(&folder.path().join("masks/000001.png")).unwrap());
}

#[test]
fn a_mask_of_another_size_names_its_file_and_can_be_resized() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES[..1]);
    let small = Mask::open(&set.samples[0].mask.clone().unwrap()).unwrap().resized(16, 16);
    small.save_png(&folder.path().join("masks/Misc_1.png")).unwrap();
    let error = evaluate(&set.samples, &Options::default(), oracle).unwrap_err();
    assert!(format!("{error:#}").contains("Misc_1.png"), "{error:#}");
    let options = Options { resize_mask: true, ..Options::default() };
    assert_eq!(evaluate(&set.samples, &options, oracle).unwrap().overall.pd, Some(1.0));
}

#[test]
fn calibration_finds_the_exact_step_and_what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES);
    let mut calibration = CalibrationSet::new(&set.samples, false, oracle).unwrap();
    let points = calibration.operating_points(&[1e-6, 1e-3]).unwrap();
    // The false pixel has logit 2 exactly: from 2·256 on it is no prediction. 1e-3 allows it (1/1024), but not a full frame.
    assert_eq!((points[0].threshold, points[0].pd, points[0].fa), (512, 1.0, 0.0));
    assert_eq!((points[1].threshold, points[1].fa), (-1024, 1.0 / 1024.0));
    assert!(calibration.operating_points(&[-1.0]).is_err());
    assert!(calibration.operating_points(&[f32::NAN]).is_err());
}

#[test]
fn a_thinned_list_is_evenly_spaced() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES);
    let names = |limit| thin(&set.samples, limit).into_iter().map(|s| s.name).collect::<Vec<_>>();
    assert_eq!(names(2), ["Misc_1", "XDU7"]);
    assert_eq!((names(0).len(), names(99).len()), (4, 4));
}

#[test]
fn a_threshold_between_two_steps_is_the_lower_one() {
    assert_eq!([0.0, 0.1, -0.1, 1.0, 1e9, f32::NAN].map(to_steps), [0, 25, -26, 256, i16::MAX, 0]);
}

#[test]
fn broken_logits_name_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(folder.path(), &NAMES[..1]);
    let broken = |_: &StoredImage| LogitMap::cut(Values::Float(vec![f32::NAN; SIDE * SIDE]), SIDE, SIDE, SIDE);
    let error = evaluate(&set.samples, &Options::default(), broken).unwrap_err();
    assert!(format!("{error:#}").contains("Misc_1.png"), "{error:#}");
}
