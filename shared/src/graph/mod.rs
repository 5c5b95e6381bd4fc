//! The network as a graph of a dozen operations, written down once.
//!
//! Three executors walk it: candle (training), the float32 engine and the int8 engine. A [`Graph`] is a list of
//! [`Node`]s in topological order, which is also the schedule; node 0 is the input, the last node is the logit map.
//! A node's spatial size is the frame's shifted right by its `level`, so one graph serves every frame size that is a
//! multiple of [`SIZE_MULTIPLE`]. Everything here is `const`: a board computes its memory plan at compile time.

mod msda;
mod name;

pub use msda::{FULL, HALF, QUARTER, msda, unused_parameters};
pub use name::Name;

/// Capacity of a [`Graph`], in nodes.
pub const MAX_NODES: usize = 288;
/// Most inputs of one node (the aggregation's concatenation).
pub const MAX_INPUTS: usize = 5;
/// Frames must be a multiple of this in width and height (four halvings).
pub const SIZE_MULTIPLE: usize = 16;
/// The four Haar bands in the order of [`Op::SpatialGate`], by the reference's names.
pub const BANDS: [&str; 4] = ["LH", "HL", "HH", "LL"];

/// Index of a node in its graph.
pub type NodeId = u16;

/// A square convolution with `same` padding `dilation·(kernel−1)/2`, followed by batch norm and ReLU where asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Kernel size in taps: 1, 3 or 5.
    pub kernel: u8,
    /// 1, or 2 for the down-sampling 3×3.
    pub stride: u8,
    /// Distance between taps in pixels.
    pub dilation: u8,
    /// Whether the result is clamped at zero.
    pub relu: bool,
    /// Module that owns `weight` (`[out, in, kernel, kernel]`) and, where `bias` is set, `bias`.
    pub path: Name,
    /// Module of the batch norm that follows, if one does.
    pub norm: Option<Name>,
    /// Whether the convolution has a bias of its own (folding the batch norm gives every conv one).
    pub bias: bool,
}

/// What a node computes. The list is closed: an executor that handles each of these runs every graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The normalised frame.
    Input,
    /// See [`Conv`].
    Conv(Conv),
    /// Depthwise 2×2 Haar, stride 2, no padding, of the input node: LH of all channels, then HL, then HH.
    HaarInject,
    /// `x · Σ_b σ(conv7×7([max_c D_b; mean_c D_b]))` over [`BANDS`], D_b the stride-1 Haar band of `x` zero-padded by
    /// one at the left and top. Parameters: `<path>.<band>_reduce.conv.{weight,bias}`, weight `[1, 2, 7, 7]`.
    SpatialGate(Name),
    /// Channel gate: global mean → `<path>.fc.0.weight` `[hidden, C]` → ReLU → `<path>.fc.2.weight` `[C, hidden]` → σ → scale.
    SqueezeExcite {
        /// Module that owns the two matrices.
        path: Name,
        /// Width of the bottleneck, C/4.
        hidden: u16,
    },
    /// Maximum over `size`×`size` squares, stride `size`.
    MaxPool {
        /// 2, 4, 8 or 16.
        size: u8,
    },
    /// Bilinear ×2 with aligned corners: source = dst·(n−1)/(2n−1).
    Upsample2,
    /// Channels of the inputs, one after the other; costs nothing in the engines (see [`crate::plan`]).
    Concat,
    /// Sum of two maps of one shape.
    Add {
        /// Whether the sum is clamped at zero.
        relu: bool,
    },
}

/// One operation with its inputs and the shape of its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The reference's module whose output this is; unique in its graph.
    pub label: Name,
    /// What is computed.
    pub op: Op,
    inputs: [NodeId; MAX_INPUTS],
    input_count: u8,
    /// Channels of the output.
    pub channels: u16,
    /// The output has (height >> level) × (width >> level) pixels.
    pub level: u8,
    /// Last node of the strip that this one belongs to, 0 where it is in none. The nodes of a strip follow each other,
    /// have one level, and read each other only through operations that look at a few neighbouring rows: an executor
    /// may run them together, some rows at a time (see [`crate::plan`]).
    pub strip_end: NodeId,
}

