//! 8-connected components in one pass over rows, in memory proportional to the width.
//!
//! A row is reduced to its runs of set pixels. A run joins every component whose run in the row above touches it, corners
//! included; components that meet are united by parent links in a table of the components still open. A component that no
//! run of the finished row continues is closed and handed to the caller. Nothing but the runs of two rows and the open
//! components is stored: a row of `w` pixels has at most ⌈w/2⌉ runs, so both are bounded by the width and the table
//! cannot overflow once [`Workspace`] has been checked at the door.
//!
//! All sums are integers, so the result is the same bits on every machine.
use crate::Error;

/// One component, in exact integers. Coordinates are 0-based pixels, the box is inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Component {
    /// Pixels in the component.
    pub area: u32,
    /// Of those, the pixels that are also set in a second map (the truth, for a prediction); 0 where none was given.
    pub overlap: u32,
    /// Sum of the columns of the pixels.
    pub sum_x: u64,
    /// Sum of the rows of the pixels.
    pub sum_y: u64,
    /// Column of the first pixel in raster order; its row is `top`.
    pub first_x: u32,
    /// Leftmost column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Rightmost column.
    pub right: u32,
    /// Last row.
    pub bottom: u32,
    /// Largest value in the component.
    pub peak: f32,
}

impl Component {
    /// The component made of one run: columns `start..end` of row `y`.
    fn of_run(y: u32, start: u32, end: u32, peak: f32, overlap: u32) -> Self {
        let area = end - start;
        // Σ start..end = (start + end − 1)·n/2, always a whole number.
        let sum_x = (u64::from(start) + u64::from(end) - 1) * u64::from(area) / 2;
        Self {
            area,
            overlap,
            sum_x,
            sum_y: u64::from(y) * u64::from(area),
            first_x: start,
            left: start,
            top: y,
            right: end - 1,
            bottom: y,
            peak,
        }
    }

    fn absorb(&mut self, other: &Component) {
        if other.raster_key() < self.raster_key() {
            self.first_x = other.first_x;
        }
        self.area += other.area;
        self.overlap += other.overlap;
        self.sum_x += other.sum_x;
        self.sum_y += other.sum_y;
        self.left = self.left.min(other.left);
        self.top = self.top.min(other.top);
        self.right = self.right.max(other.right);
        self.bottom = self.bottom.max(other.bottom);
        if other.peak > self.peak {
            self.peak = other.peak;
        }
    }

    /// Place of the first pixel in raster order: the order in which components are listed.
    pub fn raster_key(&self) -> (u32, u32) {
        (self.top, self.first_x)
    }
}

/// A run of set pixels in a row. Storage for [`Workspace`].
#[derive(Debug, Clone, Copy)]
pub struct Run {
    start: u32,
    end: u32,
    slot: u32,
}

impl Run {
    /// What a workspace is filled with before use.
    pub const EMPTY: Run = Run { start: 0, end: 0, slot: 0 };
}

/// An open component. Storage for [`Workspace`].
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Itself for a component of its own, otherwise the slot it was united with; the next free slot once freed.
    parent: u32,
    /// Last row with a run of this component.
    last_row: u32,
    open: bool,
    component: Component,
}

impl Slot {
    /// What a workspace is filled with before use.
    pub const EMPTY: Slot = Slot {
        parent: 0,
        last_row: 0,
        open: false,
        component: Component {
            area: 0,
            overlap: 0,
            sum_x: 0,
            sum_y: 0,
            first_x: 0,
            left: 0,
            top: 0,
            right: 0,
            bottom: 0,
            peak: 0.0,
        },
    };
}

/// The caller's buffers for one labelling: `[Run::EMPTY; Workspace::runs_for(W)]` and `[Slot::EMPTY; Workspace::slots_for(W)]`
/// for frames up to `W` wide. Contents need no resetting between frames.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// At least `runs_for(width)`.
    pub runs: &'a mut [Run],
    /// At least `slots_for(width)`.
    pub slots: &'a mut [Slot],
}

impl Workspace<'_> {
    /// Runs needed for a width: two rows of ⌈w/2⌉.
    pub const fn runs_for(width: usize) -> usize {
        width.div_ceil(2) * 2
    }

    /// Open components needed for a width: those of the row above and those begun in this one.
    pub const fn slots_for(width: usize) -> usize {
        width.div_ceil(2) * 2
    }
}

/// No slot: the end of the free list.
const NONE: u32 = u32::MAX;

/// The labelling of one map, fed row by row: [`run`](Self::run) for each run from left to right, then
/// [`end_row`](Self::end_row); [`finish`](Self::finish) after the last row.
pub struct Labeller<'a> {
    previous: &'a mut [Run],
    previous_len: usize,
    current: &'a mut [Run],
    current_len: usize,
    /// First run of the row above that may still touch a run of this row.
    cursor: usize,
    slots: &'a mut [Slot],
    /// Slots that were ever used; the ones above are fresh.
    used: usize,
    free: u32,
    row: u32,
    /// A buffer was exceeded; cannot happen for runs within the checked width.
    exceeded: bool,
}

