//! The walk over the graph: every [`Op`] in the operators of ONNX. Maps are NCHW with one frame.
//!
//! A node's map bears the node's label. In an int8 network each map but the logits is rounded to the scale and zero point
//! of its node, and the gates' logits to sixteenths, as the int8 engine has them; what lies between is real arithmetic.

use anyhow::{Result, bail};
use gsacp_core::graph::{Conv, Graph, Node, Op};
use gsacp_core::kernels::sigmoid::GATE_STEPS;

use super::builder::{Builder, Setting, Values, value};
use super::proto::GraphProto;
use super::weights::Weights;
use crate::quantize::range::Affine;
use crate::reference::HAAR;

/// Writes `graph` for frames of `height`×`width` with `weights` (one entry a node); `maps` are the nodes' scales and
/// zero points where the network is int8.
pub fn write(
    graph: &Graph,
    weights: &[Weights],
    maps: Option<&[Affine]>,
    height: usize,
    width: usize,
) -> Result<GraphProto> {
    let mut walk = Walk { graph, maps, height, width, to: Builder::default(), values: Vec::new() };
    for (node, weights) in graph.nodes().iter().zip(weights) {
        let map = walk.node(node, weights)?;
        let id = walk.values.len();
        let is_last = id + 1 == graph.nodes().len();
        walk.values.push(match maps {
            Some(maps) if !is_last => walk.to.rounded(&map, maps[id]),
            _ => map,
        });
    }
    let mut written = walk.to.graph;
    written.name = "msda".into();
    written.input = vec![value("input", &[1, graph.input_channels.into(), height, width])];
    written.output = vec![value("logits", &[1, 1, height, width])];
    Ok(written)
}

struct Walk<'a> {
    graph: &'a Graph,
    maps: Option<&'a [Affine]>,
    height: usize,
    width: usize,
    to: Builder,
    /// For each node so far the value that its readers read.
    values: Vec<String>,
}

