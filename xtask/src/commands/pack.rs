//! `cargo xtask pack`: from the int8 model to the image that goes into flash.
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::model;

/// Pack an int8 model (model.int8.safetensors) into the model image that a board reads in place.
#[derive(Args)]
pub struct Pack {
    /// The int8 model.
    #[arg(value_name = "FILE")]
    model: PathBuf,
    /// The image to write.
    #[arg(long, value_name = "FILE", default_value = "model.img")]
    out: PathBuf,
}

impl Pack {
    /// Packs.
    pub fn run(self) -> Result<()> {
        model::pack(&self.model, &self.out)
    }
}
