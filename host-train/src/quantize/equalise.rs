//! Channels of like range: the same network in other units, whose maps lose less to int8.
//!
//! All channels of a map share one step, so a channel of small values has few of them. Convolutions take a factor into their
//! weights, and ReLU, sums, pools, upsampling and concatenation let a factor s > 0 of a channel pass, so that
//!
//! ```text
//! x'_c = s_c·x_c        W'_oc = s_o·W_oc/s_c        b'_o = s_o·b_o
//! ```
//!
//! is the same network, bit for bit where every s is a power of two. Channels that one of the other operations ties
//! together are a *class* and share their s. It is 1 for the input and its Haar bands, which have no weights, for what a gate reads or
//! writes, which looks at all channels together, and for the logits. For others
//!
//! ```text
//! s = 2^round(½·min_m log₂(T_m/P_m))
//! ```
//!
//! over the maps m that a class has a channel in: P_m is the largest magnitude there, T_m the largest among the channels
//! whose s is 1 that share the map's pair ([`super::groups`]), or of all channels that do where there are none of those.
//! So maps beside the Haar bands, some ten times as large, come down to them, and others go up to their largest. Half of
//! the way, because what a channel gains in steps, its weights lose in the rows they share (cross-layer equalisation, Nagel et al.,
//! arXiv 1906.04721; the half is SmoothQuant's α, Xiao et al., arXiv 2211.10438).
//!
//! With the ranges of least squares (changed code: [`super::Ranges`] has the two together with ranges that cover everything) the
//! bands' map of the network A of models/half/README.md has 21.5 dB over 24 training images in place of 12.6, and nearly
//! every map after it 1 to 4 dB more. What it is worth on `val_dev` differs from network to network; that card has figures.

use anyhow::Result;
use candle_core::Tensor;
use gsacp_core::graph::{Graph, Node, Op};

use super::groups::{groups, tie};
use super::observe::Observations;
use crate::model::StateDict;

/// Most doublings or halvings, so that no weight leaves the range of f32 for a channel that is next to silent.
const MOST: f64 = 12.0;

/// How often each channel of every node's map is to be doubled (halved, where below 0).
pub fn doublings(graph: &Graph, seen: &Observations) -> Vec<Vec<i32>> {
    let (classes, kept) = classes(graph);
    let group = groups(graph);
    let maps = || (0..graph.nodes().len()).filter(|&id| graph.nodes()[id].op != Op::Concat);
    let channels =
        |id: usize| classes[id].iter().zip(seen.nodes[id].peaks()).map(|(&class, peak)| (class, f64::from(peak)));

    // Largest magnitudes of a group: of channels that are kept as they are, and of all.
    let mut largest = vec![[0f64; 2]; graph.nodes().len()];
    for id in maps() {
        let [of_kept, of_all] = &mut largest[group[id]];
        for (class, peak) in channels(id) {
            *of_kept = of_kept.max(if kept[class] { peak } else { 0.0 });
            *of_all = of_all.max(peak);
        }
    }
    let mut room = vec![f64::INFINITY; kept.len()];
    for id in maps() {
        let [of_kept, of_all] = largest[group[id]];
        let target = if of_kept > 0.0 { of_kept } else { of_all };
        for (class, peak) in channels(id).filter(|&(_, peak)| peak > 0.0) {
            room[class] = room[class].min((target / peak).log2());
        }
    }
    let half_way = |room: f64| (0.5 * room).round().clamp(-MOST, MOST) as i32;
    let doubled = |&class: &usize| if kept[class] || room[class].is_infinite() { 0 } else { half_way(room[class]) };
    classes.iter().map(|of_node| of_node.iter().map(doubled).collect()).collect()
}

/// The class of every node's channels, and which classes keep their units.
pub(super) fn classes(graph: &Graph) -> (Vec<Vec<usize>>, Vec<bool>) {
    let nodes = graph.nodes();
    let mut count = 0;
    let first: Vec<usize> = nodes.iter().map(|n| (count, count += usize::from(n.channels)).0).collect();
    let mut class: Vec<usize> = (0..count).collect();
    for (id, node) in nodes.iter().enumerate().filter(|(_, n)| !matches!(n.op, Op::Conv(_) | Op::HaarInject)) {
        let mut at = first[id];
        for &input in node.inputs() {
            let input = usize::from(input);
            for c in 0..usize::from(nodes[input].channels) {
                tie(&mut class, at + c, first[input] + c);
            }
            at += if node.op == Op::Concat { usize::from(nodes[input].channels) } else { 0 };
        }
    }
    let mut kept = vec![false; count];
    for (id, node) in nodes.iter().enumerate() {
        let fixed = matches!(node.op, Op::Input | Op::HaarInject | Op::SpatialGate(_) | Op::SqueezeExcite { .. });
        if fixed || id + 1 == nodes.len() {
            (first[id]..first[id] + usize::from(node.channels)).for_each(|c| kept[class[c]] = true);
        }
    }
    let of_node = |(node, &first): (&Node, &usize)| class[first..][..usize::from(node.channels)].to_vec();
    (nodes.iter().zip(&first).map(of_node).collect(), kept)
}

