//! Which parameters each node has, in which order: the one definition for both engines, the exporter and the image.
//!
//! Parameters follow each other in graph order. The float engine reads one flat slice of f32:
//!
//! | operation | f32 values |
//! |---|---|
//! | Conv | weight `[out][ky][kx][in]`, bias `[out]` (batch norm folded) |
//! | SpatialGate | per band LH, HL, HH, LL: weight `[maximum, mean][7][7]`, bias |
//! | SqueezeExcite | reduce `[hidden][C]`, expand `[C][hidden]` |
//!
//! The int8 engine reads [`Int8Params`], from a model image each array 16-byte aligned ([`crate::image`]). Every node
//! has an [`Activation`]; two rules save a rescaling: **the members of a concatenation have its quantisation, and a
//! pooled map has its input's.** The logit map's is scale 1/256, zero 0.
//!
//! | operation | what the exporter computes (s = scale, z = zero point) |
//! |---|---|
//! | Conv | weight int8 `[out][ky][kx][in]`; per output channel [`ConvChannel::folded`]: bias/(s_in·s_w) less z_in·Σw, and s_in·s_w/s_out |
//! | HaarInject | s_in/(2·s_out) |
//! | Upsample2 | s_in/s_out |
//! | Add | (s_a/s_out, s_b/s_out) as a pair |
//! | SpatialGate | weight int8 `[band][maximum, mean][7][7]`, each 7×7 plane with its own s; per band [`GateBand::new`]; s_in/(s_out·2^15) |
//! | SqueezeExcite | reduce, expand int8 with a scale per row; per hidden row s_in·s_w/(64·s_hidden) with an int16 hidden layer; per gate row s_hidden·s_w·16; s_in/(s_out·2^15) |
//! | MaxPool, Concat, Input | nothing |

use crate::Error;
use crate::graph::{Graph, Node, Op};
use crate::kernels::spatial_gate;
use crate::kernels::squeeze_excite::SqueezeExciteInt8;
use crate::quant::{Activation, ConvChannel, GateBand, LOGIT_STEPS, Multiplier, MultiplierPair};

/// Float parameters of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FloatParams<'a> {
    /// The operation has none.
    None,
    /// A convolution, batch norm folded.
    Conv {
        /// `[out][ky][kx][in]`.
        weight: &'a [f32],
        /// One for each output channel.
        bias: &'a [f32],
    },
    /// Per band: weight `[maximum, mean][7][7]`, bias.
    SpatialGate(&'a [f32]),
    /// The two matrices.
    SqueezeExcite {
        /// `[hidden][C]`.
        reduce: &'a [f32],
        /// `[C][hidden]`.
        expand: &'a [f32],
    },
}

/// Sizes of a node's arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Taps of one output channel.
    pub patch: usize,
    /// Width of the bottleneck.
    pub hidden: usize,
}

pub(crate) fn sizes(graph: &Graph, node: &Node) -> Sizes {
    let inputs = usize::from(graph.input_channels_of(node));
    let (patch, hidden) = match node.op {
        Op::Conv(conv) => (inputs * usize::from(conv.kernel) * usize::from(conv.kernel), 0),
        Op::SqueezeExcite { hidden, .. } => (0, usize::from(hidden)),
        _ => (0, 0),
    };
    Sizes { inputs, outputs: usize::from(node.channels), patch, hidden }
}

/// Number of float parameters of a graph: the length of the float engine's slice.
pub fn float_len(graph: &Graph) -> usize {
    let node_len = |node: &Node| {
        let s = sizes(graph, node);
        match node.op {
            Op::Conv(_) => s.outputs * (s.patch + 1),
            Op::SpatialGate(_) => spatial_gate::PARAMETERS,
            Op::SqueezeExcite { .. } => 2 * s.outputs * s.hidden,
            _ => 0,
        }
    };
    graph.nodes().iter().map(node_len).sum()
}

/// The float parameters of every node, in graph order. Errors: `weights` has not [`float_len`] values.
pub fn float_params<'a>(
    graph: &'a Graph,
    weights: &'a [f32],
) -> Result<impl Iterator<Item = (&'a Node, FloatParams<'a>)> + Clone, Error> {
    let (expected, found) = (float_len(graph), weights.len());
    if expected != found {
        return Err(Error::WrongLength { expected, found });
    }
    let mut rest = weights;
    let mut take = move |n: usize| match rest.split_at_checked(n) {
        Some((head, tail)) => {
            rest = tail;
            head
        }
        None => &[],
    };
    Ok(graph.nodes().iter().map(move |node| {
        let s = sizes(graph, node);
        let params = match node.op {
            Op::Conv(_) => FloatParams::Conv { weight: take(s.outputs * s.patch), bias: take(s.outputs) },
            Op::SpatialGate(_) => FloatParams::SpatialGate(take(spatial_gate::PARAMETERS)),
            Op::SqueezeExcite { .. } => {
                FloatParams::SqueezeExcite { reduce: take(s.outputs * s.hidden), expand: take(s.outputs * s.hidden) }
            }
            _ => FloatParams::None,
        };
        (node, params)
    }))
}

