//! Promise: an exported ONNX file is the network: float32 gives the float engine's logits, int8 the int8 engine's but for
//! a few steps, and with them the same detections.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use gsacp_core::engine::FloatEngine;
use gsacp_core::graph::{Graph, HALF, QUARTER, msda};
use gsacp_core::plan::{Element, plan};
use gsacp_tests::{noise, onnx::run, settled};
use gsacp_train::data::dataset::Dataset;
use gsacp_train::data::image::StoredImage;
use gsacp_train::evaluate::{Buffers, LogitMap, Values};
use gsacp_train::export;
use gsacp_train::model::{ModelInfo, StateDict};
use gsacp_train::onnx::{of_file, of_float, proto::ModelProto};
use gsacp_train::quantize::{QuantizedModel, host::Int8Network};
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
        let found = numbers(&run(&model, &x));
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
    assert!(distance(&numbers(&run(&of_float(&state, 32, 48).unwrap(), &x)), &expected) > 1e-3);
}

/// Steps of 1/256 by which a logit of the int8 file may differ from the engine's: each map is rounded alike, but a sum
/// that falls between two steps may go the other way, and later layers carry that on.
const MOST_STEPS: f32 = 24.0;
/// The same on the mean over a frame.
const MEAN_STEPS: f32 = 2.0;

#[test]
fn an_int8_file_gives_the_int8_engines_logits_and_detections() {
    let path = committed("model.int8.safetensors");
    let network = Int8Network::open(&path).unwrap();
    let activation = QuantizedModel::read(&path).unwrap().activations[0];
    let threshold = i16::from(network.operating_points().unwrap()[0].threshold);
    let (mut detections, mut buffers) = (0, Buffers::default());
    for image in frames() {
        let image = StoredImage::open(&image).unwrap();
        let [width, height] = [image.width, image.height].map(|side| side.next_multiple_of(16));
        let steps = network.quantise(&image).unwrap();
        let engine = network.run(&steps, width, height, |_, _, _| {}).unwrap();
        let real = steps.iter().map(|&q| activation.real(q) as f32).collect();
        let x = Tensor::from_vec(real, (1, 1, height, width), &Device::Cpu).unwrap();
        let found = numbers(&run(&of_file(&path, height, width).unwrap(), &x));

        let off: Vec<f32> = found.iter().zip(&engine).map(|(f, &e)| (256.0 * f - f32::from(e)).abs()).collect();
        let (most, mean) = (off.iter().fold(0.0f32, |a, &b| a.max(b)), off.iter().sum::<f32>() / off.len() as f32);
        println!("{width}×{height}: {most:.2} steps at most, {mean:.3} on the mean");
        assert!(most <= MOST_STEPS && mean <= MEAN_STEPS, "{most}, {mean}");

        let mut detect = |values| {
            let map = LogitMap::cut(values, width, image.width, image.height).unwrap();
            let found = map.detect(threshold, &image, &mut buffers).unwrap();
            found.list.iter().map(|d| (d.left, d.top, d.right, d.bottom)).collect::<Vec<_>>()
        };
        let (of_file, of_engine) = (detect(Values::Float(found)), detect(Values::Steps(engine)));
        assert_eq!(of_file.len(), of_engine.len());
        detections += of_engine.len();
    }
    assert!(detections > 0, "the frames hold no target");
}

/// Real images where there are any, otherwise synthetic scenes.
fn frames() -> Vec<PathBuf> {
    let data = real_images().unwrap();
    let (data, list) = match &data {
        Some(data) => (data.clone(), "val_dev"),
        None => (xtask::frames::synthetic().unwrap(), "val"),
    };
    let dataset = Dataset::open(&data, Path::new(list)).unwrap();
    gsacp_train::evaluate::thin(&dataset.samples, 6).into_iter().map(|sample| sample.image).collect()
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
