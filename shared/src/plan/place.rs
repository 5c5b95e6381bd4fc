//! Placement: offsets for buffers whose lifetimes are known.
//!
//! Greedy: each buffer at the lowest offset that is free over its whole lifetime, in a few orders.

use super::Region;
use crate::graph::{MAX_NODES, NodeId};

/// Maps and working memories of every node.
const MAX_BUFFERS: usize = 2 * MAX_NODES;
/// Orders of placement that are tried before the best so far is taken.
const ATTEMPTS: usize = 32;

/// A buffer to be placed: alive from node `first` to node `last`, both included.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub len: usize,
    pub first: usize,
    pub last: usize,
    pub offset: usize,
}

/// Buffers to be placed together.
pub struct Buffers {
    list: [Buffer; MAX_BUFFERS],
    len: usize,
}

impl Buffer {
    const fn alive(&self, t: usize) -> bool {
        self.first <= t && t <= self.last
    }

    const fn comes_before(&self, other: &Buffer) -> bool {
        self.len > other.len || (self.len == other.len && self.last - self.first > other.last - other.first)
    }
}

impl Buffers {
    pub const fn new() -> Self {
        Buffers { list: [Buffer { len: 0, first: 0, last: 0, offset: 0 }; MAX_BUFFERS], len: 0 }
    }

    /// Its index.
    pub const fn push(&mut self, buffer: Buffer) -> usize {
        self.list[self.len] = buffer;
        self.len += 1;
        self.len - 1
    }

    /// Where a buffer was put, and when it is in use.
    pub const fn region(&self, index: usize) -> Region {
        let Buffer { len, first, last, offset } = self.list[index];
        Region { offset, len, first: first as NodeId, last: last as NodeId }
    }

    /// Puts one buffer after the other, as if all were alive at all times; returns the end of the arena.
    pub const fn place_apart(&mut self) -> usize {
        let mut end = 0;
        let mut i = 0;
        while i < self.len {
            self.list[i].offset = end;
            end += self.list[i].len;
            i += 1;
        }
        end
    }

    /// Units alive at one time.
    pub const fn live(&self, t: usize) -> usize {
        let (mut live, mut i) = (0, 0);
        while i < self.len {
            if self.list[i].alive(t) {
                live += self.list[i].len;
            }
            i += 1;
        }
        live
    }

    /// The most units alive at one time.
    pub const fn live_bound(&self, nodes: usize) -> usize {
        let (mut most, mut t) = (0, 0);
        while t < nodes {
            if self.live(t) > most {
                most = self.live(t);
            }
            t += 1;
        }
        most
    }

    /// Gives every buffer its offset; returns the end of the arena.
    ///
    /// Largest first, and of equals the one that lives longest. When that ends above `floor`, the first buffer that
    /// stuck out is placed first of all in the next attempt; the best attempt stays.
    pub const fn place(&mut self, floor: usize) -> usize {
        let mut order = self.by_size();
        let mut best = usize::MAX;
        let mut best_offsets = [0; MAX_BUFFERS];
        let mut attempt = 0;
        while attempt < ATTEMPTS && best > floor {
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
        // Those that have a place, from the lowest to the highest.
        let mut placed = [0; MAX_BUFFERS];
        let mut i = 0;
        while i < self.len {
            let b = order[i];
            self.list[b].offset = self.lowest_free(b, &placed, i);
            let mut k = i;
            while k > 0 && self.list[placed[k - 1]].offset > self.list[b].offset {
                placed[k] = placed[k - 1];
                k -= 1;
            }
            placed[k] = b;
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

    /// The lowest offset at which buffer `b` overlaps none of the first `count` of `placed` that is alive with it.
    const fn lowest_free(&self, b: usize, placed: &[usize; MAX_BUFFERS], count: usize) -> usize {
        let new = &self.list[b];
        let (mut offset, mut i) = (0, 0);
        while i < count {
            let old = &self.list[placed[i]];
            let end = old.offset + old.len;
            if old.first <= new.last && new.first <= old.last {
                if offset + new.len <= old.offset {
                    return offset;
                }
                if end > offset {
                    offset = end;
                }
            }
            i += 1;
        }
        offset
    }
}
