//! `gsacp soup` as a user runs it, on synthetic scenes.

use std::path::Path;
use std::process::{Command, Output};

use gsacp_train::model::StateDict;
use serde_json::Value;

fn gsacp(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsacp"));
    command.args(arguments).current_dir(folder).env_remove("RUST_BACKTRACE").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn told(folder: &Path, arguments: &[&str]) -> String {
    let output = gsacp(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Ten scenes, a run `run` with three late checkpoints, and one of other widths in `wide`.
fn workshop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    told(folder.path(), &["data", "synth", "--out", "scenes", "--count", "10", "--size", "64x64"]);
    let train = |out: &str, widths: &str, epochs: &str| {
        let settings =
            ["data.crop=32", "schedule.batch=4", "checkpoint.keep_late=3", "schedule.lr=0.01", "ema.decay=0.1"];
        let settings = settings.iter().copied().chain([widths, epochs]).flat_map(|setting| ["--set", setting]);
        told(
            folder.path(),
            &["train", "--data", "scenes", "--out", out].into_iter().chain(settings).collect::<Vec<_>>(),
        );
    };
    train("run", "model.widths=quarter", "schedule.epochs=3");
    train("wide", "model.widths=half", "schedule.epochs=1");
    folder
}

const ON: [&str; 8] = ["--data", "scenes", "--list", "train", "--val-list", "val", "--batches", "4"];

#[test]
fn late_checkpoints_become_one_model_that_scores_no_less_than_its_parts() {
    let workshop = workshop();
    let folder = workshop.path();
    let soup = |mode: &str| -> Value {
        let out = format!("{mode}.safetensors");
        let arguments = [&["soup", "run", "--mode", mode, "--out", &out, "--json"][..], &ON].concat();
        serde_json::from_str(&told(folder, &arguments)).unwrap()
    };
    let equal = soup("equal");
    assert_eq!(equal["files"].as_array().unwrap().len(), 3);
    assert!(
        equal["shares"].as_array().unwrap().iter().all(|share| (share.as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12)
    );
    for mode in ["greedy", "sweep"] {
        let made = soup(mode);
        let score = |candidate: &Value| candidate["score"].as_f64().unwrap();
        let tried = made["tried"].as_array().unwrap();
        let best = tried.iter().find(|candidate| candidate["shares"] == made["shares"]).unwrap();
        assert!(tried.len() >= 4 && tried.iter().all(|candidate| score(candidate) <= score(best)), "{mode}: {made}");
    }

    // The weights are the mean of the three; the statistics are their own.
    let read = |file: &str| StateDict::read(&folder.join(file)).unwrap();
    let (mixed, parts) = (read("equal.safetensors"), [1, 2, 3].map(|n| read(&format!("run/epoch-000{n}.safetensors"))));
    let values = |state: &StateDict, name: &str| state.tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mean = |name: &str, at: usize| parts.iter().map(|part| f64::from(values(part, name)[at])).sum::<f64>() / 3.0;
    let weight = "stage.layer1.0.weight";
    for (at, value) in values(&mixed, weight).iter().enumerate() {
        assert!((f64::from(*value) - mean(weight, at)).abs() < 1e-6, "{weight} {at}");
    }
    let statistics = "stage.layer1.1.running_mean";
    assert!((f64::from(values(&mixed, statistics)[0]) - mean(statistics, 0)).abs() > 1e-6, "{statistics} was averaged");
    assert!(mixed.metadata["gsacp.soup"].contains("epoch-0002.safetensors"));

    // It is a model like any other, and says what eval says.
    let rates: Value = serde_json::from_str(&told(
        folder,
        &["eval", "--model", "equal.safetensors", "--data", "scenes", "--list", "val", "--json"],
    ))
    .unwrap();
    assert_eq!(rates["overall"]["miou"], equal["validation"]["at_zero"]["rates"]["miou"]);
    // The same command, the same bytes of every tensor.
    let before = std::fs::read(folder.join("equal.safetensors")).unwrap();
    soup("equal");
    assert_eq!(StateDict::from_bytes(&before).unwrap().tensors.len(), read("equal.safetensors").tensors.len());
    assert_eq!(values(&mixed, statistics), values(&read("equal.safetensors"), statistics));
}

#[test]
fn frozen_norms_stay_what_they_were_and_what_chooses_nothing_needs_no_images_to_choose_on() {
    let workshop = workshop();
    let folder = workshop.path();
    let settings = ["schedule.batch=1", "data.crop=64", "data.shrink=true", "data.scales=[1.0, 0.5]"];
    let settings = settings.iter().chain(&["model.frozen_norms=true", "schedule.epochs=2", "checkpoint.keep_late=2"]);
    let settings = settings.flat_map(|setting| ["--set", *setting]);
    let settings = settings.chain(["--set", "evaluation.every=1", "--val-list", "val"]);
    let train = ["train", "--data", "scenes", "--out", "frames", "--init", "run/model.safetensors"];
    told(folder, &train.into_iter().chain(settings).collect::<Vec<_>>());
    let soup =
        |mode| ["soup", "frames", "--data", "scenes", "--list", "train", "--out", "soup.safetensors", "--mode", mode];
    let refused = gsacp(folder, &soup("greedy"));
    assert!(!refused.status.success() && said(&refused).contains("--val-list"), "{}", said(&refused));
    told(folder, &soup("equal"));
    let values = |file: &str, name: &str| {
        let state = StateDict::read(&folder.join(file)).unwrap();
        state.tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for (name, kept) in [("stage.layer1.1.running_mean", true), ("stage.layer1.0.weight", false)] {
        let [before, late, soup] = ["run/model.safetensors", "frames/epoch-0002.safetensors", "soup.safetensors"]
            .map(|file| values(file, name));
        assert_eq!((before == late, before == soup), (kept, kept), "{name}");
    }
    let [late, soup] =
        ["frames/epoch-0001.safetensors", "soup.safetensors"].map(|file| StateDict::read(&folder.join(file)).unwrap());
    assert!(soup.metadata["gsacp.soup"].contains("\"batches\":0"), "{}", soup.metadata["gsacp.soup"]);
    let measured = |state: &StateDict| state.metadata.contains_key("gsacp.validation");
    assert!(measured(&late) && !measured(&soup), "what was measured of a part is not the soup's");
}

#[test]
fn what_cannot_be_averaged_is_named_and_nothing_is_written() {
    let workshop = workshop();
    let folder = workshop.path();
    let late = "run/epoch-0003.safetensors";
    let cases: [(&[&str], &[&str], &str); 6] = [
        (&[late, "wide/epoch-0001.safetensors"], &ON, "wide/epoch-0001.safetensors cannot be averaged"),
        (&[late, "run/last.safetensors"], &ON, "run/last.safetensors cannot be averaged"),
        (&["none.safetensors"], &ON, "none.safetensors"),
        (&["scenes"], &ON, "checkpoint.keep_late"),
        (&[late], &["--data", "scenes", "--list", "train", "--val-list", "train"], "held out"),
        (&[late], &["--data", "scenes", "--list", "train", "--val-list", "none"], "no list none"),
    ];
    for (from, on, named) in cases {
        let arguments = [&["soup", "--mode", "equal", "--out", "soup.safetensors"][..], on, from].concat();
        let output = gsacp(folder, &arguments);
        assert!(!output.status.success() && said(&output).contains(named), "{named}: {}", said(&output));
        assert!(!said(&output).contains("panicked") && !folder.join("soup.safetensors").exists(), "{named}");
    }
}
