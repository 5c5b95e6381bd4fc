//! The whole path on a random network and synthetic frames: observe, build, pack, run, compare.

use std::sync::OnceLock;

use candle_core::Device;
use gsacp_core::graph::{Graph, Op, QUARTER, msda};

use super::host::Int8Network;
use super::observe::Observations;
use super::report::{Comparison, LossReport};
use super::{QuantizedModel, QuantizedNode, build, equalise, observe, testing};
use crate::data::image::{GrayImage, Samples, StoredImage};
use crate::export::fold;
use crate::model::{Mode, Msda, StateDict, input_tensor};

/// The sides are no multiples of 16, so that padding is part of it.
const WIDTH: usize = 75;
const HEIGHT: usize = 60;

fn image(index: u64) -> StoredImage {
    let pixels = testing::frame(WIDTH, HEIGHT, index);
    let samples = Samples::Eight(GrayImage { width: WIDTH, height: HEIGHT, pixels }.to_bytes());
    StoredImage { width: WIDTH, height: HEIGHT, samples }
}

struct Network {
    graph: Graph,
    state: StateDict,
    float: Msda,
    model: QuantizedModel,
}

/// The network of one input channel, made once for all tests.
fn shared() -> &'static Network {
    static SHARED: OnceLock<Network> = OnceLock::new();
    SHARED.get_or_init(|| network(1))
}

/// A random network, quantised.
fn network(channels: u16) -> Network {
    let graph = msda(if channels == 1 { QUARTER } else { [4, 12, 16, 16, 16] }, channels);
    let float = Msda::from_state(&graph, &testing::state(&graph, 7), &Device::Cpu).unwrap();
    let record = testing::record(&graph);
    // Batch norms settle as in training, or the maps of a random network grow from block to block.
    for index in 0..20 {
        let input = input_tensor(&[&image(index % 4).to_gray()], &record.model, &Device::Cpu).unwrap();
        float.forward(&input, Mode::Train).unwrap();
    }
    quantised(graph, float.state().unwrap())
}

/// A network of these weights, quantised with frames 0…3.
fn quantised(graph: Graph, state: StateDict) -> Network {
    let float = Msda::from_state(&graph, &state, &Device::Cpu).unwrap();
    let (record, seen) = (testing::record(&graph), observed(&graph, &float));
    let ranges = testing::ranges(&graph, &seen);
    let model = build(&graph, &fold(&state, &graph).unwrap(), ranges, &seen, record).unwrap();
    Network { graph, state, float, model }
}

/// What is seen in frames 0…3.
fn observed(graph: &Graph, float: &Msda) -> Observations {
    let (mut seen, info) = (Observations::new(graph), testing::record(graph).model);
    for index in 0..4 {
        seen.add_image(float, &info, &image(index).to_gray()).unwrap();
    }
    seen
}

/// Frames 4…6, which the ranges were not chosen with.
fn loss(n: &Network, model: &QuantizedModel) -> LossReport {
    let int8 = Int8Network::from_model(model).unwrap();
    let mut comparison = Comparison::new(&n.graph);
    for index in 4..7 {
        comparison.add(model, &n.float, &int8, &image(index)).unwrap();
    }
    comparison.report(model, &n.graph)
}

fn snr(report: &LossReport, layer: &str) -> f64 {
    let found = report.layers.iter().find(|l| l.layer == layer).expect("the layer is in the table");
    found.snr_db.expect("the layer is not zero throughout")
}

#[test]
fn the_int8_engine_tracks_the_float_network() {
    for n in [shared(), &network(3)] {
        let report = loss(n, &n.model);
        for (layer, least) in [("input", 45.0), ("stage.layer1.0", 30.0), ("stage.resnet1_2", 22.0), ("logits", 18.0)] {
            assert!(snr(&report, layer) > least, "{layer} {:.1} dB of {least}", snr(&report, layer));
        }
        assert!(report.layers.iter().all(|l| l.snr_db.is_none_or(|db| db > 8.0)), "{report}");
        assert!(report.logit_bias.abs() < 0.3 * report.logit_rms, "{report}");
    }
}

/// In units that spread the channels of a map over a factor of 64 the network is the same and its int8 form is not, until
/// they are chosen anew.
#[test]
fn equalising_brings_back_what_unlike_channels_lose() {
    let n = shared();
    let in_units = |n: &Network, units: &[Vec<i32>]| {
        quantised(n.graph.clone(), equalise::scaled(&n.graph, &n.state, units).unwrap())
    };
    let apart = in_units(n, &testing::units(&n.graph));
    let again = in_units(&apart, &equalise::doublings(&n.graph, &observed(&n.graph, &apart.float)));
    let [of_n, of_apart, of_again] = [n, &apart, &again].map(|n| loss(n, &n.model));
    for layer in ["stage.resnet2_3", "stage.resnet3_3", "logits"] {
        let [good, bad, equalised] = [&of_n, &of_apart, &of_again].map(|report| snr(report, layer));
        assert!(bad < good - 3.0 && equalised > bad + 3.0, "{layer}: {good:.1}, {bad:.1}, {equalised:.1} dB");
    }
}

/// The network in other units need not be run to be observed: all but the histograms is known to the bit.
#[test]
fn what_would_be_seen_in_other_units_is_known() {
    let n = shared();
    let units = testing::units(&n.graph);
    let scaled = equalise::scaled(&n.graph, &n.state, &units).unwrap();
    let run = observed(&n.graph, &Msda::from_state(&n.graph, &scaled, &Device::Cpu).unwrap());
    let as_they_are = vec![vec![0; 512]; n.graph.nodes().len()];
    assert!(observed(&n.graph, &n.float).in_units(&units) == run.in_units(&as_they_are));
}

