//! A bench run: a model image and a reel of frames on an emulated board, and what the board reported.
//!
//! The firmware's log lines are a word and `key=value` fields (their formats stand side by side in
//! `board-emulated`'s `report.rs`); maps in full come as files in the emulator's folder.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gsacp_core::detect::Detection;
use gsacp_edge::reel::Wanted;

use crate::board::{Board, FrameSize};
use crate::emulator::{self, Load};
use crate::frames::{Frame, common_size, reel};

/// Silence after which a board is given up: a small frame takes ten seconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a board said of one frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameReport {
    /// CRC-32 of the logit map's bytes.
    pub crc: u32,
    /// Instructions from the frame's arrival to its report.
    pub instructions: u64,
    /// Components that found no place in the list.
    pub dropped: u32,
    /// Whether a target is confirmed.
    pub alarm: bool,
    /// Whether the frame took longer than the deadline.
    pub late: bool,
    /// The detections, in order. Floats are printed in the shortest form that reads back to the same bits.
    pub detections: Vec<Detection>,
    /// A hash of each layer's output by node number, where asked for: the CRC-32 of the bands in which it came, joined by
    /// [`join_band`].
    pub layers: BTreeMap<u16, u32>,
    /// Instructions of each layer by node number, where asked for; node 0 includes whatever came before it.
    pub layer_instructions: BTreeMap<u16, u64>,
}

/// What a board said of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BoardReport {
    /// The slot whose model ran.
    pub slot: String,
    /// By the frame's sequence number.
    pub frames: BTreeMap<u16, FrameReport>,
    /// Frames and model images that were refused, as printed.
    pub faults: Vec<String>,
    /// Bytes of stack used and reserved.
    pub stack: (u64, u64),
    /// The logit maps, int16 little-endian, in the order of `frames`, where asked for.
    pub logits: Vec<u8>,
    /// One layer's outputs in that order, where asked for.
    pub layer: Vec<u8>,
    /// Layers of the frame whose own line has not come yet.
    pending: (BTreeMap<u16, u32>, BTreeMap<u16, u64>),
}

/// What goes into a run.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The bytes of slot A.
    pub model: &'a [u8],
    /// The bytes of slot B, the update's; empty for none.
    pub update: &'a [u8],
    /// The bytes of the reel.
    pub reel: &'a [u8],
    /// Of the frames that the firmware takes.
    pub size: FrameSize,
}

/// Builds the board's firmware, runs `frames` through it with `model` in slot A, and returns its report.
pub fn run(board: &Board, model: &[u8], frames: &[Frame], wanted: Wanted, echo: bool) -> Result<BoardReport> {
    let size = common_size(frames)?;
    run_input(board, Input { model, update: &[], reel: &reel(frames, wanted), size }, echo)
}

