//! The memory planner: where in one arena every map of a graph lives, and how much of it at a time.
//!
//! A `const fn`, so a board's arena is a constant of its graph and frame size; the host calls the same function at run
//! time. Lifetimes run from the node that writes a map to the last node that reads it. A concatenation costs nothing:
//! its members are written straight into its buffer, interleaved by channel (maps are HWC), so a map is a [`Slot`]:
//! an offset, the distance between pixels, and the first channel inside the pixel.
//!
//! The nodes of a strip ([`crate::graph::Node::strip_end`]) run together in the int8 engine, in [`Strip::bands`] one
//! after the other, each node computing its next rows, so that a map between them never exists whole. Its buffer holds
//! the rows of one band and those that the next band still reads, which move to the buffer's front before that band.
//! A node runs as many rows ahead of the strip's last node as the convolutions between them look down. A strip has the
//! fewest bands with which it needs no more than the nodes in no strip: more would cost time and spare nothing.
//!
//! [`Plan::live_bound`] is the floor that no placement of these buffers can beat: the most bytes alive at one time.

mod draft;
mod place;
#[cfg(test)]
mod tests;

use crate::Error;
use crate::graph::{Graph, MAX_NODES, NodeId, Op, SIZE_MULTIPLE};
use crate::kernels::{conv, spatial_gate, squeeze_excite};
use core::ops::Range;
use draft::Draft;

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

/// A stretch of the arena, and when it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// First unit.
    pub offset: usize,
    /// Number of units.
    pub len: usize,
    /// First node during which it is in use.
    pub first: NodeId,
    /// Last one.
    pub last: NodeId,
}

/// Nodes that run together, band by band; a node in no strip of the graph is one by itself, of one band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strip {
    /// First node.
    pub first: NodeId,
    /// Last node.
    pub last: NodeId,
    /// How often each of its nodes runs.
    pub bands: u16,
    /// Rows of the last node's map in a band.
    pub rows: u16,
}

/// Which rows of a node's map are computed when, and which its buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Whether the buffer holds some rows only.
    pub rolling: bool,
    /// Rows by which the node runs ahead of the last one of its strip.
    pub ahead: u16,
    /// Rows that the buffer holds above the last node's next row.
    pub behind: u16,
    /// Rows that move to the buffer's front when the next band begins.
    pub kept: u16,
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
    strips: [Strip; MAX_NODES],
    windows: [Window; MAX_NODES],
}

const NOWHERE: Region = Region { offset: 0, len: 0, first: 0, last: 0 };

impl Plan {
    /// Where the map of node `id` lives; like its neighbours, an empty place for a node that no graph has.
    pub const fn slot(&self, id: usize) -> Slot {
        if id < MAX_NODES { self.slots[id] } else { Slot { offset: 0, pixel_stride: 0, channel_offset: 0 } }
    }

    /// The buffer that holds the map of node `id` (its concatenation's where it is a member of one).
    pub const fn buffer(&self, id: usize) -> Region {
        if id < MAX_NODES { self.buffers[id] } else { NOWHERE }
    }

    /// Working memory that node `id` has to itself while it runs.
    pub const fn scratch(&self, id: usize) -> Region {
        if id < MAX_NODES { self.scratch[id] } else { NOWHERE }
    }

    /// The strip that node `id` runs in.
    pub const fn strip(&self, id: usize) -> Strip {
        if id < MAX_NODES { self.strips[id] } else { Strip { first: 0, last: 0, bands: 0, rows: 0 } }
    }

    /// What the buffer of node `id` holds of its map.
    pub const fn window(&self, id: usize) -> Window {
        if id < MAX_NODES { self.windows[id] } else { Window { rolling: false, ahead: 0, behind: 0, kept: 0 } }
    }

    /// Rows of node `id`'s map, of `height` rows, that it computes in a band of its strip.
    pub fn rows(&self, id: usize, height: usize, band: usize) -> Range<usize> {
        let (strip, ahead) = (self.strip(id), usize::from(self.window(id).ahead));
        let end = |bands: usize| (bands * usize::from(strip.rows) + ahead).min(height);
        let start = if band == 0 { 0 } else { end(band) };
        start..if band + 1 >= usize::from(strip.bands) { height } else { end(band + 1) }
    }

