//! `gsacp data` as a user meets it: what it writes, and how it refuses what it cannot use.

use std::path::Path;
use std::process::{Command, Output};

use gsacp_train::data::dataset::Dataset;
use gsacp_train::data::patch::Patch;
use gsacp_train::data::points::{Kind, Point, Source};
use gsacp_train::data::train_set::{Reading, TrainSet};

fn gsacp(arguments: &[&str], folder: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_gsacp");
    Command::new(program).arg("data").args(arguments).current_dir(folder).output().expect("gsacp starts")
}

/// Standard output of a command that must succeed.
fn told(arguments: &[&str], folder: &Path) -> String {
    let output = gsacp(arguments, folder);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail with a message and no panic.
fn refused(arguments: &[&str], folder: &Path) -> String {
    let output = gsacp(arguments, folder);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !message.contains("panicked"), "{arguments:?}: {message}");
    message
}

/// A folder with the synthetic set `set` of ten frames of 96×64.
fn with_set() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    told(&["synth", "--out", "set", "--count", "10", "--seed", "3", "--size", "96x64"], folder.path());
    folder
}

#[test]
fn a_synthetic_set_passes_its_check_and_gives_its_own_points() {
    let folder = with_set();
    let check = ["check", "--data", "set", "--list", "train", "--points", "set/points.json", "--json"];
    let report: serde_json::Value = serde_json::from_str(&told(&check, folder.path())).unwrap();
    assert_eq!((report["images"].as_u64(), report["sizes"]["96x64"].as_u64()), (Some(8), Some(8)));
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(report["fingerprint"].as_str().map(str::len), Some(16));

    let all: String = (0..10).map(|i| format!("synth_{i:05}\n")).collect();
    std::fs::write(folder.path().join("set/img_idx/all.txt"), all).unwrap();
    told(&["points", "--data", "set", "--list", "all", "--kind", "centroid", "--out", "mine.json"], folder.path());
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("mine.json"), read("set/points.json"));

    told(&["preview", "--data", "set", "--list", "val", "--out", "sheet.png"], folder.path());
    assert!(read("sheet.png").starts_with(b"\x89PNG"));

    // What training sees, as its configuration says.
    let crops = |out: &str, more: &[&str]| {
        let options =
            ["crops", "--data", "set", "--list", "train", "--set", "data.crop=64", "--count", "9", "--out", out];
        let names = told(&[&options, more].concat(), folder.path());
        assert_eq!(names.lines().count(), 9);
        read(out)
    };
    let plain = crops("plain.png", &[]);
    assert_eq!(plain, crops("again.png", &[]));
    assert_ne!(plain, crops("pasted.png", &["--set", "data.pasted=8"]));
}

#[test]
fn bad_input_is_refused_by_name_and_nothing_is_written() {
    let folder = with_set();
    let at = |name: &str| folder.path().join(name);
    let message = refused(&["synth", "--out", "set"], folder.path());
    assert!(message.contains("set exists and is not empty"), "{message}");
    let message = refused(&["synth", "--out", "other", "--size", "8x8"], folder.path());
    assert!(message.contains("8x8") && !at("other").exists(), "{message}");
    let message = refused(&["check", "--data", "nowhere", "--list", "train"], folder.path());
    assert!(message.contains("nowhere"), "{message}");

    let whole = std::fs::read(at("set/images/synth_00001.png")).unwrap();
    std::fs::write(at("set/images/synth_00001.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at("set/images/synth_00002.png"), "not an image").unwrap();
    std::fs::remove_file(at("set/images/synth_00003.png")).unwrap();
    let check = gsacp(&["check", "--data", "set", "--list", "train"], folder.path());
    let report = String::from_utf8(check.stdout).unwrap();
    assert!(!check.status.success());
    for name in ["synth_00001.png", "synth_00002.png", "images/synth_00003 "] {
        assert!(report.contains(name), "{report}");
    }
    let points = ["points", "--data", "set", "--list", "train", "--out", "p.json"];
    assert!(refused(&points, folder.path()).contains("images/synth_00003 "));
    std::fs::write(at("set/img_idx/two.txt"), "synth_00000\nsynth_00001\n").unwrap();
    let points = ["points", "--data", "set", "--list", "two", "--out", "p.json"];
    assert!(refused(&points, folder.path()).contains("synth_00001.png"));
    assert!(!at("p.json").exists());
}

#[test]
fn a_training_set_reads_points_from_masks_and_from_files_alike() {
    let folder = with_set();
    let root = folder.path().join("set");
    let dataset = Dataset::open(&root, Path::new("train")).unwrap();
    let reading = |points| Reading { points, masks: true, resize_mask: false };
    let made = TrainSet::read(&dataset, &reading(Source::Masks { kind: Kind::Centroid, seed: 0 })).unwrap();
    let mut read = TrainSet::read(&dataset, &reading(Source::File(root.join("points.json")))).unwrap();
    assert_eq!(made.items.len(), 8);
    for (a, b) in made.items.iter().zip(&read.items) {
        assert_eq!((&a.name, &a.points, &a.patches), (&b.name, &b.points, &b.patches));
        assert!(a.mask.is_some() && a.patches.iter().all(Patch::is_empty));
    }
    // Each point is given the prior that is drawn for it, in order, and one is drawn for each.
    let pixel = |p: &Point| Patch { x0: p.x as i32, y0: p.y as i32, width: 1, height: 1, values: vec![1.0] };
    read.draw("drawing pixels", |item| item.points.iter().map(pixel).collect()).unwrap();
    for item in &read.items {
        assert_eq!(item.patches, item.points.iter().map(pixel).collect::<Vec<_>>());
    }
    let message = read.draw("drawing too few", |_| Vec::new()).unwrap_err().to_string();
    assert!(message.contains("synth_0000") && message.contains("0 priors"), "{message}");
    assert_eq!(made.normalisation().unwrap(), dataset.normalisation().unwrap());

    // Points alone need no masks; a point outside its image is refused by name.
    std::fs::remove_dir_all(root.join("masks")).unwrap();
    let dataset = Dataset::open(&root, Path::new("train")).unwrap();
    let from_file = |path| Reading { points: Source::File(path), masks: false, resize_mask: false };
    assert!(TrainSet::read(&dataset, &from_file(root.join("points.json"))).is_ok());
    assert!(TrainSet::read(&dataset, &reading(Source::Masks { kind: Kind::Coarse, seed: 0 })).is_err());
    let text = std::fs::read_to_string(root.join("points.json")).unwrap();
    let far = folder.path().join("far.json");
    std::fs::write(&far, text.replacen("[[", "[[96,0],[", 1)).unwrap();
    let message = format!("{:#}", TrainSet::read(&dataset, &from_file(far)).unwrap_err());
    assert!(message.contains("far.json") && message.contains("synth_0000") && message.contains("(96, 0)"), "{message}");
}
