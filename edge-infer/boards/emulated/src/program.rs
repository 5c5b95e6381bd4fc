//! The program of every emulated board: pick a model, play the reel through the sensor's loop, report.
use core::num::NonZeroU32;

use gsacp_core::detect::{Detections, Run, Slot as Open, Workspace};
use gsacp_core::engine::int8::{Int8Engine, View};
use gsacp_core::graph::{Graph, QUARTER, msda};
use gsacp_core::image::ModelImage;
use gsacp_core::plan::{Element, Plan, plan};
use gsacp_edge::network::{EngineNetwork, layer_bytes, threshold};
use gsacp_edge::packet::Digest;
use gsacp_edge::reel::{Reel, Wanted};
use gsacp_edge::sensor::{Buffers, Hardware, MAX_DETECTIONS, MAX_TARGETS, Settings};
use gsacp_edge::store::{Slot, newest_valid};
use gsacp_edge::{Alarm, Clock, Fault, ModelStore, Sensor, Watchdog};

use crate::clock::InstructionClock;
use crate::memory::{Once, Region};
use crate::report::Bench;
use crate::semihosting::{File, Outcome, exit};
use crate::stack;

/// Width of the sensor's frame, pixels.
pub const WIDTH: usize = if cfg!(feature = "large") { 640 } else { 160 };
/// Height of the sensor's frame, pixels.
pub const HEIGHT: usize = if cfg!(feature = "large") { 512 } else { 128 };

/// The network that this firmware runs; an image of another one is refused.
static GRAPH: Graph = NETWORK;
static PLAN: Plan = PLANNED;
const NETWORK: Graph = msda(QUARTER, 1);
const PLANNED: Plan = match plan(&NETWORK, HEIGHT, WIDTH, Element::Int8) {
    Ok(plan) => plan,
    Err(_) => panic!("the planner refuses this frame size"),
};
/// Exactly the memory that the plan needs.
const ARENA_BYTES: usize = PLANNED.arena_len;

#[repr(C, align(16))]
struct Arena([i8; ARENA_BYTES]);

static ARENA: Once<Arena> = Once::new(Arena([0; ARENA_BYTES]));
static PIXELS: Once<[u8; WIDTH * HEIGHT]> = Once::new([0; WIDTH * HEIGHT]);
static RUNS: Once<[Run; Workspace::runs_for(WIDTH)]> = Once::new([Run::EMPTY; Workspace::runs_for(WIDTH)]);
static FOUND: Once<Detections<MAX_DETECTIONS>> = Once::new(Detections::EMPTY);
static OPEN: Once<[Open; Workspace::slots_for(WIDTH)]> = Once::new([Open::EMPTY; Workspace::slots_for(WIDTH)]);

/// A board: where the emulator's loader put things, and the clock of its core.
pub struct Board {
    /// The factory's model image.
    pub slot_a: Region,
    /// The update's model image.
    pub slot_b: Region,
    /// The recorded frames.
    pub reel: Region,
    /// Clock of the core in the emulator, MHz.
    pub core_mhz: NonZeroU32,
    /// Instructions that a frame may take for each of its pixels.
    pub deadline: u64,
}

impl ModelStore for Board {
    fn slot(&self, slot: Slot) -> Option<&[u8]> {
        let bytes = match slot {
            Slot::A => self.slot_a.bytes(),
            Slot::B => self.slot_b.bytes(),
        };
        // A slot that was never written holds the memory's blank value.
        let blank = |value: u8| bytes.iter().take(64).all(|&byte| byte == value);
        (!blank(0) && !blank(0xFF)).then_some(bytes)
    }
}

/// No alarm line is wired on an emulated board: the report says it.
struct Unwired;
impl Alarm for Unwired {
    fn set(&mut self, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// The emulator's time-out stands for the watchdog.
struct Patient;
impl Watchdog for Patient {
    fn feed(&mut self) {}
}

/// Plays the reel and ends the emulation.
pub fn run(board: &Board) -> ! {
    match play(board) {
        Ok(()) => exit(Outcome::Success),
        Err(fault) => {
            defmt::error!("fault {}", fault);
            exit(Outcome::Failure)
        }
    }
}

fn play(board: &Board) -> Result<(), Fault> {
    let peripherals = cortex_m::Peripherals::take().ok_or(Fault::Bus)?;
    let clock = InstructionClock::start(peripherals.SYST, board.core_mhz);
    let (Some(arena), Some(pixels)) = (ARENA.take(), PIXELS.take()) else { return Err(Fault::Bus) };
    let (Some(runs), Some(slots), Some(found)) = (RUNS.take(), OPEN.take(), FOUND.take()) else {
        return Err(Fault::Bus);
    };
    let reel = Reel::open(board.reel.bytes())?;
    let wanted = reel.wanted();
    let parse = |bytes| -> Result<_, Fault> { Ok(ModelImage::parse(bytes)?.for_graph(&GRAPH)?) };
    let (slot, image) = newest_valid(board, parse, |slot, fault| defmt::warn!("fault slot {}: {}", slot, fault))?;
    let threshold = threshold(&image);
    defmt::info!("model slot={} crc={=u32:08x} threshold={=i16}", slot, image.crc(), threshold);
    let engine = Int8Engine::new(&GRAPH, &PLAN, image, &mut arena.0)?;
    let dump = if wanted.layer.is_some() { File::create(c"layer.bin") } else { None };
    let mut since = clock.now();
    let mut network = EngineNetwork::new(engine, |node, view| {
        let spent = clock.now().saturating_sub(since);
        show_layer(wanted, dump.as_ref(), node, view, spent);
        since = clock.now();
    })?;
    let settings = Settings::usual((WIDTH as u16, HEIGHT as u16), threshold, board.deadline * (WIDTH * HEIGHT) as u64);
    let mut sensor = Sensor::<MAX_DETECTIONS, MAX_TARGETS>::new(settings, Buffers { pixels, runs, slots, found })?;
    let telemetry = Bench::new(wanted);
    let mut hardware = Hardware { source: reel, alarm: Unwired, clock, watchdog: Patient, telemetry };
    while sensor.step(&mut network, &mut hardware) != Err(Fault::Finished) {}
    let Bench { frames, faults, .. } = hardware.telemetry;
    let (stack, reserved) = stack::high_water();
    defmt::info!("end frames={=u32} faults={=u32} stack={=usize} reserved={=usize}", frames, faults, stack, reserved);
    Ok(())
}

/// A layer's hash and instructions, and its bytes where they are wanted.
fn show_layer(wanted: Wanted, dump: Option<&File>, node: u16, view: View<'_>, instructions: u64) {
    if wanted.layers {
        let mut digest = Digest::new();
        layer_bytes(view, |bytes| digest.update(bytes));
        let crc = digest.finish();
        defmt::info!("layer node={=u16} crc={=u32:08x} instructions={=u64}", node, crc, instructions);
    }
    if let Some(file) = dump.filter(|_| wanted.layer == Some(node)) {
        layer_bytes(view, |bytes| {
            file.write(bytes);
        });
    }
}
