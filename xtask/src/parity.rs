//! Host against board: where two answers to the same frames differ, down to the element.
use std::collections::BTreeMap;

use gsacp_core::detect::Detection;
use gsacp_core::graph::Graph;

use crate::bench::FrameReport;
use crate::board::FrameSize;

/// What one side answered.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// By the frame's sequence number.
    pub frames: &'a BTreeMap<u16, FrameReport>,
    /// All logit maps, int16 little-endian, in that order.
    pub logits: &'a [u8],
}

/// A difference, in words; the frame it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Sequence number of the frame.
    pub frame: u16,
    /// What differs, and how: host first.
    pub what: String,
}

/// Every difference between two answers to frames of `size`; empty when they are the same byte for byte.
pub fn differences(size: FrameSize, host: Side<'_>, board: Side<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    let map = size.pixels() * 2;
    for (place, (&frame, ours)) in host.frames.iter().enumerate() {
        let mut note = |what: String| found.push(Difference { frame, what });
        let Some(theirs) = board.frames.get(&frame) else {
            note("the board did not answer".to_owned());
            continue;
        };
        let slice = |side: Side<'_>| side.logits.get(place * map..(place + 1) * map).map(<[u8]>::to_vec);
        match (slice(host), slice(board)) {
            (Some(a), Some(b)) => {
                if let Some(text) = first_logit(size, &a, &b) {
                    note(text);
                }
            }
            (a, b) => note(format!("logit maps: host {}, board {}", length(&a), length(&b))),
        }
        if ours.crc != theirs.crc {
            note(format!("CRC-32 of the logit map: host {:08x}, board {:08x}", ours.crc, theirs.crc));
        }
        for (what, a, b) in [
            ("detections", ours.detections.len() as u64, theirs.detections.len() as u64),
            ("dropped", ours.dropped.into(), theirs.dropped.into()),
            ("alarm", ours.alarm.into(), theirs.alarm.into()),
        ] {
            if a != b {
                note(format!("{what}: host {a}, board {b}"));
            }
        }
        for (i, (a, b)) in ours.detections.iter().zip(&theirs.detections).enumerate() {
            for ((field, bits, value), (_, other_bits, other)) in fields(a).into_iter().zip(fields(b)) {
                if bits != other_bits {
                    note(format!("detection {i}, {field}: host {value}, board {other}"));
                }
            }
        }
    }
    found.extend(
        board
            .frames
            .keys()
            .filter(|n| !host.frames.contains_key(n))
            .map(|&frame| Difference { frame, what: "the board answered a frame that the host did not".to_owned() }),
    );
    found
}

fn length(map: &Option<Vec<u8>>) -> String {
    map.as_ref().map_or("cut short".to_owned(), |m| format!("{} bytes", m.len()))
}

fn first_logit(size: FrameSize, host: &[u8], board: &[u8]) -> Option<String> {
    let differ = host.iter().zip(board).filter(|(a, b)| a != b).count();
    let element = host.chunks_exact(2).zip(board.chunks_exact(2)).position(|(a, b)| a != b)?;
    let value = |map: &[u8]| i16::from_le_bytes([map[2 * element], map[2 * element + 1]]);
    let width = usize::from(size.width);
    Some(format!(
        "logit map differs in {differ} bytes, first at row {}, column {}: host {}, board {} (of 256ths)",
        element / width,
        element % width,
        value(host),
        value(board)
    ))
}

