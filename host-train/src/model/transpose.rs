//! A network that sees a frame's columns as rows: what it computes of a frame is, transposed, what another computes of
//! the transposed frame.
//!
//! ```text
//! f'(x) = f(xᵀ)ᵀ :   W'[o, i] = W[o, i]ᵀ,   LH ↔ HL in the gates and in the bands that are injected
//! ```
//!
//! Exact, for all paddings, strides and the Haar pair are alike along both axes. A mirrored network is none of this graph: its LH
//! and HL bands change their signs, and a gate looks at the largest of them. A trained network is not the same along both axes,
//! so it and its transpose err in different places, and the mean of both is better than either
//! ([`widen`](super::widen) sets them side by side).

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Tensor;
use gsacp_core::graph::Op;

use super::channels::{axes, followed, of_all};
use super::{ModelInfo, StateDict, params};

/// The transposed network, with the [`ModelInfo`] alone for metadata. An error for a dict that does not fit its graph.
pub fn transposed(state: &StateDict) -> Result<StateDict> {
    let info = ModelInfo::read_from(&state.metadata)?;
    let graph = info.graph()?;
    state.check(&graph)?;
    let planes = usize::from(info.input_channels);
    let from = followed(&graph, |_, node| match node.op {
        Op::HaarInject => of_all((planes..2 * planes).chain(0..planes).chain(2 * planes..3 * planes)),
        _ => of_all(0..usize::from(node.channels)),
    });
    let mut tensors = BTreeMap::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let own = &from[id];
        let read = node.inputs().first().map_or(own, |&input| &from[usize::from(input)]);
        for param in params::of_node(&graph, id) {
            let mut tensor = state.tensors[&other_band(&param.name)].clone();
            // Without a list all stay where they are: a channel gate's hidden ones do, and a spatial gate's two.
            let (rows, columns) = axes(node.op, &param, [own, read, &[], &[]]);
            for (axis, channels) in [rows, columns].into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
                let index: Vec<u32> = channels.iter().map(|copy| copy.channel as u32).collect();
                tensor = tensor.index_select(&Tensor::new(index, tensor.device())?, axis)?;
            }
            if param.shape.len() == 4 {
                tensor = tensor.transpose(2, 3)?.contiguous()?;
            }
            tensors.insert(param.name, tensor);
        }
    }
    let mut turned = StateDict { tensors, metadata: BTreeMap::new() };
    info.write_to(&mut turned.metadata);
    Ok(turned)
}

/// The name of the same tensor of a gate's other band, HL for LH; every other name as it is.
fn other_band(name: &str) -> String {
    match (name.contains("LH_reduce"), name.contains("HL_reduce")) {
        (true, _) => name.replace("LH_reduce", "HL_reduce"),
        (_, true) => name.replace("HL_reduce", "LH_reduce"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{flat, logits, noise, settled};

    fn most(values: &Tensor) -> f32 {
        values.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn it_gives_the_transposed_logits_of_the_transposed_frame() {
        for channels in [1, 3] {
            let frame = noise("transpose", (2, channels, 48, 80));
            let turn = |x: &Tensor| x.transpose(2, 3).unwrap().contiguous().unwrap();
            let state = settled([4, 12, 16, 16, 16], &frame);
            let expected = turn(&logits(&state, &turn(&frame)));
            let turned = transposed(&state).unwrap();
            let (moved, range) = (most(&(logits(&turned, &frame) - &expected).unwrap()), most(&expected));
            assert!(moved < 1e-4 * range, "{channels} channels: off by {moved} of {range}");
            let other = most(&(logits(&state, &frame) - &expected).unwrap());
            assert!(other > 0.05 * range, "the network is alike along both axes, {other} of {range}");
            let back = transposed(&turned).unwrap();
            for (name, tensor) in &state.tensors {
                assert_eq!(flat(&back.tensors[name]), flat(tensor), "{name}");
            }
        }
    }
}
