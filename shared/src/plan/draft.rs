//! What must be alive when: lifetimes of the maps, and how many rows of a strip are run at a time.

use super::place::{Buffer, Buffers};
use super::{ALIGN, Element, Strip, Window, scratch_len};
use crate::graph::{Graph, MAX_NODES, Node, Op};

/// A graph at one frame size, with its strips cut into bands as far as has been decided.
pub struct Draft<'g> {
    graph: &'g Graph,
    height: usize,
    width: usize,
    element: Element,
    /// The node whose buffer a node's map lives in: the concatenation that reads it, else the node itself.
    pub owner: [usize; MAX_NODES],
    /// First node that writes into the buffer of a node, and last one that reads it or a map inside it.
    first: [usize; MAX_NODES],
    last: [usize; MAX_NODES],
    /// Rows by which a node must run ahead of the last node of its strip.
    ahead: [usize; MAX_NODES],
    /// The most of these among the maps of a node's buffer, and how many rows above the last node's next row the buffer
    /// must still hold.
    farthest: [usize; MAX_NODES],
    behind: [usize; MAX_NODES],
    strips: [Strip; MAX_NODES],
}

impl<'g> Draft<'g> {
    /// Every strip in one band.
    pub const fn new(graph: &'g Graph, height: usize, width: usize, element: Element) -> Self {
        let none = [0; MAX_NODES];
        let whole = Strip { first: 0, last: 0, bands: 1, rows: 0 };
        let mut draft = Draft {
            graph,
            height,
            width,
            element,
            owner: none,
            first: none,
            last: none,
            ahead: none,
            farthest: none,
            behind: none,
            strips: [whole; MAX_NODES],
        };
        draft.find_owners();
        draft.find_uses();
        draft.find_strips();
        draft.find_reaches();
        draft
    }

