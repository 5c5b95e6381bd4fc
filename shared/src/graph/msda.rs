//! MSDA-Net (METHOD.md §1, arXiv 2406.02037) for any widths and 1 or 3 input channels, by the reference's names.
//!
//! CBR(k, d) is conv → batch norm → ReLU. The decoder's blocks are scheduled late, so that the encoder's maps, not
//! the decoder's wider ones, are what stays alive across the deep levels. The branches of an RFB up to the conv that
//! joins them, and an LCL with the SBAM that it feeds (at level 1 the head, too), are strips.

use super::{Conv, Graph, Name, NodeId, Op};

/// Widths of the reference.
pub const FULL: [u16; 5] = [16, 32, 64, 64, 64];
/// Half the reference's widths.
pub const HALF: [u16; 5] = [8, 16, 32, 32, 32];
/// A quarter of the reference's widths: the network for microcontrollers.
pub const QUARTER: [u16; 5] = [4, 8, 16, 16, 16];

/// Down-sampling block of each level (the first level has none) and its two RFBs.
const STAGES: [(&str, [&str; 2]); 5] = [
    ("stage.resnet1_1", ["stage.resnet1_2", "stage.resnet1_3"]),
    ("stage.resnet2_1", ["stage.resnet2_2", "stage.resnet2_3"]),
    ("stage.resnet3_1", ["stage.resnet3_2", "stage.resnet3_3"]),
    ("stage.resnet4_1", ["stage.resnet4_2", "stage.resnet4_3"]),
    ("stage.resnet5_1", ["stage.resnet5_2", "stage.resnet5_3"]),
];
/// Aggregation conv of levels 1…4: its module, and the pooling down to level 5.
const AGGREGATE: [(&str, &str, u8); 4] = [
    ("stage.layer1_4", ".4", 16),
    ("stage.layer2_4", ".3", 8),
    ("stage.layer3_4", ".2", 4),
    ("stage.layer4_4", ".1", 2),
];
const LCL: [&str; 5] = ["mlcl1", "mlcl2", "mlcl3", "mlcl4", "mlcl5"];
const SBAM: [&str; 4] = ["sbam1", "sbam2", "sbam3", "sbam4"];

/// The network. `widths` are w1…w5 (w2 must exceed the 3·`input_channels` Haar channels injected there).
pub const fn msda(widths: [u16; 5], input_channels: u16) -> Graph {
    assert!(input_channels == 1 || input_channels == 3, "1 or 3 input channels");
    assert!(widths[1] > 3 * input_channels, "level 2 is narrower than the Haar bands injected into it");
    let mut b = Builder { g: Graph::new(widths, input_channels) };
    let input = b.g.push(Name::new("input"), Op::Input, &[], input_channels, 0);

    let mut outs = [0; 5];
    let mut level = 0;
    let mut x = input;
    while level < 5 {
        let (first, rfb) = STAGES[level];
        x = match level {
            0 => b.stem(x, Name::new(first), widths[0]),
            1 => b.res2_injected(x, input, Name::new(first), widths[1]),
            _ => b.res2(x, Name::new(first), Name::new(first), widths[level]),
        };
        x = b.rfb(x, Name::new(rfb[0]));
        x = b.rfb(x, Name::new(rfb[1]));
        outs[level] = x;
        level += 1;
    }
    outs[4] = b.aggregate(outs);

    let mut d = b.lcl(outs[4], Name::new(LCL[4]));
    level = 4;
    while level > 0 {
        level -= 1;
        let first = b.g.len;
        let skip = b.lcl(outs[level], Name::new(LCL[level]));
        d = b.sbam(d, skip, Name::new(SBAM[level]));
        if level == 0 {
            let h = b.plain(d, Name::new("layer.0"), Name::new("layer.0"), true, widths[0]);
            b.plain(h, Name::new("logits"), Name::new("layer.2"), false, 1);
        }
        b.g.make_strip(first);
    }
    b.g
}

/// Parameters of the reference's checkpoints that no output depends on: a 1×1 conv and its batch norm in each LCL.
pub const fn unused_parameters(widths: [u16; 5]) -> usize {
    let mut total = 0;
    let mut i = 0;
    while i < 5 {
        let w = widths[i] as usize;
        total += w * w + 2 * w;
        i += 1;
    }
    total
}

struct Builder {
    g: Graph,
}

