//! From a state dict to the engines' weights: batch norm folded into the convolutions, node by node in graph order.
//!
//! Folding is done in f64: w' = w·γ/√(σ²+ε), b' = (b−μ)·γ/√(σ²+ε) + β. Convolutions come out as `[out][ky][kx][in]`,
//! the layout of the engines (maps are HWC), and always have a bias.

use anyhow::{Context, Result, ensure};
use gsacp_core::graph::{BANDS, Conv, Graph, Name, Op};

use crate::model::StateDict;
use crate::nn::BATCH_NORM_EPS;

/// Folded weights of one node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeWeights {
    /// The operation has no parameters.
    None,
    /// A convolution.
    Conv {
        /// `[out][ky][kx][in]`.
        weight: Vec<f32>,
        /// One value for every output channel.
        bias: Vec<f32>,
    },
    /// The 7×7 convs of a spatial gate, in the order of [`BANDS`].
    Gate {
        /// Each `[2][7][7]`: the plane of the maximum, then that of the mean.
        weight: [Vec<f32>; 4],
        /// One value for every band.
        bias: [f32; 4],
    },
    /// The matrices of a channel gate, row-major.
    Squeeze {
        /// `[hidden][channels]`.
        reduce: Vec<f32>,
        /// `[channels][hidden]`.
        expand: Vec<f32>,
    },
}

/// Folds every batch norm of `graph`: one entry for every node. Missing, extra and misshapen tensors, values that are
/// not finite and negative variances are errors that name the key.
pub fn fold(state: &StateDict, graph: &Graph) -> Result<Vec<NodeWeights>> {
    state.check(graph)?;
    let fold_node = |node: &gsacp_core::graph::Node| -> Result<NodeWeights> {
        Ok(match node.op {
            Op::Conv(conv) => fold_conv(state, &conv, graph.input_channels_of(node) as usize)?,
            Op::SpatialGate(path) => gate(state, path)?,
            Op::SqueezeExcite { path, .. } => NodeWeights::Squeeze {
                reduce: values(state, format!("{path}.fc.0.weight"))?,
                expand: values(state, format!("{path}.fc.2.weight"))?,
            },
            _ => NodeWeights::None,
        })
    };
    graph.nodes().iter().map(fold_node).collect()
}

/// All parameters in one row: for each node in graph order a conv's weight and bias, a gate's weight and bias band by
/// band, a channel gate's two matrices.
pub fn flatten(nodes: &[NodeWeights]) -> Vec<f32> {
    let mut flat = Vec::new();
    for node in nodes {
        match node {
            NodeWeights::None => {}
            NodeWeights::Conv { weight, bias } => {
                flat.extend_from_slice(weight);
                flat.extend_from_slice(bias);
            }
            NodeWeights::Gate { weight, bias } => {
                for (weight, bias) in weight.iter().zip(bias) {
                    flat.extend_from_slice(weight);
                    flat.push(*bias);
                }
            }
            NodeWeights::Squeeze { reduce, expand } => {
                flat.extend_from_slice(reduce);
                flat.extend_from_slice(expand);
            }
        }
    }
    flat
}

fn values(state: &StateDict, key: String) -> Result<Vec<f32>> {
    let tensor = state.tensors.get(&key).with_context(|| format!("{key} is missing"))?;
    let values = tensor.flatten_all()?.to_vec1::<f32>().with_context(|| format!("{key} is not f32"))?;
    let bad = values.iter().find(|v| !v.is_finite());
    ensure!(bad.is_none(), "{key} holds {}: the training diverged, take an earlier checkpoint", bad.unwrap_or(&0.0));
    Ok(values)
}

fn fold_conv(state: &StateDict, conv: &Conv, inputs: usize) -> Result<NodeWeights> {
    let (path, taps) = (conv.path, usize::from(conv.kernel) * usize::from(conv.kernel));
    let raw = values(state, format!("{path}.weight"))?;
    let channels = raw.len() / (inputs * taps);
    let mut bias = vec![0.0; channels];
    if conv.bias {
        bias = values(state, format!("{path}.bias"))?.into_iter().map(f64::from).collect();
    }
    let mut scale = vec![1.0; channels];
    if let Some(norm) = conv.norm {
        let member = |name: &str| values(state, format!("{norm}.{name}"));
        let (gamma, beta, mean, variance) =
            (member("weight")?, member("bias")?, member("running_mean")?, member("running_var")?);
        for c in 0..channels {
            ensure!(variance[c] >= 0.0, "{norm}.running_var is {} in channel {c}, below 0", variance[c]);
            scale[c] = f64::from(gamma[c]) / (f64::from(variance[c]) + BATCH_NORM_EPS).sqrt();
            bias[c] = (bias[c] - f64::from(mean[c])) * scale[c] + f64::from(beta[c]);
        }
    }
    let mut weight = Vec::with_capacity(raw.len());
    for (filter, scale) in raw.chunks_exact(inputs * taps).zip(&scale) {
        for tap in 0..taps {
            weight.extend((0..inputs).map(|c| (f64::from(filter[c * taps + tap]) * scale) as f32));
        }
    }
    Ok(NodeWeights::Conv { weight, bias: bias.into_iter().map(|b| b as f32).collect() })
}

