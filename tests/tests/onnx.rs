//! Promise: an exported ONNX file is the network: float32 gives the float engine's logits, int8 the int8 engine's but for
//! a few steps, and with them the same detections.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use gsacp_core::engine::{FloatEngine, View};
use gsacp_core::graph::{Graph, HALF, Node, Op, QUARTER, msda};
use gsacp_core::plan::{Element, plan};
use gsacp_tests::onnx::{logits, logits_with};
use gsacp_tests::{noise, settled};
use gsacp_train::data::dataset::Dataset;
use gsacp_train::data::image::StoredImage;
use gsacp_train::evaluate::{Buffers, LogitMap, Values};
use gsacp_train::export;
use gsacp_train::model::{ModelInfo, StateDict};
use gsacp_train::onnx::{of_file, of_float, proto::ModelProto};
use gsacp_train::quantize::{QuantizedModel, host::Int8Network, range::Affine};
use xtask::board::SMALL;
use xtask::repository::{real_images, root};

fn committed(name: &str) -> PathBuf {
    root().join("models/quarter").join(name)
}

fn float_engine(graph: &Graph, state: &StateDict, x: &Tensor) -> Vec<f32> {
    let (_, _, height, width) = x.dims4().unwrap();
    let plan = plan(graph, height, width, Element::F32).unwrap();
    let weights = export::flatten(&export::fold(state, graph).unwrap());
    let mut arena = vec![0.0; plan.arena_len];
    let frame = numbers(&x.permute((0, 2, 3, 1)).unwrap());
    FloatEngine::new(graph, &plan, &weights, &mut arena).unwrap().run(&frame).unwrap().to_vec()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, relative to the largest value where that is above 1.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

fn of_random(widths: [u16; 5], input_channels: u16) -> (Graph, StateDict) {
    let graph = msda(widths, input_channels);
    let mut state = settled(&graph, 3).state().unwrap();
    ModelInfo { widths, input_channels, mean: 0.4, std: 0.2 }.write_to(&mut state.metadata);
    (graph, state)
}

#[test]
fn a_float_file_gives_the_float_engines_logits() {
    let committed = (msda(QUARTER, 1), StateDict::read(&committed("model.safetensors")).unwrap());
    for ((graph, state), height, width) in
        [(committed, 128, 160), (of_random(QUARTER, 1), 16, 16), (of_random(HALF, 3), 48, 32)]
    {
        let model = of_float(&state, height, width).unwrap();
        let model = ModelProto::from_bytes(&model.to_bytes()).unwrap();
        let x = noise(1, graph.input_channels.into(), height, width, 9);
        let found = logits(&model, &x);
        let worst = distance(&found, &float_engine(&graph, &state, &x));
        println!("{:?}×{} at {width}×{height}: {worst:.1e}", graph.widths, graph.input_channels);
        assert!(worst <= 1e-4, "{worst}");
    }
}

/// The comparison itself must be able to fail: one weight is moved.
#[test]
fn a_moved_weight_is_seen() {
    let (graph, mut state) = of_random(QUARTER, 1);
    let x = noise(1, 1, 32, 48, 6);
    let expected = float_engine(&graph, &state, &x);
    let name = "mlcl2.branch1.1.conv.weight";
    let moved = (&state.tensors[name] * 1.5).unwrap();
    state.tensors.insert(name.into(), moved);
    assert!(distance(&logits(&of_float(&state, 32, 48).unwrap(), &x), &expected) > 1e-3);
}

/// A committed int8 network with a frame as both sides see it.
struct Int8Frame {
    network: Int8Network,
    image: StoredImage,
    size: [usize; 2],
    steps: Vec<i8>,
    activations: Vec<Affine>,
    model: ModelProto,
    input: Tensor,
}

impl Int8Frame {
    fn of(image: &Path) -> Self {
        let path = committed("model.int8.safetensors");
        let (network, image) = (Int8Network::open(&path).unwrap(), StoredImage::open(image).unwrap());
        let [height, width] = [image.height, image.width].map(|side| side.next_multiple_of(16));
        let steps = network.quantise(&image).unwrap();
        let activations = QuantizedModel::read(&path).unwrap().activations;
        let real = steps.iter().map(|&q| activations[0].real(q) as f32).collect();
        let input = Tensor::from_vec(real, (1, 1, height, width), &Device::Cpu).unwrap();
        let model = of_file(&path, height, width).unwrap();
        Self { network, image, size: [height, width], steps, activations, model, input }
    }

    /// The int8 engine's logits, in steps.
    fn engine(&self, tap: impl FnMut(usize, &Node, View)) -> Vec<i16> {
        let [height, width] = self.size;
        self.network.run(&self.steps, width, height, tap).unwrap()
    }
}

/// Each map computed from the engine's own maps before it: convolutions and sums are the engine's to the bit but for
/// ties (of which a sum has many where a ratio of its scales is nearly a simple fraction, 7/8 in one of them). A gate's
/// inner roundings the file does not repeat: the engine rounds a logit to sixteenths, which moves σ by a half of 1/16 times
/// its slope, 1/4 at most, so the factor by 1/128, or 4/128 where four bands are summed. That moves the largest value, 255
/// steps of the map before, by as much of it. But for a pixel in a thousand it is one step.
#[test]
fn every_map_of_an_int8_file_is_the_int8_engines_to_a_step() {
    let frame = Int8Frame::of(&frames()[0]);
    let mut maps = HashMap::new();
    let expected = frame.engine(|id, node, view| {
        if let View::Int8(map) = view {
            let (shape, unsigned) = (map.shape(), map.pixels().flatten().map(|&q| f32::from(q) + 128.0).collect());
            let hwc = Tensor::from_vec(unsigned, (1, shape.height, shape.width, shape.channels), &Device::Cpu).unwrap();
            // Steps at most, and the shares of the pixels that may be one or more and two or more off.
            let gated = |bands: f64| {
                let [from, to] = [usize::from(node.inputs()[0]), id].map(|map| frame.activations[map].scale);
                [(1.0 + 255.0 * from / to * bands / 128.0) as f32, 0.06, 0.001]
            };
            let allowed = match node.op {
                Op::SpatialGate(_) => gated(4.0),
                Op::SqueezeExcite { .. } => gated(1.0),
                Op::Add { .. } => [1.0, 0.05, 0.0],
                _ => [1.0, 0.001, 0.0],
            };
            maps.insert(format!("{}/steps", node.label), (hwc.permute((0, 3, 1, 2)).unwrap(), allowed));
        }
    });
    let count = maps.len();
    let found = logits_with(&frame.model, &frame.input, |name, value| {
        let Some((engine, allowed)) = maps.remove(name) else { return value };
        let off = numbers(&(&value - &engine).unwrap().abs().unwrap());
        let most = off.iter().fold(0.0f32, |a, &b| a.max(b));
        if allowed[0] > 1.0 {
            println!("{name}: {most} steps of {}", allowed[0]);
        }
        let share = |least: f32| off.iter().filter(|&&v| v >= least).count() as f32 / off.len() as f32;
        let seen = [most, share(1.0), share(2.0)];
        assert!(seen.iter().zip(allowed).all(|(seen, allowed)| *seen <= allowed), "{name}: {seen:?} of {allowed:?}");
        engine.contiguous().unwrap()
    });
    assert!(maps.is_empty() && count > 250, "{} of {count} maps are not in the file", maps.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((256.0 * found - f32::from(expected)).abs() <= 0.51, "{found}, {expected} steps");
    }
}

/// Left to itself the file differs by more: what one rounding moves, all later layers carry on. In steps of 1/256 of a
/// logit, at most and on the mean over a frame; the logits of targets and background lie thousands of them apart.
const MOST_STEPS: f32 = 128.0;
const MEAN_STEPS: f32 = 12.0;

#[test]
fn an_int8_file_gives_the_int8_engines_detections() {
    let (mut detections, mut buffers) = (0, Buffers::default());
    for path in frames() {
        let frame = Int8Frame::of(&path);
        let (engine, found) = (frame.engine(|_, _, _| {}), logits(&frame.model, &frame.input));
        let off: Vec<f32> = found.iter().zip(&engine).map(|(f, &e)| (256.0 * f - f32::from(e)).abs()).collect();
        let (most, mean) = (off.iter().fold(0.0f32, |a, &b| a.max(b)), off.iter().sum::<f32>() / off.len() as f32);
        println!("{}: {most:.1} steps at most, {mean:.2} on the mean", path.display());
        assert!(most <= MOST_STEPS && mean <= MEAN_STEPS, "{most}, {mean}");

        let threshold = frame.network.operating_points().unwrap()[0].threshold;
        let mut detect = |values| {
            let map = LogitMap::cut(values, frame.size[1], frame.image.width, frame.image.height).unwrap();
            let found = map.detect(threshold, &frame.image, &mut buffers).unwrap();
            found.list.iter().map(|d| [d.x, d.y]).collect::<Vec<_>>()
        };
        let (of_file, of_engine) = (detect(Values::Float(found)), detect(Values::Steps(engine)));
        println!("{of_engine:.1?}");
        assert_eq!(of_file.len(), of_engine.len());
        for (a, b) in of_file.iter().zip(&of_engine) {
            assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1.0, "{a:?} {b:?}");
        }
        detections += of_engine.len();
    }
    assert!(detections > 0, "the frames hold no target");
}

