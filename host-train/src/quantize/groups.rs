//! Scale and zero point of every map, under the constraints of the integer contract.
//!
//! A concatenation is its members side by side in one buffer and max-pooling only picks values, so these maps share
//! one pair with what they read; each such group is searched over the values of all its members.

use anyhow::{Context, Result, ensure};
use gsacp_core::graph::{Graph, Op};
use std::collections::BTreeMap;

use super::Ranges;
use super::histogram::Histogram;
use super::observe::{Observations, Statistics};
use super::range::Affine;

/// The first node of the group that each node belongs to.
pub fn groups(graph: &Graph) -> Vec<usize> {
    let mut group: Vec<usize> = (0..graph.nodes().len()).collect();
    for (id, node) in graph.nodes().iter().enumerate() {
        if !matches!(node.op, Op::Concat | Op::MaxPool { .. }) {
            continue;
        }
        for &input in node.inputs() {
            tie(&mut group, id, input.into());
        }
    }
    group
}

/// Makes one set of those that `a` and `b` are in; a set goes by the first of its members.
pub fn tie(set: &mut [usize], a: usize, b: usize) {
    let (first, other) = (set[a].min(set[b]), set[a].max(set[b]));
    if first != other {
        set.iter_mut().filter(|s| **s == other).for_each(|s| *s = first);
    }
}

/// The input's pair: one step is one step of an 8-bit frame, so such frames enter without loss of contrast.
/// `mean` and `std` are on the grey scale [0, 1].
pub fn input_pair(mean: f32, std: f32) -> Affine {
    let (mean, std) = (f64::from(mean), f64::from(std));
    Affine {
        scale: f64::from((1.0 / (255.0 * std)) as f32),
        zero_point: (255.0 * mean - 128.0).round().clamp(-128.0, 127.0) as i8,
    }
}

/// The pair of every node, chosen as `ranges` says. The input's group takes [`input_pair`]; the last node is the logit map, whose 1/256 steps
/// are not searched (its entry is scale 1/256, zero point 0).
pub fn assign(graph: &Graph, seen: &Observations, input: Affine, ranges: Ranges) -> Vec<Affine> {
    let group = groups(graph);
    let last = graph.nodes().len() - 1;
    let logits = Affine { scale: 1.0 / f64::from(256.0f32), zero_point: 0 };
    let mut pairs = vec![logits; graph.nodes().len()];
    for first in 0..last {
        if group[first] != first {
            continue;
        }
        let members: Vec<usize> = (first..last).filter(|&id| group[id] == first).collect();
        let pair = if first == 0 {
            input
        } else {
            let maps = members.iter().filter(|&&id| graph.nodes()[id].op != Op::Concat).map(|&id| &seen.nodes[id]);
            match ranges {
                Ranges::LeastSquares => {
                    let mut histogram = Histogram::default();
                    maps.for_each(|map| histogram.merge(&map.histogram));
                    Affine::search(&histogram)
                }
                Ranges::Equalised => {
                    let wider = |(low, high): (f32, f32), (l, h): (f32, f32)| (low.min(l), high.max(h));
                    let (low, high) = maps.map(Statistics::extremes).fold((0.0, 0.0), wider);
                    Affine::covering(low.into(), high.into())
                }
            }
        };
        members.iter().for_each(|&id| pairs[id] = pair);
    }
    pairs
}

/// Metadata key of the pairs that a network was trained to be rounded with.
const KEY: &str = "gsacp.ranges";

/// Puts the pairs of every node into a model's metadata.
pub fn write_to(pairs: &[Affine], metadata: &mut BTreeMap<String, String>) {
    metadata.insert(KEY.into(), serde_json::to_string(pairs).expect("plain numbers always serialise"));
}

/// The pairs in a model's metadata, if it has any; an error if they do not fit `graph` or the integer contract.
pub fn read_from(metadata: &BTreeMap<String, String>, graph: &Graph) -> Result<Option<Vec<Affine>>> {
    let Some(text) = metadata.get(KEY) else { return Ok(None) };
    let pairs: Vec<Affine> = serde_json::from_str(text).with_context(|| format!("metadata `{KEY}` cannot be read"))?;
    check(&pairs, graph).with_context(|| format!("metadata `{KEY}`"))?;
    Ok(Some(pairs))
}

