//! Integer weights and biases from float ones and the statistics of the maps.
//!
//! Bias correction: rounding a channel's weights shifts its mean output by Σ (ŵ − w)·E\[x\], with E\[x\] the input map's
//! channel means over the calibration images (borders apart). That shift, and the one by which the frame's zero point
//! misses the normalisation's mean, are taken off the bias, so every layer's mean is right before the next one reads it.

use anyhow::{Context, Result, bail, ensure};
use gsacp_core::graph::{Graph, Op};

use super::observe::Observations;
use super::range::Affine;
use super::weights::{least_weight_scale, prove_no_overflow, quantise_channel};
use super::{QuantizedConv, QuantizedGate, QuantizedMatrix, QuantizedModel, QuantizedNode, Record};
use crate::export::NodeWeights;

/// Quantises the folded weights of `graph` (one entry a node) for maps with these scales and zero points, of which
/// `seen` knows the means. Errors name the layer.
pub fn build(
    graph: &Graph,
    folded: &[NodeWeights],
    activations: Vec<Affine>,
    seen: &Observations,
    record: Record,
) -> Result<QuantizedModel> {
    ensure!(folded.len() == graph.nodes().len(), "{} nodes have weights, not {}", folded.len(), graph.nodes().len());
    let info = &record.model;
    // By how much a quantised 8-bit frame lies above the real one: its zero point is the mean's nearest step.
    let steps = 255.0 * f64::from(info.mean);
    let input_shift = activations[0].scale * (steps - steps.round());
    let mut nodes = Vec::with_capacity(folded.len());
    for (node, weights) in graph.nodes().iter().zip(folded) {
        nodes.push(match (node.op, weights) {
            (Op::Conv(_), NodeWeights::Conv { weight, bias }) => {
                let input = usize::from(node.inputs()[0]);
                let (means, squares) = channel_moments(graph, seen, input);
                let shift = if input == 0 { input_shift } else { 0.0 };
                let from = Input { pair: activations[input], means, squares, shift };
                let conv = quantise_conv(weight, bias, &from).with_context(|| format!("layer {}", node.label))?;
                for (c, q) in conv.matrix.weight.chunks_exact(weight.len() / bias.len()).enumerate() {
                    let what = format!("layer {}, channel {c}", node.label);
                    prove_no_overflow(&what, q, conv.bias[c], from.pair.zero_point)?;
                }
                QuantizedNode::Conv(conv)
            }
            (Op::SpatialGate(_), NodeWeights::Gate { weight, bias }) => QuantizedNode::Gate(
                weight
                    .iter()
                    .zip(bias)
                    .map(|(w, &bias)| QuantizedGate { planes: quantise_rows(w, 49, &[1.0]), bias })
                    .collect(),
            ),
            (Op::SqueezeExcite { hidden, .. }, NodeWeights::Squeeze { reduce, expand }) => {
                let input = &seen.nodes[usize::from(node.inputs()[0])];
                QuantizedNode::Squeeze {
                    reduce: quantise_rows(reduce, usize::from(node.channels), &input.mean_squares()),
                    expand: quantise_rows(expand, usize::from(hidden), &[1.0]),
                    hidden_scale: hidden_scale(reduce, input.image_means()),
                }
            }
            (_, NodeWeights::None) => QuantizedNode::None,
            _ => bail!("{} has weights of another operation", node.label),
        });
    }
    Ok(QuantizedModel { record, activations, nodes })
}

/// What a conv reads.
struct Input {
    pair: Affine,
    /// Mean of every channel.
    means: Vec<f64>,
    /// Mean square of every channel.
    squares: Vec<f64>,
    /// Constant by which the quantised map lies above the real one.
    shift: f64,
}

fn quantise_conv(weight: &[f32], bias: &[f32], input: &Input) -> Result<QuantizedConv> {
    let (inputs, taps) = (input.means.len(), weight.len() / bias.len());
    let mut conv = QuantizedConv {
        matrix: QuantizedMatrix { weight: Vec::with_capacity(weight.len()), scale: Vec::with_capacity(bias.len()) },
        bias: Vec::with_capacity(bias.len()),
    };
    for (row, &bias) in weight.chunks_exact(taps).zip(bias) {
        let channel = quantise_channel(row, &input.squares, least_weight_scale(f64::from(bias), input.pair.scale));
        let scale = f64::from(channel.scale);
        let mut corrected = f64::from(bias);
        for (i, (&w, &q)) in row.iter().zip(&channel.q).enumerate() {
            let quantised = scale * f64::from(q);
            corrected += (f64::from(w) - quantised) * input.means[i % inputs] - quantised * input.shift;
        }
        let steps = (corrected / (input.pair.scale * scale)).round();
        ensure!(steps.abs() <= f64::from(i32::MAX), "a bias of {steps} steps does not fit int32");
        conv.matrix.weight.extend_from_slice(&channel.q);
        conv.matrix.scale.push(channel.scale);
        conv.bias.push(steps as i32);
    }
    Ok(conv)
}