    const fn nodes(&self) -> &'g [Node] {
        self.graph.nodes()
    }

    const fn find_owners(&mut self) {
        let mut i = 0;
        while i < self.nodes().len() {
            (self.owner[i], self.first[i], self.last[i]) = (i, i, i);
            let (node, mut k) = (&self.nodes()[i], 0);
            while k < node.inputs().len() && matches!(node.op, Op::Concat) {
                let member = node.inputs()[k] as usize;
                self.owner[member] = i;
                if member < self.first[i] {
                    self.first[i] = member;
                }
                k += 1;
            }
            i += 1;
        }
    }

    const fn find_uses(&mut self) {
        let mut i = 0;
        while i < self.nodes().len() {
            let (inputs, mut k) = (self.nodes()[i].inputs(), 0);
            while k < inputs.len() {
                let home = self.owner[inputs[k] as usize];
                if self.last[home] < i {
                    self.last[home] = i;
                }
                k += 1;
            }
            i += 1;
        }
    }

    const fn find_strips(&mut self) {
        let mut i = 0;
        while i < self.nodes().len() {
            let node = &self.nodes()[i];
            let last = if node.strip_end == 0 { i } else { node.strip_end as usize };
            let rows = (self.height >> node.level) as u16;
            let strip = Strip { first: i as u16, last: last as u16, bands: 1, rows };
            while i <= last {
                self.strips[i] = strip;
                i += 1;
            }
        }
    }

    /// From the last node of each strip backwards, so that a node comes after all that read it.
    const fn find_reaches(&mut self) {
        let mut i = self.nodes().len();
        while i > 0 {
            i -= 1;
            let (node, mut k) = (&self.nodes()[i], 0);
            let (reach, ahead) = (reach(node.op), self.ahead[i]);
            let home = self.owner[i];
            raise(&mut self.farthest[home], ahead);
            while k < node.inputs().len() {
                let input = node.inputs()[k] as usize;
                if self.strips[input].last == self.strips[i].last {
                    raise(&mut self.ahead[input], ahead + reach);
                    raise(&mut self.behind[self.owner[input]], reach.saturating_sub(ahead));
                }
                k += 1;
            }
        }
    }

    /// The strip of node `i`.
    pub const fn strip(&self, i: usize) -> Strip {
        self.strips[i]
    }

    /// Which rows of node `i`'s map are computed when, and which its buffer holds.
    pub const fn window(&self, i: usize) -> Window {
        let home = self.owner[i];
        Window {
            rolling: self.rolls(home),
            ahead: self.ahead[i] as u16,
            behind: self.behind[home] as u16,
            kept: (self.farthest[home] + self.behind[home]) as u16,
        }
    }

    /// Whether only some rows of buffer `home` are held: it is written and read inside one strip of several bands.
    const fn rolls(&self, home: usize) -> bool {
        let strip = self.strips[home];
        let inside = self.first[home] >= strip.first as usize && self.last[home] <= strip.last as usize;
        strip.bands > 1 && inside && home + 1 < self.nodes().len()
    }

    /// The buffer of node `home`, which is its own owner.
    const fn buffer(&self, home: usize) -> Buffer {
        let (node, strip) = (&self.nodes()[home], self.strips[home]);
        let output = home + 1 == self.nodes().len();
        let wide = if output && matches!(self.element, Element::Int8) { 2 } else { 1 };
        let mut rows = self.height >> node.level;
        let (mut first, mut last) = (self.first[home], self.last[home]);
        let kept = self.farthest[home] + self.behind[home];
        if self.rolls(home) && strip.rows as usize + kept < rows {
            rows = strip.rows as usize + kept;
        }
        // In a strip of several bands every node's turn comes again: what is held from band to band lives through all.
        if strip.bands > 1 && !(self.rolls(home) && kept == 0) && (strip.first as usize) < first {
            first = strip.first as usize;
        }
        let reader = self.strips[last];
        if reader.bands > 1 && !(self.rolls(home) && kept == 0) {
            last = reader.last as usize;
        }
        let len = (rows * (self.width >> node.level) * node.channels as usize * wide).next_multiple_of(ALIGN);
        Buffer { len, first, last, offset: usize::MAX }
    }

    /// The working memory of node `i`; without length where it needs none.
    const fn scratch(&self, i: usize) -> Buffer {
        let node = &self.nodes()[i];
        let channels = self.graph.input_channels_of(node) as usize;
        let len = scratch_len(node.op, self.width >> node.level, channels, self.element);
        Buffer { len: len.next_multiple_of(ALIGN), first: i, last: i, offset: usize::MAX }
    }

    /// Every buffer, and for each node the index of the one that it owns and of its working memory.
    pub const fn buffers(&self) -> (Buffers, [usize; MAX_NODES], [Option<usize>; MAX_NODES]) {
        let (mut set, mut of_node, mut of_scratch) = (Buffers::new(), [0; MAX_NODES], [None; MAX_NODES]);
        let mut i = 0;
        while i < self.nodes().len() {
            if self.owner[i] == i {
                of_node[i] = set.push(self.buffer(i));
            }
            let scratch = self.scratch(i);
            if scratch.len > 0 {
                of_scratch[i] = Some(set.push(scratch));
            }
            i += 1;
        }
        (set, of_node, of_scratch)
    }

    /// Cuts each strip into the fewest bands with which it needs no more memory than what is in no strip; where none are
    /// enough, into the lowest bands that it can have.
    pub const fn cut(&mut self) {
        let (set, _, _) = self.buffers();
        let (mut floor, mut t) = (0, 0);
        while t < self.nodes().len() {
            if self.nodes()[t].strip_end == 0 {
                raise(&mut floor, set.live(t));
            }
            t += 1;
        }
        let mut first = 0;
        while first < self.nodes().len() {
            let strip = self.strips[first];
            while self.nodes()[first].strip_end != 0 && self.peak(strip) > floor && self.cut_once_more(strip) {}
            first = strip.last as usize + 1;
        }
    }

    /// The most units alive while a strip runs.
    const fn peak(&self, strip: Strip) -> usize {
        let (set, _, _) = self.buffers();
        let (mut most, mut t) = (0, strip.first as usize);
        while t <= strip.last as usize {
            raise(&mut most, set.live(t));
            t += 1;
        }
        most
    }

    /// One band more; `false` where bands would be too low: what is kept moves to the front of its buffer by a band,
    /// in the first one less what must be held above it, and must not overlap itself.
    const fn cut_once_more(&mut self, strip: Strip) -> bool {
        let (first, last) = (strip.first as usize, strip.last as usize);
        let (mut least, mut i) = (1, first);
        while i <= last {
            raise(&mut least, self.farthest[self.owner[i]] + 2 * self.behind[self.owner[i]]);
            i += 1;
        }
        let height = self.height >> self.nodes()[first].level;
        let rows = height.div_ceil(self.strips[first].bands as usize + 1);
        if rows < least || rows == self.strips[first].rows as usize {
            return false;
        }
        let cut = Strip { bands: height.div_ceil(rows) as u16, rows: rows as u16, ..strip };
        i = first;
        while i <= last {
            self.strips[i] = cut;
            i += 1;
        }
        true
    }

    /// Channels of the members of a concatenation that come before `member`.
    pub const fn channels_before(&self, member: usize) -> usize {
        let home = self.owner[member];
        if home == member {
            return 0;
        }
        let inputs = self.nodes()[home].inputs();
        let (mut channels, mut k) = (0, 0);
        while inputs[k] as usize != member {
            channels += self.nodes()[inputs[k] as usize].channels as usize;
            k += 1;
        }
        channels
    }
}

/// Rows above and below its own that an output row of a strip's operation reads.
const fn reach(op: Op) -> usize {
    match op {
        Op::Conv(c) => (c.kernel as usize - 1) * c.dilation as usize / 2,
        _ => 0,
    }
}

const fn raise(most: &mut usize, value: usize) {
    if value > *most {
        *most = value;
    }
}
