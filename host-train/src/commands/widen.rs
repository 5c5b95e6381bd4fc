//! `gsacp widen`: a wider network that starts where narrower ones have come to.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::model::transpose::transposed;
use crate::model::{ModelInfo, StateDict, widen};
use crate::train::config::Widths;

/// Make a wider model that computes what a trained one does, to train on from (`gsacp train --init`).
///
/// Channels are copied and the weights that read them are shared out unevenly among the copies, so that they become
/// channels of their own in training. Two models of one ancestor (the last stage with two seeds, or the last two stages)
/// are set side by side: the wide one then computes nearly the mean of their logits, which is better than either.
/// With --transpose it is the mean of networks that see the frame along different axes, which is better still.
#[derive(Args)]
pub struct Widen {
    /// The trained model, a float safetensors file, or several of one shape.
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    /// Widths of the new network.
    #[arg(long, value_enum)]
    widths: Widths,
    /// Transpose every second model first: it then does to a frame what it did to the frame's transpose.
    #[arg(long)]
    transpose: bool,
    /// Seed of the shares.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Model file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Widen {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let read = |(i, path): (usize, &PathBuf)| -> Result<StateDict> {
            let state = StateDict::read(path)?;
            let turned = if self.transpose && i % 2 == 1 { transposed(&state) } else { Ok(state) };
            turned.with_context(|| path.display().to_string())
        };
        let narrow = self.models.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
        let wide = widen::widen(&narrow, self.widths.channels(), self.seed).with_context(|| {
            let names: Vec<String> = self.models.iter().map(|path| path.display().to_string()).collect();
            names.join(", ")
        })?;
        wide.write(&self.out)?;
        let info = ModelInfo::read_from(&wide.metadata)?;
        println!("{}: widths {:?}, {} parameters", self.out.display(), info.widths, info.graph()?.parameters());
        Ok(())
    }
}
