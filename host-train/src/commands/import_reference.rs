//! `gsacp import-reference`: a reference checkpoint becomes a model of this project.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::model::{ModelInfo, StateDict, params};

/// Turn a reference state dict (safetensors) into a model file, dropping what no output depends on.
#[derive(Args)]
pub struct ImportReference {
    /// State dict by the reference's parameter names.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Mean of the training images' grey values, in [0, 1] (the reference's value divided by 255).
    #[arg(long)]
    mean: f32,
    /// Standard deviation of the training images' grey values, likewise.
    #[arg(long)]
    std: f32,
    /// Model file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl ImportReference {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let mut state = StateDict::read(&self.state)?;
        let graph = state.infer_graph().with_context(|| self.state.display().to_string())?;
        let info =
            ModelInfo { widths: graph.widths, input_channels: graph.input_channels, mean: self.mean, std: self.std };
        info.graph()?;
        state.tensors.retain(|name, _| !params::is_unused_by_the_reference(name));
        state.metadata.clear();
        info.write_to(&mut state.metadata);
        state.write(&self.out)?;
        println!("{}: widths {:?}, {} input channels", self.out.display(), info.widths, info.input_channels);
        Ok(())
    }
}