/// The same network with its channels doubled so often: equally for those that are tied, not at all for those that keep
/// their units. Every weight of the graph must be there (`Msda::from_state` sees to it).
pub fn scaled(graph: &Graph, state: &StateDict, doublings: &[Vec<i32>]) -> Result<StateDict> {
    let mut state = state.clone();
    let mut scale = |key: String, by: &[i32], sign: i32, shape: &[usize]| -> Result<()> {
        let by: Vec<f32> = by.iter().map(|&n| 2f32.powi(sign * n)).collect();
        let tensor = &state.tensors[&key];
        let scaled = tensor.broadcast_mul(&Tensor::from_vec(by, shape, tensor.device())?)?;
        state.tensors.insert(key, scaled);
        Ok(())
    };
    for (node, own) in graph.nodes().iter().zip(doublings) {
        let Op::Conv(conv) = node.op else { continue };
        let (read, path) = (&doublings[usize::from(node.inputs()[0])], conv.path);
        scale(format!("{path}.weight"), read, -1, &[1, read.len(), 1, 1])?;
        // A batch norm sees to the outputs, if there is one.
        let last = conv.norm.unwrap_or(path);
        let shape = if conv.norm.is_some() { vec![own.len()] } else { vec![own.len(), 1, 1, 1] };
        scale(format!("{last}.weight"), own, 1, &shape)?;
        if conv.norm.is_some() || conv.bias {
            scale(format!("{last}.bias"), own, 1, &[own.len()])?;
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::GrayImage;
    use crate::model::Msda;
    use crate::quantize::observe::float_maps;
    use crate::quantize::testing;
    use candle_core::Device;
    use gsacp_core::graph::{HALF, QUARTER, msda};

    /// Whatever the ties are, every map's channels come out doubled as often as was said, and the logits with the same bits.
    #[test]
    fn the_network_in_other_units_is_the_same_network() {
        for (widths, inputs) in [(QUARTER, 1), ([4, 12, 16, 16, 16], 3), (HALF, 1)] {
            let graph = msda(widths, inputs);
            let state = testing::state(&graph, 11);
            let doublings = testing::units(&graph);
            assert!(doublings.iter().flatten().filter(|&&n| n != 0).count() > 200);

            let image = GrayImage { width: 48, height: 32, pixels: testing::frame(48, 32, 0) };
            let maps = |state: &StateDict| {
                let (mut maps, info) = (Vec::new(), testing::record(&graph).model);
                let model = Msda::from_state(&graph, state, &Device::Cpu).unwrap();
                float_maps(&model, &info, &image, |id, map| {
                    maps.push((id, map));
                    Ok(())
                })
                .unwrap();
                maps
            };
            let scaled = maps(&scaled(&graph, &state, &doublings).unwrap());
            for ((id, plain), (_, scaled)) in maps(&state).into_iter().zip(scaled) {
                for (i, (x, y)) in plain.iter().zip(&scaled).enumerate() {
                    let n = doublings[id][i % doublings[id].len()];
                    assert_eq!(
                        x * 2f32.powi(n),
                        *y,
                        "{}, channel {}",
                        graph.nodes()[id].label,
                        i % doublings[id].len()
                    );
                }
            }
        }
    }

    /// The bands' largest value is 0.5. Beside them `stage.resnet2_1` has channels of 8, 2, 0.5, 0.125 and 0: half of the way is
    /// −2, −1, 0 and 1. The last, silent there, goes by the terms of that sum, whose largest are ten times its own: ½·3.3, so 2.
    /// The other terms and the next blocks' sums, which are tied to these channels, have room for all of that.
    /// The stem's first conv stands alone: 16, 4, 1 and 0.25 go up by 0, 1, 2 and 3. What is silent everywhere stays.
    #[test]
    fn a_hand_worked_choice() {
        let graph = msda(QUARTER, 1);
        let mut seen = Observations::new(&graph);
        for (id, node) in graph.nodes().iter().enumerate().filter(|(_, n)| n.op != Op::Concat) {
            let peaks: Vec<f32> = match node.label.to_string().as_str() {
                "stage.hfrequency.bands" => vec![0.25, -0.5, 0.1],
                "stage.resnet2_1" => vec![-8.0, 2.0, 0.5, 0.125, 0.0],
                "stage.resnet2_1.layer1" | "stage.resnet2_1.layer2" => vec![1.0, 1.0, 1.0, 0.1, 0.1],
                "stage.layer1.0" => vec![16.0, -4.0, 1.0, 0.25],
                "stage.resnet2_2" | "stage.resnet2_2.conv_res" | "stage.resnet2_3" | "stage.resnet2_3.conv_res" => {
                    vec![9.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.0]
                }
                label if label.contains("layer5_4") || label.contains("pool") => vec![0.0; node.channels.into()],
                _ => vec![1.0; node.channels.into()],
            };
            seen.add(id, &peaks);
        }
        let found = doublings(&graph, &seen);
        let of = |label: &str| found[graph.find(label).unwrap()].clone();
        assert_eq!(of("stage.resnet2_1"), [-2, -1, 0, 1, 2]);
        assert_eq!(of("stage.hfrequency"), [0, 0, 0, -2, -1, 0, 1, 2]);
        assert_eq!(of("stage.resnet2_3.conv_res"), [0, 0, 0, -2, -1, 0, 1, 2]);
        assert_eq!(of("stage.layer1.0"), [0, 1, 2, 3]);
        for label in ["input", "stage.resnet2_2.conv_cat", "stage.resnet3_2.SEAttention", "stage.layer5_4.2", "logits"]
        {
            assert!(of(label).iter().all(|&n| n == 0), "{label}");
        }
    }
}
