//! `cargo xtask peers`: our engines beside onnxruntime and tract.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::repository::{cargo, run, scratch};

/// Print what a frame of 256×256 costs in our engines, in onnxruntime and in tract, on one thread and in one run.
///
/// All run the networks that `gsacp export` writes, float32 and int8 (quantise-dequantise pairs), in turns; a peer whose
/// logits are not ours is an error. onnxruntime comes from pip into a folder of its own under target/. For figures worth
/// keeping, run once so that all is built, then on a quiet core: `taskset -c 1 chrt --rr 2 cargo xtask peers`.
#[derive(Args)]
pub struct Peers {
    /// tract as well, which takes minutes to compile.
    #[arg(long)]
    tract: bool,
    /// Leave out onnxruntime: no Python, no network.
    #[arg(long)]
    without_onnxruntime: bool,
    /// A Python that has onnxruntime and numpy, instead of one made for this.
    #[arg(long, value_name = "FILE", conflicts_with = "without_onnxruntime")]
    python: Option<PathBuf>,
    /// Rounds of the networks' turns, each of three runs.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: usize,
}

impl Peers {
    /// Compares.
    pub fn run(self) -> Result<()> {
        let python = match (self.without_onnxruntime, self.python) {
            (true, _) => String::new(),
            // The program runs in its package's folder.
            (false, Some(python)) => std::path::absolute(python)?.display().to_string(),
            (false, None) => with_onnxruntime()?.display().to_string(),
        };
        let mut bench = cargo(&["bench", "--package", "gsacp-tests", "--bench", "peers", "--locked"]);
        if self.tract {
            bench.args(["--features", "tract"]);
        }
        run(bench.arg("--").arg(python).arg(self.rounds.max(1).to_string()))
    }
}

/// A Python environment with onnxruntime, made once.
fn with_onnxruntime() -> Result<PathBuf> {
    let folder = scratch("peers")?.join("python");
    let python = folder.join("bin/python");
    let has_it = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import onnxruntime, numpy"]).output().is_ok_and(|out| out.status.success())
    };
    if !has_it(&python) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).context("Python 3 with venv is needed")?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "onnxruntime", "numpy"]))?;
    }
    Ok(python)
}
