//! What the tests of functions from network to network share.

use candle_core::{Device, Tensor};

use super::{Mode, ModelInfo, Msda, StateDict};
use crate::data::random;

/// Normal noise, the same for the same `name`.
pub fn noise(name: &str, shape: (usize, usize, usize, usize)) -> Tensor {
    let mut rng = random::stream(1, name, 0, 0);
    let values: Vec<f32> = (0..shape.0 * shape.1 * shape.2 * shape.3).map(|_| random::normal(&mut rng)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A network of random weights, its batch norms settled on the input that it is tried on.
pub fn settled(widths: [u16; 5], input: &Tensor) -> StateDict {
    let input_channels = input.dims()[1] as u16;
    let info = ModelInfo { widths, input_channels, mean: 0.0, std: 1.0 };
    let model = Msda::new(&info.graph().unwrap(), 5, &Device::Cpu).unwrap();
    model.forward(input, Mode::Measure { seen: 0 }).unwrap();
    let mut state = model.state().unwrap();
    info.write_to(&mut state.metadata);
    state
}

/// Its logits of normalised frames.
pub fn logits(state: &StateDict, input: &Tensor) -> Tensor {
    let graph = ModelInfo::read_from(&state.metadata).unwrap().graph().unwrap();
    Msda::from_state(&graph, state, &Device::Cpu).unwrap().forward(input, Mode::Eval).unwrap().logits
}

/// The values, row-major.
pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