/// If a wrong factor could pass the test above, it would prove nothing: one layer's bias is moved by a tenth of its range.
#[test]
fn a_wrong_bias_shows_in_its_layer_and_not_before_it() {
    let n = shared();
    let mut spoilt = n.model.clone();
    let id = n.graph.find("mlcl2").unwrap();
    let QuantizedNode::Conv(conv) = &mut spoilt.nodes[id] else { panic!("a conv") };
    for (bias, &scale) in conv.bias.iter_mut().zip(&conv.matrix.scale) {
        let step = f64::from(scale) * n.model.activations[usize::from(n.graph.nodes()[id].inputs()[0])].scale;
        *bias += (25.5 * n.model.activations[id].scale / step) as i32;
    }
    let (good, bad) = (loss(n, &n.model), loss(n, &spoilt));
    assert_eq!(snr(&good, "mlcl2.branch0.0"), snr(&bad, "mlcl2.branch0.0"));
    assert!(snr(&bad, "mlcl2") < snr(&good, "mlcl2") - 6.0, "{} {}", snr(&bad, "mlcl2"), snr(&good, "mlcl2"));
}

#[test]
fn the_same_images_give_the_same_model_and_image() {
    let (a, b) = (shared(), network(1));
    assert_eq!(a.model.to_bytes().unwrap(), b.model.to_bytes().unwrap());
    assert_eq!(a.model.to_image().unwrap(), b.model.to_image().unwrap());
    let seen = testing::invented_maps(&a.graph);
    let folded = fold(&a.state, &a.graph).unwrap();
    let other = build(&a.graph, &folded, testing::ranges(&a.graph, &seen), &seen, testing::record(&a.graph));
    assert_ne!(other.unwrap().to_image().unwrap(), a.model.to_image().unwrap());
}

/// What fine-tuning sees forward has the int8 engine's error in every layer. Not its bits: weights and gates are rounded
/// there too, and the smallest difference flips the rounding of a value between two steps.
#[test]
fn the_network_that_rounds_its_maps_has_the_error_of_the_int8_engine() {
    let n = shared();
    let int8 = Int8Network::from_model(&n.model).unwrap();
    let mut rounding = Msda::from_state(&n.graph, &n.state, &Device::Cpu).unwrap();
    rounding.round_maps(&n.model.activations);
    let frame = image(5);
    let mut noise = vec![0.0; n.graph.nodes().len()];
    let mut rounded = vec![Vec::new(); noise.len()];
    observe::float_maps(&rounding, int8.info(), &frame.to_gray(), |id, map| {
        rounded[id] = map;
        Ok(())
    })
    .unwrap();
    observe::float_maps(&n.float, int8.info(), &frame.to_gray(), |id, map| {
        noise[id] = map.iter().zip(&rounded[id]).map(|(x, y)| f64::from(x - y).powi(2) / map.len() as f64).sum();
        Ok(())
    })
    .unwrap();
    let mut comparison = Comparison::new(&n.graph);
    comparison.add(&n.model, &n.float, &int8, &frame).unwrap();
    let engine = comparison.report(&n.model, &n.graph).layers;
    for (id, node) in n.graph.nodes().iter().enumerate().filter(|(_, node)| !matches!(node.op, Op::Input | Op::Concat))
    {
        let label = node.label.to_string();
        let layer = engine.iter().find(|layer| layer.layer == label).unwrap();
        let ratio = 10.0 * (layer.noise / noise[id]).log10();
        // The first conv adds up few values, so there the rounding of its weights is the larger part.
        let most = if node.inputs() == [0] && !matches!(node.op, Op::HaarInject) { 10.0 } else { 2.5 };
        assert!(ratio.abs() < most, "{label}: the engine's noise is {ratio:.1} dB above that of rounding maps");
    }
}

#[test]
fn the_image_carries_normalisation_and_operating_points() {
    let n = shared();
    let int8 = Int8Network::from_model(&n.model).unwrap();
    assert_eq!(*int8.info(), n.model.record.model);
    let points = int8.operating_points().unwrap();
    assert_eq!((points.len(), points[0].threshold, points[0].pd), (1, -128, 0.9));
}

#[test]
fn logits_are_cropped_to_the_frame() {
    let n = shared();
    let int8 = Int8Network::from_model(&n.model).unwrap();
    let image = image(4);
    let whole = int8.run(&int8.quantise(&image).unwrap(), 80, 64, |_, _, _| {}).unwrap();
    let cropped = int8.logits(&image).unwrap();
    assert_eq!(cropped.len(), WIDTH * HEIGHT);
    assert_eq!(cropped[WIDTH * 5..WIDTH * 5 + 3], whole[80 * 5..80 * 5 + 3]);
}

/// A frame of 8 bits enters as its own grey values less 128: not one bit of contrast is lost at the door.
#[test]
fn an_8_bit_frame_enters_unchanged() {
    let n = shared();
    let int8 = Int8Network::from_model(&n.model).unwrap();
    let samples = Samples::Eight((0..=255).collect());
    let q = int8.quantise(&StoredImage { width: 16, height: 16, samples }).unwrap();
    assert!(q.iter().enumerate().all(|(grey, &q)| i32::from(q) == grey as i32 - 128));
}

#[test]
fn damaged_images_are_refused() {
    let bytes = shared().model.to_image().unwrap();
    for at in [0, 9, 13, 40, 191, 1000, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(Int8Network::from_image(&bad).is_err(), "flipped at {at}");
        assert!(Int8Network::from_image(&bytes[..at]).is_err(), "cut at {at}");
    }
}
