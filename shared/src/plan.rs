//! The memory planner: where in one arena every map of a graph lives.
//!
//! A `const fn`, so a board's arena is a constant of its graph and frame size; the host calls the same function at run
//! time. Lifetimes run from the node that writes a map to the last node that reads it. A concatenation costs nothing:
//! its members are written straight into its buffer, interleaved by channel (maps are HWC), so a map is a [`Slot`]:
//! an offset, the distance between pixels, and the first channel inside the pixel.
//!
//! Placement is greedy: each buffer at the lowest offset that is free over its whole lifetime, in a few orders.
//! [`Plan::live_bound`] is the floor that no placement can beat: the most bytes that are alive at one time.

use crate::Error;
use crate::graph::{Graph, MAX_NODES, Op, SIZE_MULTIPLE};
use crate::kernels::{spatial_gate, squeeze_excite};

/// Largest frame side the planner accepts, in pixels.
pub const MAX_SIDE: usize = 4096;
/// Every buffer starts at a multiple of this many units.
pub const ALIGN: usize = 16;

/// What the arena is made of; offsets and lengths of a [`Plan`] are counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// The float engine: units of one `f32`.
    F32,
    /// The int8 engine: bytes; the logit map takes two per pixel.
    Int8,
}

/// Where a map lives: pixel p, channel c is at `offset + p·pixel_stride + channel_offset + c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot {
    /// Start of the buffer that holds the map.
    pub offset: usize,
    /// Channels of that buffer: the distance from one pixel to the next.
    pub pixel_stride: usize,
    /// First channel of the map inside a pixel of the buffer.
    pub channel_offset: usize,
}

/// A stretch of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// First unit.
    pub offset: usize,
    /// Number of units.
    pub len: usize,
}

/// Where everything lives for one graph, frame size and element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Frame height in pixels.
    pub height: usize,
    /// Frame width in pixels.
    pub width: usize,
    /// What the arena is made of.
    pub element: Element,
    /// Units that the arena must have.
    pub arena_len: usize,
    /// The most units alive at one time: no placement needs fewer.
    pub live_bound: usize,
    slots: [Slot; MAX_NODES],
    buffers: [Region; MAX_NODES],
    scratch: [Region; MAX_NODES],
}

impl Plan {
    /// Where the map of node `id` lives; like its neighbours, an empty place for a node that no graph has.
    pub const fn slot(&self, id: usize) -> Slot {
        if id < MAX_NODES { self.slots[id] } else { Slot { offset: 0, pixel_stride: 0, channel_offset: 0 } }
    }

    /// The buffer that holds the map of node `id` (its concatenation's where it is a member of one).
    pub const fn buffer(&self, id: usize) -> Region {
        if id < MAX_NODES { self.buffers[id] } else { Region { offset: 0, len: 0 } }
    }

    /// Working memory that node `id` has to itself while it runs.
    pub const fn scratch(&self, id: usize) -> Region {
        if id < MAX_NODES { self.scratch[id] } else { Region { offset: 0, len: 0 } }
    }
}

/// Working memory of an operation on maps of `width` pixels a row and `channels` channels, in units of `element`: what
/// its kernel asks for.
const fn scratch_len(op: Op, width: usize, channels: usize, element: Element) -> usize {
    let (half_word, word) = match element {
        Element::F32 => (1, 1),
        Element::Int8 => (2, 4),
    };
    match op {
        Op::SpatialGate(_) => spatial_gate::scratch_len(width) * half_word,
        Op::SqueezeExcite { hidden, .. } => squeeze_excite::scratch_len(channels, hidden as usize) * word,
        _ => 0,
    }
}

/// A buffer to be placed: alive from node `first` to node `last`, both included.
#[derive(Clone, Copy)]
struct Buffer {
    len: usize,
    first: usize,
    last: usize,
    offset: usize,
}

/// Maps and working memories of every node.
const MAX_BUFFERS: usize = 2 * MAX_NODES;
/// Orders of placement that are tried before the best so far is taken.
const PLACEMENT_ATTEMPTS: usize = 32;

