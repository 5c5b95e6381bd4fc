//! The training loop and everything that makes a run repeatable.
//!
//! A run is a folder: `config.toml` (every key resolved), `log.jsonl` (one object per epoch), `last.safetensors` (the
//! checkpoint), `best.safetensors` (the averaged weights of the best validation) and `model.safetensors` (the result:
//! the averaged weights at the end, float32, BN unfolded).
//!
//! Everything that decides a step is either in the checkpoint or derived afresh from (seed, purpose, epoch, index), so an
//! interrupted run continues bit for bit on the CPU.

pub mod average;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod interrupt;
pub mod log;
pub mod optimizer;
pub mod parameters;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod setup;
pub mod teachers;
pub mod trainer;
pub mod validate;