/// Real images where there are any, otherwise synthetic scenes.
fn frames() -> Vec<PathBuf> {
    let data = real_images().unwrap();
    let (data, list) = match &data {
        Some(data) => (data.clone(), "val_dev"),
        None => (xtask::frames::synthetic(SMALL).unwrap(), "val"),
    };
    let dataset = Dataset::open(&data, Path::new(list)).unwrap();
    gsacp_train::evaluate::thin(&dataset.samples, 4).into_iter().map(|sample| sample.image).collect()
}

#[test]
fn every_map_has_its_label_and_every_constant_a_reader() {
    for name in ["model.safetensors", "model.int8.safetensors"] {
        let model = of_file(&committed(name), 64, 48).unwrap();
        assert_eq!(model, ModelProto::from_bytes(&model.to_bytes()).unwrap());
        let graph = model.graph.unwrap();
        let read: HashSet<&str> = graph.node.iter().flat_map(|n| &n.input).map(String::as_str).collect();
        for constant in &graph.initializer {
            assert!(read.contains(constant.name.as_str()), "{name}: nothing reads {}", constant.name);
        }
        let mut known: HashSet<&str> = graph.initializer.iter().map(|c| c.name.as_str()).chain([""]).collect();
        known.extend(graph.input.iter().map(|input| input.name.as_str()));
        for node in &graph.node {
            assert!(node.input.iter().all(|input| known.contains(input.as_str())), "{name}: {} comes early", node.name);
            assert!(known.insert(&node.output[0]), "{name}: {} is made twice", node.name);
        }
        for node in msda(QUARTER, 1).nodes() {
            assert!(known.contains(node.label.to_string().as_str()), "{name}: no {}", node.label);
        }
    }
}
