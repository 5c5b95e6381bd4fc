//! The int8 engine on this machine, in the same loop as the firmware: what a board is compared with.
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use gsacp_core::detect::{Detections, Run, Slot, Workspace};
use gsacp_core::engine::int8::{Int8Engine, View};
use gsacp_core::graph::{Graph, QUARTER, msda};
use gsacp_core::image::ModelImage;
use gsacp_edge::network::{EngineNetwork, layer_bytes, threshold};
use gsacp_edge::packet::crc32;
use gsacp_edge::reel::{Reel, Wanted};
use gsacp_edge::sensor::{Buffers, Hardware, MAX_DETECTIONS, MAX_TARGETS, Report, Settings};
use gsacp_edge::{Alarm, Clock, Fault, Sensor, Telemetry, Watchdog};

use crate::aligned::Aligned;
use crate::bench::{FrameReport, join_band};
use crate::frames::{Frame, common_size, reel};

/// The network of the boards.
pub fn graph() -> Graph {
    msda(QUARTER, 1)
}

/// What the host computed of a reel.
#[derive(Debug, Default, PartialEq)]
pub struct HostReport {
    /// By the frame's sequence number; without instruction counts.
    pub frames: BTreeMap<u16, FrameReport>,
    /// All logit maps, int16 little-endian, in that order.
    pub logits: Vec<u8>,
    /// One layer's outputs in that order, where asked for.
    pub layer: Vec<u8>,
    /// Frames that were refused.
    pub faults: Vec<Fault>,
}

struct Listener<'a>(&'a mut HostReport);
impl Telemetry for Listener<'_> {
    fn frame(&mut self, report: &Report<'_>) {
        let map: Vec<u8> = (0..report.logits.height())
            .flat_map(|y| report.logits.row(y))
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let frame = FrameReport {
            crc: crc32(&map),
            dropped: report.dropped,
            alarm: report.alarm,
            late: report.late,
            detections: report.detections.to_vec(),
            ..FrameReport::default()
        };
        self.0.frames.insert(report.sequence, frame);
        self.0.logits.extend(map);
    }
    fn fault(&mut self, fault: Fault) {
        self.0.faults.push(fault);
    }
}

/// The host has no alarm line, no deadline and no watchdog.
struct Nothing;
impl Alarm for Nothing {
    fn set(&mut self, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}
impl Clock for Nothing {
    fn now(&self) -> u64 {
        0
    }
}
impl Watchdog for Nothing {
    fn feed(&mut self) {}
}

/// Runs `frames` through the model `image`.
pub fn run(image: &[u8], frames: &[Frame], wanted: Wanted) -> Result<HostReport> {
    let graph = graph();
    let size = common_size(frames)?;
    let plan = size.plan(&graph)?;
    let bytes = Aligned::copy_of(image);
    let image = ModelImage::parse(bytes.bytes()).and_then(|i| i.for_graph(&graph)).context("the model image")?;
    let threshold = threshold(&image);
    let mut arena = Aligned::zeros(plan.arena_len);
    let engine = Int8Engine::new(&graph, &plan, image, arena.signed_mut())?;

    let mut report = HostReport::default();
    let (mut hashes, mut layer) = (Vec::new(), Vec::new());
    let mut network = EngineNetwork::new(engine, |node: u16, view: View<'_>| {
        let dump = wanted.layer == Some(node);
        if wanted.layers || dump {
            let mut bytes = Vec::new();
            layer_bytes(view, |part| bytes.extend_from_slice(part));
            hashes.push((node, crc32(&bytes)));
            if dump {
                layer.extend(bytes);
            }
        }
    })?;
    let width = usize::from(size.width);
    let mut pixels = vec![0; size.pixels()];
    let mut runs = vec![Run::EMPTY; Workspace::runs_for(width)];
    let mut slots = vec![Slot::EMPTY; Workspace::slots_for(width)];
    let mut found = Detections::EMPTY;
    let buffers = Buffers { pixels: &mut pixels, runs: &mut runs, slots: &mut slots, found: &mut found };
    let settings = Settings::usual((size.width, size.height), threshold, u64::MAX);
    let mut sensor = Sensor::<MAX_DETECTIONS, MAX_TARGETS>::new(settings, buffers)?;
    let reel = reel(frames, wanted);
    let mut hardware = Hardware {
        source: Reel::open(&reel)?,
        alarm: Nothing,
        clock: Nothing,
        watchdog: Nothing,
        telemetry: Listener(&mut report),
    };
    while sensor.step(&mut network, &mut hardware) != Err(Fault::Finished) {}
    report.layer = layer;
    if wanted.layers && !report.frames.is_empty() {
        // Every frame comes in the same bands.
        let taps = hashes.len() / report.frames.len();
        for (frame, hashes) in report.frames.values_mut().zip(hashes.chunks(taps)) {
            hashes.iter().for_each(|&(node, crc)| join_band(&mut frame.layers, node, crc));
            ensure!(frame.layers.len() == graph.nodes().len(), "a layer was not seen");
        }
    }
    Ok(report)
}
