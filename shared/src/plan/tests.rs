//! The board's figures, and an independent run of the schedule on an arena of marks.

use super::*;
use crate::graph::{FULL, HALF, QUARTER, msda};
extern crate std;
use std::{vec, vec::Vec};

#[allow(long_running_const_eval)]
const BOARD: Plan = match plan(&msda(QUARTER, 1), 128, 160, Element::Int8) {
    Ok(plan) => plan,
    Err(_) => panic!(),
};

/// 357,376 bytes are four maps of 160×128×4, the frame, and a convolution's working memory: x, what FrequencyAttention
/// has of it, its gated form and the conv of that, in the RFBs of level 1. Every strip is cut to keep below it. (Whole
/// maps would need seven of 160×128×4: the two halves of SBAM's second conv and its concatenation.)
#[test]
fn the_boards_arena_is_a_constant_close_to_the_floor() {
    let map = 160 * 128;
    assert_eq!(BOARD.live_bound, 4 * 4 * map + map + conv::scratch_len(3, 4));
    assert!(BOARD.arena_len as f64 <= 1.02 * BOARD.live_bound as f64, "{}", BOARD.arena_len);
    assert_eq!(plan_apart(&msda(QUARTER, 1), 128, 160, Element::Int8).map(|p| p.live_bound), Ok(7 * 4 * map + 9216));
}

#[test]
fn placement_is_close_to_the_floor_at_every_size() {
    for (widths, height, width) in [(FULL, 256, 256), (HALF, 256, 256), (QUARTER, 256, 256), (QUARTER, 512, 640)] {
        for element in [Element::Int8, Element::F32] {
            let p = plan(&msda(widths, 1), height, width, element).expect("multiples of 16");
            assert!(p.arena_len as f64 <= 1.02 * p.live_bound as f64, "{} of {}", p.arena_len, p.live_bound);
        }
    }
}

/// METHOD.md §1 counts the least live activations with whole maps.
#[test]
fn whole_maps_would_need_what_the_method_page_says() {
    for (widths, mib) in [(FULL, 7.0), (HALF, 3.5), (QUARTER, 1.75)] {
        let apart = plan_apart(&msda(widths, 1), 256, 256, Element::Int8).expect("256 is a multiple of 16");
        let live = apart.live_bound as f64 - conv::scratch_len(3, widths[1].into()) as f64;
        assert_eq!(live / f64::from(1 << 20), mib);
    }
}

/// What a cell of the arena holds: a value of this row and channel of a node's map.
type Mark = (usize, usize, usize);
const FREE: Mark = (usize::MAX, 0, 0);

/// Rows of the input that row `y` of a node reads.
fn rows_read(node: &crate::graph::Node, height: usize, y: usize) -> Range<usize> {
    match node.op {
        Op::Conv(c) => {
            let (kernel, stride, dilation) = (usize::from(c.kernel), usize::from(c.stride), usize::from(c.dilation));
            let reach = (kernel - 1) / 2 * dilation;
            (y * stride).saturating_sub(reach)..(y * stride + reach + 1).min(height)
        }
        Op::MaxPool { size } => y * usize::from(size)..(y + 1) * usize::from(size),
        Op::HaarInject => 2 * y..2 * y + 2,
        Op::Upsample2 => (y * (height - 1) / (2 * height - 1))..(y * (height - 1) / (2 * height - 1) + 2).min(height),
        Op::SpatialGate(_) => y.saturating_sub(4)..(y + 4).min(height),
        Op::SqueezeExcite { .. } => 0..height,
        Op::Add { .. } | Op::Concat => y..y + 1,
        Op::Input => 0..0,
    }
}

