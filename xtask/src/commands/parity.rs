//! `cargo xtask parity`: the host's int8 engine against the boards, byte for byte.
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use gsacp_edge::reel::Wanted;

use super::run::summarise;
use crate::bench;
use crate::board::{BOARDS, Board};
use crate::frames::{Frame, Selection, common_size};
use crate::host;
use crate::model;
use crate::parity::{Difference, Side, differences, first_element, first_layer};

/// Run the same frames on the host and on the boards and compare logit maps byte for byte and detections field by field.
#[derive(Args)]
pub struct Parity {
    /// Only this board.
    #[arg(long, value_parser = crate::board::parse)]
    board: Option<&'static Board>,
    /// Model image, or the int8 model to pack; default the committed one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    frames: Selection,
}

impl Parity {
    /// Compares; any difference is an error that names frame, layer and element.
    pub fn run(self) -> Result<()> {
        let image = model::image(self.model.as_deref())?;
        let frames = self.frames.load()?;
        let boards: Vec<&Board> = BOARDS.iter().filter(|b| self.board.is_none_or(|chosen| chosen == *b)).collect();
        compare(&boards, &image, &frames)
    }
}

/// Compares the host with each board.
pub fn compare(boards: &[&Board], image: &[u8], frames: &[Frame]) -> Result<()> {
    let wanted = Wanted { logits: true, ..Wanted::default() };
    let host = host::run(image, frames, wanted)?;
    for frame in frames.iter().zip(host.frames.values()) {
        let (frame, report) = frame;
        println!("  {:<20} logits {:08x}, {} detections", frame.name, report.crc, report.detections.len());
    }
    for board in boards {
        let report = bench::run(board, image, frames, wanted, false)?;
        let found = differences(
            common_size(frames)?,
            Side { frames: &host.frames, logits: &host.logits },
            Side { frames: &report.frames, logits: &report.logits },
        );
        if let Some(first) = found.first() {
            for Difference { frame, what } in &found {
                println!("  {}: frame {frame} ({}): {what}", board.name, frames[usize::from(*frame)].name);
            }
            let place = locate(board, image, &frames[usize::from(first.frame)])?;
            bail!(
                "{} differs from the host: frame {} ({}), {place}",
                board.name,
                first.frame,
                frames[usize::from(first.frame)].name
            );
        }
        summarise(board, &report)?;
        println!(
            "{}: {} logit maps and their detections are the host's, byte for byte",
            board.name,
            report.frames.len()
        );
    }
    Ok(())
}

/// Runs one frame again on both sides, first with a hash of every layer, then with the first differing layer in full.
fn locate(board: &Board, image: &[u8], frame: &Frame) -> Result<String> {
    let (size, frame) = (frame.size, std::slice::from_ref(frame));
    let hashes = Wanted { layers: true, ..Wanted::default() };
    let (ours, theirs) = (host::run(image, frame, hashes)?, bench::run(board, image, frame, hashes, false)?);
    let first = |frames: &std::collections::BTreeMap<_, _>| frames.values().next().cloned().context("no answer");
    let Some(node) = first_layer(&first(&ours.frames)?, &first(&theirs.frames)?) else {
        return Ok(
            "every layer agrees when the frame runs alone: the difference is in what outlives a frame".to_owned()
        );
    };
    let full = Wanted { layer: Some(node), ..Wanted::default() };
    let (ours, theirs) = (host::run(image, frame, full)?, bench::run(board, image, frame, full, false)?);
    Ok(first_element(size, &host::graph(), node, &ours.layer, &theirs.layer))
}
