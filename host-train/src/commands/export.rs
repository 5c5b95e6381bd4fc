//! `gsacp export`: a model for another runtime, as ONNX.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::words::size;
use crate::data::files::write_atomic;
use crate::onnx;

/// Options of `export`.
#[derive(Args)]
pub struct ExportArgs {
    /// The model: a float or an int8 safetensors file.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The ONNX file to write.
    #[arg(long, value_name = "FILE")]
    onnx: PathBuf,
    /// Size of the frames: multiples of 16. The network is a different function of every size, so a file is for one.
    #[arg(long, value_name = "WxH", default_value = "256x256", value_parser = size)]
    size: (usize, usize),
}

impl ExportArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (width, height) = self.size;
        let bytes = onnx::of_file(&self.model, height, width)?.to_bytes();
        write_atomic(&self.onnx, &bytes)?;
        println!(
            "{}: {} bytes, frames of {width}x{height}, ONNX operators of version {}",
            self.onnx.display(),
            bytes.len(),
            onnx::OPSET
        );
        Ok(())
    }
}