/// Runs the schedule row by row on an arena of marks: what a row reads must still be there, and every row must come.
#[test]
fn no_row_is_overwritten_before_its_last_reader_and_none_is_missing() {
    let mut bands = 0;
    for (widths, channels, h, w, element) in [
        (QUARTER, 1, 128, 160, Element::Int8),
        (QUARTER, 1, 16, 16, Element::F32),
        (QUARTER, 1, 256, 32, Element::Int8),
        (HALF, 3, 64, 48, Element::Int8),
        (FULL, 3, 112, 64, Element::Int8),
    ] {
        let g = msda(widths, channels);
        let p = plan(&g, h, w, element).expect("multiples of 16");
        let mut arena = vec![FREE; p.arena_len];
        let height = |id: usize| h >> g.nodes()[id].level;
        let mut done = vec![0; g.nodes().len()];
        let mut next = 0;
        while next < g.nodes().len() {
            let strip = p.strip(next);
            let members = usize::from(strip.first)..usize::from(strip.last) + 1;
            assert_eq!(members.start, next);
            // Where a cell is during a band.
            let cell = |id: usize, band: usize, y: usize, x: usize, c: usize| {
                let (slot, inside) = (p.slot(id), members.contains(&id));
                let row = y - if inside { p.first_held(id, band) } else { 0 };
                let at = (row * (w >> g.nodes()[id].level) + x) * slot.pixel_stride + slot.channel_offset + c;
                assert!(at < p.buffer(id).len, "{} row {y} is outside its buffer", g.nodes()[id].label);
                slot.offset + at
            };
            for band in 0..usize::from(strip.bands) {
                bands = bands.max(strip.bands);
                for id in members.clone().filter(|&id| band > 0 && p.window(id).rolling) {
                    let (slot, width) = (p.slot(id), w >> g.nodes()[id].level);
                    if slot.pixel_stride == usize::from(g.nodes()[id].channels) {
                        let row = width * slot.pixel_stride;
                        let from = slot.offset + (p.first_held(id, band) - p.first_held(id, band - 1)) * row;
                        let kept = usize::from(p.window(id).kept) * row;
                        assert!(from + kept <= slot.offset + p.buffer(id).len && slot.offset + kept <= from);
                        arena.copy_within(from..from + kept, slot.offset);
                    }
                }
                for id in members.clone() {
                    let (node, width) = (&g.nodes()[id], w >> g.nodes()[id].level);
                    let rows = p.rows(id, height(id), band);
                    assert!(rows.start == done[id].min(height(id)), "{}", node.label);
                    let check = |arena: &[Mark], y: usize| {
                        for &j in node.inputs() {
                            let (j, from) = (j as usize, &g.nodes()[j as usize]);
                            // A concatenation's cells carry the marks of its members.
                            let parts: Vec<usize> = match from.op {
                                Op::Concat => from.inputs().iter().map(|&m| m as usize).collect(),
                                _ => vec![j],
                            };
                            for part in parts {
                                for row in rows_read(node, height(j), y) {
                                    for x in 0..w >> from.level {
                                        for c in 0..usize::from(g.nodes()[part].channels) {
                                            let found = arena[cell(part, band, row, x, c)];
                                            assert_eq!(found, (part, row, c), "{} row {y}", node.label);
                                        }
                                    }
                                }
                            }
                        }
                    };
                    for y in rows.clone() {
                        check(&arena, y);
                    }
                    let scratch = p.scratch(id);
                    arena[scratch.offset..scratch.offset + scratch.len].fill(FREE);
                    for y in rows.clone().filter(|_| node.op != Op::Concat) {
                        for (x, c) in (0..width).flat_map(|x| (0..usize::from(node.channels)).map(move |c| (x, c))) {
                            arena[cell(id, band, y, x, c)] = (id, y, c);
                        }
                    }
                    // Neither the output nor the working memory lies on what is read.
                    for y in [rows.start, rows.end.saturating_sub(1)].into_iter().filter(|y| rows.contains(y)) {
                        check(&arena, y);
                    }
                    done[id] = rows.end;
                }
            }
            assert!(members.clone().all(|id| done[id] == height(id)));
            next = members.end;
        }
    }
    assert!(bands >= 4, "{bands} bands");
}

#[test]
fn a_frame_that_does_not_fit_the_network_is_an_error() {
    for (h, w) in [(0, 16), (16, 0), (100, 160), (128, 161), (4112, 16)] {
        assert_eq!(plan(&msda(QUARTER, 1), h, w, Element::Int8), Err(Error::FrameSize { width: w, height: h }));
    }
}
