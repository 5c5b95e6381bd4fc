//! The network in candle: the graph walked with differentiable operations, for training and evaluation.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use gsacp_core::graph::{BANDS, Conv, Graph, Op};

use super::params::{self, Kind};
use super::{ModelInfo, StateDict};
use crate::data::random;
use crate::nn;
use crate::quantize::range::Affine;

/// Momentum of the running statistics: running ← 0.9·running + 0.1·batch.
const MOMENTUM: f64 = 0.1;

/// Maps that a forward pass hands out.
pub struct Outputs {
    /// Logits `[N, 1, H, W]`.
    pub logits: Tensor,
    /// The decoder's last map `[N, w1, H, W]`.
    pub d1: Tensor,
    /// The decoder's map of level 2 `[N, w2, H/2, W/2]`.
    pub d2: Tensor,
    /// The encoder's map of level 1 `[N, w1, H, W]`.
    pub o1: Tensor,
}

/// Where a pass takes its batch norm statistics from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// From the batch; the running statistics follow.
    Train,
    /// From the running statistics.
    Eval,
    /// From the batch; the running statistics become the mean over the batches so far, of which `seen` were before.
    Measure {
        /// Batches before this one.
        seen: usize,
    },
}

struct Norm {
    gamma: Var,
    beta: Var,
    mean: Var,
    variance: Var,
}

enum Layer {
    Conv {
        conv: Conv,
        weight: Var,
        bias: Option<Var>,
        norm: Option<Norm>,
    },
    /// One 7×7 conv per band.
    Gate {
        weights: Vec<Tensor>,
        biases: Vec<Tensor>,
    },
    SqueezeExcite {
        reduce: Var,
        expand: Var,
    },
    Plain,
}

/// The detector with its weights.
pub struct Msda {
    graph: Graph,
    layers: Vec<Layer>,
    vars: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
    features: [usize; 3],
    /// What the map of each node is rounded to; empty where nothing is.
    rounding: Vec<Option<Affine>>,
}

impl Msda {
    /// A network with seeded initial weights (METHOD.md §1: Kaiming normal, fan-out).
    pub fn new(graph: &Graph, seed: u64, device: &Device) -> Result<Msda> {
        let mut all = BTreeMap::new();
        for (index, p) in params::of_graph(graph).into_iter().enumerate() {
            let count = p.shape.iter().product();
            let mut rng = random::stream(seed, "weights", 0, index as u64);
            let values: Vec<f32> = match p.kind {
                Kind::Weight { fan_out } => {
                    let std = (2.0 / fan_out as f32).sqrt();
                    (0..count).map(|_| std * random::normal(&mut rng)).collect()
                }
                Kind::Bias(start) => vec![start; count],
                Kind::Scale | Kind::RunningVariance => vec![1.0; count],
                Kind::RunningMean => vec![0.0; count],
            };
            let var = Var::from_tensor(&Tensor::from_vec(values, p.shape, device)?)?;
            all.insert(p.name, (var, p.kind));
        }
        Msda::assemble(graph, all)
    }

    /// A network with the weights of `state`, which must fit `graph`.
    pub fn from_state(graph: &Graph, state: &StateDict, device: &Device) -> Result<Msda> {
        let model = Msda::new(graph, 0, device)?;
        model.load(state)?;
        Ok(model)
    }

