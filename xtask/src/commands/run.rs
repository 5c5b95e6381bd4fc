//! `cargo xtask run`: real frames through the firmware on an emulated board.
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use gsacp_edge::reel::Wanted;

use crate::bench::{self, BoardReport};
use crate::board::Board;
use crate::frames::Selection;
use crate::model;

/// Run frames through the firmware on an emulated board and print what it reports.
#[derive(Args)]
pub struct Run {
    /// The board.
    #[arg(long, value_parser = crate::board::parse, default_value = "mps3-an547")]
    board: &'static Board,
    /// Model image, or the int8 model to pack; default the committed one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    frames: Selection,
}

impl Run {
    /// Runs and prints.
    pub fn run(self) -> Result<()> {
        let image = model::image(self.model.as_deref())?;
        let frames = self.frames.load()?;
        println!("{} ({}), every line as the firmware logs it:", self.board.name, self.board.core);
        let report = bench::run(self.board, &image, &frames, Wanted::default(), true)?;
        summarise(self.board, &report)
    }
}

/// Prints instructions and stack, and holds the stack to the board's budget.
pub fn summarise(board: &Board, report: &BoardReport) -> Result<()> {
    let instructions: Vec<u64> = report.frames.values().map(|f| f.instructions).collect();
    let (least, most) = (instructions.iter().min(), instructions.iter().max());
    let (least, most) = (least.context("no frame was answered")?, most.context("no frame was answered")?);
    let detections: usize = report.frames.values().map(|f| f.detections.len()).sum();
    println!(
        "{}: {} frames, {detections} detections, {:.1} to {:.1} million instructions a frame, {} of {} bytes of stack",
        board.name,
        report.frames.len(),
        *least as f64 / 1e6,
        *most as f64 / 1e6,
        report.stack.0,
        report.stack.1
    );
    ensure!(report.stack.0 <= board.stack_budget, "the stack's budget is {} bytes", board.stack_budget);
    Ok(())
}
