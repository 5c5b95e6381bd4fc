//! Promise: from scenes to detections by the commands of the README, and a command that cannot go on names the file or
//! the key, says what to do, and leaves nothing half-written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use gsacp_core::graph::HALF;
use gsacp_train::model::transpose::transposed;
use gsacp_train::model::{StateDict, widen};
use gsacp_train::quantize::{QuantizedModel, Ranges};
use serde_json::Value;
use xtask::repository;

/// The committed models; their weights are good enough for every command.
fn committed(name: &str) -> PathBuf {
    repository::root().join("models/quarter").join(name)
}

fn gsacp(folder: &Path, arguments: &[&str]) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| repository::gsacp().unwrap());
    Command::new(program).args(arguments).current_dir(folder).env_remove("RUST_BACKTRACE").output().unwrap()
}

/// Standard output of a command that must succeed.
fn told(folder: &Path, arguments: &[&str]) -> String {
    let output = gsacp(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below `folder`, by name and content.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Twelve scenes of 64×64 in `scenes/`, the float model `m.safetensors` and the int8 model `m8.safetensors`.
fn workshop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    told(folder.path(), &["data", "synth", "--out", "scenes", "--count", "12", "--size", "64x64"]);
    for (from, to) in [("model.safetensors", "m.safetensors"), ("model.int8.safetensors", "m8.safetensors")] {
        std::fs::copy(committed(from), folder.path().join(to)).unwrap();
    }
    folder
}

#[test]
fn scenes_become_detections_by_the_commands_of_the_readme() {
    let workshop = workshop();
    let folder = workshop.path();
    let on = |command: &[&str], list: &str| {
        told(folder, &[command, &["--data", "scenes", "--list", list, "--json"]].concat())
    };
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap();

    let quantize = ["quantize", "--model", "m.safetensors", "--out", "q.safetensors", "--images", "4"];
    let quantised = json(on(&[quantize.as_slice(), &["--ranges", "equalised"]].concat(), "train"));
    assert_eq!(quantised["images"], 8);
    let calibration = QuantizedModel::read(&folder.join("q.safetensors")).unwrap().record.calibration;
    assert_eq!((calibration.images, calibration.ranges), (4, Some(Ranges::Equalised)));
    let calibrated = json(on(&["calibrate", "--model", "q.safetensors", "--fa", "1e-3", "1e-4"], "train"));
    let points = calibrated["operating_points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    assert!(points[0]["threshold"].as_f64() <= points[1]["threshold"].as_f64());
    told(folder, &["pack", "--model", "q.safetensors", "--out", "q.img"]);

    // A row for each model, below them the paper's.
    let table = told(
        folder,
        &["eval", "--model", "m.safetensors", "q.safetensors", "--data", "scenes", "--list", "val", "--paper"],
    );
    assert_eq!(table.lines().count(), 2 + 2 + 7, "{table}");
    for (model, kind) in [("m.safetensors", "float32"), ("q.safetensors", "int8")] {
        told(folder, &["export", model, "--onnx", &format!("{kind}.onnx"), "--size", "64x64"]);
    }

    // The file, the model image and the threshold given by hand say the same.
    let scored = json(on(&["eval", "--model", "q.safetensors", "--fa", "1e-3"], "val"));
    let threshold = points[0]["threshold"].to_string();
    let by_hand = json(on(&["eval", "--model", "q.img", "--threshold", &threshold], "val"));
    assert_eq!((&scored["overall"], &scored["roc"]), (&by_hand["overall"], &by_hand["roc"]));
    let flipped = json(on(&["eval", "--model", "q.img", "--threshold", &threshold, "--flips"], "val"));
    assert!(flipped["flips"] == true && by_hand["flips"] == false && flipped["roc"] != by_hand["roc"]);
    let names: Vec<String> = std::fs::read_to_string(folder.join("scenes/img_idx/val.txt"))
        .unwrap()
        .lines()
        .map(|name| format!("scenes/images/{name}.png"))
        .collect();
    let detect = |model: &'static str| {
        let images: Vec<&str> = names.iter().map(String::as_str).collect();
        json(told(folder, &[&["detect", "--model", model, "--overlay", "drawn", "--json"], &images[..]].concat()))
    };
    assert_eq!(detect("q.safetensors"), detect("q.img"));
    assert_eq!(std::fs::read_dir(folder.join("drawn")).unwrap().count(), names.len());
}

/// Two models side by side, and, where asked, the second of them transposed and not the first.
#[test]
fn models_are_set_side_by_side_as_they_are_or_transposed() {
    let folder = tempfile::tempdir().unwrap();
    let model = committed("model.safetensors");
    let one = StateDict::read(&model).unwrap();
    for (option, second) in [(None, one.clone()), (Some("--transpose"), transposed(&one).unwrap())] {
        let model = model.to_str().unwrap();
        let widen = ["widen", model, model, "--widths", "half", "--out", "wide.safetensors"];
        told(folder.path(), &widen.into_iter().chain(option).collect::<Vec<_>>());
        let made = StateDict::read(&folder.path().join("wide.safetensors")).unwrap();
        let expected = widen::widen(&[one.clone(), second], HALF, 0).unwrap();
        let values = |state: &StateDict, name| state.tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for name in expected.tensors.keys() {
            // Not `assert_eq`, which would print a thousand weights.
            assert!(values(&made, name) == values(&expected, name), "{name} with {option:?}");
        }
    }
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let workshop = workshop();
    let folder = workshop.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let float = StateDict::read(&folder.join("m.safetensors")).unwrap();
    let spoilt = |name: &str, spoil: &dyn Fn(&mut StateDict)| {
        let mut state = float.clone();
        spoil(&mut state);
        state.write(&folder.join(name)).unwrap();
    };
    const KEY: &str = "mlcl2.branch1.1.conv.weight";
    spoilt("missing.safetensors", &|state| drop(state.tensors.remove(KEY)));
    spoilt("extra.safetensors", &|state| {
        state.tensors.insert("one.too.many".into(), state.tensors[KEY].clone());
    });
    spoilt("misshapen.safetensors", &|state| {
        let flat = state.tensors[KEY].flatten_all().unwrap();
        state.tensors.insert(KEY.into(), flat);
    });
    spoilt("nan.safetensors", &|state| {
        let nan = (&state.tensors[KEY] * f64::NAN).unwrap();
        state.tensors.insert(KEY.into(), nan);
    });
    let int8 = std::fs::read(folder.join("m8.safetensors")).unwrap();
    write("cut8.safetensors", &int8[..int8.len() / 2]);
    told(folder, &["pack", "--model", "m8.safetensors", "--out", "good.img"]);
    let image = std::fs::read(folder.join("good.img")).unwrap();
    let flipped = |at: usize| {
        let mut bytes = image.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    write("cut.img", &image[..image.len() - 1]);
    write("flipped.img", &flipped(image.len() - 20));
    write("version.img", &flipped(8));
    write("graph.img", &flipped(12));
    write("dot.png", &{
        let mut png = std::io::Cursor::new(Vec::new());
        image::GrayImage::new(1, 1).write_to(&mut png, image::ImageFormat::Png).unwrap();
        png.into_inner()
    });
    write("half.png", &std::fs::read(folder.join("scenes/images/synth_00000.png")).unwrap()[..60]);
    write("text.png", b"no picture");
    write("scenes/img_idx/ghost.txt", b"synth_00000\nghost\n");
    std::fs::create_dir_all(folder.join("other/images")).unwrap();
    for part in ["masks", "img_idx"] {
        std::fs::create_dir_all(folder.join("other").join(part)).unwrap();
    }
    std::fs::copy(folder.join("scenes/images/synth_00000.png"), folder.join("other/images/a.png")).unwrap();
    image::GrayImage::new(32, 64).save(folder.join("other/masks/a.png")).unwrap();
    write("other/img_idx/all.txt", b"a\n");
    let before = files(folder);

    let scenes = ["--data", "scenes", "--list", "val"];
    let picture = "scenes/images/synth_00000.png";
    let on_scenes = |command: &[&'static str]| [command, &scenes[..]].concat();
    let with_model = |model: &'static str| vec!["detect", "--model", model, picture];
    let training = |options: &[&'static str]| [&on_scenes(&["train", "--out", "run"])[..], options].concat();
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (with_model("none.safetensors"), &["none.safetensors"]),
        (with_model("missing.safetensors"), &["missing.safetensors", KEY]),
        (with_model("extra.safetensors"), &["extra.safetensors", "one.too.many"]),
        (with_model("misshapen.safetensors"), &["misshapen.safetensors", KEY]),
        (with_model("nan.safetensors"), &["nan.safetensors", KEY, "not finite"]),
        (with_model("cut8.safetensors"), &["cut8.safetensors"]),
        (with_model("cut.img"), &["cut.img"]),
        (with_model("flipped.img"), &["flipped.img"]),
        (with_model("version.img"), &["version.img"]),
        (with_model("graph.img"), &["graph.img"]),
        (with_model("text.png"), &["text.png"]),
        (vec!["detect", "--model", "m8.safetensors", "dot.png"], &["dot.png"]),
        (vec!["detect", "--model", "m8.safetensors", "half.png"], &["half.png"]),
        (vec!["detect", "--model", "m8.safetensors", "text.png"], &["text.png"]),
        (vec!["detect", "--model", "m8.safetensors", "ghost.png"], &["ghost.png"]),
        (on_scenes(&["eval", "--model", "m8.safetensors", "--engine", "float"]), &["m8.safetensors", "int8"]),
        (on_scenes(&["eval", "--model", "m8.safetensors", "--fa", "0.25"]), &["calibrate"]),
        (on_scenes(&["eval", "--model", "nan.safetensors"]), &["nan.safetensors", KEY]),
        (vec!["eval", "--model", "m8.safetensors", "--data", "scenes", "--list", "ghost"], &["ghost"]),
        (vec!["eval", "--model", "m8.safetensors", "--data", "other", "--list", "all"], &["a.png", "--resize-mask"]),
        (on_scenes(&["quantize", "--model", "m8.safetensors", "--out", "out.safetensors"]), &["m8.safetensors"]),
        (on_scenes(&["quantize", "--model", "missing.safetensors", "--out", "out.safetensors"]), &[KEY]),
        (on_scenes(&["calibrate", "--model", "good.img", "--fa", "1e-5"]), &["good.img"]),
        (on_scenes(&["calibrate", "--model", "m.safetensors", "--fa", "7"]), &["fraction"]),
        (vec!["pack", "--model", "m.safetensors", "--out", "out.img"], &["m.safetensors"]),
        (vec!["pack", "--model", "cut8.safetensors", "--out", "out.img"], &["cut8.safetensors"]),
        (vec!["export", "missing.safetensors", "--onnx", "out.onnx"], &["missing.safetensors", KEY]),
        (vec!["export", "cut8.safetensors", "--onnx", "out.onnx"], &["cut8.safetensors"]),
        (vec!["export", "good.img", "--onnx", "out.onnx"], &["good.img"]),
        (vec!["export", "m.safetensors", "--onnx", "out.onnx", "--size", "64x60"], &["m.safetensors", "64x60", "16"]),
        (vec!["export", "m.safetensors", "--onnx", "none/out.onnx"], &["none/out.onnx"]),
        (training(&["--teacher", "m.safetensors"]), &["--teacher", "distill"]),
        (training(&["--set", "supervision.method=distill"]), &["--teacher"]),
        (
            training(&["--set", "supervision.method=distill", "--teacher", "m8.safetensors"]),
            &["m8.safetensors", "cannot teach"],
        ),
        (on_scenes(&["data", "sources", "--out", "lists"]), &["val.txt", "one source"]),
        (on_scenes(&["eval", "--model", "m.safetensors", "m8.safetensors", "--by-size"]), &["--by-size", "one"]),
        (vec!["reference-check", "--state", "missing.safetensors", "--io", "m.safetensors"], &["missing.safetensors"]),
    ];
    for (arguments, named) in cases {
        let output = gsacp(folder, &arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !message.contains("panicked"), "{arguments:?}: {message}");
        for name in named {
            assert!(message.contains(name), "{arguments:?} does not name {name}: {message}");
        }
    }
    assert!(files(folder) == before, "a command that failed has written something");
}
