//! A network with random weights, and the plainest possible quantiser for it: minimum and maximum of one frame.
//! What it does is written from the table in `engine/params.rs`, independently of the host's exporter.

#![allow(dead_code, reason = "each test binary uses its part")]

use gsacp_core::engine::params::{FloatParams, Int8Params, float_len, float_params};
use gsacp_core::engine::{FloatEngine, Int8Engine, View};
use gsacp_core::frame::Normalisation;
use gsacp_core::graph::{Graph, Op};
use gsacp_core::image::{self, Description, ModelImage};
use gsacp_core::kernels::squeeze_excite::SqueezeExciteInt8;
use gsacp_core::plan::{Element, Plan, plan};
use gsacp_core::quant::{Activation, ConvChannel, GateBand, Multiplier, MultiplierPair};
use gsacp_core::threshold::OperatingPoint;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes that start at a multiple of 16.
#[derive(Clone)]
pub struct Aligned(Vec<u128>, usize);

impl Aligned {
    pub fn zeroed(len: usize) -> Self {
        assert_eq!(align_of::<u128>(), 16);
        Aligned(vec![0; len.div_ceil(16)], len)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0.as_bytes()[..self.1]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut_bytes()[..self.1]
    }

    pub fn i8s_mut(&mut self) -> &mut [i8] {
        <[i8]>::mut_from_bytes(self.bytes_mut()).unwrap()
    }
}

/// Uniform in (−1, 1), from a splitmix64 stream.
pub struct Uniform(pub u64);