/// An error unless every node has a pair with a step above 0 and each group shares one.
pub fn check(pairs: &[Affine], graph: &Graph) -> Result<()> {
    let nodes = graph.nodes();
    ensure!(pairs.len() == nodes.len(), "{} pairs for {} maps", pairs.len(), nodes.len());
    for ((first, node), pair) in groups(graph).into_iter().zip(nodes).zip(pairs) {
        let step = pair.scale;
        ensure!(step.is_finite() && step > 0.0, "layer {}: a step of {step} is not above 0", node.label);
        ensure!(*pair == pairs[first], "layer {}: its step is not that of {}", node.label, nodes[first].label);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{QUARTER, msda};

    #[test]
    fn concatenations_and_pools_share_their_pair_with_what_they_read() {
        let graph = msda(QUARTER, 1);
        let mut seen = Observations::new(&graph);
        for (id, node) in graph.nodes().iter().enumerate() {
            // Ranges that all differ, every third one signed.
            let top = 1.0 + id as f32;
            let low = if id % 3 == 0 { -top / 2.0 } else { 0.0 };
            let map: Vec<f32> =
                (0..64 * node.channels as usize).map(|i| low + (top - low) * (i % 97) as f32 / 96.0).collect();
            seen.add(id, &map);
        }
        let input = input_pair(0.4, 0.2);
        let pairs = assign(&graph, &seen, input, Ranges::LeastSquares);
        for (id, node) in graph.nodes().iter().enumerate() {
            if matches!(node.op, Op::Concat | Op::MaxPool { .. }) {
                node.inputs().iter().for_each(|&j| assert_eq!(pairs[id], pairs[j as usize], "{}", node.label));
            }
        }
        assert_eq!(pairs[0], input);
        assert_eq!(pairs[graph.nodes().len() - 1].scale, 1.0 / 256.0);
        let distinct: std::collections::BTreeSet<u64> = pairs.iter().map(|p| p.scale.to_bits()).collect();
        assert!(distinct.len() > 60, "{} pairs", distinct.len());
    }

    /// A million values below 1 and one of 10, as in [`Affine::search`]'s test, and a smallest of −0.5.
    #[test]
    fn equalised_ranges_clip_nothing_that_was_seen() {
        let graph = msda(QUARTER, 1);
        let mut seen = Observations::new(&graph);
        let id = graph.find("stage.layer1.0").unwrap();
        let map: Vec<f32> = (0..1_000_000).map(|i| i as f32 / 1e6).chain([10.0, -0.5, 0.0, 0.0]).collect();
        seen.add(id, &map);
        let pair = |ranges| assign(&graph, &seen, input_pair(0.4, 0.2), ranges)[id];
        let (searched, whole) = (pair(Ranges::LeastSquares), pair(Ranges::Equalised));
        assert!(searched.real(127) < 8.0, "{searched:?}");
        let half_a_step = 0.5 * whole.scale;
        assert!(
            (whole.real(127) - 10.0).abs() <= half_a_step && (whole.real(-128) + 0.5).abs() <= half_a_step,
            "{whole:?}"
        );
    }

    #[test]
    fn pairs_in_metadata_come_back_and_impossible_ones_name_their_layer() {
        let graph = msda(QUARTER, 1);
        let good = vec![Affine { scale: f64::from(0.1f32), zero_point: -3 }; graph.nodes().len()];
        let read = |pairs: &[Affine]| {
            let mut metadata = BTreeMap::new();
            write_to(pairs, &mut metadata);
            read_from(&metadata, &graph).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read(&good), Ok(Some(good.clone())));
        assert_eq!(read_from(&BTreeMap::new(), &graph).unwrap(), None);
        assert!(read(&good[1..]).unwrap_err().contains("maps"));
        let concat = graph.nodes().iter().position(|node| node.op == Op::Concat).unwrap();
        for scale in [0.0, f64::NAN, 0.2] {
            let mut bad = good.clone();
            bad[concat].scale = scale;
            // JSON has no NaN: it comes back as null and is refused as text.
            let error = read(&bad).unwrap_err();
            assert!(error.contains(graph.nodes()[concat].label.to_string().as_str()) || scale.is_nan(), "{error}");
        }
    }

    #[test]
    fn an_8_bit_frame_enters_step_by_step() {
        let (mean, std) = (0.43, 0.17);
        let pair = input_pair(mean, std);
        for grey in 0..=255u8 {
            let real = (f64::from(grey) / 255.0 - f64::from(mean)) / f64::from(std);
            // The zero point is the mean's nearest step, so a step is hit to within half of one.
            let step = i32::from(pair.quantise(real)) + 128;
            assert!((step - i32::from(grey)).abs() <= 1, "{grey} enters as {step}");
        }
    }
}