impl Walk<'_> {
    /// Writes one node and returns the name of its map.
    fn node(&mut self, node: &Node, weights: &Weights) -> Result<String> {
        let label = node.label.to_string();
        let inputs: Vec<String> = node.inputs().iter().map(|&id| self.values[usize::from(id)].clone()).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(match (node.op, weights) {
            (Op::Input, _) => label,
            (Op::Conv(conv), Weights::Conv { weight, bias }) => self.conv(node, &conv, inputs[0], weight, bias),
            (Op::HaarInject, _) => self.haar_inject(node, inputs[0], label),
            (Op::SpatialGate(path), Weights::Gate { planes, bias }) => {
                self.spatial_gate(node, inputs[0], &path.to_string(), planes, bias, label)
            }
            (Op::SqueezeExcite { path, hidden }, Weights::Squeeze { reduce, expand }) => {
                let (channels, hidden) = (usize::from(node.channels), usize::from(hidden));
                let mean = self.to.op("GlobalAveragePool", &inputs, &[], format!("{label}/mean"));
                let reduce = self.to.constant(&format!("{path}.fc.0.weight"), &[hidden, channels, 1, 1], reduce);
                let inner = self.to.op("Conv", &[&mean, &reduce], &[], format!("{label}/reduced"));
                let inner = self.to.op("Relu", &[&inner], &[], format!("{label}/hidden"));
                let expand = self.to.constant(&format!("{path}.fc.2.weight"), &[channels, hidden, 1, 1], expand);
                let logit = self.to.op("Conv", &[&inner, &expand], &[], format!("{label}/logit"));
                let gate = self.sigmoid(&logit);
                self.to.op("Mul", &[inputs[0], &gate], &[], label)
            }
            (Op::MaxPool { size }, _) => {
                let size = [i64::from(size); 2];
                let settings = [("kernel_shape", Setting::Ints(&size)), ("strides", Setting::Ints(&size))];
                self.to.op("MaxPool", &inputs, &settings, label)
            }
            (Op::Upsample2, _) => {
                let settings = [
                    ("mode", Setting::Text("linear")),
                    ("coordinate_transformation_mode", Setting::Text("align_corners")),
                ];
                let scales = Values::Real(vec![1.0, 1.0, 2.0, 2.0]);
                let scales = self.to.constant(&format!("{label}/scales"), &[4], &scales);
                self.to.op("Resize", &[inputs[0], "", &scales], &settings, label)
            }
            (Op::Add { relu: false }, _) => self.to.op("Add", &inputs, &[], label),
            (Op::Add { relu: true }, _) => {
                let sum = self.to.op("Add", &inputs, &[], format!("{label}/sum"));
                self.to.op("Relu", &[&sum], &[], label)
            }
            (Op::Concat, _) => self.to.op("Concat", &inputs, &[("axis", Setting::Int(1))], label),
            _ => bail!("{label} has weights of another operation"),
        })
    }

    fn conv(&mut self, node: &Node, conv: &Conv, input: &str, weight: &Values, bias: &Values) -> String {
        let (label, path) = (node.label.to_string(), conv.path);
        let [kernel, stride, dilation] = [conv.kernel, conv.stride, conv.dilation].map(usize::from);
        let (inputs, outputs) = (usize::from(self.graph.input_channels_of(node)), usize::from(node.channels));
        let weight = self.to.constant(&format!("{path}.weight"), &[outputs, inputs, kernel, kernel], weight);
        let bias = self.to.constant(&format!("{path}.bias"), &[outputs], bias);
        let settings = [
            ("kernel_shape", Setting::Ints(&[kernel as i64; 2])),
            ("strides", Setting::Ints(&[stride as i64; 2])),
            ("dilations", Setting::Ints(&[dilation as i64; 2])),
            ("pads", Setting::Ints(&[(dilation * (kernel - 1) / 2) as i64; 4])),
        ];
        if !conv.relu {
            return self.to.op("Conv", &[input, &weight, &bias], &settings, label);
        }
        let sum = self.to.op("Conv", &[input, &weight, &bias], &settings, format!("{label}/conv"));
        self.to.op("Relu", &[&sum], &[], label)
    }

    /// A convolution of C channels to 3·C: LH of all, then HL, then HH.
    fn haar_inject(&mut self, node: &Node, input: &str, label: String) -> String {
        let channels = usize::from(self.graph.input_channels_of(node));
        let filters = HAAR[..3].iter().flat_map(|filter| (0..channels).map(move |c| (filter, c)));
        let of_pair = |(filter, own): (&[f64; 4], usize)| -> Vec<f64> {
            (0..channels).flat_map(|c| filter.map(|tap| if c == own { tap } else { 0.0 })).collect()
        };
        let taps: Vec<f64> = filters.flat_map(of_pair).collect();
        let taps = match self.maps {
            None => Values::Real(taps.iter().map(|&t| t as f32).collect()),
            Some(_) => Values::Int8(taps.iter().map(|&t| (2.0 * t) as i8).collect(), vec![0.5; 3 * channels]),
        };
        let weight = self.to.constant(&format!("{label}.weight"), &[3 * channels, channels, 2, 2], &taps);
        let settings = [("kernel_shape", Setting::Ints(&[2, 2])), ("strides", Setting::Ints(&[2, 2]))];
        self.to.op("Conv", &[input, &weight], &settings, label)
    }

    /// The four bands of all channels as one depthwise convolution, `[C][band]`, and their maximum over the channels; the
    /// mean of the bands is the bands of the mean. A 7×7 plane for each of the eight, and the sum of the four σ times the map.
    fn spatial_gate(
        &mut self,
        node: &Node,
        input: &str,
        path: &str,
        [max_planes, mean_planes]: &[Values; 2],
        bias: &Values,
        label: String,
    ) -> String {
        let channels = i64::from(node.channels);
        let (height, width) = ((self.height >> node.level) as i64, (self.width >> node.level) as i64);
        let bands = self.bands(input, channels, format!("{label}/bands"));
        let shape = self.to.integers(&format!("{label}/by_band"), &[1, channels, 4, height * width]);
        let bands = self.to.op("Reshape", &[&bands, &shape], &[], format!("{label}/bands_by_channel"));
        let over_channels = [("axes", Setting::Ints(&[1])), ("keepdims", Setting::Int(0))];
        let max = self.to.op("ReduceMax", &[&bands], &over_channels, format!("{label}/max_flat"));
        let shape = self.to.integers(&format!("{label}/four_planes"), &[1, 4, height, width]);
        let max = self.to.op("Reshape", &[&max, &shape], &[], format!("{label}/max"));
        let mean = self.to.op("ReduceMean", &[input], &[("axes", Setting::Ints(&[1]))], format!("{label}/mean_map"));
        let mean = self.bands(&mean, 1, format!("{label}/mean"));

        let settings = [
            ("kernel_shape", Setting::Ints(&[7, 7])),
            ("pads", Setting::Ints(&[3, 3, 3, 3])),
            ("group", Setting::Int(4)),
        ];
        let weight = self.to.constant(&format!("{path}.max.weight"), &[4, 1, 7, 7], max_planes);
        let max = self.to.op("Conv", &[&max, &weight], &settings, format!("{label}/max_logit"));
        let weight = self.to.constant(&format!("{path}.mean.weight"), &[4, 1, 7, 7], mean_planes);
        let bias = self.to.constant(&format!("{path}.bias"), &[4], bias);
        let mean = self.to.op("Conv", &[&mean, &weight, &bias], &settings, format!("{label}/mean_logit"));
        let logit = self.to.op("Add", &[&max, &mean], &[], format!("{label}/logit"));
        let gates = self.sigmoid(&logit);
        let axis = self.to.integers(&format!("{label}/axis"), &[1]);
        let gate = self.to.op("ReduceSum", &[&gates, &axis], &[], format!("{label}/sum"));
        self.to.op("Mul", &[input, &gate], &[], label)
    }

    /// The stride-1 bands of every channel, zero beyond the left and upper border: `[channel][band]`.
    fn bands(&mut self, input: &str, channels: i64, name: String) -> String {
        let filters = Values::Real((0..channels).flat_map(|_| HAAR.as_flattened()).map(|&t| t as f32).collect());
        let filters = self.to.constant(&format!("{name}.weight"), &[4 * channels as usize, 1, 2, 2], &filters);
        let settings = [
            ("kernel_shape", Setting::Ints(&[2, 2])),
            ("pads", Setting::Ints(&[1, 1, 0, 0])),
            ("group", Setting::Int(channels)),
        ];
        self.to.op("Conv", &[input, &filters], &settings, name)
    }

    /// σ of a gate's logit, in an int8 network rounded as its table is indexed.
    fn sigmoid(&mut self, logit: &str) -> String {
        let sixteenths = Affine { scale: 1.0 / f64::from(GATE_STEPS), zero_point: 0 };
        let rounded = self.maps.map(|_| self.to.rounded(logit, sixteenths));
        self.to.op("Sigmoid", &[rounded.as_deref().unwrap_or(logit)], &[], format!("{logit}/sigmoid"))
    }
}