fn quantise_rows(weight: &[f32], row: usize, importance: &[f64]) -> QuantizedMatrix {
    let mut matrix = QuantizedMatrix { weight: Vec::with_capacity(weight.len()), scale: Vec::new() };
    for row in weight.chunks_exact(row) {
        let channel = quantise_channel(row, importance, 0.0);
        matrix.weight.extend_from_slice(&channel.q);
        matrix.scale.push(channel.scale);
    }
    matrix
}

/// Room that the hidden layer of a channel gate leaves above the largest value seen: 12 of its 15 bits serve the rest.
const HIDDEN_ROOM: f64 = 8.0;

/// Step of a channel gate's int16 hidden layer, from the channel means of the calibration images.
fn hidden_scale(reduce: &[f32], image_means: &[Vec<f64>]) -> f32 {
    let value = |row: &[f32], means: &[f64]| row.iter().zip(means).map(|(&w, m)| f64::from(w) * m).sum::<f64>();
    let largest = image_means
        .iter()
        .flat_map(|means| reduce.chunks_exact(means.len().max(1)).map(|row| value(row, means)))
        .fold(0.0, f64::max);
    (largest * HIDDEN_ROOM / f64::from(i16::MAX)).max(1e-6) as f32
}

/// Mean and mean square of every channel of a map; a concatenation's are its members', one after the other.
fn channel_moments(graph: &Graph, seen: &Observations, id: usize) -> (Vec<f64>, Vec<f64>) {
    let node = &graph.nodes()[id];
    if node.op != Op::Concat {
        return (seen.nodes[id].means(), seen.nodes[id].mean_squares());
    }
    let (mut means, mut squares) = (Vec::new(), Vec::new());
    for &member in node.inputs() {
        means.extend(seen.nodes[member as usize].means());
        squares.extend(seen.nodes[member as usize].mean_squares());
    }
    (means, squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels in, one out, 1×1. Weights 1.27 and −0.5: clip 1.0 gives scale 0.01, q = 127, −50, both exact.
    /// Input scale 0.5: bias 0.3 is 0.3/(0.5·0.01) = 60 steps. A shift of 0.1 above the real input costs
    /// (1.27 − 0.5)·0.1 = 0.077 = 15.4 steps: 60 − 15.4 rounds to 45.
    #[test]
    fn a_hand_worked_conv() {
        let pair = Affine { scale: 0.5, zero_point: 3 };
        let input = Input { pair, means: vec![2.0, 5.0], squares: vec![4.0, 25.0], shift: 0.0 };
        let conv = quantise_conv(&[1.27, -0.5], &[0.3], &input).unwrap();
        assert_eq!(conv.matrix.weight, [127, -50]);
        assert!((conv.matrix.scale[0] - 0.01).abs() < 1e-8);
        assert_eq!(conv.bias, [60]);
        let shifted = quantise_conv(&[1.27, -0.5], &[0.3], &Input { shift: 0.1, ..input }).unwrap();
        assert_eq!(shifted.bias, [45]);
    }

    /// Whatever the rounding of the weights, the mean output over inputs with these means is the float one's.
    #[test]
    fn bias_correction_restores_the_mean() {
        let weight: Vec<f32> = (0..18).map(|i| (i as f32 * 0.83).sin()).collect();
        let means = vec![3.0, -7.0];
        let pair = Affine { scale: 0.01, zero_point: 0 };
        let input = Input { pair, means: means.clone(), squares: vec![10.0, 50.0], shift: 0.0 };
        let conv = quantise_conv(&weight, &[0.25], &input).unwrap();
        let scale = f64::from(conv.matrix.scale[0]);
        let mean_of = |w: &dyn Fn(usize) -> f64| (0..18).map(|i| w(i) * means[i % 2]).sum::<f64>();
        let float = 0.25 + mean_of(&|i| f64::from(weight[i]));
        let uncorrected = 0.25 + mean_of(&|i| scale * f64::from(conv.matrix.weight[i]));
        let integer = scale * 0.01 * f64::from(conv.bias[0]) + uncorrected - 0.25;
        assert!((integer - float).abs() <= 0.5 * scale * 0.01 + 1e-9, "{integer} {float}");
        assert!((uncorrected - float).abs() > 4.0 * scale * 0.01, "the test's rounding must matter: {uncorrected}");
    }
}
