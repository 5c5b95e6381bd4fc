//! What a core's inner loops look like to the code that walks maps.

/// Most channels that share one [`Constants`]. The assembly of the small cores knows the offsets of four.
pub const MAX_GROUP: usize = 4;

/// What turns the exact sums of a group of output channels into int8.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Constants {
    pub bias: [i32; MAX_GROUP],
    /// Factor and shift of [`crate::kernels::rescale::HighWord`].
    pub factor: [i32; MAX_GROUP],
    pub shift: [i32; MAX_GROUP],
}

/// Copying `count` pixels of `channels` int8 values, `from_step` elements apart, into columns of taps `to_step` apart, at
/// the column's tap `at`.
#[derive(Debug, Clone, Copy)]
pub struct Cells {
    pub from_step: usize,
    pub to_step: usize,
    pub at: usize,
    pub channels: usize,
    pub count: usize,
}

impl Cells {
    /// Whether every read is below `from` and every write below `to`, columns taken whole.
    pub fn fit(&self, from: usize, to: usize, column: usize) -> bool {
        let end = |step: usize, last: usize| self.count.checked_sub(1)?.checked_mul(step)?.checked_add(last);
        let taps = self.at.checked_add(self.channels);
        taps.is_some_and(|taps| taps <= column)
            && end(self.from_step, self.channels).is_some_and(|end| end <= from)
            && end(self.to_step, column).is_some_and(|end| end <= to)
    }
}

/// A run of output pixels of one group of channels.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a, T> {
    /// The taps of the first output pixel onwards.
    pub patches: &'a [T],
    /// Taps from one output pixel's patch to the next one's.
    pub step: usize,
    /// Vectors of [`Micro::LANES`] taps in a patch.
    pub vectors: usize,
    /// `[vector][channel of the group][lane]`.
    pub weights: &'a [T],
    pub constants: &'a Constants,
    /// Zero point and clamp of the output.
    pub bounds: [i8; 3],
    /// Output pixels, at least 1.
    pub count: usize,
    /// Elements from one output pixel to the next.
    pub out_step: usize,
    /// Channels to write: the last group of a layer may have fewer than [`Micro::GROUP`].
    pub channels: usize,
}

impl<T> Run<'_, T> {
    /// Whether every read and write of the run is inside its slices.
    pub fn fits(&self, out: usize, lanes: usize, group: usize) -> bool {
        let end = |step: usize, last: usize| self.count.checked_sub(1)?.checked_mul(step)?.checked_add(last);
        let patch = self.vectors.checked_mul(lanes);
        self.vectors > 0
            && (1..=group).contains(&self.channels)
            && patch.and_then(|patch| end(self.step, patch)).is_some_and(|end| end <= self.patches.len())
            && patch.and_then(|patch| patch.checked_mul(group)).is_some_and(|taps| taps <= self.weights.len())
            && end(self.out_step, self.channels).is_some_and(|end| end <= out)
    }
}

/// The inner loops of a core.
pub trait Micro {
    /// What maps and weights are held as.
    type Tap: Copy + From<i8>;
    /// Taps of a vector: patches are padded to multiples of it with zero weights.
    const LANES: usize;
    /// Output channels computed together, at most [`MAX_GROUP`].
    const GROUP: usize;
    /// A column's taps are padded to a multiple of this.
    const COLUMN: usize;
    /// The order in which each four taps of a column are held.
    const ORDER: [usize; 4];

    /// Copies pixels into columns; nothing where they do not fit.
    fn copy(cells: Cells, from: &[i8], to: &mut [Self::Tap]);
    /// Σ patch·weights + bias of each channel of the group, rescaled, placed and clamped, for each pixel of the run.
    /// Nothing where it does not fit.
    fn run(run: Run<Self::Tap>, out: &mut [i8]);
}

/// The place of a column's tap `t` under [`Micro::ORDER`].
pub fn ordered<M: Micro>(t: usize) -> usize {
    (t & !3) | M::ORDER.get(t & 3).copied().unwrap_or(0)
}
