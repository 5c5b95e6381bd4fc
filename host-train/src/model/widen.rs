//! A wider network that computes what narrower ones do: where its training starts (Net2WiderNet, arXiv 1511.05641).
//!
//! Every channel of a wide map is a copy of a channel of one narrow network; copies from different networks see nothing
//! of each other at first, those of one network share out among them the weight with which their channel is read:
//!
//! ```text
//! W'[o, i] = s[o, i] · W_m[from(o), from(i)] where o and i are copies from the same network m, else 0
//! Σ_{i copy of channel j of m} s[o, i] = 1
//! ```
//!
//! The shares are drawn for every output, between a third and three times each other, so that copies get different
//! gradients and become channels of their own. A channel that is there only once, as the input, its Haar bands and the
//! logits are, is every network's, and what computes it is the mean of theirs.
//!
//! One network is computed exactly where every channel that a spatial gate looks at has as many copies, as the gate takes
//! the mean over channels. Of several, the logits are the mean only nearly: a gate has one map, of all channels and by the
//! mean of the weights, and the bands pass through level 2 once. Networks that were trained on from one ancestor are close
//! enough for that; strangers are not, and a [`transposed`](super::transpose) partner, which is worth more, is so when the
//! gates have learnt to serve both (`model.learning`).

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use gsacp_core::graph::{Graph, Op};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::channels::{Copied, axes, followed, of_all};
use super::{ModelInfo, StateDict, params};
use crate::data::random;

/// The networks of `narrow` side by side in one of `widths`; `seed` draws the shares. The metadata is the [`ModelInfo`]
/// alone, the first's. Errors: a dict that does not fit its graph, networks of different shapes or normalisations, a width that is less
/// than theirs together or that no graph has.
pub fn widen(narrow: &[StateDict], widths: [u16; 5], seed: u64) -> Result<StateDict> {
    let networks = narrow.len();
    ensure!(networks > 0, "there is no network to widen");
    let info = ModelInfo::read_from(&narrow[0].metadata)?;
    let wide_info = ModelInfo { widths, ..info.clone() };
    let (graph, wide) = (info.graph()?, wide_info.graph()?);
    for state in narrow {
        let other = ModelInfo::read_from(&state.metadata)?;
        ensure!(
            other.widths == info.widths && other.sees_like(&info),
            "networks side by side must have one shape and normalisation, not {info:?} and {other:?}"
        );
        state.check(&graph)?;
    }
    ensure!(
        info.widths.iter().zip(widths).all(|(&few, many)| usize::from(few) * networks <= usize::from(many)),
        "{networks} network(s) of widths {:?} cannot be widened to {widths:?}",
        info.widths
    );
    let copies = copies(&graph, &wide, networks);
    let once = of_all(0..1);
    let mut tensors = BTreeMap::new();
    for (id, node) in wide.nodes().iter().enumerate() {
        let own = &copies[id];
        let read = node.inputs().first().map_or(own, |&input| &copies[usize::from(input)]);
        let hidden = match node.op {
            Op::SqueezeExcite { hidden, .. } => side_by_side(hidden_of(&graph, id), usize::from(hidden), networks),
            _ => Vec::new(),
        };
        for param in params::of_node(&wide, id) {
            let (rows, columns) = axes(node.op, &param, [own, read, &hidden, &once]);
            let values = narrow.iter().map(|state| state.tensors[&param.name].flatten_all()?.to_vec1());
            let values = values.collect::<candle_core::Result<Vec<Vec<f32>>>>()?;
            let taps = param.shape.iter().product::<usize>() / (rows.len() * columns.len());
            let mut rng = random::stream(seed, &param.name, 0, 0);
            let expanded = expand(&values, rows, columns, taps, &mut rng);
            tensors.insert(param.name, Tensor::from_vec(expanded, param.shape, &Device::Cpu)?);
        }
    }
    let mut state = StateDict { tensors, metadata: BTreeMap::new() };
    wide_info.write_to(&mut state.metadata);
    state.check(&wide)?;
    Ok(state)
}

/// What the channels of every node's map are copies of.
fn copies(graph: &Graph, wide: &Graph, networks: usize) -> Vec<Vec<Copied>> {
    followed(graph, |id, node| {
        let (few, many) = (usize::from(node.channels), usize::from(wide.nodes()[id].channels));
        match node.op {
            Op::Conv(_) if id + 1 < graph.nodes().len() => side_by_side(few, many, networks),
            _ => of_all(0..few),
        }
    })
}

/// The `few` channels of the first network, of the second and so on, and then all of them again, until they are `many`.
fn side_by_side(few: usize, many: usize, networks: usize) -> Vec<Copied> {
    let copied = |i: usize| Copied { network: Some(i / few % networks), channel: i % few };
    (0..many).map(copied).collect()
}

fn hidden_of(graph: &Graph, id: usize) -> usize {
    match graph.nodes()[id].op {
        Op::SqueezeExcite { hidden, .. } => usize::from(hidden),
        _ => 0,
    }
}

