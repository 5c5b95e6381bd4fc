//! The board's telemetry: a word and `key=value` fields a line, through defmt; maps in full as files on the host.
use gsacp_edge::packet::Digest;
use gsacp_edge::reel::Wanted;
use gsacp_edge::sensor::Report;
use gsacp_edge::{Fault, Telemetry};

use crate::semihosting::File;

/// Reports to the bench.
pub struct Bench {
    logits: Option<File>,
    /// Frames answered so far.
    pub frames: u32,
    /// Faults heard so far.
    pub faults: u32,
}

impl Bench {
    /// Opens the files that are wanted.
    pub fn new(wanted: Wanted) -> Self {
        let logits = if wanted.logits { File::create(c"logits.bin") } else { None };
        Self { logits, frames: 0, faults: 0 }
    }
}

impl Telemetry for Bench {
    fn frame(&mut self, report: &Report<'_>) {
        self.frames = self.frames.saturating_add(1);
        let n = report.sequence;
        for d in report.detections {
            defmt::info!(
                "detection n={=u16} x={=f32} y={=f32} area={=u32} left={=u16} top={=u16} right={=u16} bottom={=u16} first_x={=u16} peak={=f32} contrast={=f32}",
                n,
                d.x,
                d.y,
                d.area,
                d.left,
                d.top,
                d.right,
                d.bottom,
                d.first_x,
                d.peak,
                d.contrast
            );
        }
        let mut crc = Digest::new();
        for y in 0..report.logits.height() {
            for value in report.logits.row(y) {
                crc.update(&value.to_le_bytes());
            }
            if let Some(file) = &self.logits {
                // The map is little-endian in memory, as in the file.
                file.write_words(report.logits.row(y));
            }
        }
        defmt::info!(
            "frame n={=u16} crc={=u32:08x} instructions={=u64} detections={=usize} dropped={=u32} alarm={=bool} late={=bool}",
            n,
            crc.finish(),
            report.ticks,
            report.detections.len(),
            report.dropped,
            report.alarm,
            report.late
        );
    }

    fn fault(&mut self, fault: Fault) {
        self.faults = self.faults.saturating_add(1);
        defmt::warn!("fault {}", fault);
    }
}
