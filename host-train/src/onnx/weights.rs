//! The weights of a float or int8 network in one form: [`Values`], `[out][ky][kx][in]` turned into `[out][in][ky][kx]`.

use anyhow::{Result, bail};
use gsacp_core::graph::{Graph, Node, Op};

use super::builder::Values;
use crate::export::NodeWeights;
use crate::quantize::{QuantizedMatrix, QuantizedModel, QuantizedNode};

/// The constants of one node.
#[derive(Debug)]
pub enum Weights {
    None,
    /// `[out][in][ky][kx]`, `[out]`.
    Conv {
        weight: Values,
        bias: Values,
    },
    /// For each band a 7×7 plane over the channels' maximum, one over their mean, and a bias.
    Gate {
        planes: [Values; 2],
        bias: Values,
    },
    /// `[hidden][channels]`, `[channels][hidden]`.
    Squeeze {
        reduce: Values,
        expand: Values,
    },
}

/// From folded float weights.
pub fn of_float(graph: &Graph, nodes: &[NodeWeights]) -> Vec<Weights> {
    let each = |(node, weights): (&Node, &NodeWeights)| match weights {
        NodeWeights::None => Weights::None,
        NodeWeights::Conv { weight, bias } => Weights::Conv {
            weight: Values::Real(channels_first(graph, node, weight)),
            bias: Values::Real(bias.clone()),
        },
        NodeWeights::Gate { weight, bias } => {
            let plane = |k: usize| {
                Values::Real(weight.iter().flat_map(|band| band[49 * k..49 * (k + 1)].iter().copied()).collect())
            };
            Weights::Gate { planes: [plane(0), plane(1)], bias: Values::Real(bias.to_vec()) }
        }
        NodeWeights::Squeeze { reduce, expand } => {
            Weights::Squeeze { reduce: Values::Real(reduce.clone()), expand: Values::Real(expand.clone()) }
        }
    };
    graph.nodes().iter().zip(nodes).map(each).collect()
}

/// From an int8 model, its integers and scales as they are.
pub fn of_int8(graph: &Graph, model: &QuantizedModel) -> Result<Vec<Weights>> {
    let matrix = |m: &QuantizedMatrix| Values::Int8(m.weight.clone(), m.scale.clone());
    let mut all = Vec::with_capacity(model.nodes.len());
    for (node, weights) in graph.nodes().iter().zip(&model.nodes) {
        all.push(match (node.op, weights) {
            (Op::Conv(_), QuantizedNode::Conv(conv)) => {
                let input = model.activations[usize::from(node.inputs()[0])].scale;
                let scale = &conv.matrix.scale;
                let steps = scale.iter().map(|&s| (input * f64::from(s)) as f32).collect();
                Weights::Conv {
                    weight: Values::Int8(channels_first(graph, node, &conv.matrix.weight), scale.clone()),
                    bias: Values::Int32(conv.bias.clone(), steps),
                }
            }
            (Op::SpatialGate(_), QuantizedNode::Gate(bands)) => {
                let plane = |k: usize| {
                    let weight = bands.iter().flat_map(|b| b.planes.weight[49 * k..49 * (k + 1)].iter().copied());
                    Values::Int8(weight.collect(), bands.iter().map(|b| b.planes.scale[k]).collect())
                };
                let bias = Values::Real(bands.iter().map(|b| b.bias).collect());
                Weights::Gate { planes: [plane(0), plane(1)], bias }
            }
            (Op::SqueezeExcite { .. }, QuantizedNode::Squeeze { reduce, expand, .. }) => {
                Weights::Squeeze { reduce: matrix(reduce), expand: matrix(expand) }
            }
            (_, QuantizedNode::None) => Weights::None,
            _ => bail!("{} has weights of another operation", node.label),
        });
    }
    Ok(all)
}

fn channels_first<T: Copy>(graph: &Graph, node: &Node, weight: &[T]) -> Vec<T> {
    let inputs = usize::from(graph.input_channels_of(node));
    let taps = weight.len() / (inputs * usize::from(node.channels)).max(1);
    let filters = weight.chunks_exact((inputs * taps).max(1));
    filters.flat_map(|filter| (0..inputs * taps).map(move |i| filter[i % taps * inputs + i / taps])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{QUARTER, msda};

    #[test]
    fn a_tap_keeps_its_place_when_channels_go_first() {
        let graph = msda(QUARTER, 1);
        let node = &graph.nodes()[graph.find("stage.layer1").unwrap()];
        let weight: Vec<usize> = (0..4 * 9 * 4).collect();
        let turned = channels_first(&graph, node, &weight);
        for (out, channel, tap) in [(0, 0, 0), (1, 2, 5), (3, 3, 8)] {
            assert_eq!(turned[(out * 4 + channel) * 9 + tap], (out * 9 + tap) * 4 + channel);
        }
    }
}
