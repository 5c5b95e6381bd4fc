//! A random network and synthetic frames for the tests of this folder.

use candle_core::{Device, Tensor};
use gsacp_core::graph::{Graph, Op};
use rand_chacha::ChaCha8Rng;

use super::observe::Observations;
use super::range::Affine;
use super::{Calibration, OperatingPoint, Ranges, Record};
use super::{equalise, groups};
use crate::data::random::{normal, stream};
use crate::model::params::{self, Kind};
use crate::model::{ModelInfo, StateDict};

/// Weights as training starts with them, batch norms with statistics that are not trivial. Residual branches are
/// damped: in a random network of this depth each block would otherwise double what error comes in, which no trained
/// network does.
pub fn state(graph: &Graph, seed: u64) -> StateDict {
    let mut state = StateDict::default();
    for (i, p) in params::of_graph(graph).into_iter().enumerate() {
        let mut rng = stream(seed, "quantize test weights", 0, i as u64);
        let mut draw = |mean: f32, deviation: f32| mean + deviation * normal(&mut rng);
        let count = p.shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| match p.kind {
                Kind::Weight { fan_out } => draw(0.0, (2.0 / fan_out as f32).sqrt()),
                Kind::Bias(start) => draw(start, 0.1),
                Kind::Scale if p.name.contains(".conv_res.") => draw(0.2, 0.02),
                Kind::Scale => draw(1.0, 0.1),
                Kind::RunningMean => draw(0.0, 0.2),
                Kind::RunningVariance => draw(1.0, 0.1).abs(),
            })
            .collect();
        let tensor = Tensor::from_vec(values, p.shape, &Device::Cpu).expect("the shape has as many values");
        state.tensors.insert(p.name, tensor);
    }
    state
}

/// A record for these widths.
pub fn record(graph: &Graph) -> Record {
    Record {
        format_version: super::file::FORMAT_VERSION,
        model: ModelInfo { widths: graph.widths, input_channels: graph.input_channels, mean: 0.42, std: 0.18 },
        operating_points: vec![OperatingPoint { requested_fa: 5e-6, threshold: -0.5, pd: Some(0.9), fa: 4e-6 }],
        calibration: Calibration {
            list: "train_dev.txt".into(),
            images: 64,
            seed: 1,
            ranges: Some(Ranges::LeastSquares),
        },
        source_crc: 0x1234_5678,
    }
}

/// The searched ranges of maps, for the normalisation of [`record`].
pub fn ranges(graph: &Graph, seen: &Observations) -> Vec<Affine> {
    let info = record(graph).model;
    groups::assign(graph, seen, groups::input_pair(info.mean, info.std), Ranges::LeastSquares)
}

/// Units that [`equalise::scaled`] can give a network, from an eighth to eight times for neighbouring channels.
pub fn units(graph: &Graph) -> Vec<Vec<i32>> {
    let (classes, kept) = equalise::classes(graph);
    let of = |&class: &usize| if kept[class] { 0 } else { class as i32 * 5 % 7 - 3 };
    classes.iter().map(|of_node| of_node.iter().map(of).collect()).collect()
}

/// Maps that no network made: enough to choose ranges where the values do not matter.
pub fn invented_maps(graph: &Graph) -> Observations {
    let mut seen = Observations::new(graph);
    for (id, node) in graph.nodes().iter().enumerate() {
        let low = if matches!(node.op, Op::Conv(c) if c.relu) { 0.0 } else { -1.0 };
        let value = |i: usize| low + (2.0 - low) * ((i * 37 + id) % 101) as f32 / 100.0;
        seen.add(id, &(0..64 * usize::from(node.channels)).map(value).collect::<Vec<_>>());
    }
    seen
}

/// A bright spot on a slope with noise, in [0, 1], row-major.
pub fn frame(width: usize, height: usize, index: u64) -> Vec<f32> {
    let mut rng: ChaCha8Rng = stream(3, "quantize test frames", 0, index);
    let (cx, cy) = (width as f32 * (0.3 + 0.05 * index as f32), height as f32 * 0.6);
    (0..width * height)
        .map(|i| {
            let (x, y) = ((i % width) as f32, (i / width) as f32);
            let spot = (-((x - cx).powi(2) + (y - cy).powi(2)) / 3.0).exp();
            (0.25 + 0.3 * y / height as f32 + 0.5 * spot + 0.03 * normal(&mut rng)).clamp(0.0, 1.0)
        })
        .collect()
}