/// Plans the arena of `graph` for frames of `height`×`width` pixels. Errors: [`Error::FrameSize`].
pub const fn plan(graph: &Graph, height: usize, width: usize, element: Element) -> Result<Plan, Error> {
    if !(side_fits(height) && side_fits(width)) {
        return Err(Error::FrameSize { width, height });
    }
    let nodes = graph.nodes();
    let owner = owners(graph);
    let mut set = Buffers { list: [Buffer { len: 0, first: 0, last: 0, offset: 0 }; MAX_BUFFERS], len: 0 };
    let mut of_node = [0; MAX_NODES];
    let mut of_scratch = [None; MAX_NODES];

    let mut i = 0;
    while i < nodes.len() {
        let pixels = (height >> nodes[i].level) * (width >> nodes[i].level);
        let channels = nodes[i].channels as usize;
        let output = i + 1 == nodes.len();
        if owner[i] == i {
            let wide = if output && matches!(element, Element::Int8) { 2 } else { 1 };
            let last = if output { i } else { last_use(graph, &owner, i) };
            of_node[i] = set.push(pixels * channels * wide, first_write(graph, i), last);
        }
        let scratch = scratch_len(nodes[i].op, width >> nodes[i].level, channels, element);
        if scratch > 0 {
            of_scratch[i] = Some(set.push(scratch, i, i));
        }
        i += 1;
    }
    let live_bound = set.live_bound(nodes.len());
    let arena_len = set.place(live_bound);

    let mut plan = Plan {
        height,
        width,
        element,
        arena_len,
        live_bound,
        slots: [Slot { offset: 0, pixel_stride: 0, channel_offset: 0 }; MAX_NODES],
        buffers: [Region { offset: 0, len: 0 }; MAX_NODES],
        scratch: [Region { offset: 0, len: 0 }; MAX_NODES],
    };
    let mut i = 0;
    while i < nodes.len() {
        let home = owner[i];
        plan.buffers[i] = set.list[of_node[home]].region();
        plan.slots[i] = Slot {
            offset: plan.buffers[i].offset,
            pixel_stride: nodes[home].channels as usize,
            channel_offset: if home == i { 0 } else { channels_before(graph, home, i) },
        };
        if let Some(b) = of_scratch[i] {
            plan.scratch[i] = set.list[b].region();
        }
        i += 1;
    }
    Ok(plan)
}

const fn side_fits(side: usize) -> bool {
    side >= SIZE_MULTIPLE && side <= MAX_SIDE && side.is_multiple_of(SIZE_MULTIPLE)
}

/// For each node the node whose buffer it lives in: the concatenation that reads it, else itself.
const fn owners(graph: &Graph) -> [usize; MAX_NODES] {
    let mut owner = [0; MAX_NODES];
    let mut i = 0;
    while i < graph.nodes().len() {
        owner[i] = i;
        let node = &graph.nodes()[i];
        let mut k = 0;
        while k < node.inputs().len() && matches!(node.op, Op::Concat) {
            owner[node.inputs()[k] as usize] = i;
            k += 1;
        }
        i += 1;
    }
    owner
}

/// The first node that writes into the buffer of node `i`.
const fn first_write(graph: &Graph, i: usize) -> usize {
    let node = &graph.nodes()[i];
    let mut first = i;
    let mut k = 0;
    while k < node.inputs().len() && matches!(node.op, Op::Concat) {
        if (node.inputs()[k] as usize) < first {
            first = node.inputs()[k] as usize;
        }
        k += 1;
    }
    first
}

/// The last node that reads the buffer of node `home` or of a map inside it.
const fn last_use(graph: &Graph, owner: &[usize; MAX_NODES], home: usize) -> usize {
    let mut last = home;
    let mut i = home;
    while i < graph.nodes().len() {
        let inputs = graph.nodes()[i].inputs();
        let mut k = 0;
        while k < inputs.len() {
            if owner[inputs[k] as usize] == home {
                last = i;
            }
            k += 1;
        }
        i += 1;
    }
    last
}

/// Channels of the members of `concat` that come before `member`.
const fn channels_before(graph: &Graph, concat: usize, member: usize) -> usize {
    let inputs = graph.nodes()[concat].inputs();
    let mut channels = 0;
    let mut k = 0;
    while inputs[k] as usize != member {
        channels += graph.nodes()[inputs[k] as usize].channels as usize;
        k += 1;
    }
    channels
}

