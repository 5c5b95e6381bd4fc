//! From a quantised model to the model image: the factors that the engine multiplies by follow here, and only here,
//! from the scales (`gsacp_core::engine::params` says which factor is what).

use anyhow::{Context, Result, bail};
use gsacp_core::engine::params::Int8Params;
use gsacp_core::frame::Normalisation;
use gsacp_core::graph::{Node, Op};
use gsacp_core::image::{self, Description};
use gsacp_core::kernels::sigmoid::{GATE_BITS, GATE_STEPS};
use gsacp_core::kernels::squeeze_excite::{MEAN_STEPS, SqueezeExciteInt8};
use gsacp_core::quant::{Activation, ConvChannel, GateBand, Multiplier, MultiplierPair};

use super::{QuantizedMatrix, QuantizedModel, QuantizedNode};

/// The arrays of one node, from which its [`Int8Params`] borrow.
enum Owned<'a> {
    None,
    Conv { weight: &'a [i8], channels: Vec<ConvChannel> },
    Rescale(Multiplier),
    Add(MultiplierPair),
    Gate { weight: Vec<i8>, bands: Vec<GateBand>, output: Multiplier },
    Squeeze { reduce: &'a [i8], hidden: Vec<Multiplier>, expand: &'a [i8], gates: Vec<Multiplier>, output: Multiplier },
}

impl Owned<'_> {
    fn params(&self) -> Int8Params<'_> {
        match self {
            Owned::None => Int8Params::None,
            Owned::Conv { weight, channels } => Int8Params::Conv { weight, channels },
            Owned::Rescale(scale) => Int8Params::Rescale(*scale),
            Owned::Add(scale) => Int8Params::Add(*scale),
            Owned::Gate { weight, bands, output } => Int8Params::SpatialGate { weight, bands, output: *output },
            Owned::Squeeze { reduce, hidden, expand, gates, output } => {
                Int8Params::SqueezeExcite(SqueezeExciteInt8 { reduce, hidden, expand, gates, output: *output })
            }
        }
    }
}

impl QuantizedModel {
    /// The bytes of the model image. Errors name the layer whose numbers do not fit the integer contract.
    pub fn to_image(&self) -> Result<Vec<u8>> {
        let graph = self.graph()?;
        let activations: Vec<Activation> = self
            .activations
            .iter()
            .map(|a| Activation { scale: a.scale as f32, zero: i32::from(a.zero_point) })
            .collect();
        let mut owned = Vec::with_capacity(self.nodes.len());
        for (id, (node, weights)) in graph.nodes().iter().zip(&self.nodes).enumerate() {
            let scales = Scales { activations: &activations, node, id };
            owned.push(scales.apply(weights).with_context(|| format!("layer {}", node.label))?);
        }
        let params: Vec<Int8Params> = owned.iter().map(Owned::params).collect();
        for (node, params) in graph.nodes().iter().zip(&params) {
            params.check(&graph, node).with_context(|| format!("layer {}", node.label))?;
        }
        let points: Vec<_> = self.record.operating_points.iter().map(|&p| p.into()).collect();
        let info = &self.record.model;
        let description =
            Description { normalisation: Normalisation { mean: info.mean, std: info.std }, points: &points };
        let mut bytes = vec![0; image::image_len(&graph)];
        let len = image::write(&graph, &description, &activations, &params, &mut bytes)
            .context("the model image cannot be written")?;
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The scales around one node.
struct Scales<'a> {
    activations: &'a [Activation],
    node: &'a Node,
    id: usize,
}

impl Scales<'_> {
    fn out(&self) -> f64 {
        f64::from(self.activations[self.id].scale)
    }

    fn input(&self, k: usize) -> (f64, i32) {
        let a = self.activations[usize::from(self.node.inputs()[k])];
        (f64::from(a.scale), a.zero)
    }

    fn apply<'w>(&self, weights: &'w QuantizedNode) -> Result<Owned<'w>> {
        let gate = f64::from(1u32 << GATE_BITS);
        Ok(match (self.node.op, weights) {
            (Op::Conv(_), QuantizedNode::Conv(conv)) => {
                let (scale_in, zero_in) = self.input(0);
                let taps = conv.matrix.weight.len() / conv.bias.len().max(1);
                let rows = conv.matrix.weight.chunks_exact(taps.max(1)).zip(&conv.matrix.scale).zip(&conv.bias);
                let channel = |((row, &scale), &bias): ((&[i8], &f32), &i32)| -> Result<ConvChannel> {
                    let factor = Multiplier::from_real(scale_in * f64::from(scale) / self.out())?;
                    Ok(ConvChannel::folded(bias.into(), row, zero_in, factor)?)
                };
                let channels = rows.enumerate().map(|(c, r)| channel(r).with_context(|| format!("channel {c}")));
                Owned::Conv { weight: &conv.matrix.weight, channels: channels.collect::<Result<_>>()? }
            }
            (Op::SpatialGate(_), QuantizedNode::Gate(bands)) => {
                let scale_in = self.input(0).0;
                let band = |b: &super::QuantizedGate| {
                    let [max, mean] = [b.planes.scale[0], b.planes.scale[1]].map(f64::from);
                    GateBand::new(b.bias.into(), scale_in, max, mean)
                };
                Owned::Gate {
                    weight: bands.iter().flat_map(|b| b.planes.weight.iter().copied()).collect(),
                    bands: bands.iter().map(band).collect::<Result<_, _>>()?,
                    output: Multiplier::from_real(scale_in / (self.out() * gate))?,
                }
            }
            (Op::SqueezeExcite { .. }, QuantizedNode::Squeeze { reduce, expand, hidden_scale }) => {
                let (scale_in, hidden_scale) = (self.input(0).0, f64::from(*hidden_scale));
                Owned::Squeeze {
                    reduce: &reduce.weight,
                    hidden: multipliers(reduce, scale_in / (f64::from(MEAN_STEPS) * hidden_scale))?,
                    expand: &expand.weight,
                    gates: multipliers(expand, hidden_scale * f64::from(GATE_STEPS))?,
                    output: Multiplier::from_real(scale_in / (self.out() * gate))?,
                }
            }
            (Op::HaarInject, QuantizedNode::None) => {
                Owned::Rescale(Multiplier::from_real(self.input(0).0 / (2.0 * self.out()))?)
            }
            (Op::Upsample2, QuantizedNode::None) => {
                Owned::Rescale(Multiplier::from_real(self.input(0).0 / self.out())?)
            }
            (Op::Add { .. }, QuantizedNode::None) => {
                let [a, b] = [0, 1].map(|k| self.input(k).0 / self.out());
                Owned::Add(MultiplierPair::from_reals(a, b)?)
            }
            (Op::Input | Op::MaxPool { .. } | Op::Concat, QuantizedNode::None) => Owned::None,
            _ => bail!("the weights are those of another operation"),
        })
    }
}

/// One multiplier for every row: its scale times `factor`.
fn multipliers(matrix: &QuantizedMatrix, factor: f64) -> Result<Vec<Multiplier>> {
    matrix.scale.iter().map(|&s| Ok(Multiplier::from_real(f64::from(s) * factor)?)).collect()
}
