//! `ledger.jsonl`: one JSON object per finished run, appended and never changed.
//!
//! Ledgers of several machines are joined by writing one behind the other (`cat a b > c`). A line that was cut off at the
//! end of the file, by a crash in the middle of a write, is removed when the ledger is opened to append; anything else
//! that is no entry is an error that names its line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Plan, Run};
use crate::data::files::write_atomic;
use crate::train::config::RunConfig;

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The variant.
    pub name: String,
    /// What it is compared with.
    pub parent: Option<String>,
    /// The key that it changes against its parent, with both values.
    pub difference: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Commit of the checkout it was started in; `+`: with changes.
    pub revision: Option<String>,
    /// Version of the program and CRC-32 of its binary.
    pub code: String,
    /// Which images, masks and points were trained on, which were validated on, and which weights it started from.
    pub data: Fingerprints,
    /// Optimiser steps.
    pub steps: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The averaged weights on the whole validation list: rates at the best threshold and at logit 0.
    pub metrics: Value,
    /// Means of the loss terms and drift signals over the last epoch.
    pub terms: BTreeMap<String, f64>,
    /// The resolved configuration, as TOML.
    pub config: String,
}

/// What two runs must share to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// Of the training data with its points.
    pub train: String,
    /// Of the validation data.
    pub validation: String,
    /// Of the model that the weights came from.
    pub init: Option<String>,
}

/// The entries of a file, which may be missing.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// In the file's order.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Reads the file; one that is missing has no entries.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), entries: parse(&text_of(path)?, path)?.0 })
    }

    /// As [`read`](Self::read), and removes a last line that was cut off.
    pub fn open(path: &Path) -> Result<Self> {
        let text = text_of(path)?;
        let (entries, whole) = parse(&text, path)?;
        if whole < text.len() {
            write_atomic(path, &text.as_bytes()[..whole])?;
        }
        Ok(Self { path: path.to_path_buf(), entries })
    }

    /// Appends an entry, which is on the disk when this returns.
    pub fn append(&mut self, entry: Entry) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(&entry)?);
        let write = || -> Result<()> {
            let mut file: File = OpenOptions::new().create(true).append(true).open(&self.path)?;
            // One write, so that processes that share a ledger do not mix their lines.
            file.write_all(line.as_bytes())?;
            Ok(file.sync_all()?)
        };
        write().with_context(|| format!("cannot append to the ledger {}", self.path.display()))?;
        self.entries.push(entry);
        Ok(())
    }

    /// The entries of the runs of `plan`, the first where one is there twice. An error if one was made with another
    /// configuration than the plan's, or if two are of different data.
    pub fn of_plan(&self, plan: &Plan) -> Result<Vec<&Entry>> {
        let mut found: Vec<&Entry> = Vec::new();
        for run in plan.runs() {
            let Some(entry) = self.entry(&run) else { continue };
            let theirs = RunConfig::parse(&entry.config)
                .with_context(|| format!("the configuration of {} in {}", run.label(), self.path.display()))?;
            let changed = theirs.differences(&run.config())?;
            ensure!(
                changed.is_empty() && entry.parent == run.variant.parent,
                "{} holds {} with another {}: give the variant a new name, or another --ledger",
                self.path.display(),
                run.label(),
                if changed.is_empty() { "parent".into() } else { format!("configuration ({})", changed.join(", ")) }
            );
            if let Some(first) = found.first() {
                first.data.check(&entry.data).with_context(|| {
                    format!("{} and {} of {} cannot be compared", first.label(), entry.label(), self.path.display())
                })?;
            }
            found.push(entry);
        }
        Ok(found)
    }

    /// The first entry of a run.
    pub fn entry(&self, run: &Run) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == run.variant.name && entry.seed == run.seed)
    }
}

impl Entry {
    /// `name:seed`.
    pub fn label(&self) -> String {
        format!("{}:{}", self.name, self.seed)
    }
}

impl Fingerprints {
    /// An error that says what differs.
    pub fn check(&self, other: &Self) -> Result<()> {
        let pairs = [
            ("training data", Some(&self.train), Some(&other.train)),
            ("validation data", Some(&self.validation), Some(&other.validation)),
            ("initial model", self.init.as_ref(), other.init.as_ref()),
        ];
        for (what, a, b) in pairs {
            let shown = |x: Option<&String>| x.map_or("none".to_string(), Clone::clone);
            ensure!(a == b, "the {what} has changed: fingerprint {} was {}", shown(b), shown(a));
        }
        Ok(())
    }
}

