//! Channels followed through a graph: some operations make them, the others pass them on.

use gsacp_core::graph::{Graph, Node, Op};

use super::params::Param;

/// What a channel of a map is a copy of: a channel of the graph that is followed, in one of several networks of it or,
/// without `network`, in all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Copied {
    /// Which network, counted from 0.
    pub network: Option<usize>,
    /// The channel in its map there.
    pub channel: usize,
}

/// Channels that all networks have in this order.
pub fn of_all(channels: impl IntoIterator<Item = usize>) -> Vec<Copied> {
    channels.into_iter().map(|channel| Copied { network: None, channel }).collect()
}

/// What the channels of every node's map are copies of, where `made` says it of the input, the Haar bands and the convs.
pub fn followed(graph: &Graph, made: impl Fn(usize, &Node) -> Vec<Copied>) -> Vec<Vec<Copied>> {
    let mut all: Vec<Vec<Copied>> = Vec::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let inputs: Vec<usize> = node.inputs().iter().map(|&input| usize::from(input)).collect();
        let own = match node.op {
            Op::Input | Op::HaarInject | Op::Conv(_) => made(id, node),
            Op::SpatialGate(_) | Op::SqueezeExcite { .. } | Op::MaxPool { .. } | Op::Upsample2 => {
                all[inputs[0]].clone()
            }
            Op::Concat => {
                let mut joined = Vec::new();
                let mut offset = 0;
                for &part in &inputs {
                    joined.extend(all[part].iter().map(|copy| Copied { channel: offset + copy.channel, ..*copy }));
                    offset += usize::from(graph.nodes()[part].channels);
                }
                joined
            }
            // The second term is a conv's that nothing else reads; it takes the order of the first, which may hold bands.
            Op::Add { .. } => {
                all[inputs[1]] = all[inputs[0]].clone();
                all[inputs[0]].clone()
            }
        };
        all.push(own);
    }
    all
}

/// The channels that index the two first axes of the node's tensor `param`: its rows and its columns. A tensor of one axis
/// has rows alone; `hidden` are those of a channel gate.
pub fn axes<'a>(op: Op, param: &Param, [own, read, hidden, once]: [&'a [Copied]; 4]) -> (&'a [Copied], &'a [Copied]) {
    match op {
        Op::SqueezeExcite { .. } if param.name.ends_with("fc.0.weight") => (hidden, own),
        Op::SqueezeExcite { .. } => (own, hidden),
        // Of two channels, whatever the map's width.
        Op::SpatialGate(_) => (once, once),
        _ if param.shape.len() > 1 => (own, read),
        _ => (own, once),
    }
}