impl<'a> Labeller<'a> {
    /// A labelling of rows of at most `width` pixels.
    ///
    /// # Errors
    /// [`Error::Capacity`] where the workspace is smaller than such rows can need.
    pub fn new(width: usize, workspace: &'a mut Workspace<'_>) -> Result<Self, Error> {
        let (runs, slots) = (Workspace::runs_for(width), Workspace::slots_for(width));
        if workspace.slots.len() < slots {
            return Err(Error::Capacity { needed: slots, available: workspace.slots.len() });
        }
        let available = workspace.runs.len();
        let Some((previous, current)) = workspace.runs.split_at_mut_checked(runs / 2) else {
            return Err(Error::Capacity { needed: runs, available });
        };
        if current.len() < runs / 2 {
            return Err(Error::Capacity { needed: runs, available });
        }
        Ok(Self {
            previous,
            previous_len: 0,
            current,
            current_len: 0,
            cursor: 0,
            slots: workspace.slots,
            used: 0,
            free: NONE,
            row: 0,
            exceeded: false,
        })
    }

    /// Adds the run of columns `start..end` (not empty, right of the last one with a gap between) with its largest value
    /// and the number of its pixels that are set in the second map.
    pub fn run(&mut self, start: u32, end: u32, peak: f32, overlap: u32) {
        if end <= start {
            return;
        }
        let piece = Component::of_run(self.row, start, end, peak, overlap);
        // Runs of the row above that end before the column left of `start` touch neither this run nor any later one.
        while self.previous.get(self.cursor).is_some_and(|r| self.cursor < self.previous_len && r.end < start) {
            self.cursor += 1;
        }
        let mut home = NONE;
        let mut above = self.cursor;
        while above < self.previous_len {
            let Some(&Run { start: left, slot, .. }) = self.previous.get(above) else { break };
            if left > end {
                break;
            }
            home = if home == NONE { self.root(slot) } else { self.unite(home, slot) };
            above += 1;
        }
        if home == NONE {
            home = self.open(piece);
        } else if let Some(slot) = self.slots.get_mut(home as usize) {
            slot.component.absorb(&piece);
        }
        match self.current.get_mut(self.current_len) {
            Some(place) => *place = Run { start, end, slot: home },
            None => self.exceeded = true,
        }
        self.current_len += 1;
    }

    /// Ends the row; `closed` receives every component that this row did not continue.
    pub fn end_row(&mut self, mut closed: impl FnMut(&Component)) {
        for index in 0..self.current_len {
            let Some(slot) = self.current.get(index).map(|run| run.slot) else { break };
            let root = self.root(slot);
            if let Some(run) = self.current.get_mut(index) {
                run.slot = root;
            }
            if let Some(slot) = self.slots.get_mut(root as usize) {
                slot.last_row = self.row;
            }
        }
        // Every open component had a run in the row above or begins in this one, so the row above names all candidates.
        for run in self.previous.iter().take(self.previous_len) {
            let index = run.slot;
            let Some(slot) = self.slots.get_mut(index as usize) else { continue };
            if !slot.open {
                continue;
            }
            let is_root = slot.parent == index;
            if is_root && slot.last_row == self.row {
                continue;
            }
            if is_root {
                closed(&slot.component);
            }
            slot.open = false;
            slot.parent = self.free;
            self.free = index;
        }
        core::mem::swap(&mut self.previous, &mut self.current);
        self.previous_len = self.current_len;
        self.current_len = 0;
        self.cursor = 0;
        self.row += 1;
    }

    /// Closes what is still open after the last row.
    ///
    /// # Errors
    /// [`Error::Capacity`] where the caller fed more runs than the width allows: the components handed out are then incomplete.
    pub fn finish(mut self, closed: impl FnMut(&Component)) -> Result<(), Error> {
        self.end_row(closed);
        if self.exceeded {
            return Err(Error::Capacity { needed: self.current.len() + 1, available: self.current.len() });
        }
        Ok(())
    }

    fn root(&self, mut slot: u32) -> u32 {
        // Parents always lead to an older union, so this ends; the bound keeps even a corrupt table from looping.
        for _ in 0..self.slots.len() {
            match self.slots.get(slot as usize) {
                Some(s) if s.parent != slot => slot = s.parent,
                _ => break,
            }
        }
        slot
    }

    fn unite(&mut self, home: u32, other: u32) -> u32 {
        let other = self.root(other);
        if other == home {
            return home;
        }
        let Some(absorbed) = self.slots.get_mut(other as usize) else { return home };
        absorbed.parent = home;
        let component = absorbed.component;
        if let Some(slot) = self.slots.get_mut(home as usize) {
            slot.component.absorb(&component);
        }
        home
    }

    fn open(&mut self, component: Component) -> u32 {
        let index = if self.free == NONE { self.used as u32 } else { self.free };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            self.exceeded = true;
            return NONE;
        };
        if self.free == NONE {
            self.used += 1;
        } else {
            self.free = slot.parent;
        }
        *slot = Slot { parent: index, last_row: self.row, open: true, component };
        index
    }
}

/// The runs `(start, end)` (end exclusive) of a row's pixels for which `set` holds, from left to right.
pub fn runs<T: Copy>(row: &[T], set: impl Fn(T) -> bool) -> impl Iterator<Item = (usize, usize)> {
    let mut position = 0;
    core::iter::from_fn(move || {
        let rest = row.get(position..)?;
        let start = position + rest.iter().position(|&v| set(v))?;
        let rest = row.get(start..)?;
        let end = start + rest.iter().position(|&v| !set(v)).unwrap_or(rest.len());
        position = end;
        Some((start, end))
    })
}
