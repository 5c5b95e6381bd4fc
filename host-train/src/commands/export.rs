//! `gsacp export`: a model for another runtime, as ONNX.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::words::size;
use crate::data::files::write_atomic;
use crate::onnx;

/// Write a model for another runtime: a float model as float32 ONNX, an int8 model as int8 ONNX (quantise-dequantise
/// pairs with the model's own scales, zero points and weights).
///
/// The file's input `input` is [1, channels, height, width]: (grey - mean)/std with grey in [0, 1]; its output `logits` is
/// [1, 1, height, width]. Mean, std and the thresholds of `gsacp calibrate` are in the file's metadata. A frame whose sides
/// are no multiples of 16 is padded at the bottom and right with 0 after the normalisation.
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
