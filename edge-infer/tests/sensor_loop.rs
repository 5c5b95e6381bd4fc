//! The loop with hand-made hardware: what it promises when everything works, and when one thing does not.
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gsacp_core::confirm::Rule;
use gsacp_core::detect::{Detections, Run, Slot, View, Workspace};
use gsacp_core::frame::Frame;
use gsacp_edge::sensor::{Buffers, Hardware, Report, Settings};
use gsacp_edge::{Alarm, Clock, Fault, FrameSource, Network, Sensor, Telemetry, Watchdog};

const SIZE: (u16, u16) = (16, 16);
const PIXELS: usize = 256;

/// A network whose logit is the pixel's grey value.
struct Identity(Vec<i16>);
impl Network for Identity {
    fn logits(&mut self, frame: &Frame<'_>) -> Result<View<'_, i16>, Fault> {
        let (width, height) = (frame.width(), frame.height());
        self.0 = (0..width * height).map(|i| frame.grey(i % width, i / width) as i16).collect();
        Ok(View::new(&self.0, width, height)?)
    }
}

/// Plays outcomes in order: a frame with bright pixels at the given places, or a fault.
struct Script(std::vec::IntoIter<Result<Vec<(usize, usize)>, Fault>>, u16);
impl FrameSource for Script {
    fn next_frame(&mut self, _: (u16, u16), pixels: &mut [u8]) -> Result<u16, Fault> {
        let bright = self.0.next().ok_or(Fault::Finished)??;
        pixels.fill(10);
        for (x, y) in bright {
            pixels[y * usize::from(SIZE.0) + x] = 250;
        }
        self.1 += 1;
        Ok(self.1)
    }
}

#[derive(Default)]
struct Line(Rc<RefCell<Vec<bool>>>, bool);
impl Alarm for Line {
    fn set(&mut self, on: bool) -> Result<(), Fault> {
        self.0.borrow_mut().push(on);
        if self.1 { Err(Fault::Bus) } else { Ok(()) }
    }
}

/// Advances by a step each time it is read.
struct Ticks(Cell<u64>, u64);
impl Clock for Ticks {
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + self.1);
        self.0.get()
    }
}

#[derive(Default)]
struct Dog(u32);
impl Watchdog for Dog {
    fn feed(&mut self) {
        self.0 += 1;
    }
}

/// Sequence, centroids, dropped, alarm, late.
type Heeded = (u16, Vec<(f32, f32)>, u32, bool, bool);

#[derive(Default)]
struct Heard {
    frames: Vec<Heeded>,
    faults: Vec<Fault>,
}
impl Telemetry for Heard {
    fn frame(&mut self, report: &Report<'_>) {
        let places = report.detections.iter().map(|d| (d.x, d.y)).collect();
        self.frames.push((report.sequence, places, report.dropped, report.alarm, report.late));
    }
    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }
}

type Outcome = Result<Vec<(usize, usize)>, Fault>;

/// Runs a script to its end; returns what telemetry heard, the alarm line's states and how often the watchdog was fed.
fn play(script: Vec<Outcome>, ticks: u64, broken_alarm: bool) -> (Heard, Vec<bool>, u32) {
    let settings = Settings {
        size: SIZE,
        threshold: 200,
        rule: Rule { hits: 2, window: 3, gate: 3.0 },
        deadline: 100,
        patience: 2,
    };
    let (mut pixels, mut runs, mut slots) = (
        [0; PIXELS],
        [Run::EMPTY; Workspace::runs_for(SIZE.0 as usize)],
        [Slot::EMPTY; Workspace::slots_for(SIZE.0 as usize)],
    );
    let mut found = Detections::EMPTY;
    let buffers = Buffers { pixels: &mut pixels, runs: &mut runs, slots: &mut slots, found: &mut found };
    let mut sensor = Sensor::<4, 4>::new(settings, buffers).unwrap();
    let line = Rc::default();
    let mut hardware = Hardware {
        source: Script(script.into_iter(), 0),
        alarm: Line(Rc::clone(&line), broken_alarm),
        clock: Ticks(Cell::new(0), ticks),
        watchdog: Dog::default(),
        telemetry: Heard::default(),
    };
    let mut network = Identity(Vec::new());
    while sensor.step(&mut network, &mut hardware) != Err(Fault::Finished) {}
    (hardware.telemetry, line.take(), hardware.watchdog.0)
}

#[test]
fn a_target_raises_the_alarm_on_its_second_sighting() {
    let (heard, line, _) = play(vec![Ok(vec![(5, 6)]), Ok(vec![(6, 6)]), Ok(vec![]), Ok(vec![])], 1, false);
    assert_eq!(line, [false, true, true, false]);
    assert_eq!(heard.frames[1], (2, vec![(6.0, 6.0)], 0, true, false));
    assert!(heard.faults.is_empty());
}

#[test]
fn a_bad_frame_costs_itself_and_nothing_else() {
    let (heard, line, _) = play(vec![Ok(vec![(5, 6)]), Err(Fault::BadChecksum), Ok(vec![(6, 6)])], 1, false);
    assert_eq!(heard.faults, [Fault::BadChecksum]);
    assert_eq!(heard.frames.len(), 2);
    assert_eq!(line, [false, true]);
}

#[test]
fn a_frame_over_the_deadline_is_answered_and_called_late() {
    let script = || vec![Ok(vec![(1, 1)])];
    assert!(!play(script(), 100, false).0.frames[0].4, "exactly at the deadline is in time");
    let (heard, line, _) = play(script(), 101, false);
    assert!(heard.frames[0].4);
    assert_eq!(line, [false]);
}

#[test]
fn a_sensor_that_stays_silent_is_left_to_the_watchdog() {
    let silent = || vec![Err(Fault::NotReady); 10];
    assert_eq!(play(silent(), 1, false).2, 2, "fed for as many faults as its patience, then no more");
    let mut recovers = silent();
    recovers.extend([Ok(vec![]), Err(Fault::NotReady)]);
    assert_eq!(play(recovers, 1, false).2, 4, "one good frame restores its patience");
}

#[test]
fn a_broken_alarm_line_is_reported_and_the_frame_with_it() {
    let (heard, ..) = play(vec![Ok(vec![(1, 1)])], 1, true);
    assert_eq!((heard.frames.len(), heard.faults), (1, vec![Fault::Bus]));
}

#[test]
fn more_targets_than_the_list_holds_are_counted() {
    let many = (0..6).map(|i| (2 * i, 3)).collect();
    let (heard, ..) = play(vec![Ok(many)], 1, false);
    assert_eq!((heard.frames[0].1.len(), heard.frames[0].2), (4, 2));
}
