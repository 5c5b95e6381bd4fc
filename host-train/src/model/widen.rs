//! A wider network that computes what a narrower one does: where its training starts (Net2WiderNet, arXiv 1511.05641).
//!
//! Every channel of a wide map is a copy of a narrow one; what reads the copies shares the narrow weight out among them:
//!
//! ```text
//! W'[o, i] = s[o, i] · W[from(o), from(i)],   Σ_{i: from(i) = j} s[o, i] = 1
//! ```
//!
//! The shares are drawn for every output, between a third and three times each other, so that copies get different
//! gradients and become channels of their own. One thing is kept only where every channel has as many copies: the mean
//! over channels that a spatial gate looks at. In level 2 that is never so, as the Haar bands injected there have none.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use gsacp_core::graph::{Graph, Op};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{ModelInfo, StateDict, params};
use crate::data::random;

/// The narrow channel that each channel of a wide map copies.
type Copies = Vec<usize>;

/// `narrow`'s weights in a network of `widths`, none of them smaller; `seed` draws the shares. The metadata is the
/// [`ModelInfo`] alone. Errors: a dict that does not fit its graph, a width that shrinks or that no graph has.
pub fn widen(narrow: &StateDict, widths: [u16; 5], seed: u64) -> Result<StateDict> {
    let info = ModelInfo::read_from(&narrow.metadata)?;
    let wide_info = ModelInfo { widths, ..info.clone() };
    let (graph, wide) = (info.graph()?, wide_info.graph()?);
    narrow.check(&graph)?;
    ensure!(
        info.widths.iter().zip(widths).all(|(narrow, wide)| *narrow <= wide),
        "a network of widths {:?} cannot be widened to {widths:?}",
        info.widths
    );
    let copies = copies(&graph, &wide);
    let mut tensors = BTreeMap::new();
    for (id, node) in wide.nodes().iter().enumerate() {
        let own = &copies[id];
        let read = node.inputs().first().map_or(own, |&input| &copies[usize::from(input)]);
        let hidden = match node.op {
            Op::SqueezeExcite { hidden, .. } => repeated(hidden_of(&graph, id), usize::from(hidden), 0),
            _ => Copies::new(),
        };
        for param in params::of_node(&wide, id) {
            let tensor = &narrow.tensors[&param.name];
            let (rows, columns) = match node.op {
                Op::SqueezeExcite { .. } if param.name.ends_with("fc.0.weight") => (&hidden, Some(own)),
                Op::SqueezeExcite { .. } => (own, Some(&hidden)),
                // Of two channels, whatever the map's width.
                Op::SpatialGate(_) => {
                    tensors.insert(param.name, tensor.clone());
                    continue;
                }
                _ => (own, (param.shape.len() > 1).then_some(read)),
            };
            let mut rng = random::stream(seed, &param.name, 0, 0);
            tensors.insert(param.name, expand(tensor, rows, columns, &mut rng)?.reshape(param.shape)?);
        }
    }
    let mut state = StateDict { tensors, metadata: BTreeMap::new() };
    wide_info.write_to(&mut state.metadata);
    state.check(&wide)?;
    Ok(state)
}

/// The copies of every node's map. Sums need their terms' copies to agree; they do, as a map's copies follow from its
/// width alone: those of level 2's width begin with the Haar bands.
fn copies(graph: &Graph, wide: &Graph) -> Vec<Copies> {
    let bands = 3 * usize::from(graph.input_channels);
    let mut all: Vec<Copies> = Vec::new();
    for (node, wider) in graph.nodes().iter().zip(wide.nodes()) {
        let (few, many) = (usize::from(node.channels), usize::from(wider.channels));
        all.push(match node.op {
            Op::Concat => {
                let mut joined = Copies::new();
                let mut offset = 0;
                for &part in node.inputs() {
                    let part = usize::from(part);
                    joined.extend(all[part].iter().map(|from| offset + from));
                    offset += usize::from(graph.nodes()[part].channels);
                }
                joined
            }
            _ if node.channels == graph.widths[1] => repeated(few, many, bands),
            _ => repeated(few, many, 0),
        });
    }
    all
}

/// 0 to `few` − 1 once, then those from `fixed` on again and again.
fn repeated(few: usize, many: usize, fixed: usize) -> Copies {
    (0..many).map(|i| if i < few { i } else { fixed + (i - fixed) % (few - fixed) }).collect()
}

