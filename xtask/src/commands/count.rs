//! `cargo xtask count`: where the instructions of a frame go.
use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::board::{Board, FrameSize, SMALL};
use crate::counts::{self, Layer, per_mac};
use crate::sample::random_image;
use crate::{host, kernels, model};

/// Print the instructions of every operation on an emulated board, in all and per multiply-accumulate.
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
    /// Width and height of the frame: 160x128 or 640x512.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::board::parse_size, default_value_t = SMALL, conflicts_with = "shapes")]
    size: FrameSize,
    /// Put the counts into the board's committed table.
    #[arg(long, conflicts_with_all = ["model", "shapes", "size"])]
    overwrite: bool,
}

impl Count {
    /// Counts and prints.
    pub fn run(self) -> Result<()> {
        if self.shapes {
            return shapes(self.board);
        }
        let image = match &self.model {
            Some(path) => model::image(Some(path))?,
            None => random_image(&host::graph(), 1, 0)?,
        };
        let layers = counts::measure(self.board, &image, self.size)?;
        if self.overwrite {
            let path = counts::table_path(self.board);
            std::fs::write(&path, counts::table(self.board, &layers))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        print(&format!("{} on {}", self.size, self.board.name), &layers, self.layers);
        Ok(())
    }
}

fn print(frame: &str, layers: &[Layer], each: bool) {
    let total: u64 = layers.iter().map(|layer| layer.instructions).sum();
    let macs: u64 = layers.iter().map(|layer| layer.macs).sum();
    let row = |instructions: u64, macs: u64, what: &str| {
        let share = 100.0 * instructions as f64 / total.max(1) as f64;
        println!("{instructions:>12} {share:>5.1} % {:>8}  {what}", per_mac(instructions, macs));
    };
    println!("instructions   share  per MAC");
    let mut by_operation = BTreeMap::<&str, (u64, u64, u32)>::new();
    for layer in layers {
        if each {
            row(layer.instructions, layer.macs, &format!("{:<16} {}", layer.operation, layer.label));
        }
        let sum = by_operation.entry(&layer.operation).or_default();
        *sum = (sum.0 + layer.instructions, sum.1 + layer.macs, sum.2 + 1);
    }
    for (operation, (instructions, macs, count)) in by_operation {
        row(instructions, macs, &format!("{operation}, {count} layers"));
    }
    row(total, macs, &format!("a frame of {frame}, {macs} MACs"));
}

fn shapes(board: &Board) -> Result<()> {
    let report = kernels::run(board)?;
    println!("{:>12} {:>8}  convolution on {}", "instructions", "per MAC", board.name);
    for shape in &report.shapes {
        let ([height, width], [inputs, outputs], k) = (shape.size, shape.channels, shape.kernel);
        let per_mac = per_mac(shape.instructions, shape.macs());
        let dilation = if shape.dilation > 1 { format!(", dilation {}", shape.dilation) } else { String::new() };
        println!("{:>12} {per_mac:>8}  {height}×{width} {inputs}→{outputs} {k}×{k}{dilation}", shape.instructions);
    }
    println!(
        "{} random layers of each operation, of which differed from the plain form: {:?}",
        report.layers, report.different
    );
    Ok(())
}