impl Builder {
    const fn channels(&self, node: NodeId) -> u16 {
        self.g.nodes[node as usize].channels
    }

    const fn level(&self, node: NodeId) -> u8 {
        self.g.nodes[node as usize].level
    }

    const fn conv(&mut self, x: NodeId, label: Name, conv: Conv, channels: u16) -> NodeId {
        let level = self.level(x) + (conv.stride == 2) as u8;
        self.g.push(label, Op::Conv(conv), &[x], channels, level)
    }

    /// The reference's `BasicConv`: `label.conv` without bias → `label.bn` → ReLU.
    const fn cbr(&mut self, x: NodeId, label: Name, kernel: u8, dilation: u8, channels: u16) -> NodeId {
        let (path, norm) = (label.join(".conv"), Some(label.join(".bn")));
        self.conv(x, label, Conv { kernel, stride: 1, dilation, relu: true, path, norm, bias: false }, channels)
    }

    /// A conv with bias and batch norm out of a `Sequential`: `path` and `norm` are its numbered members.
    #[expect(clippy::too_many_arguments, reason = "one call per line reads like the reference's Sequential")]
    const fn seq(
        &mut self,
        x: NodeId,
        label: Name,
        path: Name,
        norm: Name,
        kernel: u8,
        stride: u8,
        relu: bool,
        channels: u16,
    ) -> NodeId {
        let conv = Conv { kernel, stride, dilation: 1, relu, path, norm: Some(norm), bias: true };
        self.conv(x, label, conv, channels)
    }

    /// A 1×1 conv with bias and without batch norm.
    const fn plain(&mut self, x: NodeId, label: Name, path: Name, relu: bool, channels: u16) -> NodeId {
        self.conv(x, label, Conv { kernel: 1, stride: 1, dilation: 1, relu, path, norm: None, bias: true }, channels)
    }

    const fn add(&mut self, x: NodeId, y: NodeId, label: Name, relu: bool) -> NodeId {
        self.g.push(label, Op::Add { relu }, &[x, y], self.channels(x), self.level(x))
    }

    const fn concat(&mut self, parts: &[NodeId], label: Name) -> NodeId {
        let mut channels = 0;
        let mut i = 0;
        while i < parts.len() {
            channels += self.channels(parts[i]);
            i += 1;
        }
        self.g.push(label, Op::Concat, parts, channels, self.level(parts[0]))
    }

    /// Two CBR3, then Res1: ReLU(x + BN(conv3(ReLU(BN(conv3 x))))).
    const fn stem(&mut self, x: NodeId, res1: Name, w: u16) -> NodeId {
        let s = Name::new("stage.layer1");
        let x = self.seq(x, s.join(".0"), s.join(".0"), s.join(".1"), 3, 1, true, w);
        let x = self.seq(x, s, s.join(".3"), s.join(".4"), 3, 1, true, w);
        let l = res1.join(".layer");
        let y = self.seq(x, l.join(".0"), l.join(".0"), l.join(".1"), 3, 1, true, w);
        let y = self.seq(y, l, l.join(".3"), l.join(".4"), 3, 1, false, w);
        self.add(x, y, res1, true)
    }

    /// a = BN(conv3(MaxPool2(ReLU(BN(conv3 x))))), b = ReLU(BN(conv3 stride 2 x)), out = ReLU(a + b).
    const fn res2(&mut self, x: NodeId, name: Name, label: Name, w: u16) -> NodeId {
        let (l1, l2) = (name.join(".layer1"), name.join(".layer2"));
        let a = self.seq(x, l1.join(".0"), l1.join(".0"), l1.join(".1"), 3, 1, true, w);
        let a = self.g.push(l1.join(".3"), Op::MaxPool { size: 2 }, &[a], w, self.level(x) + 1);
        let a = self.seq(a, l1, l1.join(".4"), l1.join(".5"), 3, 1, false, w);
        let b = self.seq(x, l2, l2.join(".0"), l2.join(".1"), 3, 2, true, w);
        self.add(a, b, label, true)
    }

    /// HFDI: the Haar bands of the input in front of a narrower Res2.
    const fn res2_injected(&mut self, x: NodeId, input: NodeId, name: Name, w: u16) -> NodeId {
        let bands = 3 * self.channels(input);
        let r = self.res2(x, name, name, w - bands);
        let h = self.g.push(Name::new("stage.hfrequency.bands"), Op::HaarInject, &[input], bands, 1);
        self.concat(&[h, r], Name::new("stage.hfrequency"))
    }