fn hidden_of(graph: &Graph, id: usize) -> usize {
    match graph.nodes()[id].op {
        Op::SqueezeExcite { hidden, .. } => usize::from(hidden),
        _ => 0,
    }
}

/// `tensor` with its rows (first dimension) and columns (second) copied; a column's values are shared out among its copies.
fn expand(tensor: &Tensor, rows: &Copies, columns: Option<&Copies>, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let mut out = Vec::new();
    match columns {
        None => out.extend(rows.iter().map(|&row| values[row])),
        Some(columns) => {
            let few = tensor.dim(1)?;
            let taps: usize = tensor.dims()[2..].iter().product();
            for &row in rows {
                let draws: Vec<f32> = columns.iter().map(|_| rng.random_range(0.5..1.5)).collect();
                let mut sums = vec![0f32; few];
                columns.iter().zip(&draws).for_each(|(&column, draw)| sums[column] += draw);
                for (&column, draw) in columns.iter().zip(&draws) {
                    let from = (row * few + column) * taps;
                    out.extend(values[from..from + taps].iter().map(|value| value * (draw / sums[column])));
                }
            }
        }
    }
    let count = out.len();
    Ok(Tensor::from_vec(out, count, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use gsacp_core::graph::{HALF, QUARTER};

    use super::*;
    use crate::model::{Mode, Msda};

    /// A `quarter` of random weights, its batch norms settled on the input that it is tried on.
    fn narrow(input: &Tensor) -> (StateDict, Tensor) {
        let info = ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.0, std: 1.0 };
        let model = Msda::new(&info.graph().unwrap(), 5, &Device::Cpu).unwrap();
        model.forward(input, Mode::Measure { seen: 0 }).unwrap();
        let mut state = model.state().unwrap();
        info.write_to(&mut state.metadata);
        (state, model.forward(input, Mode::Eval).unwrap().logits)
    }

    fn logits(state: &StateDict, input: &Tensor) -> Tensor {
        let graph = ModelInfo::read_from(&state.metadata).unwrap().graph().unwrap();
        Msda::from_state(&graph, state, &Device::Cpu).unwrap().forward(input, Mode::Eval).unwrap().logits
    }

    /// The largest difference over the largest deviation from the mean.
    fn moved(a: &Tensor, b: &Tensor) -> f32 {
        let [a, b] = [a, b].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |most, v| most.max(v.abs()));
        largest(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / largest(&mut a.iter().map(|a| a - mean))
    }

    fn input() -> Tensor {
        let mut rng = random::stream(1, "widen", 0, 0);
        let values: Vec<f32> = (0..2 * 64 * 64).map(|_| random::normal(&mut rng)).collect();
        Tensor::from_vec(values, (2, 1, 64, 64), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
    }

    #[test]
    fn a_wider_network_computes_the_same_but_for_the_means_of_level_two() {
        let input = input();
        let (state, expected) = narrow(&input);
        let wide = widen(&state, [8, 8, 32, 16, 48], 1).unwrap();
        let same = moved(&expected, &logits(&wide, &input));
        let nearly = moved(&expected, &logits(&widen(&state, HALF, 1).unwrap(), &input));
        println!("logits moved by {same} and {nearly} of their range");
        assert!(same < 1e-3 && nearly < 0.5, "{same} {nearly}");
        let other = widen(&state, [8, 8, 32, 16, 48], 2).unwrap();
        let first =
            |state: &StateDict| state.tensors["layer.0.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(first(&wide), first(&other));
        assert_ne!(first(&wide)[0], first(&wide)[4], "two copies have the same share");
    }

    #[test]
    fn copies_begin_with_the_narrow_channels() {
        assert_eq!(repeated(5, 13, 0), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]);
        assert_eq!(repeated(5, 9, 3), [0, 1, 2, 3, 4, 3, 4, 3, 4]);
        assert_eq!(repeated(3, 3, 3), [0, 1, 2]);
    }

    #[test]
    fn a_network_does_not_shrink() {
        let (state, _) = narrow(&input());
        let error = widen(&state, [4, 8, 16, 16, 12], 1).unwrap_err().to_string();
        assert!(error.contains("cannot be widened"), "{error}");
    }
}
