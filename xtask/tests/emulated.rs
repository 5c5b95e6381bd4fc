//! Promises of the firmware, in the emulator, with a model of random weights: they hold for any weights.
use gsacp_core::detect::Detection;
use gsacp_edge::packet::HEADER_BYTES;
use gsacp_edge::reel::{REEL_HEADER_BYTES, Wanted};
use xtask::bench::{self, Input};
use xtask::board::{BOARDS, Board, FrameSize, LARGE, SMALL};
use xtask::commands::parity::compare;
use xtask::counts;
use xtask::firmware::Firmware;
use xtask::frames::{Frame, reel};
use xtask::host;
use xtask::kernels;
use xtask::sample::random_image;

/// Frames of a slow gradient, grain and a few bright spots.
fn scenes(size: FrameSize, count: usize) -> Vec<Frame> {
    let (width, height) = (usize::from(size.width), usize::from(size.height));
    let scene = |seed: usize| {
        let mut state = seed as u32 * 7919 + 1;
        let mut pixels: Vec<u8> = (0..size.pixels())
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (60 + (i % width) * 40 / width + (i / width) * 42 / height + (state >> 28) as usize) as u8
            })
            .collect();
        for spot in 0..4 {
            let at = (seed * 5003 + spot * 4111) % (size.pixels() - width - 2);
            for offset in [0, 1, width, width + 1] {
                pixels[at + offset] = 240;
            }
        }
        Frame { name: format!("scene {seed}"), size, pixels }
    };
    (0..count).map(scene).collect()
}

fn model(seed: u64) -> Vec<u8> {
    random_image(&host::graph(), seed, 0).unwrap()
}

fn m55() -> &'static Board {
    &BOARDS[0]
}

/// Compares the boards with the host, and holds their stack to its budget. The threshold is put where the highest hundredth
/// of the logits begins: a model that never detects would prove nothing of the detections.
fn compare_with_detections(boards: &[&Board], frames: &[Frame]) {
    let wanted = Wanted { logits: true, ..Wanted::default() };
    let maps = host::run(&model(1), frames, wanted).unwrap().logits;
    let mut logits: Vec<i16> = maps.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    logits.sort_unstable();
    let image = random_image(&host::graph(), 1, logits[logits.len() / 100 * 99]).unwrap();
    let report = host::run(&image, frames, wanted).unwrap();
    let detections: Vec<&Detection> = report.frames.values().flat_map(|f| &f.detections).collect();
    assert!(detections.len() > 1 && detections.iter().any(|d| d.contrast != 0.0), "{detections:?}");
    compare(boards, &image, frames).unwrap();
}

#[test]
fn both_boards_compute_the_hosts_bytes() {
    compare_with_detections(&BOARDS.iter().collect::<Vec<_>>(), &scenes(SMALL, 2));
}

/// On the Cortex-M7, which the emulator runs several times as fast as Helium.
#[test]
fn a_large_frame_has_the_hosts_bytes() {
    compare_with_detections(&[&BOARDS[1]], &scenes(LARGE, 1));
}

#[test]
fn the_firmware_for_large_frames_links_on_both_boards_with_the_planned_arena() {
    let planned = LARGE.plan(&host::graph()).unwrap().arena_len as u64;
    for board in &BOARDS {
        let sizes = Firmware::read(&board.build(LARGE).unwrap()).unwrap().sizes().unwrap();
        // Beside it the symbol holds the flag that hands it out once.
        assert_eq!(sizes.arena, planned + 16, "{}", board.name);
    }
}

#[test]
fn every_layer_of_both_boards_has_the_hosts_hash() {
    let wanted = Wanted { layers: true, ..Wanted::default() };
    let (image, frames) = (model(2), scenes(SMALL, 1));
    let host = host::run(&image, &frames, wanted).unwrap();
    assert_eq!(host.frames[&0].layers.len(), host::graph().nodes().len());
    for board in &BOARDS {
        let report = bench::run(board, &image, &frames, wanted, false).unwrap();
        assert_eq!(report.frames[&0].layers, host.frames[&0].layers, "{}", board.name);
    }
}

/// Sizes, gaps, strides, dilations, zero points and multipliers are random, extreme ones among them.
#[test]
fn every_fast_kernel_gives_its_plain_twins_bytes_on_both_boards() {
    for board in &BOARDS {
        let report = kernels::run(board).unwrap();
        assert!(report.layers >= 200);
        assert!(report.different.len() == 3 && report.different.values().all(|&n| n == 0), "{report:?}");
    }
}

