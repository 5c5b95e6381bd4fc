//! `gsacp pack`: an int8 model to the model image that the sensor reads in place.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::data::files::write_atomic;
use crate::quantize::QuantizedModel;
use crate::quantize::host::Int8Network;

/// Pack an int8 model into a model image.
#[derive(Args, Debug)]
pub struct PackArgs {
    /// The int8 model (`gsacp quantize` writes it, `gsacp calibrate` adds its thresholds).
    #[arg(long)]
    model: PathBuf,
    /// Where the model image goes.
    #[arg(long)]
    out: PathBuf,
}

impl PackArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let model = QuantizedModel::read(&self.model)?;
        let bytes = model.to_image().with_context(|| format!("cannot pack {}", self.model.display()))?;
        // Read back as the device will, before anything is written.
        let crc = Int8Network::from_image(&bytes)?.image()?.crc();
        write_atomic(&self.out, &bytes)?;
        println!("{}: {} bytes, CRC-32 {crc:08x}", self.out.display(), bytes.len());
        for p in &model.record.operating_points {
            let pd = p.pd.map_or("unknown".into(), |pd| format!("{pd:.4}"));
            println!("  requested Fa {:.2e}: logit > {:.3}, Pd {pd}, Fa {:.2e}", p.requested_fa, p.threshold, p.fa);
        }
        if model.record.operating_points.is_empty() {
            println!("  no operating points yet: `gsacp calibrate` measures them");
        }
        Ok(())
    }
}