fn gate(state: &StateDict, path: Name) -> Result<NodeWeights> {
    let (mut weight, mut bias) = ([const { Vec::new() }; 4], [0.0; 4]);
    for (b, band) in BANDS.iter().enumerate() {
        weight[b] = values(state, format!("{path}.{band}_reduce.conv.weight"))?;
        bias[b] = values(state, format!("{path}.{band}_reduce.conv.bias"))?[0];
    }
    Ok(NodeWeights::Gate { weight, bias })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params;
    use candle_core::{Device, Tensor};
    use gsacp_core::graph::{QUARTER, msda};

    /// Every value is a small pseudo-random number, variances are positive.
    fn state(graph: &Graph) -> StateDict {
        let mut state = StateDict::default();
        for (i, p) in params::of_graph(graph).into_iter().enumerate() {
            let count: usize = p.shape.iter().product();
            let value = |k: usize| ((i * 31 + k * 17) as f32 * 0.61).sin();
            let positive = p.name.ends_with("running_var");
            let values = (0..count).map(|k| if positive { 0.5 + value(k).abs() } else { value(k) });
            let tensor = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(p.shape).unwrap();
            state.tensors.insert(p.name, tensor);
        }
        state
    }

    fn at(state: &StateDict, key: &str, index: usize) -> f64 {
        f64::from(state.tensors[key].flatten_all().unwrap().to_vec1::<f32>().unwrap()[index])
    }

    /// One output pixel of the stem's second conv: conv, then batch norm, by its definition.
    #[test]
    fn a_folded_conv_is_the_conv_followed_by_its_batch_norm() {
        let graph = msda(QUARTER, 1);
        let state = state(&graph);
        let nodes = fold(&state, &graph).unwrap();
        let id = graph.find("stage.layer1").unwrap();
        let NodeWeights::Conv { weight, bias } = &nodes[id] else { panic!("a conv") };
        let patch = |ky: usize, kx: usize, c: usize| ((ky * 9 + kx * 5 + c) as f64).cos();
        for out in 0..4 {
            let (mut direct, mut folded) = (at(&state, "stage.layer1.3.bias", out), f64::from(bias[out]));
            for (ky, kx, c) in (0..36).map(|i| (i / 12, i / 4 % 3, i % 4)) {
                direct += at(&state, "stage.layer1.3.weight", ((out * 4 + c) * 3 + ky) * 3 + kx) * patch(ky, kx, c);
                folded += f64::from(weight[((out * 3 + ky) * 3 + kx) * 4 + c]) * patch(ky, kx, c);
            }
            let norm = |m: &str| at(&state, &format!("stage.layer1.4.{m}"), out);
            let direct = (direct - norm("running_mean")) / (norm("running_var") + 1e-5).sqrt() * norm("weight");
            assert!((direct + norm("bias") - folded).abs() < 1e-5, "channel {out}: {direct} {folded}");
        }
    }

    #[test]
    fn the_flat_row_has_every_live_parameter_but_the_batch_norms() {
        let graph = msda(QUARTER, 1);
        let nodes = fold(&state(&graph), &graph).unwrap();
        let convs = graph.nodes().iter().filter_map(|n| match n.op {
            Op::Conv(c) => Some((c, n.channels as usize)),
            _ => None,
        });
        // Two batch norm parameters a channel go; a bias comes where there was none.
        let folded_away: usize =
            convs.map(|(c, n)| if c.norm.is_some() { 2 * n } else { 0 } - if c.bias { 0 } else { n }).sum();
        assert_eq!(flatten(&nodes).len(), graph.parameters() - folded_away);
    }

    #[test]
    fn negative_variances_and_values_that_are_not_finite_are_named() {
        let graph = msda(QUARTER, 1);
        for (key, value, said) in [
            ("stage.layer1.1.running_var", -1.0f32, "stage.layer1.1.running_var is -1"),
            ("stage.layer1.0.bias", f32::NAN, "stage.layer1.0.bias holds NaN"),
        ] {
            let mut state = state(&graph);
            state.tensors.insert(key.into(), Tensor::new(&[value; 4], &Device::Cpu).unwrap());
            let error = fold(&state, &graph).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
