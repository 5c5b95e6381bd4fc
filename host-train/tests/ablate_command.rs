//! `gsacp ablate` as a user runs it, on synthetic scenes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsacp"));
    command.args(arguments).current_dir(folder).env_remove("RUST_BACKTRACE");
    command
}

fn gsacp(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn told(folder: &Path, arguments: &[&str]) -> String {
    let output = gsacp(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

const PLAN: &str = "data = \"scenes\"\nlist = \"train\"\nval_list = \"val\"\nseeds = [1, 2]\n\
    set = [\"schedule.steps=5\", \"data.crop=32\", \"schedule.batch=2\", \"checkpoint.minutes=0\"]\n\
    [[variant]]\nname = \"no-hbc\"\nparent = \"base\"\nset = \"supervision.gsacp.lambda_hbc=0\"\n";

/// Ten frames of 64×64 and a plan of four runs of five steps.
fn workshop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    told(folder.path(), &["data", "synth", "--out", "scenes", "--count", "10", "--size", "64x64"]);
    std::fs::write(folder.path().join("plan.toml"), PLAN).unwrap();
    folder
}

fn entries(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn labels(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|entry| format!("{}:{}", entry["name"].as_str().unwrap(), entry["seed"])).collect()
}

#[test]
fn a_plan_that_is_killed_goes_on_where_it_was_and_repeats_nothing() {
    let workshop = workshop();
    let folder = workshop.path();
    let ablate = ["ablate", "plan.toml", "--out", "runs"];

    // Stopped in the middle of the first run, then killed as soon as the second one has a checkpoint.
    let stopped = told(folder, &[&ablate[..], &["--max-minutes", "0.000001", "--json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&stopped).unwrap()["pending"].as_array().unwrap().len(), 4);
    let mut child = command(folder, &ablate).spawn().unwrap();
    let (second, started) = (folder.join("runs/no-hbc/seed-1/last.safetensors"), Instant::now());
    while !second.is_file() {
        assert!(started.elapsed() < Duration::from_secs(300), "the second run does not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = std::fs::read(folder.join("runs/ledger.jsonl")).unwrap();
    assert_eq!(labels(&entries(folder.join("runs/ledger.jsonl")))[0], "base:1", "written before the next run starts");

    let told_json = told(folder, &[&ablate[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&told_json).unwrap();
    assert_eq!(report["pending"], serde_json::json!([]));
    assert_eq!(report["rows"][1]["against_parent"]["seeds"], 2);
    let ledger = entries(folder.join("runs/ledger.jsonl"));
    assert_eq!(labels(&ledger), ["base:1", "no-hbc:1", "base:2", "no-hbc:2"]);
    let after = std::fs::read(folder.join("runs/ledger.jsonl")).unwrap();
    assert_eq!(after[..before.len()], before[..], "nothing that was written changes");
    let entry = &ledger[1];
    assert_eq!(entry["difference"], "supervision.gsacp.lambda_hbc (0.5 → 0.0)");
    assert!(entry["steps"] == 5 && entry["terms"]["loss"].is_f64() && entry["metrics"]["best"]["rates"]["images"] == 2);
    assert!(entry["data"]["train"].is_string() && entry["code"].is_string() && entry["seconds"].is_f64());

    // The killed run is the run that was not: the same weights as in a folder of its own.
    told(folder, &["ablate", "plan.toml", "--out", "whole", "--run", "no-hbc:1"]);
    let model = |out: &str| std::fs::read(folder.join(out).join("no-hbc/seed-1/model.safetensors")).unwrap();
    let state = |out: &str| gsacp_train::model::StateDict::from_bytes(&model(out)).unwrap().tensors;
    let killed = state("runs");
    for (name, tensor) in state("whole") {
        let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&tensor), values(&killed[&name]), "{name}");
    }

    // All is done: the table again, without training.
    let table = told(folder, &[&ablate[..], &["--table"]].concat());
    assert!(table.contains("| no-hbc | base | supervision.gsacp.lambda_hbc (0.5 → 0.0) | 2 |"), "{table}");
    assert_eq!(table, told(folder, &ablate));
    assert_eq!(std::fs::read(folder.join("runs/ledger.jsonl")).unwrap(), after);

    // A plan that changed, and data that changed, are not mixed with what is there.
    std::fs::write(folder.join("plan.toml"), PLAN.replace("steps=5", "steps=6")).unwrap();
    let changed = gsacp(folder, &ablate);
    assert!(!changed.status.success() && said(&changed).contains("schedule.steps (5 → 6)"), "{}", said(&changed));
    std::fs::write(folder.join("plan.toml"), PLAN.replace("seeds = [1, 2]", "seeds = [1, 3]")).unwrap();
    let list = std::fs::read_to_string(folder.join("scenes/img_idx/train.txt")).unwrap();
    let fewer: String = list.lines().skip(1).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(folder.join("scenes/img_idx/train.txt"), fewer).unwrap();
    let other = gsacp(folder, &ablate);
    assert!(!other.status.success() && said(&other).contains("training data has changed"), "{}", said(&other));
    assert_eq!(std::fs::read(folder.join("runs/ledger.jsonl")).unwrap(), after);
}

#[test]
fn a_cluster_runs_the_emitted_commands_and_their_ledgers_are_joined() {
    let workshop = workshop();
    let folder = workshop.path();
    let emitted = told(folder, &["ablate", "plan.toml", "--out", "runs", "--emit"]);
    let commands: Vec<&str> = emitted.lines().collect();
    assert_eq!(commands.len(), 4);
    assert!(!folder.join("runs").exists());
    // A reader that has seen enough, as `| head` has.
    let mut child = command(folder, &["ablate", "plan.toml", "--out", "runs", "--emit"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let unread = child.wait_with_output().unwrap();
    assert!(unread.status.success(), "{}", said(&unread));
    let mut joined = Vec::new();
    for line in &commands[..2] {
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        told(folder, &words);
        let ledger = words[words.iter().position(|word| *word == "--ledger").unwrap() + 1];
        joined.extend(std::fs::read(folder.join(ledger)).unwrap());
    }
    std::fs::write(folder.join("runs/ledger.jsonl"), joined).unwrap();
    let left = told(folder, &["ablate", "plan.toml", "--out", "runs", "--emit"]);
    assert_eq!(left.lines().collect::<Vec<_>>(), commands[2..]);
    let table = told(folder, &["ablate", "plan.toml", "--out", "runs", "--table"]);
    assert!(table.contains("(one seed)"), "{table}");
}

#[test]
fn a_plan_that_cannot_be_run_is_refused_before_any_work() {
    let workshop = workshop();
    let folder = workshop.path();
    let variant = |name: &str, parent: &str, set: &str| {
        format!("{PLAN}[[variant]]\nname = \"{name}\"\nparent = \"{parent}\"\nset = {set}\n")
    };
    let cases = [
        (variant("two", "base", "[\"ema.decay=0.5\", \"seed=4\"]"), "two changes 2 keys against base"),
        (variant("odd", "base", "\"ema.decoy=0.5\""), "decoy"),
        (variant("lost", "nobody", "\"ema.decay=0.5\""), "parent nobody"),
        (variant("loop", "loop", "\"ema.decay=0.5\""), "circle"),
        (variant("no-hbc", "base", "\"ema.decay=0.5\""), "two variants are named no-hbc"),
        (PLAN.replace("\"val\"", "\"valley\""), "no list valley"),
        (PLAN.replace("seeds", "init = \"none.safetensors\"\nseeds"), "none.safetensors"),
        (PLAN.replace("seeds", "config = \"none.toml\"\nseeds"), "none.toml"),
    ];
    for (plan, named) in cases {
        std::fs::write(folder.join("plan.toml"), &plan).unwrap();
        let output = gsacp(folder, &["ablate", "plan.toml", "--out", "runs"]);
        assert!(!output.status.success() && said(&output).contains(named), "{named}: {}", said(&output));
        assert!(!said(&output).contains("panicked") && !folder.join("runs").exists(), "{named}");
    }
    let output = gsacp(folder, &["ablate", "none.toml", "--out", "runs"]);
    assert!(!output.status.success() && said(&output).contains("none.toml"));
    std::fs::write(folder.join("plan.toml"), PLAN).unwrap();
    let output = gsacp(folder, &["ablate", "plan.toml", "--out", "runs", "--run", "base:9"]);
    assert!(!output.status.success() && said(&output).contains("base:1, no-hbc:1"), "{}", said(&output));
}