#[test]
fn no_layer_takes_more_instructions_than_the_committed_table() {
    for board in &BOARDS {
        let table = std::fs::read_to_string(counts::table_path(board)).unwrap();
        let worse = counts::worse(&table, &counts::measure(board, &model(1), SMALL).unwrap()).unwrap();
        assert!(worse.is_empty(), "on {}; if it must be, cargo xtask count --overwrite: {worse:#?}", board.name);
    }
}

#[test]
fn a_layer_can_be_had_in_full() {
    let wanted = Wanted { layer: Some(7), ..Wanted::default() };
    let (image, frames) = (model(3), scenes(SMALL, 1));
    let host = host::run(&image, &frames, wanted).unwrap();
    let report = bench::run(m55(), &image, &frames, wanted, false).unwrap();
    assert!(!host.layer.is_empty());
    assert_eq!(report.layer, host.layer);
}

#[test]
fn the_board_refuses_bad_frames_and_answers_the_good_one_between_them_as_ever() {
    let (image, frames) = (model(4), scenes(SMALL, 3));
    let alone = host::run(&image, &frames[1..2], Wanted::default()).unwrap();
    let mut bytes = reel(&frames, Wanted::default());
    let packet = HEADER_BYTES + SMALL.pixels();
    // A flipped pixel in the first frame; the third says that it is 128 × 160.
    bytes[REEL_HEADER_BYTES + HEADER_BYTES + 999] ^= 1;
    let third = REEL_HEADER_BYTES + 2 * packet;
    bytes[third + 4..third + 8].copy_from_slice(&[128, 0, 160, 0]);
    let report =
        bench::run_input(m55(), Input { model: &image, update: &[], reel: &bytes, size: SMALL }, false).unwrap();
    assert_eq!(report.faults.len(), 2, "{:?}", report.faults);
    assert!(report.faults[0].contains("BadChecksum") && report.faults[1].contains("WrongSize"), "{:?}", report.faults);
    assert_eq!(report.frames.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(report.frames[&1].crc, alone.frames[&0].crc);
}

#[test]
fn a_bad_update_is_refused_and_the_previous_model_runs() {
    let (image, other, frames) = (model(5), model(6), scenes(SMALL, 1));
    let expected = host::run(&image, &frames, Wanted::default()).unwrap().frames[&0].crc;
    let (one_frame, no_frame) = (reel(&frames, Wanted::default()), reel(&[], Wanted::default()));
    let cut = &other[..other.len() / 2];
    let flip = |at: usize| {
        let mut bytes = other.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let damaged =
        [("cut short", cut.to_vec()), ("version", flip(8)), ("graph", flip(12)), ("weights", flip(other.len() - 20))];
    for (i, (what, update)) in damaged.into_iter().enumerate() {
        let reel = if i == 0 { &one_frame } else { &no_frame };
        let report =
            bench::run_input(m55(), Input { model: &image, update: &update, reel, size: SMALL }, false).unwrap();
        assert_eq!((report.slot.as_str(), report.faults.len()), ("A", 1), "{what}: {:?}", report.faults);
        assert!(report.frames.values().all(|frame| frame.crc == expected), "{what}");
    }
}

#[test]
fn a_good_update_replaces_the_model() {
    let (old, new, frames) = (model(7), model(8), scenes(SMALL, 1));
    let expected = host::run(&new, &frames, Wanted::default()).unwrap().frames[&0].crc;
    let reel = reel(&frames, Wanted::default());
    let report = bench::run_input(m55(), Input { model: &old, update: &new, reel: &reel, size: SMALL }, false).unwrap();
    assert_eq!((report.slot.as_str(), report.frames[&0].crc), ("B", expected));
}

#[test]
fn without_any_model_the_board_says_so_and_ends_with_a_failure() {
    let reel = reel(&scenes(SMALL, 1), Wanted::default());
    let error =
        bench::run_input(m55(), Input { model: &[1; 64], update: &[], reel: &reel, size: SMALL }, false).unwrap_err();
    assert!(error.to_string().contains("ended with"), "{error:#}");
}

#[test]
fn the_stack_stays_within_its_budget_and_timing_repeats_exactly() {
    let (image, frames) = (model(9), scenes(SMALL, 1));
    let run = || bench::run(m55(), &image, &frames, Wanted::default(), false).unwrap();
    let (first, second) = (run(), run());
    assert!(first.stack.0 <= m55().stack_budget, "{} bytes of stack", first.stack.0);
    assert_eq!(first.frames[&0].instructions, second.frames[&0].instructions);
}
