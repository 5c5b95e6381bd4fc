//! `gsacp report`: the curves of runs as a page.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::curves::{page, read};
use crate::data::files::write_atomic;

/// Draws the curves of runs on one HTML page: background affinity mass, L_prop, margin, halo and mIoU over the epochs.
///
/// Margin, halo and mIoU are there for the epochs that were validated: train with evaluation.every=1 to see all.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Run folders, or their logs.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl ReportArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let runs = self.runs.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        write_atomic(&self.out, page::html(&runs).as_bytes())?;
        eprintln!("{}", self.out.display());
        Ok(())
    }
}