    /// RFB: four branches of growing reach → CBR3 → FrequencyAttention → SE → CBR3, residual.
    const fn rfb(&mut self, x: NodeId, name: Name) -> NodeId {
        let (w, first) = (self.channels(x), self.g.len);
        let (n0, n1, n2, n3) =
            (name.join(".branch0"), name.join(".branch1"), name.join(".branch2"), name.join(".branch3"));
        let b0 = self.cbr_last(x, n0, ".0", 1, 1, w);
        let b1 = self.cbr(x, n1.join(".0"), 1, 1, w);
        let b1 = self.cbr_last(b1, n1, ".1", 3, 1, w);
        let b2 = self.cbr(x, n2.join(".0"), 3, 1, w);
        let b2 = self.cbr_last(b2, n2, ".1", 3, 3, w);
        let b3 = self.cbr(x, n3.join(".0"), 5, 1, w);
        let b3 = self.cbr_last(b3, n3, ".1", 3, 5, w);
        let cat = self.concat(&[b0, b1, b2, b3], name.join(".cat"));
        let y = self.cbr(cat, name.join(".conv_cat"), 3, 1, w);
        self.g.make_strip(first);

        let fa = name.join(".FrequencyAttention");
        let s = self.g.push(fa.join(".gate"), Op::SpatialGate(fa), &[y], w, self.level(x));
        let c = fa.join(".conv_res");
        let s = self.seq(s, c, c.join(".0"), c.join(".1"), 3, 1, false, w);
        let y = self.add(y, s, fa, true);

        let se = name.join(".SEAttention");
        let y = self.g.push(se, Op::SqueezeExcite { path: se, hidden: w / 4 }, &[y], w, self.level(x));
        let y = self.cbr(y, name.join(".conv_res"), 3, 1, w);
        self.add(x, y, name, true)
    }

    /// The last CBR of a branch, its `member`: labelled with the branch's own name.
    const fn cbr_last(
        &mut self,
        x: NodeId,
        branch: Name,
        member: &'static str,
        kernel: u8,
        dilation: u8,
        w: u16,
    ) -> NodeId {
        let (path, norm) = (branch.join(member).join(".conv"), Some(branch.join(member).join(".bn")));
        self.conv(x, branch, Conv { kernel, stride: 1, dilation, relu: true, path, norm, bias: false }, w)
    }

    /// Levels 1…4 pooled to level 5, reduced to w1 channels each, joined with level 5 and mixed: o5.
    const fn aggregate(&mut self, outs: [NodeId; 5]) -> NodeId {
        let (w1, w5) = (self.channels(outs[0]), self.channels(outs[4]));
        let mut parts = [outs[4]; 5];
        let mut i = 4;
        while i > 0 {
            i -= 1;
            let (name, member, size) = AGGREGATE[i];
            let name = Name::new(name);
            let p = self.g.push(name.join(".pool"), Op::MaxPool { size }, &[outs[i]], self.channels(outs[i]), 4);
            parts[4 - i] = self.plain(p, name, name.join(member), true, w1);
        }
        let cat = self.concat(&parts, Name::new("stage.layer5_4.cat"));
        let (m0, m2) = (Name::new("stage.layer5_4.0"), Name::new("stage.layer5_4.2"));
        let x = self.plain(cat, m0, m0, true, w5 + 4 * w1);
        self.plain(x, m2, m2, true, w5)
    }

    /// LCL: three branches → CBR3, no residual.
    const fn lcl(&mut self, x: NodeId, name: Name) -> NodeId {
        let w = self.channels(x);
        let (n0, n1, n2) = (name.join(".branch0"), name.join(".branch1"), name.join(".branch2"));
        let b0 = self.cbr(x, n0.join(".0"), 1, 1, w);
        let b1 = self.cbr(x, n1.join(".0"), 3, 1, w);
        let b1 = self.cbr_last(b1, n1, ".1", 3, 3, w);
        let b2 = self.cbr(x, n2.join(".0"), 5, 1, w);
        let b2 = self.cbr_last(b2, n2, ".1", 3, 5, w);
        let cat = self.concat(&[b0, b1, b2], name.join(".cat"));
        let (path, norm) = (name.join(".conv_cat").join(".conv"), Some(name.join(".conv_cat").join(".bn")));
        self.conv(cat, name, Conv { kernel: 3, stride: 1, dilation: 1, relu: true, path, norm, bias: false }, w)
    }