/// A detection's fields: name, bits, and the value for the reader.
fn fields(d: &Detection) -> [(&'static str, u32, String); 10] {
    let real = |name, v: f32| (name, v.to_bits(), v.to_string());
    let whole = |name, v: u32| (name, v, v.to_string());
    [
        real("x", d.x),
        real("y", d.y),
        whole("area", d.area),
        whole("left", d.left.into()),
        whole("top", d.top.into()),
        whole("right", d.right.into()),
        whole("bottom", d.bottom.into()),
        whole("first_x", d.first_x.into()),
        real("peak", d.peak),
        real("contrast", d.contrast),
    ]
}

/// The first layer, in the order of computation, whose output has another CRC-32; `None` when all agree.
pub fn first_layer(host: &FrameReport, board: &FrameReport) -> Option<u16> {
    host.layers.iter().find(|(node, crc)| board.layers.get(node) != Some(crc)).map(|(&node, _)| node)
}

/// Names the first element in which a layer's outputs (height × width × channels, row by row) of frames of `size` differ.
pub fn first_element(size: FrameSize, graph: &Graph, node: u16, host: &[u8], board: &[u8]) -> String {
    let Some(layer) = graph.nodes().get(usize::from(node)) else { return format!("no layer {node}") };
    let last = usize::from(node) + 1 == graph.nodes().len();
    let (channels, bytes) = (usize::from(layer.channels), if last { 2 } else { 1 });
    let width = usize::from(size.width) >> layer.level;
    let name = format!("layer {node} ({})", layer.label);
    let element = host.chunks(bytes).zip(board.chunks(bytes)).position(|(a, b)| a != b);
    match element {
        None if host.len() == board.len() => format!("{name}: no difference"),
        None => format!("{name}: host {} bytes, board {}", host.len(), board.len()),
        Some(i) => {
            let (pixel, channel) = (i / channels, i % channels);
            let value = |map: &[u8]| match map.get(i * bytes..(i + 1) * bytes) {
                Some(&[low, high]) => i32::from(i16::from_le_bytes([low, high])),
                Some(&[byte]) => i32::from(byte as i8),
                _ => 0,
            };
            format!(
                "{name}: row {}, column {}, channel {channel}: host {}, board {}",
                pixel / width,
                pixel % width,
                value(host),
                value(board)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::SMALL;
    use gsacp_core::graph::{QUARTER, msda};

    const MAP: usize = 160 * 128 * 2;

    fn detection() -> Detection {
        Detection {
            x: 1.5,
            y: 2.5,
            area: 4,
            left: 1,
            top: 2,
            right: 2,
            bottom: 3,
            first_x: 1,
            peak: 3.0,
            contrast: 0.25,
        }
    }

    fn frames() -> BTreeMap<u16, FrameReport> {
        let report = FrameReport { crc: 7, detections: vec![detection()], ..FrameReport::default() };
        [(0, report.clone()), (1, report)].into()
    }

    fn compare(board: &BTreeMap<u16, FrameReport>, logits: &[u8]) -> Vec<(u16, String)> {
        let (ours, zeros) = (frames(), vec![0; 2 * MAP]);
        differences(SMALL, Side { frames: &ours, logits: &zeros }, Side { frames: board, logits })
            .into_iter()
            .map(|d| (d.frame, d.what))
            .collect()
    }

    #[test]
    fn equal_answers_have_no_difference() {
        assert!(compare(&frames(), &vec![0; 2 * MAP]).is_empty());
    }

    #[test]
    fn one_wrong_byte_is_named_by_frame_row_and_column() {
        let mut logits = vec![0; 2 * MAP];
        logits[MAP + 2 * (3 * 160 + 17)] = 5;
        let found = compare(&frames(), &logits);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 1);
        assert!(found[0].1.contains("row 3, column 17: host 0, board 5"), "{}", found[0].1);
    }

    #[test]
    fn one_wrong_field_is_named() {
        let mut board = frames();
        board.get_mut(&1).unwrap().detections[0].peak = 3.0f32.next_up();
        let found = compare(&board, &vec![0; 2 * MAP]);
        assert_eq!(found.len(), 1);
        assert!(found[0].1.starts_with("detection 0, peak: host 3, board 3.00000"), "{}", found[0].1);
    }

    #[test]
    fn a_missing_frame_detection_or_map_is_a_difference() {
        let mut board = frames();
        board.remove(&0);
        assert_eq!(compare(&board, &vec![0; 2 * MAP]), [(0, "the board did not answer".to_owned())]);
        let mut board = frames();
        board.get_mut(&0).unwrap().detections.clear();
        assert_eq!(compare(&board, &vec![0; 2 * MAP]), [(0, "detections: host 1, board 0".to_owned())]);
        assert_eq!(compare(&frames(), &vec![0; MAP]).len(), 1);
    }

    #[test]
    fn the_first_differing_layer_and_its_element_are_named() {
        let host = FrameReport { layers: [(1, 10), (2, 20), (3, 30)].into(), ..FrameReport::default() };
        let mut board = host.clone();
        assert_eq!(first_layer(&host, &board), None);
        board.layers.extend([(3, 31), (2, 21)]);
        assert_eq!(first_layer(&host, &board), Some(2));

        let graph = msda(QUARTER, 1);
        // Node 1 is the first convolution: 4 channels at full size.
        let (ours, mut theirs) = (vec![0; 160 * 128 * 4], vec![0; 160 * 128 * 4]);
        theirs[(2 * 160 + 9) * 4 + 3] = 255;
        let text = first_element(SMALL, &graph, 1, &ours, &theirs);
        assert!(text.ends_with("row 2, column 9, channel 3: host 0, board -1"), "{text}");
    }
}