    fn assemble(graph: &Graph, all: BTreeMap<String, (Var, Kind)>) -> Result<Msda> {
        let get = |name: String| all.get(&name).map(|(v, _)| v.clone()).with_context(|| format!("{name} is missing"));
        let layers = graph
            .nodes()
            .iter()
            .map(|node| {
                Ok(match node.op {
                    Op::Conv(conv) => Layer::Conv {
                        conv,
                        weight: get(format!("{}.weight", conv.path))?,
                        bias: if conv.bias { Some(get(format!("{}.bias", conv.path))?) } else { None },
                        norm: match conv.norm {
                            None => None,
                            Some(n) => Some(Norm {
                                gamma: get(format!("{n}.weight"))?,
                                beta: get(format!("{n}.bias"))?,
                                mean: get(format!("{n}.running_mean"))?,
                                variance: get(format!("{n}.running_var"))?,
                            }),
                        },
                    },
                    Op::SpatialGate(path) => Layer::Gate {
                        weights: BANDS
                            .iter()
                            .map(|b| Ok(get(format!("{path}.{b}_reduce.conv.weight"))?.as_tensor().clone()))
                            .collect::<Result<_>>()?,
                        biases: BANDS
                            .iter()
                            .map(|b| Ok(get(format!("{path}.{b}_reduce.conv.bias"))?.as_tensor().clone()))
                            .collect::<Result<_>>()?,
                    },
                    Op::SqueezeExcite { path, .. } => Layer::SqueezeExcite {
                        reduce: get(format!("{path}.fc.0.weight"))?,
                        expand: get(format!("{path}.fc.2.weight"))?,
                    },
                    _ => Layer::Plain,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let named = |name| graph.find(name).expect("msda names its maps");
        let features = ["sbam1", "sbam2", "stage.resnet1_2"].map(named);
        let (vars, buffers, rounding) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut model = Msda { graph: graph.clone(), layers, vars, buffers, features, rounding };
        for (name, (var, kind)) in all {
            let home = if kind.trainable() { &mut model.vars } else { &mut model.buffers };
            home.insert(name, var);
        }
        Ok(model)
    }

    /// The graph that is walked.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Trainable tensors by the reference's names.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Running statistics by the reference's names.
    pub fn buffers(&self) -> &BTreeMap<String, Var> {
        &self.buffers
    }

    /// Every tensor, copied to the CPU; without metadata.
    pub fn state(&self) -> Result<StateDict> {
        let tensors = self.vars.iter().chain(&self.buffers);
        let tensors = tensors
            .map(|(name, var)| Ok((name.clone(), var.as_tensor().to_device(&Device::Cpu)?.copy()?)))
            .collect::<Result<_>>()?;
        Ok(StateDict { tensors, metadata: BTreeMap::new() })
    }

    /// Replaces every tensor by `state`'s, which must hold exactly the graph's.
    pub fn load(&self, state: &StateDict) -> Result<()> {
        state.check(&self.graph)?;
        for (name, var) in self.vars.iter().chain(&self.buffers) {
            var.set(&state.tensors[name].to_device(var.device())?)?;
        }
        Ok(())
    }

    /// From now on rounds every map to the int8 steps of `pairs`, one for each node, as the int8 engine does. The
    /// logits keep their sixteen bits, concatenations and pools only pass on what is rounded already, and a frame's own
    /// eight bits are the input's steps (that these miss the mean by a part of a step, the first bias makes good).
    pub fn round_maps(&mut self, pairs: &[Affine]) {
        let last = self.graph.nodes().len() - 1;
        let nodes = self.graph.nodes().iter().zip(pairs).enumerate();
        self.rounding = nodes
            .map(|(id, (node, pair))| {
                let exact = id == last || matches!(node.op, Op::Input | Op::Concat | Op::MaxPool { .. });
                (!exact).then_some(*pair)
            })
            .collect();
    }

    /// Runs the network on a normalised batch `[N, C, H, W]` whose sides are multiples of 16.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Outputs> {
        let mut features = [None, None, None];
        let logits = self.walk(x, mode, |id, map| {
            for (slot, &wanted) in features.iter_mut().zip(&self.features) {
                if id == wanted {
                    *slot = Some(map.clone());
                }
            }
            Ok(())
        })?;
        let [Some(d1), Some(d2), Some(o1)] = features else { unreachable!("the walk visits every node") };
        Ok(Outputs { logits, d1, d2, o1 })
    }

    /// Runs the network and shows every node's output to `tap`, in running order.
    pub fn walk(&self, x: &Tensor, mode: Mode, mut tap: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<Tensor> {
        let (_, c, h, w) = x.dims4().context("the input of the network has four dimensions")?;
        ensure!(
            c == usize::from(self.graph.input_channels) && h % 16 == 0 && w % 16 == 0,
            "input of {c} channels and {w}×{h} pixels: {} channels and multiples of 16 are needed",
            self.graph.input_channels
        );
        let nodes = self.graph.nodes();
        let mut last_use = vec![0; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            node.inputs().iter().for_each(|&j| last_use[usize::from(j)] = id);
        }
        let mut maps: Vec<Option<Tensor>> = vec![None; nodes.len()];
        for (id, (node, layer)) in nodes.iter().zip(&self.layers).enumerate() {
            let inputs: Vec<&Tensor> = node
                .inputs()
                .iter()
                .map(|&j| maps[usize::from(j)].as_ref().expect("alive until its last use"))
                .collect();
            let out = match (node.op, layer) {
                (Op::Input, _) => x.clone(),
                (Op::HaarInject, _) => nn::haar_inject(inputs[0])?,
                (Op::MaxPool { size }, _) => nn::max_pool(inputs[0], usize::from(size))?,
                (Op::Upsample2, _) => nn::upsample2(inputs[0])?,
                (Op::Concat, _) => Tensor::cat(&inputs, 1)?,
                (Op::Add { relu }, _) => nn::add(inputs[0], inputs[1], relu)?,
                (_, layer) => apply(layer, inputs[0], mode)?,
            };
            let out = match self.rounding.get(id).copied().flatten() {
                Some(pair) => nn::round_to_steps(&out, pair.scale, pair.zero_point)?,
                None => out,
            };
            tap(id, &out)?;
            for &j in node.inputs() {
                if last_use[usize::from(j)] == id {
                    maps[usize::from(j)] = None;
                }
            }
            maps[id] = Some(out);
        }
        Ok(maps.pop().flatten().expect("the last node is the logit map"))
    }
}

fn apply(layer: &Layer, x: &Tensor, mode: Mode) -> Result<Tensor> {
    match layer {
        Layer::Conv { conv, weight, bias, norm } => {
            let bias = bias.as_ref().map(Var::as_tensor);
            let convolve = |weight: &Tensor, bias: Option<&Tensor>, relu| {
                nn::conv2d(x, weight, bias, conv.stride.into(), conv.dilation.into(), 1, relu)
            };
            let momentum = match mode {
                Mode::Eval => None,
                Mode::Train => Some(MOMENTUM),
                Mode::Measure { seen } => Some(1.0 / (seen as f64 + 1.0)),
            };
            match (norm, momentum) {
                (None, _) => Ok(convolve(weight, bias, conv.relu)?),
                (Some(norm), None) => {
                    let statistics = (norm.mean.as_tensor(), norm.variance.as_tensor());
                    let (weight, bias) = nn::fold_batch_norm((weight, bias), (&norm.gamma, &norm.beta), statistics)?;
                    Ok(convolve(&weight, Some(&bias), conv.relu)?)
                }
                (Some(norm), Some(momentum)) => batch_norm(&convolve(weight, bias, false)?, norm, conv.relu, momentum),
            }
        }
        Layer::Gate { weights, biases } => {
            let weight = Tensor::cat(weights, 0)?;
            let bias = Tensor::cat(biases, 0)?;
            let maps = nn::band_max_mean(x)?;
            let z = nn::conv2d(&maps, &weight, Some(&bias), 1, 1, BANDS.len(), false)?;
            Ok(nn::gate(x, &z)?)
        }
        Layer::SqueezeExcite { reduce, expand } => {
            let mean = x.mean((2, 3))?;
            let hidden = mean.matmul(&reduce.t()?)?.relu()?;
            let gate = candle_nn::ops::sigmoid(&hidden.matmul(&expand.t()?)?)?;
            Ok(nn::scale_channels(x, &gate)?)
        }
        Layer::Plain => Ok(x.clone()),
    }
}

/// Normalises by the batch's statistics, towards which the running ones go by `momentum`.
fn batch_norm(x: &Tensor, norm: &Norm, relu: bool, momentum: f64) -> Result<Tensor> {
    let (y, stats) = nn::batch_norm_train(x, &norm.gamma, &norm.beta, relu)?;
    for (running, batch) in [(&norm.mean, &stats.mean), (&norm.variance, &stats.var)] {
        running.set(&((running.as_tensor() * (1.0 - momentum))? + (batch * momentum)?)?)?;
    }
    Ok(y)
}

/// `[N, 1, H, W]` from images in [0, 1]: normalised, and padded with zeros at the bottom and right to multiples of 16.
pub fn input_tensor(images: &[&crate::data::image::GrayImage], info: &ModelInfo, device: &Device) -> Result<Tensor> {
    let first = images.first().context("an empty batch")?;
    let (w, h) = (first.width, first.height);
    let (pw, ph) = (w.next_multiple_of(16), h.next_multiple_of(16));
    let channels = usize::from(info.input_channels);
    let mut values = vec![0f32; images.len() * channels * pw * ph];
    for (image, planes) in images.iter().zip(values.chunks_exact_mut(channels * pw * ph)) {
        ensure!(
            (image.width, image.height) == (first.width, first.height),
            "a batch of images of {}×{} and {}×{} pixels",
            first.width,
            first.height,
            image.width,
            image.height
        );
        for plane in planes.chunks_exact_mut(pw * ph) {
            for (row, source) in plane.chunks_exact_mut(pw).zip(image.pixels.chunks_exact(w)) {
                for (out, grey) in row.iter_mut().zip(source) {
                    *out = (grey - info.mean) / info.std;
                }
            }
        }
    }
    Ok(Tensor::from_vec(values, (images.len(), channels, ph, pw), device)?.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{QUARTER, msda};

    fn noise(shape: (usize, usize, usize, usize)) -> Tensor {
        let mut rng = random::stream(3, "test", 0, 0);
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f32> = (0..count).map(|_| random::normal(&mut rng)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_trainable_tensor_receives_a_gradient() {
        let model = Msda::new(&msda(QUARTER, 1), 1, &Device::Cpu).unwrap();
        let logits = model.forward(&noise((2, 1, 32, 48)), Mode::Train).unwrap().logits;
        let gradients = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in model.vars() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(gradient.dims(), var.dims(), "{name}");
        }
    }

    #[test]
    fn running_statistics_follow_the_batch_in_training_only() {
        let model = Msda::new(&msda(QUARTER, 1), 1, &Device::Cpu).unwrap();
        let before = model.state().unwrap();
        let x = noise((2, 1, 32, 32));
        model.forward(&x, Mode::Eval).unwrap();
        let name = "stage.layer1.1.running_mean";
        let mean = |s: &StateDict| s.tensors[name].to_vec1::<f32>().unwrap();
        assert_eq!(mean(&before), mean(&model.state().unwrap()));

        model.forward(&x, Mode::Train).unwrap();
        let weight = before.tensors["stage.layer1.0.weight"].clone();
        // Independently: the mean over all pixels of the first conv's output, by candle's own conv.
        let first = x.conv2d(&weight, 1, 1, 1, 1).unwrap().mean((0, 2, 3)).unwrap().to_vec1::<f32>().unwrap();
        for (running, batch) in mean(&model.state().unwrap()).iter().zip(first) {
            assert!((running - 0.1 * batch).abs() < 1e-5, "{running} is not a tenth of {batch}");
        }
    }

    #[test]
    fn one_seed_is_one_network_and_a_saved_one_comes_back() {
        let graph = msda(QUARTER, 1);
        let x = noise((1, 1, 16, 16));
        let logits =
            |m: &Msda| m.forward(&x, Mode::Eval).unwrap().logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let model = Msda::new(&graph, 7, &Device::Cpu).unwrap();
        assert_eq!(logits(&model), logits(&Msda::new(&graph, 7, &Device::Cpu).unwrap()));
        assert_ne!(logits(&model), logits(&Msda::new(&graph, 8, &Device::Cpu).unwrap()));
        let again = Msda::from_state(&graph, &model.state().unwrap(), &Device::Cpu).unwrap();
        assert_eq!(logits(&model), logits(&again));
    }

    #[test]
    fn a_batch_is_normalised_and_padded_with_zeros() {
        let info = ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.5, std: 0.25 };
        let image = crate::data::image::GrayImage { width: 2, height: 1, pixels: vec![1.0, 0.25] };
        let x = input_tensor(&[&image], &info, &Device::Cpu).unwrap();
        assert_eq!(x.dims(), [1, 1, 16, 16]);
        let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values[..3], [2.0, -1.0, 0.0]);
        assert!(values[3..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn sides_that_are_no_multiples_of_sixteen_are_an_error() {
        let model = Msda::new(&msda(QUARTER, 1), 1, &Device::Cpu).unwrap();
        for shape in [(1, 1, 16, 24), (1, 1, 8, 16), (1, 3, 16, 16)] {
            assert!(model.forward(&noise(shape), Mode::Eval).is_err(), "{shape:?}");
        }
    }
}
