//! `cargo xtask count`: where the instructions of a frame go.
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use gsacp_core::graph::Op;
use gsacp_edge::reel::Wanted;

use crate::bench;
use crate::board::{Board, FRAME};
use crate::frames::Frame;
use crate::sample::random_image;
use crate::{host, kernels, model};

/// Print the instructions of every layer on an emulated board. They do not depend on the frame or the weights.
#[derive(Args)]
pub struct Count {
    /// The board.
    #[arg(long, value_parser = crate::board::parse, default_value = "mps3-an547")]
    board: &'static Board,
    /// Model image or int8 model; default random weights.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Also list every layer, not only the operations.
    #[arg(long)]
    layers: bool,
    /// Only the convolutions of fixed shapes, one line each.
    #[arg(long)]
    shapes: bool,
}

impl Count {
    /// Counts and prints.
    pub fn run(self) -> Result<()> {
        if self.shapes {
            return shapes(self.board);
        }
        let graph = host::graph();
        let image = match &self.model {
            Some(path) => model::image(Some(path))?,
            None => random_image(&graph, 1, 0)?,
        };
        let pixels = vec![100; usize::from(FRAME.0) * usize::from(FRAME.1)];
        let frame = [Frame { name: "flat".to_owned(), pixels }];
        let report = bench::run(self.board, &image, &frame, Wanted { layers: true, ..Wanted::default() }, false)?;
        let counts = &report.frames.values().next().context("the board did not answer")?.layer_instructions;
        let total: u64 = counts.values().sum();
        let share = |n: u64| 100.0 * n as f64 / total.max(1) as f64;
        let mut by_operation = std::collections::BTreeMap::<String, (u64, u32)>::new();
        for (node, count) in graph.nodes().iter().zip(counts.values()) {
            let operation = match node.op {
                Op::Conv(c) => format!("conv {0}x{0}", c.kernel),
                Op::Input => "input".to_owned(),
                Op::HaarInject => "haar inject".to_owned(),
                Op::SpatialGate(_) => "spatial gate".to_owned(),
                Op::SqueezeExcite { .. } => "squeeze excite".to_owned(),
                Op::MaxPool { .. } => "max pool".to_owned(),
                Op::Upsample2 => "upsample".to_owned(),
                Op::Concat => "concat".to_owned(),
                Op::Add { .. } => "add".to_owned(),
            };
            if self.layers {
                println!("{count:>12} {:>5.1} %  {operation:<16} {}", share(*count), node.label);
            }
            let entry = by_operation.entry(operation).or_default();
            *entry = (entry.0 + count, entry.1 + 1);
        }
        for (operation, (count, layers)) in by_operation {
            println!("{count:>12} {:>5.1} %  {operation}, {layers} layers", share(count));
        }
        println!("{total:>12} instructions a frame on {}", self.board.name);
        Ok(())
    }
}

fn shapes(board: &Board) -> Result<()> {
    let report = kernels::run(board)?;
    println!("{:>12} {:>7}  convolution on {}", "instructions", "per MAC", board.name);
    for shape in &report.shapes {
        let ([height, width], [inputs, outputs], k) = (shape.size, shape.channels, shape.kernel);
        let per_mac = shape.instructions as f64 / shape.macs().max(1) as f64;
        let dilation = if shape.dilation > 1 { format!(", dilation {}", shape.dilation) } else { String::new() };
        println!("{:>12} {per_mac:>7.3}  {height}×{width} {inputs}→{outputs} {k}×{k}{dilation}", shape.instructions);
    }
    println!("{} random layers of each operation, of which differed from the plain form: {:?}", report.layers, report.different);
    Ok(())
}