impl Node {
    const EMPTY: Node = Node {
        label: Name::new(""),
        op: Op::Input,
        inputs: [0; MAX_INPUTS],
        input_count: 0,
        channels: 0,
        level: 0,
        strip_end: 0,
    };

    /// Nodes that this one reads, in order.
    pub const fn inputs(&self) -> &[NodeId] {
        match self.inputs.split_at_checked(self.input_count as usize) {
            Some((inputs, _)) => inputs,
            None => &[],
        }
    }
}

/// A network: nodes in the order in which they are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    nodes: [Node; MAX_NODES],
    len: usize,
    /// Widths w1…w5 of the five levels.
    pub widths: [u16; 5],
    /// Channels of the input: 1 (grey) or 3 (the reference's copies).
    pub input_channels: u16,
}

impl Graph {
    const fn new(widths: [u16; 5], input_channels: u16) -> Self {
        Graph { nodes: [Node::EMPTY; MAX_NODES], len: 0, widths, input_channels }
    }

    const fn push(&mut self, label: Name, op: Op, inputs: &[NodeId], channels: u16, level: u8) -> NodeId {
        let mut node = Node { label, op, channels, level, ..Node::EMPTY };
        node.input_count = inputs.len() as u8;
        let mut i = 0;
        while i < inputs.len() {
            node.inputs[i] = inputs[i];
            i += 1;
        }
        self.nodes[self.len] = node;
        self.len += 1;
        (self.len - 1) as NodeId
    }

    /// Makes the nodes from `first` to the last one a strip.
    const fn make_strip(&mut self, first: usize) {
        let mut i = first;
        while i < self.len {
            self.nodes[i].strip_end = (self.len - 1) as NodeId;
            i += 1;
        }
    }

    /// Nodes in running order.
    pub const fn nodes(&self) -> &[Node] {
        match self.nodes.split_at_checked(self.len) {
            Some((nodes, _)) => nodes,
            None => &[],
        }
    }

    /// Channels of the map that a node with one input reads (for a conv: its input channels).
    pub const fn input_channels_of(&self, node: &Node) -> u16 {
        match node.inputs() {
            [] => 0,
            [first, ..] if (*first as usize) < self.len && self.len <= MAX_NODES => {
                self.nodes[*first as usize].channels
            }
            _ => 0,
        }
    }

    /// Index of the node with this label.
    pub fn find(&self, label: &str) -> Option<usize> {
        self.nodes().iter().position(|n| n.label == *label)
    }

    /// Number of trainable parameters, batch norm scale and shift included, running statistics not.
    pub const fn parameters(&self) -> usize {
        let mut total = 0;
        let mut i = 0;
        while i < self.len {
            let node = &self.nodes[i];
            let (cin, cout) = (self.input_channels_of(node) as usize, node.channels as usize);
            total += match node.op {
                Op::Conv(c) => {
                    let taps = c.kernel as usize * c.kernel as usize;
                    cin * cout * taps + if c.bias { cout } else { 0 } + if c.norm.is_some() { 2 * cout } else { 0 }
                }
                Op::SpatialGate(_) => BANDS.len() * (2 * 49 + 1),
                Op::SqueezeExcite { hidden, .. } => 2 * cout * hidden as usize,
                _ => 0,
            };
            i += 1;
        }
        total
    }

    /// Multiply-accumulates of the convolutions and matrices for one frame.
    pub const fn macs(&self, height: usize, width: usize) -> u64 {
        let mut total = 0;
        let mut i = 0;
        while i < self.len {
            total += self.node_macs(&self.nodes[i], height, width);
            i += 1;
        }
        total
    }

    /// Multiply-accumulates of one node at this frame size.
    pub const fn node_macs(&self, node: &Node, height: usize, width: usize) -> u64 {
        let (cin, cout) = (self.input_channels_of(node) as u64, node.channels as u64);
        let pixels = ((height >> node.level) * (width >> node.level)) as u64;
        match node.op {
            Op::Conv(c) => pixels * cin * cout * (c.kernel as u64 * c.kernel as u64),
            Op::SpatialGate(_) => pixels * BANDS.len() as u64 * 2 * 49,
            Op::SqueezeExcite { hidden, .. } => 2 * cout * hidden as u64,
            _ => 0,
        }
    }
}
