//! `log.jsonl`: one JSON object per epoch, appended as the run goes.
//!
//! A record holds `epoch` (from 0), `step`, `lr`, the means of the loss `terms` (the drift signals `background_affinity` and
//! `prior_missed` among them), `margin`, `halo` and `validation` (null in an epoch that was not validated), and what it took.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::data::files::write_atomic;

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Opens the log for a run whose next record is that of `epoch`: a resumed run repeats the epochs after its
    /// checkpoint, so their records, and a last line that was cut off, are removed first.
    pub fn open(path: &Path, epoch: u64) -> Result<Self> {
        let old = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let keeps = |line: &&str| {
            let record = serde_json::from_str::<Value>(line).ok();
            record.and_then(|record| record.get("epoch")?.as_u64()).is_some_and(|of| of < epoch)
        };
        let kept: String = old.lines().filter(keeps).flat_map(|line| [line, "\n"]).collect();
        write_atomic(path, kept.as_bytes())?;
        let file =
            OpenOptions::new().append(true).open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { file })
    }

    /// Appends one record.
    pub fn append(&mut self, record: &Value) -> Result<()> {
        // One write per line, so that a reader never sees half a record of a living run.
        self.file.write_all(format!("{record}\n").as_bytes()).context("cannot write log.jsonl")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resumed_run_drops_the_records_it_repeats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        for epoch in 0..3 {
            log.append(&json!({"epoch": epoch, "loss": 1.0})).unwrap();
        }
        log.file.write_all(b"{\"epoch\": 3, \"lo").unwrap();
        let mut log = Log::open(&path, 2).unwrap();
        log.append(&json!({"epoch": 2, "loss": 0.5})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let epochs: Vec<u64> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["epoch"].as_u64().unwrap()).collect();
        assert_eq!(epochs, [0, 1, 2]);
        assert!(text.ends_with("\"loss\":0.5}\n"));
    }
}
