//! Borrowing from the arena: one buffer to write, working memory, and everything else to read.

use crate::Error;
use crate::graph::Node;
use crate::kernels::{Map, MapMut, Shape};
use crate::plan::{Plan, Region};

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

/// What one node works on: its own buffer and working memory to write, the rest of the arena to read.
pub(super) struct Loan<'a, T> {
    output: &'a mut [T],
    /// Working memory of the node; empty where it needs none.
    pub scratch: &'a mut [T],
    rest: [(usize, &'a [T]); 3],
}

impl<'a, T: Copy> Loan<'a, T> {
    /// Cuts the arena into the two regions that node `id` writes and the three stretches around them.
    pub fn new(arena: &'a mut [T], plan: &Plan, id: usize) -> Result<Self, Error> {
        let (output, scratch) = (plan.buffer(id), plan.scratch(id));
        let scratch_first = (scratch.offset, scratch.len) < (output.offset, output.len);
        let (low, high) = if scratch_first { (scratch, output) } else { (output, scratch) };
        // Without working memory the second region is empty, wherever the first one ends.
        let high = if high.len == 0 { Region { offset: low.offset.saturating_add(low.len), len: 0 } } else { high };
        let between = low.offset.checked_add(low.len).and_then(|end| high.offset.checked_sub(end));

        let cut = |slice: &'a mut [T], at: usize| slice.split_at_mut_checked(at).ok_or(Error::WrongPlan);
        let (before, rest) = cut(arena, low.offset)?;
        let (first, rest) = cut(rest, low.len)?;
        let (middle, rest) = cut(rest, between.ok_or(Error::WrongPlan)?)?;
        let (second, after) = cut(rest, high.len)?;
        let (output, scratch) = if scratch_first { (second, first) } else { (first, second) };
        let rest = [(0, &*before), (low.offset + low.len, &*middle), (high.offset + high.len, &*after)];
        Ok(Loan { output, scratch, rest })
    }

    /// The map of another node. Errors: it overlaps what this node writes.
    pub fn input(&self, plan: &Plan, id: usize, node: &Node) -> Result<Map<'a, T>, Error> {
        let (buffer, shape) = (plan.buffer(id), shape(plan, id, node));
        let inside = |&(start, slice): &(usize, &'a [T])| {
            let from = buffer.offset.checked_sub(start)?;
            let map = slice.get(from..from.checked_add(buffer.len)?)?;
            map.get(plan.slot(id).channel_offset..)
        };
        Map::new(self.rest.iter().find_map(inside).ok_or(Error::WrongPlan)?, shape)
    }

    /// The node's own map, and its working memory.
    pub fn output(self, plan: &Plan, id: usize, node: &Node) -> Result<(MapMut<'a, T>, &'a mut [T]), Error> {
        let start = plan.slot(id).channel_offset;
        let map = self.output.get_mut(start..).ok_or(Error::WrongPlan)?;
        Ok((MapMut::new(map, shape(plan, id, node))?, self.scratch))
    }

    /// The node's whole buffer.
    pub fn into_buffer(self) -> &'a mut [T] {
        self.output
    }
}

/// The map of a finished node.
pub(super) fn view<'a, T: Copy>(arena: &'a [T], plan: &Plan, id: usize, node: &Node) -> Result<Map<'a, T>, Error> {
    let start = plan.buffer(id).offset.checked_add(plan.slot(id).channel_offset).ok_or(Error::WrongPlan)?;
    Map::new(arena.get(start..).ok_or(Error::WrongPlan)?, shape(plan, id, node))
}