/// Int8 parameters of one node.
#[derive(Debug, Clone, Copy)]
pub enum Int8Params<'a> {
    /// The operation has none.
    None,
    /// A convolution.
    Conv {
        /// `[out][ky][kx][in]`.
        weight: &'a [i8],
        /// One for each output channel.
        channels: &'a [ConvChannel],
    },
    /// HaarInject and Upsample2: the one factor.
    Rescale(Multiplier),
    /// The factors of the two terms.
    Add(MultiplierPair),
    /// A spatial gate.
    SpatialGate {
        /// `[band][maximum, mean][7][7]`.
        weight: &'a [i8],
        /// One for each band.
        bands: &'a [GateBand],
        /// s_in/(s_out·2^15).
        output: Multiplier,
    },
    /// A channel gate.
    SqueezeExcite(SqueezeExciteInt8<'a>),
}

impl Int8Params<'_> {
    /// Checks lengths against the node, and every record against the integer contract.
    pub fn check(&self, graph: &Graph, node: &Node) -> Result<(), Error> {
        let s = sizes(graph, node);
        let len = |found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(Error::WrongLength { expected, found }) }
        };
        let sound = match (node.op, self) {
            (Op::Conv(_), Int8Params::Conv { weight, channels }) => {
                len(weight.len(), s.outputs * s.patch)?;
                len(channels.len(), s.outputs)?;
                s.patch <= ConvChannel::MAX_TAPS && channels.iter().all(ConvChannel::is_valid)
            }
            (Op::HaarInject | Op::Upsample2, Int8Params::Rescale(scale)) => scale.is_valid(),
            (Op::Add { .. }, Int8Params::Add(scale)) => scale.is_valid(),
            (Op::SpatialGate(_), Int8Params::SpatialGate { weight, bands, output }) => {
                len(weight.len(), 4 * spatial_gate::BAND_WEIGHTS)?;
                len(bands.len(), 4)?;
                bands.iter().all(GateBand::is_valid) && output.is_valid()
            }
            (Op::SqueezeExcite { .. }, Int8Params::SqueezeExcite(layer)) => {
                len(layer.reduce.len(), s.outputs * s.hidden)?;
                len(layer.expand.len(), s.outputs * s.hidden)?;
                len(layer.hidden.len(), s.hidden)?;
                len(layer.gates.len(), s.outputs)?;
                layer.hidden.iter().chain(layer.gates).all(Multiplier::is_valid) && layer.output.is_valid()
            }
            (Op::Input | Op::MaxPool { .. } | Op::Concat, Int8Params::None) => true,
            _ => return Err(Error::ImageGraph),
        };
        if sound { Ok(()) } else { Err(Error::Quantisation) }
    }
}

/// Checks the quantisation of every map: one for each node, in range, the rules of this module's head kept.
pub fn check_activations(graph: &Graph, activations: &[Activation]) -> Result<(), Error> {
    let (expected, found) = (graph.nodes().len(), activations.len());
    if expected != found {
        return Err(Error::WrongLength { expected, found });
    }
    for (node, own) in graph.nodes().iter().zip(activations) {
        let inherits = matches!(node.op, Op::Concat | Op::MaxPool { .. });
        let same = |&id: &u16| activations.get(usize::from(id)) == Some(own);
        if !own.is_valid() || (inherits && !node.inputs().iter().all(same)) {
            return Err(Error::Quantisation);
        }
    }
    let logits = Activation { scale: 1.0 / LOGIT_STEPS, zero: 0 };
    if activations.last() == Some(&logits) { Ok(()) } else { Err(Error::Quantisation) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{FULL, HALF, QUARTER, msda};
    extern crate std;
    use std::vec::Vec;

    /// Folding replaces a batch norm's two parameters and a bias by one bias.
    #[test]
    fn the_flat_slice_holds_the_live_parameters_once_folded() {
        for (widths, channels) in [(FULL, 3), (HALF, 1), (QUARTER, 1)] {
            let graph = msda(widths, channels);
            let folded: usize = graph
                .nodes()
                .iter()
                .map(|node| match node.op {
                    Op::Conv(c) => {
                        let outputs = usize::from(node.channels);
                        outputs * (2 * usize::from(c.norm.is_some()) + usize::from(c.bias) - 1)
                    }
                    _ => 0,
                })
                .sum();
            assert_eq!(float_len(&graph), graph.parameters() - folded);
        }
    }

    #[test]
    fn every_value_belongs_to_one_node_in_order() {
        let graph = msda(QUARTER, 1);
        let flat: Vec<f32> = (0..float_len(&graph)).map(|i| i as f32).collect();
        let mut seen: Vec<f32> = Vec::new();
        for (node, params) in float_params(&graph, &flat).unwrap() {
            match params {
                FloatParams::None => {}
                FloatParams::Conv { weight, bias } => {
                    assert_eq!(bias.len(), usize::from(node.channels));
                    seen.extend(weight.iter().chain(bias));
                }
                FloatParams::SpatialGate(p) => seen.extend(p),
                FloatParams::SqueezeExcite { reduce, expand } => seen.extend(reduce.iter().chain(expand)),
            }
        }
        assert_eq!(seen, flat);
        let found = float_params(&graph, &flat[1..]).err();
        assert_eq!(found, Some(Error::WrongLength { expected: flat.len(), found: flat.len() - 1 }));
    }
}
