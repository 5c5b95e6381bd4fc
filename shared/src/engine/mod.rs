//! The float32 and the int8 engine: a graph, run node by node in the buffers of a [`crate::plan::Plan`].
//!
//! Neither allocates and neither can panic; everything that comes from outside is checked once, when an engine is made.
//! [`float`] and [`int8`] are twins, to be read side by side; [`params`] says which parameters a node has and in which
//! order, for the engines, the exporter and the model image alike.

mod arena;
pub mod float;
pub mod int8;
pub mod params;
mod rows;

use crate::graph::Conv;
use crate::kernels::conv::Window;

pub use float::FloatEngine;
pub use int8::{Int8Engine, View};

impl From<Conv> for Window {
    fn from(conv: Conv) -> Self {
        Window { kernel: conv.kernel.into(), stride: conv.stride.into(), dilation: conv.dilation.into() }
    }
}