/// As [`run`], with every byte that the board is given.
pub fn run_input(board: &Board, input: Input<'_>, echo: bool) -> Result<BoardReport> {
    let elf = board.build(input.size)?;
    let folder = tempfile::tempdir().context("cannot create a folder for the emulator")?;
    let place = |name: &str, bytes: &[u8]| -> Result<_> {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let [a, b] = board.slots;
    let files = [
        (place("model.img", input.model)?, a),
        (place("update.img", input.update)?, b),
        (place("reel", input.reel)?, board.reel),
    ];
    // The loader refuses an empty file; the memory is zero without it.
    let loads: Vec<Load<'_>> = files
        .iter()
        .zip([input.model, input.update, input.reel])
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|((file, address), _)| Load { file, address: *address })
        .collect();
    let mut report = BoardReport::default();
    let mut finished = false;
    emulator::run(board, &elf, &loads, folder.path(), PATIENCE * input.size.times_small() as u32, |line| {
        if echo {
            println!("  {line}");
        }
        finished |= note(&mut report, line).with_context(|| format!("{} said: {line}", board.name))?;
        Ok(())
    })?;
    ensure!(finished, "{} stopped before its last line", board.name);
    report.logits = read_or_empty(&folder.path().join("logits.bin"))?;
    report.layer = read_or_empty(&folder.path().join("layer.bin"))?;
    Ok(report)
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Adds the CRC-32 of a layer's next band to the hashes of a frame's layers.
pub fn join_band(layers: &mut BTreeMap<u16, u32>, node: u16, crc: u32) {
    let hash = layers.entry(node).or_default();
    *hash = hash.rotate_left(1) ^ crc;
}

/// Takes one line into the report; true for the last line.
fn note(report: &mut BoardReport, line: &str) -> Result<bool> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word == "fault" {
        report.faults.push(rest.to_owned());
        return Ok(false);
    }
    let fields: BTreeMap<&str, &str> = rest.split_whitespace().filter_map(|f| f.split_once('=')).collect();
    let field = |key: &str| fields.get(key).copied().with_context(|| format!("no {key}="));
    let number = |key: &str| -> Result<u64> { field(key)?.parse().with_context(|| format!("{key}= is no number")) };
    let hash = |key: &str| -> Result<u32> {
        u32::from_str_radix(field(key)?, 16).with_context(|| format!("{key}= is no hexadecimal number"))
    };
    let real = |key: &str| -> Result<f32> { field(key)?.parse().with_context(|| format!("{key}= is no number")) };
    match word {
        "model" => report.slot = field("slot")?.to_owned(),
        "frame" => {
            let frame = report.frames.entry(number("n")? as u16).or_default();
            (frame.layers, frame.layer_instructions) = std::mem::take(&mut report.pending);
            frame.crc = hash("crc")?;
            frame.instructions = number("instructions")?;
            frame.dropped = number("dropped")? as u32;
            frame.alarm = field("alarm")? == "true";
            frame.late = field("late")? == "true";
            ensure!(frame.detections.len() as u64 == number("detections")?, "another number of detections came");
        }
        "detection" => {
            let frame = report.frames.entry(number("n")? as u16).or_default();
            frame.detections.push(Detection {
                x: real("x")?,
                y: real("y")?,
                area: number("area")? as u32,
                left: number("left")? as u16,
                top: number("top")? as u16,
                right: number("right")? as u16,
                bottom: number("bottom")? as u16,
                first_x: number("first_x")? as u16,
                peak: real("peak")?,
                contrast: real("contrast")?,
            });
        }
        "layer" => {
            // A frame's layers come before the frame's own lines, which alone carry its number.
            let (node, (layers, instructions)) = (number("node")? as u16, &mut report.pending);
            join_band(layers, node, hash("crc")?);
            *instructions.entry(node).or_default() += number("instructions")?;
        }
        "end" => {
            report.stack = (number("stack")?, number("reserved")?);
            return Ok(true);
        }
        _ => bail!("an unknown line"),
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boards_lines_become_a_report() {
        let mut report = BoardReport::default();
        for line in [
            "model slot=A",
            "fault BadChecksum",
            "layer node=5 crc=80000001 instructions=10",
            "layer node=6 crc=00000007 instructions=1",
            "layer node=5 crc=00000100 instructions=32",
            "detection n=3 x=12.5 y=0.33333334 area=7 left=1 top=2 right=3 bottom=4 first_x=1 peak=-0.5 contrast=0.1",
            "frame n=3 crc=00ff00ff instructions=123456789012 detections=1 dropped=0 alarm=false late=true",
        ] {
            assert!(!note(&mut report, line).unwrap());
        }
        assert!(note(&mut report, "end frames=1 faults=1 stack=1234 reserved=16384").unwrap());
        let frame = &report.frames[&3];
        assert_eq!((frame.crc, frame.instructions, frame.late), (0x00FF_00FF, 123_456_789_012, true));
        assert_eq!(frame.detections[0].y.to_bits(), (1.0f32 / 3.0).to_bits());
        assert_eq!(frame.layers, [(5, 0x103), (6, 7)].into());
        assert_eq!(frame.layer_instructions, [(5, 42), (6, 1)].into());
        assert_eq!((report.faults.len(), report.stack), (1, (1234, 16384)));
    }

    #[test]
    fn a_line_with_a_field_missing_is_an_error() {
        assert!(note(&mut BoardReport::default(), "frame n=3 crc=0").is_err());
        assert!(note(&mut BoardReport::default(), "hello").is_err());
    }
}
