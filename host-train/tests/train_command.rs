//! `gsacp train` as a user runs it, on synthetic scenes.

use std::path::Path;
use std::process::{Command, Output};

fn gsacp(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsacp"));
    command.args(arguments).env_remove("RUST_BACKTRACE").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ten frames of 64×64 with their lists.
fn scenes(folder: &Path) -> String {
    let data = folder.join("scenes").display().to_string();
    let made = gsacp(&["data", "synth", "--out", &data, "--count", "10", "--size", "64x64"]);
    assert!(made.status.success(), "{}", said(&made));
    data
}

const QUICK: [&str; 10] = [
    "--val-list",
    "val",
    "--set",
    "data.crop=32",
    "--set",
    "schedule.batch=2",
    "--set",
    "schedule.steps=6",
    "--set",
    "evaluation.every=1",
];

#[test]
fn a_run_that_was_stopped_continues_and_leaves_a_model_that_loads() {
    let folder = tempfile::tempdir().unwrap();
    let data = scenes(folder.path());
    let out = folder.path().join("run");
    let run = out.display().to_string();
    let train = [&["train", "--data", &data, "--out", &run][..], &QUICK].concat();

    let stopped = gsacp(&[&train[..], &["--max-minutes", "0.000001"]].concat());
    assert!(stopped.status.success(), "{}", said(&stopped));
    assert!(said(&stopped).contains("time is up after step 1 of 6") && said(&stopped).contains("--resume"));
    let refused = gsacp(&train);
    assert!(!refused.status.success() && said(&refused).contains("add --resume"), "{}", said(&refused));
    let changed = gsacp(&[&train[..], &["--resume", "--set", "schedule.lr=0.1"]].concat());
    assert!(!changed.status.success() && said(&changed).contains("schedule.lr (0.002 → 0.1)"), "{}", said(&changed));

    // A resumed run takes the folder's own configuration.
    let resumed = gsacp(&["train", "--data", &data, "--out", &run, "--val-list", "val", "--resume"]);
    assert!(resumed.status.success(), "{}", said(&resumed));
    let state = gsacp_train::model::StateDict::read(&out.join("model.safetensors")).unwrap();
    assert_eq!(gsacp_train::model::ModelInfo::read_from(&state.metadata).unwrap().widths, [4, 8, 16, 16, 16]);
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let records: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2, "two epochs of four steps and two");
    assert!(records[1]["validation"]["best"]["rates"]["images"] == 2 && records[1]["terms"]["loss"].is_f64());
    assert!(std::fs::read_to_string(out.join("config.toml")).unwrap().contains("crop = 32"));

    // Every epoch's record tells the signs of drift, and a page shows them.
    assert!(records.iter().all(|record| record["margin"].is_f64() && record.get("halo").is_some()));
    let page = folder.path().join("report.html").display().to_string();
    let drawn = gsacp(&["report", &run, "--out", &page]);
    assert!(drawn.status.success(), "{}", said(&drawn));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("background affinity mass") && page.matches("<figure>").count() == 5);
    let parent = folder.path().parent().unwrap().display().to_string();
    assert!(!page.contains(&parent), "a page names no machine's folders");
    let missing = gsacp(&["report", &data, "--out", "r.html"]);
    assert!(!missing.status.success() && said(&missing).contains("log.jsonl"), "{}", said(&missing));
}

#[test]
fn bad_input_is_named_and_leaves_no_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = scenes(folder.path());
    let out = folder.path().join("run");
    let run = out.display().to_string();
    let bad_points = folder.path().join("points.json");
    std::fs::write(&bad_points, "{\"a\": [[1, -2]]}").unwrap();
    let bad_points = bad_points.display().to_string();
    let cases: [(&[&str], &str); 15] = [
        (&["--set", "data.crop=33"], "crop = 33"),
        (&["--set", "model.width=half"], "width"),
        (&["--config", "none.toml"], "none.toml"),
        (&["--list", "none"], "no list none"),
        (&["--val-list", "none"], "no list none"),
        (&["--points", &bad_points], "points.json"),
        (
            &["--point-kind", "coarse", "--set", "supervision.prior.centred=true"],
            "prior.centred takes points for centroids",
        ),
        (
            &["--point-kind=coarse", "--set", "supervision.prior.registered=true", "--set", "data.flips=false"],
            "prior.registered takes points for centroids",
        ),
        (&["--set", "supervision.prior.registered=true"], "set data.flips = false"),
        (&["--init", "none.safetensors"], "none.safetensors"),
        (&["--set", "quantisation.aware=true"], "quantisation.aware fine-tunes a trained model: give it with --init"),
        (&["--set", "model.frozen_norms=true"], "give it with --init"),
        (&["--resume"], "no last.safetensors"),
        (&["--max-minutes=-1"], "--max-minutes"),
        (&["--device", "abacus"], "abacus"),
    ];
    for (arguments, named) in cases {
        let output = gsacp(&[&["train", "--data", &data, "--out", &run][..], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said(&output).contains(named), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).contains("panicked") && !out.exists(), "{arguments:?}");
    }
}
