//! Comparison with the reference implementation: a state dict by its names, and a file of its inputs and activations.
//!
//! The file of activations is safetensors with `input` `[1, C, H, W]` and any number of maps `[1, c, h, w]`: `logits`,
//! a module's output by its path, one of `ALIASES`, or a sub-step of a frequency attention
//! (`<path>.FrequencyAttention.<band>_DWT`, `…<band>_reduce`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, Device, Tensor};
use gsacp_core::engine::FloatEngine;
use gsacp_core::engine::params::{FloatParams, float_params};
use gsacp_core::graph::{BANDS, Graph};
use gsacp_core::kernels::feature_map::{Map, MapMut, Shape};
use gsacp_core::kernels::haar::band_map_f32;
use gsacp_core::kernels::spatial_gate::{band_gate_f32, scratch_len};
use gsacp_core::plan::{Element, plan_apart};

use crate::export;
use crate::model::{Mode, Msda, StateDict};
use crate::nn;

/// Names that the reference's forward pass gives to outputs of its modules.
const ALIASES: [(&str, &str); 14] = [
    ("outs0", "stage.resnet1_3"),
    ("outs1", "stage.resnet2_3"),
    ("outs2", "stage.resnet3_3"),
    ("outs3", "stage.resnet4_3"),
    ("outs4", "stage.layer5_4.2"),
    ("out1", "mlcl1"),
    ("out2", "mlcl2"),
    ("out3", "mlcl3"),
    ("out4", "mlcl4"),
    ("out5", "mlcl5"),
    ("out1_2", "sbam1"),
    ("out2_2", "sbam2"),
    ("out3_2", "sbam3"),
    ("out4_2", "sbam4"),
];

/// 2×2 Haar filters of [`BANDS`] (METHOD.md §1), row by row.
pub const HAAR: [[f64; 4]; 4] =
    [[0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5], [0.5, -0.5, -0.5, 0.5], [0.5, 0.5, 0.5, 0.5]];

/// A sub-step of a spatial gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The band map D_b.
    Band,
    /// The gate A_b = σ(conv7×7([max; mean])).
    Gate,
}

/// Where a map of the reference is found in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Output of this node.
    Node(usize),
    /// Sub-step of the spatial gate at this node, for this band.
    GateStep(usize, usize, Step),
}

/// Finds a map by the reference's name.
pub fn locate(graph: &Graph, name: &str) -> Option<Place> {
    let label = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, label)| label);
    if let Some(id) = graph.find(label) {
        return Some(Place::Node(id));
    }
    let (path, step) = name.rsplit_once('.')?;
    let gate = graph.find(&format!("{path}.gate"))?;
    let (band, step) = step.split_once('_')?;
    let band = BANDS.iter().position(|b| *b == band)?;
    match step {
        "DWT" => Some(Place::GateStep(gate, band, Step::Band)),
        "reduce" => Some(Place::GateStep(gate, band, Step::Gate)),
        _ => None,
    }
}

/// Largest absolute difference of one map.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Difference {
    /// The reference's name of the map.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Largest |candle − reference|.
    pub candle: f32,
    /// Largest |float engine − reference|.
    pub engine: f32,
}

