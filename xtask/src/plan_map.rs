//! The memory plan as a picture: the arena from left to right, time from top to bottom.
use std::collections::BTreeSet;
use std::fmt::Write;

use gsacp_core::graph::Graph;
use gsacp_core::plan::{Plan, Region};

/// Characters that the arena's width is drawn with.
const CELLS: usize = 72;
/// What tells neighbours in the picture apart; buffers take them in turn.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// One buffer of the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// What it is drawn with.
    pub letter: char,
    /// The map that it holds.
    pub label: String,
    /// Where it is, and when it is in use.
    pub region: Region,
    /// Rows that it holds, and rows of the whole map; none of working memory.
    pub rows: Option<[usize; 2]>,
}

/// Every buffer, in the order of its owner in the graph.
pub fn buffers(graph: &Graph, plan: &Plan) -> Vec<Buffer> {
    let mut found: Vec<Buffer> = Vec::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let (own, letter) = (plan.buffer(id), char::from(LETTERS[found.len() % LETTERS.len()]));
        // The members of a concatenation lie in its buffer.
        if plan.slot(id).pixel_stride == usize::from(node.channels) {
            let [height, width] = [plan.height, plan.width].map(|side| side >> node.level);
            let wide = if id + 1 == graph.nodes().len() { 2 } else { 1 };
            let held = own.len / (width * usize::from(node.channels) * wide);
            let rows = Some([held.min(height), height]);
            found.push(Buffer { letter, label: node.label.to_string(), region: own, rows });
        }
        if plan.scratch(id).len > 0 {
            let label = format!("working memory of {}", node.label);
            found.push(Buffer { letter: '*', label, region: plan.scratch(id), rows: None });
        }
    }
    found
}

/// The buffers in use while node `id` runs.
pub fn alive(buffers: &[Buffer], id: usize) -> Vec<&Buffer> {
    let id = id as u16;
    buffers.iter().filter(|b| (b.region.first..=b.region.last).contains(&id)).collect()
}

/// The first node at which the most bytes are alive.
pub fn peak(graph: &Graph, buffers: &[Buffer]) -> usize {
    let live = |id: usize| -> usize { alive(buffers, id).iter().map(|b| b.region.len).sum() };
    (0..graph.nodes().len()).rev().max_by_key(|&id| live(id)).unwrap_or(0)
}

/// One line of the picture: the arena while node `id` runs.
pub fn line(plan: &Plan, buffers: &[Buffer], id: usize) -> String {
    let cell = plan.arena_len.div_ceil(CELLS).max(1);
    let mut cells = vec!['.'; plan.arena_len.div_ceil(cell)];
    for buffer in alive(buffers, id) {
        let Region { offset, len, .. } = buffer.region;
        cells[offset / cell..(offset + len).div_ceil(cell)].fill(buffer.letter);
    }
    cells.into_iter().collect()
}

/// The whole picture: a line for each step (a node, or the nodes of a strip that run band by band), then what the letters
/// stand for.
pub fn picture(graph: &Graph, plan: &Plan) -> String {
    let buffers = buffers(graph, plan);
    let mut text = format!("  a column is {} bytes\n", plan.arena_len.div_ceil(CELLS));
    let mut steps = BTreeSet::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let strip = plan.strip(id);
        let last = if strip.bands > 1 { usize::from(strip.last) } else { id };
        if steps.insert(last) {
            let live: usize = alive(&buffers, id).iter().map(|b| b.region.len).sum();
            let bands = if strip.bands > 1 {
                format!(" … {}, {} bands of {} rows", graph.nodes()[last].label, strip.bands, strip.rows)
            } else {
                String::new()
            };
            let _ = writeln!(text, "  {} {live:>7}  {}{bands}", line(plan, &buffers, id), node.label);
        }
    }
    for buffer in &buffers {
        let _ = writeln!(text, "  {}", describe(graph, buffer));
    }
    text
}

/// Where a buffer lies, when, and what it holds.
pub fn describe(graph: &Graph, buffer: &Buffer) -> String {
    let Region { offset, len, first, last } = buffer.region;
    let rows = match buffer.rows {
        Some([held, height]) if held < height => format!(", {held} of {height} rows"),
        _ => String::new(),
    };
    let last = &graph.nodes()[usize::from(last)].label;
    let first = &graph.nodes()[usize::from(first)].label;
    let when = if first == last { String::new() } else { format!(", from {first} to {last}") };
    format!("{} {len:>6} bytes at {offset:>6}  {}{rows}{when}", buffer.letter, buffer.label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{QUARTER, msda};
    use gsacp_core::plan::{Element, plan};

    #[test]
    fn the_picture_shows_every_buffer_where_and_when_it_is() {
        let graph = msda(QUARTER, 1);
        let plan = plan(&graph, 128, 160, Element::Int8).unwrap();
        let buffers = buffers(&graph, &plan);
        for id in 0..graph.nodes().len() {
            let mut alive = alive(&buffers, id);
            alive.sort_by_key(|b| b.region.offset);
            assert!(alive.iter().any(|b| b.region == plan.buffer(id)), "{}", graph.nodes()[id].label);
            for pair in alive.windows(2) {
                assert!(pair[0].region.offset + pair[0].region.len <= pair[1].region.offset, "{pair:?}");
            }
            assert!(line(&plan, &buffers, id).len() <= CELLS);
        }
        let top = alive(&buffers, peak(&graph, &buffers)).iter().map(|b| b.region.len).sum::<usize>();
        assert_eq!(top, plan.live_bound);
        let text = picture(&graph, &plan);
        assert!(text.contains("stage.resnet1_2.branch0 … stage.resnet1_2.conv_cat, 4 bands of 32 rows"), "{text}");
        assert!(text.contains("stage.resnet1_2.cat, 34 of 128 rows"), "{text}");
    }
}