impl Uniform {
    pub fn draw(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Weights at a scale that keeps the maps' variance through the layers.
pub fn float_weights(graph: &Graph, seed: u64) -> Vec<f32> {
    let mut random = Uniform(seed);
    let empty = vec![0.0; float_len(graph)];
    let mut weights = Vec::with_capacity(empty.len());
    for (_, params) in float_params(graph, &empty).unwrap() {
        match params {
            FloatParams::None => {}
            FloatParams::Conv { weight, bias } => {
                let scale = (4.0 / (weight.len() / bias.len()) as f32).sqrt();
                weights.extend(weight.iter().map(|_| scale * random.draw()));
                weights.extend(bias.iter().map(|_| 0.1 * random.draw()));
            }
            FloatParams::SpatialGate(p) => weights.extend(p.iter().map(|_| 0.3 * random.draw())),
            FloatParams::SqueezeExcite { reduce, expand } => {
                weights.extend(reduce.iter().chain(expand).map(|_| 0.7 * random.draw()));
            }
        }
    }
    weights
}

/// A frame of noise around a slow wave with a few bright points, normalised.
pub fn frame(height: usize, width: usize, channels: usize, seed: u64) -> Vec<f32> {
    let mut random = Uniform(seed);
    let mut frame = Vec::new();
    for (y, x) in (0..height * width).map(|i| (i / width, i % width)) {
        let point = if (y % 23 == 7) && (x % 31 == 11) { 4.0 } else { 0.0 };
        let grey = (0.07 * x as f32).sin() * (0.05 * y as f32).cos() + 0.3 * random.draw() + point;
        frame.extend(std::iter::repeat_n(grey, channels));
    }
    frame
}

/// Every map of a float run, dense.
pub fn float_maps(graph: &Graph, plan: &Plan, weights: &[f32], input: &[f32]) -> Vec<Vec<f32>> {
    let mut maps = vec![Vec::new(); graph.nodes().len()];
    let mut arena = vec![f32::NAN; plan.arena_len];
    let mut engine = FloatEngine::new(graph, plan, weights, &mut arena).unwrap();
    engine.run_with(input, |id, _, map| maps[id].extend(map.pixels().flatten())).unwrap();
    maps
}

/// Every map of an int8 run, dense; the logits, as int16, are the last.
pub fn int8_maps(graph: &Graph, plan: &Plan, image: &Aligned, input: &[i8]) -> Vec<Vec<i16>> {
    int8_maps_of(graph, plan, image, input, |engine| engine)
}

/// As [`int8_maps`], of the engine that `prepare` makes.
pub fn int8_maps_of(
    graph: &Graph,
    plan: &Plan,
    image: &Aligned,
    input: &[i8],
    prepare: impl FnOnce(Int8Engine) -> Int8Engine,
) -> Vec<Vec<i16>> {
    let mut maps = vec![Vec::new(); graph.nodes().len()];
    let mut arena = Aligned::zeroed(plan.arena_len);
    arena.i8s_mut().fill(99);
    let image = ModelImage::parse(image.bytes()).unwrap();
    let mut engine = prepare(Int8Engine::new(graph, plan, image, arena.i8s_mut()).unwrap());
    let tap = |id: usize, _: &gsacp_core::graph::Node, view: View| match view {
        View::Int8(map) => maps[id].extend(map.pixels().flatten().map(|&q| i16::from(q))),
        View::Logits(logits) => maps[id].extend(logits),
    };
    let logits = engine.run_with(input, tap).unwrap().to_vec();
    assert_eq!(maps.last(), Some(&logits));
    maps
}

/// Parameters of one node that own their arrays.
pub enum Owned {
    None,
    Conv(Vec<i8>, Vec<ConvChannel>),
    Rescale(Multiplier),
    Add(MultiplierPair),
    Gate(Vec<i8>, Vec<GateBand>, Multiplier),
    Excite([Vec<i8>; 2], [Vec<Multiplier>; 2], Multiplier),
}

impl Owned {
    pub fn borrow(&self) -> Int8Params<'_> {
        match self {
            Owned::None => Int8Params::None,
            Owned::Conv(weight, channels) => Int8Params::Conv { weight, channels },
            Owned::Rescale(m) => Int8Params::Rescale(*m),
            Owned::Add(pair) => Int8Params::Add(*pair),
            Owned::Gate(weight, bands, output) => Int8Params::SpatialGate { weight, bands, output: *output },
            Owned::Excite([reduce, expand], [hidden, gates], output) => {
                Int8Params::SqueezeExcite(SqueezeExciteInt8 { reduce, hidden, expand, gates, output: *output })
            }
        }
    }
}

/// Symmetric int8 weights and their scale.
fn symmetric(weights: &[f32]) -> (Vec<i8>, f64) {
    let scale = f64::from(weights.iter().fold(1e-6f32, |m, w| m.max(w.abs()))) / 127.0;
    (weights.iter().map(|&w| (f64::from(w) / scale).round() as i8).collect(), scale)
}

fn rows(weights: &[f32], width: usize) -> (Vec<i8>, Vec<f64>) {
    let (q, scales): (Vec<_>, Vec<_>) = weights.chunks(width).map(symmetric).unzip();
    (q.concat(), scales)
}

fn real(x: f64) -> Multiplier {
    Multiplier::from_real(x).unwrap()
}

/// Quantisation of every map, from its smallest and largest value.
pub fn activations(graph: &Graph, maps: &[Vec<f32>]) -> Vec<Activation> {
    let of = |map: &Vec<f32>| {
        let (low, high) = map.iter().fold((0f32, 0f32), |(l, h), &v| (l.min(v), h.max(v)));
        let scale = ((high - low) / 255.0).max(1e-6);
        Activation { scale, zero: (-128.0 - low / scale).round().clamp(-128.0, 127.0) as i32 }
    };
    let mut activations: Vec<Activation> = maps.iter().map(of).collect();
    for (id, node) in graph.nodes().iter().enumerate().filter(|(_, n)| n.op == Op::Concat) {
        node.inputs().iter().for_each(|&member| activations[member as usize] = activations[id]);
    }
    for (id, node) in graph.nodes().iter().enumerate().filter(|(_, n)| matches!(n.op, Op::MaxPool { .. })) {
        activations[id] = activations[node.inputs()[0] as usize];
    }
    *activations.last_mut().unwrap() = Activation { scale: 1.0 / 256.0, zero: 0 };
    activations
}

/// Int8 parameters of every node.
pub fn quantise(graph: &Graph, weights: &[f32], activations: &[Activation]) -> Vec<Owned> {
    let scale_of = |id: usize| f64::from(activations[id].scale);
    let node = |(id, (node, params)): (usize, (&gsacp_core::graph::Node, FloatParams))| {
        let s_out = scale_of(id);
        let input = |k: usize| node.inputs()[k] as usize;
        match params {
            FloatParams::Conv { weight, bias } => {
                let patch = weight.len() / bias.len();
                let (q, scales) = rows(weight, patch);
                let (s_in, zero) = (scale_of(input(0)), activations[input(0)].zero);
                let channel = |((w, s_w), b): ((&[i8], &f64), &f32)| {
                    let bias = (f64::from(*b) / (s_in * s_w)).round() as i64;
                    ConvChannel::folded(bias, w, zero, real(s_in * s_w / s_out)).unwrap()
                };
                let channels = q.chunks(patch).zip(&scales).zip(bias).map(channel).collect();
                Owned::Conv(q, channels)
            }
            FloatParams::SpatialGate(p) => {
                let (mut weight, mut bands) = (Vec::new(), Vec::new());
                for band in p.chunks(99) {
                    let (max, s_max) = symmetric(&band[..49]);
                    let (mean, s_mean) = symmetric(&band[49..98]);
                    bands.push(GateBand::new(band[98].into(), scale_of(input(0)), s_max, s_mean).unwrap());
                    weight.extend(max.into_iter().chain(mean));
                }
                Owned::Gate(weight, bands, real(scale_of(input(0)) / s_out / 32768.0))
            }
            FloatParams::SqueezeExcite { reduce, expand } => {
                let (c, s_in) = (usize::from(node.channels), scale_of(input(0)));
                let ((r, r_scales), (e, e_scales)) = (rows(reduce, c), rows(expand, reduce.len() / c));
                // A mean is below 256 input steps, so this hidden scale never saturates.
                let s_hidden =
                    256.0 * s_in * r_scales.iter().fold(0.0, |m: f64, s| m.max(*s)) * 127.0 * c as f64 / 32767.0;
                let hidden = r_scales.iter().map(|s| real(s_in * s / (64.0 * s_hidden))).collect();
                let gates = e_scales.iter().map(|s| real(s_hidden * s * 16.0)).collect();
                Owned::Excite([r, e], [hidden, gates], real(s_in / s_out / 32768.0))
            }
            FloatParams::None => match node.op {
                Op::HaarInject => Owned::Rescale(real(scale_of(input(0)) / (2.0 * s_out))),
                Op::Upsample2 => Owned::Rescale(real(scale_of(input(0)) / s_out)),
                Op::Add { .. } => {
                    let [a, b] = [0, 1].map(|k| scale_of(input(k)) / s_out);
                    Owned::Add(MultiplierPair::from_reals(a, b).unwrap())
                }
                _ => Owned::None,
            },
        }
    };
    float_params(graph, weights).unwrap().enumerate().map(node).collect()
}

/// The operating points of every test image.
pub const POINTS: [OperatingPoint; 2] = [
    OperatingPoint { requested_fa: 5e-6, threshold: 700, pd: 0.9, fa: 4e-6 },
    OperatingPoint { requested_fa: 1e-6, threshold: -3, pd: 0.8, fa: 0.0 },
];

/// A model image of `graph`, calibrated on one frame of 32×48 pixels.
pub fn model_image(graph: &Graph, seed: u64) -> Aligned {
    let plan = plan(graph, 32, 48, Element::F32).unwrap();
    let (weights, input) = (float_weights(graph, seed), frame(32, 48, graph.input_channels.into(), seed));
    let activations = activations(graph, &float_maps(graph, &plan, &weights, &input));
    let owned = quantise(graph, &weights, &activations);
    let params: Vec<Int8Params> = owned.iter().map(Owned::borrow).collect();
    let mut bytes = Aligned::zeroed(image::image_len(graph));
    let description = Description { normalisation: Normalisation { mean: 0.4, std: 0.2 }, points: &POINTS };
    image::write(graph, &description, &activations, &params, bytes.bytes_mut()).unwrap();
    bytes
}
