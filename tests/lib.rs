//! Helpers shared by the tests of this package.

pub mod onnx;

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use gsacp_core::graph::Graph;
use gsacp_train::data::random;
use gsacp_train::model::{Mode, Msda};

/// Normal noise `[n, c, h, w]` of a seed.
pub fn noise(n: usize, c: usize, h: usize, w: usize, seed: u64) -> Tensor {
    let mut rng = random::stream(seed, "test noise", 0, 0);
    let values: Vec<f32> = (0..n * c * h * w).map(|_| random::normal(&mut rng)).collect();
    Tensor::from_vec(values, (n, c, h, w), &Device::Cpu).expect("as many values as the shape has")
}

/// A random network whose running statistics have settled on noise, so that its maps have the size of a trained one's.
pub fn settled(graph: &Graph, seed: u64) -> Msda {
    let model = Msda::new(graph, seed, &Device::Cpu).expect("a new network");
    for pass in 0..30 {
        let x = noise(4, usize::from(graph.input_channels), 64, 64, 100 + pass);
        model.forward(&x, Mode::Train).expect("a forward pass");
    }
    model
}

/// `place`, or a line on standard error that says which promise is not tested. With CI=true the finders of
/// `xtask::repository` have already failed.
pub fn or_say_skipped(place: Option<PathBuf>, what: &str) -> Option<PathBuf> {
    if place.is_none() {
        eprintln!("NOT TESTED: {what} are not here (see README, Tests)");
    }
    place
}
