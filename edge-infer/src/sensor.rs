//! The loop: frame → network → detections → confirmation → report, once per [`Sensor::step`].
//!
//! - A bad frame is reported and costs itself; the next good one is answered as if nothing had been.
//! - The watchdog is fed after every answered frame and after a few faults in a row ([`Settings::patience`]); a sensor
//!   that stays silent beyond that is left to the watchdog's reset.
//! - The deadline is checked after the fact, since nothing here can be interrupted half-way: a late frame is still
//!   reported, and says that it is late.
use gsacp_core::confirm::{Confirmer, Rule, Track};
use gsacp_core::detect::{Detections, Run, Slot, View, Workspace, find_into};
use gsacp_core::frame::{Depth, Frame};

use crate::{Alarm, Clock, Fault, FrameSource, Watchdog};

/// From a frame to its logit map, in steps of 1/256, row by row, the frame's size.
pub trait Network {
    /// Computes the map; it stays valid until the next call.
    fn logits(&mut self, frame: &Frame<'_>) -> Result<View<'_, i16>, Fault>;
}

/// Who hears what the sensor saw.
pub trait Telemetry {
    /// A frame was answered.
    fn frame(&mut self, report: &Report<'_>);
    /// A frame was lost, or the alarm line failed.
    fn fault(&mut self, fault: Fault);
}

/// The answer to one frame.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The frame's sequence number.
    pub sequence: u16,
    /// The logit map, for a bench that wants it.
    pub logits: View<'a, i16>,
    /// Detections in raster order of their first pixel.
    pub detections: &'a [gsacp_core::detect::Detection],
    /// Detections that found no place in the list.
    pub dropped: u32,
    /// The targets followed, confirmed or not; oldest first.
    pub tracks: &'a [Track],
    /// Whether any target is confirmed.
    pub alarm: bool,
    /// Clock ticks from the frame's arrival to this report.
    pub ticks: u64,
    /// Whether that was over the deadline.
    pub late: bool,
}

/// What stays the same from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Width and height of a frame, pixels.
    pub size: (u16, u16),
    /// Logit threshold in steps of 1/256, strict.
    pub threshold: i16,
    /// Confirmation over frames.
    pub rule: Rule,
    /// Ticks that a frame may take.
    pub deadline: u64,
    /// Faults in a row after which the watchdog is no longer fed.
    pub patience: u8,
}

/// Most detections reported of one frame, on every board and on the host that is compared with it.
pub const MAX_DETECTIONS: usize = 32;
/// Most targets followed.
pub const MAX_TARGETS: usize = 16;

impl Settings {
    /// The sensor's usual settings: a target is confirmed by two sightings in three frames, less than 4 px apart.
    pub const fn usual(size: (u16, u16), threshold: i16, deadline: u64) -> Self {
        Self { size, threshold, rule: Rule { hits: 2, window: 3, gate: 4.0 }, deadline, patience: 3 }
    }
}

/// The board's parts.
pub struct Hardware<S, A, C, W, T> {
    /// Where frames come from.
    pub source: S,
    /// The line for a confirmed target.
    pub alarm: A,
    /// Time.
    pub clock: C,
    /// The watchdog.
    pub watchdog: W,
    /// Who hears the reports.
    pub telemetry: T,
}

/// The sensor's memory: one frame, what detection needs for its width, and what it found.
pub struct Buffers<'b, const N: usize> {
    /// Width × height bytes.
    pub pixels: &'b mut [u8],
    /// [`Workspace::runs_for`] the width.
    pub runs: &'b mut [Run],
    /// [`Workspace::slots_for`] the width.
    pub slots: &'b mut [Slot],
    /// The detections of the frame that is being answered.
    pub found: &'b mut Detections<N>,
}

/// The application: up to `N` detections a frame, up to `T` targets followed.
pub struct Sensor<'b, const N: usize, const T: usize> {
    settings: Settings,
    buffers: Buffers<'b, N>,
    confirmer: Confirmer<T>,
    faults_in_a_row: u8,
}

impl<'b, const N: usize, const T: usize> Sensor<'b, N, T> {
    /// A sensor that has seen nothing. Errors: an impossible confirmation rule.
    pub fn new(settings: Settings, buffers: Buffers<'b, N>) -> Result<Self, Fault> {
        Ok(Self { confirmer: Confirmer::new(settings.rule)?, settings, buffers, faults_in_a_row: 0 })
    }

    /// Takes, answers and reports one frame. [`Fault::Finished`] is the end of a recorded source; every other fault was
    /// reported, and the next step may succeed.
    pub fn step<S, A, C, W, Y>(
        &mut self,
        network: &mut impl Network,
        hardware: &mut Hardware<S, A, C, W, Y>,
    ) -> Result<(), Fault>
    where
        S: FrameSource,
        A: Alarm,
        C: Clock,
        W: Watchdog,
        Y: Telemetry,
    {
        let outcome = self.answer(network, hardware);
        match outcome {
            Ok(()) => self.faults_in_a_row = 0,
            Err(Fault::Finished) => return outcome,
            Err(fault) => {
                hardware.telemetry.fault(fault);
                self.faults_in_a_row = self.faults_in_a_row.saturating_add(1);
            }
        }
        if self.faults_in_a_row <= self.settings.patience {
            hardware.watchdog.feed();
        }
        outcome
    }

    fn answer<S, A, C, W, Y>(
        &mut self,
        network: &mut impl Network,
        hardware: &mut Hardware<S, A, C, W, Y>,
    ) -> Result<(), Fault>
    where
        S: FrameSource,
        A: Alarm,
        C: Clock,
        Y: Telemetry,
    {
        let Buffers { pixels, runs, slots, found } = &mut self.buffers;
        let Settings { size, threshold, deadline, .. } = self.settings;
        let sequence = hardware.source.next_frame(size, pixels)?;
        let arrived = hardware.clock.now();
        let frame = Frame::new(pixels, usize::from(size.0), usize::from(size.1), Depth::Eight)?;
        let logits = network.logits(&frame)?;
        find_into(&logits, threshold, &frame, &mut Workspace { runs, slots }, found)?;
        self.confirmer.update(&found.list);
        let alarm = self.confirmer.confirmed().next().is_some();
        let line = hardware.alarm.set(alarm);
        let ticks = hardware.clock.now().saturating_sub(arrived);
        hardware.telemetry.frame(&Report {
            sequence,
            logits,
            detections: &found.list,
            dropped: found.dropped,
            tracks: self.confirmer.tracks(),
            alarm,
            ticks,
            late: ticks > deadline,
        });
        line
    }
}
