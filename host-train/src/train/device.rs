//! Which machine computes: the CPU, or a GPU where the program was built for one.

use anyhow::{Context, Result, ensure};
use candle_core::Device;

/// The choice on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// The processor; needs nothing installed, and repeats bit for bit.
    #[default]
    Cpu,
    /// The first NVIDIA GPU, in a build with `--features cuda`; its matrix products round their factors to TF32's ten bits.
    Cuda,
}

impl DeviceKind {
    /// Opens the device; an error says why there is none and how to do without.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceKind::Cpu => Ok(Device::Cpu),
            DeviceKind::Cuda => first_gpu().context("no GPU to compute on: do without (--device cpu, --engine candle)"),
        }
    }

    /// Loader threads that keep it busy.
    pub fn loader_threads(self) -> usize {
        match self {
            DeviceKind::Cpu => 1,
            DeviceKind::Cuda => std::thread::available_parallelism().map_or(4, |n| n.get().div_ceil(2)),
        }
    }
}

fn first_gpu() -> Result<Device> {
    ensure!(cfg!(feature = "cuda"), "this program was built without GPU support: build it with `--features cuda`");
    // The driver's binding panics rather than fails where there is no driver.
    let opened = std::panic::catch_unwind(|| Device::new_cuda(0));
    let device = opened.ok().context("the NVIDIA driver cannot be loaded")??;
    candle_core::cuda::set_gemm_reduced_precision_f32(true);
    Ok(device)
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_gpu_says_so() {
        assert!(DeviceKind::Cpu.open().is_ok());
        let error = format!("{:#}", DeviceKind::Cuda.open().unwrap_err());
        assert!(error.contains("--device cpu") && error.contains("--features cuda"), "{error}");
    }
}
