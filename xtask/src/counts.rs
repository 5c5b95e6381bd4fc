//! Instructions of every layer of a frame on an emulated board, and the committed tables that they are held against.
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use gsacp_core::graph::Op;
use gsacp_edge::reel::Wanted;

use crate::board::{Board, FrameSize, SMALL};
use crate::frames::Frame;
use crate::repository::root;
use crate::{bench, host};

/// A layer may take this share more than the table before it counts as worse, and this many instructions: a call more.
const MARGIN: f64 = 0.03;
const SLACK: u64 = 1000;

/// One node of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The operation, its kernel's size included.
    pub operation: String,
    /// The node's label.
    pub label: String,
    /// Multiply-accumulates at the frame's size.
    pub macs: u64,
    /// Executed instructions.
    pub instructions: u64,
}

/// Counts every layer of one frame of `size`. The counts depend neither on the frame nor, but for factors outside the fast
/// kernels' range, on the weights.
pub fn measure(board: &Board, image: &[u8], size: FrameSize) -> Result<Vec<Layer>> {
    let graph = host::graph();
    let frame = [Frame { name: "flat".to_owned(), size, pixels: vec![100; size.pixels()] }];
    let report = bench::run(board, image, &frame, Wanted { layers: true, ..Wanted::default() }, false)?;
    let counts = &report.frames.values().next().context("the board did not answer")?.layer_instructions;
    ensure!(counts.len() == graph.nodes().len(), "a layer was not counted");
    let layer = |(node, &instructions): (&gsacp_core::graph::Node, &u64)| Layer {
        operation: operation(&node.op),
        label: node.label.to_string(),
        macs: graph.node_macs(node, size.height.into(), size.width.into()),
        instructions,
    };
    Ok(graph.nodes().iter().zip(counts.values()).map(layer).collect())
}

fn operation(op: &Op) -> String {
    match op {
        Op::Conv(c) => format!("conv {0}x{0}", c.kernel),
        Op::Input => "input".to_owned(),
        Op::HaarInject => "haar inject".to_owned(),
        Op::SpatialGate(_) => "spatial gate".to_owned(),
        Op::SqueezeExcite { .. } => "squeeze excite".to_owned(),
        Op::MaxPool { .. } => "max pool".to_owned(),
        Op::Upsample2 => "upsample".to_owned(),
        Op::Concat => "concat".to_owned(),
        Op::Add { .. } => "add".to_owned(),
    }
}

/// Instructions per multiply-accumulate, or nothing where an operation has none.
pub fn per_mac(instructions: u64, macs: u64) -> String {
    if macs == 0 { String::new() } else { format!("{:.3}", instructions as f64 / macs as f64) }
}

/// Where a board's table is.
pub fn table_path(board: &Board) -> PathBuf {
    root().join("xtask/counts").join(format!("{}.txt", board.name))
}

/// The table of a frame of [`SMALL`].
pub fn table(board: &Board, layers: &[Layer]) -> String {
    let mut text = format!(
        "# Instructions, instructions per multiply-accumulate, operation and layer of a {} frame.\n# cargo xtask count --board {} --overwrite\n",
        SMALL, board.name
    );
    for layer in layers {
        let (per_mac, operation) = (per_mac(layer.instructions, layer.macs), &layer.operation);
        text += &format!("{:>10} {per_mac:>8}  {operation:<14}  {}\n", layer.instructions, layer.label);
    }
    text
}

/// What of `layers` is worse than in the table, one line each.
pub fn worse(table: &str, layers: &[Layer]) -> Result<Vec<String>> {
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
    ensure!(rows.len() == layers.len(), "the table has {} layers, the graph {}", rows.len(), layers.len());
    let mut worse = Vec::new();
    for (row, layer) in rows.into_iter().zip(layers) {
        let mut words = row.split_whitespace();
        let before: u64 = words.next().and_then(|n| n.parse().ok()).with_context(|| format!("no number in {row:?}"))?;
        ensure!(words.next_back() == Some(&layer.label), "{row:?} is not {}", layer.label);
        if layer.instructions > before + SLACK + (before as f64 * MARGIN) as u64 {
            worse.push(format!("{}: {} instructions, {before} in the table", layer.label, layer.instructions));
        }
    }
    Ok(worse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::BOARDS;

    #[test]
    fn a_layer_that_takes_more_than_the_table_is_named() {
        let layer = |label: &str, instructions| Layer {
            operation: "conv 3x3".to_owned(),
            label: label.to_owned(),
            macs: 1000,
            instructions,
        };
        let before = [layer("a", 100_000), layer("b", 200_000)];
        let text = table(&BOARDS[0], &before);
        assert!(worse(&text, &before).unwrap().is_empty());
        assert!(worse(&text, &[layer("a", 50_000), layer("b", 206_000)]).unwrap().is_empty());
        assert_eq!(worse(&text, &[layer("a", 105_000), layer("b", 200_000)]).unwrap().len(), 1);
        assert!(worse(&text, &before[..1]).is_err() && worse(&text, &[layer("b", 1), layer("a", 1)]).is_err());
    }
}