struct Buffers {
    list: [Buffer; MAX_BUFFERS],
    len: usize,
}

impl Buffer {
    const fn region(&self) -> Region {
        Region { offset: self.offset, len: self.len }
    }

    const fn comes_before(&self, other: &Buffer) -> bool {
        self.len > other.len || (self.len == other.len && self.last - self.first > other.last - other.first)
    }
}

impl Buffers {
    const fn push(&mut self, len: usize, first: usize, last: usize) -> usize {
        self.list[self.len] = Buffer { len: len.next_multiple_of(ALIGN), first, last, offset: usize::MAX };
        self.len += 1;
        self.len - 1
    }

    const fn live_bound(&self, nodes: usize) -> usize {
        let mut most = 0;
        let mut t = 0;
        while t < nodes {
            let mut live = 0;
            let mut i = 0;
            while i < self.len {
                if self.list[i].first <= t && t <= self.list[i].last {
                    live += self.list[i].len;
                }
                i += 1;
            }
            if live > most {
                most = live;
            }
            t += 1;
        }
        most
    }

    /// Gives every buffer its offset; returns the end of the arena.
    ///
    /// Largest first, and of equals the one that lives longest. When that ends above `floor`, the first buffer that
    /// stuck out is placed first of all in the next attempt; the best attempt stays.
    const fn place(&mut self, floor: usize) -> usize {
        let mut order = self.by_size();
        let mut best = usize::MAX;
        let mut best_offsets = [0; MAX_BUFFERS];
        let mut attempt = 0;
        while attempt < PLACEMENT_ATTEMPTS && best > floor {
            let (end, sticking_out) = self.place_in(&order, floor);
            if end < best {
                best = end;
                let mut i = 0;
                while i < self.len {
                    best_offsets[i] = self.list[i].offset;
                    i += 1;
                }
            }
            let mut i = sticking_out;
            while i > 0 {
                (order[i], order[i - 1]) = (order[i - 1], order[i]);
                i -= 1;
            }
            attempt += 1;
        }
        let mut i = 0;
        while i < self.len {
            self.list[i].offset = best_offsets[i];
            i += 1;
        }
        best
    }

    /// Indices of the buffers, each before those that it [`Buffer::comes_before`].
    const fn by_size(&self) -> [usize; MAX_BUFFERS] {
        let mut order = [0; MAX_BUFFERS];
        let mut i = 0;
        while i < self.len {
            let mut k = i;
            while k > 0 && self.list[i].comes_before(&self.list[order[k - 1]]) {
                order[k] = order[k - 1];
                k -= 1;
            }
            order[k] = i;
            i += 1;
        }
        order
    }

    /// One attempt: the end of the arena, and the place in `order` of the first buffer that ends above `floor` (or 0).
    const fn place_in(&mut self, order: &[usize; MAX_BUFFERS], floor: usize) -> (usize, usize) {
        let (mut end, mut sticking_out) = (0, 0);
        let mut i = 0;
        while i < self.len {
            self.list[i].offset = usize::MAX;
            i += 1;
        }
        let mut i = 0;
        while i < self.len {
            let b = order[i];
            self.list[b].offset = self.lowest_free(b);
            let top = self.list[b].offset + self.list[b].len;
            if top > end {
                end = top;
            }
            if top > floor && sticking_out == 0 {
                sticking_out = i;
            }
            i += 1;
        }
        (end, sticking_out)
    }

