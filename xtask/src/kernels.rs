//! The kernels by themselves on an emulated board: whether each gives its plain twin's bytes, and instructions by shape.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::board::Board;
use crate::emulator;

const PATIENCE: Duration = Duration::from_secs(300);

/// A convolution that the firmware ran, stride 1, `same` padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeReport {
    /// Rows and columns of the map.
    pub size: [u64; 2],
    /// Input and output channels.
    pub channels: [u64; 2],
    /// Taps along a side.
    pub kernel: u64,
    /// Pixels from one tap to the next.
    pub dilation: u64,
    /// Of the whole layer.
    pub instructions: u64,
}

impl ShapeReport {
    /// Multiply-accumulates, padding included.
    pub fn macs(&self) -> u64 {
        self.size[0] * self.size[1] * self.channels[0] * self.channels[1] * self.kernel * self.kernel
    }
}

/// What the board said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KernelReport {
    /// Random layers compared, of each operation.
    pub layers: u64,
    /// Layers of each operation whose bytes differed from its plain twin's.
    pub different: BTreeMap<String, u64>,
    /// In the firmware's order.
    pub shapes: Vec<ShapeReport>,
}

/// Builds and runs the firmware of the kernels.
pub fn run(board: &Board) -> Result<KernelReport> {
    let elf = board.build_kernels()?;
    let folder = tempfile::tempdir().context("cannot create a folder for the emulator")?;
    let mut report = KernelReport::default();
    emulator::run(board, &elf, &[], folder.path(), PATIENCE, |line| {
        note(&mut report, line).with_context(|| format!("{} said: {line}", board.name))
    })?;
    ensure!(report.layers > 0 && !report.shapes.is_empty(), "{} compared or measured nothing", board.name);
    Ok(report)
}

fn note(report: &mut KernelReport, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(' ').context("an unknown line")?;
    let mut fields = BTreeMap::new();
    for field in rest.split_whitespace() {
        let (key, value) = field.split_once('=').context("no key=value")?;
        fields.insert(key, value.parse::<u64>().with_context(|| format!("{key}= is no number"))?);
    }
    let mut take = |key: &str| fields.remove(key).with_context(|| format!("no {key}="));
    if word == "compared" {
        report.layers = take("layers")?;
        report.different = fields.into_iter().map(|(operation, count)| (operation.to_owned(), count)).collect();
    } else {
        ensure!(word == "shape", "an unknown line");
        report.shapes.push(ShapeReport {
            size: [take("height")?, take("width")?],
            channels: [take("inputs")?, take("outputs")?],
            kernel: take("kernel")?,
            dilation: take("dilation")?,
            instructions: take("instructions")?,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boards_lines_become_a_report() {
        let mut report = KernelReport::default();
        note(&mut report, "compared layers=9 conv=1 add=0").unwrap();
        note(&mut report, "shape height=2 width=3 inputs=4 outputs=5 kernel=3 dilation=1 instructions=540").unwrap();
        assert_eq!((report.layers, report.different["conv"], report.different["add"]), (9, 1, 0));
        assert_eq!(report.shapes[0].macs(), 1080);
        assert!(note(&mut report, "shape height=2").is_err() && note(&mut report, "hello").is_err());
    }
}