fn text_of(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("cannot read the ledger {}", path.display())),
    }
}

/// The entries, and the bytes that they take: less than the text where its last line was cut off.
fn parse(text: &str, path: &Path) -> Result<(Vec<Entry>, usize)> {
    let (mut entries, mut whole) = (Vec::new(), 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let cut = !line.ends_with('\n');
        if cut {
            break;
        }
        if !line.trim().is_empty() {
            let entry = serde_json::from_str(line)
                .with_context(|| format!("line {} of {} is no entry of a ledger", index + 1, path.display()))?;
            entries.push(entry);
        }
        whole += line.len();
    }
    Ok((entries, whole))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// An entry with these rates at the best threshold.
    pub fn entry(name: &str, parent: Option<&str>, seed: u64, miou: f64) -> Entry {
        Entry {
            name: name.into(),
            parent: parent.map(Into::into),
            difference: parent.map(|_| "data.crop (128 → 256)".into()),
            seed,
            revision: Some("0123456789ab".into()),
            code: "0.1.0".into(),
            data: Fingerprints { train: "t".into(), validation: "v".into(), init: None },
            steps: 10,
            seconds: 1.5,
            metrics: json!({"best": {"threshold": 1.0,
                "rates": {"miou": miou, "niou": miou + 0.05, "pd": 0.9, "fa": 2e-5}}}),
            terms: BTreeMap::from([("loss".into(), 0.5)]),
            config: RunConfig { seed, ..RunConfig::default() }.to_toml().unwrap(),
        }
    }

    fn plan(folder: &Path, text: &str) -> Plan {
        let path = folder.join("plan.toml");
        std::fs::write(&path, format!("seeds = [1]\nlist = \"a\"\nval_list = \"b\"\n{text}")).unwrap();
        Plan::read(&path).unwrap()
    }

    #[test]
    fn ledgers_of_two_machines_are_joined_by_appending() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (file, name) in [("a", "x"), ("b", "y")] {
            Ledger::open(&path(file)).unwrap().append(entry(name, None, 1, 0.5)).unwrap();
        }
        let both = [std::fs::read(path("a")).unwrap(), std::fs::read(path("b")).unwrap()].concat();
        std::fs::write(path("c"), both).unwrap();
        let mut joined = Ledger::open(&path("c")).unwrap();
        joined.append(entry("z", None, 2, 0.25)).unwrap();
        let labels: Vec<_> = Ledger::read(&path("c")).unwrap().entries.iter().map(Entry::label).collect();
        assert_eq!(labels, ["x:1", "y:1", "z:2"]);
        assert_eq!(Ledger::read(&path("c")).unwrap().entries, joined.entries);
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_removed_and_a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        Ledger::open(&path).unwrap().append(entry("x", None, 1, 0.5)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..40]].concat()).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(entry("y", None, 1, 0.5)).unwrap();
        assert_eq!(Ledger::read(&path).unwrap().entries.len(), 2);

        std::fs::write(&path, [&whole[..], b"{}\n", &whole[..]].concat()).unwrap();
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("ledger.jsonl"), "{error}");
    }

    #[test]
    fn a_run_of_another_configuration_or_other_data_is_not_taken_for_the_plans() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(entry("base", None, 1, 0.5)).unwrap();
        assert_eq!(ledger.of_plan(&plan(folder.path(), "")).unwrap().len(), 1);
        let error = ledger.of_plan(&plan(folder.path(), "set = [\"data.crop=64\"]\n")).unwrap_err().to_string();
        assert!(error.contains("base:1") && error.contains("data.crop (128 → 64)"), "{error}");

        let wide = plan(folder.path(), "[[variant]]\nname = \"wide\"\nparent = \"base\"\nset = \"data.crop=256\"\n");
        let mut other = entry("wide", Some("base"), 1, 0.5);
        other.config = wide.runs()[1].config().to_toml().unwrap();
        other.data.validation = "w".into();
        ledger.append(other).unwrap();
        let error = format!("{:#}", ledger.of_plan(&wide).unwrap_err());
        assert!(error.contains("validation data has changed: fingerprint w was v"), "{error}");
    }
}