    /// The lowest offset at which buffer `b` overlaps no placed buffer that is alive with it.
    const fn lowest_free(&self, b: usize) -> usize {
        let new = &self.list[b];
        let mut offset = 0;
        let mut i = 0;
        while i < self.len {
            let old = &self.list[i];
            let placed = old.offset != usize::MAX;
            let together = old.first <= new.last && new.first <= old.last;
            if placed && together && old.offset < offset + new.len && offset < old.offset + old.len {
                offset = old.offset + old.len;
                i = 0;
            } else {
                i += 1;
            }
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{FULL, HALF, QUARTER, msda};

    #[allow(long_running_const_eval)]
    const BOARD: Plan = match plan(&msda(QUARTER, 1), 128, 160, Element::Int8) {
        Ok(plan) => plan,
        Err(_) => panic!(),
    };

    /// 573,440 bytes are seven maps of 160×128×4: the two halves of SBAM's second conv, its concatenation and nothing
    /// else (METHOD.md §1 counts the same 1.75 MiB at 256²).
    #[test]
    fn the_boards_arena_is_a_constant_and_meets_the_floor() {
        assert_eq!(BOARD.live_bound, 7 * 160 * 128 * 4);
        assert_eq!(BOARD.arena_len, BOARD.live_bound);
    }

    #[test]
    fn live_bounds_are_those_of_the_method_page() {
        for (widths, mib) in [(FULL, 7.0), (HALF, 3.5), (QUARTER, 1.75)] {
            let p = plan(&msda(widths, 1), 256, 256, Element::Int8).expect("256 is a multiple of 16");
            assert_eq!(p.live_bound as f64 / f64::from(1 << 20), mib);
            assert!(p.arena_len as f64 <= 1.02 * p.live_bound as f64, "{} of {}", p.arena_len, p.live_bound);
        }
    }

    /// Runs the schedule on an arena of owner marks: a map must still be whole when its last reader comes.
    #[test]
    fn no_map_is_overwritten_while_it_is_read() {
        extern crate std;
        use std::{vec, vec::Vec};
        for (widths, channels, h, w, element) in [
            (QUARTER, 1, 128, 160, Element::Int8),
            (QUARTER, 1, 16, 16, Element::F32),
            (HALF, 3, 64, 48, Element::F32),
            (FULL, 3, 32, 64, Element::Int8),
        ] {
            let g = msda(widths, channels);
            let p = plan(&g, h, w, element).expect("multiples of 16");
            let mut arena = vec![usize::MAX; p.arena_len];
            let cells = |id: usize| -> Vec<usize> {
                let (n, s) = (&g.nodes()[id], p.slot(id));
                let pixels = (h >> n.level) * (w >> n.level);
                let at = |px: usize, c: usize| s.offset + px * s.pixel_stride + s.channel_offset + c;
                (0..pixels).flat_map(|px| (0..n.channels as usize).map(move |c| at(px, c))).collect()
            };
            for (id, node) in g.nodes().iter().enumerate() {
                if node.op == Op::Concat {
                    let mut members: Vec<usize> = node.inputs().iter().flat_map(|&j| cells(j as usize)).collect();
                    members.sort_unstable();
                    assert_eq!(members, cells(id), "{} is its members, each cell once", node.label);
                    for &j in node.inputs() {
                        assert!(cells(j as usize).iter().all(|&a| arena[a] == j as usize));
                    }
                }
                for &j in node.inputs() {
                    let whole = cells(j as usize)
                        .iter()
                        .all(|&a| arena[a] == j as usize || g.nodes()[j as usize].op == Op::Concat);
                    assert!(whole, "{} finds {} overwritten", node.label, g.nodes()[j as usize].label);
                    if g.nodes()[j as usize].op == Op::Concat {
                        for &m in g.nodes()[j as usize].inputs() {
                            assert!(cells(m as usize).iter().all(|&a| arena[a] == m as usize), "{}", node.label);
                        }
                    }
                }
                let scratch = p.scratch(id);
                arena[scratch.offset..scratch.offset + scratch.len].fill(usize::MAX - 1);
                if node.op != Op::Concat {
                    cells(id).into_iter().for_each(|a| arena[a] = id);
                }
                for &j in node.inputs().iter().filter(|_| node.op != Op::Concat) {
                    let untouched = cells(j as usize).iter().all(|&a| arena[a] != id && arena[a] != usize::MAX - 1);
                    assert!(untouched, "{} writes over its own input", node.label);
                }
            }
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_the_network_is_an_error() {
        for (h, w) in [(0, 16), (16, 0), (100, 160), (128, 161), (4112, 16)] {
            assert_eq!(plan(&msda(QUARTER, 1), h, w, Element::Int8), Err(Error::FrameSize { width: w, height: h }));
        }
    }
}