    /// First row that the buffer of node `id` holds during a band.
    pub fn first_held(&self, id: usize, band: usize) -> usize {
        let window = self.window(id);
        let next = band * usize::from(self.strip(id).rows);
        if window.rolling { next.saturating_sub(window.behind.into()) } else { 0 }
    }
}

/// Working memory of an operation on maps of `width` pixels a row, whose input has `channels` channels, in units of
/// `element`: what its kernel asks for.
const fn scratch_len(op: Op, width: usize, channels: usize, element: Element) -> usize {
    let (half_word, word) = match element {
        Element::F32 => (1, 1),
        Element::Int8 => (2, 4),
    };
    match op {
        Op::Conv(c) if matches!(element, Element::Int8) => conv::scratch_len(c.kernel as usize, channels),
        Op::SpatialGate(_) => spatial_gate::scratch_len(width) * half_word,
        Op::SqueezeExcite { hidden, .. } => squeeze_excite::scratch_len(channels, hidden as usize) * word,
        _ => 0,
    }
}

/// Plans the arena of `graph` for frames of `height`×`width` pixels. Errors: [`Error::FrameSize`].
pub const fn plan(graph: &Graph, height: usize, width: usize, element: Element) -> Result<Plan, Error> {
    if !(side_fits(height) && side_fits(width)) {
        return Err(Error::FrameSize { width, height });
    }
    let mut draft = Draft::new(graph, height, width, element);
    // Float runs on hosts, whose memory is not short, and where bands would begin other tiles (Winograd's), that is, round
    // otherwise.
    if matches!(element, Element::Int8) {
        draft.cut();
    }
    Ok(lay_out(graph, &draft, height, width, element, false))
}

/// As [`plan`], but every map whole and in a place of its own: for a look at the maps of a run, and to test against.
pub const fn plan_apart(graph: &Graph, height: usize, width: usize, element: Element) -> Result<Plan, Error> {
    if !(side_fits(height) && side_fits(width)) {
        return Err(Error::FrameSize { width, height });
    }
    let draft = Draft::new(graph, height, width, element);
    Ok(lay_out(graph, &draft, height, width, element, true))
}

const fn lay_out(graph: &Graph, draft: &Draft<'_>, height: usize, width: usize, element: Element, apart: bool) -> Plan {
    let nodes = graph.nodes();
    let (mut set, of_node, of_scratch) = draft.buffers();
    let live_bound = set.live_bound(nodes.len());
    let mut plan = Plan {
        height,
        width,
        element,
        arena_len: if apart { set.place_apart() } else { set.place(live_bound) },
        live_bound,
        slots: [Slot { offset: 0, pixel_stride: 0, channel_offset: 0 }; MAX_NODES],
        buffers: [NOWHERE; MAX_NODES],
        scratch: [NOWHERE; MAX_NODES],
        strips: [Strip { first: 0, last: 0, bands: 0, rows: 0 }; MAX_NODES],
        windows: [Window { rolling: false, ahead: 0, behind: 0, kept: 0 }; MAX_NODES],
    };
    let mut i = 0;
    while i < nodes.len() {
        let home = draft.owner[i];
        plan.buffers[i] = set.region(of_node[home]);
        plan.slots[i] = Slot {
            offset: plan.buffers[i].offset,
            pixel_stride: nodes[home].channels as usize,
            channel_offset: draft.channels_before(i),
        };
        if let Some(b) = of_scratch[i] {
            plan.scratch[i] = set.region(b);
        }
        (plan.strips[i], plan.windows[i]) = (draft.strip(i), draft.window(i));
        i += 1;
    }
    plan
}

const fn side_fits(side: usize) -> bool {
    side >= SIZE_MULTIPLE && side <= MAX_SIDE && side.is_multiple_of(SIZE_MULTIPLE)
}
