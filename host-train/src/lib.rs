//! Training, evaluation and quantisation of the detector on the host.

pub mod ablate;
pub mod commands;
pub mod curves;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod model;
pub mod nn;
pub mod onnx;
pub mod quantize;
pub mod reference;
pub mod soup;
pub mod supervision;
pub mod train;
