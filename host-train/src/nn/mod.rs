//! The differentiable operations of the network, on candle tensors.
//!
//! Every operation takes and returns NCHW tensors, f32 or f64, and carries its own gradient. On the CPU an operation is
//! one fused pass over the data (`fused` turns a pair of slice functions into a candle operation); on any other device
//! it is composed of candle operations whose gradients are right ([`compose`]).
//!
//! **Invariant:** results depend on the inputs and on the processor only: work is divided by shape, never by the number
//! of threads, and partial sums are added in a fixed order, so a run repeats bit for bit.

mod batch_norm;
pub mod compose;
mod conv;
pub(crate) mod fused;
mod gate;
mod haar;
mod loops;
mod pool;
pub(crate) mod real;
mod round;
#[cfg(test)]
pub(crate) mod testing;
mod upsample;

pub use batch_norm::{BATCH_NORM_EPS, BatchStats, batch_norm_train, fold_batch_norm};
pub use conv::conv2d;
pub use gate::{add, gate, scale_channels};
pub use haar::{band_max_mean, haar_inject};
pub use pool::max_pool;
pub use round::round_to_steps;
pub use upsample::upsample2;