/// The wide tensor of the networks' `values`, row-major with `taps` values for a row and column.
fn expand(values: &[Vec<f32>], rows: &[Copied], columns: &[Copied], taps: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let few = 1 + columns.iter().map(|column| column.channel).max().unwrap_or(0);
    let mut out = Vec::with_capacity(rows.len() * columns.len() * taps);
    for row in rows {
        let draws: Vec<f32> = columns.iter().map(|_| rng.random_range(0.5..1.5)).collect();
        for (column, draw) in columns.iter().zip(&draws) {
            let copies = columns.iter().zip(&draws).filter(|(other, _)| *other == column);
            let share = draw / copies.map(|(_, draw)| draw).sum::<f32>();
            let at = (row.channel * few + column.channel) * taps;
            out.extend((at..at + taps).map(|at| match (row.network, column.network) {
                (Some(a), Some(b)) if a != b => 0.0,
                (Some(network), _) => share * values[network][at],
                (None, Some(network)) => share * values[network][at] / values.len() as f32,
                (None, None) => share * values.iter().map(|of_one| of_one[at]).sum::<f32>() / values.len() as f32,
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use gsacp_core::graph::{HALF, QUARTER};

    use super::*;
    use crate::model::testing::{self, flat, noise, settled};

    fn logits(state: &StateDict, input: &Tensor) -> Vec<f32> {
        flat(&testing::logits(state, input))
    }

    /// The largest difference over the largest deviation from the mean.
    fn moved(a: &[f32], b: &[f32]) -> f32 {
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |most, v| most.max(v.abs()));
        largest(&mut a.iter().zip(b).map(|(a, b)| a - b)) / largest(&mut a.iter().map(|a| a - mean))
    }

    fn input() -> Tensor {
        noise("widen", (2, 1, 64, 64))
    }

    #[test]
    fn a_wider_network_computes_the_same() {
        let input = input();
        let state = settled(QUARTER, &input);
        let expected = logits(&state, &input);
        for widths in [HALF, [8, 8, 32, 16, 48]] {
            let wide = widen(std::slice::from_ref(&state), widths, 1).unwrap();
            let moved = moved(&expected, &logits(&wide, &input));
            assert!(moved < 1e-3, "{widths:?}: logits moved by {moved} of their range");
        }
        let [one, other] = [1, 2].map(|seed| {
            let wide = widen(std::slice::from_ref(&state), HALF, seed).unwrap();
            flat(&wide.tensors["layer.0.weight"])
        });
        assert_ne!(one, other);
        assert_ne!(one[0], one[4], "two copies have the same share");
    }

    /// Two networks with one encoder, where every gate and band is, have nothing to disturb each other by.
    #[test]
    fn two_decoders_side_by_side_compute_the_mean_of_their_logits() {
        let input = input();
        let first = settled(QUARTER, &input);
        let mut second = first.clone();
        for (name, tensor) in &mut second.tensors {
            if !name.starts_with("stage") {
                let mut rng = random::stream(7, name, 0, 0);
                let factors = (0..tensor.elem_count()).map(|_| rng.random_range(0.5f32..1.5)).collect();
                *tensor = (&*tensor * Tensor::from_vec(factors, tensor.shape(), &Device::Cpu).unwrap()).unwrap();
            }
        }
        let [a, b] = [&first, &second].map(|state| logits(state, &input));
        let mean: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
        let both = logits(&widen(&[first, second], HALF, 1).unwrap(), &input);
        let (from_mean, from_one) = (moved(&mean, &both), moved(&a, &both));
        assert!(
            from_mean < 1e-3 && from_one > 0.05,
            "{from_mean} of the range from the mean, {from_one} from the first"
        );
    }

    #[test]
    fn channels_of_several_networks_take_turns() {
        let of = |network, channel| Copied { network: Some(network), channel };
        assert_eq!(side_by_side(2, 3, 1), [of(0, 0), of(0, 1), of(0, 0)]);
        assert_eq!(side_by_side(2, 5, 2), [of(0, 0), of(0, 1), of(1, 0), of(1, 1), of(0, 0)]);
    }

    #[test]
    fn networks_that_do_not_fit_are_refused() {
        let state = settled(QUARTER, &input());
        let error = |networks: &[StateDict], widths| widen(networks, widths, 1).unwrap_err().to_string();
        let two = [state.clone(), state.clone()];
        assert!(error(&two[..1], [4, 8, 16, 16, 12]).contains("cannot be widened"));
        assert!(error(&two, [8, 16, 32, 32, 24]).contains("2 network(s)"));
        assert!(error(&[], HALF).contains("no network"));
        let mut shifted = state.clone();
        ModelInfo { mean: 0.5, ..ModelInfo::read_from(&state.metadata).unwrap() }.write_to(&mut shifted.metadata);
        assert!(error(&[state, shifted], HALF).contains("normalisation"));
    }
}