/// Runs both executors on the file's input and compares every map in it, in the order of the graph.
pub fn compare(state: &StateDict, io: &StateDict) -> Result<Vec<Difference>> {
    let graph = state.infer_graph().context("the state dict")?;
    let input = io.tensors.get("input").context("the file of activations has no tensor `input`")?;
    let mut places = BTreeMap::new();
    for name in io.tensors.keys() {
        let place = locate(&graph, name)
            .with_context(|| format!("no map called `{name}` in the graph; remove it from the file of activations"))?;
        places.insert(name.as_str(), place);
    }
    let candle = candle_maps(&graph, state, input, places.values().cloned().collect())?;
    let engine = engine_maps(&graph, state, input, places.values().cloned().collect())?;
    let mut rows = Vec::new();
    for (name, place) in &places {
        let wanted = &io.tensors[*name];
        let distance = |maps: &[(Place, Tensor)]| -> Result<f32> {
            let (_, found) = maps.iter().find(|(p, _)| p == place).expect("every place was asked for");
            ensure!(
                found.dims() == wanted.dims(),
                "`{name}` has shape {:?} in the file, {:?} in the graph",
                wanted.dims(),
                found.dims()
            );
            Ok((found - wanted)?.abs()?.flatten_all()?.max(D::Minus1)?.to_scalar()?)
        };
        let row = Difference {
            name: (*name).to_owned(),
            shape: wanted.dims().to_vec(),
            candle: distance(&candle)?,
            engine: distance(&engine)?,
        };
        rows.push((node_of(place), row));
    }
    rows.sort_by_key(|(node, _)| *node);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn node_of(place: &Place) -> usize {
    match place {
        Place::Node(id) | Place::GateStep(id, ..) => *id,
    }
}

/// Nodes whose output the places need: a gate's sub-steps are computed from the map that the gate reads.
fn wanted_nodes(graph: &Graph, places: &[Place]) -> BTreeSet<usize> {
    let source = |gate: usize| usize::from(graph.nodes()[gate].inputs()[0]);
    places.iter().map(|p| if let Place::GateStep(id, ..) = p { source(*id) } else { node_of(p) }).collect()
}

fn candle_maps(graph: &Graph, state: &StateDict, input: &Tensor, places: Vec<Place>) -> Result<Vec<(Place, Tensor)>> {
    let model = Msda::from_state(graph, state, &Device::Cpu)?;
    let wanted = wanted_nodes(graph, &places);
    let mut maps = BTreeMap::new();
    model.walk(input, Mode::Eval, |id, map| {
        if wanted.contains(&id) {
            maps.insert(id, map.clone());
        }
        Ok(())
    })?;
    places
        .into_iter()
        .map(|place| {
            let map = match place {
                Place::Node(id) => maps[&id].clone(),
                Place::GateStep(id, band, step) => {
                    let node = &graph.nodes()[id];
                    let d = haar_band(&maps[&usize::from(node.inputs()[0])], &HAAR[band])?;
                    match step {
                        Step::Band => d,
                        Step::Gate => {
                            let path = node.label.to_string();
                            let conv = format!("{}.{}_reduce.conv", path.trim_end_matches(".gate"), BANDS[band]);
                            let both = Tensor::cat(&[d.max_keepdim(1)?, d.mean_keepdim(1)?], 1)?;
                            let weight = &state.tensors[&format!("{conv}.weight")];
                            let bias = &state.tensors[&format!("{conv}.bias")];
                            candle_nn::ops::sigmoid(&nn::conv2d(&both, weight, Some(bias), 1, 1, 1, false)?)?
                        }
                    }
                }
            };
            Ok((place, map))
        })
        .collect()
}

/// D_b of METHOD.md §1: 2×2 Haar filter, stride 1, zero-padded by one at the left and top.
fn haar_band(x: &Tensor, filter: &[f64; 4]) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let padded = x.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?;
    let mut sum = x.zeros_like()?;
    for (tap, weight) in filter.iter().enumerate() {
        let shifted = padded.narrow(2, tap / 2, h)?.narrow(3, tap % 2, w)?;
        sum = (sum + (shifted * *weight)?)?;
    }
    Ok(sum)
}

fn engine_maps(graph: &Graph, state: &StateDict, input: &Tensor, places: Vec<Place>) -> Result<Vec<(Place, Tensor)>> {
    let (_, channels, height, width) = input.dims4()?;
    let plan = plan_apart(graph, height, width, Element::F32)?;
    let weights = export::flatten(&export::fold(state, graph)?);
    let mut arena = vec![0f32; plan.arena_len];
    let frame = input.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    ensure!(channels == usize::from(graph.input_channels), "`input` has {channels} channels");

    let wanted = wanted_nodes(graph, &places);
    let mut maps = BTreeMap::new();
    FloatEngine::new(graph, &plan, &weights, &mut arena)?.run_with(&frame, |id, _, map| {
        if wanted.contains(&id) {
            maps.insert(id, (map.shape(), map.pixels().flatten().copied().collect::<Vec<f32>>()));
        }
    })?;
    let parameters: Vec<FloatParams> = float_params(graph, &weights)?.map(|(_, params)| params).collect();
    let tensor = |shape: Shape, values: Vec<f32>| -> Result<Tensor> {
        let hwc = Tensor::from_vec(values, (1, shape.height, shape.width, shape.channels), &Device::Cpu)?;
        Ok(hwc.permute((0, 3, 1, 2))?.contiguous()?)
    };
    places
        .into_iter()
        .map(|place| {
            let map = match place {
                Place::Node(id) => tensor(maps[&id].0, maps[&id].1.clone())?,
                Place::GateStep(id, band, step) => {
                    let (shape, values) = &maps[&usize::from(graph.nodes()[id].inputs()[0])];
                    let dense = Shape::dense(shape.height, shape.width, shape.channels);
                    let source = Map::new(values, dense)?;
                    match step {
                        Step::Band => {
                            let mut out = vec![0f32; values.len()];
                            band_map_f32(source, band, MapMut::new(&mut out, dense)?)?;
                            tensor(dense, out)?
                        }
                        Step::Gate => {
                            let FloatParams::SpatialGate(gate) = parameters[id] else { bail!("node {id} is no gate") };
                            let one = Shape::dense(shape.height, shape.width, 1);
                            let (mut out, mut scratch) =
                                (vec![0f32; one.pixels()], vec![0f32; scratch_len(shape.width)]);
                            band_gate_f32(source, gate, band, &mut scratch, MapMut::new(&mut out, one)?)?;
                            tensor(one, out)?
                        }
                    }
                }
            };
            Ok((place, map))
        })
        .collect()
}
