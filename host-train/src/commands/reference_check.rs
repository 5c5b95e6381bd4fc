//! `gsacp reference-check`: is our network the reference's?

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::model::StateDict;
use crate::reference;

/// Compare candle and the float engine with a reference state dict and its activations, map by map.
#[derive(Args)]
pub struct ReferenceCheck {
    /// State dict by the reference's parameter names (safetensors).
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Its `input`, `logits` and any intermediate maps (safetensors).
    #[arg(long, value_name = "FILE")]
    io: PathBuf,
    /// Largest difference allowed.
    #[arg(long, default_value_t = 1e-3)]
    tolerance: f32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl ReferenceCheck {
    /// Runs the command; an error if any map differs by more than the tolerance.
    pub fn run(self) -> Result<()> {
        let state = StateDict::read(&self.state)?;
        let io = StateDict::read(&self.io)?;
        let rows = reference::compare(&state, &io)
            .with_context(|| format!("comparing {} with {}", self.state.display(), self.io.display()))?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            println!("{:<46} {:>18} {:>10} {:>10}", "map", "shape", "candle", "engine");
            for r in &rows {
                println!("{:<46} {:>18} {:>10.2e} {:>10.2e}", r.name, format!("{:?}", r.shape), r.candle, r.engine);
            }
        }
        let worst = rows.iter().max_by(|a, b| a.candle.max(a.engine).total_cmp(&b.candle.max(b.engine)));
        let worst = worst.context("the file of activations holds no map")?;
        let largest = worst.candle.max(worst.engine);
        ensure!(
            largest <= self.tolerance,
            "`{}` differs by {largest:e}, more than {:e}: this state dict is not the graph's, or an operation is wrong",
            worst.name,
            self.tolerance
        );
        if !self.json {
            println!(
                "{} maps, largest difference {largest:.2e} ({}), allowed {:.0e}",
                rows.len(),
                worst.name,
                self.tolerance
            );
        }
        Ok(())
    }
}
