//! The curves of runs, from their logs, as one self-contained HTML page.
//!
//! What is drawn are METHOD §2's signs of drift: background affinity mass and L_prop over the training batches of an
//! epoch, and, where a run was validated, the margin between targets and hardest background, the halo (area of the
//! detections over area of the targets they match, at logit 0) and mIoU at the best threshold within the limit of Fa. An
//! affinity that drifts shows growing mass with falling L_prop; then the margin erodes, the halo grows and mIoU rolls back.

pub mod chart;
pub mod page;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One curve's place in a log record and what it is called.
#[derive(Debug)]
pub struct Quantity {
    /// Title of its chart.
    pub title: &'static str,
    /// What it says, for the reader of the page.
    pub meaning: &'static str,
    /// JSON pointer into a record.
    pub pointer: &'static str,
}

/// What is drawn, in order.
pub const QUANTITIES: [Quantity; 5] = [
    Quantity {
        title: "background affinity mass",
        meaning: "mean affinity outside the priors; near 1: the affinity has saturated",
        pointer: "/terms/background_affinity",
    },
    Quantity {
        title: "L_prop",
        meaning: "share of the priors that the affinity misses; near 0 with a large mass: saturated",
        pointer: "/terms/prior_missed",
    },
    Quantity {
        title: "margin",
        meaning: "probability on targets minus that of the hardest background, validation; it erodes under drift",
        pointer: "/margin",
    },
    Quantity {
        title: "halo",
        meaning: "area of detections over area of their targets at logit 0, validation; it grows under drift",
        pointer: "/halo",
    },
    Quantity {
        title: "mIoU",
        meaning: "at the best threshold within the limit of Fa, validation; it rolls back late under drift",
        pointer: "/validation/best/rates/miou",
    },
];

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// What it is called.
    pub name: String,
    /// For each of [`QUANTITIES`], epoch (from 1) and value where there is one.
    pub points: [Vec<(f64, f64)>; QUANTITIES.len()],
}

/// Reads the log of a run folder, or a log file.
pub fn read(path: &Path) -> Result<Curves> {
    let file = if path.is_dir() { path.join("log.jsonl") } else { path.to_path_buf() };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}: give the folder of a run, or its log", file.display()))?;
    let mut points = [const { Vec::new() }; QUANTITIES.len()];
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let of = || format!("line {} of {} is no record of a run", index + 1, file.display());
        let record: Value = serde_json::from_str(line).with_context(of)?;
        let epoch = record.get("epoch").and_then(Value::as_u64).with_context(of)?;
        for (points, quantity) in points.iter_mut().zip(&QUANTITIES) {
            if let Some(value) = record.pointer(quantity.pointer).and_then(Value::as_f64) {
                points.push((epoch as f64 + 1.0, value));
            }
        }
    }
    ensure!(points.iter().any(|points| !points.is_empty()), "{} holds no epoch to draw", file.display());
    Ok(Curves { name: name_of(path), points })
}

/// The last two parts of a path, so that `runs/hbc/seed-1` is told from `runs/asg/seed-1`, and a page names no machine.
fn name_of(path: &Path) -> String {
    let parts: Vec<String> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_what_it_holds_and_nothing_where_nothing_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("hbc/seed-1");
        std::fs::create_dir_all(&run).unwrap();
        let log = "{\"epoch\": 0, \"terms\": {\"background_affinity\": 0.5, \"prior_missed\": 0.25}, \"margin\": null}\n\
            {\"epoch\": 1, \"terms\": {\"background_affinity\": 0.75}, \"margin\": 0.125, \"halo\": 1.5, \
            \"validation\": {\"best\": {\"rates\": {\"miou\": 0.625}}}}\n";
        std::fs::write(run.join("log.jsonl"), log).unwrap();
        let curves = read(&run).unwrap();
        assert_eq!(curves.name, "hbc/seed-1");
        let expected: [&[(f64, f64)]; 5] =
            [&[(1.0, 0.5), (2.0, 0.75)], &[(1.0, 0.25)], &[(2.0, 0.125)], &[(2.0, 1.5)], &[(2.0, 0.625)]];
        for (points, expected) in curves.points.iter().zip(expected) {
            assert_eq!(points, expected);
        }
        assert_eq!(read(&run.join("log.jsonl")).unwrap().points, curves.points);
    }

    #[test]
    fn a_folder_without_a_log_and_a_broken_line_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("log.jsonl"));
        let log = folder.path().join("log.jsonl");
        for (text, said) in [("{\"epoch\": 0}\nrubbish\n", "line 2 of"), ("{}\n", "line 1 of"), ("", "no epoch")] {
            std::fs::write(&log, text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("log.jsonl"), "{error}");
        }
    }
}
