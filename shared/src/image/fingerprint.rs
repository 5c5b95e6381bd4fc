//! What tells one network from another: a CRC-32 of a canonical description, byte by byte as FORMAT.md says.

use super::CRC;
use crate::graph::{Graph, Op};

/// CRC-32 of the graph's canonical description.
pub fn fingerprint(graph: &Graph) -> u32 {
    let mut digest = CRC.digest();
    for width in graph.widths {
        digest.update(&width.to_le_bytes());
    }
    digest.update(&graph.input_channels.to_le_bytes());
    for node in graph.nodes() {
        match node.op {
            Op::Input => digest.update(&[0]),
            Op::Conv(c) => digest.update(&[1, c.kernel, c.stride, c.dilation, u8::from(c.relu)]),
            Op::HaarInject => digest.update(&[2]),
            Op::SpatialGate(_) => digest.update(&[3]),
            Op::SqueezeExcite { hidden, .. } => {
                digest.update(&[4]);
                digest.update(&hidden.to_le_bytes());
            }
            Op::MaxPool { size } => digest.update(&[5, size]),
            Op::Upsample2 => digest.update(&[6]),
            Op::Concat => digest.update(&[7]),
            Op::Add { relu } => digest.update(&[8, u8::from(relu)]),
        }
        digest.update(&[node.inputs().len() as u8]);
        for input in node.inputs() {
            digest.update(&input.to_le_bytes());
        }
        digest.update(&node.channels.to_le_bytes());
        digest.update(&[node.level]);
    }
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{HALF, QUARTER, msda};

    #[test]
    fn networks_differ() {
        let quarter = fingerprint(&msda(QUARTER, 1));
        assert_eq!(quarter, fingerprint(&msda(QUARTER, 1)));
        assert_ne!(quarter, fingerprint(&msda(HALF, 1)));
        assert_ne!(fingerprint(&msda(HALF, 1)), fingerprint(&msda([8, 16, 32, 32, 31], 1)));
        assert_ne!(fingerprint(&msda([4, 16, 16, 16, 16], 1)), fingerprint(&msda([4, 16, 16, 16, 16], 3)));
    }
}