    /// SBAM(h: I, l: O): k = CBR3(CBR1([h↑, l])) of I channels; out = l + ReLU(BN(conv1 I→O (h↑ + k))).
    const fn sbam(&mut self, h: NodeId, l: NodeId, name: Name) -> NodeId {
        let (i, o) = (self.channels(h), self.channels(l));
        let up = self.g.push(name.join(".hl_up"), Op::Upsample2, &[h], i, self.level(l));
        let cat = self.concat(&[up, l], name.join(".cat"));
        let (c, hl) = (name.join(".concat_layer"), name.join(".hl_layer"));
        let k = self.seq(cat, c.join(".0"), c.join(".0"), c.join(".1"), 1, 1, true, i);
        let k = self.seq(k, c, c.join(".3"), c.join(".4"), 3, 1, true, i);
        let s = self.add(up, k, name.join(".sum"), false);
        let r = self.seq(s, hl, hl.join(".0"), hl.join(".1"), 1, 1, true, o);
        self.add(l, r, name, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    /// METHOD.md §1, counted there on the reference itself.
    #[test]
    fn parameter_counts_are_the_references() {
        for (widths, channels, all, live) in
            [(FULL, 3, 4_805_089, 4_791_041), (HALF, 1, 1_209_199, 1_205_567), (QUARTER, 1, 307_231, 306_263)]
        {
            let graph = msda(widths, channels);
            assert_eq!(graph.parameters(), live);
            assert_eq!(graph.parameters() + unused_parameters(widths), all);
        }
    }

    #[test]
    fn multiply_accumulates_are_the_references() {
        for (widths, channels, size, gmac) in [
            (FULL, 3, 256, 20.914),
            (HALF, 1, 256, 5.292),
            (QUARTER, 1, 256, 1.369),
            (QUARTER, 1, 128, 0.342),
            (QUARTER, 1, 64, 0.0855),
        ] {
            let found = msda(widths, channels).macs(size, size) as f64 / 1e9;
            assert!((found - gmac).abs() < 5.1e-4, "{found} G for {widths:?} at {size}");
        }
    }

    #[test]
    fn every_node_reads_earlier_nodes_of_a_fitting_shape_and_has_a_name_of_its_own() {
        let g = msda(QUARTER, 1);
        for (i, node) in g.nodes().iter().enumerate() {
            assert!(node.inputs().iter().all(|&j| (j as usize) < i), "{}", node.label);
            assert!(g.nodes()[..i].iter().all(|other| other.label != node.label), "{} twice", node.label);
            if let Op::Add { .. } = node.op {
                let [x, y] = [0, 1].map(|k| g.nodes()[node.inputs()[k] as usize]);
                assert_eq!((x.channels, x.level), (y.channels, y.level), "{}", node.label);
            }
        }
        let last = g.nodes().last().expect("the graph has nodes");
        assert_eq!((last.channels, last.level), (1, 0));
    }

    /// What an executor that runs a strip some rows at a time relies on.
    #[test]
    fn nodes_of_a_strip_read_each_other_by_rows() {
        let g = msda(QUARTER, 1);
        let ends: std::collections::BTreeSet<NodeId> = g.nodes().iter().map(|n| n.strip_end).collect();
        assert_eq!(ends.len(), 1 + 10 + 4, "ten RFBs, four LCLs with their SBAMs");
        for node in g.nodes().iter().filter(|n| n.strip_end != 0) {
            assert_eq!(node.level, g.nodes()[node.strip_end as usize].level);
            let inside = |&&j: &&NodeId| g.nodes()[j as usize].strip_end == node.strip_end;
            let by_rows = match node.op {
                Op::Conv(c) => c.stride == 1,
                Op::Add { .. } | Op::Concat => true,
                _ => node.inputs().iter().find(inside).is_none(),
            };
            assert!(by_rows, "{}", node.label);
        }
    }

    #[test]
    fn a_concatenations_member_belongs_to_no_other() {
        let g = msda(FULL, 3);
        let mut owner = [None; super::super::MAX_NODES];
        for (i, node) in g.nodes().iter().enumerate().filter(|(_, n)| n.op == Op::Concat) {
            for &j in node.inputs() {
                assert_eq!(owner[j as usize].replace(i), None, "{}", g.nodes()[j as usize].label);
            }
        }
    }
}
