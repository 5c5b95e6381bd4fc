//! Borrowing from the arena: one buffer to write, working memory, and everything else to read.

use crate::Error;
use crate::graph::{Graph, Node};
use crate::kernels::{Map, MapMut, Shape};
use crate::plan::{Plan, Region, Strip};
use core::ops::Range;

/// The shape of node `id`'s map, inside its buffer.
pub(super) fn shape(plan: &Plan, id: usize, node: &Node) -> Shape {
    let level = u32::from(node.level);
    Shape {
        height: plan.height.checked_shr(level).unwrap_or(0),
        width: plan.width.checked_shr(level).unwrap_or(0),
        channels: usize::from(node.channels),
        stride: plan.slot(id).pixel_stride,
    }
}

/// One node's turn in one band of its strip.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub graph: &'a Graph,
    pub plan: &'a Plan,
    pub id: usize,
    pub node: &'a Node,
    pub band: usize,
}

impl Turn<'_> {
    /// Shape of the node's map.
    pub fn shape(&self) -> Shape {
        shape(self.plan, self.id, self.node)
    }

    /// Rows to compute; in the last bands of a strip a node may have none left.
    pub fn rows(&self) -> Range<usize> {
        self.plan.rows(self.id, self.shape().height, self.band)
    }

    /// Where in its buffer the first element of these rows lies.
    fn start(&self) -> usize {
        let above = self.rows().start.saturating_sub(self.plan.first_held(self.id, self.band));
        let shape = self.shape();
        above * shape.width * shape.stride + self.plan.slot(self.id).channel_offset
    }

    /// The rows just computed.
    pub fn view<'a, T: Copy>(&self, arena: &'a [T]) -> Result<Map<'a, T>, Error> {
        let start = self.plan.buffer(self.id).offset.checked_add(self.start()).ok_or(Error::WrongPlan)?;
        Map::of_rows(arena.get(start..).ok_or(Error::WrongPlan)?, self.shape(), self.rows())
    }
}

/// Before a band but the first of a strip: moves what its buffers keep of the band before to their fronts.
pub(super) fn advance<T: Copy>(
    arena: &mut [T],
    graph: &Graph,
    plan: &Plan,
    strip: Strip,
    band: usize,
) -> Result<(), Error> {
    let Some(before) = band.checked_sub(1) else { return Ok(()) };
    for id in usize::from(strip.first)..=usize::from(strip.last) {
        let shape = shape(plan, id, graph.nodes().get(id).ok_or(Error::WrongPlan)?);
        let window = plan.window(id);
        // The members of a concatenation move with it.
        if !window.rolling || window.kept == 0 || shape.stride != shape.channels {
            continue;
        }
        let (row, buffer) = (shape.width * shape.stride, plan.buffer(id));
        let by = plan.first_held(id, band).saturating_sub(plan.first_held(id, before)) * row;
        let rows = arena.get_mut(buffer.offset..).and_then(|a| a.get_mut(..buffer.len)).ok_or(Error::WrongPlan)?;
        let (to, from) = rows.split_at_mut_checked(by).ok_or(Error::WrongPlan)?;
        let kept = usize::from(window.kept) * row;
        let (Some(to), Some(from)) = (to.get_mut(..kept), from.get(..kept)) else { return Err(Error::WrongPlan) };
        to.copy_from_slice(from);
    }
    Ok(())
}

/// What one node works on: its own buffer and working memory to write, the rest of the arena to read.
pub(super) struct Loan<'a, T> {
    turn: Turn<'a>,
    output: &'a mut [T],
    scratch: &'a mut [T],
    rest: [(usize, &'a [T]); 3],
}

/// A map to write, and working memory; empty where the node needs none.
pub(super) type Place<'a, T> = (MapMut<'a, T>, &'a mut [T]);

impl<'a, T: Copy> Loan<'a, T> {
    /// Cuts the arena into the two regions that the node writes and the three stretches around them.
    pub fn new(arena: &'a mut [T], turn: Turn<'a>) -> Result<Self, Error> {
        let (output, scratch) = (turn.plan.buffer(turn.id), turn.plan.scratch(turn.id));
        let scratch_first = (scratch.offset, scratch.len) < (output.offset, output.len);
        let (low, high) = if scratch_first { (scratch, output) } else { (output, scratch) };
        // Without working memory the second region is empty, wherever the first one ends.
        let high = if high.len == 0 { Region { offset: low.offset.saturating_add(low.len), ..high } } else { high };
        let between = low.offset.checked_add(low.len).and_then(|end| high.offset.checked_sub(end));

        let cut = |slice: &'a mut [T], at: usize| slice.split_at_mut_checked(at).ok_or(Error::WrongPlan);
        let (before, rest) = cut(arena, low.offset)?;
        let (first, rest) = cut(rest, low.len)?;
        let (middle, rest) = cut(rest, between.ok_or(Error::WrongPlan)?)?;
        let (second, after) = cut(rest, high.len)?;
        let (output, scratch) = if scratch_first { (second, first) } else { (first, second) };
        let rest = [(0, &*before), (low.offset + low.len, &*middle), (high.offset + high.len, &*after)];
        Ok(Loan { turn, output, scratch, rest })
    }

    /// The rows that are held of the node's `k`th input, and that input's number. Errors: it overlaps what is written.
    pub fn input(&self, k: usize) -> Result<(usize, Map<'a, T>), Error> {
        let Turn { graph, plan, node, band, .. } = self.turn;
        let id = usize::from(*node.inputs().get(k).ok_or(Error::WrongPlan)?);
        let (buffer, shape) = (plan.buffer(id), shape(plan, id, graph.nodes().get(id).ok_or(Error::WrongPlan)?));
        let rows = if plan.strip(id) == plan.strip(self.turn.id) {
            plan.first_held(id, band)..plan.rows(id, shape.height, band).end
        } else {
            0..shape.height
        };
        let inside = |&(start, slice): &(usize, &'a [T])| {
            let from = buffer.offset.checked_sub(start)?;
            let map = slice.get(from..from.checked_add(buffer.len)?)?;
            map.get(plan.slot(id).channel_offset..)
        };
        let map = self.rest.iter().find_map(inside).ok_or(Error::WrongPlan)?;
        Ok((id, Map::of_rows(map, shape, rows)?))
    }

    /// The rows of the node's own map that are to be computed, and its working memory.
    pub fn output(self) -> Result<Place<'a, T>, Error> {
        let map = self.output.get_mut(self.turn.start()..).ok_or(Error::WrongPlan)?;
        Ok((MapMut::of_rows(map, self.turn.shape(), self.turn.rows())?, self.scratch))
    }

    /// The node's whole buffer, and its working memory.
    pub fn into_buffer(self) -> (&'a mut [T], &'a mut [T]) {
        (self.output, self.scratch)
    }
}
