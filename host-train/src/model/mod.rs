//! The network on the host: its table of tensors, its files, and its candle executor.

mod channels;
pub mod network;
pub mod params;
pub mod state;
#[cfg(test)]
mod testing;
pub mod transpose;
pub mod widen;

pub use network::{Mode, Msda, Outputs, input_tensor};
pub use state::{ModelInfo, StateDict};
