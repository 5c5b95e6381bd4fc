//! A model image of seeded random weights: exercises every kernel and record of the format before anything is trained.
use anyhow::Result;
use gsacp_core::engine::params::Int8Params;
use gsacp_core::frame::Normalisation;
use gsacp_core::graph::{Graph, Node, Op};
use gsacp_core::image::{Description, image_len, write};
use gsacp_core::kernels::squeeze_excite::SqueezeExciteInt8;
use gsacp_core::quant::{Activation, ConvChannel, GateBand, LOGIT_STEPS, Multiplier, MultiplierPair};
use gsacp_core::threshold::OperatingPoint;

/// A splitmix64 stream.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in −limit..=limit.
    fn signed(&mut self, limit: i64) -> i64 {
        (self.next() % (2 * limit as u64 + 1)) as i64 - limit
    }

    fn weights(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.signed(127) as i8).collect()
    }
}

/// What a node's [`Int8Params`] borrow.
#[derive(Default)]
struct Owned {
    first: Vec<i8>,
    second: Vec<i8>,
    channels: Vec<ConvChannel>,
    bands: Vec<GateBand>,
    hidden: Vec<Multiplier>,
    gates: Vec<Multiplier>,
}

/// An image of `graph` with random weights, scaled so that no layer saturates or dies, and one operating point
/// at `threshold` (logit, 1/256).
pub fn random_image(graph: &Graph, seed: u64, threshold: i16) -> Result<Vec<u8>> {
    let mut stream = Stream(seed);
    let nodes = graph.nodes();
    let mut activations = vec![Activation { scale: 0.05, zero: -3 }; nodes.len()];
    activations[nodes.len() - 1] = Activation { scale: 1.0 / LOGIT_STEPS, zero: 0 };
    let owned: Vec<Owned> = nodes.iter().map(|node| draw(graph, node, &mut stream)).collect::<Result<_>>()?;
    let half = Multiplier::from_real(0.5)?;
    let gate = Multiplier::from_real(1.0 / 32_768.0)?;
    let params: Vec<Int8Params<'_>> = nodes
        .iter()
        .zip(&owned)
        .map(|(node, own)| {
            Ok(match node.op {
                Op::Conv(_) => Int8Params::Conv { weight: &own.first, channels: &own.channels },
                Op::HaarInject => Int8Params::Rescale(half),
                Op::Upsample2 => Int8Params::Rescale(Multiplier::from_real(0.9)?),
                Op::Add { .. } => Int8Params::Add(MultiplierPair::from_reals(0.8, 0.7)?),
                Op::SpatialGate(_) => Int8Params::SpatialGate { weight: &own.first, bands: &own.bands, output: gate },
                Op::SqueezeExcite { .. } => Int8Params::SqueezeExcite(SqueezeExciteInt8 {
                    reduce: &own.first,
                    hidden: &own.hidden,
                    expand: &own.second,
                    gates: &own.gates,
                    output: gate,
                }),
                Op::Input | Op::MaxPool { .. } | Op::Concat => Int8Params::None,
            })
        })
        .collect::<Result<_>>()?;
    let description = Description {
        normalisation: Normalisation { mean: 0.4, std: 0.2 },
        points: &[OperatingPoint { requested_fa: 5e-6, threshold, pd: 0.9, fa: 4e-6 }],
    };
    let mut bytes = vec![0; image_len(graph)];
    write(graph, &description, &activations, &params, &mut bytes)?;
    Ok(bytes)
}

fn draw(graph: &Graph, node: &Node, stream: &mut Stream) -> Result<Owned> {
    let (channels, inputs) = (usize::from(node.channels), usize::from(graph.input_channels_of(node)));
    let mut own = Owned::default();
    match node.op {
        Op::Conv(conv) => {
            let patch = inputs * usize::from(conv.kernel) * usize::from(conv.kernel);
            own.first = stream.weights(channels * patch);
            // The logit map has 256 steps a unit, so the last layer's factor is that much larger.
            let gain = if usize::from(node.channels) == 1 { 60.0 } else { 2.5 };
            let factor = Multiplier::from_real(gain / (70.0 * (patch as f64).sqrt()))?;
            for weights in own.first.chunks_exact(patch) {
                own.channels.push(ConvChannel::folded(stream.signed(2000), weights, -3, factor)?);
            }
        }
        Op::SpatialGate(_) => {
            own.first = stream.weights(4 * 2 * 49);
            for _ in 0..4 {
                own.bands.push(GateBand::new(stream.signed(100) as f64 / 100.0, 0.05, 0.002, 0.003)?);
            }
        }
        Op::SqueezeExcite { hidden, .. } => {
            let hidden = usize::from(hidden);
            own.first = stream.weights(hidden * channels);
            own.second = stream.weights(hidden * channels);
            own.hidden = vec![Multiplier::from_real(0.05)?; hidden];
            own.gates = vec![Multiplier::from_real(0.01)?; channels];
        }
        _ => {}
    }
    Ok(own)
}
