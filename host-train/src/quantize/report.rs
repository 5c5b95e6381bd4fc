//! Where precision is lost: the int8 engine's maps against the float network's, layer by layer.

use std::fmt;

use anyhow::Result;
use candle_core::Device;
use gsacp_core::engine::View;
use gsacp_core::graph::{Graph, Op};
use serde::Serialize;

use super::QuantizedModel;
use super::host::Int8Network;
use super::observe::float_maps;
use crate::data::dataset::Sample;
use crate::data::image::StoredImage;
use crate::data::progress::Progress;
use crate::model::{Msda, StateDict};

/// The error of one layer's output, all earlier layers' errors included.
#[derive(Debug, Clone, Serialize)]
pub struct LayerLoss {
    /// The node.
    pub layer: String,
    /// Real value of one step.
    pub scale: f64,
    /// The integer that stands for zero.
    pub zero_point: i8,
    /// Signal to quantisation noise, 10·log₁₀(Σx²/Σ(x̂−x)²), in dB; none for a map that is zero throughout.
    pub snr_db: Option<f64>,
    /// Mean square of the error.
    pub noise: f64,
    /// Share of the values that are saturated.
    pub clipped: f64,
}

/// What quantisation costs.
#[derive(Debug, Clone, Serialize)]
pub struct LossReport {
    /// In running order, concatenations left out.
    pub layers: Vec<LayerLoss>,
    /// Root mean square of the logits' error.
    pub logit_rms: f64,
    /// Largest error of a logit.
    pub logit_max: f64,
    /// Mean of the logits' error, int8 minus float.
    pub logit_bias: f64,
    /// Pixels that change sides at logit 0, as a share of all.
    pub flipped: f64,
    /// Images compared.
    pub images: usize,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    signal: f64,
    noise: f64,
    clipped: u64,
    count: u64,
}

/// Runs both networks on every sample and compares all maps. Padded pixels count as the others do.
pub fn compare(model: &QuantizedModel, state: &StateDict, samples: &[Sample]) -> Result<LossReport> {
    let graph = model.graph()?;
    let float = Msda::from_state(&graph, state, &Device::Cpu)?;
    let int8 = Int8Network::from_model(model)?;
    let mut total = Comparison::new(&graph);
    let progress = Progress::new("comparing int8 with float", samples.len());
    for sample in samples {
        total.add(model, &float, &int8, &StoredImage::open(&sample.image)?)?;
        progress.step();
    }
    Ok(total.report(model, &graph))
}

/// Running sums over images.
pub struct Comparison {
    sums: Vec<Sums>,
    error: f64,
    largest: f64,
    flipped: u64,
    images: usize,
}

impl Comparison {
    /// Nothing compared yet.
    pub fn new(graph: &Graph) -> Self {
        Self { sums: vec![Sums::default(); graph.nodes().len()], error: 0.0, largest: 0.0, flipped: 0, images: 0 }
    }

    /// Compares all maps of one image.
    pub fn add(&mut self, model: &QuantizedModel, float: &Msda, int8: &Int8Network, image: &StoredImage) -> Result<()> {
        let mut maps: Vec<Vec<i8>> = vec![Vec::new(); self.sums.len()];
        let input = int8.quantise(image)?;
        let [width, height] = [image.width, image.height].map(|n| n.next_multiple_of(16));
        let logits = int8.run(&input, width, height, |id, node, view| {
            if let (View::Int8(map), false) = (view, node.op == Op::Concat) {
                maps[id] = map.pixels().flatten().copied().collect();
            }
        })?;
        float_maps(float, int8.info(), &image.to_gray(), |id, map| {
            let (sums, pair) = (&mut self.sums[id], model.activations[id]);
            if id + 1 == maps.len() {
                for (&x, &q) in map.iter().zip(&logits) {
                    let error = f64::from(q) / 256.0 - f64::from(x);
                    sums.signal += f64::from(x).powi(2);
                    sums.noise += error * error;
                    sums.clipped += u64::from(q == i16::MIN || q == i16::MAX);
                    self.error += error;
                    self.largest = self.largest.max(error.abs());
                    self.flipped += u64::from((x > 0.0) != (q > 0));
                }
            } else {
                // A ReLU's zeros sit at the end of the range and are not clipped.
                let low_is_zero = pair.zero_point == -128;
                for (&x, &q) in map.iter().zip(&maps[id]) {
                    sums.signal += f64::from(x).powi(2);
                    sums.noise += (pair.real(q) - f64::from(x)).powi(2);
                    sums.clipped += u64::from(q == 127 || (q == -128 && !low_is_zero));
                }
            }
            sums.count += map.len() as u64;
            Ok(())
        })?;
        self.images += 1;
        Ok(())
    }

    /// The figures so far.
    pub fn report(&self, model: &QuantizedModel, graph: &Graph) -> LossReport {
        let layers = graph.nodes().iter().zip(&self.sums).zip(&model.activations);
        let layers = layers.filter(|((node, _), _)| node.op != Op::Concat).map(|((node, s), pair)| LayerLoss {
            layer: node.label.to_string(),
            scale: pair.scale,
            zero_point: pair.zero_point,
            snr_db: (s.signal > 0.0).then(|| 10.0 * (s.signal / s.noise.max(1e-300)).log10()),
            noise: s.noise / s.count.max(1) as f64,
            clipped: s.clipped as f64 / s.count.max(1) as f64,
        });
        let last = self.sums.last().copied().unwrap_or_default();
        let pixels = last.count.max(1) as f64;
        LossReport {
            layers: layers.collect(),
            logit_rms: (last.noise / pixels).sqrt(),
            logit_max: self.largest,
            logit_bias: self.error / pixels,
            flipped: self.flipped as f64 / pixels,
            images: self.images,
        }
    }
}

impl fmt::Display for LossReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<46} {:>8} {:>10} {:>6} {:>9}", "layer", "SNR dB", "step", "zero", "clipped")?;
        for l in &self.layers {
            let snr = l.snr_db.map_or("–".into(), |db| format!("{db:.1}"));
            let (scale, zero, clipped) = (l.scale, l.zero_point, 100.0 * l.clipped);
            writeln!(f, "{:<46} {snr:>8} {scale:>10.3e} {zero:>6} {clipped:>7.3} %", l.layer)?;
        }
        let (rms, max, bias, flipped) = (self.logit_rms, self.logit_max, self.logit_bias, 1e6 * self.flipped);
        writeln!(f, "logits over {} images: error rms {rms:.3}, mean {bias:+.3}, largest {max:.2};", self.images)?;
        write!(f, "{flipped:.1} pixels of a million change sides at logit 0")
    }
}
