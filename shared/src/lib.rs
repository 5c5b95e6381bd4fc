//! The detector as one graph, its engines, detection and metrics, for host and sensor alike.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

pub mod confirm;
pub mod detect;
pub mod engine;
pub mod error;
pub mod frame;
pub mod graph;
pub mod image;
pub mod kernels;
pub mod metrics;
pub mod plan;
pub mod quant;
pub mod threshold;

pub use error::Error;
